"""Kernels of ACORN (Patel et al., SIGMOD 2024, arXiv 2403.04871): dense lists, walked in part."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit, types

from embedworks._core.kernels import compile_kernel
from embedworks.index.filtered._beam import (
    beam,
    i64,
    links_t,
    mask_t,
    neighbours,
    out_links,
    out_rows,
    out_scores,
    point_t,
    points_t,
    rows_t,
)
from embedworks.index.filtered._kernels import _dot

__all__ = ["compress", "find_seeds", "insert_dense", "walk_dense"]


class _FirstLinks(NamedTuple):
    """A graph of whose lists only the first ``length`` entries are read."""

    links: np.ndarray
    length: int


class _DenseLinks(NamedTuple):
    """Lists walked under a mask; those behind entries from ``direct`` on are read too.

    At most ``cap`` neighbours are taken, those in the list itself first.
    """

    links: np.ndarray
    mask: np.ndarray
    direct: int
    cap: int


@neighbours(_FirstLinks)
def _first(graph: Any, row: Any, stamps: Any, stamp: Any, fresh: Any) -> Any:
    found = 0
    for place in range(graph.length):
        other = graph.links[row, place]
        if other < 0:
            break
        if stamps[other] != stamp:
            stamps[other] = stamp
            fresh[found] = other
            found += 1
    return found


@neighbours(_DenseLinks)
def _dense(graph: Any, row: Any, stamps: Any, stamp: Any, fresh: Any) -> Any:
    found, passing, length = 0, 0, 0
    for other in graph.links[row]:
        if other < 0 or passing >= graph.cap:
            break
        length += 1
        if graph.mask[other]:
            passing += 1
            if stamps[other] != stamp:
                stamps[other] = stamp
                fresh[found] = other
                found += 1
    for place in range(graph.direct, length):
        other = graph.links[row, place]
        if graph.mask[other]:
            continue
        for beyond in graph.links[other]:
            if beyond < 0 or passing >= graph.cap:
                break
            if graph.mask[beyond] and stamps[beyond] != stamp:
                stamps[beyond] = stamp
                fresh[found] = beyond
                found += 1
                passing += 1
    return found


@njit
def _compress(
    links: Any, near: Any, count: Any, direct: Any, limit: Any, seen: Any, stamp: Any, out: Any
) -> Any:
    """Shorten a list, nearest first, to what two steps still reach (section 5.2 of the paper)."""
    kept, hidden = min(count, direct, len(out)), 0
    out[:kept] = near[:kept]
    for place in range(kept, count):
        if kept == len(out) or hidden + kept > limit:
            break
        other = near[place]
        if seen[other] == stamp:
            continue
        out[kept] = other
        kept += 1
        for beyond in links[other]:
            if beyond < 0:
                break
            if seen[beyond] != stamp:
                seen[beyond] = stamp
                hidden += 1
    out[kept:] = -1
    return kept


@compile_kernel(i64, links_t, rows_t, i64, i64, out_rows)
def compress(links: np.ndarray, near: np.ndarray, direct: int, limit: int, out: np.ndarray) -> int:
    """Choose which of a row's candidates its list keeps.

    The nearest ``direct`` stay. Of the others one is dropped when the list of one kept before
    it, beyond ``direct``, has it; it ends when those lists and the kept ones have ``limit`` rows.

    Args:
        links: The lists, int32 (M, L) filled up with -1.
        near: Candidates, nearest first.
        direct: M_beta of the paper.
        limit: M * gamma of the paper.
        out: int32 (L,), written and filled up with -1.

    Returns:
        How many are kept.
    """
    seen = np.zeros(len(links), dtype=np.int32)
    return int(_compress(links, near, len(near), direct, limit, seen, 1, out))


@njit
def _put(points: Any, links: Any, row: Any, other: Any, near: Any) -> Any:
    """Write ``row``'s list with ``other`` at its place by distance to ``near``."""
    width, count = links.shape[1], 0
    while count < width and links[row, count] >= 0:
        if links[row, count] == other:
            return 0
        count += 1
    score = _dot(points[row], points[other])
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if _dot(points[row], points[links[row, middle]]) >= score:
            low = middle + 1
        else:
            high = middle
    near[:low] = links[row, :low]
    near[low] = other
    near[low + 1 : count + 1] = links[row, low:count]
    return count + 1


@njit
def _filled(row: Any) -> Any:
    count = 0
    while count < len(row) and row[count] >= 0:
        count += 1
    return row[:count]


