"""Numba kernels for tokenising and summing; see `_fast_encode` for what they are for.

Each has one signature, releases the GIL and is cached on disk, so that only the first use on a
machine compiles. Hashes are int64 that wrap around.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numba import types

from embedworks._core.kernels import compile_kernel

__all__ = [
    "ADDED_START",
    "HARD",
    "LETTER",
    "PUNCTUATION",
    "REMOVED",
    "SPACE",
    "add_ranges",
    "collect",
    "compact",
    "expand",
    "fill",
    "scan",
]

#: What a byte is to the tokenizer, in the low bits of its rule; ADDED_START is added where an
#: added token may begin.
LETTER, SPACE, PUNCTUATION, REMOVED, HARD = 0, 1, 2, 3, 4
ADDED_START = 8
_KIND = 7

_PRIME = np.int64(0x100000001B3)
_MIX = np.int64(-0x61C8864680B583EB)
_CONTINUING = np.int64(0x56E8FEB86659FD93)

_i64 = types.int64
_bytes, _bytes2 = types.Array(types.uint8, 1, "C", readonly=True), types.uint8[:, ::1]
_i32s, _i64s, _i64s2 = types.int32[::1], types.int64[::1], types.int64[:, ::1]
_f32s2 = types.float32[:, ::1]
_table = types.Array(types.float32, 2, "C", readonly=True)


_compile = partial(compile_kernel, forceinline=True)


@_compile(_i64, _i64)
def _place_of(value: Any) -> Any:
    return ((value ^ (value >> 29)) * _MIX) >> 32


@_compile(types.void, _i64s2, types.uint8[::1], _i64s2, _bytes)
def fill(slots: np.ndarray, marks: np.ndarray, pieces: np.ndarray, text: np.ndarray) -> None:
    """Insert every piece into the free hash table ``slots`` (S, 4) and mark its hash."""
    mask = len(slots) - 1
    for piece in range(len(pieces)):
        value = np.int64(0)
        for position in range(pieces[piece, 0], pieces[piece, 0] + pieces[piece, 1]):
            value = value * _PRIME + text[position] + 1
        if pieces[piece, 3] == 1:
            value ^= _CONTINUING
        place = _place_of(value)
        marks[place & (len(marks) - 1)] = 1
        slot = place & mask
        while slots[slot, 1] >= 0:
            slot = (slot + 1) & mask
        slots[slot, 0] = value
        slots[slot, 1] = pieces[piece, 2]
        slots[slot, 2] = pieces[piece, 0]
        slots[slot, 3] = 2 * pieces[piece, 1] + pieces[piece, 3]


@_compile(
    _i64, types.uint8[::1], _i64s2, _i64, _i32s, _i64, _i64s2, types.uint8[::1], _bytes, _i64s
)
def _add_word(
    word: np.ndarray,
    hashes: np.ndarray,
    length: int,
    cells: np.ndarray,
    write: int,
    slots: np.ndarray,
    marks: np.ndarray,
    text: np.ndarray,
    limits: np.ndarray,
) -> int:
    """Write the pieces of one word, longest match first; return the next free cell.

    Row 0 of ``hashes`` has the hash of each prefix of the word, row 1 the powers of the prime:
    together the hash of any part of the word in one step.
    """
    mask, mark_mask = len(slots) - 1, len(marks) - 1
    begin = write
    start = np.int64(0)
    while start < length and length <= limits[0]:
        end = min(length, start + limits[1])
        found = np.int64(-1)
        while end > start:
            value = hashes[0, end] - hashes[0, start] * hashes[1, end - start]
            shape = 2 * (end - start)
            if start > 0:
                value ^= _CONTINUING
                shape += 1
            place = _place_of(value)
            if marks[place & mark_mask]:
                slot = place & mask
                while slots[slot, 1] >= 0 and found < 0:
                    if slots[slot, 0] == value and slots[slot, 3] == shape:
                        origin, step = slots[slot, 2], np.int64(0)
                        while step < end - start and text[origin + step] == word[start + step]:
                            step += 1
                        if step == end - start:
                            found = slots[slot, 1]
                    slot = (slot + 1) & mask
                if found >= 0:
                    break
            end -= 1
        if found < 0:
            break
        cells[write] = found
        write += 1
        start = end
    if start < length:
        cells[begin] = limits[2]
        return begin + 1
    return write


@_compile(types.boolean, _bytes, _i64, _i64, _i64s2, _bytes)
def _starts_added(
    data: np.ndarray, position: int, end: int, added: np.ndarray, text: np.ndarray
) -> bool:
    """Say whether one of the added tokens is at ``position``."""
    for token in range(len(added)):
        length = added[token, 1]
        step = np.int64(0)
        if length <= end - position:
            while step < length and data[position + step] == text[added[token, 0] + step]:
                step += 1
        if step == length:
            return True
    return False


@_compile(
    types.void, _bytes, _i64s, _i64, _i64, _i32s, _i64s, _i64s, _i64s2, types.uint8[::1], _bytes,
    _i64s2, _bytes2, _i64s,
)  # fmt: skip
def scan(
    data: np.ndarray,
    starts: np.ndarray,
    first: int,
    last: int,
    cells: np.ndarray,
    used: np.ndarray,
    hard: np.ndarray,
    slots: np.ndarray,
    marks: np.ndarray,
    text: np.ndarray,
    added: np.ndarray,
    rules: np.ndarray,
    limits: np.ndarray,
) -> None:
    """Tokenise texts ``first`` to ``last``, each into the cells that begin where its bytes do.

    A hard stretch takes two cells: minus its start in the text minus one, and its end. ``used``
    gets the number of cells of each text, ``hard`` the number of such stretches.
    """
    word = np.empty(limits[0] + 1, dtype=np.uint8)
    hashes = np.zeros((2, limits[0] + 2), dtype=np.int64)
    hashes[1, 0] = 1
    for power in range(1, limits[0] + 2):
        hashes[1, power] = hashes[1, power - 1] * _PRIME
    for number in range(first, last):
        begin, end = starts[number], starts[number + 1]
        write, position = begin, begin
        while position < end:
            stretch, stretch_write = position, write
            length = np.int64(0)
            kind = np.int64(LETTER)
            while position < end and kind != SPACE:
                rule = np.int64(rules[0, data[position]])
                kind = rule & _KIND
                if kind == HARD or (
                    rule >= ADDED_START and _starts_added(data, position, end, added, text)
                ):
                    kind = np.int64(HARD)
                    break
                letter = rules[1, data[position]]
                if kind == LETTER:
                    if length < limits[0]:
                        word[length] = letter
                        hashes[0, length + 1] = hashes[0, length] * _PRIME + letter + 1
                    length += 1
                elif kind != REMOVED:
                    if length > 0:
                        write = _add_word(
                            word, hashes, length, cells, write, slots, marks, text, limits
                        )
                        length = np.int64(0)
                    if kind == PUNCTUATION:
                        word[0] = letter
                        hashes[0, 1] = np.int64(letter) + 1
                        write = _add_word(
                            word, hashes, np.int64(1), cells, write, slots, marks, text, limits
                        )
                position += 1
            if kind == HARD:
                while position < end and rules[0, data[position]] & _KIND != SPACE:
                    position += 1
                cells[stretch_write] = -(stretch - begin) - 1
                cells[stretch_write + 1] = position - begin
                write = stretch_write + 2
                hard[number] += 1
            elif length > 0:
                write = _add_word(word, hashes, length, cells, write, slots, marks, text, limits)
        used[number] = write - begin


@_compile(types.void, _i64s, _i32s, _i64s, _i64s, _i64s2)
def collect(
    starts: np.ndarray, cells: np.ndarray, used: np.ndarray, hard: np.ndarray, found: np.ndarray
) -> None:
    """List the hard stretches: first byte, end, cell and text of each, int64 (H, 4)."""
    count = 0
    for number in range(len(used)):
        if hard[number] == 0:
            continue
        cell = starts[number]
        while cell < starts[number] + used[number]:
            if cells[cell] < 0:
                found[count, 0] = starts[number] - cells[cell] - 1
                found[count, 1] = starts[number] + cells[cell + 1]
                found[count, 2] = cell
                found[count, 3] = number
                count += 1
                cell += 1
            cell += 1


@_compile(types.void, _i64s, _i32s, _i64s, _i64s, _i32s)
def compact(
    starts: np.ndarray, cells: np.ndarray, used: np.ndarray, offsets: np.ndarray, ids: np.ndarray
) -> None:
    """Copy the cells of all texts together, where no stretch is hard."""
    for number in range(len(used)):
        for step in range(used[number]):
            ids[offsets[number] + step] = cells[starts[number] + step]


@_compile(types.void, _i64s, _i32s, _i64s, _i32s, _i64s, _i64s, _i32s)
def expand(
    starts: np.ndarray,
    cells: np.ndarray,
    used: np.ndarray,
    resolved: np.ndarray,
    edges: np.ndarray,
    offsets: np.ndarray,
    ids: np.ndarray,
) -> None:
    """Copy as `compact` does, hard stretches replaced by ``resolved[edges[i]:edges[i + 1]]``."""
    for number in range(len(used)):
        write, cell = offsets[number], starts[number]
        while cell < starts[number] + used[number]:
            value = np.int64(cells[cell])
            if value >= 0:
                ids[write] = value
                write += 1
            else:
                for place in range(edges[-value - 1], edges[-value]):
                    ids[write] = resolved[place]
                    write += 1
                cell += 1
            cell += 1


@_compile(types.void, _table, _i32s, _i64s, _i64, _i64, _f32s2)
def add_ranges(
    table: np.ndarray, ids: np.ndarray, edges: np.ndarray, first: int, last: int, sums: np.ndarray
) -> None:
    """Add the table rows of the ranges ``first`` to ``last`` in float64; round into ``sums``."""
    total = np.empty(table.shape[1], dtype=np.float64)
    for place in range(first, last):
        total[:] = 0
        for token in range(edges[place], edges[place + 1]):
            row = ids[token]
            for column in range(table.shape[1]):
                total[column] += table[row, column]
        for column in range(table.shape[1]):
            sums[place, column] = total[column]
