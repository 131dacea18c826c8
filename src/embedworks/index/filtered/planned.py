"""The filtered index: exact scans, contiguous runs, lists and guarded walks behind one planner."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
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
from embedworks.index.attributes import AttributeTable
from embedworks.index.exact import SIMILARITIES, unit_rows
from embedworks.index.filtered import _kernels as kernels
from embedworks.index.filtered._bookkeeping import (
    pack_attributes,
    unpack_attributes,
    without_rows,
)
from embedworks.index.filtered._plans import Plans, Prepared
from embedworks.index.filtered.graph import Graph
from embedworks.index.filtered.lists import InvertedLists
from embedworks.index.filtered.planner import Calibration, Choice, Explanation, Planner
from embedworks.index.protocol import Neighbors, Where, read_index, write_index
from embedworks.index.where import Condition

__all__ = ["PLANS", "FilteredIndex"]

PLANS = ("auto", "exact", "codes", "lists", "post-filter", "graph", "two-hop")

_KIND, _VERSION = "filtered", 2
_KEPT_FILTERS = 32
_BATCH = 8  # queries under one filter from which an exact plan is a matrix product
_FEW = 128  # rows that are scanned without asking the planner: nothing else is cheaper
_FILTER = (str, Condition)
_FLOAT32 = np.dtype(np.float32)
_EXACT, _EMPTY = Choice("exact", 0.0), Choice("empty", 0.0)


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
        self._alive, self._removed = alive, not alive.all()
        self._kept: OrderedDict[Any, Prepared] = OrderedDict()
        self._plans = Plans(vectors, table, graph, lists, self.ordered)
        self._largest, self._one_query = float(self._plans.exact.largest), (1, vectors.shape[1])
        self._unit = self.similarity == "cosine"

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
            vectors: Array of shape (M, D). One that is float32, C-contiguous and, under cosine,
                of unit length is kept as it is, not copied: do not change it afterwards.
            attributes: Arrow table of M rows, or None.
            similarity: ``"cosine"`` or ``"dot"``.
            ordered: Columns of single values by which a second copy of the vectors is kept in
                order, so that a range or one value is a contiguous run.
            links: Links per row of the graph; any row has room for twice as many.
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
        stored = unit_rows(vectors) if similarity == "cosine" else vectors
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
            graph = Graph.build(lists, links=links, ef_construction=ef_construction)
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
            graph=self._plans.graph,
            lists=self._plans.lists,
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
        self._alive, present = without_rows(self._alive, rows)
        self._removed = not self._alive.all()
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
        if plan not in PLANS:
            check_choice(plan, PLANS, name="plan")
        if getattr(queries, "shape", None) == self._one_query and isinstance(where, _FILTER):
            return self._alone(queries, k, self._ready(where), plan)
        queries, margins = self._prepare(queries)
        if where is None or isinstance(where, _FILTER):
            ready = self._ready(where)
            many = len(queries) >= _BATCH
            if len(queries) and ready.count:
                choice = self._choose(ready, k, plan, queries=len(queries) if many else 1)
                if many and choice.plan == "exact":
                    ids, scores = self._plans.exact.search(queries, k, mask=ready.mask.view(bool))
                    return Neighbors(list(ids), list(scores), ["exact"] * len(queries))
                if self._plans.compiled(ready, choice) and ready.built == len(self.vectors):
                    return self._together(queries, margins, k, ready, choice)
            filters: Sequence[str | Condition | None] = [where] * len(queries)
        else:
            filters = where
        if len(filters) != len(queries):
            raise ShapeError(f"{len(queries)} queries need as many filters, got {len(filters)}.")
        each = []
        for query, margin, one in zip(queries, margins, filters, strict=True):
            ready = self._ready(one)
            each.append(self._one(query, margin, k, ready, self._choose(ready, k, plan)))
        return Neighbors([f[0] for f in each], [f[1] for f in each], [f[2] for f in each])

    def explain(self, k: int, *, where: str | Condition | None = None) -> Explanation:
        """Return the plan a search would use, with the predicted cost of every plan."""
        ready = self._ready(where)
        matching = self._matching(ready)
        options = {"run": self._run(ready) is not None, "codes": bool(self._plans.walks)}
        choices = self.planner.choices(len(self.vectors), matching, k=check_k(k), **options)
        plan = self._choose(ready, k, "auto").plan
        return Explanation(
            where=None if where is None else str(where),
            rows=len(self),
            matching=matching,
            chosen=next((c for c in choices if c.plan == plan), choices[0]),
            choices=tuple(choices),
            beside=len(self.vectors) - self._plans.built if self._plans.walks else 0,
        )

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        return {**self._plans.nbytes(), **self.table.memory()}

    def save(self, folder: Path) -> None:
        """Write the index to a folder, all or nothing."""
        arrays = {
            "vectors": self.vectors,
            "alive": self._alive,
            "attributes": pack_attributes(self.table),
        }
        graph, lists = self._plans.graph, self._plans.lists
        if graph is not None:
            arrays |= {"link_starts": graph.starts, "links": graph.links}
        if lists is not None:
            arrays |= {
                "centroids": lists.centroids,
                "list_starts": lists.starts,
                "list_order": lists.order,
            }
        settings = {
            "similarity": self.similarity,
            "ordered": list(self.ordered),
            "graph": graph is not None,
            "target_recall": self.planner.target_recall,
            "calibration": self.planner.calibration.to_dict(),
        }
        write_index(folder, _KIND, settings, arrays, version=_VERSION)

    @classmethod
    def load(cls, folder: Path) -> FilteredIndex:
        """Read an index that `save` wrote.

        Raises:
            NotFoundError: When there is none.
            FormatError: When it is damaged or of another version.
        """
        settings, arrays = read_index(folder, _KIND, version=_VERSION)
        try:
            graph = lists = None
            if settings["graph"]:
                graph = Graph(arrays["link_starts"], arrays["links"])
                graph.check()
                lists = InvertedLists.of(arrays["vectors"][: len(graph)], arrays["centroids"],
                                         arrays["list_starts"], arrays["list_order"])  # fmt: skip
            calibration = Calibration.from_dict(settings["calibration"])
            planner = Planner(calibration, settings["target_recall"])
            return cls(
                arrays["vectors"],
                unpack_attributes(arrays["attributes"]),
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
        self.planner.calibration = self._plans.calibrate(
            self._alive,
            unit=self.similarity == "cosine",
            queries=None if queries is None else self._prepare(queries)[0],
            seed=seed,
        )
        self.planner.forget()
        return self.planner.calibration

    # Private parts.

    def _alone(self, queries: np.ndarray, k: int, ready: Prepared, plan: str) -> Neighbors:
        """Answer one query (1, D); by the exact plan in one compiled call."""
        choice = self._choose(ready, k, plan)
        plain = queries.dtype is _FLOAT32 and queries.flags.c_contiguous
        if choice.plan not in ("exact", "empty") or not plain:
            prepared, margins = self._prepare(queries)
            best, scores, name = self._one(prepared[0], margins[0], k, ready, choice)
            return Neighbors([best], [scores], [name])
        started = time.perf_counter() if choice.microseconds else 0.0
        rows = ready.rows
        wanted = min(k, len(rows))
        best, scores = np.empty(wanted, np.int64), np.empty(wanted, np.float32)
        if kernels.prepare_and_scan(
            self.vectors, queries, self._unit, self._largest, rows, best, scores
        ):
            self._prepare(queries)  # says what is wrong with it
        if choice.microseconds:
            self.planner.observe(choice, 1e6 * (time.perf_counter() - started))
        return Neighbors([best], [scores], ["exact" if wanted else "empty"])

    def _prepare(self, queries: np.ndarray) -> tuple[np.ndarray, list[float]]:
        """Return checked queries, of unit length under cosine, and their error bounds."""
        width = self.vectors.shape[1]
        ready = isinstance(queries, np.ndarray) and queries.dtype is _FLOAT32
        if not (ready and queries.shape[1:] == (width,) and queries.flags.c_contiguous):
            queries = check_vectors(queries, name="queries", dim=width, allow_empty=True)
        prepared, margins = np.empty(queries.shape, _FLOAT32), np.empty(len(queries), _FLOAT32)
        if kernels.prepare(queries, self._unit, self._largest, prepared, margins):
            check_vectors(queries, name="queries", dim=width)
            raise InputError("A query is a zero vector: cosine similarity is not defined.")
        return prepared, margins.tolist()

    def _ready(self, where: str | Condition | None) -> Prepared:
        """Compile a filter, or find it among those used lately."""
        found = self._kept.get(where)
        if found is not None and (found.where is where or str(found.where) == str(where)):
            self._kept.move_to_end(where)
            return found  # as conditions, x = 1 equals x = TRUE: hence the texts
        compiled = None if where is None else self.table.compile(where)
        found = Prepared(where, compiled, self._alive, self._removed, self._plans.built)
        self._kept[where] = found
        if len(self._kept) > _KEPT_FILTERS:
            self._kept.popitem(last=False)
        return found

    def _matching(self, ready: Prepared) -> float:
        """Estimate how many rows pass, by a sample where the columns leave it open."""
        if ready.matching is None:
            if ready.filter is None:
                ready.matching = ready.count
            else:
                known = ready.filter.cardinality()
                ready.matching = known.minimum
                if not known.exact and ready.filter.few:
                    ready.matching = len(ready.rows)
                elif not known.exact:
                    share, _ = ready.filter.sampled(self.table.sample)
                    guess = share * len(self.vectors)
                    ready.matching = min(known.maximum, max(known.minimum, guess))
        return ready.matching

    def _run(self, ready: Prepared) -> tuple[str, int, int] | None:
        run = ready.run if self._plans.copies else None
        return run if run is not None and run[0] in self._plans.copies else None

    def _choose(self, ready: Prepared, k: int, plan: str, queries: int = 1) -> Choice:
        matching = self._matching(ready)
        if matching <= max(k, _FEW) or plan == "exact":
            return _EXACT if matching > 0 else _EMPTY
        rows, codes = len(self.vectors), bool(self._plans.walks)
        if plan == "auto" or not codes:
            run = self._run(ready) is not None
            return self.planner.choose(rows, matching, k=k, run=run, codes=codes, queries=queries)
        if plan == "codes":
            return Choice(plan, 0.0)
        if plan == "lists":
            return self.planner.lists(rows, matching, k=k)
        offered = self.planner.choices(rows, matching, k=k)
        found = next((c.ef for c in offered if c.plan == plan), max(64, k))
        return Choice(plan, 0.0, found)

    def _together(
        self,
        queries: np.ndarray,
        margins: list[float],
        k: int,
        ready: Prepared,
        choice: Choice,
    ) -> Neighbors:
        """Answer queries under one filter by one walk each, in one compiled call."""
        started = time.perf_counter()
        rows, scores, counts = self._plans.walk_each(queries, k, ready, choice)
        if len(queries) < _BATCH:  # many together are faster than what the planner has to predict
            took = (time.perf_counter() - started) / len(queries)
            self.planner.observe(choice, 1e6 * took)
        found = Neighbors(list(rows), list(scores), [choice.plan] * len(queries))
        wanted = rows.shape[1] if choice.plan == "lists" else min(k, ready.count)
        for number in np.flatnonzero(counts < wanted).tolist():
            if choice.plan == "lists":
                count = counts[number]
                found.rows[number] = found.rows[number][:count]
                found.scores[number] = found.scores[number][:count]
            else:
                best = self._after_walk(queries[number], margins[number], k, ready)
                found.rows[number], found.scores[number], found.plans[number] = best
        return found

    def _after_walk(
        self, query: np.ndarray, margin: float, k: int, ready: Prepared
    ) -> tuple[np.ndarray, np.ndarray, str]:
        """Answer a query whose walk over all rows met too few that pass."""
        found = self._plans.walk(query, k, ready, self._choose(ready, k, "lists"))
        if found is None:
            return (*self._plans.scan(query, margin, k, ready.rows), "post-filter, then exact")
        return (*found, "post-filter, then lists")

    def _one(
        self, query: np.ndarray, margin: float, k: int, ready: Prepared, choice: Choice
    ) -> tuple[np.ndarray, np.ndarray, str]:
        """Answer one prepared query; returns rows, scores and the plan's name."""
        if choice is _EXACT:
            return (*self._plans.scan(query, margin, k, ready.rows), "exact")
        if choice is _EMPTY:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), "empty"
        started = time.perf_counter()
        name, found = choice.plan, None
        if choice.ef:
            found = self._plans.walk(query, k, ready, choice)
            if found is None and choice.plan == "post-filter":
                rows, scores, name = self._after_walk(query, margin, k, ready)
                found = rows, scores
            elif found is None:
                name = f"{choice.plan}, then exact"
        elif choice.plan == "codes":
            found = self._plans.walk(query, k, ready, choice)
        elif choice.plan == "run":
            found = self._plans.scan_run(query, margin, k, ready)
        if found is None:
            found = self._plans.scan(query, margin, k, ready.rows)
        self.planner.observe(choice, 1e6 * (time.perf_counter() - started))
        return (*found, name)
