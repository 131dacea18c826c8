"""Numba kernels that turn runs of a column's order, and lists of rows, into masks and back."""

from __future__ import annotations

import numpy as np
from numba import types

from embedworks._core.kernels import compile_kernel

__all__ = ["add_run", "keep_run", "match_listed", "match_run", "rows_of", "set_rows"]

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


@compile_kernel(types.void, _bytes, _ranks, types.uint8)
def set_rows(mask: np.ndarray, rows: np.ndarray, value: int) -> None:
    """Set ``mask[row]`` to ``value`` for every one of ``rows``."""
    for place in range(len(rows)):
        mask[rows[place]] = value


@compile_kernel(types.void, _bytes, _ranks, _ranks, types.uint8)
def match_listed(found: np.ndarray, rows: np.ndarray, listed: np.ndarray, value: int) -> None:
    """Set ``found[i]`` to ``value`` where ``rows[i]`` is one of ``listed``, which ascends."""
    for place in range(len(rows)):
        row = rows[place]
        start, size = 0, len(listed)
        while size > 1:  # without a branch that the data decide
            half = size // 2
            start += half if listed[start + half] <= row else 0
            size -= half
        if size and listed[start] == row:
            found[place] = value


@compile_kernel(types.int32[::1], types.Array(types.uint8, 1, "C", readonly=True))
def rows_of(mask: np.ndarray) -> np.ndarray:
    """Return the rows whose byte is 1, ascending."""
    words = len(mask) // 8
    eight = mask[: 8 * words].view(np.uint64)
    count = 0
    for row in range(len(mask)):
        count += mask[row]
    rows = np.empty(count + 1, dtype=np.int32)  # one more: every row is written, few are kept
    place = 0
    many = 32 * count > len(mask)  # then a branch would often be guessed wrong
    for word in range(words):
        if many or eight[word]:
            for row in range(8 * word, 8 * word + 8):
                rows[place] = row
                place += mask[row]
    for row in range(8 * words, len(mask)):
        rows[place] = row
        place += mask[row]
    return rows[:count]
