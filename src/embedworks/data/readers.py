"""Readers by file suffix: bytes of one file to text with a title, or a table to rows.

A reader never decides what happens to a bad file: it raises `SkipFileError` with a reason, and
`read_documents` counts and lists it.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from embedworks._core.extras import require_extra
from embedworks._core.registry import Registry
from embedworks.data._reading.html import html_title
from embedworks.data._reading.markdown import front_matter, markdown_title
from embedworks.data._reading.rst import rst_title
from embedworks.data.tables import Table, read_delimited, read_jsonl, read_parquet
from embedworks.errors import EmbedworksError, MissingExtraError

__all__ = ["READERS", "FileContent", "Reader", "SkipFileError"]

_CONTROL = bytes(set(range(32)) - {8, 9, 10, 11, 12, 13, 27})
_PAGE_BREAK = "\n\f\n"


class SkipFileError(EmbedworksError):
    """Raised by a reader for a file it cannot use; the file is counted and listed.

    Args:
        reason: Short and the same for all such files (``"not UTF-8"``): counts go by it.
        detail: What was found in this file.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class FileContent:
    r"""What a reader found in one file.

    Args:
        text: The file's text, lines ended by ``\n``; line spans refer to it.
        title: Title of the document.
        kind: Structure to chunk by: text, markdown, rst, html, python or pdf.
        attributes: Further fields such as front matter, any type; cleaned later.
    """

    text: str
    title: str
    kind: str
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reader:
    """How files of one suffix are read: exactly one of the two functions is set.

    Args:
        read_file: ``(relative path, bytes) -> FileContent``, one document per file.
        read_table: ``(path, names of columns to keep as text) -> Table``, one document per row.
    """

    read_file: Callable[[PurePosixPath, bytes], FileContent] | None = None
    read_table: Callable[[Path, frozenset[str]], Table] | None = None


#: Readers by suffix, with the dot and in lower case.
READERS: Registry[Reader] = Registry("readers")


def decode(data: bytes) -> str:
    r"""Decode UTF-8 (with or without byte-order mark) and end all lines by ``\n``.

    Raises:
        SkipFileError: For binary data and for other encodings.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise SkipFileError("not UTF-8", "starts with a UTF-16 byte-order mark")
    head = data[:65536]
    if b"\x00" in data or len(head.translate(None, _CONTROL)) < 0.95 * len(head):
        raise SkipFileError("binary", "contains NUL bytes or many control characters")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SkipFileError(
            "not UTF-8", f"byte {error.start} is {data[error.start]:#04x}"
        ) from None
    return _unix_lines(text)


def _unix_lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _title_of(path: PurePosixPath) -> str:
    """Title of a file without one: its name, or its folder's where the name says nothing."""
    stem = path.stem
    if stem.casefold() in ("readme", "index") and len(path.parts) > 1:
        stem = path.parts[-2]
    return re.sub(r"[-_\s]+", " ", stem).strip() or path.name


def _read_text(path: PurePosixPath, data: bytes) -> FileContent:
    return FileContent(decode(data), _title_of(path), "text")


def _read_markdown(path: PurePosixPath, data: bytes) -> FileContent:
    text = decode(data)
    fields, _ = front_matter(text)
    title = fields.pop("title", None)
    found = str(title) if isinstance(title, (str, int, float)) else markdown_title(text)
    return FileContent(text, found or _title_of(path), "markdown", fields)


def _read_rst(path: PurePosixPath, data: bytes) -> FileContent:
    text = decode(data)
    return FileContent(text, rst_title(text) or _title_of(path), "rst")


def _read_html(path: PurePosixPath, data: bytes) -> FileContent:
    text = decode(data)
    return FileContent(text, html_title(text) or _title_of(path), "html")


def _read_python(path: PurePosixPath, data: bytes) -> FileContent:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = decode(data) if encoding.startswith("utf-8") else data.decode(encoding)
    except (SyntaxError, LookupError, UnicodeDecodeError) as error:
        raise SkipFileError("not UTF-8", str(error)) from None
    parts = [*path.parts[:-1], path.stem]
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return FileContent(_unix_lines(text), ".".join(parts), "python")


def _read_pdf(path: PurePosixPath, data: bytes) -> FileContent:
    try:
        pypdf = require_extra("pypdf", extra="pdf", purpose="read PDF files")
    except MissingExtraError as error:
        raise SkipFileError("missing extra", str(error)) from None
    try:
        pdf = pypdf.PdfReader(io.BytesIO(data), strict=False)
        pages = [page.extract_text() for page in pdf.pages]
        title = (pdf.metadata.title if pdf.metadata else None) or _title_of(path)
    except Exception as error:  # pypdf lets many builtin errors out of damaged files
        raise SkipFileError("damaged", f"{type(error).__name__}: {error}") from None
    text = _PAGE_BREAK.join(_unix_lines(page.replace("\x00", " ")) for page in pages)
    if not text.replace("\f", "").strip():
        raise SkipFileError("empty", "a PDF without a text layer (scanned pages?)")
    return FileContent(text, str(title).strip() or _title_of(path), "pdf", {"pages": len(pages)})


for _suffix, _read, _summary in (
    (".txt", _read_text, "Plain text."),
    (".md", _read_markdown, "Markdown, with YAML front matter."),
    (".markdown", _read_markdown, "Markdown, with YAML front matter."),
    (".rst", _read_rst, "reStructuredText."),
    (".html", _read_html, "HTML; scripts, styles and navigation are left out."),
    (".htm", _read_html, "HTML; scripts, styles and navigation are left out."),
    (".py", _read_python, "Python source: docstrings and code."),
    (".pdf", _read_pdf, "PDF with a text layer (extra `pdf`)."),
):
    READERS.add(_suffix, Reader(read_file=_read), summary=_summary)

for _suffix, _read_rows, _summary in (
    (".csv", read_delimited, "Comma-separated values, one document per row."),
    (".tsv", read_delimited, "Tab-separated values, one document per row."),
    (".jsonl", read_jsonl, "One JSON object per line, one document per row."),
    (".parquet", read_parquet, "Parquet, one document per row."),
):
    READERS.add(_suffix, Reader(read_table=_read_rows), summary=_summary)
