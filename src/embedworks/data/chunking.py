"""Chunks: passages of a document within a token limit, each knowing where it comes from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

from embedworks._core.progress import track
from embedworks._core.validation import check_in_range, check_unique
from embedworks.data._reading.attributes import Scalar
from embedworks.data._reading.html import html_sections
from embedworks.data._reading.markdown import markdown_sections
from embedworks.data._reading.python import python_sections
from embedworks.data._reading.rst import rst_sections
from embedworks.data._sections import SEPARATOR, Section, line_starts
from embedworks.data._splitting import Counter, split_text
from embedworks.data.documents import Document
from embedworks.errors import EmptyInputError

__all__ = ["Chunk", "ChunkSet", "chunk_documents", "estimate_tokens"]

_BATCH = 256
_PIECE = re.compile(r"[^\W\d_]{1,8}|\d{1,3}|[^\w\s]|_")

CountTokens = Callable[[Sequence[str]], Sequence[int]]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of one document.

    Args:
        chunk_id: ``doc_id#n``, n counting the document's chunks from 0.
        doc_id: Id of the document.
        text: The passage; the title is not repeated in it.
        title: Breadcrumb of headings ("Guide > Install"), or the dotted name of code.
        path: Path of the document.
        start_line: First line of the passage in the document, from 1.
        end_line: Last line, inclusive.
        kind: "prose" or "code".
        attributes: The document's attributes, and ``page`` for PDF files.
        n_tokens: Tokens of `embedding_text`, as counted for the limit.
        docstring_span: Character span of the docstring inside ``text``, if it has one.
        part: 0 for the first passage of a section, 1 for the next, and so on.
    """

    chunk_id: str
    doc_id: str
    text: str
    title: str = ""
    path: str = ""
    start_line: int = 1
    end_line: int = 1
    kind: str = "prose"
    attributes: Mapping[str, Scalar] = field(default_factory=dict)
    n_tokens: int = 0
    docstring_span: tuple[int, int] | None = None
    part: int = 0

    @property
    def embedding_text(self) -> str:
        """The text to embed and to index: title and passage, the title only once."""
        return with_title(self.title, self.text)


class ChunkSet(Sequence[Chunk]):
    """Chunks in document order, and counts of what happened on the way.

    Args:
        chunks: The chunks.
        counts: ``documents``, ``sections``, ``split`` (sections cut because of the limit),
            ``merged`` (small sections joined with a neighbour), ``titles_shortened``,
            ``truncated`` (always 0: text over the limit is cut into more chunks).
        without_text: Ids of documents that gave no chunk, such as HTML without visible text.
        unparsed: Ids of Python files that do not parse and were cut like plain text.
        max_tokens: The limit that was kept.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        *,
        counts: Mapping[str, int],
        without_text: Sequence[str] = (),
        unparsed: Sequence[str] = (),
        max_tokens: int,
    ) -> None:
        self._chunks = tuple(chunks)
        self.counts = dict(counts)
        self.without_text = tuple(without_text)
        self.unparsed = tuple(unparsed)
        self.max_tokens = max_tokens
        self.longest = max((c.n_tokens for c in self._chunks), default=0)

    @overload
    def __getitem__(self, index: int) -> Chunk: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Chunk]: ...
    def __getitem__(self, index: int | slice) -> Chunk | Sequence[Chunk]:
        return self._chunks[index]

    def __len__(self) -> int:
        return len(self._chunks)

    def __repr__(self) -> str:
        return f"ChunkSet({len(self)} chunks of {self.counts['documents']} documents)"

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as plain values for JSON."""
        return {
            "chunks": len(self),
            **self.counts,
            "max_tokens": self.max_tokens,
            "longest": self.longest,
            "without_text": list(self.without_text),
            "unparsed": list(self.unparsed),
        }

    def summary(self) -> str:
        """Return a few lines of text for people."""
        c = self.counts
        lines = [
            f"Cut {c['documents']:,} documents into {len(self):,} chunks of at most "
            f"{self.max_tokens} tokens (longest {self.longest}); "
            f"{c['split']:,} sections were split, {c['merged']:,} small ones joined."
        ]
        if c["titles_shortened"]:
            lines.append(f"{c['titles_shortened']:,} titles were too long and were shortened.")
        if self.without_text:
            lines.append(f"{len(self.without_text):,} documents have no text to index.")
        if self.unparsed:
            lines.append(
                f"{len(self.unparsed):,} Python files do not parse and were cut as plain text."
            )
        return "\n".join(lines)


