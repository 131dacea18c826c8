"""Training rows: what a contrastive objective learns from, in one form for every stage.

Pair making, conversion, synthesis and mining all produce rows; batching and training read them.
Knows texts and other inputs as opaque values; nothing of models, losses or files of documents.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from embedworks._core.files import atomic_path
from embedworks.errors import EmptyInputError, FormatError, InputError, NotFoundError, ShapeError

__all__ = ["Row", "RowInput", "RowSet", "content_key"]

#: A text, or a dict of modalities such as ``{"text": ..., "image": ...}``.
RowInput = str | Mapping[str, Any]

_FORMAT = "1"


def content_key(value: RowInput) -> int:
    """Return a 63-bit key of an input's content, the same in every process.

    Equal inputs have equal keys. Two of a billion different inputs share one with a probability
    of about 5 %.

    Raises:
        InputError: When a dict holds something that has no stable bytes.

    Example:
        >>> content_key("a") == content_key("a"), content_key("a") == content_key("b")
        (True, False)
    """
    digest = hashlib.blake2b(digest_size=8)
    _feed(digest, value)
    return int.from_bytes(digest.digest(), "big") >> 1


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, str):
        digest.update(b"s" + value.encode("utf-8", "surrogatepass"))
    elif isinstance(value, bytes):
        digest.update(b"b" + value)
    elif isinstance(value, Mapping):
        for key in sorted(value):
            digest.update(b"k" + str(key).encode() + b"\0")
            _feed(digest, value[key])
    elif isinstance(value, bool | int | float) or value is None:
        digest.update(b"n" + repr(value).encode())
    elif isinstance(value, list | tuple):
        digest.update(b"l" + str(len(value)).encode())
        for item in value:
            _feed(digest, item)
    elif isinstance(value, np.ndarray):
        digest.update(b"a" + f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif hasattr(value, "tobytes") and hasattr(value, "size"):  # a PIL image
        digest.update(b"i" + f"{value.size}".encode())
        digest.update(value.tobytes())
    else:
        raise InputError(
            f"an input holds a {type(value).__name__}: use texts, numbers, bytes, arrays or images."
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One training example.

    Attributes:
        anchor: The query side.
        positive: What belongs to it.
        negatives: What looks as if it belonged, best first; may be empty.
        source: Name of the data set, for batch composition, prompts and per-source settings.
        label: Class of the anchor; rows of equal source and label are of one class.
        positive_id: Id of the positive's document; rows with equal ids share a positive.
        score: Graded similarity of anchor and positive, on the source's own scale.
        teacher_scores: A teacher's scores for the positive and each negative, in that order.
        provenance: Where the row comes from (miner, generator, file), for audits.
    """

    anchor: RowInput
    positive: RowInput
    negatives: tuple[RowInput, ...] = ()
    source: str = "default"
    label: str | None = None
    positive_id: str | None = None
    score: float | None = None
    teacher_scores: tuple[float, ...] | None = None
    provenance: str | None = None

    def problem(self) -> str | None:
        """Return what is wrong with this row, or None."""
        for name, value in (("anchor", self.anchor), ("positive", self.positive)):
            if not value or (isinstance(value, str) and not value.strip()):
                return f"{name} is empty"
        for place, value in enumerate(self.negatives):
            if not value or (isinstance(value, str) and not value.strip()):
                return f"negative {place + 1} is empty"
        if self.score is not None and not np.isfinite(self.score):
            return f"score is {self.score}"
        if self.teacher_scores is not None:
            if len(self.teacher_scores) != 1 + len(self.negatives):
                return (
                    f"{len(self.teacher_scores)} teacher scores for 1 positive and "
                    f"{len(self.negatives)} negatives"
                )
            if not np.isfinite(self.teacher_scores).all():
                return "a teacher score is not finite"
        return None

    @classmethod
    def from_record(cls, record: Mapping[str, Any], *, source: str = "default") -> Row:
        """Read a row from a mapping, such as a line of JSONL or a Parquet record.

        Besides this class's own fields, ``negative``, ``negative_1``, ... are negatives too, in
        order of their names; empty negatives are left out.

        Args:
            record: The mapping; ``anchor`` and ``positive`` are required.
            source: Used when the record names none.

        Raises:
            InputError: When a value cannot be read as what it is named.
        """
        singles = sorted(n for n in record if n == "negative" or n.startswith("negative_"))
        negatives = [*(record.get("negatives") or []), *(record[name] for name in singles)]
        label, identity = record.get("label"), record.get("positive_id")
        scores = record.get("teacher_scores")
        try:
            return cls(
                anchor=_from_cell(record.get("anchor")),
                positive=_from_cell(record.get("positive")),
                negatives=tuple(_from_cell(value) for value in negatives if value),
                source=record.get("source") or source,
                label=None if label is None else str(label),
                positive_id=None if identity is None else str(identity),
                score=None if record.get("score") is None else float(record["score"]),
                teacher_scores=tuple(float(x) for x in scores) if scores else None,
                provenance=record.get("provenance"),
            )
        except (TypeError, ValueError) as error:
            raise InputError(f"not a training row: {error}") from error


