"""Bring a collection's rows into one Arrow schema, whatever they were given as."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedworks._core.registry import did_you_mean
from embedworks._core.validation import check_unique
from embedworks.errors import DataWarning, InputError

__all__ = ["BASE_COLUMNS", "attach_vectors", "rows_table", "unify", "values_table"]

BASE_COLUMNS: dict[str, pa.DataType] = {
    "chunk_id": pa.string(),
    "doc_id": pa.string(),
    "title": pa.string(),
    "text": pa.string(),
    "path": pa.string(),
    "start_line": pa.int64(),
    "end_line": pa.int64(),
    "kind": pa.string(),
}
#: Types that the elements of a set may have.
_ELEMENTS = {
    str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(),
}  # fmt: skip
_RESERVED = ("vector", "attributes", "_rowid", "_rowaddr", "_distance", "_score")


def rows_table(rows: pa.Table | Iterable[Any]) -> pa.Table:
    """Return the rows as a table with all base columns first, then the attributes.

    Args:
        rows: A table, or mappings or dataclass instances. ``chunk_id`` and ``text`` are
            required; a missing ``doc_id`` is the chunk id, other base columns are empty. A
            mapping under ``attributes`` becomes columns.

    Raises:
        InputError: On a missing id or text, or an attribute with a reserved name.
        DuplicateIdError: When a chunk id occurs twice.
    """
    columns = _table_columns(rows) if isinstance(rows, pa.Table) else _item_columns(rows)
    return _base_table(columns)


def _table_columns(table: pa.Table) -> dict[str, pa.Array]:
    if len(set(table.column_names)) != table.num_columns:
        raise InputError(f"Column names must be unique, got {table.column_names}.")
    columns = {name: _one_array(table.column(name)) for name in table.column_names}
    return {name: _plain(name, array) for name, array in columns.items()}


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array


def _plain(name: str, array: pa.Array) -> pa.Array:
    """Bring nested columns and rare text types to what `_values_array` makes of them."""
    kind = array.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return array.cast(pa.string())
    if pa.types.is_nested(kind):
        return _values_array(name, array.to_pylist())
    return array


def _item_columns(rows: Iterable[Any]) -> dict[str, pa.Array]:
    items = [_flatten(number, row) for number, row in enumerate(rows)]
    names = dict.fromkeys(name for item in items for name in item)
    columns: dict[str, pa.Array] = {}
    for name in names:
        values = [item.get(name) for item in items]
        if name in BASE_COLUMNS:
            try:
                columns[name] = pa.array(values, BASE_COLUMNS[name])
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise InputError(
                    f"column {name!r} must hold {BASE_COLUMNS[name]} values: {error}"
                ) from error
        else:
            columns[name] = _values_array(name, values)
    return columns


def _flatten(number: int, row: Any) -> dict[str, Any]:
    if is_dataclass(row) and not isinstance(row, type):
        row = asdict(row)
    if not isinstance(row, Mapping):
        raise InputError(
            f"rows[{number}] must be a mapping or a dataclass, got {type(row).__name__}."
        )
    item = {str(name): value for name, value in row.items() if name != "attributes"}
    for name, value in (row.get("attributes") or {}).items():
        if name in item or name in BASE_COLUMNS:
            raise InputError(
                f"rows[{number}] has an attribute named {name!r}, which is a column of its own: "
                "rename the attribute."
            )
        item[str(name)] = value
    return item


def _values_array(name: str, values: Sequence[Any]) -> pa.Array:
    """Make a column of free values: sets of values of one type stay sets.

    Other nested values become JSON, and mixed types become text.
    """
    sets = _sets_array(values)
    if sets is not None:
        return sets
    plain = [
        json.dumps(v, ensure_ascii=False, default=str, sort_keys=True)
        if isinstance(v, Mapping | list | tuple | set | np.ndarray)
        else v
        for v in values
    ]
    kinds = {type(v) for v in plain if v is not None}
    if kinds <= {int, float}:
        if kinds == {int, float}:
            plain = [None if v is None else float(v) for v in plain]
        mixed = False
    else:
        mixed = len(kinds) > 1
    if not mixed:
        try:
            return pa.array(plain)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            mixed = True
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    warnings.warn(
        f"Attribute {name!r} mixes types ({found}) or holds values that do not fit a column; it "
        "is stored as text.",
        DataWarning,
        stacklevel=5,
    )
    return pa.array([None if v is None else str(v) for v in plain], pa.string())


def _sets_array(values: Sequence[Any]) -> pa.Array | None:
    """Make a column of lists, or return None when the values are not all lists of one type."""
    given = [value for value in values if value is not None]
    if not given or not all(isinstance(v, list | tuple | set | np.ndarray) for v in given):
        return None
    kinds = {type(item) for value in given for item in value}
    if kinds == {int, float}:
        kinds = {float}
    if len(kinds) > 1 or not kinds <= set(_ELEMENTS):
        return None
    element = _ELEMENTS[next(iter(kinds), str)]
    lists = [
        None if value is None else sorted(value) if isinstance(value, set) else list(value)
        for value in values
    ]
    try:
        return pa.array(lists, pa.list_(element))
    except (pa.ArrowInvalid, OverflowError):
        return None


def _base_table(columns: dict[str, pa.Array]) -> pa.Table:
    """Order and complete the columns and check ids and names."""
    count = len(next(iter(columns.values()))) if columns else 0
    if columns:
        for name in ("chunk_id", "text"):
            if name not in columns:
                raise InputError(
                    f"rows have no column {name!r}. {did_you_mean(name, list(columns))}"
                )
    complete: dict[str, pa.Array] = {}
    for name, kind in BASE_COLUMNS.items():
        array = columns.get(name)
        if array is None:
            array = columns["chunk_id"] if name == "doc_id" and columns else pa.nulls(count, kind)
        try:
            complete[name] = array.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"column {name!r} must hold {kind} values, not {array.type}."
            ) from error
    complete["doc_id"] = pc.coalesce(complete["doc_id"], complete["chunk_id"])
    for name in ("chunk_id", "text"):
        if complete[name].null_count:
            first = complete[name].is_null().index(True).as_py()
            raise InputError(f"rows[{first}] has no {name}: every row needs one.")
    check_unique(complete["chunk_id"].to_pylist(), name="chunk_id values")
    for name, array in columns.items():
        if name not in BASE_COLUMNS:
            complete[_attribute_name(name, complete)] = array
    return pa.table(complete)


def _attribute_name(name: str, taken: Mapping[str, Any]) -> str:
    """Return the column name of an attribute; dots, which storage refuses, become underscores."""
    stored = name.replace(".", "_")
    if stored in _RESERVED or stored in taken or not stored:
        raise InputError(
            f"An attribute cannot be named {name!r}: the name is reserved or taken. Rename it."
        )
    if stored != name:
        warnings.warn(
            f"Attribute {name!r} is stored as column {stored!r}.", DataWarning, stacklevel=5
        )
    return stored


def unify(old: pa.Table, new: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Give two row tables one schema: missing columns become null, unlike types become text."""
    names = dict.fromkeys([*old.column_names, *new.column_names])
    kinds: dict[str, pa.DataType] = {}
    for name in names:
        found = [t.schema.field(name).type for t in (old, new) if name in t.column_names]
        kinds[name] = _common_type(name, found)
    first, second = (
        pa.table(
            {
                name: _converted(table.column(name), kind)
                if name in table.column_names
                else pa.nulls(len(table), kind)
                for name, kind in kinds.items()
            }
        )
        for table in (old, new)
    )
    return first, second


