"""Two plots of a filtered-search benchmark, as SVG files that bring their own background."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from embedworks.evaluation.filtered.report import CellReport, FilteredReport, Point

__all__ = ["render_filtered_curves", "render_filtered_speeds"]

_INK, _GREY, _GRID = "#1f2933", "#6b7280", "#e1e6eb"
_COLOURS = ("#1f5fa8", "#c2571a", "#2d8659", "#8e44ad", "#b8860b", "#0f8b8d", "#a83254", "#5d6d7e")
_MARKS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-4.8 4.5 3.3h-9z",
    "M0-5 5 0 0 5-5 0z",
)
_LOW_RECALL = 0.5


class _Style:
    """Colour and mark of every method: planners in ink, single methods in colours."""

    def __init__(self, report: FilteredReport) -> None:
        single = report.single_methods
        self.of: dict[str, tuple[str, str]] = {
            name: (_COLOURS[n % len(_COLOURS)], _MARKS[n // len(_COLOURS) % len(_MARKS)])
            for n, name in enumerate(single)
        }
        planners = [name for name in report.methods if name in report.planners]
        self.of |= {name: (_INK, _MARKS[3 - n % 2]) for n, name in enumerate(planners)}

    def mark(self, method: str, x: float, y: float, *, filled: bool = True) -> str:
        colour, path = self.of[method]
        fill = colour if filled else "#fbfcfd"
        return (
            f'<path d="{path}" transform="translate({x:.1f} {y:.1f})" fill="{fill}" '
            f'stroke="{colour}" stroke-width="1.2"/>'
        )

    def legend(self, width: float, top: float) -> tuple[list[str], float]:
        """Return the legend's elements, and the y where it ends."""
        parts, x, y = [], 20.0, top
        for method in self.of:
            room = 30 + 6.7 * len(method)
            if x + room > width - 10:
                x, y = 20.0, y + 20
            parts += [self.mark(method, x, y - 4), _text(x + 11, y, method, _INK, size=12)]
            x += room
        return parts, y + 16


def render_filtered_speeds(report: FilteredReport) -> str:
    """Draw each cell as a row: how fast each method is that reaches the recall wanted.

    Marks further right are faster; a method without a mark in a row misses the recall there.

    Args:
        report: What was measured, at least one cell.

    Returns:
        SVG text.
    """
    style, width, left, step = _Style(report), 860.0, 190.0, 24.0
    recall = report.target_recall
    found = {
        cell.name: [p for m in report.methods if (p := cell.fastest(m, recall)) is not None]
        for cell in report.cells
    }
    speeds = [point.qps for points in found.values() for point in points] or [1.0]
    low, high = math.floor(math.log10(min(speeds))), math.ceil(math.log10(max(speeds)) + 1e-9)
    high = max(high, low + 1)

    def x(qps: float) -> float:
        return left + (math.log10(qps) - low) / (high - low) * (width - left - 30)

    title = f"Queries a second at recall@{report.settings.get('k', 10)} of {recall:g} or more"
    legend, top = style.legend(width, 52.0)
    parts = [_text(16, 26, title, _INK, size=15, weight="600"), *legend]
    bottom = top + step * len(report.cells)
    for power in range(low, high + 1):
        parts.append(_line(x(10**power), top, x(10**power), bottom))
        parts.append(_text(x(10**power), bottom + 18, f"{10**power:,}", _GREY, "middle", size=12))
    for place, cell in enumerate(report.cells):
        y = top + step * (place + 0.5)
        parts.append(_line(left, y, width - 30, y))
        parts.append(_text(left - 10, y + 4, cell.name, _INK, "end", size=12))
        parts += [style.mark(point.method, x(point.qps), y) for point in found[cell.name]]
        if not found[cell.name]:
            parts.append(_text(left + 8, y + 4, "no method reaches it", _GREY, size=12))
    decided = [f"{c.name}: {b.method} {b.qps:,.0f}" for c in report.cells if (b := report.best(c))]
    return _svg(width, bottom + 30, f"{title}. Best single methods: {'; '.join(decided)}", parts)


