"""Keeps rows that share a key out of each other's batches, by exchange, never by loss.

Knows integers only: batches, rows and the keys of rows.
"""

from __future__ import annotations

import numpy as np

from embedworks.data._batching.layout import Layout, join

__all__ = ["KeyTable", "find_conflicts", "separate", "spill"]

_ROUNDS = 24
_STALLED = 4
_LOOSENINGS = 3
_EVICTED = 8
_CLOSINGS = 3


class KeyTable:
    """The keys of every row, reduced to those that at least two rows have.

    Args:
        keys: int64 array (N, C) of keys; rows that share any key must not meet. -1 is no key.
    """

    def __init__(self, keys: np.ndarray) -> None:
        if keys.size == 0:
            self.codes, self.count = np.full((len(keys), 1), -1, dtype=np.int64), 1
            return
        _, inverse = np.unique(keys, return_inverse=True)
        codes: np.ndarray = inverse.reshape(keys.shape).astype(np.int64)
        codes[keys < 0] = -1
        for column in range(1, keys.shape[1]):  # a key that a row has twice counts once
            seen = (codes[:, :column] == codes[:, column : column + 1]).any(axis=1)
            codes[seen, column] = -1
        counts = np.bincount(codes[codes >= 0], minlength=1)
        codes[(codes >= 0) & (counts[codes] < 2)] = -1
        codes = codes[:, (codes >= 0).any(axis=0)]
        if not codes.shape[1]:
            codes = np.full((len(keys), 1), -1, dtype=np.int64)
        self.codes = codes
        self.count = int(self.codes.max(initial=0)) + 1

    @classmethod
    def of_rows(cls, rows: np.ndarray, total: int) -> KeyTable:
        """Return a table in which a row that occurs twice in ``rows`` is its own duplicate."""
        table = cls.__new__(cls)
        twice = np.bincount(rows, minlength=total) > 1
        table.codes = np.where(twice, np.arange(total), -1).astype(np.int64)[:, None]
        table.count = total
        return table

    def beside(self, other: KeyTable) -> KeyTable:
        """Return a table with the keys of both."""
        table = KeyTable.__new__(KeyTable)
        shifted = np.where(other.codes >= 0, other.codes + self.count, -1)
        table.codes = np.hstack([self.codes, shifted])
        table.count = self.count + other.count
        return table

    def in_batches(self, batches: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return a code per (slot, key), equal for one key in one batch. -1 is no key."""
        codes = self.codes[rows]
        return np.where(codes >= 0, batches[:, None] * self.count + codes, -1)


def find_conflicts(codes: np.ndarray) -> np.ndarray:
    """Return True for slots that share a code with an earlier slot. ``codes`` is (M, C)."""
    bad = np.zeros(len(codes), dtype=bool)
    slots, columns = np.nonzero(codes >= 0)
    if not len(slots):
        return bad
    flat = codes[slots, columns]
    order = np.argsort(flat, kind="stable")
    flat, slots = flat[order], slots[order]
    first = np.concatenate([[True], flat[1:] != flat[:-1]])
    owner = slots[np.maximum.accumulate(np.where(first, np.arange(len(flat)), 0))]
    bad[slots[owner != slots]] = True
    return bad


class _Taken:
    """The sorted codes that are in use."""

    def __init__(self, codes: np.ndarray) -> None:
        self.codes = np.unique(codes[codes >= 0])

    def has(self, codes: np.ndarray) -> np.ndarray:
        """Return True for rows of ``codes`` (M, C) of which a code is in use."""
        if not len(self.codes):
            return np.zeros(len(codes), dtype=bool)
        place = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return np.asarray(((self.codes[place] == codes) & (codes >= 0)).any(axis=1))

    def add(self, codes: np.ndarray) -> None:
        new = np.unique(codes[codes >= 0])
        self.codes = np.insert(self.codes, np.searchsorted(self.codes, new), new)

    def remove(self, codes: np.ndarray) -> None:
        old = np.unique(codes[codes >= 0])
        self.codes = np.delete(self.codes, np.searchsorted(self.codes, old))


def _matched(
    kinds: np.ndarray, hole_kinds: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pair waiting rows, at random, with holes of their kind; returns indices of both."""
    mine = np.lexsort((rng.random(len(kinds)), kinds))
    theirs = np.argsort(hole_kinds, kind="stable")  # early batches fill first
    sorted_holes = hole_kinds[theirs]
    begin = np.searchsorted(sorted_holes, kinds[mine], "left")
    end = np.searchsorted(sorted_holes, kinds[mine], "right")
    rank = np.arange(len(mine)) - np.searchsorted(kinds[mine], kinds[mine], "left")
    fits = rank < end - begin
    return mine[fits], theirs[(begin + rank)[fits]]


class _Board:
    """Slots with rows in them, some empty, and the rows that wait for a place."""

    def __init__(
        self, layout: Layout, empty: np.ndarray, table: KeyTable, waiting: Layout | None = None
    ) -> None:
        self.layout = layout
        self.table = table
        self.batch_of = layout.batch_of
        self.rows = layout.rows.copy()
        self.empty = empty.copy()
        self.waiting = layout.rows[empty] if waiting is None else waiting.rows
        self.waiting_kinds = layout.kinds[empty] if waiting is None else waiting.kinds
        self.taken = _Taken(table.in_batches(self.batch_of[~empty], self.rows[~empty]))

    def fill(self, rng: np.random.Generator) -> None:
        """Try waiting rows in random empty slots of their kind until nothing moves."""
        stalled = 0
        for _ in range(_ROUNDS):
            if not len(self.waiting) or stalled >= _STALLED:
                return
            holes = np.flatnonzero(self.empty)
            who, where = _matched(self.waiting_kinds, self.layout.kinds[holes], rng)
            slots = holes[where]
            codes = self.table.in_batches(self.batch_of[slots], self.waiting[who])
            fine = ~self.taken.has(codes)
            fine[fine] &= ~find_conflicts(codes[fine])
            stalled = 0 if fine.any() else stalled + 1
            self.rows[slots[fine]] = self.waiting[who[fine]]
            self.empty[slots[fine]] = False
            self.taken.add(codes[fine])
            left = np.ones(len(self.waiting), dtype=bool)
            left[who[fine]] = False
            self.waiting, self.waiting_kinds = self.waiting[left], self.waiting_kinds[left]

    def evict(self, slots: np.ndarray) -> None:
        """Take the rows out of full ``slots``; they wait for another place."""
        codes = self.table.in_batches(self.batch_of[slots], self.rows[slots])
        self.taken.remove(codes)
        self.empty[slots] = True
        self.waiting = np.concatenate([self.waiting, self.rows[slots]])
        self.waiting_kinds = np.concatenate([self.waiting_kinds, self.layout.kinds[slots]])

    def loosen(self, rng: np.random.Generator) -> None:
        """Evict a few rows of the kinds that wait, so that there is room to exchange."""
        wanted = np.unique(self.waiting_kinds)
        full = np.flatnonzero(~self.empty & np.isin(self.layout.kinds, wanted))
        count = min(len(full), _EVICTED * len(self.waiting))
        self.evict(rng.choice(full, size=count, replace=False))

    def result(self) -> Layout:
        return Layout(self.rows, self.layout.starts, self.layout.kinds).where(~self.empty)


def separate(
    layout: Layout, table: KeyTable, rng: np.random.Generator
) -> tuple[Layout, np.ndarray, np.ndarray]:
    """Exchange rows of equal kind until no batch holds two rows that share a key.

    Returns:
        The batches (some may have shrunk, or vanished), the rows that found no place, and their
        kinds.
    """
    clashing = find_conflicts(table.in_batches(layout.batch_of, layout.rows))
    board = _Board(layout, clashing, table)
    board.fill(rng)
    for _ in range(_LOOSENINGS):
        if not len(board.waiting) or len(board.waiting) * 20 > len(layout.rows):
            break
        board.loosen(rng)
        board.fill(rng)
    return board.result(), board.waiting, board.waiting_kinds


def spill(
    layout: Layout,
    waiting: np.ndarray,
    size: int,
    table: KeyTable,
    kind_of: np.ndarray,
    rng: np.random.Generator,
) -> Layout:
    """Place the waiting rows too: close the gaps with the last batches, then add batches.

    Args:
        layout: Batches in which the waiting rows found no place.
        waiting: The rows without a place.
        size: Rows of a full batch.
        table: Keys of all rows.
        kind_of: (N,) kind of every row; added batches hold the rows of one kind side by side.
        rng: Random stream.
    """
    body = layout
    for _ in range(_CLOSINGS):
        kept = len(body.rows) // size
        gaps = np.maximum(size - body.sizes[:kept], 0)
        if not gaps.any() and len(body) == kept:
            break
        head = body.take(np.arange(kept))
        tail = body.take(np.arange(kept, len(body)))
        body, rest = _close_gaps(head, gaps, tail, table, rng)
        waiting = np.concatenate([rest, waiting])
    added = []
    while len(waiting):
        batches, waiting = _deal(waiting, size, table, kind_of)
        added.append(batches)
    return join([body, *added])


def _close_gaps(
    head: Layout, gaps: np.ndarray, tail: Layout, table: KeyTable, rng: np.random.Generator
) -> tuple[Layout, np.ndarray]:
    sizes = head.sizes + gaps
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    slot = np.arange(len(head.rows)) + np.repeat(starts[:-1] - head.starts[:-1], head.sizes)
    rows = np.zeros(int(starts[-1]), dtype=np.int64)
    kinds = np.zeros(len(rows), dtype=np.int64)
    empty = np.ones(len(rows), dtype=bool)
    rows[slot], kinds[slot], empty[slot] = head.rows, head.kinds, False
    # A gap has the kind of its batch's last row: the rows of one kind stay together.
    last = head.kinds[head.starts[1:] - 1]
    kinds[empty] = np.repeat(last, gaps)
    board = _Board(Layout(rows, starts, kinds), empty, table, tail)
    board.fill(rng)
    return board.result(), board.waiting


def _deal(
    waiting: np.ndarray, size: int, table: KeyTable, kind_of: np.ndarray
) -> tuple[Layout, np.ndarray]:
    """Deal rows over as few batches as their most frequent key allows."""
    codes = table.codes[waiting]
    values, inverse = np.unique(codes, return_inverse=True)
    counts = np.bincount(inverse.ravel(), minlength=len(values))
    counts[values < 0] = 0
    frequency = counts[inverse.reshape(codes.shape)]
    column = frequency.argmax(axis=1)
    rank = np.arange(len(waiting))
    most, key = frequency[rank, column], codes[rank, column]
    batches = int(max(-(-len(waiting) // size), counts.max(initial=0)))
    rows, target = waiting[np.lexsort((key, -most))], rank % batches
    place = np.lexsort((kind_of[rows], target))
    rows, target = rows[place], target[place]
    bad = find_conflicts(table.in_batches(target, rows))
    starts = np.concatenate([[0], np.cumsum(np.bincount(target, minlength=batches))])
    return Layout(rows, starts.astype(np.int64), kind_of[rows]).where(~bad), rows[bad]
