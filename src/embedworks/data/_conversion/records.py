"""Records of labelled data sets: reading them, and turning them into rows that are accounted for.

Every record ends in exactly one place: in a row, or under a reason for leaving it out.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.registry import did_you_mean
from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice
from embedworks.data.rows import Row, RowInput, RowSet, content_key
from embedworks.errors import (
    DataWarning,
    EmptyInputError,
    FormatError,
    InputError,
    NotFoundError,
)

__all__ = ["Collector", "ConversionReport", "Converted", "RecordSource", "read_records"]

#: Records as a list of dicts, a pyarrow table, or the path of a Parquet, JSONL, CSV or TSV file.
RecordSource = Any

_FEWER = ("keep", "repeat", "drop")


def read_records(
    source: RecordSource,
    *,
    columns: Iterable[str] | None = None,
    where: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Read records of a labelled data set, some columns and some rows of it.

    Args:
        source: A list of dicts, a pyarrow table, or the path of a ``.parquet``, ``.jsonl``,
            ``.csv`` or ``.tsv`` file.
        columns: Columns wanted; None reads all.
        where: Column -> the value a record must have there, or a list of allowed values.

    Returns:
        One dict per record, in the order of the source.

    Raises:
        NotFoundError: When there is no such file.
        FormatError: When the file is damaged or of an unknown kind.
        InputError: When a column is missing or a record is not a dict.
        EmptyInputError: When no record is there, or none passes ``where``.

    Example:
        >>> records = [{"text": "hi", "label": "greet"}, {"text": "bye", "label": "leave"}]
        >>> read_records(records, columns=["text"], where={"label": ["leave", "exit"]})
        [{'text': 'bye'}]
    """
    conditions = {name: _allowed(values) for name, values in (where or {}).items()}
    wanted = None if columns is None else list(dict.fromkeys(columns))
    needed = None if wanted is None else list(dict.fromkeys([*wanted, *conditions]))
    records, total = _load(source, needed, conditions)
    if not total:
        raise EmptyInputError("there are no records: give a data set with at least one.")
    if not records:
        raise EmptyInputError(f"no record passes where={dict(where or {})!r}: check its values.")
    return [{n: r.get(n) for n in wanted} for r in records] if wanted is not None else records


def _allowed(values: Any) -> list[Any]:
    return list(values) if isinstance(values, (list, tuple, set, frozenset)) else [values]


def _check_column(records: Sequence[Mapping[str, Any]], name: str) -> None:
    if any(name in record for record in records):
        return
    known = sorted({key for record in records[:1000] for key in record})
    raise InputError(f"the records have no column {name!r}. {did_you_mean(name, known)}")


def _load(
    source: RecordSource, columns: list[str] | None, conditions: Mapping[str, list[Any]]
) -> tuple[list[dict[str, Any]], int]:
    """Return the records that meet the conditions, and how many there are in all."""
    if isinstance(source, (str, Path)):
        source = _load_file(Path(source), columns)
    needed = columns if columns is not None else list(conditions)
    if hasattr(source, "to_pylist") and hasattr(source, "column_names"):
        return _select(source, columns, needed, conditions), source.num_rows
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise InputError(
            f"records must be a list of dicts, a table or a path, got a {type(source).__name__}."
        )
    records = list(source)
    for number, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise InputError(f"record {number} must be a dict, got a {type(record).__name__}.")
    for name in needed if records else ():
        _check_column(records, name)
    met = [r for r in records if all(r.get(n) in v for n, v in conditions.items())]
    return [dict(record) for record in met], len(records)


def _load_file(path: Path, columns: list[str] | None) -> Any:
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist: give the file of a data set.")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            here = columns is not None and set(columns) <= set(pq.read_schema(path).names)
            return pq.read_table(path, columns=columns if here else None)
        except (pa.ArrowException, OSError) as error:
            raise FormatError(f"{path} is not a readable Parquet file ({error}).") from error
    if suffix not in (".jsonl", ".csv", ".tsv"):
        raise FormatError(f"{path} is not a .parquet, .jsonl, .csv or .tsv file.")
    from embedworks.data.tables import read_delimited, read_jsonl

    table = (read_jsonl if suffix == ".jsonl" else read_delimited)(path, frozenset())
    records = [record for _, record in table.rows]
    if table.damaged:
        warnings.warn(
            f"{path}: {len(table.damaged)} damaged records were left out, the first in row "
            f"{table.damaged[0]}.",
            DataWarning,
            stacklevel=4,
        )
    return records


