"""The filtered index: exact scans, contiguous runs, lists and guarded walks behind one planner."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedworks._core.validation import (
    check_choice,
    check_in_range,
    check_k,
    check_vectors,
    normalize_rows,
)
from embedworks.errors import FormatError, InputError, ShapeError
from embedworks.index.attributes import AttributeTable, Filter
from embedworks.index.exact import SIMILARITIES, ExactIndex
from embedworks.index.filtered import _kernels as kernels
from embedworks.index.filtered._lists import scan_lists
from embedworks.index.filtered.calibration import measure
from embedworks.index.filtered.graph import Graph, quantize
from embedworks.index.filtered.lists import InvertedLists
from embedworks.index.filtered.planner import Calibration, Choice, Explanation, Planner
from embedworks.index.protocol import Neighbors, Where, read_index, write_index
from embedworks.index.where import Condition

__all__ = ["PLANS", "FilteredIndex"]

PLANS = ("auto", "exact", "codes", "lists", "graph", "two-hop")

_Heap = tuple[np.ndarray, np.ndarray]

_KIND = "filtered"
_SPARE = 16  # rows a scan keeps beyond k, so that rounding cannot lose one
_SEEDS = 12
_KEPT_FILTERS = 32
_BATCH = 8  # queries under one filter from which an exact plan is a matrix product
_LISTS_WIDTH = 800  # passing rows scored when nothing was measured
_AWAY = -2.0  # standard errors by which rows that pass are farther from the query than others
_SAMPLE = 256
_NO_RANK = np.zeros(1, dtype=np.int32)


@dataclass(eq=False)
class _Ready:
    """A compiled filter with what was made of it; removed rows are taken out."""

    where: str | Condition | None
    filter: Filter | None
    alive: np.ndarray
    removed: bool
    built: int
    matching: float | None = None
    some: np.ndarray | None = None  # which rows of the index's sample pass

    @cached_property
    def mask(self) -> np.ndarray:
        if self.filter is None:
            return self.alive
        return self.filter.mask() & self.alive if self.removed else self.filter.mask()

    @cached_property
    def count(self) -> int:
        if self.filter is None:
            return int(np.count_nonzero(self.alive))
        known = self.filter.cardinality()
        return known.minimum if known.exact and not self.removed else len(self.rows)

    @cached_property
    def rows(self) -> np.ndarray:
        if self.filter is None:
            return np.flatnonzero(self.alive).astype(np.int32)
        rows = self.filter.rows()
        return rows[self.alive[rows].view(bool)] if self.removed else rows

    @cached_property
    def run(self) -> tuple[str, int, int] | None:
        return None if self.filter is None else self.filter.run

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


class FilteredIndex:
    """Vectors with attributes, searched under filters by the plan that is cheapest.

    Use `build` or `load`. A filter that few rows pass is answered by scoring those rows, one
    that many pass by inverted lists or a walk over a graph, until enough rows that pass were
    seen; a walk that takes too long, or finds too little, is replaced by the exact scan. So there
    are always ``min(k, matching)`` results.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> vectors = rng.normal(size=(500, 16)).astype(np.float32)
        >>> year = pa.table({"year": [2000 + i % 20 for i in range(500)]})
        >>> index = FilteredIndex.build(vectors, year)
        >>> found = index.search(vectors[:1], 3, where="year = 2000")
        >>> found.rows[0][0], len(found.rows[0]), found.plans
        (np.int64(0), 3, ['exact'])
    """

    def __init__(
        self,
        vectors: np.ndarray,
        table: AttributeTable,
        *,
        similarity: str,
        alive: np.ndarray,
        graph: Graph | None,
        lists: InvertedLists | None,
        planner: Planner,
        ordered: Sequence[str] = (),
    ) -> None:
        if len(table) != len(vectors) or len(alive) != len(vectors):
            raise ShapeError(
                f"{len(vectors)} vectors need as many rows of attributes, got {len(table)}."
            )
        self.similarity = check_choice(similarity, SIMILARITIES, name="similarity")
        self.vectors, self.table, self.planner = vectors, table, planner
        self.ordered = tuple(ordered)
        self._alive, self._graph, self._lists = alive, graph, lists
        self._built = 0 if lists is None else len(lists.order)
        self._removed = not alive.all()
        self._codes, self._scales = quantize(vectors[: 0 if graph is None else len(graph.links)])
        self._kept: OrderedDict[Any, _Ready] = OrderedDict()
        self._local = threading.local()
        self._exact = ExactIndex(vectors, similarity="dot")
        self._largest = float(self._exact.largest)
        self._probes = np.random.default_rng(0).permutation(len(self._codes))[:1024]
        self._copies = {name: vectors[self._order(name)] for name in self.ordered}
        self._some = self._probes[:_SAMPLE].astype(np.int32)
        self._some_codes = self._codes[self._some]
        self._some_scales = self._scales[self._some]
        has = (("lists", lists), ("graph", graph), ("two-hop", graph))
        self._walks = tuple(name for name, part in has if part is not None)

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        attributes: pa.Table | None = None,
        *,
        similarity: str = "cosine",
        ordered: Sequence[str] = (),
        links: int = 16,
        ef_construction: int = 100,
        graph_from: int = 2000,
        target_recall: float = 0.95,
    ) -> FilteredIndex:
        """Build an index and measure what its plans cost on this machine.

        Args:
            vectors: Array of shape (M, D).
            attributes: Arrow table of M rows, or None.
            similarity: ``"cosine"`` or ``"dot"``.
            ordered: Columns of single values by which a second copy of the vectors is kept in
                order, so that a range or one value is a contiguous run.
            links: Links per row of the graph; the lowest level has twice as many.
            ef_construction: Width of the search for neighbours when the graph is built.
            graph_from: With fewer rows there are no lists and no graph: scanning is faster.
            target_recall: Recall@10 a walk must reach, in (0, 1].

        Raises:
            ShapeError: When vectors and attributes differ in number.
            NonFiniteError: When a vector contains NaN or infinity.
            UnknownNameError: When ``ordered`` names a column that is not there.
        """
        check_in_range(target_recall, name="target_recall", low=0, high=1, open_low=True)
        check_choice(similarity, SIMILARITIES, name="similarity")
        vectors = check_vectors(vectors, allow_empty=True)
        stored = normalize_rows(vectors) if similarity == "cosine" else vectors.copy()
        if attributes is None:
            attributes = pa.table({"row": np.arange(len(vectors))})
        table = AttributeTable(attributes)
        if len(table) != len(vectors):
            raise ShapeError(
                f"{len(vectors)} vectors need as many rows of attributes, got {len(table)}."
            )
        for name in ordered:
            check_choice(name, table.table.column_names, name="ordered column")
        graph = lists = None
        if len(stored) >= max(2, graph_from):
            lists = InvertedLists.build(stored, similarity=similarity)
            graph = Graph.build(
                stored, similarity=similarity, links=links, ef_construction=ef_construction
            )
        index = cls(
            stored,
            table,
            similarity=similarity,
            alive=np.ones(len(stored), dtype=np.uint8),
            graph=graph,
            lists=lists,
            planner=Planner(Calibration(), target_recall),
            ordered=ordered,
        )
        index.calibrate()
        return index

    def __len__(self) -> int:
        return int(np.count_nonzero(self._alive))

    def add(self, vectors: np.ndarray, attributes: pa.Table | None = None) -> np.ndarray:
        """Append vectors (N, D) with their attributes; returns their row numbers, int64 (N,).

        They are scanned exactly beside lists and graph; `build` anew when they have become many.
        """
        vectors = check_vectors(vectors, dim=self.vectors.shape[1], allow_empty=True)
        first, total = len(self.vectors), len(self.vectors) + len(vectors)
        if attributes is None:
            attributes = pa.table({"row": np.arange(first, total)})
            if self.table.table.column_names != ["row"]:
                raise InputError("This index has attributes: give those of the new rows.")
        if attributes.num_rows != len(vectors):
            raise ShapeError(
                f"{len(vectors)} vectors need as many rows of attributes, got "
                f"{attributes.num_rows}."
            )
        stored = normalize_rows(vectors) if self.similarity == "cosine" else vectors
        longer = FilteredIndex(
            np.concatenate([self.vectors, stored]),
            self.table.append(attributes),
            similarity=self.similarity,
            alive=np.concatenate([self._alive, np.ones(len(vectors), dtype=np.uint8)]),
            graph=self._graph,
            lists=self._lists,
            planner=self.planner,
            ordered=self.ordered,
        )
        self.__dict__.update(longer.__dict__)
        return np.arange(first, total)

    def remove(self, rows: np.ndarray) -> int:
        """Remove rows by number; returns how many of them had not been removed before.

        Raises:
            InputError: When a number is no row of the index; nothing is removed then.
        """
        chosen = np.unique(np.asarray(rows, dtype=np.int64))
        if len(chosen) and not 0 <= chosen[0] <= chosen[-1] < len(self._alive):
            raise InputError(
                f"rows must be in [0, {len(self._alive)}), got {chosen[0]} to {chosen[-1]}."
            )
        present = int(self._alive[chosen].sum())
        alive = self._alive.copy()  # filters being used keep theirs
        alive[chosen] = 0
        self._alive, self._removed = alive, True
        self._kept.clear()
        return present

    def forget_filters(self) -> None:
        """Drop what is kept of the filters used lately, as a benchmark needs between queries."""
        self._kept.clear()

    def search(
        self, queries: np.ndarray, k: int, *, where: Where = None, plan: str = "auto"
    ) -> Neighbors:
        """Return the best ``min(k, matching)`` rows for each query.

        Args:
            queries: Array of shape (Q, D).
            k: Number of results wanted.
            where: One filter for all queries, or a list with one per query; None is no filter.
            plan: ``"auto"`` or one of the plans; a forced walk still falls back to the scan.

        Raises:
            ShapeError: When dimensions, or the number of filters, do not fit.
            InputError: On a zero query under cosine, or ``k < 1``.
            QuerySyntaxError: When a filter does not fit the attributes.
        """
        k = check_k(k)
        check_choice(plan, PLANS, name="plan")
        queries, margins = self._prepare(queries)
        if where is None or isinstance(where, str | Condition):
            ready = self._ready(where)
            if len(queries) >= _BATCH and ready.count:
                choice = self._choose(ready, k, plan)
                if choice.plan in ("exact", "run"):
                    ids, scores = self._exact.search(queries, k, mask=ready.mask.view(bool))
                    return Neighbors(list(ids), list(scores), [choice.plan] * len(queries))
            filters: Sequence[str | Condition | None] = [where] * len(queries)
        else:
            filters = where
        if len(filters) != len(queries):
            raise ShapeError(f"{len(queries)} queries need as many filters, got {len(filters)}.")
        found = [
            self._one(queries[number], margins[number], k, self._ready(one), plan)
            for number, one in enumerate(filters)
        ]
        return Neighbors([f[0] for f in found], [f[1] for f in found], [f[2] for f in found])

    def explain(self, k: int, *, where: str | Condition | None = None) -> Explanation:
        """Return the plan a search would use, with the predicted cost of every plan."""
        ready = self._ready(where)
        matching = self._matching(ready)
        options = {"run": self._run(ready) is not None, "codes": bool(self._walks)}
        choices = self.planner.choices(len(self.vectors), matching, k=check_k(k), **options)
        plan = self._choose(ready, k, "auto").plan
        return Explanation(
            where=None if where is None else str(where),
            rows=len(self),
            matching=matching,
            chosen=next((c for c in choices if c.plan == plan), choices[0]),
            choices=tuple(choices),
            beside=len(self.vectors) - self._built if self._walks else 0,
        )

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        return {
            "vectors": self.vectors.nbytes,
            "ordered copies": sum(copy.nbytes for copy in self._copies.values()),
            "lists": 0 if self._lists is None else self._lists.nbytes(),
            "codes": self._codes.nbytes + self._scales.nbytes,
            "graph": 0 if self._graph is None else self._graph.nbytes(),
            **self.table.memory(),
        }

    def save(self, folder: Path) -> None:
        """Write the index to a folder, all or nothing."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, self.table.table.schema) as writer:
            writer.write_table(self.table.table)
        arrays = {
            "vectors": self.vectors,
            "alive": self._alive,
            "attributes": np.frombuffer(sink.getvalue(), dtype=np.uint8),
        }
        if self._graph is not None:
            arrays |= {
                "links": self._graph.links,
                "upper_place": self._graph.upper_place,
                "upper_links": self._graph.upper_links,
            }
        if self._lists is not None:
            arrays |= {
                "centroids": self._lists.centroids,
                "starts": self._lists.starts,
                "list_order": self._lists.order,
            }
        settings = {
            "similarity": self.similarity,
            "ordered": list(self.ordered),
            "entry": None if self._graph is None else self._graph.entry,
            "target_recall": self.planner.target_recall,
            "calibration": self.planner.calibration.to_dict(),
        }
        write_index(folder, _KIND, settings, arrays)

    @classmethod
    def load(cls, folder: Path) -> FilteredIndex:
        """Read an index that `save` wrote.

        Raises:
            NotFoundError: When there is none.
            FormatError: When it is damaged or of another version.
        """
        settings, arrays = read_index(folder, _KIND)
        try:
            graph = lists = None
            if settings["entry"] is not None:
                graph = Graph(arrays["links"], arrays["upper_place"], arrays["upper_links"],
                              int(settings["entry"]))  # fmt: skip
                lists = InvertedLists.of(arrays["vectors"][: len(graph.links)],
                                         arrays["centroids"], arrays["starts"],
                                         arrays["list_order"])  # fmt: skip
            calibration = Calibration.from_dict(settings["calibration"])
            planner = Planner(calibration, settings["target_recall"])
            table = pa.ipc.open_file(pa.py_buffer(arrays["attributes"].tobytes())).read_all()
            return cls(
                arrays["vectors"],
                AttributeTable(table),
                similarity=settings["similarity"],
                alive=arrays["alive"],
                graph=graph,
                lists=lists,
                planner=planner,
                ordered=settings["ordered"],
            )
        except (KeyError, ValueError, pa.ArrowException) as error:
            raise FormatError(
                f"The index in {folder} is damaged ({error!r}). Delete it and build it again."
            ) from error

    def calibrate(self, queries: np.ndarray | None = None, *, seed: int = 0) -> Calibration:
        """Measure the plans on this machine; see `calibration.measure`. The planner uses it.

        Args:
            queries: A few dozen real queries (Q, D). Without them queries are made near stored
                rows; if yours are of another kind, such as short questions to long texts, walks
                find less than was measured, unless you give some of yours here.
            seed: Of queries and filters that are made.
        """
        if not len(self.vectors):
            return self.planner.calibration

        def answer(plan: str, width: int, query: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
            ready = _Ready(None, None, mask, True, self._built)
            found = self._walk(query, 10, ready, Choice(plan, 0.0, width))
            return None if found is None else found[0]

        def by_codes(query: np.ndarray, rows: np.ndarray) -> None:
            self._finish(query, 0.0, *self._by_codes(query, 10, rows[rows < self._built]), 10, 0)

        def exactly(query: np.ndarray, rows: np.ndarray) -> None:
            self._scan(query, 0.0, 10, rows)

        self.planner.calibration = measure(
            self._exact,
            self._alive,
            self._walks if self._built == len(self.vectors) else (),
            (exactly, by_codes) if self._walks else (exactly,),
            answer,
            unit=self.similarity == "cosine",
            queries=None if queries is None else self._prepare(queries)[0],
            seed=seed,
        )
        self.planner.forget()
        return self.planner.calibration

    # Private parts.

    def _prepare(self, queries: np.ndarray) -> tuple[np.ndarray, list[float]]:
        """Return checked queries, of unit length under cosine, and their error bounds."""
        width, unit = self.vectors.shape[1], self.similarity == "cosine"
        ready = isinstance(queries, np.ndarray) and queries.dtype == np.float32
        if not (ready and queries.shape[1:] == (width,) and queries.flags.c_contiguous):
            queries = check_vectors(queries, name="queries", dim=width, allow_empty=True)
        prepared = np.empty_like(queries)
        margins = np.empty(len(queries), dtype=np.float32)
        if kernels.prepare(queries, unit, self._largest, prepared, margins):
            check_vectors(queries, name="queries", dim=width)
            raise InputError("A query is a zero vector: cosine similarity is not defined.")
        return prepared, margins.tolist()

    def _order(self, name: str) -> np.ndarray:
        column = self.table.column(name)
        order = getattr(column, "order", None)
        if order is None:
            raise InputError(f"Column {name!r} holds sets: it has no order to copy vectors by.")
        return np.asarray(order)

    def _ready(self, where: str | Condition | None) -> _Ready:
        """Compile a filter, or find it among those used lately."""
        found = self._kept.get(where)
        if found is not None and (found.where is where or str(found.where) == str(where)):
            return found  # as conditions, x = 1 equals x = TRUE: hence the texts
        compiled = None if where is None else self.table.compile(where)
        found = _Ready(where, compiled, self._alive, self._removed, self._built)
        self._kept[where] = found
        if len(self._kept) > _KEPT_FILTERS:
            self._kept.popitem(last=False)
        return found

    def _matching(self, ready: _Ready) -> float:
        """Estimate how many rows pass, by a sample where the columns leave it open."""
        if ready.matching is None:
            if ready.filter is None:
                ready.matching = ready.count
            else:
                known = ready.filter.cardinality()
                ready.matching = known.minimum
                if not known.exact:
                    share, _ = ready.filter.sampled(self.table.sample)
                    guess = share * len(self.vectors)
                    ready.matching = min(known.maximum, max(known.minimum, guess))
        return ready.matching

    def _run(self, ready: _Ready) -> tuple[str, int, int] | None:
        run = ready.run if self._copies else None
        return run if run is not None and run[0] in self._copies else None

    def _choose(self, ready: _Ready, k: int, plan: str, query: np.ndarray | None = None) -> Choice:
        matching = self._matching(ready)
        if matching <= k or plan == "exact":
            return Choice("exact", 0.0) if matching > 0 else Choice("empty", 0.0)
        rows, codes = len(self.vectors), bool(self._walks)
        if plan == "auto" or not codes:
            run = self._run(ready) is not None
            chosen = self.planner.choose(rows, matching, k=k, run=run, codes=codes)
            if chosen.ef and query is not None and self._points_away(query, ready):
                options = {"run": run, "codes": codes, "away": True}
                chosen = self.planner.choose(rows, matching, k=k, **options)
            return chosen
        if plan == "codes":
            return Choice(plan, 0.0)
        offered = self.planner.choices(rows, matching, k=k)
        width = max(_LISTS_WIDTH if plan == "lists" else 64, k)
        found = next((c.ef for c in offered if c.plan == plan), width)
        return Choice(plan, 0.0, found)

    def _points_away(self, query: np.ndarray, ready: _Ready) -> bool:
        """Whether rows that pass are farther from the query than others, by a sample."""
        if ready.filter is None:
            return False
        if ready.some is None:
            ready.some = ready.filter.test(self._some)
        lean = kernels.leaning(self._some_codes, self._some_scales, query, ready.some)
        return bool(lean < _AWAY)

    def _one(
        self, query: np.ndarray, margin: float, k: int, ready: _Ready, plan: str
    ) -> tuple[np.ndarray, np.ndarray, str]:
        """Answer one prepared query; returns rows, scores and the plan's name."""
        choice = self._choose(ready, k, plan, query)
        if choice.plan == "empty":
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), "empty"
        started = time.perf_counter()
        name, found = choice.plan, None
        if choice.ef:
            found = self._walk(query, k, ready, choice)
            name = choice.plan if found is not None else f"{choice.plan}, then exact"
        elif choice.plan == "codes":
            found = self._walk(query, k, ready, choice)
        elif choice.plan == "run":
            found = self._scan_run(query, margin, k, ready)
        if found is None:
            found = self._scan(query, margin, k, ready.rows)
        self.planner.observe(choice, 1e6 * (time.perf_counter() - started))
        return (*found, name)

    def _scan(
        self, query: np.ndarray, margin: float, k: int, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score the given rows."""
        wanted = min(k, len(rows))
        best = np.empty(wanted, dtype=np.int64), np.empty(wanted, dtype=np.float32)
        _, sure = kernels.best_of_rows(self.vectors, query, rows, _SPARE, margin, *best)
        return best if sure else self._slow(query, k, rows)

    def _scan_run(
        self, query: np.ndarray, margin: float, k: int, ready: _Ready
    ) -> tuple[np.ndarray, np.ndarray] | None:
        run = self._run(ready)
        assert run is not None
        name, start, end = run
        heap = _heap(min(k + _SPARE, end - start))
        order = self._order(name)
        count = kernels.scan_run(self._copies[name], query, order, self._alive, start, end, *heap)
        return self._finish(query, margin, count, heap, k, end - start)

    def _finish(
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

    def _slow(self, query: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mask = np.zeros(len(self.vectors), dtype=bool)
        mask[rows] = True
        ids, scores = self._exact.search(query[None], k, mask=mask)
        return ids[0], scores[0]

    def _walk(
        self, query: np.ndarray, k: int, ready: _Ready, choice: Choice
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Search lists or graph and scan what was added after them; None when it gave up."""
        if choice.plan == "codes":
            found: tuple[int, _Heap] | None = self._by_codes(query, k, ready.early)
        elif choice.plan == "lists":
            found = self._in_lists(query, k, ready, choice)
        else:
            found = self._in_graph(query, k, ready, choice)
        if found is None:
            return None
        count, heap = found
        if self._built < len(self.vectors) and len(ready.late):
            tail = _heap(min(k + _SPARE, len(ready.late)))
            more = kernels.scan_rows(self.vectors, query, ready.late, *tail)
            heap = (
                np.concatenate([heap[0][:count], tail[0][:more]]),
                np.concatenate([heap[1][:count], tail[1][:more]]),
            )
            count += more
        return self._finish(query, 0.0, count, heap, k, 0)

    def _by_codes(self, query: np.ndarray, k: int, rows: np.ndarray) -> tuple[int, _Heap]:
        """Scan the int8 codes of some rows."""
        heap = _heap(min(2 * k + _SPARE, len(rows)))
        return kernels.scan_codes(self._codes, self._scales, query, rows, *heap), heap

    def _in_lists(
        self, query: np.ndarray, k: int, ready: _Ready, choice: Choice
    ) -> tuple[int, _Heap]:
        """Scan lists until ``choice.ef`` rows that pass were scored."""
        lists = self._lists
        assert lists is not None
        mask, rank, low, high = self._alive, _NO_RANK, 0, -1
        if ready.run is not None and "mask" not in ready.__dict__:
            name, low, high = ready.run  # no mask of all rows is made for it
            rank = self.table.rank(name)
        else:
            mask = ready.mask
        share = max(1, self._matching(ready)) / len(self.vectors)
        heap = _heap(2 * k + _SPARE)
        count, _ = scan_lists(
            lists.centroids, query, lists.starts, lists.order, lists.codes, lists.scales,
            mask, rank, low, high, max(choice.ef, len(heap[0])), share, *heap,
        )  # fmt: skip
        return count, heap

    def _in_graph(
        self, query: np.ndarray, k: int, ready: _Ready, choice: Choice
    ) -> tuple[int, _Heap] | None:
        """Walk the graph; None when the walk takes longer than a scan or finds too little."""
        graph = self._graph
        assert graph is not None
        mask, built = ready.mask, len(graph.links)
        passing = ready.count if built == len(mask) else int(np.count_nonzero(mask[:built]))
        heap = _heap(max(choice.ef, k))
        limit = max(4 * len(heap[0]) * graph.links.shape[1], passing + passing // 2)
        seeds = self._probes[mask[self._probes] == 1][:_SEEDS].astype(np.int32)
        code = quantize(query[None])[0][0]
        stamps, stamp = self._stamps(built)
        count, _ = kernels.walk(
            self._codes, self._scales, code, graph.links, graph.upper_place, graph.upper_links,
            graph.entry, mask, seeds, int(choice.plan == "two-hop"), limit, stamps, stamp, *heap,
        )  # fmt: skip
        return None if count < min(k, passing) else (count, heap)

    def _stamps(self, size: int) -> tuple[np.ndarray, int]:
        """Return this thread's work space and a value not used in it."""
        local = self._local
        if getattr(local, "stamps", None) is None or local.stamp >= 2**31 - 2:
            local.stamps, local.stamp = np.zeros(size, dtype=np.int32), 0
        local.stamp += 1
        return local.stamps, local.stamp


def _heap(size: int) -> _Heap:
    return np.empty(size, dtype=np.int32), np.empty(size, dtype=np.float32)