def with_title(title: str, text: str) -> str:
    """Put the title on a line before the text unless the text begins with it."""
    if not title or text[: len(title)].casefold() == title.casefold():
        return text
    return f"{title}\n{text}"


def estimate_tokens(texts: Sequence[str]) -> list[int]:
    """Estimate token counts without a tokenizer, from words and punctuation.

    Example:
        >>> estimate_tokens(["Boil the water, first."])
        [6]
    """
    return [len(_PIECE.findall(text)) for text in texts]


def chunk_documents(
    documents: Sequence[Document],
    *,
    max_tokens: int = 256,
    min_tokens: int = 32,
    count_tokens: CountTokens | None = None,
    show_progress: bool | None = None,
) -> ChunkSet:
    r"""Cut documents by their structure into chunks of at most ``max_tokens`` tokens.

    Markdown, reStructuredText and HTML are cut at headings, Python at classes and functions,
    PDF at pages; a section over the limit is cut at paragraphs, then sentences (lines of
    code), words, characters, into parts of about equal size. Nothing is truncated. Neighbouring
    sections below ``min_tokens`` are joined under their common title.

    Args:
        documents: What `read_documents` returned, or any documents.
        max_tokens: Most tokens in `Chunk.embedding_text`, title included; at least 16.
        min_tokens: Sections below this are joined with small neighbours; 0 joins none.
        count_tokens: The model's own count, ``(texts) -> counts``; None uses
            `estimate_tokens`.
        show_progress: Force the progress bar on or off; None shows it on a terminal.

    Raises:
        InputError: When a limit is out of range.
        EmptyInputError: When there are no documents, or none has any text.
        DuplicateIdError: When two documents have the same id.

    Example:
        >>> guide = Document("a", "# Tea\n\nBoil water.\n\n## Milk\n\nPour it last.", "Tea",
        ...                  kind="markdown")
        >>> [(c.title, c.start_line) for c in chunk_documents([guide], min_tokens=0)]
        [('Tea', 3), ('Tea > Milk', 7)]
    """
    check_in_range(max_tokens, name="max_tokens", low=16)
    check_in_range(min_tokens, name="min_tokens", low=0, high=max_tokens)
    if not documents:
        raise EmptyInputError("There are no documents to cut into chunks.")
    check_unique([d.doc_id for d in documents], name="document ids")
    run = _Run(max_tokens, min_tokens, count_tokens or estimate_tokens)
    starts = range(0, len(documents), _BATCH)
    for start in track(starts, "Chunking", enabled=show_progress):
        run.add(documents[start : start + _BATCH])
    if not run.chunks:
        raise EmptyInputError(
            f"None of the {len(documents)} documents has text to index; "
            f"the first is {documents[0].doc_id!r}."
        )
    return ChunkSet(
        run.chunks,
        counts=run.counts,
        without_text=run.without_text,
        unparsed=run.unparsed,
        max_tokens=max_tokens,
    )


Sectioner = Callable[[Document], list[Section] | None]


def _plain(document: Document) -> list[Section]:
    kind = "code" if document.kind == "python" else "prose"
    return [Section(document.title, document.text, 1, kind)]


def _pdf(document: Document) -> list[Section]:
    sections, line = [], 1
    for page, text in enumerate(document.text.split("\n\f\n"), 1):
        sections.append(
            Section(document.title, text, line, parent=document.title, attributes={"page": page})
        )
        line += text.count("\n") + 2
    return sections


