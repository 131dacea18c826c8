"""Read documents from a folder, a file or a table, and account for everything left out."""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, overload

from embedworks._core.progress import track
from embedworks._core.registry import did_you_mean
from embedworks._core.validation import check_in_range
from embedworks.data._reading.attributes import Scalar, clean_text, collect_attributes, unify_types
from embedworks.data.readers import READERS, Reader, SkipFileError
from embedworks.data.tables import Table
from embedworks.errors import (
    DuplicateIdError,
    EmptyInputError,
    FormatError,
    InputError,
    NotFoundError,
)

__all__ = ["Document", "DocumentSet", "ReadReport", "read_documents"]

_ID_COLUMNS = ("doc_id", "id", "_id")
_PRUNED = frozenset({"__pycache__", "node_modules", "site-packages"})


@dataclass(frozen=True, slots=True)
class Document:
    r"""One document as it was read.

    Args:
        doc_id: Unique id: the path inside the folder, or the id column of a table.
        text: The whole text, lines ended by ``\n``; line spans of chunks refer to it.
        title: Title, may be empty for rows without one.
        path: Path inside the folder, with "/" on every system.
        kind: How it is structured: text, markdown, rst, html, python, pdf or row.
        attributes: Scalars to filter on: folder and suffix of files, front matter, columns.
    """

    doc_id: str
    text: str
    title: str = ""
    path: str = ""
    kind: str = "text"
    attributes: dict[str, Scalar] = field(default_factory=dict)


class Skipped(NamedTuple):
    """Something that was not read."""

    path: str
    reason: str
    detail: str


class Duplicate(NamedTuple):
    """A document that was removed because another one has the same text."""

    path: str
    same_as: str


@dataclass(slots=True)
class ReadReport:
    """What `read_documents` read and what it left out, with the reasons.

    Args:
        source: What was read.
        n_documents: Documents kept.
        n_files: Files read, tables included.
        n_bytes: Size of these files.
        skipped: Files and rows that could not be used.
        duplicates: Documents removed because an earlier one has the same text.
        ignored: Files without a reader, counted by suffix.
        dropped_values: Attribute values that could not be kept, counted by column.
    """

    source: str
    n_documents: int = 0
    n_files: int = 0
    n_bytes: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    dropped_values: Counter[str] = field(default_factory=Counter)

    def skipped_by_reason(self) -> dict[str, int]:
        """Return how many entries were skipped for each reason, most frequent first."""
        return dict(Counter(item.reason for item in self.skipped).most_common())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            "source": self.source,
            "documents": self.n_documents,
            "files": self.n_files,
            "bytes": self.n_bytes,
            "skipped_by_reason": self.skipped_by_reason(),
            "skipped": [item._asdict() for item in self.skipped],
            "duplicates": [item._asdict() for item in self.duplicates],
            "ignored": dict(self.ignored),
            "dropped_values": dict(self.dropped_values),
        }

    def summary(self) -> str:
        """Return a few lines of text for people."""
        lines = [
            f"Read {self.n_documents:,} documents from {self.n_files:,} files "
            f"({self.n_bytes / 1e6:,.1f} MB) of {self.source}."
        ]
        if self.duplicates:
            lines.append(f"Removed {len(self.duplicates):,} duplicates.")
        for reason, count in self.skipped_by_reason().items():
            first = next(item for item in self.skipped if item.reason == reason)
            detail = f" ({first.detail})" if first.detail else ""
            lines.append(f"Skipped {count:,}: {reason}, first {first.path}{detail}.")
        if self.ignored:
            kinds = ", ".join(f"{s or 'no suffix'} {n:,}" for s, n in self.ignored.most_common(5))
            lines.append(f"No reader for {sum(self.ignored.values()):,} files: {kinds}.")
        if self.dropped_values:
            names = ", ".join(f"{c} {n:,}" for c, n in self.dropped_values.most_common(5))
            lines.append(f"Attribute values that are no scalars were dropped: {names}.")
        return "\n".join(lines)


