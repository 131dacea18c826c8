"""Evaluate a parsed ``where`` condition over an Arrow table: one boolean per row."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedworks._core.registry import did_you_mean
from embedworks.errors import QuerySyntaxError
from embedworks.index.where import (
    And,
    Between,
    Compare,
    Condition,
    Contains,
    In,
    IsNull,
    Like,
    Literal,
    Not,
    Or,
    parse_where,
)

__all__ = ["evaluate"]

_COMPARE = {
    "=": "equal",
    "!=": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
}


def evaluate(condition: Condition | str, table: pa.Table) -> np.ndarray:
    """Return which rows of ``table`` match, as a boolean array of shape (M,).

    Args:
        condition: A parsed condition, or its text.
        table: Arrow table with M rows. Text, number, boolean, date and timestamp columns can
            be filtered; dates and timestamps are compared with ISO texts such as
            ``'2024-05-01'``.

    Raises:
        QuerySyntaxError: When the text is no filter, a column does not exist, or a value does
            not fit its column's type.

    Example:
        >>> table = pa.table({"year": [2019, 2022, None], "kind": ["text", "code", "code"]})
        >>> evaluate("kind = 'code' AND NOT year < 2020", table)
        array([False,  True, False])
    """
    if isinstance(condition, str):
        condition = parse_where(condition)
    names = list(table.column_names)
    for name in sorted(condition.columns()):
        if name not in names:
            raise QuerySyntaxError(
                f"There is no column {name!r} to filter on. {did_you_mean(name, names)} "
                f"The columns are: {', '.join(names) or 'none'}."
            )
    return _to_numpy(pc.fill_null(_evaluate(condition, table), _constant(False)))


def _evaluate(condition: Condition, table: pa.Table) -> pa.Array:
    """Evaluate to a boolean Arrow array in which null means unknown."""
    if isinstance(condition, And | Or):
        combine = pc.and_kleene if isinstance(condition, And) else pc.or_kleene
        result = _evaluate(condition.parts[0], table)
        for part in condition.parts[1:]:
            result = combine(result, _evaluate(part, table))
        return result
    if isinstance(condition, Not):
        return pc.invert(_evaluate(condition.part, table))
    if isinstance(condition, IsNull):
        return _column(table, condition.column).is_null()
    if isinstance(condition, Like):
        return match_like(condition, _column(table, condition.column))
    if isinstance(condition, Contains):
        return _contains(condition, _column(table, condition.column))
    if isinstance(condition, In):
        return _is_in(condition, _column(table, condition.column))
    if isinstance(condition, Between):
        low = Compare(condition.column, ">=", condition.low)
        high = Compare(condition.column, "<=", condition.high)
        values = _column(table, condition.column)
        return pc.and_kleene(_compare(low, values), _compare(high, values))
    assert isinstance(condition, Compare), condition
    return _compare(condition, _column(table, condition.column))


def _column(table: pa.Table, name: str) -> pa.Array:
    """Return the column as one array, without dictionary encoding."""
    column = table.column(name)
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    return array


def kind_of(kind: pa.DataType) -> str:
    """Name the family of a column type, as messages show it."""
    types = pa.types
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    if types.is_boolean(kind):
        return "true/false"
    if types.is_date(kind) or types.is_timestamp(kind):
        return "date"
    if types.is_list(kind) or types.is_large_list(kind):
        return "set"
    return "null" if types.is_null(kind) else str(kind)


def _mismatch(predicate: Condition, column: str, kind: str, value: Literal) -> QuerySyntaxError:
    given = "a truth value" if isinstance(value, bool) else "a number"
    if isinstance(value, str):
        given = "text"
    remedies = {
        "text": f"write the value in single quotes: '{value}'",
        "number": "write the number without quotes",
        "true/false": "compare it by = or != with TRUE or FALSE",
        "date": "write an ISO date in single quotes, such as '2024-05-01'",
        "set": f"ask for one of its elements, as in {column} CONTAINS 'value'",
    }
    remedy = remedies.get(kind, "columns of this type cannot be filtered")
    return QuerySyntaxError(
        f"In {str(predicate)!r:.200}: column {column!r} holds {kind} values but is compared with "
        f"{given}: {remedy}."
    )


def _check_value(predicate: Condition, column: str, array: pa.Array, value: Literal) -> None:
    """Raise unless the literal fits the column's family."""
    kind = kind_of(array.type)
    fits = {
        "text": isinstance(value, str),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "true/false": isinstance(value, bool),
        "date": isinstance(value, str),
        "null": True,
    }
    if not fits.get(kind, False):
        raise _mismatch(predicate, column, kind, value)


def to_scalar(predicate: Condition, column: str, array: pa.Array, value: Literal) -> pa.Scalar:
    """Convert a checked literal to an Arrow scalar comparable with the column."""
    if kind_of(array.type) != "date":
        return _constant(value)
    try:
        moment = datetime.datetime.fromisoformat(str(value).strip())
    except ValueError as error:
        raise _mismatch(predicate, column, "date", value) from error
    if pa.types.is_timestamp(array.type) and array.type.tz is not None:
        moment = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
        return pa.scalar(moment, pa.timestamp("us", tz="UTC"))
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return pa.scalar(moment, pa.timestamp("us"))


