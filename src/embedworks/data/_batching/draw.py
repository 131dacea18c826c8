"""Drawing runs of rows from weighted units: shares, counts per epoch, endless row streams.

Everything is a function of (seed, epoch): no state is carried along, so any epoch can be drawn
without the ones before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from embedworks._core.seeding import generator
from embedworks.data._batching.layout import Layout, ragged_positions

__all__ = ["WeightedDraw", "WeightedPool", "allot", "power_shares", "stream_rows"]

_CHUNK_ROWS = 1 << 12


def power_shares(
    sizes: np.ndarray, alpha: float, groups: Sequence[tuple[float, np.ndarray]] = ()
) -> np.ndarray:
    """Return shares ``size^alpha`` that sum to 1, within each group to the group's share.

    Args:
        sizes: (U,) sizes or weights; 0 for what is never drawn.
        alpha: The power.
        groups: (share, indices) per group, or nothing.
    """
    weights = np.where(sizes > 0, np.power(np.maximum(sizes, 1e-300, dtype=float), alpha), 0.0)
    shares = weights / weights.sum()
    for share, members in groups:
        shares[members] = share * weights[members] / weights[members].sum()
    return shares


def allot(total: int, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return whole counts that sum to ``total``, each within one of its share, right on average.

    Example:
        >>> int(allot(10, np.array([0.5, 0.25, 0.25]), np.random.default_rng(0)).sum())
        10
    """
    order = rng.permutation(len(shares))
    edges = np.floor(np.cumsum(shares[order]) * total + rng.random()).astype(np.int64)
    edges[-1] = total
    counts = np.empty(len(shares), dtype=np.int64)
    counts[order] = np.diff(np.minimum(edges, total), prepend=0)
    return counts


def stream_rows(seed: int, name: str, count: int, positions: np.ndarray) -> np.ndarray:
    """Return which of ``count`` rows stand at ``positions`` of an endless stream of passes.

    Every pass is a fresh permutation; position p is place ``p % count`` of pass ``p // count``.
    """
    passes = max(1, _CHUNK_ROWS // count)
    width = passes * count
    chunk = positions // width
    out = np.empty(len(positions), dtype=np.int64)
    for number in np.unique(chunk):
        rng = generator(seed, "batches", "pass", name, int(number))
        if passes == 1:
            order = rng.permutation(count)
        else:
            order = rng.random((passes, count)).argsort(axis=1).ravel()
        here = chunk == number
        out[here] = order[positions[here] - number * width]
    return out


@dataclass(frozen=True)
class WeightedPool:
    """Units that may share a batch, with what is drawn from them.

    Attributes:
        names: Name of each unit, naming its random stream.
        units: (U,) numbers of the units.
        rows: Rows of each unit.
        shares: (U,) share of each unit among all units of all pools.
        lengths: (U,) rows of a full run.
        runs: (U,) runs per pass over the unit.
        per_batch: Runs per batch.
    """

    names: tuple[str, ...]
    units: np.ndarray
    rows: tuple[np.ndarray, ...]
    shares: np.ndarray
    lengths: np.ndarray
    runs: np.ndarray
    per_batch: int


class WeightedDraw:
    """Epochs of a fixed number of batches, drawn by share.

    Args:
        pools: What is drawn from.
        batches: Batches per epoch, over all pools.
        seed: The plan's seed.
    """

    def __init__(self, pools: Sequence[WeightedPool], batches: int, seed: int) -> None:
        self._pools = pools
        self._batches = batches
        self._seed = seed
        self._done: list[list[np.ndarray]] = [[np.zeros(len(p.units), np.int64) for p in pools]]

    def counts(self, epoch: int) -> list[np.ndarray]:
        """Return the runs of each unit in an epoch, pool by pool."""
        rng = generator(self._seed, "batches", "counts", epoch)
        of_pool = np.array([pool.shares.sum() for pool in self._pools])
        batches = allot(self._batches, of_pool / of_pool.sum(), rng)
        return [
            allot(int(count) * pool.per_batch, pool.shares / pool.shares.sum(), rng)
            for count, pool in zip(batches, self._pools, strict=True)
        ]

    def _before(self, epoch: int) -> list[np.ndarray]:
        while len(self._done) <= epoch:
            last = self._done[-1]
            drawn = self.counts(len(self._done) - 1)
            self._done.append([a + b for a, b in zip(last, drawn, strict=True)])
        return self._done[epoch]

    def epoch(self, epoch: int, rng: np.random.Generator) -> list[Layout | None]:
        """Return the batches of an epoch, pool by pool; None where a pool has none."""
        return [
            self._draw(pool, before, counts, rng) if counts.sum() else None
            for pool, before, counts in zip(
                self._pools, self._before(epoch), self.counts(epoch), strict=True
            )
        ]

    def _draw(
        self, pool: WeightedPool, before: np.ndarray, counts: np.ndarray, rng: np.random.Generator
    ) -> Layout:
        rows, sizes = [], []
        for unit in np.flatnonzero(counts):
            count, length = len(pool.rows[unit]), int(pool.lengths[unit])
            number, place = np.divmod(before[unit] + np.arange(counts[unit]), int(pool.runs[unit]))
            lengths = np.minimum(length, count - place * length)
            positions = ragged_positions(number * count + place * length, lengths)
            stream = stream_rows(self._seed, pool.names[unit], count, positions)
            rows.append(pool.rows[unit][stream])
            sizes.append(lengths)
        flat_sizes = np.concatenate(sizes)
        starts = np.concatenate([[0], np.cumsum(flat_sizes)]).astype(np.int64)
        kinds = np.repeat(np.repeat(pool.units, counts), flat_sizes)
        runs = Layout(np.concatenate(rows), starts, kinds).take(rng.permutation(len(flat_sizes)))
        return replace(runs, starts=runs.starts[:: pool.per_batch])