_SECTIONERS: dict[str, Sectioner] = {
    "text": _plain,
    "row": _plain,
    "pdf": _pdf,
    "markdown": lambda d: markdown_sections(d.text, d.title),
    "rst": lambda d: rst_sections(d.text, d.title),
    "html": lambda d: html_sections(d.text, d.title),
    "python": lambda d: python_sections(d.text, d.title),
}


def _sections_of(document: Document) -> list[Section] | None:
    """Cut a document; drop empty sections except headings that no other section shows."""
    sections = _SECTIONERS.get(document.kind, _plain)(document)
    if sections is None:
        return None
    kept: list[Section] = []
    for position, section in enumerate(sections):
        if section.text.strip():
            kept.append(section)
        elif section.heading and section.heading[0].strip():
            inner = section.title + SEPARATOR
            if not any(s.title.startswith(inner) for s in sections[position + 1 : position + 2]):
                text, line = section.heading
                kept.append(replace(section, text=text, start_line=line, lines=None, heading=None))
    return kept


def _merge(group: Sequence[Section], title: str) -> Section:
    """Join small sections under ``title``; headings other than it become lines of text."""
    lines: list[str] = []
    numbers: list[int] = []
    for section in group:
        if section.heading and section.title != title:
            lines.append(section.heading[0])
            numbers.append(section.heading[1])
        lines += section.text.split("\n")
        numbers += section.line_numbers()
    return replace(
        group[0], title=title, text="\n".join(lines), lines=tuple(numbers), heading=None, parent=""
    )


