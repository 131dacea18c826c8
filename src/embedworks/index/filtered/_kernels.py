"""Numba kernels of filtered search: scans, a walk over a graph, and the final exact scores.

Scans use float32 dot products and a heap somewhat larger than asked; `finish` then sums the
kept rows' scores in float64 and says whether a row left out could belong among the best. The
walk compares int8 codes. Higher scores are better; among equal scores the smaller row wins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from embedworks._core.compiled import compiled

__all__ = ["finish", "scan_rows", "scan_run", "walk"]


def _readonly(kind: Any, ndim: int) -> Any:
    return types.Array(kind, ndim, "C", readonly=True)


_f32, _i64, _u8 = types.float32, types.int64, types.uint8
_vectors, _query = _readonly(_f32, 2), _readonly(_f32, 1)
_codes, _code = _readonly(types.int8, 2), _readonly(types.int8, 1)
_rows, _links = _readonly(types.int32, 1), _readonly(types.int32, 2)
_mask = _readonly(_u8, 1)
_ids, _scores = types.int32[::1], types.float32[::1]


@njit(fastmath=True)  # not inlined by numba: the sum would lose fastmath, and be seven times slower
def _dot(a: Any, b: Any) -> Any:
    total = np.float32(0.0)
    for place in range(a.shape[0]):
        total += a[place] * b[place]
    return total


@njit(inline="always")
def _dot8(a: Any, b: Any) -> Any:
    total = np.int32(0)
    for place in range(a.shape[0]):
        total = np.int32(total + np.int32(a[place]) * np.int32(b[place]))
    return total


@njit(inline="always")
def _worse(score: Any, row: Any, other_score: Any, other_row: Any) -> Any:
    return score < other_score or (score == other_score and row > other_row)


@njit
def _sift_down(scores: Any, rows: Any, count: Any) -> None:
    """Restore a heap whose top is the worst, after its top was replaced."""
    place = 0
    score, row = scores[0], rows[0]
    while True:
        child = 2 * place + 1
        if child >= count:
            break
        if child + 1 < count and _worse(
            scores[child + 1], rows[child + 1], scores[child], rows[child]
        ):
            child += 1
        if not _worse(scores[child], rows[child], score, row):
            break
        scores[place], rows[place] = scores[child], rows[child]
        place = child
    scores[place], rows[place] = score, row


@njit
def _offer(scores: Any, rows: Any, count: Any, score: Any, row: Any) -> Any:
    """Offer a row to a heap of the best; returns how many it holds."""
    if count < len(scores):
        place = count
        while place > 0:
            parent = (place - 1) // 2
            if not _worse(score, row, scores[parent], rows[parent]):
                break
            scores[place], rows[place] = scores[parent], rows[parent]
            place = parent
        scores[place], rows[place] = score, row
        return count + 1
    if _worse(scores[0], rows[0], score, row):
        scores[0], rows[0] = score, row
        _sift_down(scores, rows, count)
    return count


@compiled(_i64, _vectors, _query, _rows, _ids, _scores)
def scan_rows(
    vectors: np.ndarray, query: np.ndarray, chosen: np.ndarray, rows: np.ndarray, scores: np.ndarray
) -> int:
    """Keep the best of the ``chosen`` rows in the heap ``rows, scores``; returns its size."""
    count = 0
    for place in range(len(chosen)):
        row = chosen[place]
        count = _offer(scores, rows, count, _dot(vectors[row], query), row)
    return count


@compiled(_i64, _vectors, _query, _rows, _mask, _i64, _i64, _ids, _scores)
def scan_run(
    ordered: np.ndarray,
    query: np.ndarray,
    order: np.ndarray,
    alive: np.ndarray,
    start: int,
    end: int,
    rows: np.ndarray,
    scores: np.ndarray,
) -> int:
    """Keep the best of a run of vectors stored in ``order``; ``alive`` is by row."""
    count = 0
    for place in range(start, end):
        row = order[place]
        if alive[row]:
            count = _offer(scores, rows, count, _dot(ordered[place], query), row)
    return count


@compiled(_i64, _vectors, _query, _i64, _i64, _f32, _ids, _scores, types.int64[::1], _scores)
def finish(
    vectors: np.ndarray,
    query: np.ndarray,
    count: int,
    wanted: int,
    margin: float,
    rows: np.ndarray,
    scores: np.ndarray,
    best_rows: np.ndarray,
    best_scores: np.ndarray,
) -> int:
    """Score a heap of ``count`` rows in float64 and write the best ``wanted`` in order.

    Returns:
        1 when no row that the full heap turned away can be among them, allowing for a rounding
        error of ``margin``, else 0.
    """
    exact = np.empty(count, dtype=np.float64)
    lowest = np.float32(np.inf)
    for place in range(count):
        total = 0.0
        vector = vectors[rows[place]]
        for column in range(len(query)):
            total += np.float64(vector[column]) * np.float64(query[column])
        exact[place] = np.float64(np.float32(total))
        lowest = min(lowest, scores[place])
    for place in range(1, count):  # insertion sort: the heap is small
        score, row = exact[place], rows[place]
        before = place - 1
        while before >= 0 and _worse(exact[before], rows[before], score, row):
            exact[before + 1], rows[before + 1] = exact[before], rows[before]
            before -= 1
        exact[before + 1], rows[before + 1] = score, row
    for place in range(wanted):
        best_rows[place], best_scores[place] = rows[place], np.float32(exact[place])
    if count < len(scores) or wanted == 0:
        return 1
    return 1 if exact[wanted - 1] - margin > lowest else 0


@njit
def _push(scores: Any, rows: Any, count: Any, score: Any, row: Any) -> None:
    """Add to a heap whose top is the best; there is room."""
    place = count
    while place > 0:
        parent = (place - 1) // 2
        if score <= scores[parent]:
            break
        scores[place], rows[place] = scores[parent], rows[parent]
        place = parent
    scores[place], rows[place] = score, row


@njit
def _pop(scores: Any, rows: Any, count: Any) -> None:
    """Take the top off a heap whose top is the best; ``count`` entries remain."""
    score, row = scores[count], rows[count]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= count:
            break
        if child + 1 < count and scores[child + 1] > scores[child]:
            child += 1
        if scores[child] <= score:
            break
        scores[place], rows[place] = scores[child], rows[child]
        place = child
    scores[place], rows[place] = score, row


@compiled(types.UniTuple(_i64, 2), _codes, _query, _code, _links, _rows, _readonly(types.int32, 3),
          _i64, _mask, _rows, _i64, _i64, _ids, _i64, _ids, _scores)  # fmt: skip
def walk(
    codes: np.ndarray,
    scales: np.ndarray,
    query: np.ndarray,
    links: np.ndarray,
    upper_place: np.ndarray,
    upper_links: np.ndarray,
    entry: int,
    mask: np.ndarray,
    seeds: np.ndarray,
    two_hop: int,
    limit: int,
    stamps: np.ndarray,
    stamp: int,
    rows: np.ndarray,
    scores: np.ndarray,
) -> tuple[int, int]:
    """Search a hierarchical graph for the passing rows with the best approximate scores.

    Args:
        codes: int8 vectors (M, D).
        scales: What each row's integer product is multiplied with, float32 (M,).
        query: int8 query (D,).
        links: Neighbours on the lowest level, int32 (M, L), filled up with -1.
        upper_place: Row -> place in ``upper_links``, or -1 for rows on the lowest level only.
        upper_links: Neighbours on level 1 and up, int32 (U, levels, L'), filled up with -1.
        entry: Row to start from on the highest level.
        mask: 1 for rows that pass, uint8 (M,).
        seeds: Passing rows to start from besides.
        two_hop: 0 walks all rows and keeps those that pass; 1 walks passing rows only and looks
            through the others at their neighbours (ACORN-1).
        limit: Number of distances after which to give up.
        stamps: Work space int32 (M,): rows seen have the value ``stamp``.
        stamp: A value not yet used in ``stamps``.
        rows: Heap for the results, int32 (ef,).
        scores: Its scores, float32 (ef,).

    Returns:
        ``(results, distances)``; results is -1 when the limit was reached.
    """
    width = links.shape[1]
    cap = width * (3 if two_hop else 1)
    fresh = np.empty(cap + width, dtype=np.int32)
    room = 4 * len(rows) + 64
    open_scores, open_rows = np.empty(room, dtype=np.float32), np.empty(room, dtype=np.int32)
    waiting, count, distances = 0, 0, 1
    current = entry
    nearest = np.float32(_dot8(codes[current], query)) * scales[current]
    for level in range(upper_links.shape[1] - 1, -1, -1):
        moved = True
        while moved:
            moved = False
            place = upper_place[current]
            if place < 0:
                break
            for column in range(upper_links.shape[2]):
                other = upper_links[place, level, column]
                if other < 0:
                    break
                score = np.float32(_dot8(codes[other], query)) * scales[other]
                distances += 1
                if score > nearest:
                    nearest, current, moved = score, other, True
    for number in range(-1, len(seeds)):
        row = current if number < 0 else seeds[number]
        if stamps[row] == stamp:
            continue
        stamps[row] = stamp
        score = np.float32(_dot8(codes[row], query)) * scales[row]
        _push(open_scores, open_rows, waiting, score, row)
        waiting += 1
        distances += 1
        if mask[row]:
            count = _offer(scores, rows, count, score, row)
        if waiting == room:
            break
    while waiting > 0:
        score, row = open_scores[0], open_rows[0]
        if count == len(rows) and score < scores[0]:
            break
        waiting -= 1
        _pop(open_scores, open_rows, waiting)
        found = 0
        for column in range(width):
            other = links[row, column]
            if other < 0:
                break
            if two_hop and not mask[other]:
                if found >= cap:
                    continue
                for step in range(width):
                    beyond = links[other, step]
                    if beyond < 0 or found >= cap:
                        break
                    if mask[beyond] and stamps[beyond] != stamp:
                        stamps[beyond] = stamp
                        fresh[found] = beyond
                        found += 1
            elif stamps[other] != stamp:
                stamps[other] = stamp
                fresh[found] = other
                found += 1
        distances += found
        if distances > limit:
            return -1, distances
        if waiting + found > room:
            more = max(2 * room, waiting + found)
            wider_scores = np.empty(more, dtype=np.float32)
            wider_rows = np.empty(more, dtype=np.int32)
            wider_scores[:waiting] = open_scores[:waiting]
            wider_rows[:waiting] = open_rows[:waiting]
            open_scores, open_rows, room = wider_scores, wider_rows, more
        for place in range(found):
            other = fresh[place]
            score = np.float32(_dot8(codes[other], query)) * scales[other]
            if count < len(rows) or score > scores[0]:
                _push(open_scores, open_rows, waiting, score, other)
                waiting += 1
                if mask[other]:
                    count = _offer(scores, rows, count, score, other)
    return count, distances
