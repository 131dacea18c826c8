"""The batches of one epoch, whole or as one process sees them, and what is left out of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import overload

import numpy as np

from embedworks.data._batching.layout import Layout, stable_order

__all__ = ["EpochBatches", "keep_batches", "split_largest"]


class EpochBatches(Sequence[np.ndarray]):
    """The batches of one epoch; item i is an int64 array of row positions.

    Args:
        rows: (M,) rows of all batches, over all processes.
        starts: (K + 1,) where each batch begins.
        rank: Which process's part an item is.
        world_size: Number of processes.
        left_out: Rows that the epoch leaves out, by reason.
    """

    def __init__(
        self,
        rows: np.ndarray,
        starts: np.ndarray,
        rank: int = 0,
        world_size: int = 1,
        left_out: dict[str, int] | None = None,
    ) -> None:
        self.rows = rows
        self.starts = starts
        self.rank = rank
        self.world_size = world_size
        self.left_out = left_out or {}

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        return self.part(index % len(self), self.rank)

    def part(self, index: int, rank: int) -> np.ndarray:
        """Return the rows of batch ``index`` that process ``rank`` sees.

        Parts are equally long: up to ``world_size - 1`` rows of a batch are seen by none.
        """
        start, end = int(self.starts[index]), int(self.starts[index + 1])
        end -= (end - start) % self.world_size
        return self.rows[start + rank : end : self.world_size]


def keep_batches(layout: Layout, kept: np.ndarray, left: Counter[str], reason: str) -> Layout:
    """Return the batches where ``kept`` is True; count the rows of the others as left out."""
    if kept.all():
        return layout
    left[reason] += int(layout.sizes[~kept].sum())
    return layout.take(np.flatnonzero(kept))


def split_largest(layout: Layout, wanted: int, least: int) -> Layout:
    """Halve the largest batches until there are ``wanted``, none of fewer than ``least``."""
    while len(layout) < wanted:
        sizes = layout.sizes
        large = stable_order(sizes.max() - sizes)[: wanted - len(layout)]
        large = large[sizes[large] >= least]
        if not len(large):
            return layout
        middles = layout.starts[:-1][large] + sizes[large] // 2
        layout = Layout(layout.rows, np.sort(np.append(layout.starts, middles)), layout.kinds)
    return layout
