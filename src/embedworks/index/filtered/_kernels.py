"""Numba kernels of filtered search: scans, a walk over a graph, and the final exact scores.

Scans use float32 dot products and a heap somewhat larger than asked; `finish` then sums the
kept rows' scores in float64 and says whether a row left out could belong among the best. The
walk compares int8 codes. Higher scores are better; among equal scores the smaller row wins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from embedworks._core.kernels import compile_kernel, fetch_item, fetch_row
from embedworks.index.filtered._heaps import _offer, _pop, _push, _worse

__all__ = [
    "best_of_rows", "finish", "prepare", "prepare_and_scan", "scan_codes", "scan_rows", "scan_run",
    "walk",
]  # fmt: skip


def _readonly(kind: Any, ndim: int) -> Any:
    return types.Array(kind, ndim, "C", readonly=True)


_f32, _i64, _u8 = types.float32, types.int64, types.uint8
_vectors, _query = _readonly(_f32, 2), _readonly(_f32, 1)
_codes, _code = _readonly(types.int8, 2), _readonly(types.int8, 1)
_rows, _links = _readonly(types.int32, 1), _readonly(types.int32, 2)
_mask, _scales = _readonly(_u8, 1), _readonly(_f32, 1)
_ids, _scores = types.int32[::1], types.float32[::1]

_AHEAD = 12  # rows asked for before they are needed


@njit(fastmath=True)  # not inlined by numba: the sum would lose fastmath, and be seven times slower
def _dot(a: Any, b: Any) -> Any:
    total = np.float32(0.0)
    for place in range(a.shape[0]):
        total += a[place] * b[place]
    return total


@njit(fastmath=True)
def _dot_each(rows: Any, query: Any, scores: Any) -> None:
    """Write the dot product of each row with the query: faster than a call of `_dot` for each."""
    for row in range(rows.shape[0]):
        total = np.float32(0.0)
        for place in range(rows.shape[1]):
            total += rows[row, place] * query[place]
        scores[row] = total


@njit
def _score_exactly(vectors: Any, query: Any, rows: Any, count: Any, exact: Any) -> None:
    """Sum dot products in float64, one column after the other, as `ExactIndex` does.

    Four rows at a time: one sum alone would wait for each of its additions.
    """
    last = rows[count - 1] if count else 0
    for place in range(count):
        fetch_row(vectors, rows[place])
    for place in range(0, count, 4):
        a = vectors[rows[place]]
        b = vectors[rows[place + 1] if place + 1 < count else last]
        c = vectors[rows[place + 2] if place + 2 < count else last]
        d = vectors[rows[place + 3] if place + 3 < count else last]
        of_a, of_b, of_c, of_d = 0.0, 0.0, 0.0, 0.0
        for column in range(len(query)):
            value = np.float64(query[column])
            of_a += np.float64(a[column]) * value
            of_b += np.float64(b[column]) * value
            of_c += np.float64(c[column]) * value
            of_d += np.float64(d[column]) * value
        exact[place] = np.float64(np.float32(of_a))
        if place + 1 < count:
            exact[place + 1] = np.float64(np.float32(of_b))
        if place + 2 < count:
            exact[place + 2] = np.float64(np.float32(of_c))
        if place + 3 < count:
            exact[place + 3] = np.float64(np.float32(of_d))


@njit
def _sort(scores: Any, rows: Any) -> None:
    """Sort rows by score, best first, by insertion: they are few."""
    for place in range(1, len(rows)):
        score, row = scores[place], rows[place]
        before = place - 1
        while before >= 0 and _worse(scores[before], rows[before], score, row):
            scores[before + 1], rows[before + 1] = scores[before], rows[before]
            before -= 1
        scores[before + 1], rows[before + 1] = score, row


@njit
def _dot8(a: Any, b: Any) -> Any:
    total = np.int32(0)
    for place in range(a.shape[0]):
        # Without the outer int32 numba sums in int64, which takes more than twice as long.
        total = np.int32(total + np.int32(a[place]) * np.int32(b[place]))
    return total


@njit
def _prepare(query: Any, unit: Any, largest: Any, prepared: Any) -> Any:
    """Do what `prepare` does for one query; returns its margin, or -1."""
    width, total = len(query), 0.0
    for place in range(width):
        total += np.float64(query[place]) * np.float64(query[place])
    if not np.isfinite(total) or (unit and total == 0.0):
        return np.float32(-1.0)
    length = np.sqrt(total)
    scale = 1.0 / length if unit else 1.0
    for place in range(width):
        prepared[place] = np.float32(query[place] * scale)
    error = 2.0 * (width + 4) * 2.0**-24 * (length * scale) * largest
    return np.float32(min(error, 3.4e38))


@compile_kernel(_i64, _vectors, types.boolean, types.float64, types.float32[:, ::1], _scores)
def prepare(
    queries: np.ndarray, unit: bool, largest: float, prepared: np.ndarray, margins: np.ndarray
) -> int:
    """Check queries, scale them to unit length if asked, and bound the error of their scores.

    Args:
        queries: float32 (Q, D).
        unit: Whether to divide each by its length.
        largest: Length of the longest stored vector.
        prepared: Room for the queries, float32 (Q, D).
        margins: Room for twice the rounding error of a float32 dot product, float32 (Q,).

    Returns:
        0, or 1 when a value is not finite, or a vector is zero that was to be scaled.
    """
    for row in range(len(queries)):
        margin = _prepare(queries[row], unit, largest, prepared[row])
        if margin < 0:
            return 1
        margins[row] = margin
    return 0


@compile_kernel(_i64, _vectors, _query, _rows, _ids, _scores)
def scan_rows(
    vectors: np.ndarray, query: np.ndarray, chosen: np.ndarray, rows: np.ndarray, scores: np.ndarray
) -> int:
    """Keep the best of the ``chosen`` rows in the heap ``rows, scores``; returns its size."""
    count = 0
    for place in range(min(_AHEAD, len(chosen))):
        fetch_row(vectors, chosen[place])
    for place in range(len(chosen)):
        if place + _AHEAD < len(chosen):
            fetch_row(vectors, chosen[place + _AHEAD])
        row = chosen[place]
        score = _dot(vectors[row], query)
        if count < len(rows) or score >= scores[0]:
            count = _offer(scores, rows, count, score, row)
    return count


@njit
def _round_query(query: np.ndarray) -> np.ndarray:
    """Return the query in the range of int8; its scale changes all scores alike.

    As int16, so that a product with int8 widens only one side: a quarter less time at D = 384.
    """
    largest = np.float32(0.0)
    for place in range(len(query)):
        largest = max(largest, abs(query[place]))
    code = np.empty(len(query), dtype=np.int16)
    scale = np.float32(127.0) / largest if largest > 0 else np.float32(0.0)
    for place in range(len(query)):
        code[place] = np.int16(np.rint(query[place] * scale))
    return code


@compile_kernel(_i64, _codes, _scales, _query, _rows, _ids, _scores)
def scan_codes(
    codes: np.ndarray,
    scales: np.ndarray,
    query: np.ndarray,
    chosen: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray,
) -> int:
    """As `scan_rows` on int8 codes (M, D) with their scales (M,): a quarter of the memory."""
    for place in range(min(_AHEAD, len(chosen))):
        fetch_row(codes, chosen[place])
        fetch_item(scales, chosen[place])
    code = _round_query(query)
    count = 0
    for place in range(len(chosen)):
        if place + _AHEAD < len(chosen):
            fetch_row(codes, chosen[place + _AHEAD])
            fetch_item(scales, chosen[place + _AHEAD])
        row = chosen[place]
        score = np.float32(_dot8(codes[row], code)) * scales[row]
        if count < len(rows) or score >= scores[0]:
            count = _offer(scores, rows, count, score, row)
    return count


@compile_kernel(_i64, _vectors, _query, _rows, _mask, _i64, _i64, _ids, _scores)
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
            score = _dot(ordered[place], query)
            if count < len(rows) or score >= scores[0]:
                count = _offer(scores, rows, count, score, row)
    return count


@compile_kernel(_i64, _vectors, _query, _i64, _i64, _f32, _ids, _scores, types.int64[::1], _scores)
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
    _score_exactly(vectors, query, rows, count, exact)
    lowest = np.float32(np.inf)
    for place in range(count):
        lowest = min(lowest, scores[place])
    _sort(exact, rows[:count])
    for place in range(wanted):
        best_rows[place], best_scores[place] = rows[place], np.float32(exact[place])
    if count < len(scores) or wanted == 0:
        return 1
    return 1 if exact[wanted - 1] - margin > lowest else 0


@njit
def _best_of_rows(
    vectors: Any, query: Any, chosen: Any, margin: Any, best_rows: Any, best_scores: Any
) -> None:
    """See `best_of_rows`."""
    wanted = len(best_rows)
    if wanted == 0:
        return
    if wanted == len(chosen):  # all of them are results
        rows, near = chosen.copy(), wanted
    else:
        scores = np.empty(len(chosen), dtype=np.float32)
        top_rows, top = np.empty(wanted, dtype=np.int32), np.empty(wanted, dtype=np.float32)
        count = 0
        for place in range(min(_AHEAD, len(chosen))):
            fetch_row(vectors, chosen[place])
        for place in range(len(chosen)):
            if place + _AHEAD < len(chosen):
                fetch_row(vectors, chosen[place + _AHEAD])
            score = _dot(vectors[chosen[place]], query)
            scores[place] = score
            if count < wanted or score > top[0]:
                count = _offer(top, top_rows, count, score, chosen[place])
        lowest, near = top[0] - margin, 0
        rows = np.empty(len(chosen), dtype=np.int32)
        for place in range(len(chosen)):  # without a branch that the data decide
            rows[near] = chosen[place]
            near += scores[place] >= lowest
    exact = np.empty(near, dtype=np.float64)
    _score_exactly(vectors, query, rows, near, exact)
    if near > wanted:
        count = 0
        for place in range(near):
            count = _offer(exact[:wanted], rows[:wanted], count, exact[place], rows[place])
    _sort(exact[:wanted], rows[:wanted])
    for place in range(wanted):
        best_rows[place], best_scores[place] = rows[place], np.float32(exact[place])


@compile_kernel(types.void, _vectors, _query, _rows, _f32, types.int64[::1], _scores)
def best_of_rows(
    vectors: np.ndarray,
    query: np.ndarray,
    chosen: np.ndarray,
    margin: float,
    best_rows: np.ndarray,
    best_scores: np.ndarray,
) -> None:
    """Score the ``chosen`` rows and write the best of them in order, as `ExactIndex` finds them.

    Every row that a rounding error of ``margin`` could bring among the best is scored again in
    float64: with scores of all rows at hand these are a few more than wanted. There must not be
    room for more rows than were chosen.
    """
    _best_of_rows(vectors, query, chosen, margin, best_rows, best_scores)


@compile_kernel(
    _i64, _vectors, _vectors, types.boolean, types.float64, _rows, types.int64[::1], _scores
)
def prepare_and_scan(
    vectors: np.ndarray,
    queries: np.ndarray,
    unit: bool,
    largest: float,
    chosen: np.ndarray,
    best_rows: np.ndarray,
    best_scores: np.ndarray,
) -> int:
    """Do `prepare` and `best_of_rows` for one query (1, D): calls cost more than few rows do.

    Returns:
        What `prepare` does.
    """
    query = np.empty(queries.shape[1], dtype=np.float32)
    margin = _prepare(queries[0], unit, largest, query)
    if margin < 0:
        return 1
    _best_of_rows(vectors, query, chosen, margin, best_rows, best_scores)
    return 0


@compile_kernel(
    types.UniTuple(_i64, 2),
    _codes,
    _query,
    _code,
    _links,
    _rows,
    _readonly(types.int32, 3),
    _i64,
    _mask,
    _rows,
    _i64,
    _i64,
    _ids,
    _i64,
    _ids,
    _scores,
)
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
            fetch_row(codes, fresh[place])
        for place in range(found):
            other = fresh[place]
            score = np.float32(_dot8(codes[other], query)) * scales[other]
            if count < len(rows) or score > scores[0]:
                _push(open_scores, open_rows, waiting, score, other)
                waiting += 1
                if mask[other]:
                    count = _offer(scores, rows, count, score, other)
    return count, distances