def _converted(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Cast a column; sets become JSON text where the column holds text from now on."""
    if pa.types.is_list(column.type) and pa.types.is_string(kind):
        texts = [
            None if v is None else json.dumps(v, ensure_ascii=False) for v in column.to_pylist()
        ]
        return pa.chunked_array([pa.array(texts, kind)])
    return column.cast(kind)


def _common_type(name: str, found: Sequence[pa.DataType]) -> pa.DataType:
    known = [kind for kind in found if not pa.types.is_null(kind)]
    if len(set(known)) <= 1:
        return (known or found)[0]
    if all(pa.types.is_integer(kind) for kind in known):
        return pa.int64()
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in known):
        return pa.float64()
    if all(pa.types.is_list(kind) for kind in known):
        return pa.list_(_common_type(name, [kind.value_type for kind in known]))
    warnings.warn(
        f"Column {name!r} held {known[0]} values and the new rows hold {known[1]}: it is stored "
        "as text from now on.",
        DataWarning,
        stacklevel=5,
    )
    return pa.string()


def attach_vectors(rows: pa.Table, vectors: np.ndarray) -> pa.Table:
    """Append the ``vector`` column to a row table: float32 lists of fixed size D."""
    values = pa.array(vectors.reshape(-1), pa.float32())
    column = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])
    return rows.append_column("vector", column)


def values_table(values: Mapping[str, Any], count: int) -> pa.Table:
    """Return ``count`` rows that all hold the same values, with storable names and types.

    Raises:
        InputError: When a base column gets a value of another type, or a name is reserved.
    """
    item = dict(values)
    columns = _item_columns([item]) if item else {}
    found: dict[str, pa.Array] = {}
    for name, array in columns.items():
        stored = name if name in BASE_COLUMNS else _attribute_name(name, found)
        found[stored] = array.take(pa.array(np.zeros(count, dtype=np.int64)))
    return pa.table(found)
