"""The filtered index: exact scans, contiguous runs and guarded walks behind one planner."""

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
from embedworks.index.filtered.graph import Graph, quantize
from embedworks.index.filtered.planner import Calibration, Choice, Explanation, Planner, WalkPoint
from embedworks.index.protocol import Neighbors, Where, read_index, write_index
from embedworks.index.where import Condition

__all__ = ["PLANS", "FilteredIndex"]

PLANS = ("auto", "exact", "graph", "two-hop")

_KIND = "filtered"
_SPARE = 16  # rows a scan keeps beyond k, so that rounding cannot lose one
_SEEDS = 12
_KEPT_FILTERS = 32
_BATCH = 8  # queries under one filter from which an exact plan is a matrix product
_CALIBRATION_SHARES = (1.0, 0.5, 0.2, 0.05, 0.02)
_CALIBRATION_WIDTHS = (12, 16, 24, 32, 64, 128)


@dataclass(eq=False)
class _Ready:
    """A compiled filter with what was made of it; removed rows are taken out."""

    filter: Filter | None
    alive: np.ndarray
    removed: bool

    @cached_property
    def mask(self) -> np.ndarray:
        if self.filter is None:
            return self.alive
        return self.filter.mask() & self.alive if self.removed else self.filter.mask()

    @cached_property
    def count(self) -> int:
        return int(np.count_nonzero(self.mask))

    @cached_property
    def rows(self) -> np.ndarray:
        if self.filter is None:
            return np.flatnonzero(self.alive).astype(np.int32)
        rows = self.filter.rows()
        return rows[self.alive[rows].view(bool)] if self.removed else rows


