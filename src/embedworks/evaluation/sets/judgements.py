"""Read queries and judgements from Parquet, CSV, TSV or JSONL files."""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from embedworks._core.registry import did_you_mean
from embedworks.errors import (
    DataWarning,
    DuplicateIdError,
    EmptyInputError,
    FormatError,
    InputError,
    NotFoundError,
)

__all__ = ["as_relevance", "load_qrels", "load_queries"]

Columns = dict[str, list[Any]]


def load_queries(
    path: str | Path, *, columns: tuple[str, str] = ("query_id", "text")
) -> dict[str, str]:
    r"""Read queries from a Parquet, CSV, TSV or JSONL file with the columns ``query_id, text``.

    Ids are read as text, so ``007`` in a CSV stays ``007``; integers become their digits. Other
    columns are ignored. Queries without text are left out with a counted `DataWarning`.

    Args:
        path: File whose name ends in ``.parquet``, ``.csv``, ``.tsv`` or ``.jsonl``.
        columns: Names of the two columns in the file.

    Returns:
        Query id -> text, in the order of the file.

    Raises:
        NotFoundError: When the file does not exist.
        FormatError: When it cannot be parsed.
        InputError: When a column is missing or a value is not usable.
        DuplicateIdError: When a query id occurs twice.
        EmptyInputError: When no query is left.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "queries.csv"
        >>> _ = path.write_text("query_id,text\n1,how do I copy a file?\n")
        >>> load_queries(path)
        {'1': 'how do I copy a file?'}
    """
    path = Path(path)
    id_name, text_name = columns
    values = _read_columns(path, columns)
    queries: dict[str, str] = {}
    for row, (raw_id, text) in enumerate(zip(values[id_name], values[text_name], strict=True), 1):
        query = _as_id(raw_id, id_name, path, row)
        if query in queries:
            raise DuplicateIdError(f"{path}: {id_name} {query!r} occurs again in row {row}.")
        if text is not None and not isinstance(text, str):
            raise InputError(
                f"{path}: text in row {row} must be a string, got {type(text).__name__}."
            )
        queries[query] = text or ""
    kept = {query: text for query, text in queries.items() if text.strip()}
    empty = len(queries) - len(kept)
    if not kept:
        raise EmptyInputError(f"{path} has no query with text.")
    if empty:
        message = f"{path}: {empty} of {len(queries)} queries have no text and are left out."
        warnings.warn(DataWarning(message), stacklevel=2)
    return kept


def load_qrels(
    path: str | Path, *, columns: tuple[str, str, str] = ("query_id", "doc_id", "relevance")
) -> dict[str, dict[str, int]]:
    r"""Read judgements: a file with the columns ``query_id, doc_id, relevance``.

    Relevance is a whole number of at least 0; 0 says "judged, not relevant". Formats and ids as
    in `load_queries`. Whether the ids are known is checked by
    `embedworks.evaluation.RetrievalTask`.

    Args:
        path: File whose name ends in ``.parquet``, ``.csv``, ``.tsv`` or ``.jsonl``.
        columns: Names of the three columns in the file.

    Returns:
        Query id -> document id -> relevance.

    Raises:
        NotFoundError: When the file does not exist.
        FormatError: When it cannot be parsed.
        InputError: When a column is missing, or a relevance is negative, NaN or fractional.
        DuplicateIdError: When a document is judged twice for one query.
        EmptyInputError: When there are no judgements.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "qrels.jsonl"
        >>> _ = path.write_text('{"query_id": "1", "doc_id": "shutil", "relevance": 1}\n')
        >>> load_qrels(path)
        {'1': {'shutil': 1}}
    """
    path = Path(path)
    values = _read_columns(path, columns)
    qrels: dict[str, dict[str, int]] = {}
    rows = zip(*(values[column] for column in columns), strict=True)
    for row, (raw_query, raw_doc, raw_relevance) in enumerate(rows, 1):
        query = _as_id(raw_query, columns[0], path, row)
        doc = _as_id(raw_doc, columns[1], path, row)
        judged = qrels.setdefault(query, {})
        if doc in judged:
            raise DuplicateIdError(
                f"{path}: document {doc!r} is judged a second time for query {query!r} "
                f"in row {row}. Keep one judgement for each pair."
            )
        judged[doc] = as_relevance(raw_relevance, path, row)
    if not qrels:
        raise EmptyInputError(f"{path} has no judgements.")
    return qrels


