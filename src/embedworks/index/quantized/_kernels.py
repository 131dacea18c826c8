"""Numba kernels that score codes without decoding them."""

from __future__ import annotations

import numpy as np
from numba import types

from embedworks._core.kernels import compile_kernel

__all__ = ["add_lookups", "hamming"]

_rows = types.Array(types.int64, 1, "C", readonly=True)
_f32s2 = types.Array(types.float32, 2, "C", readonly=True)
_u8s2 = types.Array(types.uint8, 2, "C", readonly=True)
_u64s = types.Array(types.uint64, 1, "C", readonly=True)
_u64s2 = types.Array(types.uint64, 2, "C", readonly=True)
_ONES, _TWOS = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)
_FOURS, _BYTES = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x0101010101010101)


@compile_kernel(types.void, _f32s2, _u8s2, _rows, types.float32[::1])
def add_lookups(table: np.ndarray, codes: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> None:
    """Score codes by sums of table entries (asymmetric distance computation).

    Args:
        table: Float32 (M, 256): the query's product with every codeword of every subspace.
        codes: Uint8 (N, M).
        rows: Which codes to score; empty scores all.
        scores: Gets the sums, in the order of the subspaces; float32, one per scored code.
    """
    for place in range(len(scores)):
        row = rows[place] if len(rows) else place
        total = np.float32(0.0)
        for subspace in range(codes.shape[1]):
            total += table[subspace, codes[row, subspace]]
        scores[place] = total


@compile_kernel(types.void, _u64s, _u64s2, _rows, types.int32[::1])
def hamming(query: np.ndarray, codes: np.ndarray, rows: np.ndarray, distances: np.ndarray) -> None:
    """Count the bits in which codes (N, W) differ from a query (W,).

    Args:
        query: Uint64 (W,).
        codes: Uint64 (N, W).
        rows: Which codes to score; empty scores all.
        distances: Gets the counts, int32, one per scored code.
    """
    for place in range(len(distances)):
        row = rows[place] if len(rows) else place
        total = np.uint64(0)
        for word in range(codes.shape[1]):
            bits = query[word] ^ codes[row, word]
            bits = bits - ((bits >> np.uint64(1)) & _ONES)
            bits = (bits & _TWOS) + ((bits >> np.uint64(2)) & _TWOS)
            bits = (bits + (bits >> np.uint64(4))) & _FOURS
            total += (bits * _BYTES) >> np.uint64(56)
        distances[place] = total
