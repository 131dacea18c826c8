"""Contestants of a filtered-search benchmark, by name: how each is built, asked and tuned.

A method has one knob and a ladder of values for it; everything else is fixed and stated in its
summary. Methods of other libraries make their bitmap with our attribute table, so that all pay
the same for the filter. Every method searches one query at a time on one thread.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from embedworks._core.registry import Registry
from embedworks.evaluation.filtered.worlds import FilteredData
from embedworks.index.where import Condition

__all__ = ["FILTERED_METHODS", "BuiltIndex", "FilteredMethod"]

#: Contestants by name. Add your own with ``FILTERED_METHODS.add(method.name, method)``.
FILTERED_METHODS: Registry[FilteredMethod] = Registry("filtered-methods")

#: ``answer(query (D,), k, where, value of the knob)`` -> row numbers, best first.
Answer = Callable[[np.ndarray, int, Condition, float], np.ndarray]


@dataclass(frozen=True, eq=False)
class BuiltIndex:
    """An index ready to be asked.

    Attributes:
        index: The index itself; methods with one ``build`` share it.
        nbytes: Bytes it holds, without the attributes.
    """

    index: Any
    nbytes: int


@dataclass(frozen=True)
class FilteredMethod:
    """One way to search under a filter.

    Attributes:
        name: Name in tables and on the command line.
        summary: What it is, with its fixed settings.
        build: Makes the index; methods with the same function share what it returns.
        answer: Called with what ``build`` made and the data; returns the function that is timed.
        knob: What the ladder turns, such as ``"efSearch"``; empty when there is nothing to turn.
        ladder: Values of the knob, from fast to thorough.
        planner: Whether it chooses among plans by itself; others are single methods.
        requires: Modules that must be installed.
        refuses: Says why it cannot answer a filter, or returns an empty text.
        forget: Called before each query, outside the clock: drops cached filters.
    """

    name: str
    summary: str
    build: Callable[[FilteredData], BuiltIndex]
    answer: Callable[[BuiltIndex, FilteredData], Answer]
    knob: str = ""
    ladder: tuple[float, ...] = (0.0,)
    planner: bool = False
    requires: tuple[str, ...] = ()
    refuses: Callable[[Condition], str] = lambda where: ""
    forget: Callable[[BuiltIndex], None] = lambda built: None

    def missing(self) -> str:
        """Say what must be installed first, or return an empty text."""
        absent = [name for name in self.requires if importlib.util.find_spec(name) is None]
        return f"{', '.join(absent)} is not installed" if absent else ""


def _register(method: FilteredMethod) -> None:
    FILTERED_METHODS.add(method.name, method, summary=method.summary)


# Our index: the planner, and each of its plans alone. The knob is the recall aimed at, from which
# the calibration tells the width of a walk.


def _build_planned(data: FilteredData) -> BuiltIndex:
    from embedworks.index.filtered.planned import FilteredIndex

    index = FilteredIndex.build(data.vectors, data.table, ordered=data.ordered)
    parts = ("vectors", "ordered copies", "codes", "graph")
    return BuiltIndex(index, sum(index.memory()[part] for part in parts))


def _ask_planned(plan: str, built: BuiltIndex, data: FilteredData) -> Answer:
    from embedworks.index.filtered.planner import Planner

    index, calibration = built.index, built.index.planner.calibration
    own: dict[float, Planner] = {}  # what the index learns under one plan stays there

    def answer(query: np.ndarray, k: int, where: Condition, target: float) -> np.ndarray:
        index.planner = own.get(target) or own.setdefault(target, Planner(calibration, target))
        found: np.ndarray = index.search(query[None], k, where=where, plan=plan).rows[0]
        return found

    return answer


def _forget_planned(built: BuiltIndex) -> None:
    built.index.forget_filters()


def _planned(name: str, plan: str, summary: str, ladder: tuple[float, ...]) -> FilteredMethod:
    return FilteredMethod(
        name,
        summary,
        _build_planned,
        partial(_ask_planned, plan),
        knob="target recall",
        ladder=ladder,
        planner=plan == "auto",
        forget=_forget_planned,
    )


_TARGETS = (0.9, 0.95, 0.98, 0.99)

for _method in (
    _planned("planner", "auto", "FilteredIndex as it comes: aims at recall 0.95", (0.95,)),
    _planned("planner, tuned", "auto", "FilteredIndex, aiming at several recalls", _TARGETS),
    _planned("exact plan", "exact", "FilteredIndex: score every row that passes", (0.95,)),
    _planned("graph plan", "graph", "FilteredIndex: graph walk that keeps passing rows", _TARGETS),
    _planned("two-hop plan", "two-hop", "FilteredIndex: graph walk over passing rows", _TARGETS),
):
    _register(_method)


# numpy and faiss.


def _build_nothing(data: FilteredData) -> BuiltIndex:
    return BuiltIndex(data.vectors, data.vectors.nbytes)


def _ask_numpy(built: BuiltIndex, data: FilteredData) -> Answer:
    vectors, attributes = built.index, data.attributes

    def answer(query: np.ndarray, k: int, where: Condition, value: float) -> np.ndarray:
        rows = attributes.compile(where).rows()
        scores = vectors[rows] @ query
        if len(rows) > k:
            best = np.argpartition(-scores, k - 1)[:k]
            rows, scores = rows[best], scores[best]
        found: np.ndarray = rows[np.argsort(-scores)]
        return found

    return answer


def _faiss() -> Any:
    """Import faiss; its type information leaves out much of what is there."""
    return importlib.import_module("faiss")


def _build_faiss(kind: str, data: FilteredData) -> BuiltIndex:
    faiss = _faiss()
    rows, dim = data.vectors.shape
    index: Any
    if kind == "HNSW":
        index = faiss.IndexHNSWFlat(dim, 16, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 100
    elif kind == "IVF":
        lists = max(1, min(rows // 40, round(1.6 * math.sqrt(rows))))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1
        index.train(data.vectors)
    else:
        index = faiss.IndexFlatIP(dim)
    index.add(data.vectors)
    return BuiltIndex(index, int(faiss.serialize_index(index).nbytes))


def _ask_faiss(kind: str, built: BuiltIndex, data: FilteredData) -> Answer:
    faiss, index, attributes = _faiss(), built.index, data.attributes

    def answer(query: np.ndarray, k: int, where: Condition, value: float) -> np.ndarray:
        bits = np.packbits(attributes.compile(where).mask(), bitorder="little")
        selector = faiss.IDSelectorBitmap(bits)
        if kind == "HNSW":
            chosen = faiss.SearchParametersHNSW(sel=selector, efSearch=int(value))
        elif kind == "IVF":
            chosen = faiss.SearchParametersIVF(sel=selector, nprobe=int(value))
        else:
            chosen = faiss.SearchParameters(sel=selector)
        found: np.ndarray = index.search(query[None], k, params=chosen)[1][0]
        return found

    return answer


def _ask_faiss_after(built: BuiltIndex, data: FilteredData) -> Answer:
    """Search without the filter for ``value * k / share`` rows, then filter them."""
    faiss, index, attributes = _faiss(), built.index, data.attributes
    rows = len(data.vectors)

    def answer(query: np.ndarray, k: int, where: Condition, value: float) -> np.ndarray:
        compiled = attributes.compile(where)
        matching = max(1.0, compiled.cardinality().expected)
        wanted = min(rows, math.ceil(value * k * rows / matching))
        chosen = faiss.SearchParametersHNSW(efSearch=max(16, wanted))
        found = index.search(query[None], wanted, params=chosen)[1][0]
        found = found[found >= 0].astype(np.int32)
        passing: np.ndarray = found[compiled.test(found).view(bool)][:k]
        return passing

    return answer


_build_faiss_hnsw = partial(_build_faiss, "HNSW")
_WIDTHS = (16.0, 32.0, 64.0, 128.0, 256.0, 512.0)

for _method in (
    FilteredMethod("numpy exact", "gather the rows that pass, one product", _build_nothing,
                   _ask_numpy),
    FilteredMethod("faiss Flat", "exact, bitmap", partial(_build_faiss, "Flat"),
                   partial(_ask_faiss, "Flat"), requires=("faiss",)),
    FilteredMethod("faiss HNSW", "M 16, efConstruction 100, bitmap", _build_faiss_hnsw,
                   partial(_ask_faiss, "HNSW"), "efSearch", _WIDTHS, requires=("faiss",)),
    FilteredMethod("faiss HNSW, then filter", "the same graph without a filter, for so many times "
                   "k / share rows, which are filtered", _build_faiss_hnsw, _ask_faiss_after,
                   "oversampling", (1.0, 2.0, 4.0, 8.0), requires=("faiss",)),
    FilteredMethod("faiss IVF", "1.6 * sqrt(rows) lists, bitmap", partial(_build_faiss, "IVF"),
                   partial(_ask_faiss, "IVF"), "nprobe",
                   (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0), requires=("faiss",)),
):  # fmt: skip
    _register(_method)
