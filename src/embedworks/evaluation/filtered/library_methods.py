"""numpy and faiss as contestants; their bitmaps come from our attribute table."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from embedworks.evaluation.filtered.methods import Answer, BuiltIndex, FilteredMethod
from embedworks.evaluation.filtered.worlds import FilteredData
from embedworks.index.where import Condition

__all__ = ["METHODS", "filter_after"]


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
    faiss, index = _faiss(), built.index

    def find(query: np.ndarray, wanted: int) -> np.ndarray:
        chosen = faiss.SearchParametersHNSW(efSearch=max(16, wanted))
        found: np.ndarray = index.search(query[None], wanted, params=chosen)[1][0]
        return found[found >= 0]

    return filter_after(find, data)


def filter_after(find: Callable[[np.ndarray, int], np.ndarray], data: FilteredData) -> Answer:
    """Search without the filter for ``value * k / share`` rows, then filter them.

    Args:
        find: ``find(query, count)`` returns about the best ``count`` of all rows, best first.
        data: What is searched.
    """
    attributes, rows = data.attributes, len(data.vectors)

    def answer(query: np.ndarray, k: int, where: Condition, value: float) -> np.ndarray:
        compiled = attributes.compile(where)
        matching = max(1.0, compiled.cardinality().expected)
        wanted = min(rows, math.ceil(value * k * rows / matching))
        found = find(query, wanted).astype(np.int32)
        passing: np.ndarray = found[compiled.test(found).view(bool)][:k]
        return passing

    return answer


_build_faiss_hnsw = partial(_build_faiss, "HNSW")
_WIDTHS = (16.0, 32.0, 64.0, 128.0, 256.0, 512.0)

METHODS: tuple[FilteredMethod, ...] = (
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
)  # fmt: skip
