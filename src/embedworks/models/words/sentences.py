"""Sentence vectors from word vectors: weigh words by their rarity, take common directions out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedworks._core.validation import check_in_range, check_texts
from embedworks.errors import EmptyInputError, InputError
from embedworks.models.static import StaticModel
from embedworks.models.words.transformed import TransformedModel
from embedworks.models.words.transforms import VectorTransform, fit_component_removal

__all__ = ["fit_sif", "fit_usif", "sif_weights", "usif_weights"]


def sif_weights(counts: np.ndarray, *, a: float = 1e-3) -> np.ndarray:
    """Return ``a / (a + p)`` per word, p its share of all words, float64 (V,).

    Arora, Liang and Ma 2017, "A simple but tough-to-beat baseline", algorithm 1.

    Args:
        counts: int array (V,); a word that never came has weight 1.
        a: Smaller weighs common words down more.

    Example:
        >>> sif_weights(np.array([3, 1, 0]), a=0.25).tolist()
        [0.25, 0.5, 1.0]
    """
    check_in_range(a, name="a", low=0.0, open_low=True)
    return np.asarray(a / (a + _shares(counts)))


def usif_weights(counts: np.ndarray, length: float) -> np.ndarray:
    """Return ``a / (a / 2 + p)`` per word, with an ``a`` that the counts themselves tell, (V,).

    ``a = (1 - alpha) / (alpha V / 2)``, alpha the share of words whose p is above
    ``1 - (1 - 1/V)^length``: likelier than not to be drawn in a text of mean length. Ethayarajh
    2018, "Unsupervised random walk sentence embeddings".

    Args:
        counts: int array (V,); V counts the words that came at least once.
        length: Mean number of words of a text.

    Raises:
        InputError: When no word, or every word, is that frequent: then ``a`` has no value.
    """
    check_in_range(length, name="length", low=0.0, open_low=True)
    shares = _shares(counts)
    seen = shares > 0
    size = int(seen.sum())
    alpha = float((shares[seen] > 1 - (1 - 1 / size) ** length).mean())
    if not 0 < alpha < 1:
        raise InputError(
            f"{alpha:.0%} of {size} words are frequent for texts of {length:.1f} words, so uSIF "
            "has no weight to give: use more texts, or SIF."
        )
    a = (1 - alpha) / (alpha * size / 2)
    return np.asarray(a / (a / 2 + shares))


def fit_sif(
    model: StaticModel, texts: Sequence[str], *, a: float = 1e-3, count: int = 1
) -> TransformedModel:
    """Learn SIF from training texts: weighted means without their first common direction.

    Args:
        model: Word or token vectors.
        texts: Texts to count words in and to find the direction of; never those that are scored.
        a: As in `sif_weights`.
        count: Directions to take out.

    Returns:
        A model that saves and loads as one; plain texts go in.

    Raises:
        EmptyInputError: When no text has a known word.
        InputError: When fewer than two texts are left, or a number is out of range.

    Example:
        >>> from embedworks.models import train_word_vectors
        >>> texts = ["the cat sat on the mat", "the dog sat on the rug"] * 20
        >>> words = train_word_vectors(texts, dim=8, min_count=1, epochs=1)
        >>> fit_sif(words, texts).encode(["a cat"]).shape
        (1, 8)
    """
    weights = sif_weights(_counts(model, texts)[0], a=a)
    weighed, vectors = _weighed(model, weights, texts)
    return TransformedModel(weighed, [fit_component_removal(vectors, count=count, centre=False)])


def fit_usif(model: StaticModel, texts: Sequence[str], *, count: int = 5) -> TransformedModel:
    """Learn uSIF from training texts: SIF without a number to choose.

    Each of the first ``count`` directions is taken out in part, by its share of their squared
    singular values.

    Args:
        model: Word or token vectors.
        texts: Texts to learn from; never those that are scored.
        count: Number of directions, D at most.

    Raises:
        EmptyInputError: When no text has a known word.
        InputError: When the texts are too few or too alike.
    """
    counts, length = _counts(model, texts)
    weighed, vectors = _weighed(model, usif_weights(counts, length), texts)
    check_in_range(count, name="count", low=1, high=min(vectors.shape))
    _, sizes, axes = np.linalg.svd(vectors.astype(np.float64), full_matrices=False)
    parts = sizes[:count] ** 2 / np.sum(sizes[:count] ** 2)
    width = vectors.shape[1]
    matrix = np.eye(width) - (axes[:count].T * parts) @ axes[:count]
    zero = np.zeros(width)
    return TransformedModel(weighed, [VectorTransform("usif", zero, matrix, zero)])


def _shares(counts: np.ndarray) -> np.ndarray:
    numbers = np.asarray(counts, dtype=np.float64)
    if not (numbers >= 0).all() or numbers.sum() <= 0:
        raise EmptyInputError("Counts must be 0 or greater, and one above 0: no word was found.")
    return np.asarray(numbers / numbers.sum())


def _counts(model: StaticModel, texts: Sequence[str]) -> tuple[np.ndarray, float]:
    """Return how often each known word occurs, and how many a text has in the mean."""
    ids, _ = model.tokenize(check_texts(texts))
    known = ids[model.table[ids].any(axis=1)]
    if not len(known):
        raise EmptyInputError(f"None of {len(texts)} texts has a word that {model!r} knows.")
    return np.bincount(known, minlength=len(model.table)), len(known) / len(texts)


def _weighed(
    model: StaticModel, weights: np.ndarray, texts: Sequence[str]
) -> tuple[StaticModel, np.ndarray]:
    """Return the model with weighed rows and without normalisation, and its vectors of texts."""
    table = (model.table * weights[:, None]).astype(np.float32)
    weighed = StaticModel(
        model.tokenizer, table, name=model.name, normalize=False, metadata=model.metadata,
        max_tokens=model.max_tokens,
    )  # fmt: skip
    vectors = weighed.encode(texts, show_progress_bar=False)
    vectors = vectors[vectors.any(axis=1)]
    if len(vectors) < 2:
        raise InputError(f"At least two texts with known words are needed, got {len(vectors)}.")
    return weighed, vectors
