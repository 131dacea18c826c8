"""Choosing negatives among judged candidates, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from embedworks._core.seeding import generator
from embedworks.negatives.corpus import Problem
from embedworks.negatives.retrievers import Found
from embedworks.negatives.settings import MinerSettings

__all__ = ["Block", "Pool", "choose", "fill", "pool"]

_RULES, _RELAXED, _RANDOM = 0, 1, 2  # how a negative was taken, in `Block.how`


@dataclass(frozen=True, eq=False)
class Pool:
    """Candidates of B rows from all retrievers, best rank first, each once.

    Attributes:
        positions: int64 (B, C) corpus positions, -1 where there is none.
        ranks: int64 (C,), rank of each column in its retriever's list, counted from 1.
        origin: int64 (C,), number of that retriever.
    """

    positions: np.ndarray
    ranks: np.ndarray
    origin: np.ndarray

    def looked_up(self, found: Found, size: int) -> np.ndarray:
        """Return the scores a list gives the pool's candidates, -inf for those not in it."""
        rows = np.arange(len(self.positions))[:, None]
        there = found["positions"] >= 0
        own = (rows * size + found["positions"])[there]
        order = np.argsort(own)
        wanted = rows * size + self.positions
        place = np.minimum(np.searchsorted(own[order], wanted), max(0, len(own) - 1))
        result = np.full(self.positions.shape, -np.inf, dtype=np.float32)
        if len(own):
            hit = (own[order][place] == wanted) & (self.positions >= 0)
            result[hit] = found["scores"][there][order][place][hit]
        return result


def pool(found: Sequence[Found], window: tuple[int, int], canonical: np.ndarray) -> Pool:
    """Join the retrievers' lists rank by rank, each content where it ranks best."""
    lists = [one["positions"][:, window[0] - 1 : window[1]] for one in found]
    width = max(one.shape[1] for one in lists)
    rows = len(lists[0])
    joined = np.full((rows, width, len(lists)), -1, dtype=np.int64)
    for number, one in enumerate(lists):
        joined[:, : one.shape[1], number] = one
    positions = joined.reshape(rows, -1)
    copies = bool((canonical != np.arange(len(canonical))).any())
    if copies:
        positions = np.where(positions >= 0, canonical[positions], -1)
    if copies or len(lists) > 1:
        order = np.argsort(positions, axis=1, kind="stable")
        ranked = np.take_along_axis(positions, order, axis=1)
        again = np.zeros(positions.shape, dtype=bool)
        again[:, 1:] = ranked[:, 1:] == ranked[:, :-1]
        row, column = np.nonzero(again)
        positions[row, order[row, column]] = -1
    ranks = np.repeat(np.arange(width) + window[0], len(lists))
    return Pool(positions, ranks, np.tile(np.arange(len(lists)), width))


@dataclass(eq=False)
class Block:
    """Rows ``low`` to ``high`` at work.

    Attributes:
        keep: bool (B, C), candidates no rule has turned down yet.
        order: float (B, C), the order of preference, lowest first.
        doubt: float (B, C), how much a candidate looks like a positive, for relaxing.
        columns: int64 (B, count), the pool's column of each negative chosen; -1 for none, and
            for those from outside the pool.
        how: int64 (B, count), how each was taken.
    """

    problem: Problem
    low: int
    high: int
    pool: Pool
    keep: np.ndarray = field(init=False)
    order: np.ndarray = field(init=False)
    doubt: np.ndarray = field(init=False)
    columns: np.ndarray = field(init=False)
    how: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        shape = self.pool.positions.shape
        self.keep = self.pool.positions >= 0
        self.order = np.broadcast_to(np.arange(shape[1], dtype=np.float64), shape)
        self.doubt = -self.order
        self.rows = np.arange(self.low, self.high)
        self.sources = self.problem.sources[self.low : self.high]
        self.positives = self.problem.positives.padded(self.low, self.high)

    def origin(self, row: int, column: int, names: Sequence[str]) -> tuple[str, int | None]:
        """Return where a chosen negative comes from, and its rank there."""
        how, place = int(self.how[row, column]), int(self.columns[row, column])
        if how == _RANDOM:
            return "random", None
        if how == _RELAXED:
            return "relaxed", int(self.pool.ranks[place])
        return names[int(self.pool.origin[place])], int(self.pool.ranks[place])


def choose(block: Block, settings: MinerSettings) -> np.ndarray:
    """Return int64 (B, count) positions of the negatives, -1 where there are too few."""
    width = block.pool.positions.shape[1]
    count = settings.count
    order = np.where(block.keep, block.order, np.inf)
    picked = block.keep
    if settings.sampling == "random":
        draw = np.stack(
            [
                generator(settings.seed, "sample", *key).random(width)
                for key in zip(
                    block.problem.anchor_keys[block.rows].tolist(),
                    block.problem.document_keys[block.problem.own[block.rows]].tolist(),
                    strict=True,
                )
            ]
        )
        draw[~block.keep] = np.inf
        first = np.argsort(draw, axis=1, kind="stable")[:, :count]
        picked = np.zeros_like(block.keep)
        np.put_along_axis(picked, first, True, axis=1)
        picked &= block.keep
    order = np.where(picked, order, np.inf)
    columns = np.argsort(order, axis=1, kind="stable")[:, :count]
    good = np.take_along_axis(picked, columns, axis=1)
    chosen = np.full((len(block.rows), count), -1, dtype=np.int64)
    block.columns = chosen.copy()
    block.how = np.full(chosen.shape, _RULES)
    block.columns[:, : columns.shape[1]] = np.where(good, columns, -1)
    found = np.take_along_axis(block.pool.positions, columns, axis=1)
    chosen[:, : columns.shape[1]] = np.where(good, found, -1)
    return chosen


def fill(chosen: np.ndarray, block: Block, settings: MinerSettings) -> None:
    """Bring rows with fewer than ``min_keep`` negatives up to it, as ``on_empty`` says."""
    if settings.on_empty == "drop_row":
        return
    have = (chosen >= 0).sum(axis=1)
    for row in np.flatnonzero(have < settings.min_keep).tolist():
        wanted = settings.min_keep - int(have[row])
        positions = block.pool.positions[row]
        down = np.flatnonzero((positions >= 0) & ~block.keep[row])
        if settings.on_empty == "relax":
            columns = down[np.argsort(block.doubt[row, down], kind="stable")][:wanted]
            extra, mark = positions[columns], _RELAXED
        else:
            problem = block.problem
            free = problem.canonical == np.arange(problem.size)
            free[problem.excluded(block.low + row)] = False
            free[positions[down]] = False
            free[chosen[row, : have[row]]] = False
            allowed = np.flatnonzero(free)
            name = int(block.problem.anchor_keys[block.low + row])
            rng = generator(settings.seed, "fill", name)
            extra = rng.choice(allowed, size=min(wanted, len(allowed)), replace=False)
            columns, mark = np.full(len(extra), -1), _RANDOM
        place = slice(int(have[row]), int(have[row]) + len(extra))
        chosen[row, place] = extra
        block.columns[row, place] = columns
        block.how[row, place] = mark