def comparable(array: pa.Array) -> pa.Array:
    """Bring rare types to ones that Arrow compares without surprises."""
    kind = array.type
    if pa.types.is_decimal(kind) or pa.types.is_float16(kind):
        return array.cast(pa.float64())
    if pa.types.is_date(kind):
        return array.cast(pa.timestamp("us"))
    if pa.types.is_timestamp(kind):
        return array.cast(pa.timestamp("us", tz="UTC" if kind.tz else None), safe=False)
    if pa.types.is_string_view(kind):
        return array.cast(pa.string())
    return array


# The next two avoid `pa.scalar` and `to_numpy`, which import pandas where it is installed: a tenth
# of a second before the first filtered search of a process.


def _constant(value: Literal) -> pa.Scalar:
    """Return a literal as an Arrow scalar."""
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
        offsets = np.array([0, len(data)], dtype=np.int32).tobytes()
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        return pa.Array.from_buffers(pa.string(), 1, buffers)[0]
    if isinstance(value, bool):
        kind, data = pa.bool_(), bytes([value])
    elif isinstance(value, float):
        kind, data = pa.float64(), np.float64(value).tobytes()
    else:
        kind, data = pa.int64(), np.int64(value).tobytes()
    return pa.Array.from_buffers(kind, 1, [None, pa.py_buffer(data)])[0]


def _to_numpy(array: pa.Array) -> np.ndarray:
    """Return a boolean array without nulls as NumPy's."""
    if not len(array):
        return np.empty(0, dtype=bool)
    bits = np.unpackbits(np.frombuffer(array.buffers()[1], dtype=np.uint8), bitorder="little")
    return bits[array.offset : array.offset + len(array)].astype(bool)


def _unknown(length: int) -> pa.Array:
    return pa.nulls(length, pa.bool_())


def _compare(predicate: Compare, array: pa.Array) -> pa.Array:
    _check_value(predicate, predicate.column, array, predicate.value)
    if pa.types.is_null(array.type):
        return _unknown(len(array))
    if pa.types.is_boolean(array.type) and predicate.operator not in ("=", "!="):
        raise _mismatch(predicate, predicate.column, "true/false", predicate.value)
    scalar = to_scalar(predicate, predicate.column, array, predicate.value)
    compare: Any = getattr(pc, _COMPARE[predicate.operator])
    array = comparable(array)
    if pa.types.is_floating(array.type) or isinstance(predicate.value, float):
        return compare(array.cast(pa.float64(), safe=False), _constant(float(predicate.value)))
    if pa.types.is_uint64(array.type) and isinstance(predicate.value, int):
        # Arrow compares uint64 with int64 through int64: a negative value is below them all.
        if predicate.value < 0:
            constant = Compare.FUNCTIONS[predicate.operator](0, predicate.value)
            return pc.if_else(array.is_valid(), _constant(constant), _unknown(1)[0])
        scalar = scalar.cast(pa.uint64())
    return compare(array, scalar)


def _is_in(predicate: In, array: pa.Array) -> pa.Array:
    for value in predicate.values:
        _check_value(predicate, predicate.column, array, value)
    if pa.types.is_null(array.type):
        return _unknown(len(array))
    array_ = comparable(array)
    values = [to_scalar(predicate, predicate.column, array, v) for v in predicate.values]
    if pa.types.is_integer(array_.type) and all(isinstance(v, int) for v in predicate.values):
        limits = np.iinfo(array_.type.to_pandas_dtype())
        kept = [v for v in predicate.values if limits.min <= int(v) <= limits.max]
        value_set = pa.array(kept, array_.type)
    elif pa.types.is_integer(array_.type) or pa.types.is_floating(array_.type):
        array_ = array_.cast(pa.float64(), safe=False)
        value_set = pa.array([float(v) for v in predicate.values], pa.float64())
    else:
        value_set = pa.array([v.as_py() for v in values], array_.type)
    found = pc.is_in(array_, value_set=value_set)
    return pc.if_else(array.is_valid(), found, _unknown(1)[0])


def match_like(predicate: Like, array: pa.Array) -> pa.Array:
    if pa.types.is_null(array.type):
        return _unknown(len(array))
    kind = kind_of(array.type)
    if kind != "text":
        raise QuerySyntaxError(
            f"In {str(predicate)!r:.200}: LIKE needs a text column, but {predicate.column!r} "
            f"holds {kind} values."
        )
    try:
        return pc.match_like(
            comparable(array), pattern=predicate.pattern, ignore_case=predicate.ignore_case
        )
    except pa.ArrowInvalid as error:
        raise QuerySyntaxError(
            f"In {str(predicate)!r:.200}: the pattern cannot be used ({error})."
        ) from error


def _contains(predicate: Contains, array: pa.Array) -> pa.Array:
    """Whether each list has an element equal to the value; null for a null list."""
    if pa.types.is_null(array.type):
        return _unknown(len(array))
    if kind_of(array.type) != "set":
        raise QuerySyntaxError(
            f"In {str(predicate)!r:.200}: CONTAINS needs a column of sets, but "
            f"{predicate.column!r} holds {kind_of(array.type)} values: use = or IN."
        )
    equal = Compare(predicate.column, "=", predicate.value)
    hits = pc.fill_null(_compare(equal, pc.list_flatten(array)), False)
    found = np.zeros(len(array), dtype=bool)
    found[pc.list_parent_indices(array).filter(hits).to_numpy()] = True
    return pc.if_else(array.is_valid(), pa.array(found), pa.scalar(None, pa.bool_()))