class DocumentSet(Sequence[Document]):
    """The documents read, in a fixed order, and the report about the reading.

    Args:
        documents: The documents.
        report: What was read and left out.
    """

    def __init__(self, documents: Sequence[Document], report: ReadReport) -> None:
        self._documents = tuple(documents)
        self.report = report

    @overload
    def __getitem__(self, index: int) -> Document: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Document]: ...
    def __getitem__(self, index: int | slice) -> Document | Sequence[Document]:
        return self._documents[index]

    def __len__(self) -> int:
        return len(self._documents)

    def __repr__(self) -> str:
        return f"DocumentSet({len(self)} documents from {self.report.source!r})"


def read_documents(
    source: str | os.PathLike[str],
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    text_column: str = "text",
    title_column: str = "title",
    id_column: str | None = None,
    max_file_bytes: int = 50_000_000,
    follow_links: bool = False,
    keep_duplicates: bool = False,
    show_progress: bool | None = None,
) -> DocumentSet:
    r"""Read a folder, one file, or a table with a text column.

    Folders are read recursively in sorted order; hidden entries and the folders
    ``__pycache__``, ``node_modules`` and ``site-packages`` are passed over. No bad file stops
    the reading: what is empty, binary, not UTF-8, damaged, unreadable, too large, or vanishes
    meanwhile is listed in ``.report``. A table (CSV, TSV, JSON lines, Parquet) gives one
    document per row; its other columns become attributes.

    Args:
        source: Folder or file.
        include: Glob patterns of files to read (``"*.md"``, ``"guide/*"``); None reads every
            file that has a reader.
        exclude: Glob patterns of files and folders to leave out (``"test"``, ``"*/idlelib"``).
        text_column: Column of tables with the text.
        title_column: Column of tables with the title, if there is one.
        id_column: Column of tables with the id; None takes doc_id, id or _id where present and
            the row number otherwise.
        max_file_bytes: Larger files are skipped; a table given as ``source`` has no limit.
        follow_links: Whether to follow symbolic links inside the folder; each real folder is
            read once, so loops end.
        keep_duplicates: Whether to keep documents whose title and text equal an earlier one's.
        show_progress: Force the progress bar on or off; None shows it on a terminal.

    Raises:
        NotFoundError: When ``source`` does not exist.
        EmptyInputError: When no document is left; says what was found.
        InputError: When a table given as ``source`` lacks the text column.
        DuplicateIdError: When an id column has a value twice.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "note.md").write_text("# Tea\n\nBoil the water first.")
        >>> documents = read_documents(folder)
        >>> documents[0].title, documents.report.n_documents
        ('Tea', 1)
    """
    check_in_range(max_file_bytes, name="max_file_bytes", low=1)
    for name, patterns in (("include", include), ("exclude", exclude)):
        if isinstance(patterns, str):
            raise InputError(f"{name} must be a list of patterns, got the text {patterns!r}.")
    root = Path(source)
    if not root.exists():
        raise NotFoundError(f"{root} does not exist: give a folder, a file or a table to read.")
    run = _Run(root, text_column, title_column, id_column, max_file_bytes, keep_duplicates)
    if root.is_dir():
        files = list(_walk(root, include, exclude, follow_links, run.report))
        for path, relative in track(files, "Reading", enabled=show_progress):
            run.read(path, relative)
    else:
        reader = _reader_for(root)
        if reader is None:
            raise InputError(
                f"{root.name} has no reader. {did_you_mean(root.suffix.lower(), READERS.names())}"
            )
        run.read(root, PurePosixPath(root.name))
    return run.finish()


