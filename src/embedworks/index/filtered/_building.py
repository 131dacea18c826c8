"""Build one level of a graph from int8 codes, some rows at a time.

The rule is that of HNSW (Malkov and Yashunin, arXiv 1603.09320, Algorithms 1, 3 and 4): walk to
the nearest rows there are, keep those that are nearer to the new row than to any row kept before,
and link back; lists that are full are pruned by the same rule. Differs on purpose: scores come
from codes, which are a quarter of the memory to read; and the scores of links are kept while
building, so that pruning does not compute them again; and a few rows at a time choose their links
in the graph as it was before them, so that several threads can do it and give the same graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from embedworks._core.kernels import compile_kernel
from embedworks.index.filtered._kernels import _codes, _dot8, _i64, _readonly, _rows, _scales
from embedworks.index.filtered._search_graph import _key, _place, _score, _walk

__all__ = ["add_links", "choose_links"]

_starts = _readonly(_i64, 1)


@njit
def _widen(code: Any, wide: Any) -> None:
    """Copy int8 to int16, of which products are faster."""
    for place in range(len(wide)):
        wide[place] = code[place]


@njit
def _choose(
    codes: Any,
    scales: Any,
    keys: Any,
    count: Any,
    most: Any,
    links: Any,
    scores: Any,
    wide: Any,
) -> Any:
    """Write the places of ``keys``, best first, that no place written before is nearer to.

    Scores in the keys are those with the place that gets the links. Returns how many were
    written, at most ``most``.
    """
    kept = 0
    for number in range(count):
        place, score = _place(keys[number]), _score(keys[number])
        _widen(codes[place], wide)
        clear = True
        for one in range(kept):
            other = links[one]
            product = np.float32(_dot8(codes[other], wide))
            if product * scales[place] * scales[other] > score:
                clear = False
                break
        if clear:
            links[kept], scores[kept] = place, score
            kept += 1
            if kept == most:
                break
    return kept


@njit
def _link_back(
    codes: Any,
    scales: Any,
    here: Any,
    score: Any,
    links: Any,
    scores: Any,
    count: Any,
    keys: Any,
    wide: Any,
) -> Any:
    """Add the place ``here`` to the links of another; returns how many that one has then."""
    if count < len(links):
        links[count], scores[count] = here, score
        return count + 1
    keys[0] = _key(score, here)
    for number in range(count):
        key = _key(scores[number], links[number])
        spot = number + 1
        while spot > 0 and keys[spot - 1] < key:
            keys[spot] = keys[spot - 1]
            spot -= 1
        keys[spot] = key
    return _choose(codes, scales, keys, count + 1, count, links, scores, wide)


@compile_kernel(
    types.void,
    _codes,
    _scales,
    _rows,
    _rows,
    _i64,
    _readonly(types.int32, 2),
    _starts,
    _starts,
    types.int32[::1],
    _i64,
    types.int32[:, ::1],
    types.float32[:, ::1],
)
def choose_links(
    codes: np.ndarray,
    scales: np.ndarray,
    places: np.ndarray,
    origins: np.ndarray,
    width: int,
    links: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    stamps: np.ndarray,
    stamp: int,
    chosen: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Choose the links of places that are not in the graph yet; the graph stays as it is.

    Args:
        codes: int8 vectors by place (M, D).
        scales: Their scales, float32 (M,).
        places: Places that want links, int32 (N,).
        origins: For each the place in the graph to walk from, int32 (N,).
        width: Width of the walks.
        links: int32 (M, L).
        starts: Where the links of each place begin in the flat ``links``, int64 (M,).
        ends: Where they end, int64 (M,).
        stamps: Work space, int32 (M,).
        stamp: The first of N values not in ``stamps``.
        chosen: Room for the links, nearest first, filled up with -1; int32 (N, most).
        scores: Room for their scores, float32 (N, most).
    """
    flat, room = links.reshape(-1), links.shape[1]
    keys, wide = np.empty(width, dtype=np.int64), np.empty(codes.shape[1], dtype=np.int16)
    fresh, found = np.empty(room, dtype=np.int32), np.empty(room, dtype=np.float32)
    for number in range(len(places)):
        origin, scale = origins[number], scales[places[number]]
        _widen(codes[places[number]], wide)
        first = _key(np.float32(_dot8(codes[origin], wide)) * scales[origin], origin)
        count = _walk(codes, scales, starts, ends, flat, first, wide, stamps, stamp + number,
                      keys, fresh, found)  # fmt: skip
        for one in range(count):
            keys[one] = _key(_score(keys[one]) * scale, _place(keys[one]))
        most = chosen.shape[1]
        kept = _choose(codes, scales, keys, count, most, chosen[number], scores[number], wide)
        chosen[number, kept:] = -1


@compile_kernel(
    types.void,
    _codes,
    _scales,
    _rows,
    _readonly(types.int32, 2),
    _readonly(types.float32, 2),
    types.int32[:, ::1],
    types.float32[:, ::1],
    _starts,
    types.int64[::1],
)
def add_links(
    codes: np.ndarray,
    scales: np.ndarray,
    places: np.ndarray,
    chosen: np.ndarray,
    chosen_scores: np.ndarray,
    links: np.ndarray,
    scores: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
) -> None:
    """Insert places with the links that `choose_links` gave, and link back to them.

    Args as there, and:
        links: int32 (M, L), L at least the links chosen; written.
        scores: Scores of the links, float32 (M, L); written.
        ends: Where the links of each place end; like ``starts`` at first, and written.
    """
    few, wide = np.empty(links.shape[1] + 1, dtype=np.int64), np.empty(codes.shape[1], np.int16)
    for number in range(len(places)):
        here = places[number]
        for link in range(chosen.shape[1]):
            other = chosen[number, link]
            if other < 0:
                break
            links[here, link], scores[here, link] = other, chosen_scores[number, link]
            ends[here] = starts[here] + link + 1
            have = _link_back(codes, scales, here, scores[here, link], links[other],
                              scores[other], ends[other] - starts[other], few, wide)  # fmt: skip
            ends[other] = starts[other] + have