def _select(
    table: Any,
    columns: list[str] | None,
    needed: Sequence[str],
    conditions: Mapping[str, list[Any]],
) -> list[dict[str, Any]]:
    for name in needed:
        if name not in table.column_names:
            raise InputError(
                f"the table has no column {name!r}. {did_you_mean(name, table.column_names)}"
            )
    if conditions:
        kept = np.ones(table.num_rows, dtype=bool)
        for name, allowed in conditions.items():
            kept &= np.array([v in allowed for v in table[name].to_pylist()], dtype=bool)
        table = table.take(np.flatnonzero(kept))
    records: list[dict[str, Any]] = (
        table if columns is None else table.select(columns)
    ).to_pylist()
    return records


@dataclass(frozen=True)
class ConversionReport:
    """What became of every record of a conversion.

    ``converted + sum(skipped.values()) == records`` always holds.

    Attributes:
        converter: Name of the converter.
        records: Records read.
        converted: Records that are part of at least one row.
        rows: Rows made; more or fewer than ``converted`` where a record gives several rows or
            several records share one.
        sources: Rows by source name.
        skipped: Records in no row, counted by reason.
        notes: Other things that were changed or left out, counted.
        first: Number of the first record, from 0, behind each entry of ``skipped``.
    """

    converter: str
    records: int
    converted: int
    rows: int
    sources: dict[str, int]
    skipped: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "converter": self.converter,
            "records": self.records,
            "converted": self.converted,
            "rows": self.rows,
            "sources": dict(self.sources),
            "skipped": dict(self.skipped),
            "notes": dict(self.notes),
            "first": dict(self.first),
        }


#: What every converter returns.
Converted = tuple[RowSet, ConversionReport]