def _as_id(value: Any, column: str, path: Path, row: int) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        shown = "nothing" if value is None or value == "" else f"{type(value).__name__} {value!r}"
        raise InputError(f"{path}: {column} in row {row} must be text or an integer, got {shown}.")
    return value


def as_relevance(value: Any, path: str | Path, row: int) -> int:
    """Return a relevance as an integer of at least 0.

    Args:
        value: A number, or text of one.
        path: Where it was read, for messages.
        row: Its row there, from 1.

    Raises:
        InputError: When it is negative, NaN, fractional or no number.
    """
    where = f"{path}: relevance in row {row} must be a whole number of at least 0, got {value!r}"
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}.") from error
    if math.isnan(number) or math.isinf(number) or number != int(number):
        raise InputError(f"{where}.")
    if number < 0:
        raise InputError(f"{where}: use 0 for documents that are judged not relevant.")
    return int(number)


def _read_columns(path: Path, names: Sequence[str]) -> Columns:
    """Read the named columns by the file's suffix; rows are counted from 1, without header."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path}: the name must end in one of {', '.join(sorted(_READERS))}, "
            f"got {path.suffix or 'no suffix'!r}. {did_you_mean(path.suffix, list(_READERS))}"
        )
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist or is not a file.")
    return reader(path, names)


def _check_header(found: Sequence[str], names: Sequence[str], path: Path) -> None:
    for name in names:
        if name not in found:
            raise InputError(
                f"{path} needs the columns {', '.join(names)} and has no {name!r}; it has "
                f"{', '.join(map(repr, found)) or 'none'}. "
                f"{did_you_mean(name, list(found)) if found else ''}".rstrip()
            )


def _read_parquet(path: Path, names: Sequence[str]) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        _check_header(pq.read_schema(path).names, names, path)
        table = pq.read_table(path, columns=list(names))
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{path} is not a readable Parquet file: {error}") from error
    return {name: table.column(name).to_pylist() for name in names}


def _read_csv(path: Path, names: Sequence[str]) -> Columns:
    columns: Columns = {name: [] for name in names}
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            rows = csv.DictReader(handle, delimiter=delimiter, strict=True)
            _check_header(rows.fieldnames or [], names, path)
            for number, row in enumerate(rows, 1):
                if None in row or None in row.values():
                    raise FormatError(
                        f"{path}: row {number} has not as many fields as the header. "
                        "Put quotes around texts that contain commas or tabs."
                    )
                for name in names:
                    columns[name].append(row[name])
    except (csv.Error, UnicodeDecodeError) as error:
        raise FormatError(f"{path} is not a readable UTF-8 table: {error}") from error
    return columns


def _read_jsonl(path: Path, names: Sequence[str]) -> Columns:
    columns: Columns = {name: [] for name in names}
    try:
        with open(path, encoding="utf-8-sig") as handle:
            for number, line in enumerate(handle, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise FormatError(f"{path}: line {number} is not a JSON object.")
                _check_header(list(row), names, path)
                for name in names:
                    columns[name].append(row[name])
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not UTF-8: {error}") from error
    except json.JSONDecodeError as error:
        raise FormatError(f"{path}: line {number} is not valid JSON ({error}).") from error
    return columns


_READERS: dict[str, Callable[[Path, Sequence[str]], Columns]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".tsv": _read_csv,
}
