"""Markdown: front matter, headings outside code fences."""

from __future__ import annotations

import re
from typing import Any

from embedworks.data._sections import Section, SectionBuilder

__all__ = ["front_matter", "markdown_sections", "markdown_title"]

_FRONT_MATTER_CHARS = 16_384
_HEADING_CHARS = 1_000  # a longer line is text; it also bounds the work of the patterns below
_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?\n)?(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)$")
_NOT_A_TITLE = re.compile(r"\s*(?:[-*+>|#]|\d+[.)])(?:\s|$)|\s*$| {4}")
_LINK = re.compile(r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])")
_MARKS = re.compile(r"[*`]+|(?<!\w)_+|_+(?!\w)|<[^>]+>|\s*\{#[^}]*\}")


def front_matter(text: str) -> tuple[dict[str, Any], int]:
    r"""Return the YAML fields at the top of a Markdown text and how many lines they take.

    Anything that is not a small YAML mapping is left alone: ``({}, 0)``.

    Example:
        >>> front_matter("---\ntags: [a, b]\n---\n# Title\n")
        ({'tags': ['a', 'b']}, 3)
    """
    match = _FRONT_MATTER.match(text[:_FRONT_MATTER_CHARS])
    if match is None or not match.group(1):
        return {}, 0
    import yaml

    try:
        fields = yaml.safe_load(match.group(1))
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}, 0
    if not isinstance(fields, dict):
        return {}, 0
    return {str(key): value for key, value in fields.items()}, match.group().count("\n")


def plain_heading(text: str) -> str:
    """Strip links, emphasis, code marks and anchors from a heading."""
    return " ".join(_MARKS.sub("", _LINK.sub(r"\1", text)).split())


def markdown_title(text: str) -> str:
    """Return the first heading of the outermost level used, or an empty string."""
    _, skip = front_matter(text)
    headings = [s.heading for s in _build("", text, skip)[:1] if s.heading]
    return headings[0][0] if headings else ""


def markdown_sections(text: str, title: str) -> list[Section]:
    """Cut a Markdown text at its headings; the text itself stays as written."""
    return _build(title, text, front_matter(text)[1])


def _build(title: str, text: str, skip: int) -> list[Section]:
    builder = SectionBuilder(title)
    lines = text.split("\n")
    fence = ""
    number = skip
    while number < len(lines):
        line = lines[number]
        number += 1
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not mark[2].strip():
                fence = ""
            builder.line(line, number)
            continue
        if mark and not ("`" in mark[2] and mark[1][0] == "`"):
            fence = mark[1]
            builder.line(line, number)
            continue
        atx = _ATX.match(line) if "#" in line[:8] and len(line) <= _HEADING_CHARS else None
        if atx:
            builder.heading(len(atx[1]), plain_heading(atx[2] or ""), number)
            continue
        below = lines[number] if number < len(lines) else ""
        above = lines[number - 2] if number - 2 >= skip else ""
        if (
            not above.strip()
            and (under := _UNDERLINE.match(below))
            and len(line) <= 200
            and not _NOT_A_TITLE.match(line)
        ):
            builder.heading(1 if "=" in under[1] else 2, plain_heading(line), number)
            number += 1
            continue
        builder.line(line, number)
    return builder.finish()