class _Run:
    """One call of `chunk_documents`: works through batches so that tokens count in bulk."""

    def __init__(self, max_tokens: int, min_tokens: int, count_tokens: CountTokens) -> None:
        self.max_tokens = max_tokens
        self.min_tokens = min_tokens
        self.count = Counter(count_tokens, max_tokens)
        self.chunks: list[Chunk] = []
        self.counts = dict.fromkeys(
            ("documents", "sections", "split", "merged", "titles_shortened", "truncated"), 0
        )
        self.without_text: list[str] = []
        self.unparsed: list[str] = []

    def add(self, documents: Sequence[Document]) -> None:
        found: list[list[Section]] = []
        for document in documents:
            sections = _sections_of(document)
            if sections is None:
                self.unparsed.append(document.doc_id)
                sections = _plain(document)
            if not sections:
                self.without_text.append(document.doc_id)
            self.counts["sections"] += len(sections)
            found.append(sections)
        self.counts["documents"] += len(documents)
        titles = self._fit_titles({s.title for sections in found for s in sections})
        found = [[replace(s, title=titles[s.title][0]) if titles[s.title][0] != s.title else s
                  for s in sections] for sections in found]  # fmt: skip
        found, sizes = self._join_small(found)
        whole = iter(sizes)
        budgets = dict(titles.values())
        for document, sections in zip(documents, found, strict=True):
            position = 0
            for section in sections:
                n = next(whole)
                title_tokens = budgets.get(section.title, 0)
                starts = line_starts(section.text)
                for part, (start, end, tokens) in enumerate(self._cut(section, n, title_tokens)):
                    lines = section.span_lines(start, end, starts)
                    self.chunks.append(
                        _chunk(document, section, position, part, lines, (start, end), tokens)
                    )
                    position += 1

    def _measure(self, sections: Any) -> list[int]:
        return self.count([with_title(s.title, s.text.strip()) for s in sections])

    def _fit_titles(self, titles: set[str]) -> dict[str, tuple[str, int]]:
        """Map each title to one of at most half the limit, and its token count."""
        ordered = sorted(titles)
        result = {}
        for title, n in zip(ordered, self.count(ordered), strict=True):
            short = title
            while n > self.max_tokens // 2:
                # The innermost heading says most; then its first words.
                if SEPARATOR in short:
                    short = short.split(SEPARATOR, 1)[1]
                elif " " in short and len(short) < 4 * self.max_tokens:
                    short = short.rsplit(" ", 1)[0]
                else:
                    short = short[: min(len(short) // 2, 2 * self.max_tokens)]
                n = self.count([short])[0]
            self.counts["titles_shortened"] += short != title
            result[title] = (short, n)
        return result

    def _join_small(self, found: list[list[Section]]) -> tuple[list[list[Section]], list[int]]:
        """Join small neighbours; return the sections and the tokens of each, in one list."""
        counts = iter(self._measure(s for sections in found for s in sections))
        sized = [self._join(sections, [next(counts) for _ in sections]) for sections in found]
        fresh = [s for pairs in sized for s, n in pairs if n < 0]
        renewed = iter(self._measure(fresh))
        sizes = [n if n >= 0 else next(renewed) for pairs in sized for _, n in pairs]
        return [[s for s, _ in pairs] for pairs in sized], sizes

    def _join(self, sections: list[Section], counts: list[int]) -> list[tuple[Section, int]]:
        """Return sections with their tokens; -1 for those that are new and not yet counted."""
        room = min(self.max_tokens, 4 * self.min_tokens)
        joined: list[tuple[Section, int]] = []
        at = 0
        while at < len(sections):
            first, total, end, title = sections[at], counts[at], at + 1, ""
            small = counts[at] < self.min_tokens and bool(first.parent)
            while (
                small
                and end < len(sections)
                and sections[end].parent
                and counts[end] < self.min_tokens
                and sections[end].kind == first.kind
                and total + counts[end] <= room
            ):
                common = title or (
                    first.title if sections[end].parent == first.title else first.parent
                )
                # Only direct children: a heading in between would be shown nowhere.
                if common not in (sections[end].parent, sections[end].title):
                    break
                title = common
                total += counts[end]
                end += 1
            if end == at + 1:
                joined.append((first, counts[at]))
            else:
                joined.append((_merge(sections[at:end], title), -1))
                self.counts["merged"] += end - at
            at = end
        return joined

    def _cut(self, section: Section, n: int, title_tokens: int) -> list[tuple[int, int, int]]:
        """Return ``(start, end, tokens)`` of the passages of a section."""
        text = section.text
        start, end = len(text) - len(text.lstrip()), len(text.rstrip())
        if n <= self.max_tokens:
            return [(start, end, n)]
        self.counts["split"] += 1
        done: list[tuple[int, int, int]] = []
        todo = [(start, end)]
        limit = self.max_tokens - title_tokens - 1
        while todo:
            spans = [
                (a + s, a + e)
                for a, b in todo
                for s, e in split_text(text[a:b], limit, self.count, code=section.kind == "code")
            ]
            counts = self.count([with_title(section.title, text[a:b]) for a, b in spans])
            todo = []
            for (a, b), tokens in zip(spans, counts, strict=True):
                if tokens <= self.max_tokens or b - a == 1:
                    done.append((a, b, tokens))
                else:
                    todo.append((a, b))
            # A tokenizer that counts more for title and text together than apart.
            limit = max(1, limit * 3 // 4)
        return sorted(done)


def _chunk(
    document: Document,
    section: Section,
    position: int,
    part: int,
    lines: tuple[int, int],
    place: tuple[int, int],
    tokens: int,
) -> Chunk:
    start, end = place
    span = section.docstring
    inside = span is not None and start <= span[0] and span[1] <= end
    return Chunk(
        chunk_id=f"{document.doc_id}#{position}",
        doc_id=document.doc_id,
        text=section.text[start:end],
        title=section.title,
        path=document.path,
        start_line=lines[0],
        end_line=lines[1],
        kind=section.kind,
        attributes={**document.attributes, **section.attributes},
        n_tokens=tokens,
        docstring_span=(span[0] - start, span[1] - start) if span and inside else None,
        part=part,
    )
