"""The plot of a reproduction as one self-contained SVG: arms, and what was compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embedworks._core.svg import (
    AXIS,
    BLUE,
    GREY,
    GRID,
    INK,
    ORANGE,
    axis_ticks,
    svg_circle,
    svg_document,
    svg_line,
    svg_text,
)
from embedworks.reproductions.results import ReproductionResult

__all__ = ["render_plot"]

_WIDTH, _LEFT, _RIGHT, _STEP = 760.0, 236.0, 104.0, 30.0
_FINDING = {"supported": BLUE, "refuted": ORANGE, "open": GREY}


@dataclass(frozen=True)
class _Row:
    label: str
    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    colour: str
    value: str


def render_plot(result: ReproductionResult) -> str:
    """Draw the arms on the decisive metric, and every comparison on it, with 95 % intervals.

    Dots are means, bars intervals, ticks single seeds. The drawing brings its own light
    background, so it reads the same on light and dark pages.

    Args:
        result: The record to draw.

    Returns:
        SVG text.
    """
    metric = result.decisive.metric
    weights = result.decisive.contrast
    arms = []
    for arm in result.arms:
        if metric not in arm.metrics:
            continue
        found = arm.metrics[metric]
        weight = weights.get(arm.name, 0.0)
        colour = BLUE if weight > 0 else ORANGE if weight < 0 else GREY
        value = f"{found.mean:.3f}"
        arms.append(_Row(arm.name, found.mean, found.low, found.high, found.by_seed, colour, value))
    drawn = [one for one in result.comparisons if one.metric == metric and one.null == 0]
    differences = [
        _Row(
            one.name, one.mean, one.low, one.high, one.by_seed, _FINDING[one.finding],
            f"{one.mean:+.3f}",
        )
        for one in drawn
    ]  # fmt: skip
    parts, height = _panel(arms, f"{metric} of each arm", 26.0, zero=False)
    below, height = _panel(differences, f"differences of {metric}", height + 34.0, zero=True)
    note = "dot: mean; bar: 95 % interval over seeds and items; ticks: single seeds"
    parts += [*below, svg_text(_LEFT, height + 24, note, GREY, size=12)]
    legend = (
        "upper panel: blue has a positive weight in the decisive comparison, orange a negative "
        "one; lower panel: blue supported, orange refuted, grey open"
    )
    height += 44
    for line in _wrapped(legend, 92):
        parts.append(svg_text(16, height, line, GREY, size=12))
        height += 16
    summary = f"{result.slug}: " + "; ".join(f"{row.label} {row.value}" for row in differences)
    return svg_document(_WIDTH, height + 4, summary, parts)


def _panel(rows: Sequence[_Row], title: str, top: float, *, zero: bool) -> tuple[list[str], float]:
    """Return the elements of one panel and the y where it ends."""
    ends = [v for row in rows for v in (row.low, row.high, *row.by_seed)] + ([0.0] * zero)
    low, high, ticks = axis_ticks(min(ends), max(ends))
    first = top + 24.0
    bottom = first + _STEP * len(rows)

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    parts = [svg_text(16, top, title, INK, size=15, weight="600")]
    for tick in ticks:
        colour = AXIS if zero and tick == 0 else GRID
        parts.append(svg_line(x(tick), first - 8, x(tick), bottom, colour, width=1.0))
        parts.append(svg_text(x(tick), bottom + 16, f"{tick:g}", GREY, anchor="middle", size=12))
    for place, row in enumerate(rows):
        y = first + _STEP * place + 10
        label = row.label if len(row.label) <= 32 else row.label[:31] + "…"
        parts.append(svg_text(_LEFT - 14, y + 4, label, INK, anchor="end", size=13))
        parts.append(svg_line(x(row.low), y, x(row.high), y, row.colour, width=3.0))
        for value in row.by_seed:
            parts.append(svg_line(x(value), y - 8, x(value), y + 8, row.colour, width=1.2))
        parts.append(svg_circle(x(row.mean), y, 5.5, row.colour))
        parts.append(
            svg_text(_WIDTH - 16, y + 4, row.value, row.colour, anchor="end", size=13, weight="600")
        )
    return parts, bottom + 18


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
