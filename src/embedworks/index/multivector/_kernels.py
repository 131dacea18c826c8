"""Numba kernels for MaxSim over a ragged token matrix.

Loops run over the query's tokens innermost: these are independent sums, so the compiler may use
vector instructions without changing the order in which anything is added.
"""

from __future__ import annotations

import numpy as np
from numba import types

from embedworks._core.kernels import compile_kernel

__all__ = ["maxsim_of_block", "maxsim_of_document"]

_i64s = types.Array(types.int64, 1, "C", readonly=True)
_f32s2 = types.Array(types.float32, 2, "C", readonly=True)
_f64s2 = types.Array(types.float64, 2, "C", readonly=True)


@compile_kernel(types.void, _f32s2, _i64s, _i64s, types.float32[:, ::1])
def maxsim_of_block(
    similarities: np.ndarray, offsets: np.ndarray, edges: np.ndarray, scores: np.ndarray
) -> None:
    """Turn token similarities into MaxSim scores, for many documents and many queries.

    Args:
        similarities: Float32 (T, U): every document token with every query token.
        offsets: The tokens of document m are ``offsets[m]`` to ``offsets[m + 1]``, (M + 1,).
        edges: The same for the queries' tokens, (Q + 1,).
        scores: Gets the scores, float32 (Q, M).
    """
    width = similarities.shape[1]
    best = np.empty(width, dtype=np.float32)
    for document in range(len(offsets) - 1):
        best[:] = -np.inf
        for token in range(offsets[document], offsets[document + 1]):
            for column in range(width):
                best[column] = max(best[column], similarities[token, column])
        for query in range(len(edges) - 1):
            total = 0.0
            for column in range(edges[query], edges[query + 1]):
                total += best[column]
            scores[query, document] = total


@compile_kernel(types.float64, _f32s2, _f64s2)
def maxsim_of_document(tokens: np.ndarray, query: np.ndarray) -> float:
    """Return MaxSim of one document (T, D) and one query, given transposed as (D, U).

    Products are summed in float64 in the order of the dimensions.
    """
    width = query.shape[1]
    best = np.full(width, -np.inf)
    sums = np.empty(width)
    for token in range(len(tokens)):
        sums[:] = 0.0
        for dim in range(tokens.shape[1]):
            value = np.float64(tokens[token, dim])
            for column in range(width):
                sums[column] += value * query[dim, column]
        for column in range(width):
            best[column] = max(best[column], sums[column])
    total = 0.0
    for column in range(width):
        total += best[column]
    return total
