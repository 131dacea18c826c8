"""One's own vectors, attributes and filters as a benchmark."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from embedworks._core.registry import did_you_mean
from embedworks._core.seeding import generator
from embedworks.errors import (
    DataWarning,
    EmptyInputError,
    FormatError,
    NotFoundError,
    UnknownNameError,
)
from embedworks.evaluation.filtered.workloads import FilteredCell
from embedworks.evaluation.filtered.worlds import FilteredData, hold_out_queries
from embedworks.index.filtering import evaluate, kind_of
from embedworks.index.where import parse_where

__all__ = ["load_filtered_data", "own_filters"]

_KINDS = ("text", "number", "date", "true/false", "set")


def load_filtered_data(
    vectors: Path,
    attributes: Path,
    *,
    queries: Path | int = 100,
    columns: Sequence[str] = (),
    ordered: Sequence[str] = (),
    labels: Sequence[str] = (),
    seed: int = 0,
) -> FilteredData:
    """Read vectors and attributes to compare filtered searches on.

    Args:
        vectors: A ``.npy`` file of shape (M, D), any float type.
        attributes: A ``.parquet``, ``.csv`` or ``.jsonl`` file of M rows, in the same order.
        queries: A ``.npy`` file of shape (Q, D), or how many rows to take out as queries.
        columns: Attributes to use; all that filters can read, if empty.
        ordered: As in `FilteredData`.
        labels: As in `FilteredData`.
        seed: Which rows become queries.

    Raises:
        NotFoundError: When a file is not there.
        FormatError: When a file cannot be read, or is of another kind.
        UnknownNameError: When a column is not there.
        EmptyInputError: When no column can be filtered.
        ShapeError: When rows or dimensions do not fit together.
    """
    array = _read_vectors(Path(vectors))
    table = _usable(_read_table(Path(attributes)), columns)
    if isinstance(queries, int):
        return hold_out_queries(array, table, queries, ordered=ordered, labels=labels, seed=seed)
    asked = _read_vectors(Path(queries))
    return FilteredData.of(array, table, asked, ordered=ordered, labels=labels)


def own_filters(data: FilteredData, wheres: Sequence[str], *, seed: int = 0) -> FilteredCell:
    """Make a cell of one's own filters: each query gets one of them, all about as often.

    Args:
        data: What they filter.
        wheres: Filters in the language of ``where``.
        seed: Which query gets which.

    Raises:
        EmptyInputError: When there is no filter.
        QuerySyntaxError: When one cannot be read or does not fit the columns.

    Example:
        >>> from embedworks.evaluation.filtered.worlds import synthetic_filtered_data
        >>> cell = own_filters(synthetic_filtered_data(100, 4, 3), ["kind = 'a'"])
        >>> cell.name, len(cell.wheres)
        ("kind = 'a'", 3)
    """
    if not wheres:
        raise EmptyInputError("There are no filters: give at least one.")
    parsed = [parse_where(where) for where in wheres]
    shares = [float(evaluate(where, data.table).mean()) for where in parsed]
    order = generator(seed, "own filters").permutation(len(data.queries))
    given = tuple(parsed[place % len(parsed)] for place in order)
    label = str(parsed[0]) if len(parsed) == 1 else f"{len(parsed)} filters"
    return FilteredCell("own", float(np.mean(shares)), "none", given, label)


def _read_vectors(path: Path) -> np.ndarray:
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}.")
    if path.suffix != ".npy":
        raise FormatError(f"Vectors are read from .npy files, got {path}.")
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (ValueError, EOFError, OSError) as error:
        raise FormatError(f"{path} is no array that can be read: {error}.") from error


def _read_table(path: Path) -> pa.Table:
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    readers = {
        ".parquet": pyarrow.parquet.read_table,
        ".csv": pyarrow.csv.read_csv,
        ".jsonl": pyarrow.json.read_json,
    }
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}.")
    if path.suffix not in readers:
        raise FormatError(f"Attributes are read from {', '.join(readers)} files, got {path}.")
    try:
        return readers[path.suffix](path)
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{path} cannot be read: {error}.") from error


def _usable(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Keep the columns asked for, or those that filters can read."""
    names = table.column_names
    for name in columns:
        if name not in names:
            raise UnknownNameError(f"There is no column {name!r}. {did_you_mean(name, names)}")
    if columns:
        return table.select(list(columns))
    kept = [field.name for field in table.schema if kind_of(field.type) in _KINDS]
    left = [name for name in names if name not in kept]
    if not kept:
        raise EmptyInputError(f"No column can be filtered; there are {names}.")
    if left:
        warnings.warn(
            f"{len(left)} columns are of types that filters cannot read and are left out: "
            f"{', '.join(left)}.",
            DataWarning,
            stacklevel=3,
        )
    return table.select(kept)