class FilteredIndex:
    """Vectors with attributes, searched under filters by the plan that is cheapest.

    Use `build` or `load`. A filter that few rows pass is answered by scoring those rows, one
    that many pass by a walk over a graph; a walk that takes too long, or finds too little, is
    replaced by the exact scan, so that there are always ``min(k, matching)`` results.

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
        self._alive, self._graph = alive, graph
        self._codes, self._scales = quantize(vectors[: 0 if graph is None else len(graph.links)])
        self._kept: OrderedDict[Any, _Ready] = OrderedDict()
        self._local = threading.local()
        self._exact = ExactIndex(vectors, similarity="dot")
        self._probes = np.random.default_rng(0).permutation(len(self._codes))[:1024]
        self._copies = {name: vectors[self._order(name)] for name in self.ordered}

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
            graph_from: With fewer rows there is no graph: scanning is faster.
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
        graph = None
        if len(stored) >= max(2, graph_from):
            graph = Graph.build(
                stored, similarity=similarity, links=links, ef_construction=ef_construction
            )
        index = cls(
            stored,
            table,
            similarity=similarity,
            alive=np.ones(len(stored), dtype=np.uint8),
            graph=graph,
            planner=Planner(Calibration(), target_recall),
            ordered=ordered,
        )
        index.calibrate()
        return index

    def __len__(self) -> int:
        return int(np.count_nonzero(self._alive))

    def add(self, vectors: np.ndarray, attributes: pa.Table | None = None) -> np.ndarray:
        """Append vectors (N, D) with their attributes; returns their row numbers, int64 (N,).

        They are scanned exactly beside the graph; `build` anew when they have become many.
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
        self._alive = alive
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
        queries = check_vectors(
            queries, name="queries", dim=self.vectors.shape[1], allow_empty=True
        )
        if self.similarity == "cosine":
            if not queries.any(axis=1).all():
                raise InputError("A query is a zero vector: cosine similarity is not defined.")
            queries = normalize_rows(queries)
        if where is None or isinstance(where, str | Condition):
            ready = self._ready(where)
            if len(queries) >= _BATCH and ready.count:
                choice = self._choose(ready, k, plan)
                if choice.plan in ("exact", "run"):
                    ids, scores = self._exact.search(queries, k, mask=ready.mask.view(bool))
                    return Neighbors(list(ids), list(scores), [choice.plan] * len(queries))
            filters = [ready] * len(queries)
        else:
            if len(where) != len(queries):
                raise ShapeError(f"{len(queries)} queries need as many filters, got {len(where)}.")
            filters = [self._ready(one) for one in where]
        margins = self._exact.margins(queries)
        result = Neighbors([], [], [])
        for number, ready in enumerate(filters):
            found = self._one(queries[number], float(margins[number]), k, ready, plan)
            result.rows.append(found[0])
            result.scores.append(found[1])
            result.plans.append(found[2])
        return result

    def explain(self, k: int, *, where: str | Condition | None = None) -> Explanation:
        """Return the plan a search would use, with the predicted cost of every plan."""
        ready = self._ready(where)
        matching = self._matching(ready)
        run = self._run(ready) is not None
        choices = self.planner.choices(len(self.vectors), matching, k=check_k(k), run=run)
        return Explanation(
            where=None if where is None else str(where),
            rows=len(self),
            matching=matching,
            chosen=self._choose(ready, k, "auto"),
            choices=tuple(choices),
        )

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        return {
            "vectors": self.vectors.nbytes,
            "ordered copies": sum(copy.nbytes for copy in self._copies.values()),
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
            graph = None
            if settings["entry"] is not None:
                graph = Graph(arrays["links"], arrays["upper_place"], arrays["upper_links"],
                              int(settings["entry"]))  # fmt: skip
            calibration = Calibration.from_dict(settings["calibration"])
            planner = Planner(calibration, settings["target_recall"])
            table = pa.ipc.open_file(pa.py_buffer(arrays["attributes"].tobytes())).read_all()
            return cls(
                arrays["vectors"],
                AttributeTable(table),
                similarity=settings["similarity"],
                alive=arrays["alive"],
                graph=graph,
                planner=planner,
                ordered=settings["ordered"],
            )
        except (KeyError, pa.ArrowException) as error:
            raise FormatError(
                f"The index in {folder} is damaged ({error!r}). Delete it and build it again."
            ) from error

    def calibrate(self, *, seed: int = 0) -> Calibration:
        """Measure the plans with queries near stored rows; the planner uses the result.

        A stored row itself would be too easy a query: the graph has its links. Each is moved, in
        a random direction, as far as its nearest neighbour is away.
        """
        total = len(self.vectors)
        if not total:
            return self.planner.calibration
        rng = np.random.default_rng(seed)
        chosen = rng.choice(total, min(32, total), replace=False)
        some = rng.choice(total, min(2000, total), replace=False).astype(np.int32)
        margins = self._exact.margins(self.vectors[chosen])
        fast, slow = (
            min(
                _timed(lambda r=row, p=part, m=margin: self._scan(self.vectors[r], m, 10, p))
                for row, margin in zip(chosen, margins.tolist(), strict=True)
            )
            for part in (some[: max(1, len(some) // 20)], some)
        )
        per_row = max(1e-3, (slow - fast) / max(1, len(some) - len(some) // 20))
        walks = []
        if self._graph is not None and total > len(chosen):
            queries = self._nearby(chosen, rng)
            for share in _CALIBRATION_SHARES:
                walks += self._measure_walks(share, queries, rng)
        self.planner.calibration = Calibration(max(1.0, fast), per_row, per_row / 2, tuple(walks))
        self.planner.ratios.clear()
        return self.planner.calibration

    # Private parts.

    def _nearby(self, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return queries (N, D) at a nearest neighbour's distance from some rows."""
        rows = self.vectors[chosen]
        mask = np.ones(len(self.vectors), dtype=bool)
        mask[chosen] = False
        nearest = self.vectors[self._exact.search(rows, 1, mask=mask)[0][:, 0]]
        distance = np.linalg.norm(rows - nearest, axis=1, keepdims=True)
        step = normalize_rows(rng.normal(size=rows.shape))
        queries = (rows + step * distance).astype(np.float32)
        return normalize_rows(queries) if self.similarity == "cosine" else queries

    def _measure_walks(
        self, share: float, queries: np.ndarray, rng: np.random.Generator
    ) -> list[WalkPoint]:
        """Measure both walks under a random filter of one selectivity."""
        mask = (rng.random(len(self.vectors)) < share).astype(np.uint8) & self._alive
        if np.count_nonzero(mask) < 10:
            return []
        ready = _Ready(None, mask, False)
        truth = self._exact.search(queries, 10, mask=mask.view(bool))[0]
        points = []
        for plan in ("graph", "two-hop") if share < 1 else ("graph",):
            for ef in _CALIBRATION_WIDTHS:
                hits, times = 0, []
                for query, expected in zip(queries, truth, strict=True):
                    started = time.perf_counter()
                    found = self._walk(query, 10, ready, Choice(plan, 0, ef))
                    times.append(1e6 * (time.perf_counter() - started))
                    hits += 0 if found is None else len(np.intersect1d(found[0], expected))
                recall = hits / truth.size
                points.append(WalkPoint(plan, share, ef, recall, float(np.median(times))))
                if recall >= 0.999:
                    break
        return points

    def _order(self, name: str) -> np.ndarray:
        column = self.table.column(name)
        order = getattr(column, "order", None)
        if order is None:
            raise InputError(f"Column {name!r} holds sets: it has no order to copy vectors by.")
        return np.asarray(order)

    def _ready(self, where: str | Condition | None) -> _Ready:
        """Compile a filter, or find it among those used lately."""
        key = where if where is None else str(where)  # as conditions, x = 1 equals x = TRUE
        found = self._kept.get(key)
        if found is None:
            compiled = None if where is None else self.table.compile(where)
            found = _Ready(compiled, self._alive, not self._alive.all())
            self._kept[key] = found
            if len(self._kept) > _KEPT_FILTERS:
                self._kept.popitem(last=False)
        return found

    def _matching(self, ready: _Ready) -> float:
        """Estimate how many rows pass, by a sample where the columns leave it open."""
        if ready.filter is None or "count" in ready.__dict__:
            return ready.count
        count = ready.filter.cardinality()
        if count.exact:
            return count.minimum
        share, _ = ready.filter.sampled(self.table.sample)
        return min(count.maximum, max(count.minimum, share * len(self.vectors)))

    def _run(self, ready: _Ready) -> tuple[str, int, int] | None:
        run = None if ready.filter is None else ready.filter.run
        return run if run is not None and run[0] in self._copies else None

    def _choose(self, ready: _Ready, k: int, plan: str) -> Choice:
        matching = self._matching(ready)
        if plan == "auto" or plan == "exact" or self._graph is None or matching <= k:
            if plan == "exact" or matching <= k:
                return Choice("exact", 0.0) if matching > 0 else Choice("empty", 0.0)
            run = self._run(ready) is not None
            return self.planner.choose(len(self.vectors), matching, k=k, run=run)
        offered = self.planner.choices(len(self.vectors), matching, k=k)
        default = Choice(plan, 0.0, max(64, k))
        return next((choice for choice in offered if choice.plan == plan), default)

    def _one(
        self, query: np.ndarray, margin: float, k: int, ready: _Ready, plan: str
    ) -> tuple[np.ndarray, np.ndarray, str]:
        """Answer one prepared query; returns rows, scores and the plan's name."""
        choice = self._choose(ready, k, plan)
        if choice.plan == "empty":
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), "empty"
        started = time.perf_counter()
        name, found = choice.plan, None
        if choice.ef:
            found = self._walk(query, k, ready, choice)
            name = choice.plan if found is not None else f"{choice.plan}, then exact"
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
        heap = _heap(min(k + _SPARE, len(rows)))
        count = kernels.scan_rows(self.vectors, query, rows, *heap)
        return self._finish(query, margin, count, k, heap, len(rows)) or self._slow(query, k, rows)

    def _scan_run(
        self, query: np.ndarray, margin: float, k: int, ready: _Ready
    ) -> tuple[np.ndarray, np.ndarray] | None:
        run = self._run(ready)
        assert run is not None
        name, start, end = run
        heap = _heap(min(k + _SPARE, end - start))
        order = self._order(name)
        count = kernels.scan_run(self._copies[name], query, order, self._alive, start, end, *heap)
        return self._finish(query, margin, count, k, heap, end - start)

    def _finish(
        self,
        query: np.ndarray,
        margin: float,
        count: int,
        k: int,
        heap: tuple[np.ndarray, np.ndarray],
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
        """Walk the graph and scan what was added after it; None when the walk gave up."""
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
        if count < min(k, passing):
            return None
        if built < len(mask):
            late = (np.flatnonzero(mask[built:]) + built).astype(np.int32)
            tail = _heap(min(k + _SPARE, len(late)))
            more = kernels.scan_rows(self.vectors, query, late, *tail)
            heap = (
                np.concatenate([heap[0][:count], tail[0][:more]]),
                np.concatenate([heap[1][:count], tail[1][:more]]),
            )
            count += more
        return self._finish(query, 0.0, count, k, heap, 0)

    def _stamps(self, size: int) -> tuple[np.ndarray, int]:
        """Return this thread's work space and a value not used in it."""
        local = self._local
        if getattr(local, "stamps", None) is None or local.stamp >= 2**31 - 2:
            local.stamps, local.stamp = np.zeros(size, dtype=np.int32), 0
        local.stamp += 1
        return local.stamps, local.stamp


def _heap(size: int) -> tuple[np.ndarray, np.ndarray]:
    return np.empty(size, dtype=np.int32), np.empty(size, dtype=np.float32)


def _timed(run: Any) -> float:
    started = time.perf_counter()
    run()
    return 1e6 * (time.perf_counter() - started)
