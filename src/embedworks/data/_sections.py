"""Sections: what a document is made of before the token limit is applied."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

__all__ = ["Section", "SectionBuilder", "breadcrumb", "line_starts"]

SEPARATOR = " > "


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of a document under one title.

    Args:
        title: Breadcrumb title.
        text: The text without the title.
        start_line: Line of the document where ``text`` begins, from 1.
        kind: prose or code.
        lines: Document line of each line of ``text``, or None when they run on from
            ``start_line``.
        docstring: Character span of a docstring inside ``text``.
        parent: Title under which this section may be merged with small neighbours; empty when
            it must stay alone.
        heading: The section's own heading and its line, written into the text on a merge.
        attributes: Attributes beyond those of the document, such as a page number.
    """

    title: str
    text: str
    start_line: int
    kind: str = "prose"
    lines: tuple[int, ...] | None = None
    docstring: tuple[int, int] | None = None
    parent: str = ""
    heading: tuple[str, int] | None = None
    attributes: dict[str, int] = field(default_factory=dict)

    def line_numbers(self) -> Sequence[int]:
        """Return the document line of every line of ``text``."""
        if self.lines is not None:
            return self.lines
        return range(self.start_line, self.start_line + self.text.count("\n") + 1)

    def span_lines(self, start: int, end: int, starts: Sequence[int]) -> tuple[int, int]:
        """Return first and last document line of ``text[start:end]``; ends are inclusive."""
        first = bisect.bisect_right(starts, start) - 1
        last = bisect.bisect_right(starts, max(start, end - 1)) - 1
        if self.lines is None:
            return self.start_line + first, self.start_line + last
        numbers = self.lines[first : last + 1]
        return min(numbers), max(numbers)


def line_starts(text: str) -> list[int]:
    r"""Return the offset at which each line begins; lines end at ``\n`` only."""
    return [0, *(m.end() for m in re.finditer("\n", text))]


def breadcrumb(parts: Iterable[str]) -> str:
    """Join headings from the outermost inwards, leaving out empty and repeated ones.

    Example:
        >>> breadcrumb(["Guide", "Guide", "", "Install"])
        'Guide > Install'
    """
    kept: list[str] = []
    for part in parts:
        clean = " ".join(part.split())
        if clean and (not kept or clean.casefold() != kept[-1].casefold()):
            kept.append(clean)
    return SEPARATOR.join(kept)


class SectionBuilder:
    """Collects lines under nested headings and cuts them into sections.

    Args:
        root: Title of the document, the outermost part of every breadcrumb.
    """

    def __init__(self, root: str) -> None:
        self.sections: list[Section] = []
        self._root = root
        self._stack: list[tuple[int, str]] = []
        self._heading: tuple[str, int] | None = None
        self._lines: list[str] = []
        self._numbers: list[int] = []

    def line(self, text: str, number: int) -> None:
        """Add one line of text that comes from line ``number`` of the document."""
        self._lines.append(text)
        self._numbers.append(number)

    def heading(self, level: int, text: str, number: int) -> None:
        """Begin a section; a smaller ``level`` is further out."""
        self._cut()
        while self._stack and self._stack[-1][0] >= level:
            self._stack.pop()
        self._stack.append((level, text))
        self._heading = (text, number)

    def finish(self) -> list[Section]:
        """Return all sections, including headings that have no text of their own."""
        self._cut()
        return self.sections

    def _cut(self) -> None:
        lines, numbers = self._lines, self._numbers
        first, last = 0, len(lines)
        while first < last and not lines[first].strip():
            first += 1
        while last > first and not lines[last - 1].strip():
            last -= 1
        lines, numbers = lines[first:last], numbers[first:last]
        self._lines, self._numbers = [], []
        if not lines and self._heading is None:
            return
        names = [self._root, *(text for _, text in self._stack)]
        section = Section(
            title=breadcrumb(names),
            text="\n".join(lines),
            start_line=numbers[0] if numbers else (self._heading or ("", 1))[1],
            parent=breadcrumb(names[:-1]) if self._stack else self._root,
            heading=self._heading,
        )
        if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            section = replace(section, lines=tuple(numbers))
        self.sections.append(section)
        self._heading = None
