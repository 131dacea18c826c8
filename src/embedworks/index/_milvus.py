"""How rows, columns and filters look to Milvus. Knows nothing of connections."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from embedworks.errors import InputError, QuerySyntaxError
from embedworks.index.filtering import evaluate
from embedworks.index.where import (
    And,
    Between,
    Compare,
    Condition,
    In,
    IsNull,
    Like,
    Literal,
    Not,
    Or,
    parse_where,
)

__all__ = ["LONGEST_TEXT", "ServedColumn", "columns_of", "expression", "from_served", "to_served"]

#: Most bytes of one text that Milvus stores.
LONGEST_TEXT = 65_535

_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}\Z")
#: Names that mean something in Milvus' filter language, or to us.
_TAKEN = {
    *("and", "array_contains", "false", "in", "is", "json_contains", "like", "not", "null", "or"),
    *("true", "vector", "words_", "words_terms_"),
}
#: Kind of a column -> what it is in Arrow.
_KINDS: dict[str, pa.DataType] = {
    "text": pa.string(),
    "integer": pa.int64(),
    "real": pa.float64(),
    "truth": pa.bool_(),
    "moment": pa.timestamp("us"),
    "moment_utc": pa.timestamp("us", tz="UTC"),
}
_EPOCH = datetime.datetime(1970, 1, 1)
_MICROSECOND = datetime.timedelta(microseconds=1)


@dataclass(frozen=True)
class ServedColumn:
    """One column: its name, its field's name on the server, and its kind (see the module)."""

    name: str
    field: str
    kind: str

    @property
    def type(self) -> pa.DataType:
        """Its type in Arrow."""
        return _KINDS[self.kind]

    @property
    def is_moment(self) -> bool:
        """Whether it holds dates or times, stored as microseconds since 1970."""
        return self.kind.startswith("moment")


def columns_of(schema: pa.Schema) -> tuple[ServedColumn, ...]:
    """Choose a field and a kind for every column.

    Raises:
        InputError: When a column's type cannot be stored.
    """
    found = []
    for number, field in enumerate(schema):
        is_plain = _FIELD.match(field.name) and field.name.lower() not in _TAKEN
        name = field.name if is_plain else f"column_{number}_"
        found.append(ServedColumn(field.name, name, _kind(field)))
    return tuple(found)


def _kind(field: pa.Field) -> str:
    kind, types = field.type, pa.types
    if types.is_string(kind) or types.is_null(kind):
        return "text"
    if types.is_boolean(kind):
        return "truth"
    if types.is_integer(kind):
        return "integer"
    if types.is_floating(kind) or types.is_decimal(kind):
        return "real"
    if types.is_date(kind) or types.is_timestamp(kind):
        return "moment_utc" if types.is_timestamp(kind) and kind.tz else "moment"
    raise InputError(f"Column {field.name!r} holds {kind} values, which cannot be stored.")


def to_served(
    rows: pa.Table, columns: Sequence[ServedColumn]
) -> Iterable[dict[str, Literal | None]]:
    """Yield the rows as fields and values; columns the rows lack are missing values.

    Raises:
        InputError: When a column is not among ``columns``, holds another type, or a text is
            longer than `LONGEST_TEXT` bytes.
    """
    known = {column.name for column in columns}
    unknown = [name for name in rows.column_names if name not in known]
    if unknown:
        raise InputError(
            f"The served collection has no column {unknown[0]!r}. Its columns are fixed when it is "
            f"made: {', '.join(sorted(known))}."
        )
    values: dict[str, list[Any]] = {}
    for column in columns:
        if column.name not in rows.column_names:
            values[column.field] = [None] * len(rows)
            continue
        try:
            array = rows.column(column.name).cast(column.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"column {column.name!r} must hold {column.type} values: {error}"
            ) from error
        items = (array.cast(pa.int64()) if column.is_moment else array).to_pylist()
        if column.kind == "text":
            _check_lengths(column.name, items)
        values[column.field] = items
    for number in range(len(rows)):
        yield {field: items[number] for field, items in values.items()}