class RowSet(Sequence[Row]):
    """Rows that were checked, with their sources counted.

    Args:
        rows: The rows.

    Raises:
        InputError: When a row is unusable; names the row and what is wrong with it.

    Example:
        >>> rows = RowSet([Row("capital of France", "Paris is the capital.", source="qa")])
        >>> rows.sources
        {'qa': 1}
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = tuple(rows)
        for place, row in enumerate(self._rows):
            if problem := row.problem():
                raise InputError(
                    f"row {place} (source {row.source!r}): {problem}. Fix or drop the row first."
                )

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> RowSet: ...
    def __getitem__(self, index: int | slice) -> Row | RowSet:
        if isinstance(index, slice):
            return RowSet(self._rows[index])
        return self._rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __add__(self, other: RowSet) -> RowSet:
        return RowSet((*self._rows, *other))

    @property
    def sources(self) -> dict[str, int]:
        """Number of rows per source, in order of first appearance."""
        return dict(Counter(row.source for row in self._rows))

    @property
    def max_negatives(self) -> int:
        """The largest number of negatives any row has."""
        return max((len(row.negatives) for row in self._rows), default=0)

    def with_source(self, source: str) -> RowSet:
        """Return the rows under another source name."""
        return RowSet(replace(row, source=source) for row in self._rows)

    def fingerprint(self) -> str:
        """Return a hash of the rows' content and order."""
        digest = hashlib.sha256()
        for row in self._rows:
            for field in fields(row):
                _feed(digest, getattr(row, field.name))
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the rows to a Parquet file, atomically. Dict inputs must be JSON values.

        Raises:
            InputError: When an input is neither a text nor a JSON value.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._rows:
            raise EmptyInputError("there are no rows to save.")
        columns = {
            "anchor": pa.array([_to_cell(r.anchor) for r in self._rows], pa.string()),
            "positive": pa.array([_to_cell(r.positive) for r in self._rows], pa.string()),
            "negatives": pa.array(
                [[_to_cell(n) for n in r.negatives] for r in self._rows], pa.list_(pa.string())
            ),
            "source": pa.array([r.source for r in self._rows], pa.string()),
            "label": pa.array([r.label for r in self._rows], pa.string()),
            "positive_id": pa.array([r.positive_id for r in self._rows], pa.string()),
            "score": pa.array([r.score for r in self._rows], pa.float64()),
            "teacher_scores": pa.array(
                [r.teacher_scores and list(r.teacher_scores) for r in self._rows],
                pa.list_(pa.float64()),
            ),
            "provenance": pa.array([r.provenance for r in self._rows], pa.string()),
        }
        table = pa.table(columns).replace_schema_metadata({"embedworks.rows": _FORMAT})
        with atomic_path(Path(path)) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    @classmethod
    def load(cls, path: str | Path) -> RowSet:
        """Read rows that `save` wrote, or any Parquet or JSONL file with the same names.

        ``anchor`` and ``positive`` are required; ``negative``, ``negative_1``, ... are read as
        negatives too, empty ones are left out. Rows without a source get the file's name.

        Raises:
            NotFoundError: When there is no such file.
            FormatError: When it is neither, or a required column is missing.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(path)
        if not path.is_file():
            raise NotFoundError(
                f"{path} does not exist: give a Parquet or JSONL file of training rows."
            )
        if path.suffix in (".jsonl", ".ndjson"):
            return cls._load_jsonl(path)
        try:
            table = pq.read_table(path)
        except pa.ArrowException as error:
            raise FormatError(f"{path} cannot be read as Parquet: {error}") from error
        for name in ("anchor", "positive"):
            if name not in table.column_names:
                raise FormatError(
                    f"{path} has no column {name!r}, only {table.column_names}: training rows "
                    "need 'anchor' and 'positive'."
                )
        try:
            return cls(Row.from_record(record, source=path.stem) for record in table.to_pylist())
        except InputError as error:
            raise FormatError(f"{path}: {error}") from error

    @classmethod
    def _load_jsonl(cls, path: Path) -> RowSet:
        from embedworks.data._row_files import jsonl_records

        rows = []
        for position, record in jsonl_records(path):
            try:
                rows.append(Row.from_record(record, source=path.stem))
            except InputError as error:
                raise FormatError(f"{path}, row {position}: {error}") from error
        try:
            return cls(rows)
        except InputError as error:
            raise FormatError(f"{path}: {error}") from error

    @classmethod
    def from_columns(
        cls,
        anchors: Sequence[RowInput],
        positives: Sequence[RowInput],
        *negatives: Sequence[RowInput],
        source: str = "default",
    ) -> RowSet:
        """Build rows from parallel lists.

        Raises:
            ShapeError: When the lists differ in length.
        """
        lengths = [len(column) for column in (anchors, positives, *negatives)]
        if len(set(lengths)) != 1:
            raise ShapeError(f"every column needs one input per row, got lengths {lengths}.")
        return cls(
            Row(anchor, positive, tuple(rest), source=source)
            for anchor, positive, *rest in zip(anchors, positives, *negatives, strict=True)
        )


#: Marks a cell that holds a dict of modalities rather than a text.
_DICT_MARK = "\x1fdict:"


def _to_cell(value: RowInput) -> str:
    if isinstance(value, str):
        return value
    try:
        return _DICT_MARK + json.dumps(dict(value), sort_keys=True)
    except TypeError as error:
        raise InputError(
            f"a dict input cannot be saved ({error}): store paths instead of images or arrays."
        ) from error


def _from_cell(cell: Any) -> RowInput:
    if cell is None:
        return ""
    if isinstance(cell, str):
        if not cell.startswith(_DICT_MARK):
            return cell
        cell = json.loads(cell[len(_DICT_MARK) :])
    if not isinstance(cell, Mapping):
        raise TypeError(f"an input is a {type(cell).__name__}, not a text or a mapping")
    return cell
