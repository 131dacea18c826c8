"""The kernel of inverted lists under a filter."""

from __future__ import annotations

import numpy as np
from numba import types

from embedworks._core.kernels import compile_kernel
from embedworks.index.filtered._heaps import _offer, _pop, _push
from embedworks.index.filtered._kernels import (
    _codes,
    _dot,
    _dot8,
    _i64,
    _ids,
    _mask,
    _query,
    _readonly,
    _round_query,
    _rows,
    _scales,
    _scores,
    _vectors,
)

__all__ = ["scan_lists"]


@compile_kernel(
    types.UniTuple(_i64, 2),
    _vectors,
    _scales,
    _query,
    _readonly(types.int64, 1),
    _rows,
    _codes,
    _scales,
    _mask,
    _rows,
    _i64,
    _i64,
    types.float64,
    _i64,
    _ids,
    _scores,
)
def scan_lists(
    centroids: np.ndarray,
    spreads: np.ndarray,
    query: np.ndarray,
    starts: np.ndarray,
    order: np.ndarray,
    codes: np.ndarray,
    scales: np.ndarray,
    mask: np.ndarray,
    rank: np.ndarray,
    low: int,
    high: int,
    width: float,
    k: int,
    rows: np.ndarray,
    scores: np.ndarray,
) -> tuple[int, int]:
    """Scan lists, most promising first, until no list is likely to hold a better row.

    A list promises the score of its centroid and ``width`` spreads more. The scan ends when k
    rows that pass were found, and the next list promises less than the worst of these. So a
    query whose best rows are near one another reads little, and a filter that points away from
    the query makes the scan go on by itself.

    Args:
        centroids: float32 (L, D).
        spreads: How far the scores of a list's rows lie about that of its centroid, float32 (L,).
        query: float32 (D,).
        starts: Where each list begins in ``order``, int64 (L + 1,).
        order: Rows by list, int32 (M,).
        codes: int8 vectors in that order (M, D).
        scales: Their scales, float32 (M,).
        mask: 1 for rows that pass, uint8.
        rank: Place by some column of the rows in ``order``, int32 (M,); read when ``high >= 0``.
        low: First place that passes.
        high: One after the last place that passes, or -1: the mask alone decides.
        width: Spreads that a list may gain on its centroid.
        k: Results wanted, at most as many as the heap holds.
        rows: Heap for the results, int32: more than k, as codes are not exact.
        scores: Its scores, float32.

    Returns:
        ``(results, scored)``. Fewer than k results are all there are.
    """
    lists = len(centroids)
    open_scores, open_lists = np.empty(lists, dtype=np.float32), np.empty(lists, dtype=np.int32)
    length, largest = np.float32(0.0), np.float32(0.0)
    for place in range(len(query)):
        length += query[place] * query[place]
        largest = max(largest, abs(query[place]))
    gain = np.float32(width) * np.sqrt(length)
    for place in range(lists):
        promise = _dot(centroids[place], query) + gain * spreads[place]
        _push(open_scores, open_lists, place, promise, np.int32(place))
    code = _round_query(query)
    unit = np.float32(127.0) / largest if largest > 0 else np.float32(0.0)  # of the code's scores
    best_scores, best_rows = np.empty(k, dtype=np.float32), np.empty(k, dtype=np.int32)
    count, best, scored, waiting = 0, 0, 0, lists
    while waiting > 0 and (best < k or open_scores[0] * unit >= best_scores[0]):
        chosen = open_lists[0]
        waiting -= 1
        _pop(open_scores, open_lists, waiting)
        for place in range(starts[chosen], starts[chosen + 1]):
            if high >= 0 and not low <= rank[place] < high:
                continue
            row = order[place]
            if mask[row]:
                scored += 1
                score = np.float32(_dot8(codes[place], code)) * scales[place]
                if count < len(rows) or score >= scores[0]:
                    count = _offer(scores, rows, count, score, row)
                    if best < k or score >= best_scores[0]:
                        best = _offer(best_scores, best_rows, best, score, row)
    return count, scored