class _Run:
    """One call of `read_documents`: collects documents and the report."""

    def __init__(
        self,
        root: Path,
        text_column: str,
        title_column: str,
        id_column: str | None,
        max_file_bytes: int,
        keep_duplicates: bool,
    ) -> None:
        self.root = root
        self.is_folder = root.is_dir()
        self.in_package = self.is_folder and (root / "__init__.py").is_file()
        self.text_column = text_column
        self.title_column = title_column
        self.id_column = id_column
        self.max_file_bytes = max_file_bytes
        self.keep_duplicates = keep_duplicates
        self.report = ReadReport(source=str(root))
        self.documents: list[Document] = []
        self._by_text: dict[bytes, str] = {}
        self._ids: set[str] = set()

    def read(self, path: Path, relative: PurePosixPath) -> None:
        reader = _reader_for(path)
        if reader is None:
            self.report.ignored[path.suffix.lower()] += 1
            return
        try:
            if reader.read_table is not None:
                self._read_table(path, relative, reader)
            else:
                self._read_file(path, relative, reader)
        except SkipFileError as problem:
            self._skip(relative, problem.reason, problem.detail)
        except FormatError as problem:
            self._skip(relative, "damaged", str(problem))
        except FileNotFoundError:
            self._skip(relative, "vanished", "it was there when the folder was listed")
        except OSError as problem:
            name = errno.errorcode.get(problem.errno or 0, type(problem).__name__)
            self._skip(relative, "unreadable", f"{name}: {problem.strerror or problem}")

    def finish(self) -> DocumentSet:
        report = self.report
        report.n_documents = len(self.documents)
        if not self.documents:
            found = report.summary().split("\n", 1)
            raise EmptyInputError(
                f"No document could be read from {self.root}. Looked for files ending in "
                f"{', '.join(READERS.names())}. " + (found[1] if len(found) > 1 else "")
            )
        unify_types(document.attributes for document in self.documents)
        return DocumentSet(self.documents, report)

    def _skip(self, relative: PurePosixPath, reason: str, detail: str = "") -> None:
        self.report.skipped.append(Skipped(_text_path(relative), reason, detail))

    def _read_file(self, path: Path, relative: PurePosixPath, reader: Reader) -> None:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SkipFileError("not a regular file")
        with open(path, "rb") as handle:
            data = handle.read(self.max_file_bytes + 1)
        if len(data) > self.max_file_bytes:
            size = path.stat().st_size
            raise SkipFileError("too large", f"{size:,} bytes, limit {self.max_file_bytes:,}")
        if not data.strip():
            raise SkipFileError("empty")
        assert reader.read_file is not None
        named = PurePosixPath(self.root.resolve().name, relative) if self.in_package else relative
        content = reader.read_file(named, data)
        if not content.text.strip():
            raise SkipFileError("empty")
        self._count_file(len(data))
        attributes = collect_attributes(content.attributes, self.report.dropped_values)
        attributes.setdefault("folder", relative.parts[0] if len(relative.parts) > 1 else ".")
        attributes.setdefault("suffix", relative.suffix.lower())
        name = _text_path(relative)
        title = clean_text(" ".join(content.title.split()))
        self._add(Document(name, content.text, title, name, content.kind, attributes), name)

    def _read_table(self, path: Path, relative: PurePosixPath, reader: Reader) -> None:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SkipFileError("not a regular file")
        if self.is_folder and status.st_size > self.max_file_bytes:
            raise SkipFileError(
                "too large", f"{status.st_size:,} bytes, limit {self.max_file_bytes:,}"
            )
        if status.st_size == 0:
            raise SkipFileError("empty")
        assert reader.read_table is not None
        names = {self.text_column, self.title_column, self.id_column or "", "path", *_ID_COLUMNS}
        table = reader.read_table(path, frozenset(names))
        id_column = self._check_columns(relative, table)
        self._count_file(status.st_size)
        empty: list[int] = []
        without_id: list[int] = []
        for number, row in table.rows:
            text = _as_text(row.pop(self.text_column, None))
            title = " ".join(_as_text(row.pop(self.title_column, None)).split())
            given = row.pop(id_column, None) if id_column else number
            if not text.strip():
                text, title = title, ""
            if not text:
                empty.append(number)
            elif given is None or given == "":
                without_id.append(number)
            else:
                self._add_row(relative, text, title, given, row, id_column is not None)
        for reason, numbers in (
            ("rows without text", empty),
            ("rows without id", without_id),
            ("damaged rows", table.damaged),
        ):
            if numbers:
                shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
                self._skip(relative, reason, f"{len(numbers):,} rows: {shown}")

    def _add_row(
        self,
        relative: PurePosixPath,
        text: str,
        title: str,
        given: Any,
        row: dict[str, Any],
        has_id: bool,
    ) -> None:
        name = _text_path(relative)
        own_id = clean_text(str(given))
        doc_id = own_id if has_id and not self.is_folder else f"{name}#{own_id}"
        if doc_id in self._ids:
            raise DuplicateIdError(
                f"The id {own_id!r} occurs more than once in {name}: ids must be unique. "
                "Choose another id_column or remove the repeated rows."
            )
        self._ids.add(doc_id)
        own_path = row.pop("path", None)
        attributes = collect_attributes(row, self.report.dropped_values)
        path = clean_text(own_path) if isinstance(own_path, str) and own_path else name
        self._add(Document(doc_id, text, title, path, "row", attributes), doc_id)

    def _check_columns(self, relative: PurePosixPath, table: Table) -> str | None:
        """Return the id column; raise when a column asked for is not there."""
        wanted = [(self.text_column, "text_column")]
        if self.title_column != "title":
            wanted.append((self.title_column, "title_column"))
        if self.id_column is not None:
            wanted.append((self.id_column, "id_column"))
        for column, argument in wanted:
            if column not in table.columns:
                present = ", ".join(map(repr, table.columns)) or "none"
                message = (
                    f"{relative} has no column {column!r}; its columns are {present}. "
                    f"{did_you_mean(column, table.columns)} Set {argument}."
                )
                if self.is_folder:
                    raise SkipFileError("missing column", message)
                raise InputError(message)
        if self.id_column is not None:
            return self.id_column
        return next((name for name in _ID_COLUMNS if name in table.columns), None)

    def _count_file(self, size: int) -> None:
        self.report.n_files += 1
        self.report.n_bytes += size

    def _add(self, document: Document, name: str) -> None:
        if not self.keep_duplicates:
            words = f"{document.title if document.kind == 'row' else ''}\n{document.text}".split()
            key = hashlib.blake2b(" ".join(words).encode("utf-8"), digest_size=16).digest()
            first = self._by_text.setdefault(key, name)
            if first != name:
                self.report.duplicates.append(Duplicate(name, first))
                return
        self.documents.append(document)