def render_filtered_curves(report: FilteredReport, *, columns: int = 4) -> str:
    """Draw each cell as a panel: queries a second (logarithmic) over recall, 0.5 to 1.

    Up and to the right is better; the dashed line is the recall wanted. Points below a recall of
    0.5 are left out.

    Args:
        report: What was measured, at least one cell.
        columns: Panels in a row.

    Returns:
        SVG text.
    """
    style, side, tall = _Style(report), 250.0, 190.0
    width = 20 + side * columns
    legend, top = style.legend(width, 52.0)
    title = "Queries a second over recall: up and right is better"
    parts = [_text(16, 26, title, _INK, size=15, weight="600"), *legend]
    for place, cell in enumerate(report.cells):
        origin = 10 + side * (place % columns), top + tall * (place // columns)
        parts += _panel(cell, report, style, origin, (side, tall))
    rows = math.ceil(len(report.cells) / columns)
    return _svg(width, top + tall * rows + 8, f"{title}; {len(report.cells)} cells", parts)


def _panel(
    cell: CellReport,
    report: FilteredReport,
    style: _Style,
    origin: tuple[float, float],
    size: tuple[float, float],
) -> list[str]:
    shown = [point for point in cell.points if point.recall >= _LOW_RECALL]
    speeds = [point.qps for point in shown] or [1.0]
    low, high = math.floor(math.log10(min(speeds))), math.ceil(math.log10(max(speeds)) + 1e-9)
    high = max(high, low + 1)
    left, right = origin[0] + 46, origin[0] + size[0] - 12
    top, bottom = origin[1] + 24, origin[1] + size[1] - 26

    def x(recall: float) -> float:
        return left + (recall - _LOW_RECALL) / (1 - _LOW_RECALL) * (right - left)

    def y(qps: float) -> float:
        return bottom - (math.log10(qps) - low) / (high - low) * (bottom - top)

    parts = [_text(left, origin[1] + 14, cell.name, _INK, size=12, weight="600")]
    for power in range(low, high + 1):
        parts.append(_line(left, y(10**power), right, y(10**power)))
        parts.append(_text(left - 5, y(10**power) + 4, _short(10**power), _GREY, "end", size=11))
    for tick in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        parts.append(_text(x(tick), bottom + 15, f"{tick:g}", _GREY, "middle", size=11))
    wanted = x(max(_LOW_RECALL, report.target_recall))
    parts.append(_line(wanted, top, wanted, bottom, colour="#9aa5b1", dash="3 3"))
    for method in style.of:
        points = sorted(
            (p for p in shown if p.method == method), key=lambda point: (point.recall, -point.qps)
        )
        parts += _curve(points, [(x(p.recall), y(p.qps)) for p in points], style)
    return parts


def _curve(
    points: Sequence[Point], places: Sequence[tuple[float, float]], style: _Style
) -> list[str]:
    if not points:
        return []
    colour = style.of[points[0].method][0]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    line = f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.3"/>'
    return [line, *(style.mark(points[0].method, *place) for place in places)]


def _short(number: float) -> str:
    return f"{number / 1000:g}k" if number >= 1000 else f"{number:g}"


def _line(
    x1: float, y1: float, x2: float, y2: float, *, colour: str = _GRID, dash: str = ""
) -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashed}/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    colour: str,
    anchor: str = "start",
    *,
    size: int = 13,
    weight: str = "400",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" '
        f'font-size="{size}" font-weight="{weight}">{html.escape(text)}</text>'
    )


def _svg(width: float, height: float, summary: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" role="img" aria-label="{html.escape(summary)}" '
        'font-family="system-ui, -apple-system, Segoe UI, sans-serif">'
        f'<rect width="100%" height="100%" rx="6" fill="#fbfcfd"/>{"".join(parts)}</svg>\n'
    )
