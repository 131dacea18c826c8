"""HTML to lines of text under headings, with the standard library's parser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from embedworks.data._sections import Section, SectionBuilder
from embedworks.data._words import word_list

__all__ = ["html_sections", "html_title"]

_SKIPPED = word_list(
    """
    script style nav footer noscript template svg iframe select
    """
)
_BLOCKS = word_list(
    """
    address article aside blockquote body br dd details div dl dt fieldset figcaption figure
    form head header hr html li main ol option p section summary table tbody tfoot thead tr
    ul
    """
)
_HEADING = re.compile(r"h[1-6]$")


class _TextParser(HTMLParser):
    def __init__(self, title: str) -> None:
        super().__init__(convert_charrefs=True)
        self.builder = SectionBuilder(title)
        self.title = ""
        self.first_heading = ""
        self._skip: list[str] = []
        self._pre = 0
        self._in_title = False
        self._level = 0
        self._parts: list[str] = []
        self._line = 1

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED:
            self._skip.append(tag)
        elif self._skip:
            return
        elif tag == "title" and not self.title:
            self._in_title = True
        elif _HEADING.match(tag):
            self._flush()
            self._level = int(tag[1])
        elif tag in ("td", "th"):
            self._parts.append(" ")
        elif tag == "pre":
            self._flush()
            self._pre += 1
        elif tag in _BLOCKS:
            self._flush()
            if tag == "li":
                self._parts.append("- ")
            if tag in ("p", "table", "ul", "ol", "dl", "blockquote"):
                self.builder.line("", self.getpos()[0])

    def handle_endtag(self, tag: str) -> None:
        if self._skip:
            # An unclosed inner tag must not keep the rest of the page hidden.
            if tag in self._skip:
                del self._skip[self._skip.index(tag) :]
            return
        if tag == "title":
            self._in_title = False
        elif _HEADING.match(tag):
            self._flush()
            self._level = 0
        elif tag == "pre":
            self._flush()
            self._pre = max(0, self._pre - 1)
            self.builder.line("", self.getpos()[0])
        elif tag in _BLOCKS:
            self._flush()
            if tag in ("p", "table", "ul", "ol", "dl", "blockquote"):
                self.builder.line("", self.getpos()[0])

    def handle_data(self, data: str) -> None:
        if self._skip:
            return
        if self._in_title:
            self.title += data
            return
        first = self.getpos()[0]
        if self._pre:
            for number, line in enumerate(data.split("\n"), first):
                if number > first:
                    self._flush()
                self._begin(number)
                self._parts.append(line)
            return
        # Keep the source line of the first word: text of one paragraph line stays on its line.
        for number, line in enumerate(data.split("\n"), first):
            if number > first and not self._level:
                self._flush()
            if line.strip():
                self._begin(number)
            self._parts.append(line if number == first or not self._level else " " + line)

    def finish(self) -> list[Section]:
        self.close()
        self._flush()
        return self.builder.finish()

    def _begin(self, number: int) -> None:
        if not any(part.strip(" -") for part in self._parts):
            self._line = number

    def _flush(self) -> None:
        text = "".join(self._parts)
        self._parts = []
        text = text.rstrip() if self._pre else " ".join(text.split())
        if not text.strip(" -"):
            return
        if self._level:
            self.first_heading = self.first_heading or text
            self.builder.heading(self._level, text, self._line)
        else:
            self.builder.line(text, self._line)


_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def _defused(text: str) -> str:
    """Take out comments and openings that never close, keeping the lines.

    The parser tries an unclosed opening again and again to the end of the page, which takes
    quadratic time on pages that have many.
    """
    end = text.rfind("-->") + 3
    head = _COMMENT.sub(lambda m: "\n" * m.group().count("\n"), text[: end if end > 2 else 0])
    text = head + (text[end:] if end > 2 else text).replace("<!--", "")
    last = text.rfind(">") + 1
    return text[:last] + text[last:].replace("<", "&lt;")


def html_title(text: str) -> str:
    """Return the ``<title>``, else the first heading, else an empty string."""
    parser = _TextParser("")
    parser.feed(_defused(text))
    parser.finish()
    return " ".join(parser.title.split()) or parser.first_heading


def html_sections(text: str, title: str) -> list[Section]:
    """Cut an HTML page at its headings; scripts, styles, navigation and footers are left out.

    Example:
        >>> [s.text for s in html_sections("<h1>A</h1><p>Some <b>text</b></p>", "A")]
        ['Some text']
    """
    parser = _TextParser(title)
    parser.feed(_defused(text))
    return parser.finish()
