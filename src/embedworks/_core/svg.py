"""The few elements that plots kept as SVG files are drawn with, on a light background of their own.

Knows nothing about what is plotted. A drawing brings its own colours and background, so that it
reads the same on light and dark pages.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

__all__ = [
    "AXIS", "BLUE", "COLOURS", "GREY", "GRID", "INK", "ORANGE", "PAPER",
    "axis_ticks", "svg_circle", "svg_document", "svg_line", "svg_rect", "svg_text",
]  # fmt: skip

INK, GREY, GRID, AXIS, PAPER = "#1f2933", "#6b7280", "#e1e6eb", "#9aa5b1", "#fbfcfd"
BLUE, ORANGE = "#1f5fa8", "#c2571a"
COLOURS = (BLUE, ORANGE, "#2d8659", "#8e44ad", "#b8860b", "#0f8b8d", "#a83254", "#5d6d7e")


def axis_ticks(
    low: float, high: float, wanted: int = 5, *, pad: float = 0.05
) -> tuple[float, float, list[float]]:
    """Return limits with a share ``pad`` of room on both sides, and about ``wanted`` round ticks.

    Example:
        >>> axis_ticks(0.0, 1.0)
        (-0.05, 1.05, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    """
    if high <= low:
        room = abs(low) * 0.1 or 0.5
        low, high = low - room, high + room
    room = (high - low) * pad
    low, high = low - room, high + room
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * 0.75)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return low, high, [round(i * step, 12) for i in range(first, last + 1)]


def svg_line(
    x1: float,
    y1: float,
    x2: float,
    y2: float,
    colour: str = GRID,
    *,
    width: float | None = None,
    dash: str = "",
) -> str:
    """Return a straight line; with a width its ends are round.

    Example:
        >>> svg_line(0, 1, 2, 3, "red", dash="3 3")
        '<line x1="0.0" y1="1.0" x2="2.0" y2="3.0" stroke="red" stroke-dasharray="3 3"/>'
    """
    more = "" if width is None else f' stroke-width="{width}" stroke-linecap="round"'
    more += f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{more}/>'
    )


def svg_rect(x: float, y: float, width: float, height: float, fill: str) -> str:
    """Return a filled rectangle whose upper left corner is at x and y, without soft edges.

    Example:
        >>> svg_rect(0, 1, 2, 3, "red")
        '<rect x="0.0" y="1.0" width="2.0" height="3.0" fill="red" shape-rendering="crispEdges"/>'
    """
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}" '
        'shape-rendering="crispEdges"/>'
    )


def svg_circle(
    x: float, y: float, radius: float, fill: str, edge: str = PAPER, *, width: float = 1.5
) -> str:
    """Return a filled circle around x and y with an edge of its own colour.

    Example:
        >>> svg_circle(1, 2, 4, "red", "black", width=1)
        '<circle cx="1.0" cy="2.0" r="4" fill="red" stroke="black" stroke-width="1"/>'
    """
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{fill}" '
        f'stroke="{edge}" stroke-width="{width:g}"/>'
    )


def svg_text(
    x: float,
    y: float,
    text: str,
    colour: str = INK,
    anchor: str = "start",
    *,
    size: int = 13,
    weight: str = "400",
    upwards: bool = False,
    halo: bool = False,
) -> str:
    """Return a text whose ``anchor`` (start, middle, end) is at x on the base line y.

    Args:
        x: Where the anchor is.
        y: The base line.
        text: What to write; it is escaped.
        colour: Of the letters.
        anchor: Which part of the text is at x.
        size: Of the letters, in pixels.
        weight: 400 is plain, 600 half bold.
        upwards: Turn it around its anchor, to be read from below.
        halo: Draw a light edge around the letters, for texts on a coloured ground.

    Example:
        >>> svg_text(1, 2, "a < b", "red", upwards=True)[:66]
        '<text x="1.0" y="2.0" fill="red" text-anchor="start" font-size="13'
    """
    more = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if upwards else ""
    more += f' paint-order="stroke" stroke="{PAPER}" stroke-width="3"' if halo else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" '
        f'font-size="{size}" font-weight="{weight}"{more}>{html.escape(text)}</text>'
    )


def svg_document(width: float, height: float, summary: str, parts: Sequence[str]) -> str:
    """Return a whole drawing of some elements; ``summary`` is read to those who do not see it.

    Example:
        >>> svg_document(10, 5, "nothing", []).startswith("<svg ")
        True
    """
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" role="img" aria-label="{html.escape(summary)}" '
        'font-family="system-ui, -apple-system, Segoe UI, sans-serif">'
        f'<rect width="100%" height="100%" rx="6" fill="{PAPER}"/>{"".join(parts)}</svg>\n'
    )
