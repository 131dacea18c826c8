"""How well do the words of a topic go together? Coherence, counted in texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from embedworks._core.validation import check_in_range, check_texts, check_unique
from embedworks.errors import EmptyInputError, InputError
from embedworks.models.words.corpus import split_words

__all__ = ["topic_coherence"]


def topic_coherence(
    topics: Sequence[Sequence[str]],
    texts: Sequence[str],
    *,
    window: int | None = 10,
    split: Callable[[str], list[str]] = split_words,
) -> np.ndarray:
    """Return each topic's mean NPMI over the pairs of its words, float64 (T,) in [-1, 1].

    ``NPMI(a, b) = ln(p(a, b) / (p(a) p(b))) / -ln p(a, b)``, with p the share of windows that hold
    the words: 1 when they only come together, 0 when they are independent, -1 when they never
    meet. Count in texts the topics were not fitted on, or in a larger corpus; figures of two
    corpora or window sizes cannot be compared. A word that is nowhere makes its pairs -1, and a
    pair that is in every window is 0.

    Aletras and Stevenson 2013 (IWCS), "Evaluating topic coherence using distributional semantics",
    section 3; found best of the simple measures by Röder et al. 2015 (WSDM).

    Args:
        topics: T lists of words, such as `CountModel.topic_words` gives; two or more each.
        texts: Texts to count in.
        window: Words of a moving window; None takes each text as one window. A text shorter than
            the window is one window.
        split: Text -> words; by default runs of letters and digits, lower-cased.

    Raises:
        EmptyInputError: When there are no topics, or no words in the texts.
        InputError: When a topic has fewer than two words.
        DuplicateIdError: When a topic has a word twice.

    Example:
        >>> texts = ["red apple", "red apple", "blue sky", "blue sky"]
        >>> topic_coherence([["red", "apple"], ["red", "sky"]], texts).tolist()
        [1.0, -1.0]
    """
    if not len(topics):
        raise EmptyInputError("There are no topics to judge.")
    for number, topic in enumerate(topics):
        check_unique(check_texts(topic, name=f"topics[{number}]"), name=f"topics[{number}]")
        if len(topic) < 2:
            raise InputError(f"topics[{number}] has {len(topic)} words; two are needed for a pair.")
    if window is not None:
        check_in_range(window, name="window", low=2)
    words = list(dict.fromkeys(word for topic in topics for word in topic))
    place = {word: row for row, word in enumerate(words)}
    together = np.zeros((len(words), len(words)), dtype=np.int64)
    total = 0
    for text in check_texts(texts):
        found = split(text)
        total += _count(found, place, window, together)
    if not total:
        raise EmptyInputError(f"No word was found in {len(texts)} texts: nothing to count in.")
    return np.array([_mean_npmi(together, total, [place[w] for w in topic]) for topic in topics])


def _count(
    found: list[str], place: dict[str, int], window: int | None, together: np.ndarray
) -> int:
    """Add one to ``together[a, b]`` for each window that holds both; return how many there are."""
    if not found:
        return 0
    size = len(found) if window is None else min(window, len(found))
    windows = len(found) - size + 1
    ids = np.array([place.get(word, -1) for word in found])
    inside = {
        int(word): _held(np.flatnonzero(ids == word), size, windows) for word in {*ids} - {-1}
    }
    for a, held in inside.items():
        for b, other in inside.items():
            together[a, b] += int((held & other).sum())
    return windows


def _held(places: np.ndarray, size: int, windows: int) -> np.ndarray:
    """Say which windows hold one of the places, bool (windows,)."""
    steps = np.zeros(windows + 1, dtype=np.int64)
    np.add.at(steps, np.maximum(places - size + 1, 0), 1)
    np.add.at(steps, np.minimum(places + 1, windows), -1)
    return np.asarray(np.cumsum(steps[:-1]) > 0)


def _mean_npmi(together: np.ndarray, total: int, rows: list[int]) -> float:
    first, second = np.triu_indices(len(rows), 1)
    a, b = np.array(rows)[first], np.array(rows)[second]
    both = together[a, b] / total
    alone = together[a, a] / total * (together[b, b] / total)
    met = (both > 0) & (both < 1)
    values = np.where(both > 0, 0.0, -1.0)
    values[met] = np.log(both[met] / alone[met]) / -np.log(both[met])
    return float(values.mean())
