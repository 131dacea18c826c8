"""Exact top-k of score rows, and scores of chosen pairs, with ties in a fixed order."""

from __future__ import annotations

import numpy as np

__all__ = ["pair_scores", "sort_by_score", "top_k"]

_PAIR_FLOATS = 4_000_000  # gathered at a time when pairs are scored


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of each row's ``k`` best scores, best first, ties by column.

    A bound that at least ``k`` entries reach is taken from maxima over groups of columns, so that
    only the few entries above it are sorted.

    Args:
        scores: float array (B, M); entries of -inf are never returned.
        k: 1 or greater.

    Returns:
        int64 (B, k), filled up with -1 where a row has fewer than ``k`` finite scores.
    """
    rows, columns = scores.shape
    result = np.full((rows, k), -1, dtype=np.int64)
    if not scores.size:
        return result
    allowed = scores > -np.inf
    if columns > k:
        size = max(1, columns // (4 * k))
        even = columns - columns % size
        maxima = scores[:, :even].reshape(rows, size, -1).max(axis=1)
        maxima = np.concatenate([maxima, scores[:, even:]], axis=1)
        bound = np.partition(maxima, maxima.shape[1] - k, axis=1)[:, maxima.shape[1] - k]
        allowed &= scores >= bound[:, None]
    flat = np.flatnonzero(allowed)
    row = flat // columns
    # `flat` rises, and the sort is stable: equal scores stay in the order of their columns.
    order = np.lexsort((-scores.ravel()[flat], row))
    row, column = row[order], flat[order] - row[order] * columns
    place = np.arange(len(row)) - np.searchsorted(row, np.arange(rows))[row]
    keep = place < k
    result[row[keep], place[keep]] = column[keep]
    return result


def pair_scores(left: np.ndarray, right: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return the dot products of each left row with its chosen right rows.

    Every pair is summed alone and in the same order, so equal vectors have exactly equal scores.

    Args:
        left: float32 (B, D).
        right: float32 (M, D).
        positions: int (B, C), rows of ``right``; -1 gives -inf.

    Returns:
        float32 (B, C).
    """
    result = np.full(positions.shape, -np.inf, dtype=np.float32)
    step = max(1, _PAIR_FLOATS // max(1, positions.shape[1] * left.shape[1]))
    for start in range(0, len(left), step):
        part = positions[start : start + step]
        gathered = right[np.maximum(part, 0)]
        scores = np.einsum("nd,nkd->nk", left[start : start + step], gathered)
        result[start : start + step] = np.where(part >= 0, scores, -np.inf)
    return result


def sort_by_score(positions: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort each row by falling score, ties by position, absent entries (-1) last."""
    order = np.lexsort((positions, -scores, positions < 0), axis=1)
    return np.take_along_axis(positions, order, axis=1), np.take_along_axis(scores, order, axis=1)
