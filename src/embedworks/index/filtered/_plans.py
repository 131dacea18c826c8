"""How each plan of a filtered index is carried out; which one is the planner's business."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from embedworks.errors import InputError
from embedworks.index.attributes import AttributeTable, Filter
from embedworks.index.exact import ExactIndex
from embedworks.index.filtered import _kernels as kernels
from embedworks.index.filtered._lists import scan_lists
from embedworks.index.filtered.calibration import measure
from embedworks.index.filtered.graph import Graph
from embedworks.index.filtered.lists import InvertedLists
from embedworks.index.filtered.planner import WALKS, Calibration, Choice
from embedworks.index.filtered.search_graph import SearchGraph, kept
from embedworks.index.where import Condition

__all__ = ["Plans", "Prepared"]

_SPARE = 16  # rows a scan keeps beyond k, so that rounding cannot lose one
_SEEDS = 12
_WIDEST = 1024  # rows in the beam of a walk over all rows
_NO_RUNS = np.empty((0, 4), dtype=np.int32)

_Heap = tuple[np.ndarray, np.ndarray]


@dataclass(eq=False)
class Prepared:
    """A compiled filter with what was made of it; removed rows are taken out.

    Attributes:
        where: The filter as it was given.
        filter: The same, ready to run; None for all rows.
        alive: 1 for rows that are not removed, uint8 (M,).
        removed: Whether some are.
        built: How many rows there were when lists and graph were built.
        matching: How many rows pass, maybe estimated; None before the planner asked.
        runs: What lists need to know of the filter; None before they were scanned.
    """

    where: str | Condition | None
    filter: Filter | None
    alive: np.ndarray
    removed: bool
    built: int
    matching: float | None = None
    runs: np.ndarray | None = None
    _rows: np.ndarray | None = None

    @cached_property
    def mask(self) -> np.ndarray:
        """1 for rows that pass, uint8 (M,)."""
        if self.filter is None:
            return self.alive
        return self.filter.mask() & self.alive if self.removed else self.filter.mask()

    @cached_property
    def count(self) -> int:
        """How many rows pass."""
        if self.filter is None:
            return int(np.count_nonzero(self.alive))
        known = self.filter.cardinality()
        return known.minimum if known.exact and not self.removed else len(self.rows)

    @property
    def rows(self) -> np.ndarray:
        """The rows that pass, int32."""
        if self._rows is None:  # a cached property takes a lock, longer than a scan of few rows
            if self.filter is None:
                self._rows = np.flatnonzero(self.alive).astype(np.int32)
            else:
                rows = self.filter.rows()
                self._rows = rows[self.alive[rows].view(bool)] if self.removed else rows
        return self._rows

    @cached_property
    def run(self) -> tuple[str, int, int] | None:
        """``(column, start, end)`` when the filter is one run of a column's order."""
        return None if self.filter is None else self.filter.run

    @cached_property
    def all_built(self) -> bool:
        """Whether all rows pass but removed ones, and all were there when the graph was built."""
        if self.built < len(self.alive):
            return False
        if self.filter is None:
            return True
        known = self.filter.cardinality()
        return known.exact and known.minimum == len(self.alive)

    @cached_property
    def early(self) -> np.ndarray:
        """The rows that pass and were there when lists and graph were built."""
        return self.rows if self.built == len(self.alive) else self.rows[self.rows < self.built]

    @cached_property
    def late(self) -> np.ndarray:
        """The rows that pass and came after lists and graph were built."""
        rows = np.arange(self.built, len(self.alive), dtype=np.int32)
        rows = rows[self.alive[rows].view(bool)]
        return rows if self.filter is None else rows[self.filter.test(rows).view(bool)]


