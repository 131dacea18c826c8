"""Pseudo-relevance feedback: move a query towards its first results. Pure functions.

No labels are needed: the best results of a first search are taken as relevant. Helps short
queries; hurts when the first results are wrong, so the original query keeps much of the weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from embedworks._core.validation import check_in_range
from embedworks.errors import ShapeError

__all__ = ["expand_terms", "rank_weights", "rocchio"]

_SMALLEST_IDF = 0.1


def rank_weights(count: int) -> np.ndarray:
    """Return weights of the first ``count`` results: ``1 / sqrt(rank)``, scaled to sum 1.

    Example:
        >>> rank_weights(4).round(3)
        array([0.359, 0.254, 0.207, 0.18 ])
    """
    weights = 1.0 / np.sqrt(np.arange(1, count + 1))
    return np.asarray(weights / weights.sum() if count else weights, dtype=np.float64)


def rocchio(
    query: np.ndarray,
    documents: np.ndarray,
    *,
    weights: np.ndarray,
    original_weight: float = 0.5,
) -> np.ndarray:
    """Move a dense query towards the weighted mean direction of its first results.

    ``normalise(original_weight * normalise(query) + (1 - original_weight) * normalise(sum_i
    weights_i * documents_i))``.

    Args:
        query: Query vector of shape (D,).
        documents: Vectors of the first results, shape (N, D); with N = 0 the query comes back.
        weights: Weights of the documents, shape (N,), 0 or greater.
        original_weight: Share of the query in [0, 1].

    Returns:
        Float32 vector of shape (D,), of unit length unless it is zero.

    Paper: after Rocchio (1971), without negative examples; both parts have unit length here.

    Example:
        >>> rocchio(np.array([1.0, 0.0]), np.array([[0.0, 2.0]]), weights=np.ones(1)).round(3)
        array([0.707, 0.707], dtype=float32)
    """
    check_in_range(original_weight, name="original_weight", low=0.0, high=1.0)
    query, documents = np.asarray(query, np.float64), np.asarray(documents, np.float64)
    if documents.shape != (len(weights), *query.shape) or query.ndim != 1:
        raise ShapeError(
            f"query (D,), documents (N, D) and weights (N,) do not fit: {query.shape}, "
            f"{documents.shape}, {np.shape(weights)}."
        )
    centre = _unit((documents * np.asarray(weights)[:, None]).sum(axis=0))
    moved = original_weight * _unit(query) + (1.0 - original_weight) * centre
    return np.asarray(_unit(moved), dtype=np.float32)


def expand_terms(
    query: Mapping[int, float],
    documents: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    weights: np.ndarray,
    idf: np.ndarray,
    terms: int = 20,
    original_weight: float = 0.5,
) -> dict[int, float]:
    """Expand a bag-of-words query by the strongest terms of its first results.

    Adds up the documents' term scores, each document scaled to unit length; keeps the
    strongest ``terms``; divides them by idf, since the search multiplies by it again; and
    scales them to the query's total weight.

    Args:
        query: Term number -> weight, usually its count in the query.
        documents: ``(term numbers, BM25 scores)`` of each of N results.
        weights: Weights of the documents, shape (N,), 0 or greater.
        idf: Inverse document frequency of every term, shape (V,).
        terms: Number of expansion terms.
        original_weight: Share of the original query in [0, 1].

    Returns:
        Term number -> weight with the query's total weight (at least 1, so that a query
        without known terms can gain some); the query itself when the results have no terms.

    Paper: a Rocchio form of the expansion in RM3 (Abdul-Jaleel et al., TREC 2004); weights come
    from ranks and BM25 scores in place of language-model probabilities.

    Example:
        >>> found = [(np.array([1, 2]), np.array([3.0, 4.0]))]
        >>> expand_terms({1: 1.0}, found, weights=np.ones(1), idf=np.ones(3), terms=1)
        {1: 0.5, 2: 0.5}
    """
    check_in_range(original_weight, name="original_weight", low=0.0, high=1.0)
    check_in_range(terms, name="terms", low=1)
    if len(documents) != len(weights):
        raise ShapeError(f"{len(documents)} documents need as many weights, got {len(weights)}.")
    if not documents or sum(len(numbers) for numbers, _ in documents) == 0:
        return dict(query)
    numbers, places = np.unique(
        np.concatenate([numbers for numbers, _ in documents]), return_inverse=True
    )
    parts = [w * _unit(scores) for w, (_, scores) in zip(weights, documents, strict=True)]
    strength = np.bincount(places, weights=np.concatenate(parts))
    best = np.lexsort((numbers, -strength))[:terms]
    added = strength[best] / np.maximum(idf[numbers[best]], _SMALLEST_IDF)
    total = max(1.0, sum(query.values()))
    added = added * (1.0 - original_weight) * total / added.sum()
    expanded = {number: original_weight * weight for number, weight in query.items()}
    for number, weight in zip(numbers[best].tolist(), added.tolist(), strict=True):
        expanded[number] = expanded.get(number, 0.0) + weight
    return expanded


def _unit(vector: np.ndarray) -> np.ndarray:
    vector = np.asarray(vector, dtype=np.float64)
    norm = float(np.sqrt((vector * vector).sum()))
    return vector / norm if norm > 0 else vector
