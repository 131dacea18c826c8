"""Build one level of a graph from int8 codes, row by row.

The rule is that of HNSW (Malkov and Yashunin, arXiv 1603.09320, Algorithms 1, 3 and 4): walk to
the nearest rows there are, keep those that are nearer to the new row than to any row kept before,
and link back; lists that are full are pruned by the same rule. Differs on purpose: scores come
from codes, which are a quarter of the memory to read; and the scores of links are kept while
building, so that pruning does not compute them again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from embedworks._core.kernels import compile_kernel
from embedworks.index.filtered._kernels import _codes, _dot8, _i64, _readonly, _rows, _scales
from embedworks.index.filtered._search_graph import _key, _place, _score, _walk

__all__ = ["link_rows"]

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
    _i64,
    types.int32[:, ::1],
    types.float32[:, ::1],
    _starts,
    types.int64[::1],
    types.int32[::1],
    _i64,
)
def link_rows(
    codes: np.ndarray,
    scales: np.ndarray,
    order: np.ndarray,
    origins: np.ndarray,
    most: int,
    width: int,
    links: np.ndarray,
    scores: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    stamps: np.ndarray,
    stamp: int,
) -> None:
    """Insert places one after the other into a graph, empty at first.

    Args:
        codes: int8 vectors by place (M, D).
        scales: Their scales, float32 (M,).
        order: Places to insert, int32.
        origins: For each the place to walk from, int32: one that was inserted before it, or, for
            the very first one, itself.
        most: Links that a new place gets.
        width: Width of the walks.
        links: int32 (M, L), L >= most; written.
        scores: Scores of the links, float32 (M, L); written.
        starts: Where the links of each place begin in the flat ``links``, int64 (M,).
        ends: Where they end, int64 (M,); like ``starts`` at first, and written.
        stamps: Work space, int32 (M,).
        stamp: The first of ``len(order)`` values not in ``stamps``.
    """
    flat, room = links.reshape(-1), links.shape[1]
    keys, few = np.empty(width, dtype=np.int64), np.empty(room + 1, dtype=np.int64)
    wide = np.empty(codes.shape[1], dtype=np.int16)
    fresh, found = np.empty(room, dtype=np.int32), np.empty(room, dtype=np.float32)
    for number in range(len(order)):
        here, origin = order[number], origins[number]
        if here == origin:
            continue
        scale = scales[here]
        _widen(codes[here], wide)
        first = _key(np.float32(_dot8(codes[origin], wide)) * scales[origin], origin)
        count = _walk(codes, scales, starts, ends, flat, first, wide, stamps, stamp + number,
                      keys, fresh, found)  # fmt: skip
        for one in range(count):
            keys[one] = _key(_score(keys[one]) * scale, _place(keys[one]))
        kept = _choose(codes, scales, keys, count, most, links[here], scores[here], wide)
        ends[here] = starts[here] + kept
        for link in range(kept):
            other = links[here, link]
            have = _link_back(codes, scales, here, scores[here, link], links[other],
                              scores[other], ends[other] - starts[other], few, wide)  # fmt: skip
            ends[other] = starts[other] + have
