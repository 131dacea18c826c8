"""How the rows of an epoch are put together: mixed, by source, by cluster, or in between.

A strategy arranges integers; weights, keys and ranks are `batches`' business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from embedworks._core.registry import Registry
from embedworks.data._batching.layout import Layout, cut, stable_order

if TYPE_CHECKING:
    from embedworks.data.batch_settings import BatchSettings

__all__ = ["BATCH_STRATEGIES", "BatchStrategy", "RowPool"]


@dataclass(frozen=True)
class RowPool:
    """Rows that may share a batch: those of one loss, unit by unit.

    A unit is a source, sources merged into one, or a cluster.

    Attributes:
        rows: int64 array (M,): the rows, those of one unit side by side.
        units: int64 array (U,): numbers of the units.
        counts: int64 array (U,): rows per unit, at least one.
        sizes: int64 array (U,): rows of a full batch of the unit; equal unless batches are pure.
    """

    rows: np.ndarray
    units: np.ndarray
    counts: np.ndarray
    sizes: np.ndarray

    @property
    def unit_of(self) -> np.ndarray:
        """The unit of each row, shape (M,)."""
        return np.repeat(self.units, self.counts)

    def shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """Return the rows, still unit by unit, each unit in a random order. Shape (M,)."""
        order = rng.permutation(len(self.rows))
        unit = np.repeat(np.arange(len(self.units)), self.counts)
        return self.rows[order[stable_order(unit[order])]]


class BatchStrategy(Protocol):
    """What a registered strategy must have.

    Attributes:
        pure: Whether every batch holds rows of one unit only.
        options: Names of the settings that it needs and that others refuse.
    """

    pure: bool
    options: frozenset[str]

    def run_length(self, batch_size: int, settings: BatchSettings) -> int:
        """Return how many rows are drawn from one unit at a time when units have weights."""

    def arrange(self, pool: RowPool, settings: BatchSettings, rng: np.random.Generator) -> Layout:
        """Return batches in which every row of the pool occurs once."""

    def finish(self, layout: Layout, settings: BatchSettings, rng: np.random.Generator) -> Layout:
        """Return the batches of a weighted draw after the strategy's last step."""


#: Strategies by the name used in `BatchSettings.strategy`.
BATCH_STRATEGIES: Registry[BatchStrategy] = Registry("batch strategies")


class _Mixed:
    pure = False
    options: frozenset[str] = frozenset()

    def run_length(self, batch_size: int, settings: BatchSettings) -> int:
        return 1

    def arrange(self, pool: RowPool, settings: BatchSettings, rng: np.random.Generator) -> Layout:
        rows = pool.rows[rng.permutation(len(pool.rows))]
        return _cut_all(rows, np.zeros(len(rows), dtype=np.int64), pool)

    def finish(self, layout: Layout, settings: BatchSettings, rng: np.random.Generator) -> Layout:
        return Layout(layout.rows, layout.starts, np.zeros_like(layout.kinds))


class _OneUnit:
    pure = True
    options: frozenset[str] = frozenset()

    def run_length(self, batch_size: int, settings: BatchSettings) -> int:
        return batch_size

    def arrange(self, pool: RowPool, settings: BatchSettings, rng: np.random.Generator) -> Layout:
        return cut(pool.shuffled(rng), pool.counts, pool.sizes, pool.unit_of)

    def finish(self, layout: Layout, settings: BatchSettings, rng: np.random.Generator) -> Layout:
        return layout


class _SemiHomogeneous:
    pure = False
    options = frozenset({"ratio"})

    def run_length(self, batch_size: int, settings: BatchSettings) -> int:
        return batch_size

    def arrange(self, pool: RowPool, settings: BatchSettings, rng: np.random.Generator) -> Layout:
        rows, kinds = _runs_first(pool, int(pool.sizes[0]), rng)
        return self.finish(_cut_all(rows, kinds, pool), settings, rng)

    def finish(self, layout: Layout, settings: BatchSettings, rng: np.random.Generator) -> Layout:
        ratio = 1.0 if settings.ratio is None else settings.ratio
        sizes = layout.sizes
        kept = np.floor(sizes * ratio + 0.5).astype(np.int64)
        inside = np.arange(len(layout.rows)) - np.repeat(layout.starts[:-1], sizes)
        pooled = np.flatnonzero(inside >= np.repeat(kept, sizes))
        rows, kinds = layout.rows.copy(), layout.kinds.copy()
        rows[pooled] = rows[pooled[rng.permutation(len(pooled))]]
        kinds[pooled] = -1
        return Layout(rows, layout.starts, kinds)


class _Interleaved:
    pure = False
    options = frozenset({"sub_batch_size"})

    def run_length(self, batch_size: int, settings: BatchSettings) -> int:
        return settings.sub_batch_size or 1

    def arrange(self, pool: RowPool, settings: BatchSettings, rng: np.random.Generator) -> Layout:
        rows, kinds = _runs_first(pool, settings.sub_batch_size or 1, rng)
        return _cut_all(rows, kinds, pool)

    def finish(self, layout: Layout, settings: BatchSettings, rng: np.random.Generator) -> Layout:
        return layout


def _cut_all(rows: np.ndarray, kinds: np.ndarray, pool: RowPool) -> Layout:
    return cut(rows, np.array([len(rows)]), pool.sizes[:1], kinds)


def _runs_first(
    pool: RowPool, length: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return full runs of one unit in random order, then what is left of each unit."""
    lengths = np.full(len(pool.units), length)
    runs = cut(pool.shuffled(rng), pool.counts, lengths, pool.unit_of)
    full = runs.sizes == length
    order = np.concatenate(
        [rng.permutation(np.flatnonzero(full)), rng.permutation(np.flatnonzero(~full))]
    )
    runs = runs.take(order)
    return runs.rows, runs.kinds


BATCH_STRATEGIES.add("mixed", _Mixed(), summary="All sources shuffled together.")
BATCH_STRATEGIES.add("one_source", _OneUnit(), summary="Every batch holds rows of one source.")
BATCH_STRATEGIES.add(
    "semi_homogeneous",
    _SemiHomogeneous(),
    summary="One source per batch, but the last (1 - ratio) share of every batch is exchanged.",
)
BATCH_STRATEGIES.add(
    "interleaved",
    _Interleaved(),
    summary="Batches made of sub-batches, each of one source (sub_batch_size rows).",
)
BATCH_STRATEGIES.add(
    "clustered",
    _OneUnit(),
    summary="Every batch holds rows of one cluster; clusters are given by the caller.",
)
