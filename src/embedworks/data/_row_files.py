"""Files of training rows read from a position on, without holding them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedworks.data.rows import Row
from embedworks.errors import FormatError, InputError, NotFoundError

__all__ = ["jsonl_records", "jsonl_rows", "parquet_rows"]

_BATCH_ROWS = 4096


def parquet_rows(path: Path, start: int) -> Iterator[Row]:
    """Yield the rows of a Parquet file from ``start``; row groups before it are not read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise NotFoundError(f"{path} does not exist (any more): training rows are read from it.")
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names)
            position = 0
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if position + count <= start:
                    position += count
                    continue
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group]):
                    skip = max(0, min(start - position, batch.num_rows))
                    position += skip
                    for record in batch.slice(skip).to_pylist():
                        yield _row(path, position, record)
                        position += 1
    except pa.ArrowException as error:
        raise FormatError(f"{path} cannot be read as Parquet: {error}") from error


def jsonl_rows(path: Path, start: int) -> Iterator[Row]:
    """Yield the rows of a JSONL file from ``start``; lines before it are not parsed."""
    for position, record in jsonl_records(path, start):
        yield _row(path, position, record)


def jsonl_records(path: Path, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (position, object) of a JSONL file of rows from ``start``; blank lines do not count."""
    try:
        with open(path, "rb") as handle:
            position = 0
            for number, line in enumerate(handle, start=1):
                if not line.strip():
                    continue
                if position >= start:
                    try:
                        record = json.loads(line)
                    except ValueError as error:
                        raise FormatError(
                            f"{path}, line {number} is not valid JSON: {error}"
                        ) from error
                    if not isinstance(record, dict):
                        raise FormatError(f"{path}, line {number} is not a JSON object.")
                    if position == start:
                        _check_columns(path, list(record))
                    yield position, record
                position += 1
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{path} does not exist (any more): training rows are read from it."
        ) from error


def _check_columns(path: Path, names: list[str]) -> None:
    for name in ("anchor", "positive"):
        if name not in names:
            raise FormatError(
                f"{path} has no {name!r}, only {sorted(names)}: training rows need 'anchor' and "
                "'positive'."
            )


def _row(path: Path, position: int, record: Mapping[str, Any]) -> Row:
    try:
        return replace(Row.from_record(record), source=path.stem)
    except InputError as error:
        raise FormatError(f"{path}, row {position}: {error}") from error