@compile_kernel(types.void, points_t, links_t, points_t, links_t, i64, out_links)
def find_seeds(
    points: np.ndarray,
    links: np.ndarray,
    queries: np.ndarray,
    seeds: np.ndarray,
    first: int,
    found: np.ndarray,
) -> None:
    """Find the nearest rows of one level for many queries.

    Args:
        points: float32 (M, D).
        links: int32 (M, L) filled up with -1.
        queries: float32 (Q, D).
        seeds: Rows to start from, int32 (Q, S), filled up with -1.
        first: How many entries of each list are read.
        found: int32 (Q, F), written, filled up with -1.
    """
    stamps, width = np.zeros(len(points), dtype=np.int32), 4 * found.shape[1]
    rows, scores = np.empty(width, dtype=np.int32), np.empty(width, dtype=np.float32)
    fresh, trail = np.empty(links.shape[1], dtype=np.int32), np.empty(0, dtype=np.int32)
    for number in range(len(queries)):
        count, _, _ = beam(_FirstLinks(links, first), points, queries[number],
                           _filled(seeds[number]), 2**62, stamps, number + 1, rows, scores, trail,
                           fresh)  # fmt: skip
        found[number] = -1
        count = min(count, found.shape[1])
        found[number, :count] = rows[:count]


@compile_kernel(
    types.void,
    points_t,
    out_links,
    rows_t,
    links_t,
    i64,
    i64,
    i64,
    i64,
    out_rows,
    i64,
    out_rows,
    i64,
)
def insert_dense(
    points: np.ndarray,
    links: np.ndarray,
    order: np.ndarray,
    seeds: np.ndarray,
    first: int,
    direct: int,
    limit: int,
    width: int,
    stamps: np.ndarray,
    stamp: int,
    seen: np.ndarray,
    mark: int,
) -> None:
    """Insert rows one after the other, without looking at attributes.

    Args:
        points: float32 (M, D).
        links: int32 (M, L) filled with -1, changed in place; lists are nearest first.
        order: Rows to insert, int32.
        seeds: Rows each search starts from, int32 (len(order), S), filled up with -1.
        first: M of the paper: how many entries of each list the search reads.
        direct: See `compress`.
        limit: How many candidates a row gets, M * gamma.
        width: Width of the search, at least ``limit``.
        stamps: Work space, int32 (M,).
        stamp: The first of ``len(order)`` values not in ``stamps``.
        seen: Work space, int32 (M,).
        mark: The first of ``len(order) * (L + 1)`` values not in ``seen``.
    """
    rows, scores = np.empty(width, dtype=np.int32), np.empty(width, dtype=np.float32)
    fresh, trail = np.empty(links.shape[1], dtype=np.int32), np.empty(0, dtype=np.int32)
    near = np.empty(max(limit, links.shape[1]) + 1, dtype=np.int32)
    for number in range(len(order)):
        row = order[number]
        stamps[row] = stamp + number  # not its own neighbour
        count, _, _ = beam(_FirstLinks(links, first), points, points[row], _filled(seeds[number]),
                           2**62, stamps, stamp + number, rows, scores, trail, fresh)  # fmt: skip
        kept = _compress(links, rows, min(count, limit), direct, limit, seen, mark, links[row])
        mark += 1
        for place in range(kept):
            other = links[row, place]
            count = _put(points, links, other, row, near)
            if count > links.shape[1]:
                _compress(links, near, count, direct, limit, seen, mark, links[other])
                mark += 1
            elif count:
                links[other, :count] = near[:count]


@compile_kernel(
    types.UniTuple(i64, 2),
    points_t,
    point_t,
    links_t,
    mask_t,
    i64,
    i64,
    rows_t,
    i64,
    out_rows,
    i64,
    out_rows,
    out_scores,
)
def walk_dense(
    points: np.ndarray,
    query: np.ndarray,
    links: np.ndarray,
    mask: np.ndarray,
    direct: int,
    cap: int,
    seeds: np.ndarray,
    limit: int,
    stamps: np.ndarray,
    stamp: int,
    rows: np.ndarray,
    scores: np.ndarray,
) -> tuple[int, int]:
    """Search among the rows that pass; see `_DenseLinks` and `beam`."""
    trail, fresh = np.empty(0, dtype=np.int32), np.empty(cap + links.shape[1], dtype=np.int32)
    count, distances, _ = beam(_DenseLinks(links, mask, direct, cap), points, query, seeds, limit,
                               stamps, stamp, rows, scores, trail, fresh)  # fmt: skip
    return count, distances
