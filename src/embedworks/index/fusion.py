"""Combine ranked lists into one: by rank, or by normalised score. Pure functions.

A ranking is an array of row numbers, best first, without repeats; scored rankings carry an
array of scores beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedworks._core.validation import check_in_range
from embedworks.errors import InputError, NonFiniteError, ShapeError

__all__ = ["convex_combination", "reciprocal_rank_fusion"]


def reciprocal_rank_fusion(
    rankings: Sequence[np.ndarray],
    *,
    k: float = 60.0,
    weights: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fuse rankings by the sum of ``weight / (k + rank)``, rank 1 being the best.

    Needs no comparable scores, so it is the safe choice for BM25 beside cosine. A smaller
    ``k`` trusts the first places more.

    Args:
        rankings: Arrays of row numbers, best first.
        k: Smoothing constant, 0 or greater.
        weights: One weight per ranking, 0 or greater; None weighs them equally.

    Returns:
        ``(ids, scores)``: the union of the rankings, int64 and float64, sorted by score,
        highest first, equal scores by ascending id.

    Paper: Cormack, Clarke and Buettcher (SIGIR 2009), with k = 60.

    Example:
        >>> ids, scores = reciprocal_rank_fusion([np.array([7, 3]), np.array([3, 9])])
        >>> ids
        array([3, 7, 9])
    """
    check_in_range(k, name="k", low=0.0)
    used = _weights(len(rankings), weights)
    ids = [_ranking(ranking) for ranking in rankings]
    parts = [w / (k + np.arange(1, len(r) + 1)) for w, r in zip(used, ids, strict=True)]
    return _sum_by_id(ids, parts)


def convex_combination(
    rankings: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    weights: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fuse scored rankings by a weighted mean of min-max normalised scores.

    Each ranking's scores are mapped to [0, 1] (all 1 when they are equal); a row missing from
    a ranking gets 0 there. Uses how far apart the scores are, which ranks throw away.

    Args:
        rankings: Pairs ``(ids, scores)``, best first.
        weights: One weight per ranking, 0 or greater, not all 0; scaled to sum 1.

    Returns:
        ``(ids, scores)`` sorted as in `reciprocal_rank_fusion`.

    Example:
        >>> dense = (np.array([1, 2]), np.array([0.9, 0.5]))
        >>> bm25 = (np.array([2, 3]), np.array([12.0, 4.0]))
        >>> convex_combination([dense, bm25], weights=[0.5, 0.5])
        (array([1, 2, 3]), array([0.5, 0.5, 0. ]))
    """
    used = _weights(len(rankings), weights)
    total = sum(used)
    if rankings and total == 0:
        raise InputError("weights must not all be 0.")
    ids, parts = [], []
    for weight, (ranking, scores) in zip(used, rankings, strict=True):
        values = np.asarray(scores, dtype=np.float64)
        ranking = _ranking(ranking)
        if values.shape != ranking.shape:
            raise ShapeError(f"{len(ranking)} ids come with scores of shape {values.shape}.")
        if not np.isfinite(values).all():
            raise NonFiniteError("scores to fuse contain NaN or infinity.")
        if len(values):
            low, spread = values.min(), np.ptp(values)
            values = (values - low) / spread if spread > 0 else np.ones_like(values)
        ids.append(ranking)
        parts.append(weight / total * values)
    return _sum_by_id(ids, parts)


def _weights(count: int, weights: Sequence[float] | None) -> list[float]:
    if weights is None:
        return [1.0] * count
    if len(weights) != count:
        raise InputError(f"{count} rankings need {count} weights, got {len(weights)}.")
    return [check_in_range(float(w), name="each weight", low=0.0) for w in weights]


def _ranking(ids: np.ndarray) -> np.ndarray:
    array = np.asarray(ids, dtype=np.int64)
    if array.ndim != 1:
        raise ShapeError(f"a ranking must have one dimension, got shape {array.shape}.")
    if len(np.unique(array)) != len(array):
        raise InputError("a ranking contains the same id twice.")
    return array


def _sum_by_id(ids: list[np.ndarray], parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Add the parts of equal ids and sort."""
    if not ids:
        return np.empty(0, dtype=np.int64), np.empty(0)
    union, places = np.unique(np.concatenate(ids), return_inverse=True)
    scores = np.bincount(places, weights=np.concatenate(parts), minlength=len(union))
    order = np.lexsort((union, -scores))
    return union[order], scores[order]
