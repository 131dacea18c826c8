"""What do single dimensions of vectors stand for? Their strongest texts, and these texts' words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from embedworks._core.validation import check_in_range, check_texts, check_vectors
from embedworks.errors import EmptyInputError, InputError, ShapeError
from embedworks.models.words.corpus import split_words

__all__ = ["DimensionMeaning", "describe_dimensions", "dimensions_markdown"]


@dataclass(frozen=True)
class DimensionMeaning:
    """What one dimension reacts to."""

    dimension: int
    """Which of the D."""
    active: float
    """Share of the texts where it is above zero."""
    words: tuple[tuple[str, float], ...]
    """Words whose presence goes with it, and Pearson's correlation, falling."""
    texts: tuple[tuple[int, float], ...]
    """Texts where it is greatest, and its value, falling; only values above zero."""


def describe_dimensions(
    vectors: np.ndarray,
    texts: Sequence[str],
    *,
    dimensions: Sequence[int] | None = None,
    words: int = 5,
    top: int = 3,
    min_texts: int = 3,
    split: Callable[[str], list[str]] = split_words,
) -> list[DimensionMeaning]:
    """Name each dimension by the words and texts it goes with.

    Made for sparse vectors, such as those of a model trained with sentence-transformers' CSRLoss
    or of its ``SparseEncoder`` (``.to_dense()`` first), where one dimension is on for few texts;
    in dense ones a dimension alone means little, and the correlations will be low. A high
    correlation says what a dimension goes with on these texts, not what it was made for.

    Args:
        vectors: float (N, D).
        texts: The N texts.
        dimensions: Which to describe; None for all that are above zero for some text, those that
            are on most often first.
        words: How many words to give, of those with a positive correlation.
        top: How many texts.
        min_texts: Leave out words that fewer texts have: with few texts, chance looks like sense.
        split: Text -> words; by default runs of letters and digits, lower-cased.

    Raises:
        ShapeError: When there is not one vector per text.
        InputError: When a dimension is not there.
        EmptyInputError: When there are fewer than two texts.

    Example:
        >>> vectors = [[2, 0], [1, 0], [0, 1], [0, 3]]
        >>> texts = ["red car", "red bus", "blue sky", "blue sea"]
        >>> [d.words[0][0] for d in describe_dimensions(np.array(vectors), texts, min_texts=2)]
        ['red', 'blue']
    """
    rows = check_vectors(vectors).astype(np.float64)
    items = check_texts(texts)
    for name, value in (("words", words), ("top", top), ("min_texts", min_texts)):
        check_in_range(value, name=name, low=1)
    if len(rows) != len(items):
        raise ShapeError(f"{len(rows)} vectors for {len(items)} texts: one each is needed.")
    if len(rows) < 2:
        raise EmptyInputError(f"Two texts or more are needed to compare, got {len(rows)}.")
    active = (rows > 0).mean(axis=0)
    if dimensions is None:
        order = np.argsort(-active, kind="stable")
        chosen = order[active[order] > 0]
    else:
        chosen = np.asarray(dimensions, dtype=np.int64)
        wrong = chosen[(chosen < 0) | (chosen >= rows.shape[1])]
        if len(wrong):
            raise InputError(f"dimension {wrong[0]} is not there: vectors have {rows.shape[1]}.")
    vocabulary, correlations = _correlations(rows[:, chosen], items, min_texts, split)
    found = []
    for place, dimension in enumerate(chosen.tolist()):
        column, related = rows[:, dimension], correlations[:, place]
        found.append(
            DimensionMeaning(
                dimension=dimension,
                active=float(active[dimension]),
                words=tuple(
                    (vocabulary[row], round(float(related[row]), 4))
                    for row in np.argsort(-related, kind="stable")[:words].tolist()
                    if related[row] > 0
                ),
                texts=tuple(
                    (row, float(column[row]))
                    for row in np.argsort(-column, kind="stable")[:top].tolist()
                    if column[row] > 0
                ),
            )
        )
    return found


def dimensions_markdown(
    found: Sequence[DimensionMeaning], texts: Sequence[str], *, width: int = 60
) -> str:
    """Return a Markdown table of `describe_dimensions`, one line per dimension.

    Args:
        found: What was found.
        texts: The texts it was found on.
        width: Letters shown of each text.

    Example:
        >>> meaning = DimensionMeaning(7, 0.25, (("red", 0.91),), ((0, 2.0),))
        >>> print(dimensions_markdown([meaning], ["a red | green car"]).splitlines()[-1])
        | 7 | 25.0 % | red (0.91) | a red / green car |
    """
    lines = ["| dimension | on for | words | strongest texts |", "|---|---|---|---|"]
    for meaning in found:
        words = ", ".join(f"{word} ({value:.2f})" for word, value in meaning.words)
        shown = "; ".join(
            " ".join(texts[row].replace("|", "/").split())[:width] for row, _ in meaning.texts
        )
        lines.append(f"| {meaning.dimension} | {100 * meaning.active:.1f} % | {words} | {shown} |")
    return "\n".join(lines) + "\n"


def _correlations(
    rows: np.ndarray, texts: list[str], min_texts: int, split: Callable[[str], list[str]]
) -> tuple[list[str], np.ndarray]:
    """Return W words and Pearson's correlation (W, D) of their presence with each dimension."""
    place: dict[str, int] = {}
    held = [[place.setdefault(word, len(place)) for word in {*split(text)}] for text in texts]
    counts = np.bincount([word for words in held for word in words], minlength=len(place))
    # A word that all texts have tells nothing.
    kept = np.flatnonzero((counts >= min_texts) & (counts < len(texts)))
    number = np.full(len(place), -1)
    number[kept] = np.arange(len(kept))
    sums = np.zeros((len(kept), rows.shape[1]))
    for words, row in zip(held, rows, strict=True):
        inside = number[words] if words else number[:0]
        sums[inside[inside >= 0]] += row
    spelt = list(place)
    share = counts[kept] / len(texts)
    covariance = sums / len(texts) - share[:, None] * rows.mean(axis=0)
    spread = np.sqrt(share * (1 - share))[:, None] * rows.std(axis=0)
    related = np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 1e-12)
    return [spelt[row] for row in kept.tolist()], related
