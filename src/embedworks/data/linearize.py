"""Records and tables as text that a text model can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from embedworks.errors import EmptyInputError, ShapeError

__all__ = ["linearize_record", "linearize_row", "linearize_table"]


def linearize_record(record: Mapping[str, Any], *, sort: bool = False) -> str:
    """Write a JSON-like record as lines ``path: value``.

    Nested keys are joined by dots, lists of plain values by commas; null, empty strings and empty
    lists are left out.

    Args:
        record: Key -> value, a value being plain, a mapping, or a list of either.
        sort: Sort keys, so that their order in the input does not change the text.

    Raises:
        EmptyInputError: When nothing is left to write.

    Example:
        >>> print(linearize_record({"born": {"year": 1815}, "tags": ["maths", "code"]}))
        born.year: 1815
        tags: maths, code
    """
    lines = _lines(record, "", sort)
    if not lines:
        raise EmptyInputError("The record has no value to write.")
    return "\n".join(lines)


def _lines(value: Any, path: str, sort: bool) -> list[str]:
    if isinstance(value, Mapping):
        keys = sorted(value, key=str) if sort else list(value)
        parts = [_lines(value[key], f"{path}.{key}" if path else str(key), sort) for key in keys]
        return [line for part in parts for line in part]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if any(isinstance(item, Mapping | list | tuple) for item in value):
            parts = [_lines(item, f"{path}.{i}", sort) for i, item in enumerate(value, 1)]
            return [line for part in parts for line in part]
        return _lines(", ".join(_plain(item) for item in value if item is not None), path, sort)
    text = _plain(value)
    return [f"{path}: {text}"] if text else []


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(str(value).split())


def linearize_row(columns: Sequence[str], row: Sequence[Any], *, title: str = "") -> str:
    """Write one row of a table as ``title. column is value; column is value``.

    Each row carries the names of its columns, so that it can be found alone.

    Args:
        columns: Names of the columns.
        row: As many values; null and empty ones are left out.
        title: What the table is about.

    Raises:
        ShapeError: When the row has another number of values than there are columns.
        EmptyInputError: When the row has no value.

    Example:
        >>> linearize_row(["city", "people"], ["Oslo", 709000], title="Capitals")
        'Capitals. city is Oslo; people is 709000'
    """
    if len(row) != len(columns):
        raise ShapeError(f"The row has {len(row)} values for {len(columns)} columns: {row!r}.")
    cells = [(name, _plain(value)) for name, value in zip(columns, row, strict=True)]
    written = "; ".join(f"{name} is {text}" for name, text in cells if text)
    if not written:
        raise EmptyInputError("The row has no value to write.")
    return f"{title}. {written}" if title else written


def linearize_table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str = ""
) -> str:
    """Write a table as one text: its title, its columns, a line for each row.

    Args:
        columns: Names of the columns.
        rows: Rows of as many values.
        title: What the table is about.

    Raises:
        ShapeError: When a row has another number of values; names the row.

    Example:
        >>> print(linearize_table(["city", "people"], [["Oslo", 709000], ["Rome", None]]))
        city | people
        Oslo | 709000
        Rome |
    """
    for place, row in enumerate(rows):
        if len(row) != len(columns):
            raise ShapeError(f"Row {place} has {len(row)} values for {len(columns)} columns.")
    lines = [" | ".join(map(_plain, row)).rstrip() for row in [columns, *rows]]
    return "\n".join([title, *lines] if title else lines)
