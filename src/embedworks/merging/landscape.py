"""The loss between and beyond two models, as a surface: computed on probe rows, drawn as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from embedworks._core.progress import progress
from embedworks._core.svg import GREY, INK, PAPER, svg_circle, svg_document, svg_rect, svg_text
from embedworks._core.validation import check_in_range
from embedworks.errors import InputError
from embedworks.merging.probe import Probe
from embedworks.merging.task_vectors import TaskVectors

__all__ = ["Landscape", "draw_landscape", "loss_landscape"]


@dataclass(frozen=True)
class Landscape:
    """Losses over a plane of merges: ``x`` of one task vector and ``y`` of another.

    Attributes:
        x: Coefficients (W) of the first task vector, ascending.
        y: Coefficients (H) of the second, ascending.
        losses: Task -> losses (H, W).
        axes: Which models the axes belong to, by position.
        rest: Coefficients of the other models, the same everywhere.
        marks: (name, x, y) of points worth a mark.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    losses: dict[str, np.ndarray]
    axes: tuple[int, int]
    rest: dict[int, float]
    marks: tuple[tuple[str, float, float], ...]

    @property
    def relative(self) -> np.ndarray:
        """Losses (H, W) as shares of each task's least, averaged over the tasks; 1 is the least."""
        return np.mean([own / own.min() for own in self.losses.values()], axis=0)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "x": list(self.x),
            "y": list(self.y),
            "losses": {task: own.round(6).tolist() for task, own in self.losses.items()},
            "axes": list(self.axes),
            "rest": {str(number): value for number, value in self.rest.items()},
            "marks": [list(mark) for mark in self.marks],
        }


def loss_landscape(
    vectors: TaskVectors,
    model: Any,
    probe: Probe,
    *,
    found: np.ndarray | None = None,
    axes: tuple[int, int] = (0, 1),
    span: tuple[float, float] = (-0.25, 1.25),
    steps: int = 7,
    show_progress: bool | None = None,
) -> Landscape:
    """Measure the held-out losses of merges of two models over a grid of their coefficients.

    ``theta_0 + x V_i + y V_j``, plus the other models at their mean coefficient in ``found``. A
    merge with coefficients by part is marked at their means: the surface shows where the even merge
    and the single models stand, and how flat it is between them.

    Args:
        vectors: The task vectors.
        model: A sentence-transformers model of the base's structure; it is changed.
        probe: The rows, over the same model.
        found: Coefficients (N, G) to mark.
        axes: Positions of the two models.
        span: Least and largest coefficient.
        steps: Coefficients per axis; ``steps ** 2`` merges are measured.
        show_progress: True or False to force a bar.

    Raises:
        InputError: When there are not two models, or the axes are not two of them.
    """
    check_in_range(steps, name="steps", low=2, high=101)
    if len(set(axes)) != 2 or not all(0 <= axis < len(vectors) for axis in axes):
        raise InputError(f"axes must be two of the {len(vectors)} models, got {axes}.")
    if not span[0] < span[1]:
        raise InputError(f"span must ascend, got {span}.")
    means = np.zeros(len(vectors)) if found is None else np.asarray(found).mean(axis=1)
    values = np.linspace(*span, steps)
    table: dict[str, list[float]] = {task: [] for task in probe.tasks}
    with progress("Surface", steps * steps, enabled=show_progress) as bar:
        for y in values:
            for x in values:
                point = means.copy()
                point[list(axes)] = x, y
                spread = torch.from_numpy(point)[:, None].expand(-1, len(vectors.groups))
                vectors.put(model, spread)
                for task, loss in probe.held_out_losses().items():
                    table[task].append(loss)
                bar.advance()
    even = 1 / len(vectors)
    marks = [
        ("base", 0.0, 0.0),
        (f"model {axes[0] + 1}", 1.0, 0.0),
        (f"model {axes[1] + 1}", 0.0, 1.0),
        ("even", even, even),
    ]
    if found is not None:
        marks.append(("found", float(means[axes[0]]), float(means[axes[1]])))
    return Landscape(
        x=tuple(values.tolist()),
        y=tuple(values.tolist()),
        losses={task: np.reshape(own, (steps, steps)) for task, own in table.items()},
        axes=axes,
        rest={n: float(means[n]) for n in range(len(vectors)) if n not in axes},
        marks=tuple(marks),
    )


