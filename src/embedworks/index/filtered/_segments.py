"""Kernels of graphs over ranks: links valid for some ranges, and a tree of graphs.

Rows are numbered by rank in the order of one column; a filter is a range of ranks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit, types

from embedworks._core.kernels import compile_kernel
from embedworks.index.filtered._beam import (
    Links,
    beam,
    f32,
    i64,
    links_t,
    neighbours,
    out_rows,
    out_scores,
    point_t,
    points_t,
    rows_t,
)
from embedworks.index.filtered._linking import robust_prune

__all__ = ["choose_segments", "link_segments", "walk_segments", "walk_tree"]

_offsets_t = types.Array(i64, 1, "C", readonly=True)
_levels_t = types.Array(types.int32, 3, "C", readonly=True)
_arrays = types.Tuple((types.int64[::1], out_rows, out_rows, out_rows))


@njit
def _one_side(
    points: Any,
    row: Any,
    ranks: Any,
    near: Any,
    count: Any,
    leap: Any,
    targets: Any,
    lows: Any,
    highs: Any,
    chosen: Any,
    some: Any,
) -> Any:
    """Choose the neighbours below a rank for every lower end of a range.

    Candidates at or above the lower end are pruned; the choice then serves all lower ends up to
    the rank of one of those chosen, the one at the share ``leap`` of them in ascending order.

    Args:
        points: float32 (M, D).
        row: The row that gets neighbours; also its place in ``points``.
        ranks: Place in ``points`` -> rank, int32 (M,).
        near: Candidates by place, int32.
        count: How many.
        leap: 0 chooses anew as soon as one of the chosen is out of range, 1 when all are.
        targets: Written: neighbours by place, int32.
        lows: Written: first lower end for which each is a neighbour, int32.
        highs: Written: the last one.
        chosen: Work space, int32 (L,).
        some: Work space, int32, as long as ``near``.

    Returns:
        How many were written.
    """
    none, unlabelled = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
    written, low = 0, 0
    while True:
        left = 0
        for place in range(count):
            if low <= ranks[near[place]] < ranks[row]:
                some[left] = near[place]
                left += 1
        kept = robust_prune(points, unlabelled, none, row, some, left, np.float32(1.0), chosen)
        if not kept:
            return written
        bound = np.sort(ranks[chosen[:kept]])[int(leap * (kept - 1))]
        for place in range(kept):
            other = chosen[place]
            high = min(bound, ranks[other])
            known = False
            for before in range(written):
                if targets[before] == other and highs[before] == low - 1:
                    highs[before] = high
                    known = True
                    break
            if not known:
                targets[written], lows[written], highs[written] = other, low, high
                written += 1
                if written == len(targets):
                    return written
        low = bound + 1


@compile_kernel(i64, points_t, i64, rows_t, rows_t, f32, i64, out_rows, out_rows, out_rows)
def choose_segments(
    points: np.ndarray,
    row: int,
    ranks: np.ndarray,
    near: np.ndarray,
    leap: float,
    links: int,
    targets: np.ndarray,
    lows: np.ndarray,
    highs: np.ndarray,
) -> int:
    """Call `_one_side` from Python."""
    chosen, some = np.empty(links, dtype=np.int32), np.empty(len(near), dtype=np.int32)
    return int(
        _one_side(points, row, ranks, near, len(near), leap, targets, lows, highs, chosen, some)
    )


@njit
def _longer(array: Any) -> Any:
    more = np.empty(2 * len(array), dtype=array.dtype)
    more[: len(array)] = array
    return more


@compile_kernel(_arrays, points_t, links_t, i64, i64, i64, i64, i64, f32)
def link_segments(
    points: np.ndarray,
    graph: np.ndarray,
    start: int,
    end: int,
    links: int,
    width: int,
    adjacent: int,
    leap: float,
) -> tuple[np.ndarray, ...]:
    """Give rows neighbours below them for every lower end of a range, and above likewise.

    Args:
        points: float32 (M, D), by rank.
        graph: A graph of all rows, int32 (M, L) filled up with -1, searched for candidates.
        start: The first row that gets links.
        end: The row after the last.
        links: At most so many neighbours on each side for one range.
        width: Width of that search.
        adjacent: So many next ranks on each side are candidates too; with at least 1, the rows of
            any range are connected.
        leap: See `_one_side`.

    Returns:
        ``(counts, targets, lows, highs)``: how many links each row has, int64, and of each link
        the target and the ends of ranges for which it holds, int32: the lower end, the upper
        (inclusive) for targets above the row.
    """
    total = len(points)
    ranks = np.arange(total).astype(np.int32)
    flipped = ranks[::-1].copy()
    counts = np.zeros(end - start, dtype=np.int64)
    room = max(1024, 8 * links * (end - start))
    targets, lows = np.empty(room, dtype=np.int32), np.empty(room, dtype=np.int32)
    highs = np.empty(room, dtype=np.int32)
    rows, scores = np.empty(width, dtype=np.int32), np.empty(width, dtype=np.float32)
    near = np.empty(width + 2 * adjacent, dtype=np.int32)
    some, chosen = np.empty(len(near), dtype=np.int32), np.empty(links, dtype=np.int32)
    fresh, trail = np.empty(graph.shape[1], dtype=np.int32), np.empty(0, dtype=np.int32)
    stamps, seeds = np.zeros(total, dtype=np.int32), np.empty(1, dtype=np.int32)
    most = links * len(near)  # every batch drops at least one candidate
    count = 0
    for row in range(start, end):
        seeds[0] = row
        found, _, _ = beam(Links(graph), points, points[row], seeds, 2**62, stamps, row + 1, rows,
                           scores, trail, fresh)  # fmt: skip
        near[:found] = rows[:found]
        for step in range(1, adjacent + 1):
            for other in (row - step, row + step):
                if 0 <= other < total and stamps[other] != row + 1:
                    near[found] = other
                    found += 1
        for side in (ranks, flipped):
            while count + most > len(targets):
                targets, lows, highs = _longer(targets), _longer(lows), _longer(highs)
            last = count + most
            made = _one_side(points, row, side, near, found, leap, targets[count:last],
                             lows[count:last], highs[count:last], chosen, some)  # fmt: skip
            if side[0]:
                for place in range(count, count + made):
                    low = lows[place]
                    lows[place], highs[place] = total - 1 - highs[place], total - 1 - low
            count += made
            counts[row - start] += made
    return counts, targets[:count].copy(), lows[:count].copy(), highs[:count].copy()


class _SegmentLinks(NamedTuple):
    """Links that hold for the range from ``first`` to ``last``, inclusive."""

    offsets: np.ndarray
    targets: np.ndarray
    lows: np.ndarray
    highs: np.ndarray
    first: int
    last: int


@neighbours(_SegmentLinks)
def _segments(graph: Any, row: Any, stamps: Any, stamp: Any, fresh: Any) -> Any:
    found = 0
    for place in range(graph.offsets[row], graph.offsets[row + 1]):
        other = graph.targets[place]
        end = graph.first if other < row else graph.last
        if graph.lows[place] <= end <= graph.highs[place] and stamps[other] != stamp:
            stamps[other] = stamp
            fresh[found] = other
            found += 1
    return found


class _TreeLinks(NamedTuple):
    """A binary tree of graphs over ranks, walked within ``[start, end)``.

    Level 0 is one graph of all rows; each segment ``[a, b)`` is split at ``(a + b) // 2``. At
    most about ``cap`` links are taken.
    """

    levels: np.ndarray
    start: int
    end: int
    cap: int


@neighbours(_TreeLinks)
def _tree(graph: Any, row: Any, stamps: Any, stamp: Any, fresh: Any) -> Any:
    found, inside, a, b = 0, 0, 0, graph.levels.shape[1]
    for level in range(graph.levels.shape[0]):
        middle = (a + b) // 2
        c, d = (a, middle) if row < middle else (middle, b)
        deepest = level == graph.levels.shape[0] - 1
        narrower = max(a, graph.start) < max(c, graph.start) or min(d, graph.end) < min(
            b, graph.end
        )
        if deepest or narrower:
            for other in graph.levels[level, row]:
                if other < 0:
                    break
                if graph.start <= other < graph.end:
                    inside += 1
                    if stamps[other] != stamp:
                        stamps[other] = stamp
                        fresh[found] = other
                        found += 1
            if inside >= graph.cap or (graph.start <= a and b <= graph.end):
                break
        a, b = c, d
    return found


@compile_kernel(
    types.UniTuple(i64, 2),
    points_t,
    point_t,
    _offsets_t,
    rows_t,
    rows_t,
    rows_t,
    i64,
    i64,
    i64,
    rows_t,
    i64,
    out_rows,
    i64,
    out_rows,
    out_scores,
)
def walk_segments(
    points: np.ndarray,
    query: np.ndarray,
    offsets: np.ndarray,
    targets: np.ndarray,
    lows: np.ndarray,
    highs: np.ndarray,
    most: int,
    first: int,
    last: int,
    seeds: np.ndarray,
    limit: int,
    stamps: np.ndarray,
    stamp: int,
    rows: np.ndarray,
    scores: np.ndarray,
) -> tuple[int, int]:
    """Search the ranks from ``first`` to ``last``; see `_SegmentLinks` and `beam`.

    ``most`` is the largest number of links that a row has.
    """
    trail, fresh = np.empty(0, dtype=np.int32), np.empty(most, dtype=np.int32)
    count, distances, _ = beam(_SegmentLinks(offsets, targets, lows, highs, first, last), points,
                               query, seeds, limit, stamps, stamp, rows, scores, trail,
                               fresh)  # fmt: skip
    return count, distances


@compile_kernel(
    types.UniTuple(i64, 2),
    points_t,
    point_t,
    _levels_t,
    i64,
    i64,
    i64,
    rows_t,
    i64,
    out_rows,
    i64,
    out_rows,
    out_scores,
)
def walk_tree(
    points: np.ndarray,
    query: np.ndarray,
    levels: np.ndarray,
    start: int,
    end: int,
    cap: int,
    seeds: np.ndarray,
    limit: int,
    stamps: np.ndarray,
    stamp: int,
    rows: np.ndarray,
    scores: np.ndarray,
) -> tuple[int, int]:
    """Search the ranks in ``[start, end)``; see `_TreeLinks` and `beam`."""
    trail = np.empty(0, dtype=np.int32)
    fresh = np.empty(levels.shape[0] * levels.shape[2], dtype=np.int32)
    count, distances, _ = beam(_TreeLinks(levels, start, end, cap), points, query, seeds, limit,
                               stamps, stamp, rows, scores, trail, fresh)  # fmt: skip
    return count, distances
