"""The kernel of a walk that a filter steers: it looks at rows that pass, and around the others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from embedworks._core.kernels import compile_kernel, fetch_row
from embedworks.index.filtered._heaps import _offer, _pop, _push
from embedworks.index.filtered._kernels import (
    _dot8,
    _i64,
    _ids,
    _mask,
    _query,
    _round_query,
    _rows,
    _scores,
)
from embedworks.index.filtered._search_graph import _entry, _fetch_links, _graph, _place

__all__ = ["walk_filtered"]

_CAP = 3  # times the most links of a place: so many neighbours' neighbours are enough


@njit
def _around(
    order: Any,
    starts: Any,
    links: Any,
    here: Any,
    mask: Any,
    two_hop: Any,
    stamps: Any,
    stamp: Any,
    fresh: Any,
    cap: Any,
) -> Any:
    """Write the neighbours of a place not seen yet to ``fresh``; returns their number.

    With ``two_hop``, those that do not pass are replaced by their neighbours that do, as long as
    there are fewer than ``cap``; one whose neighbours were all looked at is then seen as well.
    """
    found = 0
    if two_hop:
        for link in range(starts[here], starts[here + 1]):
            _fetch_links(links, starts[links[link]])
    for link in range(starts[here], starts[here + 1]):
        place = links[link]
        if stamps[place] == stamp:
            continue
        if not two_hop or mask[order[place]]:
            stamps[place] = stamp
            fresh[found] = place
            found += 1
            continue
        step, end = starts[place], starts[place + 1]
        while step < end and found < cap:
            beyond = links[step]
            if mask[order[beyond]] and stamps[beyond] != stamp:
                stamps[beyond] = stamp
                fresh[found] = beyond
                found += 1
            step += 1
        if step == end:
            stamps[place] = stamp
    return found


@compile_kernel(
    types.UniTuple(_i64, 2),
    *_graph,
    _i64,
    _query,
    _mask,
    _rows,
    _i64,
    _i64,
    _ids,
    _i64,
    _ids,
    _scores,
)
def walk_filtered(
    codes: np.ndarray,
    scales: np.ndarray,
    order: np.ndarray,
    starts: np.ndarray,
    links: np.ndarray,
    entries: np.ndarray,
    entry_codes: np.ndarray,
    most: int,
    query: np.ndarray,
    mask: np.ndarray,
    seeds: np.ndarray,
    two_hop: int,
    limit: int,
    stamps: np.ndarray,
    stamp: int,
    rows: np.ndarray,
    scores: np.ndarray,
) -> tuple[int, int]:
    """Walk to the passing rows with the best approximate scores.

    Args beyond those of `embedworks.index.filtered._search_graph.nearest`:
        mask: 1 for rows that pass, uint8 (M',), M' >= M.
        seeds: Places of passing rows to start from besides, int32.
        two_hop: 0 walks all rows and keeps those that pass; 1 walks passing rows only and looks
            through the others at their neighbours (ACORN-1).
        limit: Number of distances after which to give up.
        rows: Heap for the results, int32 (ef,).
        scores: Its scores, float32 (ef,).

    Returns:
        ``(results, distances)``; results is -1 when the limit was reached. Distances to entries
        are not counted.
    """
    cap = _CAP * most
    fresh = np.empty(cap + most, dtype=np.int32)
    room = 4 * len(rows) + 64
    open_scores, waiting_places = np.empty(room, dtype=np.float32), np.empty(room, dtype=np.int32)
    code = _round_query(query)
    entry = np.int32(_place(_entry(scales, entries, entry_codes, code)))
    waiting, count, distances = 0, 0, 0
    for number in range(-1, len(seeds)):
        place = entry if number < 0 else seeds[number]
        if stamps[place] == stamp:
            continue
        stamps[place] = stamp
        score = np.float32(_dot8(codes[place], code)) * scales[place]
        _push(open_scores, waiting_places, waiting, score, place)
        waiting += 1
        distances += 1
        if mask[order[place]]:
            count = _offer(scores, rows, count, score, order[place])
        if waiting == room:
            break
    while waiting > 0:
        score, here = open_scores[0], waiting_places[0]
        if count == len(rows) and score < scores[0]:
            break
        waiting -= 1
        _pop(open_scores, waiting_places, waiting)
        found = _around(order, starts, links, here, mask, two_hop, stamps, stamp, fresh, cap)
        distances += found
        if distances > limit:
            return -1, distances
        if waiting + found > room:
            more = max(2 * room, waiting + found)
            wider_scores = np.empty(more, dtype=np.float32)
            wider_places = np.empty(more, dtype=np.int32)
            wider_scores[:waiting] = open_scores[:waiting]
            wider_places[:waiting] = waiting_places[:waiting]
            open_scores, waiting_places, room = wider_scores, wider_places, more
        for number in range(found):
            fetch_row(codes, fresh[number])
        for number in range(found):
            place = fresh[number]
            score = np.float32(_dot8(codes[place], code)) * scales[place]
            if count < len(rows) or score > scores[0]:
                _push(open_scores, waiting_places, waiting, score, place)
                waiting += 1
                if mask[order[place]]:
                    count = _offer(scores, rows, count, score, order[place])
    return count, distances