_LEFT, _TOP, _SIZE, _GAP = 56.0, 50.0, 252.0, 76.0
_FOUND = "#d6336c"
_LOW, _HIGH = np.array([0x16, 0x4B, 0x7D]), np.array([0xF7, 0xE3, 0xB5])


def draw_landscape(found: Landscape, names: Sequence[str] = ()) -> str:
    """Draw a surface for each task, and one for all, as one self-contained SVG.

    Args:
        found: What was measured.
        names: Names of the models, in order; by default ``model 1``, ``model 2``, ...

    Returns:
        SVG text. Dark is low; every panel has its own scale, whose ends stand above it.
    """
    panels = dict(found.losses)
    if len(panels) > 1:
        panels = {"all tasks (shares of the least)": found.relative, **panels}
    labels = [names[axis] if axis < len(names) else f"model {axis + 1}" for axis in found.axes]
    width = _LEFT + len(panels) * (_SIZE + _GAP) - _GAP + 24
    parts: list[str] = []
    for place, (title, losses) in enumerate(panels.items()):
        parts += _panel(found, title, losses, labels, _LEFT + place * (_SIZE + _GAP))
    ends = (f"{title} {own.min():.3f} to {own.max():.3f}" for title, own in panels.items())
    summary = f"Losses of merges of {labels[0]} and {labels[1]}: {'; '.join(ends)}"
    return svg_document(width, _TOP + _SIZE + 52, summary, parts)


def _panel(
    found: Landscape, title: str, losses: np.ndarray, labels: Sequence[str], left: float
) -> list[str]:
    low, high = float(losses.min()), float(losses.max())
    cell = _SIZE / len(found.x)
    step = (found.x[-1] - found.x[0]) / (len(found.x) - 1)
    bottom, middle = _TOP + _SIZE, _SIZE / 2

    def x_of(value: float) -> float:
        return left + (value - found.x[0]) / step * cell + cell / 2

    def y_of(value: float) -> float:
        return bottom - (value - found.y[0]) / step * cell - cell / 2

    parts = [
        svg_text(left, 22, title, weight="600"),
        svg_text(left, 38, f"{low:.3f} (dark) to {high:.3f}", GREY, size=12),
    ]
    for row, y in enumerate(found.y):
        for column, x in enumerate(found.x):
            share = np.sqrt((losses[row, column] - low) / (high - low)) if high > low else 0.0
            red, green, blue = (_LOW + share * (_HIGH - _LOW)).round().astype(int)
            fill = f"#{red:02x}{green:02x}{blue:02x}"
            parts.append(svg_rect(x_of(x) - cell / 2, y_of(y) - cell / 2, cell, cell, fill))
    for tick in (0.0, 0.5, 1.0):
        if found.x[0] <= tick <= found.x[-1]:
            parts.append(svg_text(x_of(tick), bottom + 16, f"{tick:g}", GREY, "middle", size=12))
            parts.append(svg_text(left - 6, y_of(tick) + 4, f"{tick:g}", GREY, "end", size=12))
    parts.append(svg_text(left + middle, bottom + 36, labels[0], anchor="middle"))
    parts.append(svg_text(left - 32, _TOP + middle, labels[1], anchor="middle", upwards=True))
    for name, x, y in found.marks:
        if found.x[0] - step / 2 <= x <= found.x[-1] + step / 2 and (
            found.y[0] - step / 2 <= y <= found.y[-1] + step / 2
        ):
            radius, fill = (6, _FOUND) if name == "found" else (4, PAPER)
            side, anchor = (9, "start") if x_of(x) < left + 0.75 * _SIZE else (-9, "end")
            parts.append(svg_circle(x_of(x), y_of(y), radius, fill, INK, width=1.2))
            parts.append(svg_text(x_of(x) + side, y_of(y) + 4, name, INK, anchor, halo=True))
    return parts