def _check_lengths(name: str, texts: Sequence[str | None]) -> None:
    for number, text in enumerate(texts):
        if text is not None and len(text) * 4 > LONGEST_TEXT and len(text.encode()) > LONGEST_TEXT:
            raise InputError(
                f"rows[{number}] has {len(text.encode()):,} bytes in column {name!r}; the server "
                f"stores at most {LONGEST_TEXT:,}. Cut the text into smaller rows."
            )


def from_served(entity: Mapping[str, Any], columns: Sequence[ServedColumn]) -> dict[str, Any]:
    """Return a stored row under the names and in the types of its columns."""
    row: dict[str, Any] = {}
    for column in columns:
        value = entity.get(column.field)
        if column.is_moment and value is not None:
            value = _EPOCH + int(value) * _MICROSECOND
            if column.kind == "moment_utc":
                value = value.replace(tzinfo=datetime.UTC)
        row[column.name] = value
    return row


def expression(where: str | Condition | None, columns: Sequence[ServedColumn]) -> str:
    """Translate a filter into Milvus' language; empty when there is none.

    Negation is moved down to single comparisons, each of which then also asks for a value that is
    there: so missing values match nothing, as in SQL, whatever the server makes of them.

    Raises:
        QuerySyntaxError: As `evaluate` does, and for ``ILIKE``, which Milvus does not have.

    Example:
        >>> columns = columns_of(pa.schema({"year": pa.int64(), "name": pa.string()}))
        >>> expression("NOT (year > 3 OR name IN ('a', 'b'))", columns)
        '((not (year > 3)) and (year is not null)) and
        ((not (name in ["a", "b"])) and (name is not null))'
    """
    if where is None:
        return ""
    condition = parse_where(where) if isinstance(where, str) else where
    evaluate(condition, pa.schema({c.name: c.type for c in columns}).empty_table())
    return _translate(condition, {c.name: c for c in columns}, negated=False)


def _translate(condition: Condition, columns: Mapping[str, ServedColumn], *, negated: bool) -> str:
    if isinstance(condition, Not):
        return _translate(condition.part, columns, negated=not negated)
    if isinstance(condition, And | Or):
        word = "and" if isinstance(condition, And) != negated else "or"
        parts = [_translate(part, columns, negated=negated) for part in condition.parts]
        return f" {word} ".join(f"({part})" for part in parts)
    assert isinstance(condition, Compare | In | Like | Between | IsNull), condition
    column = columns[condition.column]
    if isinstance(condition, IsNull):
        return f"{column.field} is {'not null' if negated else 'null'}"
    text = _predicate(condition, column)
    return f"(not ({text})) and ({column.field} is not null)" if negated else text


def _predicate(condition: Compare | In | Like | Between, column: ServedColumn) -> str:
    field = column.field
    if isinstance(condition, Compare):
        operator = "==" if condition.operator == "=" else condition.operator
        return f"{field} {operator} {_value(condition.value, column)}"
    if isinstance(condition, In):
        return f"{field} in [{', '.join(_value(v, column) for v in condition.values)}]"
    if isinstance(condition, Between):
        low, high = _value(condition.low, column), _value(condition.high, column)
        return f"({field} >= {low}) and ({field} <= {high})"
    if condition.ignore_case:
        raise QuerySyntaxError(
            f"In {str(condition)!r:.200}: the server has no ILIKE. Use LIKE, or keep a column in "
            "lower case."
        )
    return f"{field} like {_value(condition.pattern, column)}"


def _value(value: Literal, column: ServedColumn) -> str:
    if column.is_moment:
        moment = datetime.datetime.fromisoformat(str(value).strip())
        if moment.tzinfo is not None:
            moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
        return str((moment - _EPOCH) // _MICROSECOND)
    return json.dumps(value, ensure_ascii=False)
