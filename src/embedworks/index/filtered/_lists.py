"""The kernel of inverted lists under a filter."""

from __future__ import annotations

import numpy as np
from numba import types

from embedworks._core.kernels import compile_kernel, fetch_row
from embedworks.index.filtered._heaps import _enter, _heapify, _pop
from embedworks.index.filtered._kernels import (
    _AHEAD,
    _codes,
    _dot8,
    _dot_each,
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
        k: Results wanted, at most as many as there is room for.
        rows: Room for the results, best first, int32: more than k, as codes are not exact.
        scores: Room for their scores, float32.

    Returns:
        ``(results, scored)``. Fewer than k results are all there are.
    """
    lists, longest = len(centroids), 0
    open_scores, open_lists = np.empty(lists, dtype=np.float32), np.empty(lists, dtype=np.int32)
    code = _round_query(query)  # all scores are in its units
    unit, length = np.float32(0.0), np.float32(0.0)
    for place in range(len(query)):
        length += np.float32(code[place]) * np.float32(code[place])
        unit = max(unit, abs(query[place]))
    unit = np.float32(127.0) / unit if unit > 0 else np.float32(0.0)
    gain = np.float32(width) * np.sqrt(length)
    _dot_each(centroids, query, open_scores)
    for place in range(lists):
        open_scores[place] = unit * open_scores[place] + gain * spreads[place]
        open_lists[place] = place
        longest = max(longest, starts[place + 1] - starts[place])
    _heapify(open_scores, open_lists)
    places, found = np.empty(longest + 1, np.int32), np.empty(longest, np.float32)
    passes = np.zeros(8 * (longest // 8 + 1), np.uint8)
    eight = passes.view(np.uint64)
    count, scored, waiting = 0, 0, lists
    first, end = np.int32(low), np.int32(high)
    while waiting > 0 and (count < k or open_scores[0] >= scores[k - 1]):
        chosen = open_lists[0]
        waiting -= 1
        _pop(open_scores, open_lists, waiting)
        begin, size, passing = starts[chosen], starts[chosen + 1] - starts[chosen], 0
        if high >= 0:
            for number in range(size):
                value = rank[begin + number]
                passes[number] = np.uint8((value >= first) & (value < end))
        else:
            for number in range(size):
                passes[number] = mask[order[begin + number]]
        passes[size : size + 8] = 0
        for word in range(size // 8 + 1):
            if eight[word]:
                for number in range(8 * word, 8 * word + 8):
                    # Every place is written and few are kept: the processor need not guess which.
                    places[passing] = begin + number
                    passing += passes[number]
        for number in range(min(_AHEAD, passing)):
            fetch_row(codes, places[number])
        for number in range(passing):
            if number + _AHEAD < passing:
                fetch_row(codes, places[number + _AHEAD])
            place = places[number]
            found[number] = np.float32(_dot8(codes[place], code)) * scales[place]
        for number in range(passing):
            score = found[number]
            if count < len(rows) or score > scores[count - 1]:
                row = order[places[number]]
                if mask[row]:  # of a run of places it was not asked yet
                    count = _enter(scores, rows, count, score, row)
        scored += passing
    return count, scored
