"""Kernels of a walk over all rows of a graph, without a filter on the way.

Rows are numbered by their place in the order of the inverted lists, so that neighbours mostly lie
near each other in memory. The beam is one sorted array of integers, best first: each holds a
score, a place, and in its lowest bit whether the neighbours were looked at; so entering a row
moves one array, and comparing is one comparison.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from embedworks._core.kernels import compile_kernel, fetch_item, fetch_row
from embedworks.index.filtered._kernels import (
    _codes,
    _dot8,
    _f32,
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
    finish,
)

__all__ = ["nearest", "nearest_each"]

_LINE = 16  # links in a line of memory
_starts = _readonly(_i64, 1)

# The arguments from ``codes`` to ``entry_codes`` of every kernel that walks a search graph.
_graph = (_codes, _scales, _rows, _starts, _rows, _rows, _codes)


@njit
def _key(score: Any, place: Any) -> Any:
    """Return an integer that orders as the score does and holds the place; not looked at yet."""
    bits = np.float32(score).view(np.int32)
    ordered = bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))
    return (np.int64(ordered) << 32) | (np.int64(place) << 1)


@njit
def _place(key: Any) -> Any:
    return (key & np.int64(0xFFFFFFFF)) >> 1


@njit
def _score(key: Any) -> Any:
    ordered = np.int32(key >> 32)
    return np.int32(ordered ^ ((ordered >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32)


@njit
def _entry(scales: Any, entries: Any, entry_codes: Any, code: Any) -> Any:
    """Return the key of the best of the places ``entries``, from which a walk starts."""
    best = np.int64(-(2**63))
    for number in range(len(entries)):
        place = entries[number]
        best = max(best, _key(np.float32(_dot8(entry_codes[number], code)) * scales[place], place))
    return best


@njit
def _fetch_links(links: Any, begin: Any) -> None:
    """Ask the processor to read the links of a place, which begin there: mostly two lines."""
    fetch_item(links, begin)
    fetch_item(links, min(begin + _LINE, len(links) - 1))


@njit
def _walk(
    codes: Any,
    scales: Any,
    starts: Any,
    ends: Any,
    links: Any,
    first: Any,
    code: Any,
    stamps: Any,
    stamp: Any,
    keys: Any,
    fresh: Any,
    found: Any,
) -> Any:
    """Fill the beam ``keys`` from the key ``first`` on; returns how many it holds.

    The neighbours of a place are ``links[starts[place] : ends[place]]``; ``fresh`` and ``found``,
    int32 and float32, have room for as many as one place has.
    """
    stamps[_place(first)] = stamp
    keys[0] = first
    count, at = 1, 0
    while at < count:
        here = _place(keys[at])
        keys[at] |= 1
        number = 0
        for link in range(starts[here], ends[here]):
            place = links[link]
            if stamps[place] != stamp:
                stamps[place] = stamp
                fetch_row(codes, place)
                fresh[number] = place
                number += 1
        # All scores before any comparison: the processor then need not guess its way.
        for one in range(number):
            place = fresh[one]
            found[one] = np.float32(_dot8(codes[place], code)) * scales[place]
        at += 1
        for one in range(number):
            key = _key(found[one], fresh[one])
            if count < len(keys) or key > keys[count - 1]:
                spot = count if count < len(keys) else count - 1
                while spot > 0 and keys[spot - 1] < key:
                    keys[spot] = keys[spot - 1]
                    spot -= 1
                keys[spot] = key
                at = min(at, spot)
                count = min(count + 1, len(keys))
        while at < count and keys[at] & 1:
            at += 1
        if at < count:
            _fetch_links(links, starts[_place(keys[at])])
    return count


@njit
def _fill(
    codes: Any,
    scales: Any,
    starts: Any,
    links: Any,
    entries: Any,
    entry_codes: Any,
    query: Any,
    stamps: Any,
    stamp: Any,
    keys: Any,
    fresh: Any,
    found: Any,
) -> Any:
    """Fill the beam ``keys`` for a float32 query from the best entry on; see `_walk`."""
    code = _round_query(query)
    first = _entry(scales, entries, entry_codes, code)
    return _walk(codes, scales, starts, starts[1:], links, first, code, stamps, stamp, keys,
                 fresh, found)  # fmt: skip


@compile_kernel(_i64, *_graph, _i64, _query, _ids, _i64, _ids, _scores)
def nearest(
    codes: np.ndarray,
    scales: np.ndarray,
    order: np.ndarray,
    starts: np.ndarray,
    links: np.ndarray,
    entries: np.ndarray,
    entry_codes: np.ndarray,
    most: int,
    query: np.ndarray,
    stamps: np.ndarray,
    stamp: int,
    rows: np.ndarray,
    scores: np.ndarray,
) -> int:
    """Walk to the rows with the best approximate scores, and write them best first.

    Args:
        codes: int8 vectors by place (M, D).
        scales: What integer products are multiplied with, by place, float32 (M,).
        order: Place -> row, int32 (M,).
        starts: Where a place's neighbours begin in ``links``, int64 (M + 1,).
        links: Places of neighbours, int32.
        entries: Places, the best of which the walk starts from, int32 (E,), E >= 1.
        entry_codes: Their codes, int8 (E, D).
        most: Neighbours of the place that has the most.
        query: float32 (D,).
        stamps: Work space int32 (M,): places seen have the value ``stamp``.
        stamp: A value not yet used in ``stamps``.
        rows: Room for the results, int32 (ef,), ef >= 1.
        scores: Room for their scores up to the query's length, float32 (ef,).

    Returns:
        How many were found: fewer than ef only when the walk reached no more.
    """
    keys = np.empty(len(rows), dtype=np.int64)
    fresh, found = np.empty(most, dtype=np.int32), np.empty(most, dtype=np.float32)
    count = _fill(codes, scales, starts, links, entries, entry_codes, query, stamps, stamp, keys,
                  fresh, found)  # fmt: skip
    for number in range(count):
        rows[number], scores[number] = order[_place(keys[number])], _score(keys[number])
    return count


@compile_kernel(
    types.void,
    *_graph,
    _i64,
    _vectors,
    _vectors,
    _mask,
    _i64,
    _i64,
    _ids,
    _i64,
    types.int64[:, ::1],
    types.float32[:, ::1],
    types.int64[::1],
)
def nearest_each(
    codes: np.ndarray,
    scales: np.ndarray,
    order: np.ndarray,
    starts: np.ndarray,
    links: np.ndarray,
    entries: np.ndarray,
    entry_codes: np.ndarray,
    most: int,
    vectors: np.ndarray,
    queries: np.ndarray,
    alive: np.ndarray,
    ef: int,
    keep: int,
    stamps: np.ndarray,
    stamp: int,
    best_rows: np.ndarray,
    best_scores: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Search for many queries in one call: walk, drop what does not pass, score exactly.

    Args beyond those of `nearest`:
        vectors: float32 vectors by row (M', D), M' >= M.
        queries: float32 (Q, D).
        alive: 1 for rows that may be results, uint8 (M',).
        ef: Width of the beam.
        keep: How many of its rows, the best that pass, are scored exactly.
        stamp: The first of Q values not yet used in ``stamps``.
        best_rows: Room for the results, int64 (Q, k).
        best_scores: Room for their exact scores, float32 (Q, k).
        counts: Room for how many results each query has, int64 (Q,).
    """
    keys = np.empty(ef, dtype=np.int64)
    fresh, found = np.empty(most, dtype=np.int32), np.empty(most, dtype=np.float32)
    rows, scores = np.empty(keep, dtype=np.int32), np.empty(keep, dtype=np.float32)
    for number in range(len(queries)):
        query = queries[number]
        count = _fill(codes, scales, starts, links, entries, entry_codes, query, stamps,
                      stamp + number, keys, fresh, found)  # fmt: skip
        kept = 0
        for one in range(count):
            row = order[_place(keys[one])]
            if alive[row]:
                rows[kept], scores[kept] = row, _score(keys[one])
                fetch_row(vectors, row)
                kept += 1
                if kept == keep:
                    break
        wanted = min(kept, best_rows.shape[1])
        finish(vectors, query, kept, wanted, _f32(0.0), rows, scores, best_rows[number],
               best_scores[number])  # fmt: skip
        counts[number] = wanted
