"""The plot of a reproduction as one self-contained SVG: arms, and what was compared."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from embedworks.reproductions.results import ReproductionResult

__all__ = ["render_plot"]

_WIDTH, _LEFT, _RIGHT, _STEP = 760.0, 236.0, 104.0, 30.0
_BLUE, _ORANGE, _GREY, _INK = "#1f5fa8", "#c2571a", "#6b7280", "#1f2933"
_FINDING = {"supported": _BLUE, "refuted": _ORANGE, "open": _GREY}


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
        colour = _BLUE if weight > 0 else _ORANGE if weight < 0 else _GREY
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
    parts += [*below, _text(_LEFT, height + 24, note, _GREY, size=12)]
    legend = (
        "upper panel: blue has a positive weight in the decisive comparison, orange a negative "
        "one; lower panel: blue supported, orange refuted, grey open"
    )
    height += 44
    for line in _wrapped(legend, 92):
        parts.append(_text(16, height, line, _GREY, size=12))
        height += 16
    summary = f"{result.slug}: " + "; ".join(f"{row.label} {row.value}" for row in differences)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {height + 4:.0f}" '
        f'width="{_WIDTH:.0f}" role="img" aria-label="{html.escape(summary)}" '
        'font-family="system-ui, -apple-system, Segoe UI, sans-serif">'
        f'<rect width="100%" height="100%" rx="6" fill="#fbfcfd"/>{"".join(parts)}</svg>\n'
    )


def _panel(rows: Sequence[_Row], title: str, top: float, *, zero: bool) -> tuple[list[str], float]:
    """Return the elements of one panel and the y where it ends."""
    ends = [v for row in rows for v in (row.low, row.high, *row.by_seed)] + ([0.0] * zero)
    low, high, ticks = _axis(min(ends), max(ends))
    first = top + 24.0
    bottom = first + _STEP * len(rows)

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    parts = [_text(16, top, title, _INK, size=15, weight="600")]
    for tick in ticks:
        colour = "#9aa5b1" if zero and tick == 0 else "#e1e6eb"
        parts.append(_line(x(tick), first - 8, x(tick), bottom, colour, 1.0))
        parts.append(_text(x(tick), bottom + 16, f"{tick:g}", _GREY, anchor="middle", size=12))
    for place, row in enumerate(rows):
        y = first + _STEP * place + 10
        label = row.label if len(row.label) <= 32 else row.label[:31] + "…"
        parts.append(_text(_LEFT - 14, y + 4, label, _INK, anchor="end", size=13))
        parts.append(_line(x(row.low), y, x(row.high), y, row.colour, 3.0))
        for value in row.by_seed:
            parts.append(_line(x(value), y - 8, x(value), y + 8, row.colour, 1.2))
        parts.append(
            f'<circle cx="{x(row.mean):.1f}" cy="{y:.1f}" r="5.5" fill="{row.colour}" '
            'stroke="#fbfcfd" stroke-width="1.5"/>'
        )
        parts.append(
            _text(_WIDTH - 16, y + 4, row.value, row.colour, anchor="end", size=13, weight="600")
        )
    return parts, bottom + 18


def _axis(low: float, high: float) -> tuple[float, float, list[float]]:
    """Return padded limits and round ticks inside them."""
    if high <= low:
        room = abs(low) * 0.1 or 0.5
        low, high = low - room, high + room
    room = (high - low) * 0.05
    low, high = low - room, high + room
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * 0.75)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return low, high, [round(i * step, 12) for i in range(first, last + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width}" stroke-linecap="round"/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    colour: str,
    *,
    anchor: str = "start",
    size: int = 13,
    weight: str = "400",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" '
        f'font-size="{size}" font-weight="{weight}">{html.escape(text)}</text>'
    )


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
