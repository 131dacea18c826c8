"""Combine rankings into one: by rank, or by standardised score. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedworks._core.validation import check_in_range
from embedworks.errors import InputError, NonFiniteError, ShapeError

__all__ = ["convex_combination", "reciprocal_rank_fusion", "standardize"]

_SMALLEST_SPREAD = 1e-6


def reciprocal_rank_fusion(
    rankings: Sequence[np.ndarray],
    *,
    k: float = 60.0,
    weights: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fuse rankings by the sum of ``weight / (k + rank)``, rank 1 being the best.

    Needs no scores, so it fits rankings that come from elsewhere. Where every row's score is
    at hand `convex_combination` keeps more of what they say. A smaller ``k`` trusts the first
    places more.

    Args:
        rankings: Arrays of row numbers, best first, without repeats.
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
    if not ids:
        return np.empty(0, dtype=np.int64), np.empty(0)
    parts = [w / (k + np.arange(1, len(r) + 1)) for w, r in zip(used, ids, strict=True)]
    union, places = np.unique(np.concatenate(ids), return_inverse=True)
    scores = np.bincount(places, weights=np.concatenate(parts), minlength=len(union))
    order = np.lexsort((union, -scores))
    return union[order], scores[order]


def standardize(
    scores: np.ndarray, *, mean: float | None = None, deviation: float | None = None
) -> np.ndarray:
    """Return z-scores: ``(scores - mean) / deviation``, float64 of the same shape.

    Args:
        scores: Scores of some or all rows.
        mean: Mean over all rows; None takes the mean of ``scores``.
        deviation: Standard deviation over all rows; None takes that of ``scores``.

    Returns:
        Z-scores; all 0 when the deviation is (nearly) 0, because equal scores say nothing.

    Example:
        >>> standardize(np.array([1.0, 3.0]))
        array([-1.,  1.])
    """
    values = np.asarray(scores, dtype=np.float64)
    if not len(values):
        return values
    mean = float(values.mean()) if mean is None else mean
    deviation = float(values.std()) if deviation is None else deviation
    if not (np.isfinite(mean) and np.isfinite(deviation)):
        raise NonFiniteError("scores to fuse contain NaN or infinity.")
    if deviation < _SMALLEST_SPREAD:
        return np.zeros_like(values)
    return (values - mean) / deviation


def convex_combination(
    scores: Sequence[np.ndarray], *, weights: Sequence[float] | None = None
) -> np.ndarray:
    """Fuse several rankers' scores of the same M rows by a weighted mean of z-scores.

    Uses how far a row stands out in each ranker, which ranks throw away. Take the scores of
    all rows, not of the best ones: only then is 0 an average row.

    Args:
        scores: One array (M,) per ranker, in the same row order.
        weights: One weight per ranker, 0 or greater, not all 0; scaled to sum 1.

    Returns:
        Fused scores, float64 (M,).

    Example:
        >>> convex_combination([np.array([0.0, 2.0]), np.array([9.0, 1.0])], weights=[3, 1])
        array([-0.5,  0.5])
    """
    used = _weights(len(scores), weights)
    if not len(scores) or sum(used) == 0:
        raise InputError("Nothing to fuse: give at least one ranker with a weight above 0.")
    if len({np.shape(s) for s in scores}) != 1 or np.ndim(scores[0]) != 1:
        shapes = ", ".join(str(np.shape(s)) for s in scores)
        raise ShapeError(f"scores to fuse must all have shape (M,), got {shapes}.")
    parts = [w / sum(used) * standardize(s) for w, s in zip(used, scores, strict=True)]
    return np.asarray(np.sum(parts, axis=0), dtype=np.float64)


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