def _reader_for(path: Path) -> Reader | None:
    suffix = path.suffix.lower()
    return READERS[suffix] if suffix in READERS else None  # noqa: SIM401 - a Registry has no get


def _as_text(value: Any) -> str:
    return "" if value is None else clean_text(value if isinstance(value, str) else str(value))


def _text_path(path: PurePosixPath) -> str:
    """Return the path as storable text; undecodable bytes become U+FFFD."""
    return os.fsencode(str(path)).decode("utf-8", "replace")


def _matches(relative: PurePosixPath, patterns: Sequence[str]) -> bool:
    whole = relative.as_posix()
    return any(
        fnmatch.fnmatchcase(whole, p) or ("/" not in p and fnmatch.fnmatchcase(relative.name, p))
        for p in patterns
    )


def _walk(
    root: Path,
    include: Sequence[str] | None,
    exclude: Sequence[str],
    follow_links: bool,
    report: ReadReport,
) -> Iterator[tuple[Path, PurePosixPath]]:
    """Yield files below ``root`` with their relative path, sorted, each real folder once."""
    seen: set[tuple[int, int]] = set()
    # A stack in place of recursion: folders may be nested deeper than Python recurses.
    stack: list[tuple[Path, PurePosixPath, bool]] = [(root, PurePosixPath(), True)]
    while stack:
        path, relative, is_folder = stack.pop()
        if not is_folder:
            yield path, relative
            continue
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen:
                detail = "another path to a folder that was read already"
                report.skipped.append(Skipped(_text_path(relative), "linked folder", detail))
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name, reverse=True)
        except OSError as problem:
            _skip_folder(report, relative, problem)
            continue
        links: list[Skipped] = []
        for entry in entries:
            inner = relative / entry.name
            if entry.name.startswith(".") or _matches(inner, exclude):
                continue
            if entry.is_symlink() and not follow_links:
                detail = "links are followed with follow_links=True"
                links.append(Skipped(_text_path(inner), "symbolic link", detail))
                continue
            try:
                inner_folder = entry.is_dir()
            except OSError as problem:
                _skip_folder(report, inner, problem)
                continue
            if inner_folder:
                if entry.name not in _PRUNED:
                    stack.append((Path(entry.path), inner, True))
            elif include is None or _matches(inner, include):
                stack.append((Path(entry.path), inner, False))
        report.skipped += reversed(links)


def _skip_folder(report: ReadReport, relative: PurePosixPath, problem: OSError) -> None:
    reason = "vanished" if isinstance(problem, FileNotFoundError) else "unreadable"
    report.skipped.append(Skipped(_text_path(relative), reason, str(problem.strerror or problem)))
