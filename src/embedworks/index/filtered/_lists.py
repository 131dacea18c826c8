"""The kernel of inverted lists under a filter."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from embedworks._core.kernels import compile_kernel, fetch_row
from embedworks.index.filtered._heaps import _enter, _heapify, _pop
from embedworks.index.filtered._kernels import (
    _AHEAD,
    _codes,
    _dot8,
    _dot_each,
    _f32,
    _i64,
    _mask,
    _readonly,
    _round_query,
    _rows,
    _scales,
    _vectors,
    finish,
)

__all__ = ["scan_lists"]


@njit
def _promise(
    centroids: Any, spreads: Any, query: Any, code: Any, width: Any, scores: Any, lists: Any
) -> None:
    """Write a heap of all lists by what each promises, in the units of the rounded query."""
    unit, length = np.float32(0.0), np.float32(0.0)
    for place in range(len(query)):
        length += np.float32(code[place]) * np.float32(code[place])
        unit = max(unit, abs(query[place]))
    unit = np.float32(127.0) / unit if unit > 0 else np.float32(0.0)
    gain = np.float32(width) * np.sqrt(length)
    _dot_each(centroids, query, scores)
    for place in range(len(lists)):
        scores[place] = unit * scores[place] + gain * spreads[place]
        lists[place] = place
    _heapify(scores, lists)


@njit
def _passing(
    begin: Any,
    size: Any,
    order: Any,
    mask: Any,
    ranks: Any,
    runs: Any,
    some: Any,
    passes: Any,
    places: Any,
) -> Any:
    """Write the places of a list that pass, side by side; returns how many they are."""
    if len(runs) == 0:
        for number in range(size):
            passes[number] = mask[order[begin + number]]
    else:
        passes[:size] = 1
    at = 0
    while at < len(runs):
        group = runs[at, 0]
        some[:size] = 0
        while at < len(runs) and runs[at, 0] == group:
            rank, low, high = ranks[runs[at, 1]], runs[at, 2], runs[at, 3]
            for number in range(size):
                value = rank[begin + number]
                some[number] |= np.uint8((value >= low) & (value < high))
            at += 1
        for number in range(size):
            passes[number] &= some[number]
    passes[size : size + 8] = 0
    eight, count = passes.view(np.uint64), 0
    for word in range(size // 8 + 1):
        if eight[word]:
            for number in range(8 * word, 8 * word + 8):
                # Every place is written and few are kept: the processor need not guess which.
                places[count] = begin + number
                count += passes[number]
    return count


@compile_kernel(
    types.void,
    _vectors,
    _scales,
    _readonly(types.int64, 1),
    _rows,
    _codes,
    _scales,
    _vectors,
    _vectors,
    _mask,
    _readonly(types.int32, 2),
    _readonly(types.int32, 2),
    types.float64,
    _i64,
    types.int64[:, ::1],
    types.float32[:, ::1],
    types.int64[::1],
)
def scan_lists(
    centroids: np.ndarray,
    spreads: np.ndarray,
    starts: np.ndarray,
    order: np.ndarray,
    codes: np.ndarray,
    scales: np.ndarray,
    vectors: np.ndarray,
    queries: np.ndarray,
    mask: np.ndarray,
    ranks: np.ndarray,
    runs: np.ndarray,
    width: float,
    keep: int,
    best_rows: np.ndarray,
    best_scores: np.ndarray,
    counts: np.ndarray,
) -> None:
    """For each query scan lists, most promising first, until none is likely to hold a better row.

    A list promises the score of its centroid and ``width`` spreads more. The scan ends when k
    rows that pass were found, and the next list promises less than the worst of these. So a
    query whose best rows are near one another reads little, and a filter that points away from
    the query makes the scan go on by itself.

    Args:
        centroids: float32 (L, D).
        spreads: How far the scores of a list's rows lie about that of its centroid, float32 (L,).
        starts: Where each list begins in ``order``, int64 (L + 1,).
        order: Rows by list, int32 (M,).
        codes: int8 vectors in that order (M, D).
        scales: Their scales, float32 (M,).
        vectors: float32 vectors by row (M', D), M' >= M.
        queries: float32 (Q, D).
        mask: 1 for rows that pass, uint8 (M',); with runs, for rows that are not removed.
        ranks: Places by some columns of the rows in ``order``, int32 (C, M).
        runs: ``group, column, low, high``, int32 (R, 4), group by group: rows pass that are, for
            every group, in one of its runs: whose place by that column is ``low`` to ``high - 1``.
            So only the lists that are scanned are looked at. Without runs the mask decides alone.
        width: Spreads that a list may gain on its centroid.
        keep: How many rows, the best by their codes, are scored exactly; at least k.
        best_rows: Room for the results, int64 (Q, k), k >= 1.
        best_scores: Room for their exact scores, float32 (Q, k).
        counts: Room for how many results each query has, int64 (Q,). Fewer than k are all there
            are.
    """
    lists, longest, k = len(centroids), 0, best_rows.shape[1]
    for place in range(lists):
        longest = max(longest, starts[place + 1] - starts[place])
    open_scores, open_lists = np.empty(lists, dtype=np.float32), np.empty(lists, dtype=np.int32)
    places, found = np.empty(longest + 1, np.int32), np.empty(longest, np.float32)
    some, passes = np.empty(longest, np.uint8), np.empty(8 * (longest // 8 + 2), np.uint8)
    rows, scores = np.empty(keep, dtype=np.int32), np.empty(keep, dtype=np.float32)
    for asked in range(len(queries)):
        query = queries[asked]
        code = _round_query(query)
        _promise(centroids, spreads, query, code, width, open_scores, open_lists)
        count, waiting = 0, lists
        while waiting > 0 and (count < k or open_scores[0] >= scores[k - 1]):
            chosen = open_lists[0]
            waiting -= 1
            _pop(open_scores, open_lists, waiting)
            passing = _passing(starts[chosen], starts[chosen + 1] - starts[chosen], order, mask,
                               ranks, runs, some, passes, places)  # fmt: skip
            for number in range(min(_AHEAD, passing)):
                fetch_row(codes, places[number])
            for number in range(passing):
                if number + _AHEAD < passing:
                    fetch_row(codes, places[number + _AHEAD])
                place = places[number]
                found[number] = np.float32(_dot8(codes[place], code)) * scales[place]
            for number in range(passing):
                score = found[number]
                if count < keep or score >= scores[count - 1]:
                    row = order[places[number]]
                    if mask[row]:  # of rows in runs it was not asked yet
                        count = _enter(scores, rows, count, score, row)
        wanted = min(count, k)
        finish(vectors, query, count, wanted, _f32(0.0), rows, scores, best_rows[asked],
               best_scores[asked])  # fmt: skip
        counts[asked] = wanted
