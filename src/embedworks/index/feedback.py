"""Pseudo-relevance feedback: move a query towards its first results. Pure functions.

No labels are needed: the best results of a first search are taken as relevant. Helps short
queries; hurts when the first results are wrong, so the original query keeps most of the weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from embedworks._core.validation import check_in_range
from embedworks.errors import ShapeError

__all__ = ["rm3", "rocchio"]


def rocchio(
    query: np.ndarray,
    documents: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    beta: float = 0.5,
) -> np.ndarray:
    """Return ``normalise(query + beta * weighted mean(documents))`` for one query.

    Args:
        query: Query vector of shape (D,).
        documents: Vectors of the first results, shape (N, D); with N = 0 the query comes back.
        weights: Weights of the documents, shape (N,), 0 or greater; None weighs them equally.
        beta: Weight of the documents' mean, 0 or greater.

    Returns:
        Float32 vector of shape (D,), of unit length unless it is zero.

    Paper: Rocchio (1971), without the negative part.

    Example:
        >>> rocchio(np.array([1.0, 0.0]), np.array([[0.0, 1.0]]), beta=1.0).round(3)
        array([0.707, 0.707], dtype=float32)
    """
    check_in_range(beta, name="beta", low=0.0)
    query, documents = np.asarray(query, np.float64), np.asarray(documents, np.float64)
    if documents.ndim != 2 or query.shape != documents.shape[1:]:
        raise ShapeError(
            f"query (D,) and documents (N, D) do not fit: {query.shape} and {documents.shape}."
        )
    moved = query
    total = float(len(documents) if weights is None else np.sum(weights))
    if total > 0:
        moved = query + beta * np.average(documents, axis=0, weights=weights)
    norm = np.linalg.norm(moved)
    return np.asarray(moved / norm if norm > 0 else moved, dtype=np.float32)


def rm3(
    query: Mapping[int, float],
    documents: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    scores: np.ndarray,
    idf: np.ndarray | None = None,
    terms: int = 20,
    original_weight: float = 0.6,
) -> dict[int, float]:
    """Expand a bag-of-words query with frequent terms of its first results.

    Args:
        query: Term number -> weight.
        documents: ``(terms, counts)`` of each of N results.
        scores: Their retrieval scores, shape (N,), used as weights.
        idf: Inverse document frequency of every term, shape (V,); when given, expansion terms
            are weighted by it, which keeps out words that are everywhere.
        terms: Number of expansion terms.
        original_weight: Share of the original query in [0, 1]; both parts are scaled to sum 1.

    Returns:
        Term number -> weight, summing to 1; the query itself when there are no results.

    Paper: Lavrenko and Croft (SIGIR 2001), as interpolated by Abdul-Jaleel et al. (TREC 2004);
    the idf factor is an addition.

    Example:
        >>> rm3({1: 1.0}, [(np.array([1, 2]), np.array([1, 3]))], scores=np.array([2.0]),
        ...     original_weight=0.5)
        {1: 0.625, 2: 0.375}
    """
    check_in_range(original_weight, name="original_weight", low=0.0, high=1.0)
    check_in_range(terms, name="terms", low=1)
    if len(documents) != len(scores):
        raise ShapeError(f"{len(documents)} documents need as many scores, got {len(scores)}.")
    model: dict[int, float] = {}
    for (numbers, counts), score in zip(documents, scores, strict=True):
        length = float(np.sum(counts))
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            factor = 1.0 if idf is None else float(idf[number])
            model[number] = model.get(number, 0.0) + float(score) * factor * count / length
    best = sorted(model.items(), key=lambda item: (-item[1], item[0]))[:terms]
    total = sum(weight for _, weight in best)
    query_total = sum(query.values())
    if total <= 0 or query_total <= 0:
        return dict(query)
    expanded = {n: original_weight * w / query_total for n, w in query.items()}
    for number, weight in best:
        share = (1.0 - original_weight) * weight / total
        expanded[number] = expanded.get(number, 0.0) + share
    return expanded
