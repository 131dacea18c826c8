"""The kernel of inverted lists under a filter."""

from __future__ import annotations

import numpy as np
from numba import types

from embedworks._core.compiled import compiled
from embedworks.index.filtered._kernels import (
    _codes,
    _dot,
    _dot8,
    _i64,
    _ids,
    _mask,
    _offer,
    _pop,
    _push,
    _query,
    _readonly,
    _round_query,
    _rows,
    _scales,
    _scores,
    _vectors,
)

__all__ = ["scan_lists"]

_MOST = 8.0  # times as many rows, when the lists near the query hold less than their share
_LITTLE = 0.9  # of its share is no reason yet


@compiled(types.UniTuple(_i64, 2), _vectors, _query, _readonly(types.int64, 1), _rows, _codes,
          _scales, _mask, _rows, _i64, _i64, _i64, types.float64, _ids,
          _scores)  # fmt: skip
def scan_lists(
    centroids: np.ndarray,
    query: np.ndarray,
    starts: np.ndarray,
    order: np.ndarray,
    codes: np.ndarray,
    scales: np.ndarray,
    mask: np.ndarray,
    rank: np.ndarray,
    low: int,
    high: int,
    enough: int,
    share: float,
    rows: np.ndarray,
    scores: np.ndarray,
) -> tuple[int, int]:
    """Scan lists, nearest first, until enough rows that pass were scored.

    Both must be so: ``enough`` passing rows were scored, and as many rows seen as hold that many
    under a filter that has nothing to do with the vectors. Where the near lists hold fewer, the
    filter points away from the query and its best rows are far apart: with a share of r of what
    was expected, 1 / r^2 times as many are scored, at most eight times.

    Args:
        centroids: float32 (L, D).
        query: float32 (D,).
        starts: Where each list begins in ``order``, int64 (L + 1,).
        order: Rows by list, int32 (M,).
        codes: int8 vectors in that order (M, D).
        scales: Their scales, float32 (M,).
        mask: 1 for rows that pass, uint8.
        rank: Place by some column of the rows in ``order``, int32 (M,); read when ``high >= 0``.
        low: First place that passes.
        high: One after the last place that passes, or -1: the mask alone decides.
        enough: Passing rows to score.
        share: Share of the rows that passes, above 0.
        rows: Heap for the results, int32.
        scores: Its scores, float32.

    Returns:
        ``(results, scored)``. Fewer results than the heap holds are all there are.
    """
    lists = len(centroids)
    open_scores, open_lists = np.empty(lists, dtype=np.float32), np.empty(lists, dtype=np.int32)
    for place in range(lists):
        _push(open_scores, open_lists, place, _dot(centroids[place], query), np.int32(place))
    code = _round_query(query)
    least = enough / share
    count, scored, seen, waiting = 0, 0, 0, lists
    judged = False
    while waiting > 0:
        chosen = open_lists[0]
        waiting -= 1
        _pop(open_scores, open_lists, waiting)
        for place in range(starts[chosen], starts[chosen + 1]):
            if high >= 0 and not low <= rank[place] < high:
                continue
            row = order[place]
            if mask[row]:
                scored += 1
                score = np.float32(_dot8(codes[place], code)) * scales[place]
                if count < len(rows) or score >= scores[0]:
                    count = _offer(scores, rows, count, score, row)
        seen += starts[chosen + 1] - starts[chosen]
        if seen >= least and not judged:
            judged = True
            part = scored / enough
            if part < _LITTLE:
                enough = int(enough * min(_MOST, 1.0 / max(part * part, 1e-3)))
        if judged and scored >= enough and count == len(rows):
            break
    return count, scored
