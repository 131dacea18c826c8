"""Which rows meet in a batch, in which order: a plan that is a function of its seed.

Knows rows as positions with a source and keys; nothing of models, tokens or devices.
"""

from __future__ import annotations

import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np

from embedworks._core.seeding import generator
from embedworks.data._batching.draw import WeightedDraw, WeightedPool, power_shares
from embedworks.data._batching.duplicates import KeyTable, separate, spill
from embedworks.data._batching.epoch import EpochBatches, keep_batches, split_largest
from embedworks.data._batching.layout import Layout, join
from embedworks.data._batching.sources import (
    Units,
    clusters_to_units,
    group_members,
    resolve_units,
    row_keys,
)
from embedworks.data.batch_settings import BatchSettings
from embedworks.data.batch_strategies import BATCH_STRATEGIES, RowPool
from embedworks.data.batch_summary import BatchSummary, summarize
from embedworks.data.rows import Row
from embedworks.errors import DataWarning, EmptyInputError, InputError, ShapeError

__all__ = ["BatchPlan", "EpochBatches"]

_CACHED_EPOCHS = 2
_NOT_FULL = "in a batch that is not full (drop_last)"
_NO_PLACE = "drawn, but a row with the same key was in every batch"
_FEW = "in a batch with fewer rows than processes"


