"""Building blocks of the report page: escaping, clipping, tables. Every text passes `esc`."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence

__all__ = [
    "MAX_ROWS",
    "clip",
    "data_table",
    "esc",
    "facts_list",
    "key_figures",
    "number",
    "seconds",
    "section",
]

#: Rows shown of a table whose length the data decides.
MAX_ROWS = 100

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")


def esc(text: object) -> str:
    """Return ``text`` safe inside HTML and attributes; what no page may hold becomes U+FFFD.

    Example:
        >>> esc('<b title="x">')
        '&lt;b title=&quot;x&quot;&gt;'
    """
    clean = str(text).encode("utf-8", "replace").decode("utf-8")
    return html.escape(_CONTROL.sub("\ufffd", clean), quote=True)


def clip(text: object, limit: int) -> str:
    """Return ``text`` on one line, cut at ``limit`` characters with an ellipsis (not escaped).

    Example:
        >>> clip("one  two three", 8)
        'one two…'
    """
    head = str(text)[: 20 * limit]
    line = " ".join(head.split())
    if len(line) <= limit and len(head) == len(str(text)):
        return line
    return line[: limit - 1].rstrip() + "…"


def number(value: object) -> str:
    """Show an integer with separators, a float with up to four digits, anything else as text.

    Example:
        >>> number(12345), number(0.25), number("n/a")
        ('12,345', '0.25', 'n/a')
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return clip(value, 300)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def seconds(value: float | None) -> str:
    """Show a duration with a unit that fits.

    Example:
        >>> seconds(0.0123), seconds(4.2), seconds(125), seconds(None)
        ('12 ms', '4.2 s', '2 min 05 s', '–')
    """
    if value is None:
        return "–"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s"


def data_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str,
    sortable: bool = False,
    marked: Sequence[bool] = (),
    numeric: Sequence[bool] = (),
    wide: bool = False,
) -> str:
    """Build a table; cells and header are HTML already, the caption is text.

    Args:
        header: Column headings.
        rows: Cells; the first of each row is its heading.
        caption: What the table shows.
        sortable: Whether headings sort the rows (needs the page's script).
        marked: For each row, whether it is emphasised.
        numeric: For each column, whether it is right-aligned; all but the first if not given.
        wide: Whether the first column stays in sight while the others are scrolled.
    """
    marks = list(marked) or [False] * len(rows)
    right = list(numeric) or [place > 0 for place in range(len(header))]
    kinds = [' class="num"' if is_number else "" for is_number in right]
    head = "".join(f'<th scope="col"{k}>{h}</th>' for h, k in zip(header, kinds))
    body = []
    for cells, mark in list(zip(rows, marks))[:MAX_ROWS]:
        line = f'<th scope="row">{cells[0]}</th>'
        line += "".join(f"<td{k}>{c}</td>" for c, k in zip(cells[1:], kinds[1:]))
        body.append(f'<tr class="own">{line}</tr>' if mark else f"<tr>{line}</tr>")
    more = ""
    if len(rows) > MAX_ROWS:
        more = f'<p class="note">{len(rows) - MAX_ROWS:,} more rows are not shown.</p>'
    names = " ".join(["sortable"] * sortable + ["wide"] * wide)
    kind = f' class="{names}"' if names else ""
    return (
        f'<div class="scroll" role="region" aria-label="{esc(caption)}" tabindex="0">'
        f"<table{kind}><caption>{esc(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>{more}"
    )


def section(anchor: str, title: str, content: str) -> str:
    """Build a titled section of the page; ``content`` is HTML."""
    return f'<section id="{esc(anchor)}"><h2>{esc(title)}</h2>{content}</section>'


def facts_list(facts: Mapping[str, str]) -> str:
    """Build a list of labels with values, both texts; "" when there are none."""
    items = "".join(
        f"<dt>{esc(clip(label, 80))}</dt><dd>{esc(clip(value, 500))}</dd>"
        for label, value in list(facts.items())[:MAX_ROWS]
    )
    return f'<dl class="facts">{items}</dl>' if items else ""


def key_figures(figures: Mapping[str, str]) -> str:
    """Build the row of large figures at the top, at most eight; "" when there are none."""
    items = "".join(
        f"<div><dt>{esc(clip(label, 60))}</dt><dd>{esc(clip(value, 40))}</dd></div>"
        for label, value in list(figures.items())[:8]
    )
    return f'<dl class="figures">{items}</dl>' if items else ""
