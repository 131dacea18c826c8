"""Numba kernels over the ranks of a column: which rows lie in a run of its sorted order."""

from __future__ import annotations

import numpy as np
from numba import types

from embedworks._core.kernels import compile_kernel

__all__ = ["add_run", "keep_run", "match_run", "rows_of"]

_ranks = types.Array(types.int32, 1, "C", readonly=True)
_bytes = types.uint8[::1]


@compile_kernel(types.void, _bytes, _ranks, types.int64, types.int64)
def add_run(mask: np.ndarray, rank: np.ndarray, start: int, end: int) -> None:
    """Set ``mask[row]`` to 1 where ``start <= rank[row] < end``."""
    low, high = np.int32(start), np.int32(end)
    for row in range(len(rank)):
        mask[row] |= np.uint8((rank[row] >= low) & (rank[row] < high))


@compile_kernel(types.void, _bytes, _ranks, types.int64, types.int64)
def keep_run(mask: np.ndarray, rank: np.ndarray, start: int, end: int) -> None:
    """Set ``mask[row]`` to 0 unless ``start <= rank[row] < end``."""
    low, high = np.int32(start), np.int32(end)
    for row in range(len(rank)):
        mask[row] &= np.uint8((rank[row] >= low) & (rank[row] < high))


@compile_kernel(types.void, _bytes, _ranks, _ranks, types.int64, types.int64)
def match_run(found: np.ndarray, rows: np.ndarray, rank: np.ndarray, start: int, end: int) -> None:
    """Set ``found[i]`` to 1 where row ``rows[i]`` has ``start <= rank < end``."""
    low, high = np.int32(start), np.int32(end)
    for place in range(len(rows)):
        value = rank[rows[place]]
        found[place] |= np.uint8((value >= low) & (value < high))


@compile_kernel(types.int32[::1], types.Array(types.uint8, 1, "C", readonly=True))
def rows_of(mask: np.ndarray) -> np.ndarray:
    """Return the rows whose byte is 1, ascending."""
    count = 0
    for row in range(len(mask)):
        count += mask[row]
    rows = np.empty(count, dtype=np.int32)
    place = 0
    for row in range(len(mask)):
        if mask[row]:
            rows[place] = row
            place += 1
    return rows