class BatchPlan:
    """Deterministic batches of row positions, epoch after epoch.

    **Without weights** an epoch sees every row exactly once; what ``drop_last`` or the number of
    processes leaves out is counted. **With weights** (``alpha`` other than 1, ``weights``,
    ``groups``) an epoch is a fixed number of batches: every source has an endless stream of
    passes, each a new permutation of its rows, and an epoch goes on where the one before
    stopped, so no row of a source comes twice before all have come once. The counts per epoch
    are within one draw of the shares. A short run ends each pass unless ``drop_last``.

    **No duplicates.** Rows are exchanged between batches (of the same source, where batches
    have one) until no two rows of a batch share an anchor, a positive (in either place) or a
    positive's id. Without weights a row that fits nowhere gets into an added, shorter batch, so
    none is lost; with weights it is left out and counted. A weighted batch never holds one row
    twice, whatever the setting.

    **Any step at once.** Epoch n is computed from (rows, settings, seed, n) alone, and all
    epochs have ``len(plan)`` batches. Batches do not depend on ``world_size``, only their cut
    into parts does: process r sees rows r, r + world_size, ... of the common batch.

    Args:
        rows: The rows; only their sources (and keys, for ``no_duplicates``) are kept.
        settings: What goes together; plain mixed batches by default.
        seed: Seed of every random choice.
        rank: This process.
        world_size: Number of processes; batch sizes must be multiples of it.
        clusters: (N,) cluster of each row, for the strategy ``clustered``.

    Raises:
        EmptyInputError: Without rows.
        UnknownNameError: When the settings name a source that the rows do not have.
        SettingsError: When the settings do not fit the rows or each other.
        InputError: When no batch could ever be made.

    Example:
        >>> from embedworks.data import RowSet
        >>> rows = RowSet.from_columns(list("abcd"), list("efgh"), source="letters")
        >>> rows += RowSet.from_columns(list("1234"), list("5678"), source="digits")
        >>> plan = BatchPlan(rows, BatchSettings(strategy="one_source", batch_size=2), seed=0)
        >>> len(plan), [{rows[i].source for i in batch} for batch in plan.epoch(0)][0]
        (4, {'letters'})
        >>> stream = plan.batches(start_step=5)
        >>> next(stream).tolist() == plan.epoch(1)[1].tolist()
        True
    """

    def __init__(
        self,
        rows: Sequence[Row],
        settings: BatchSettings | None = None,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        clusters: np.ndarray | None = None,
    ) -> None:
        settings = settings or BatchSettings()
        numbers: dict[str, int] = {}
        codes = np.array([numbers.setdefault(r.source, len(numbers)) for r in rows], np.int64)
        keys = row_keys(rows) if settings.no_duplicates else None
        self._build(tuple(numbers), codes, keys, settings, seed, rank, world_size, clusters)

    @classmethod
    def from_sources(
        cls,
        sources: Sequence[str],
        settings: BatchSettings | None = None,
        *,
        keys: np.ndarray | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        clusters: np.ndarray | None = None,
    ) -> Self:
        """Plan batches of rows of which only the sources and keys are known.

        Args:
            sources: Source of each row.
            settings: As in the constructor.
            keys: (N, C) integers; rows that share one, in whatever column, are kept apart under
                ``no_duplicates``. Negative numbers stand for no key.
            seed: As in the constructor.
            rank: As in the constructor.
            world_size: As in the constructor.
            clusters: As in the constructor.

        Example:
            >>> plan = BatchPlan.from_sources(["a"] * 6, BatchSettings(batch_size=4))
            >>> sorted(np.concatenate(plan.epoch(0)).tolist())
            [0, 1, 2, 3, 4, 5]
        """
        settings = settings or BatchSettings()
        numbers: dict[str, int] = {}
        codes = np.array([numbers.setdefault(s, len(numbers)) for s in sources], np.int64)
        if settings.no_duplicates:
            if keys is None:
                raise InputError("no_duplicates needs the keys of the rows: give keys=.")
            keys = np.asarray(keys)
            if keys.ndim != 2 or len(keys) != len(codes) or keys.dtype.kind not in "iu":
                raise ShapeError(
                    f"keys must be integers of shape ({len(codes)}, C), got {keys.dtype} "
                    f"{keys.shape}."
                )
        plan = cls.__new__(cls)
        plan._build(tuple(numbers), codes, keys, settings, seed, rank, world_size, clusters)
        return plan

    def _build(
        self,
        names: tuple[str, ...],
        codes: np.ndarray,
        keys: np.ndarray | None,
        settings: BatchSettings,
        seed: int,
        rank: int,
        world_size: int,
        clusters: np.ndarray | None,
    ) -> None:
        if not len(codes):
            raise EmptyInputError("there are no rows to make batches of.")
        if not 0 <= rank < world_size:
            raise InputError(f"rank must be in [0, {world_size - 1}], got {rank}.")
        self.settings = settings
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._strategy = BATCH_STRATEGIES[settings.strategy]
        self.sources = names
        self._source_of_row = codes
        self._units = resolve_units(names, codes, settings)
        if (settings.strategy == "clustered") != (clusters is not None):
            raise InputError(
                "the strategy 'clustered' needs clusters= with one number per row, and no other "
                "strategy takes them."
            )
        if clusters is not None:
            self._units = clusters_to_units(self._units, clusters)
        for size in np.unique(self._units.sizes):
            if size % world_size:
                raise InputError(
                    f"a batch of {size} rows cannot be shared by {world_size} processes: use a "
                    "multiple."
                )
        self._table = KeyTable(keys) if settings.no_duplicates and keys is not None else None
        self._length: int | None = None
        self._cache: OrderedDict[int, EpochBatches] = OrderedDict()
        self._warned = False
        self._pools = self._make_pools()
        self.never_seen = self._never_seen()
        self._draw = self._make_draw() if settings.weighted else None

    def _make_pools(self) -> list[RowPool]:
        units, rows = self._units, self._units.rows()
        pools = []
        for loss in dict.fromkeys(units.losses):
            members = np.array([i for i, name in enumerate(units.losses) if name == loss])
            sizes = units.sizes[members]
            if not self._strategy.pure and len(set(sizes.tolist())) > 1:
                raise InputError(
                    f"batches of the strategy {self.settings.strategy!r} mix sources, so they "
                    f"need one size, not {sorted(set(sizes.tolist()))}: give sizes per loss, or "
                    "use 'one_source'."
                )
            pools.append(
                RowPool(
                    np.concatenate([rows[i] for i in members]),
                    members,
                    units.counts[members],
                    sizes,
                )
            )
        return pools

    def _run_lengths(self) -> np.ndarray:
        sizes = self._units.sizes
        return np.array([self._strategy.run_length(int(s), self.settings) for s in sizes])

    def _never_seen(self) -> tuple[str, ...]:
        """Return the units that no batch will ever hold, with a warning."""
        units, drop = self._units, self.settings.drop_last
        least = np.full(len(units.names), 1)
        if self._strategy.pure:
            least = units.sizes if drop else np.full(len(units.names), self.world_size)
        elif self.settings.weighted and drop:
            least = self._run_lengths()
        lost = np.flatnonzero(units.counts < least)
        if not len(lost):
            return ()
        named = ", ".join(f"{units.names[i]!r} ({units.counts[i]} rows)" for i in lost[:5])
        text = (
            f"{len(lost)} of {len(units.names)} sources or clusters, with "
            f"{units.counts[lost].sum()} rows, are too small to fill one batch and are never "
            f"seen: {named}. Use smaller batches, merge them, or "
            + ("turn drop_last off." if drop else "use fewer processes.")
        )
        if len(lost) == len(units.names):
            raise InputError(text)
        warnings.warn(text, DataWarning, stacklevel=4)
        return tuple(units.names[i] for i in lost)

    def _make_draw(self) -> WeightedDraw:
        units, settings = self._units, self.settings
        lengths = self._run_lengths()
        runs, rest = np.divmod(units.counts, lengths)
        least = self.world_size if self._strategy.pure else 1
        runs += (rest >= least) & (not settings.drop_last)
        weights = units.counts.astype(float)
        if settings.weights:
            weights = np.array([settings.weights[name] for name in units.names])
        weights[runs == 0] = 0.0
        groups = group_members(units, settings) if settings.groups else []
        for (_, members), name in zip(groups, settings.groups):
            if not weights[members].any():
                raise InputError(
                    f"no source of the group {name!r} fills a batch, so its share cannot be "
                    "kept: use smaller batches or turn drop_last off."
                )
        self._shares = power_shares(weights, 1.0 if settings.weights else settings.alpha, groups)
        rows = units.rows()
        pools = []
        for pool in self._pools:
            drawn = pool.units[runs[pool.units] > 0]
            if len(drawn):
                pools.append(
                    WeightedPool(
                        tuple(units.names[i] for i in drawn),
                        drawn,
                        tuple(rows[i] for i in drawn),
                        self._shares[drawn],
                        lengths[drawn],
                        runs[drawn],
                        int(pool.sizes[0] // lengths[drawn[0]]) if not self._strategy.pure else 1,
                    )
                )
        length = settings.batches_per_epoch or sum(self._plain_length(pool) for pool in self._pools)
        self._length = max(1, length)
        return WeightedDraw(pools, self._length, self.seed)

    def _plain_length(self, pool: RowPool) -> int:
        counts = pool.counts if self._strategy.pure else pool.counts.sum(keepdims=True)
        sizes = pool.sizes[: len(counts)]
        batches = counts // sizes if self.settings.drop_last else -(-counts // sizes)
        return int(batches.sum())

    def __len__(self) -> int:
        if self._length is None:
            self._length = len(self._all(0))
        return self._length

    @property
    def units(self) -> Units:
        """What batches are drawn from: sources, merged sources or clusters."""
        return self._units

    @property
    def shares(self) -> np.ndarray:
        """The share that each unit should have of the draws, shape (U,)."""
        if self.settings.weighted:
            return self._shares
        counts = self._units.counts * ~np.isin(self._units.names, self.never_seen)
        return np.asarray(counts / counts.sum())

    @property
    def draws_batches(self) -> bool:
        """Whether shares are of whole batches, each of one source, rather than of rows."""
        return self.settings.weighted and self._strategy.pure

    def epoch(self, number: int) -> EpochBatches:
        """Return this process's batches of epoch ``number``.

        Example:
            >>> plan = BatchPlan.from_sources(["a"] * 4, BatchSettings(batch_size=2))
            >>> [len(batch) for batch in plan.epoch(3)]
            [2, 2]
        """
        batches = self._all(number)
        return EpochBatches(
            batches.rows, batches.starts, self.rank, self.world_size, batches.left_out
        )

    def batches(self, start_step: int = 0) -> Iterator[np.ndarray]:
        """Yield this process's batches without end, from step ``start_step`` of a fresh run."""
        if start_step < 0:
            raise InputError(f"start_step must be 0 or greater, got {start_step}.")
        number, step = divmod(start_step, len(self))
        while True:
            batches = self.epoch(number)
            for index in range(step, len(batches)):
                yield batches[index]
            number, step = number + 1, 0

    def loss_of(self, batch: np.ndarray) -> str | None:
        """Return the name of the loss that a batch's rows have, or None without ``losses``."""
        return self._units.losses[int(self._units.of_row[batch[0]])]

    def summary(self, epoch: int = 0) -> BatchSummary:
        """Return what an epoch holds: rows and shares per source, purity, what is left out."""
        return summarize(self, self._all(epoch))

    def _all(self, number: int) -> EpochBatches:
        """Return the whole batches of an epoch, over all processes."""
        if number < 0:
            raise InputError(f"an epoch's number must be 0 or greater, got {number}.")
        if number not in self._cache:
            self._cache[number] = self._arrange(number)
            while len(self._cache) > _CACHED_EPOCHS:
                self._cache.popitem(last=False)
        return self._cache[number]

    def _arrange(self, number: int) -> EpochBatches:
        left_out: Counter[str] = Counter()
        rng = generator(self.seed, "batches", "epoch", number)
        if self._draw is not None:
            layout = self._weighted(self._draw, number, rng, left_out)
        else:
            layout = self._every_row(number, rng, left_out)
        if not len(layout):
            raise InputError(
                f"no batch can be made of {len(self._source_of_row)} rows: use smaller batches, "
                f"fewer processes, or turn drop_last off. Left out: {dict(left_out)}."
            )
        layout = layout.take(rng.permutation(len(layout)))
        rest = int((layout.sizes % self.world_size).sum())
        if rest:
            left_out["so that every process has equally many"] += rest
        return EpochBatches(layout.rows, layout.starts, left_out=dict(left_out))

    def _every_row(self, number: int, rng: np.random.Generator, left: Counter[str]) -> Layout:
        layouts = []
        for pool in self._pools:
            layout = self._strategy.arrange(pool, self.settings, rng)
            if self._table is not None:
                layout = self._separated(layout, self._table, rng)
            layouts.append(layout)
        layout = join(layouts)
        full = self._units.sizes[self._units.of_row[layout.rows[layout.starts[:-1]]]]
        if self.settings.drop_last:
            layout = keep_batches(layout, layout.sizes >= full, left, _NOT_FULL)
        layout = keep_batches(layout, layout.sizes >= self.world_size, left, _FEW)
        if self._table is None:
            return layout
        return self._of_equal_length(layout, number, rng, left)

    def _of_equal_length(
        self, layout: Layout, number: int, rng: np.random.Generator, left: Counter[str]
    ) -> Layout:
        """Give an epoch as many batches as epoch 0 has, though exchanges may differ."""
        if number == 0:
            return layout
        wanted = len(self)
        if len(layout) < wanted and not self.settings.drop_last:
            layout = split_largest(layout, wanted, 2 * self.world_size)
        if len(layout) > wanted and self.settings.drop_last:
            return keep_batches(layout, np.arange(len(layout)) < wanted, left, _NOT_FULL)
        if len(layout) == wanted:
            return layout
        first = self._all(0)  # the same company in another order
        left.clear()
        left.update({k: v for k, v in first.left_out.items() if k in (_NOT_FULL, _FEW)})
        kinds = np.zeros_like(first.rows)
        return Layout(first.rows, first.starts, kinds).shuffled_inside(rng)

    def _separated(self, layout: Layout, table: KeyTable, rng: np.random.Generator) -> Layout:
        """Exchange duplicates of one pool; add batches for those that fit nowhere."""
        planned = len(layout)
        layout, waiting, kinds = separate(layout, table, rng)
        if not len(waiting):
            return layout
        kind_of = self._units.of_row
        parts = []
        if self._strategy.pure:
            unit_of = layout.kinds[layout.starts[:-1]]
            stuck = np.unique(kinds)
            parts.append(layout.take(np.flatnonzero(~np.isin(unit_of, stuck))))
            for unit in stuck:
                mine = layout.take(np.flatnonzero(unit_of == unit))
                size = int(self._units.sizes[unit])
                parts.append(spill(mine, waiting[kinds == unit], size, table, kind_of, rng))
        else:
            size = int(self._units.sizes[kind_of[waiting[0]]])
            parts.append(spill(layout, waiting, size, table, kind_of, rng))
        joined = join(parts)
        if not self._warned and len(joined) > planned + max(1, planned // 20):
            self._warned = True
            warnings.warn(
                f"no_duplicates makes {len(joined)} batches of {len(layout.rows) + len(waiting)} "
                f"rows where {planned} would hold them, {joined.sizes.mean():.1f} rows each: some "
                "anchor or positive is on very many rows. Use a class mask in the loss instead, "
                "drop such rows, or set drop_last.",
                DataWarning,
                stacklevel=2,
            )
        return joined

    def _weighted(
        self, draw: WeightedDraw, number: int, rng: np.random.Generator, left: Counter[str]
    ) -> Layout:
        layouts = []
        for layout in draw.epoch(number, rng):
            if layout is None:
                continue
            layout = self._strategy.finish(layout, self.settings, rng)
            tables = [self._table] if self._table is not None else []
            if tables or not self._strategy.pure:
                table = KeyTable.of_rows(layout.rows, len(self._source_of_row))
                for other in tables:
                    table = table.beside(other)
                layout, waiting, _ = separate(layout, table, rng)
                left[_NO_PLACE] += len(waiting)
            layouts.append(layout)
        layout = join(layouts)
        layout = keep_batches(layout, layout.sizes >= self.world_size, left, _FEW)
        if left[_NO_PLACE] == 0:
            del left[_NO_PLACE]
        return self._filled_up(layout, number, rng)

    def _filled_up(self, layout: Layout, number: int, rng: np.random.Generator) -> Layout:
        """Give a weighted epoch its number of batches where rows left out have cost some."""
        wanted = len(self)
        if not len(layout) and number:
            first = self._all(0)
            layout = Layout(first.rows, first.starts, np.zeros_like(first.rows))
        if 0 < len(layout) < wanted:
            layout = split_largest(layout, wanted, 2 * self.world_size)
            again = rng.integers(len(layout), size=wanted - len(layout))
            layout = layout.take(np.append(np.arange(len(layout)), again))
        return layout