class Collector:
    """Rows of one conversion and the account of its records.

    Args:
        converter: Name of the converter, kept in the rows' provenance.
        records: Where the records come from.
        columns: Columns the converter reads; None entries are left out.
        source: Source name of the rows.
        source_column: Column that names the source of each record instead, or None.
    """

    def __init__(
        self,
        converter: str,
        records: RecordSource,
        columns: Sequence[str | None],
        *,
        source: str,
        source_column: str | None = None,
    ) -> None:
        self.converter = converter
        wanted = [c for c in (*columns, source_column) if c is not None]
        self.records = read_records(records, columns=wanted)
        self._source, self._source_column = source, source_column
        self._rows: list[tuple[int, Row, tuple[int, ...]]] = []
        self._seen: set[tuple[Any, ...]] = set()
        self._reasons: dict[int, str] = {}
        self._notes: Counter[str] = Counter()

    def source_of(self, number: int) -> str:
        """Return the source name of a record."""
        if self._source_column is None:
            return self._source
        name = self.records[number][self._source_column]
        if name is None or not str(name).strip():
            raise InputError(f"record {number} has no source in column {self._source_column!r}.")
        return str(name)

    def input(self, number: int, column: str) -> RowInput | None:
        """Return a text or dict of a record; None, and the record skipped, where it is empty."""
        value = self.records[number][column]
        if _is_empty(value):
            self.skip(number, f"empty {column}")
            return None
        return as_input(value, number, column)

    def inputs(self, number: int, column: str, *, keep_empty: bool = False) -> list[RowInput]:
        """Return the texts or dicts of a list column, which may hold a single one.

        Empty ones are left out, or kept as "" so that positions in the list stay what they are.
        """
        value = self.records[number][column]
        items = list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]
        empty = [_is_empty(item) for item in items]
        return [
            "" if gone else as_input(item, number, column)
            for item, gone in zip(items, empty, strict=True)
            if keep_empty or not gone
        ]

    def label(self, number: int, column: str) -> str | None:
        """Return a record's label as a string; None, and the record skipped, without one."""
        value = self.records[number][column]
        missing = value is None or value != value or not str(value).strip()
        if missing:
            self.skip(number, f"no {column}")
            return None
        return str(value)

    def number(self, number: int, column: str) -> float | None:
        """Return a record's score; None, and the record skipped, without one."""
        value = self.records[number][column]
        if value is None or (isinstance(value, str) and not value.strip()):
            self.skip(number, f"no {column}")
            return None
        try:
            score = float(value)
        except (TypeError, ValueError):
            raise InputError(
                f"record {number}: {column} must be a number, got {value!r:.60}."
            ) from None
        if not np.isfinite(score):
            self.skip(number, f"no {column}")
            return None
        return score

    def skip(self, number: int, reason: str) -> None:
        """Leave a record out; the first reason given for it counts."""
        self._reasons.setdefault(number, reason)

    def note(self, what: str, count: int = 1) -> None:
        """Count something that was changed or left out without losing a record."""
        if count:
            self._notes[what] += count

    def add(
        self,
        number: int,
        row: Row,
        *,
        negatives_from: Sequence[int] | None = None,
        same_text_allowed: bool = False,
    ) -> None:
        """Keep a row of a record, unless it was seen or its positive is its anchor.

        Args:
            number: The record of the anchor and positive.
            row: The row; negatives that equal its anchor or positive are taken out.
            negatives_from: Records of the negatives, where those are records of their own.
            same_text_allowed: Whether anchor and positive may be equal.
        """
        anchor, positive = content_key(row.anchor), content_key(row.positive)
        if anchor == positive and not same_text_allowed:
            return self.skip(number, "positive equals anchor")
        key = (anchor, positive, row.source, row.label, row.score)
        if key in self._seen:
            return self.skip(number, "duplicate")
        self._seen.add(key)
        taken = {anchor, positive}
        fine = [i for i, n in enumerate(row.negatives) if content_key(n) not in taken]
        self.note("negatives equal to anchor or positive", len(row.negatives) - len(fine))
        origins = () if negatives_from is None else tuple(negatives_from[i] for i in fine)
        row = replace(
            row,
            negatives=tuple(row.negatives[i] for i in fine),
            provenance=f"{self.converter}:{number}",
        )
        self._rows.append((number, row, origins))
        return None

    def finish(
        self, *, num_negatives: int | None = None, fewer: str = "keep", seed: int = 0
    ) -> tuple[RowSet, ConversionReport]:
        """Bring every row to its number of negatives and close the account.

        Args:
            num_negatives: Most negatives of a row, drawn at random from more; None keeps all.
            fewer: What happens to a row with fewer than that: "keep" it as it is, "repeat" its
                negatives, or "drop" it.
            seed: Seed of the draw.

        Raises:
            EmptyInputError: When no row is left; the message has the reasons.
        """
        check_choice(fewer, _FEWER, name="fewer")
        if num_negatives is not None and num_negatives < 0:
            raise InputError(f"num_negatives must be 0 or greater, got {num_negatives}.")
        if num_negatives is None and fewer != "keep":
            raise InputError(f"fewer={fewer!r} needs num_negatives: how many are wanted?")
        rng = generator(seed, "conversion", self.converter, "negatives")
        rows: list[Row] = []
        used: set[int] = set()
        for number, row, origins in self._rows:
            chosen = self._choose(len(row.negatives), num_negatives, fewer, rng)
            if chosen is None:
                self.skip(number, f"fewer than {num_negatives} negatives")
                self.note(f"rows with fewer than {num_negatives} negatives left out")
                continue
            rows.append(replace(row, negatives=tuple(row.negatives[i] for i in chosen)))
            used.add(number)
            used.update(origins[i] for i in chosen if origins)
        report = self._report(rows, used)
        if not rows:
            reasons = ", ".join(f"{n} x {reason}" for reason, n in report.skipped.items())
            raise EmptyInputError(
                f"{self.converter}: none of {report.records} records gives a row ({reasons})."
            )
        return RowSet(rows), report

    def _choose(
        self, available: int, wanted: int | None, fewer: str, rng: np.random.Generator
    ) -> Sequence[int] | None:
        """Return which negatives a row keeps, or None where the row is dropped."""
        if wanted is None or available == wanted:
            return range(available)
        if available > wanted:
            return sorted(rng.choice(available, size=wanted, replace=False).tolist())
        if fewer == "drop" or (fewer == "repeat" and available == 0):
            return None
        if fewer == "repeat":
            self.note("rows with repeated negatives")
            return [i % available for i in range(wanted)]
        return range(available)

    def _report(self, rows: Sequence[Row], used: set[int]) -> ConversionReport:
        skipped: Counter[str] = Counter()
        first: dict[str, int] = {}
        for number in range(len(self.records)):
            if number not in used:
                reason = self._reasons.get(number, "in no row")
                skipped[reason] += 1
                first.setdefault(reason, number)
        return ConversionReport(
            converter=self.converter,
            records=len(self.records),
            converted=len(used),
            rows=len(rows),
            sources=dict(Counter(row.source for row in rows)),
            skipped=dict(skipped),
            notes=dict(self._notes),
            first=first,
        )


def _is_empty(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, (str, Mapping)) and not value)
        or (isinstance(value, str) and not value.strip())
    )


def as_input(value: Any, number: int, column: str) -> RowInput:
    """Return a text or dict as it is.

    Raises:
        InputError: When it is neither.
    """
    if isinstance(value, (str, Mapping)):
        return value
    raise InputError(
        f"record {number}: {column} must be a text or a dict of modalities, "
        f"got {type(value).__name__} {value!r:.60}."
    )