class Plans:
    """The vectors with everything built over them, and one method for each way to search them.

    Args:
        vectors: float32 (M, D), of unit length under cosine.
        table: Attributes of the rows; None when filters come with their rows.
        graph: Graph over the first rows, or None.
        lists: The lists it was built from, or None.
        ordered: Columns by which a second copy of the vectors is kept.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        table: AttributeTable | None,
        graph: Graph | None,
        lists: InvertedLists | None,
        ordered: Sequence[str],
    ) -> None:
        self.vectors, self.table, self.graph, self.lists = vectors, table, graph, lists
        self.built = len(graph) if graph is not None else 0
        self.copies = {name: vectors[self.order(name)] for name in ordered}
        self.walks = () if graph is None else WALKS
        self.probes = np.random.default_rng(0).permutation(self.built)[:1024]
        self._ranked: dict[str, int] = {}
        self._ranks = np.empty((0, self.built), dtype=np.int32)
        self._lock = threading.Lock()

    def nbytes(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        graphs = self.graph, self.__dict__.get("search_graph")
        return {
            "vectors": self.vectors.nbytes,
            "ordered copies": sum(copy.nbytes for copy in self.copies.values()),
            "lists": (0 if self.lists is None else self.lists.nbytes()) + self._ranks.nbytes,
            "graph": sum(part.nbytes() for part in graphs if part is not None),
        }

    @cached_property
    def exact(self) -> ExactIndex:
        """The vectors, for exact searches of many queries."""
        return ExactIndex(self.vectors, similarity="dot")

    @cached_property
    def search_graph(self) -> SearchGraph:
        """Graph and lists, ready to walk; made when it is first walked."""
        assert self.graph is not None
        assert self.lists is not None
        return SearchGraph(self.graph, self.lists)

    def order(self, name: str) -> np.ndarray:
        """Return the rows in the order of a column of single values.

        Raises:
            InputError: When the column holds sets.
        """
        assert self.table is not None
        order = getattr(self.table.column(name), "order", None)
        if order is None:
            raise InputError(f"Column {name!r} holds sets: it has no order to copy vectors by.")
        return np.asarray(order)

    def scan(
        self, query: np.ndarray, margin: float, k: int, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score the given rows."""
        wanted = min(k, len(rows))
        best = np.empty(wanted, dtype=np.int64), np.empty(wanted, dtype=np.float32)
        kernels.best_of_rows(self.vectors, query, rows, margin, *best)
        return best

    def scan_run(
        self, query: np.ndarray, margin: float, k: int, ready: Prepared
    ) -> tuple[np.ndarray, np.ndarray] | None:
        assert ready.run is not None
        name, start, end = ready.run
        heap = _heap(min(k + _SPARE, end - start))
        order = self.order(name)
        count = kernels.scan_run(self.copies[name], query, order, ready.alive, start, end, *heap)
        return self.finish(query, margin, count, heap, k, end - start)

    def finish(
        self,
        query: np.ndarray,
        margin: float,
        count: int,
        heap: _Heap,
        k: int,
        seen: int,
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Score and order a heap; None when rounding may have cost a row its place."""
        wanted = min(k, count)
        best = np.empty(wanted, dtype=np.int64), np.empty(wanted, dtype=np.float32)
        sure = kernels.finish(self.vectors, query, count, wanted, margin, *heap, *best)
        return best if sure or seen <= len(heap[0]) else None

    def calibrate(
        self, alive: np.ndarray, *, unit: bool, queries: np.ndarray | None = None, seed: int = 0
    ) -> Calibration:
        """Measure what everything here costs on this machine; see `calibration.measure`."""

        def answer(
            plan: str, width: float, query: np.ndarray, mask: np.ndarray
        ) -> np.ndarray | None:
            ready = Prepared(None, None, mask, True, self.built)
            found = self.walk(query, 10, ready, Choice(plan, 0.0, width))
            return None if found is None else found[0]

        def by_codes(query: np.ndarray, rows: np.ndarray) -> None:
            self.finish(query, 0.0, *self.by_codes(query, 10, rows[rows < self.built]), 10, 0)

        def exactly(query: np.ndarray, rows: np.ndarray) -> None:
            self.scan(query, 0.0, 10, rows)

        return measure(
            self.exact,
            alive,
            self.walks,
            (exactly, by_codes) if self.walks else (exactly,),
            answer,
            lists=self.lists,
            unit=unit,
            queries=queries,
            seed=seed,
        )

    def walk(
        self, query: np.ndarray, k: int, ready: Prepared, choice: Choice
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Search lists or graph and scan what was added after them; None when it gave up."""
        if choice.plan == "codes":
            found: tuple[int, _Heap] | None = self.by_codes(query, k, ready.early)
        elif self.compiled(ready, choice):
            each, scores, counts = self.walk_each(query[None], k, ready, choice)
            count = int(counts[0])
            if choice.plan == "post-filter" and count < min(k, ready.count):
                return None
            if self.built == len(self.vectors):
                return each[0, :count], scores[0, :count]
            found = count, (each[0].astype(np.int32), scores[0])
        elif choice.plan == "post-filter":
            found = self._after_the_walk(query, k, ready, choice)
        else:
            found = self._in_graph(query, k, ready, choice)
        if found is None:
            return None
        count, heap = found
        if self.built < len(self.vectors) and len(ready.late):
            tail = _heap(min(k + _SPARE, len(ready.late)))
            more = kernels.scan_rows(self.vectors, query, ready.late, *tail)
            heap = (
                np.concatenate([heap[0][:count], tail[0][:more]]),
                np.concatenate([heap[1][:count], tail[1][:more]]),
            )
            count += more
        return self.finish(query, 0.0, count, heap, k, 0)

    def by_codes(self, query: np.ndarray, k: int, rows: np.ndarray) -> tuple[int, _Heap]:
        """Scan the int8 codes of some rows."""
        lists, heap = self.lists, _heap(min(kept(k), len(rows)))
        assert lists is not None
        count = kernels.scan_codes(lists.codes, lists.scales, lists.order, lists.places, query,
                                   rows, *heap)  # fmt: skip
        return count, heap

    def _runs_in_lists(self, ready: Prepared) -> np.ndarray:
        """Return the runs that a filter consists of as `scan_lists` takes them; none if no such."""
        if ready.runs is None:
            groups = () if ready.filter is None else ready.filter.clauses() or ()
            lines = [
                (number, self._rank_in_lists(name), start, end)
                for number, group in enumerate(groups)
                for name, start, end in group
            ]
            said = groups and all(groups)  # nothing is in an empty group
            ready.runs = np.array(lines, dtype=np.int32) if said else _NO_RUNS
        return ready.runs

    def _rank_in_lists(self, name: str) -> int:
        """Return which of ``_ranks`` has the places of rows in a column's order."""
        with self._lock:
            if name not in self._ranked:
                assert self.lists is not None
                assert self.table is not None
                rank = self.table.rank(name)[self.lists.order]
                self._ranks = np.concatenate([self._ranks, rank[None]])
                self._ranked[name] = len(self._ranked)
            return self._ranked[name]

    def _after_the_walk(
        self, query: np.ndarray, k: int, ready: Prepared, choice: Choice
    ) -> tuple[int, _Heap] | None:
        """Walk all rows, so widely that about ``choice.ef`` of those found pass; then filter.

        The best of all rows that pass are the best that pass, so only these few are tested. None
        when fewer than k pass, or so many would be needed that another plan is cheaper.
        """
        width, keep = self._width(k, ready, choice), kept(k)
        if width > _WIDEST:
            return None
        rows, scores = self.search_graph.near(query, width)
        passes = ready.alive[rows]
        if ready.filter is not None:
            passes &= ready.filter.test(rows)
        best = np.flatnonzero(passes)[:keep]
        return None if len(best) < k else (len(best), (rows[best], scores[best]))

    def compiled(self, ready: Prepared, choice: Choice) -> bool:
        """Say whether `walk_each` carries out a plan."""
        return choice.plan == "lists" or (choice.plan == "post-filter" and ready.all_built)

    def walk_each(
        self, queries: np.ndarray, k: int, ready: Prepared, choice: Choice
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Search lists or graph for many queries under one filter, in one compiled call.

        What was added after lists and graph were built is not looked at; see `compiled`.

        Returns:
            ``(rows, scores, counts)``, int64 and float32 (Q, k), int64 (Q,), of which only the
            first ``counts[q]`` of a line are filled. With ``"lists"`` fewer than k are all there
            are; with ``"post-filter"`` a query with a count below ``min(k, matching)`` is for
            another plan, and k is at most the number of rows that pass.
        """
        if choice.plan == "lists":
            return self._in_lists(queries, k, ready, choice)
        k, width = min(k, ready.count), self._width(k, ready, choice)
        if width > _WIDEST:
            none = np.empty((len(queries), 0), dtype=np.int64)
            return none, none.astype(np.float32), np.zeros(len(queries), dtype=np.int64)
        return self.search_graph.search(self.vectors, queries, k, ef=width, alive=ready.alive)

    def _in_lists(
        self, queries: np.ndarray, k: int, ready: Prepared, choice: Choice
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scan lists until the next one, ``choice.ef`` spreads above its centroid, is too far."""
        lists = self.lists
        assert lists is not None
        runs = self._runs_in_lists(ready)
        mask = ready.alive if len(runs) else ready.mask
        k = min(k, len(self.vectors))
        best = np.empty((len(queries), k), dtype=np.int64)
        scores = np.empty((len(queries), k), dtype=np.float32)
        counts = np.empty(len(queries), dtype=np.int64)
        scan_lists(
            lists.centroids, lists.spreads, lists.starts, lists.order, lists.codes, lists.scales,
            self.vectors, queries, mask, self._ranks, runs, choice.ef, kept(k), best, scores,
            counts,
        )  # fmt: skip
        return best, scores, counts

    def _width(self, k: int, ready: Prepared, choice: Choice) -> int:
        """Return how many rows a walk must find for about ``choice.ef`` of them to pass."""
        share = max(1, ready.matching or ready.count) / len(self.vectors)
        return int(max(choice.ef, kept(k)) / share)

    def _in_graph(
        self, query: np.ndarray, k: int, ready: Prepared, choice: Choice
    ) -> tuple[int, _Heap] | None:
        """Walk the graph; None when the walk takes longer than a scan or finds too little."""
        mask, built = ready.mask, self.built
        passing = ready.count if built == len(mask) else int(np.count_nonzero(mask[:built]))
        seeds = self.probes[mask[self.probes] == 1][:_SEEDS]
        found = self.search_graph.passing(
            query, mask, max(int(choice.ef), k), seeds=seeds,
            two_hop=choice.plan == "two-hop", matching=passing,
        )  # fmt: skip
        return None if found is None or len(found[0]) < min(k, passing) else (len(found[0]), found)


def _heap(size: int) -> _Heap:
    return np.empty(size, dtype=np.int32), np.empty(size, dtype=np.float32)
