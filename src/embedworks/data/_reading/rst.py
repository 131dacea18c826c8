"""reStructuredText: titles, directives and roles reduced to readable text, line by line."""

from __future__ import annotations

import re

from embedworks.data._sections import Section, SectionBuilder
from embedworks.data._words import word_list

__all__ = ["rst_sections", "rst_title"]

_ADORNMENT = re.compile(r"([=\-~^\"'`#*+.:_<>!$%&,;?@/\\|(){}\[\]])\1{2,}\s*$")
_ROLE = re.compile(r":[a-zA-Z][\w.+:-]*:`([^`]*)`")
_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`__?")
_REFERENCE = re.compile(r"`([^`]+)`__?(?!\w)")
_LITERAL = re.compile(r"``(.+?)``")
_TARGET_IN_ROLE = re.compile(r"^(.*?)\s*<[^>]*>$")
_DIRECTIVE = re.compile(r"(\s*)\.\.\s+(?:\|[^|]+\|\s+)?([\w.:+-]+)::\s*(.*)$")
_COMMENT = re.compile(r"(\s*)\.\.(?:\s|$)")
_OPTION = re.compile(r"\s+:[\w-]+:(?:\s.*)?$")

#: Longer lines are not written by hand; their inline markup stays as it is.
_INLINE_CHARS = 10_000
#: Directives whose argument is text to read (a name, a version, a first sentence).
_TEXT_ARGUMENT = word_list(
    """
    note warning tip hint important caution danger attention error admonition seealso todo
    versionadded versionchanged deprecated deprecated-removed topic rubric centered function
    method class module exception attribute data describe option envvar decorator
    staticmethod classmethod property opcode pdbcommand cmdoption program
    """
)
#: Directives that are dropped with everything indented under them.
_DROPPED = word_list(
    """
    index toctree image figure include literalinclude raw contents meta tabularcolumns
    currentmodule sectionauthor moduleauthor highlight default-role only ifconfig
    """
)


def _inline(line: str) -> str:
    if "`" not in line or len(line) > _INLINE_CHARS:
        return line.replace("**", "") if "**" in line else line

    def role(match: re.Match[str]) -> str:
        inner = _TARGET_IN_ROLE.sub(r"\1", match[1])
        return inner.removeprefix("~").removeprefix("!")

    line = _ROLE.sub(role, line)
    line = _LITERAL.sub(r"\1", line)
    line = _LINK.sub(r"\1", line)
    return _REFERENCE.sub(r"\1", line).replace("**", "")


def rst_title(text: str) -> str:
    """Return the first title of the text, or an empty string."""
    for section in rst_sections(text, ""):
        if section.heading:
            return section.heading[0]
    return ""


def rst_sections(text: str, title: str) -> list[Section]:
    """Cut a reStructuredText at its titles and remove markup that is not text.

    Roles keep their text, notes and code blocks keep their content, index entries, images and
    comments go.
    """
    builder = SectionBuilder(title)
    lines = text.split("\n")
    levels: list[str] = []
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        here = number - 1
        style = _title_style(lines, here)
        if style:
            name_line = here + (style[0] == "o")
            if style not in levels:
                levels.append(style)
            builder.heading(levels.index(style), _inline(lines[name_line]).strip(), name_line + 1)
            number = name_line + 2
            continue
        directive = _DIRECTIVE.match(line[:_INLINE_CHARS])
        if directive:
            number = _directive(builder, lines, here, directive)
            continue
        comment = _COMMENT.match(line)
        if comment:
            number = _end_of_block(lines, here, len(comment[1]))
            continue
        if _ADORNMENT.match(line) and not line[0].isspace() and len(line.strip()) >= 4:
            builder.line("", number)
            continue
        builder.line(_inline(line), number)
    return builder.finish()


def _title_style(lines: list[str], at: int) -> str:
    """Return "o" or "u" plus the adornment character when a title begins at line ``at``."""

    def adornment(index: int) -> str:
        line = lines[index] if index < len(lines) else ""
        return line[0] if _ADORNMENT.match(line) and not line[0].isspace() else ""

    line = lines[at]
    if at > 0 and lines[at - 1].strip() and not _ADORNMENT.match(lines[at - 1]):
        return ""
    over = adornment(at)
    if over:
        text = lines[at + 1] if at + 1 < len(lines) else ""
        fits = 0 < len(text.strip()) <= len(line.strip())
        return "o" + over if fits and adornment(at + 2) == over else ""
    if not line.strip() or line[0].isspace() or len(line) > 200:
        return ""
    under = adornment(at + 1)
    long_enough = under and len(lines[at + 1].strip()) >= min(len(line.strip()), 4)
    return "u" + under if long_enough and not adornment(at) else ""


def _directive(builder: SectionBuilder, lines: list[str], at: int, match: re.Match[str]) -> int:
    """Handle the directive at line ``at``; return the index of the next line to read."""
    indent, name, argument = len(match[1]), match[2].split(":")[-1], match[3].strip()
    if name in _DROPPED:
        return _end_of_block(lines, at, indent)
    if argument and name in _TEXT_ARGUMENT:
        builder.line(match[1] + _inline(argument), at + 1)
    at += 1
    while at < len(lines) and _OPTION.match(lines[at]):
        at += 1
    return at


def _end_of_block(lines: list[str], at: int, indent: int) -> int:
    """Return the index of the first line after ``at`` that is not indented deeper."""
    at += 1
    while at < len(lines):
        line = lines[at]
        if line.strip() and len(line) - len(line.lstrip()) <= indent:
            break
        at += 1
    return at
