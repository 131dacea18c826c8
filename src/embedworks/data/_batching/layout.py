"""Batches as three flat arrays, and the ragged moves that arrange them.

Knows integers only: nothing of rows, sources or settings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Layout", "cut", "join", "ragged_positions", "stable_order"]


@dataclass(frozen=True)
class Layout:
    """Batches of row positions.

    Attributes:
        rows: int64 array (M,): the rows, batch by batch.
        starts: int64 array (K + 1,): batch i is ``rows[starts[i]:starts[i + 1]]``.
        kinds: int64 array (M,): rows may change places only with rows of the same kind.
    """

    rows: np.ndarray
    starts: np.ndarray
    kinds: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sizes(self) -> np.ndarray:
        """Rows per batch, shape (K,)."""
        return np.diff(self.starts)

    @property
    def batch_of(self) -> np.ndarray:
        """The batch of each slot, shape (M,)."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def take(self, batches: np.ndarray) -> Layout:
        """Return the given batches, in that order."""
        sizes = self.sizes[batches]
        places = ragged_positions(self.starts[:-1][batches], sizes)
        starts = np.zeros(len(sizes) + 1, dtype=np.int64)
        np.cumsum(sizes, out=starts[1:])
        return Layout(self.rows[places], starts, self.kinds[places])

    def where(self, slots: np.ndarray) -> Layout:
        """Return the slots where the mask is True; batches left empty disappear."""
        sizes = np.bincount(self.batch_of[slots], minlength=len(self))
        starts = np.concatenate([[0], np.cumsum(sizes[sizes > 0])]).astype(np.int64)
        return Layout(self.rows[slots], starts, self.kinds[slots])

    def shuffled_inside(self, rng: np.random.Generator) -> Layout:
        """Return the same batches with the rows of each in another order."""
        order = np.lexsort((rng.random(len(self.rows)), self.batch_of))
        return Layout(self.rows[order], self.starts, self.kinds[order])


def ragged_positions(begins: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return ``begin, begin + 1, ...`` for each pair of begin and size, joined."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(begins - (ends - sizes), sizes)


def cut(rows: np.ndarray, counts: np.ndarray, sizes: np.ndarray, kinds: np.ndarray) -> Layout:
    """Cut groups of rows into batches; the last batch of a group may be short.

    Args:
        rows: (M,) rows, group by group.
        counts: (G,) rows per group, at least one each.
        sizes: (G,) rows per batch of each group.
        kinds: (M,) kind of each row.
    """
    batches = -(-counts // sizes)
    group = np.repeat(np.arange(len(counts)), batches)
    lengths = sizes[group]
    last = np.cumsum(batches) - 1
    lengths[last] = counts - (batches - 1) * sizes
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    return Layout(rows, starts, kinds)


def join(layouts: list[Layout]) -> Layout:
    """Put layouts one after another."""
    if len(layouts) == 1:
        return layouts[0]
    sizes = np.concatenate([layout.sizes for layout in layouts])
    starts = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=starts[1:])
    return Layout(
        np.concatenate([layout.rows for layout in layouts]),
        starts,
        np.concatenate([layout.kinds for layout in layouts]),
    )


def stable_order(codes: np.ndarray) -> np.ndarray:
    """Return a stable argsort of small non-negative integers, fast where they fit 16 bits."""
    if len(codes) and codes.max() < 2**15:
        codes = codes.astype(np.int16)
    return np.argsort(codes, kind="stable")
