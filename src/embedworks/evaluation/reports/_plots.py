"""Plots as inline SVG. Colours and fonts come from the page's style sheet by class name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from embedworks._core.svg import axis_ticks
from embedworks.evaluation.reports._html import clip, esc
from embedworks.evaluation.statistics.intervals import Difference, Interval

__all__ = [
    "MAP_GROUPS",
    "curve_plot",
    "dot_plot",
    "heat_map",
    "lines_plot",
    "map_groups",
    "mark",
    "scatter_plot",
    "thin_curve",
]

#: Groups of the map with a colour and mark of their own; the rest is "other".
MAP_GROUPS = 8
_CURVE_POINTS = 240
_MARKS = (
    "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",
    "M-2.7-2.7h5.4v5.4h-5.4z",
    "M0-3.6 3.4 2.5h-6.8z",
    "M0-3.7 3.7 0 0 3.7-3.7 0z",
)


def dot_plot(
    rows: Sequence[tuple[str, Interval | Difference]],
    *,
    title: str,
    x_label: str,
    own: Sequence[bool],
    width: float = 340.0,
) -> str:
    """Draw a mean with its interval per row on a common axis; differences beside a line at 0.

    Args:
        rows: (label, interval or difference) from top to bottom.
        title: Heading of the panel.
        x_label: Name and unit of the axis.
        own: For each row, whether it is the system under study (drawn in colour).
        width: Width in SVG units, about the pixels it gets on a wide screen.
    """
    left, step, top = 8.0, 42.0, 34.0
    bottom = top + step * len(rows)
    gaps = any(isinstance(interval, Difference) for _, interval in rows)
    right = 62.0 if gaps else 14.0  # the line at 0 must not run through the values
    ends = [end for _, interval in rows for end in (interval.low, interval.high)]
    ends += [-0.005, 0.005] if gaps else []  # smaller differences are none
    low, high, ticks = axis_ticks(min(ends), max(ends), 5, pad=0.06)

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - right)

    parts = [f'<text class="title" x="{left}" y="16">{esc(title)}</text>']
    for tick in ticks:
        parts.append(_line("grid", x(tick), top - 6, x(tick), bottom + 2))
        anchor = "start" if x(tick) - left < 16 else "middle"
        parts.append(_text("tick", x(tick), bottom + 16, f"{tick:g}", anchor))
    parts.append(_text("axis", (left + width - right) / 2, bottom + 34, x_label, "middle"))
    if gaps:
        parts.append(_line("zero", x(0.0), top - 6, x(0.0), bottom + 2))
    for place, ((label, interval), mine) in enumerate(zip(rows, own)):
        y = top + step * place
        kind = "own" if mine else "other"
        form = "+.3f" if gaps else ".3f"
        parts.append(_text(f"label {kind}", left, y + 10, clip(label, 34)))
        parts.append(
            _text(
                f"value {kind}",
                width - 14.0,
                y + 10,
                f"{round(interval.mean, 3) + 0.0:{form}}",
                "end",
            )
        )
        parts.append(_line(f"range {kind}", x(interval.low), y + 23, x(interval.high), y + 23))
        parts.append(
            f'<circle class="dot {kind}" cx="{x(interval.mean):.1f}" cy="{y + 23:.1f}" r="5.5"/>'
        )
    summary = "; ".join(f"{label} {interval.describe()}" for label, interval in rows)
    return _svg(width, bottom + 42, f"{title}: {summary}", parts)


def curve_plot(
    x_values: Sequence[float],
    y_values: Sequence[float],
    *,
    title: str,
    x_label: str,
    y_label: str,
    chosen: float | None = None,
    dots: bool = False,
) -> str:
    """Draw a line over its axes, with the chosen x marked if there is one."""
    width, height, left, right, top, bottom = 470.0, 300.0, 58.0, 18.0, 40.0, 52.0
    x_low, x_high, x_ticks = axis_ticks(min(x_values), max(x_values), 6, pad=0.0)
    y_low, y_high, y_ticks = axis_ticks(min(y_values), max(y_values), 5, pad=0.06)

    def x(value: float) -> float:
        return left + (value - x_low) / (x_high - x_low) * (width - left - right)

    def y(value: float) -> float:
        return height - bottom - (value - y_low) / (y_high - y_low) * (height - top - bottom)

    parts = [f'<text class="title" x="8" y="16">{esc(title)}</text>']
    for tick in y_ticks:
        parts.append(_line("grid", left, y(tick), width - right, y(tick)))
        parts.append(_text("tick", left - 8, y(tick) + 4, f"{tick:g}", "end"))
    for tick in x_ticks:
        parts.append(_line("grid", x(tick), height - bottom, x(tick), height - bottom + 5))
        parts.append(_text("tick", x(tick), height - bottom + 19, f"{tick:,g}", "middle"))
    parts.append(_text("axis", (left + width - right) / 2, height - 8, x_label, "middle"))
    parts.append(
        f'<text class="axis" text-anchor="middle" transform="translate(13 '
        f'{(top + height - bottom) / 2:.0f}) rotate(-90)">{esc(y_label)}</text>'
    )
    path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(x_values, y_values))
    parts.append(f'<polyline class="curve" points="{path}"/>')
    if dots:
        parts += [
            f'<circle class="curve-dot" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.5"/>'
            for a, b in zip(x_values, y_values)
        ]
    best = ""
    if chosen is not None:
        value = y_values[min(range(len(x_values)), key=lambda i: abs(x_values[i] - chosen))]
        anchor = "end" if x(chosen) > (left + width - right) / 2 else "start"
        shift = -9 if anchor == "end" else 9
        parts.append(_line("chosen", x(chosen), top - 4, x(chosen), height - bottom))
        parts.append(f'<circle class="dot own" cx="{x(chosen):.1f}" cy="{y(value):.1f}" r="6"/>')
        text = f"chosen {chosen:g}"
        parts.append(_text("label own", x(chosen) + shift, top + 6, text, anchor))
        best = f" Chosen: {chosen:g} with {value:.4g}."
    summary = (
        f"{title}. {y_label} over {x_label}, from {y_values[0]:.4g} at {x_values[0]:g} to "
        f"{y_values[-1]:.4g} at {x_values[-1]:g}.{best}"
    )
    return _svg(width, height, summary, parts)


def lines_plot(
    curves: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
) -> str:
    """Draw lines, named at the right when there are several; x doubles where it spans much.

    Args:
        curves: (name, x values, y values); x ascending.
        title: Heading of the panel.
        x_label: Name and unit of the horizontal axis.
        y_label: Name and unit of the vertical axis.
    """
    width, height, top, bottom = 470.0, 300.0, 40.0, 52.0
    longest = max(len(clip(name, 18)) for name, _, _ in curves)
    right = 18.0 if len(curves) == 1 else 30.0 + 6.8 * longest
    places = sorted({a for _, xs, _ in curves for a in xs})
    double = places[0] > 0 and places[-1] >= 8 * places[0]
    scale = math.log2 if double else float
    x_low, x_high, ticks = axis_ticks(scale(places[0]), scale(places[-1]), 6, pad=0.03)
    y_low, y_high, y_ticks = axis_ticks(
        min(b for _, _, ys in curves for b in ys),
        max(b for _, _, ys in curves for b in ys),
        5,
        pad=0.06,
    )
    left = 30.0 + 7.2 * max(len(f"{tick:g}") for tick in y_ticks)

    def x(value: float) -> float:
        return left + (scale(value) - x_low) / (x_high - x_low) * (width - left - right)

    def y(value: float) -> float:
        return height - bottom - (value - y_low) / (y_high - y_low) * (height - top - bottom)

    parts = [f'<text class="title" x="8" y="16">{esc(title)}</text>']
    for tick in y_ticks:
        parts.append(_line("grid", left, y(tick), width - right, y(tick)))
        parts.append(_text("tick", left - 8, y(tick) + 4, f"{tick:g}", "end"))
    shown = -math.inf
    for tick in places if double else ticks:
        parts.append(_line("grid", x(tick), height - bottom, x(tick), height - bottom + 5))
        if x(tick) - shown >= 30:
            parts.append(_text("tick", x(tick), height - bottom + 19, f"{tick:,g}", "middle"))
            shown = x(tick)
    parts.append(_text("axis", (left + width - right) / 2, height - 8, x_label, "middle"))
    parts.append(
        f'<text class="axis" text-anchor="middle" transform="translate(13 '
        f'{(top + height - bottom) / 2:.0f}) rotate(-90)">{esc(y_label)}</text>'
    )
    for slot, (_, xs, ys) in enumerate(curves[:MAP_GROUPS]):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(xs, ys))
        parts.append(f'<polyline class="line l{slot}" points="{path}"/>')
        parts += [
            f'<circle class="g{slot}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.5"/>'
            for a, b in zip(xs, ys)
        ]
    placed = top
    named = sorted(enumerate(curves[:MAP_GROUPS]), key=lambda item: -item[1][2][-1])
    for left_over, (slot, (name, _, ys)) in zip(range(len(named), 0, -1), named):
        if len(curves) == 1:
            break
        room = height - bottom - 15 * (left_over - 1)
        placed = min(max(placed, y(ys[-1]) + 4), room)
        parts.append(
            f'<circle class="g{slot}" cx="{width - right + 10:.1f}" cy="{placed - 4:.1f}" r="3.5"/>'
        )
        parts.append(_text("tick", width - right + 18, placed, clip(name, 18)))
        placed += 15
    summary = "; ".join(
        f"{name} from {ys[0]:.4g} at {xs[0]:g} to {ys[-1]:.4g} at {xs[-1]:g}"
        for name, xs, ys in curves
    )
    return _svg(width, height, f"{title}. {y_label} over {x_label}: {summary}", parts)


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    *,
    title: str,
    row_label: str,
    column_label: str,
    form: str = ".3f",
) -> str:
    """Draw a table of numbers whose cells are the darker the higher they are.

    Colours are shades of the text's own colour, so it can be read on any page, alone too.

    Args:
        rows: Names from top to bottom.
        columns: Names from left to right.
        values: Per row, one number per column.
        title: Heading.
        row_label: What rows are.
        column_label: What columns are.
        form: Format of the numbers.
    """
    wide, high, left, top = 62.0, 30.0, 92.0, 58.0
    numbers = [value for line in values for value in line]
    low, span = min(numbers), (max(numbers) - min(numbers)) or 1.0
    width, height = left + wide * len(columns) + 8, top + high * len(rows) + 10
    parts = [
        f'<text class="title" x="8" y="16">{esc(title)}</text>',
        _text("axis", left, 34, column_label),
        _text("axis", 8, top - 8, row_label),
    ]
    for place, name in enumerate(columns):
        parts.append(_text("tick", left + wide * (place + 0.5), top - 8, name, "middle"))
    for line, name in enumerate(rows):
        y = top + high * line
        parts.append(_text("tick", left - 10, y + 19, name, "end"))
        for place, value in enumerate(values[line]):
            x, shade = left + wide * place, 0.03 + 0.42 * (value - low) / span
            parts.append(
                f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{wide - 2:.1f}" '
                f'height="{high - 2:.1f}" fill="currentColor" fill-opacity="{shade:.3f}"/>'
            )
            parts.append(_text("value", x + wide / 2 - 1, y + 19, f"{value:{form}}", "middle"))
    said = "; ".join(
        f"{row}: " + ", ".join(f"{c} {v:{form}}" for c, v in zip(columns, line))
        for row, line in zip(rows, values)
    )
    return _svg(width, height, f"{title}: {said}", parts)


def thin_curve(
    x_values: Sequence[float], y_values: Sequence[float]
) -> tuple[list[float], list[float], int]:
    """Average neighbouring points until few enough to draw; returns (x, y, points per mean)."""
    size = max(1, math.ceil(len(x_values) / _CURVE_POINTS))
    starts = range(0, len(x_values), size)
    mean_x = [float(np.mean(x_values[i : i + size])) for i in starts]
    mean_y = [float(np.mean(y_values[i : i + size])) for i in starts]
    return mean_x, mean_y, size


def map_groups(groups: Sequence[str]) -> list[tuple[str, int]]:
    """Return the largest groups with their counts, largest first, at most `MAP_GROUPS`."""
    counts = Counter(groups)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAP_GROUPS]


def mark(slot: int) -> str:
    """Draw the mark of a map group on its own, for the legend."""
    shape = _MARKS[slot % len(_MARKS)]
    return (
        f'<svg viewBox="-5 -5 10 10" aria-hidden="true"><path class="g{slot}" d="{shape}"/></svg>'
    )


def scatter_plot(
    points: np.ndarray, groups: Sequence[str], titles: Sequence[str], *, x_label: str, y_label: str
) -> str:
    """Draw points of shape (N, 2) coloured and shaped by group; each carries its title."""
    width, height, margin = 960.0, 600.0, 30.0
    named = [name for name, _ in map_groups(groups)]
    # Far outliers would squeeze everything else: they are drawn at the border.
    low, high = np.quantile(points, [0.002, 0.998], axis=0)
    span = np.where(high > low, high - low, 1.0)
    unit = np.clip((points - low) / span, 0.0, 1.0)
    unit[:, np.asarray(high <= low)] = 0.5
    xs = margin + unit[:, 0] * (width - 2 * margin)
    ys = height - margin - unit[:, 1] * (height - 2 * margin)
    slots = [named.index(group) if group in named else MAP_GROUPS for group in groups]
    marks = "".join(f'<path id="mark{i}" d="{shape}"/>' for i, shape in enumerate(_MARKS))
    parts = [f"<defs>{marks}</defs>"]
    parts.append(f'<rect class="frame" x="1" y="1" width="{width - 2}" height="{height - 2}"/>')
    parts.append(_text("axis", width / 2, height - 8, x_label, "middle"))
    parts.append(
        f'<text class="axis" text-anchor="middle" transform="translate(16 {height / 2:.0f}) '
        f'rotate(-90)">{esc(y_label)}</text>'
    )
    for slot in (MAP_GROUPS, *range(len(named))):
        members = [i for i, s in enumerate(slots) if s == slot]
        if not members:
            continue
        uses = "".join(
            f'<use href="#mark{slot % len(_MARKS)}" x="{xs[i]:.1f}" y="{ys[i]:.1f}">'
            f"<title>{esc(clip(titles[i], 120))}</title></use>"
            for i in members
        )
        parts.append(f'<g class="pt g{slot}" data-group="{slot}">{uses}</g>')
    parts.append(_group_names(named, slots, xs, ys, width, height))
    summary = f"Map of {len(points):,} texts; groups: {', '.join(named)}"
    return _svg(width, height, summary, parts, css="map")


def _group_names(
    named: Sequence[str],
    slots: Sequence[int],
    xs: np.ndarray,
    ys: np.ndarray,
    width: float,
    height: float,
) -> str:
    """Write each group's name where it is densest, unless it would cover another name."""
    placed: list[tuple[float, float, float]] = []
    texts = []
    for slot, name in enumerate(named):
        members = np.asarray([i for i, s in enumerate(slots) if s == slot])
        cells = (xs[members] // 48) * 1000 + ys[members] // 48
        kinds, counts = np.unique(cells, return_counts=True)
        dense = members[cells == kinds[counts.argmax()]]
        label = clip(name, 24)
        half = 4.2 * len(label) + 6
        x = min(max(float(np.mean(xs[dense])), half + 4), width - half - 4)
        y = min(max(float(ys[dense].min()) - 14.0, 20.0), height - 30.0)
        if any(abs(x - a) < half + b and abs(y - c) < 20 for a, b, c in placed):
            continue
        placed.append((x, half, y))
        texts.append(_text("group-name", x, y + 5, label, "middle"))
    return f'<g aria-hidden="true">{"".join(texts)}</g>'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(kind: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{esc(text)}</text>'


def _svg(width: float, height: float, summary: str, parts: Sequence[str], css: str = "plot") -> str:
    return (
        f'<svg class="{css}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{esc(clip(summary, 2000))}">{"".join(parts)}</svg>'
    )
