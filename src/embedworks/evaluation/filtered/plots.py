"""Two plots of a filtered-search benchmark, as SVG files that bring their own background."""

from __future__ import annotations

import math
from collections.abc import Sequence

from embedworks._core.svg import (
    AXIS,
    COLOURS,
    GREY,
    INK,
    PAPER,
    svg_document,
    svg_line,
    svg_text,
)
from embedworks.evaluation.filtered.report import CellReport, FilteredReport, Point

__all__ = ["render_filtered_curves", "render_filtered_speeds"]

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
            name: (COLOURS[n % len(COLOURS)], _MARKS[n // len(COLOURS) % len(_MARKS)])
            for n, name in enumerate(single)
        }
        planners = [name for name in report.methods if name in report.planners]
        self.of |= {name: (INK, _MARKS[3 - n % 2]) for n, name in enumerate(planners)}

    def mark(self, method: str, x: float, y: float, *, filled: bool = True) -> str:
        colour, path = self.of[method]
        fill = colour if filled else PAPER
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
            parts += [self.mark(method, x, y - 4), svg_text(x + 11, y, method, INK, size=12)]
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
    parts = [svg_text(16, 26, title, INK, size=15, weight="600"), *legend]
    bottom = top + step * len(report.cells)
    for power in range(low, high + 1):
        parts.append(svg_line(x(10**power), top, x(10**power), bottom))
        parts.append(svg_text(x(10**power), bottom + 18, f"{10**power:,}", GREY, "middle", size=12))
    for place, cell in enumerate(report.cells):
        y = top + step * (place + 0.5)
        parts.append(svg_line(left, y, width - 30, y))
        parts.append(svg_text(left - 10, y + 4, cell.name, INK, "end", size=12))
        parts += [style.mark(point.method, x(point.qps), y) for point in found[cell.name]]
        if not found[cell.name]:
            parts.append(svg_text(left + 8, y + 4, "no method reaches it", GREY, size=12))
    decided = [f"{c.name}: {b.method} {b.qps:,.0f}" for c in report.cells if (b := report.best(c))]
    return svg_document(
        width, bottom + 30, f"{title}. Best single methods: {'; '.join(decided)}", parts
    )


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
    parts = [svg_text(16, 26, title, INK, size=15, weight="600"), *legend]
    for place, cell in enumerate(report.cells):
        origin = 10 + side * (place % columns), top + tall * (place // columns)
        parts += _panel(cell, report, style, origin, (side, tall))
    rows = math.ceil(len(report.cells) / columns)
    return svg_document(width, top + tall * rows + 8, f"{title}; {len(report.cells)} cells", parts)


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

    parts = [svg_text(left, origin[1] + 14, cell.name, INK, size=12, weight="600")]
    for power in range(low, high + 1):
        parts.append(svg_line(left, y(10**power), right, y(10**power)))
        parts.append(svg_text(left - 5, y(10**power) + 4, _short(10**power), GREY, "end", size=11))
    for tick in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        parts.append(svg_text(x(tick), bottom + 15, f"{tick:g}", GREY, "middle", size=11))
    wanted = x(max(_LOW_RECALL, report.target_recall))
    parts.append(svg_line(wanted, top, wanted, bottom, AXIS, dash="3 3"))
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
