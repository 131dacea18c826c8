"""Tables as rows of plain Python values: CSV, TSV, JSON lines, Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedworks.errors import FormatError

__all__ = ["Table", "read_delimited", "read_jsonl", "read_parquet"]


@dataclass(slots=True)
class Table:
    """A table that is read as it is iterated.

    Args:
        columns: Column names; for JSON lines those of the first 1,000 rows.
        rows: Yields ``(row number from 1, values by column)``.
        damaged: Row numbers that could not be parsed; complete once ``rows`` is exhausted.
    """

    columns: list[str]
    rows: Iterator[tuple[int, dict[str, Any]]]
    damaged: list[int] = field(default_factory=list)


def read_parquet(path: Path, as_text: frozenset[str]) -> Table:
    """Open a Parquet file; its own column types are kept, ``as_text`` is not needed.

    Raises:
        FormatError: When it is damaged or not Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise FormatError(f"{path} is not a readable Parquet file ({error}).") from error

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        try:
            with file:
                for batch in file.iter_batches(batch_size=8192):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
        except (pa.ArrowException, OSError) as error:
            raise FormatError(f"{path} is damaged after row {number} ({error}).") from error

    return Table(file.schema_arrow.names, rows())


def read_jsonl(path: Path, as_text: frozenset[str]) -> Table:
    """Open a file with one JSON object per line; lines that are no JSON object are counted.

    JSON values carry their type, ``as_text`` is not needed.

    Raises:
        FormatError: When the file is not UTF-8.
    """
    lines = _utf8(path).split("\n")
    columns: dict[str, None] = {}
    for line in lines[:1000]:
        row = _json_object(line)
        columns.update(dict.fromkeys(row or ()))
    table = Table(list(columns), iter(()))

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            row = _json_object(line)
            if row is None:
                table.damaged.append(number)
            else:
                yield number, row

    table.rows = rows()
    return table


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_delimited(path: Path, as_text: frozenset[str]) -> Table:
    """Open a CSV or TSV file (tab-separated when the suffix is ``.tsv``) with a header line.

    Columns that hold only whole numbers, only numbers or only true/false are converted, except
    those named in ``as_text``: an id "007" must stay "007".
    Rows with a wrong number of fields are counted as damaged.

    Raises:
        FormatError: When the file is not UTF-8 or has no usable header.
    """
    import pyarrow as pa
    from pyarrow import csv as pa_csv

    text = _utf8(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    header = next(csv.reader(io.StringIO(text[:1_000_000]), delimiter=delimiter), [])
    if not header:
        return Table([], iter(()))
    if len(set(header)) != len(header):
        raise FormatError(f"{path} names a column twice in its header: {header}.")
    damaged: list[int] = []

    def on_bad_row(row: Any) -> str:
        damaged.append(row.number or 0)
        return "skip"

    data = text.encode()
    types = {name: pa.string() for name in header if name in as_text}
    try:
        arrow = pa_csv.read_csv(
            io.BytesIO(data),
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=on_bad_row
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=types, strings_can_be_null=True, timestamp_parsers=[]
            ),
        )
    except pa.ArrowException as error:
        raise FormatError(f"{path} is not readable as a table ({error}).") from error
    return Table(header, iter(enumerate(_pylist(arrow), 1)), damaged)


def _pylist(arrow: Any) -> Iterator[dict[str, Any]]:
    for batch in arrow.to_batches(max_chunksize=8192):
        yield from batch.to_pylist()


def _utf8(path: Path) -> str:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8: byte {error.start} is wrong.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
