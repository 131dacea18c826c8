"""Numba kernels of filtered search: scans, and the final exact scores.

Scans use float32 dot products and a heap somewhat larger than asked; `finish` then sums the
kept rows' scores in float64 and says whether a row left out could belong among the best. Higher
scores are better; among equal scores the smaller row wins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from embedworks._core.kernels import compile_kernel, fetch_row
from embedworks.index.filtered._heaps import _offer, _worse

__all__ = [
    "best_of_rows", "finish", "prepare", "prepare_and_scan", "scan_codes", "scan_rows", "scan_run",
]  # fmt: skip


def _readonly(kind: Any, ndim: int) -> Any:
    return types.Array(kind, ndim, "C", readonly=True)


_f32, _i64, _u8 = types.float32, types.int64, types.uint8
_vectors, _query = _readonly(_f32, 2), _readonly(_f32, 1)
_codes, _rows = _readonly(types.int8, 2), _readonly(types.int32, 1)
_mask, _scales = _readonly(_u8, 1), _readonly(_f32, 1)
_ids, _scores = types.int32[::1], types.float32[::1]

_AHEAD = 12  # rows asked for before they are needed
_IN_TURN = 16  # bytes of codes to be read, for each row there is, from which order pays


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


@njit
def _places(places: Any, chosen: Any, width: Any) -> Any:
    """Return the places of the ``chosen`` rows; of many, in ascending order, to be read in turn.

    Putting them in order takes the same time for codes of any ``width``; reading here and there
    takes the longer the wider they are.
    """
    found = np.empty(len(chosen) + 1, dtype=np.int32)  # the loop below writes before it looks
    if len(chosen) * width < _IN_TURN * len(places):
        for number in range(len(chosen)):
            found[number] = places[chosen[number]]
        return found[: len(chosen)]
    eights = np.zeros((len(places) + 7) // 8, dtype=np.uint64)
    flags = eights.view(np.uint8)
    for number in range(len(chosen)):
        flags[places[chosen[number]]] = 1
    count = 0
    for eight in range(len(eights)):
        if eights[eight]:
            for place in range(8 * eight, 8 * eight + 8):
                found[count] = place
                count += flags[place]
    return found[:count]


@compile_kernel(_i64, _codes, _scales, _rows, _rows, _query, _rows, _ids, _scores)
def scan_codes(
    codes: np.ndarray,
    scales: np.ndarray,
    order: np.ndarray,
    places: np.ndarray,
    query: np.ndarray,
    chosen: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray,
) -> int:
    """As `scan_rows` on int8 codes by place (M, D) with their scales (M,): a quarter of the memory.

    Args beyond those of `scan_rows`:
        order: Place -> row, int32 (M,).
        places: Row -> place, int32 (M,).
    """
    where = _places(places, chosen, codes.shape[1])
    for number in range(min(_AHEAD, len(where))):
        fetch_row(codes, where[number])
    code = _round_query(query)
    count = 0
    for number in range(len(where)):
        if number + _AHEAD < len(where):
            fetch_row(codes, where[number + _AHEAD])
        place = where[number]
        score = np.float32(_dot8(codes[place], code)) * scales[place]
        if count < len(rows) or score >= scores[0]:
            count = _offer(scores, rows, count, score, order[place])
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
    best_of_rows(vectors, query, chosen, margin, best_rows, best_scores)
    return 0
