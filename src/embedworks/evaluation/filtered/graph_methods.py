"""Our filtered indexes that serve every filter, labels or ranges, as contestants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from embedworks.errors import InputError
from embedworks.evaluation.filtered.methods import Answer, BuiltIndex, FilteredMethod
from embedworks.evaluation.filtered.worlds import FilteredData
from embedworks.index.where import Condition

__all__ = ["METHODS"]

_EF = (16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
_SCORED = (500.0, 1000.0, 2000.0, 4000.0, 8000.0, 16_000.0, 32_000.0)
_FEW_VALUES = 300


@dataclass(frozen=True, eq=False)
class _PerColumn:
    """One index for each column that filters use; ``""`` is the index of all columns."""

    indexes: dict[str, Any]

    def serving(self, where: Condition) -> Any:
        """Return the index for a filter.

        Raises:
            InputError: When there is none.
        """
        if "" in self.indexes:
            return self.indexes[""]
        columns = where.columns()
        if len(columns) != 1 or not columns <= self.indexes.keys():
            kept = ", ".join(self.indexes) or "no column"
            raise InputError(f"serves filters on one column, and is built for {kept}")
        return self.indexes[next(iter(columns))]


def _build(
    kind: str, columns: Callable[[FilteredData], Sequence[str]], options: dict[str, Any],
    data: FilteredData,
) -> BuiltIndex:  # fmt: skip
    import embedworks.index as room

    build = getattr(room, kind).build
    indexes = {
        name: build(data.vectors, data.table, **options, **({"column": name} if name else {}))
        for name in columns(data)
    }
    parts = ("attributes", "attribute orders")
    sizes = [size for index in indexes.values() for part, size in index.memory().items()
             if part not in parts]  # fmt: skip
    return BuiltIndex(_PerColumn(indexes), sum(sizes))


def _build_partitions(data: FilteredData) -> BuiltIndex:
    from embedworks.index import PartitionIndex

    columns = _columns_of_few_values(data)
    index = PartitionIndex.build(data.vectors, data.table, columns=columns)
    size = sum(v for k, v in index.memory().items() if not k.startswith("attribute"))
    return BuiltIndex(_PerColumn({"": index}), size)


def _ask(built: BuiltIndex, data: FilteredData) -> Answer:
    per_column = built.index

    def answer(query: np.ndarray, k: int, where: Condition, value: float) -> np.ndarray:
        index = per_column.serving(where)
        found: np.ndarray = index.search(query[None], k, where=where, ef=int(value)).rows[0]
        return found

    return answer


def _refuses(built: BuiltIndex, where: Condition) -> str:
    try:
        built.index.serving(where).explain(1, where=where)
    except InputError as error:
        return str(error)
    return ""


def _forget(built: BuiltIndex) -> None:
    for index in built.index.indexes.values():
        index.forget_filters()


def _everything(data: FilteredData) -> Sequence[str]:
    return ("",)


def _labels(data: FilteredData) -> Sequence[str]:
    return data.labels


def _ordered(data: FilteredData) -> Sequence[str]:
    return data.ordered


def _is_set(data: FilteredData, name: str) -> bool:
    kind = data.table.schema.field(name).type
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _columns_of_few_values(data: FilteredData) -> list[str]:
    return [
        name
        for name in data.table.column_names
        if not _is_set(data, name) and len(data.table.column(name).unique()) <= _FEW_VALUES
    ]


def _method(
    name: str,
    kind: str,
    summary: str,
    columns: Callable[[FilteredData], Sequence[str]] = _everything,
    **options: Any,
) -> FilteredMethod:
    return FilteredMethod(
        name,
        summary,
        partial(_build, kind, columns, options),
        _ask,
        "ef",
        _EF,
        refuses=_refuses,
        forget=_forget,
    )


METHODS: tuple[FilteredMethod, ...] = (
    _method("ACORN", "AcornIndex", "AcornIndex, gamma 12: any filter", gamma=12),
    _method("ACORN-1", "AcornIndex", "AcornIndex, gamma 1: any filter", gamma=1),
    FilteredMethod(
        "CAPS", "PartitionIndex over columns of few single values: any filter",
        _build_partitions, _ask, "rows scored", _SCORED, refuses=_refuses, forget=_forget,
    ),
    *(
        _method(name, kind, "one graph per label column", _labels)
        for name, kind in (
            ("FilteredVamana", "FilteredVamanaIndex"),
            ("StitchedVamana", "StitchedVamanaIndex"),
            ("UNG", "UngIndex"),
        )
    ),
    *(
        _method(name, kind, "one graph per column of ranges", _ordered)
        for name, kind in (
            ("segment graph", "SegmentGraphIndex"),
            ("range tree", "RangeTreeIndex"),
        )
    ),
)  # fmt: skip
