"""What a model is worth when cut: quality, speed and size over layers and dimensions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from embedworks._core.files import write_text
from embedworks._core.progress import progress
from embedworks._core.validation import check_choice, check_in_range
from embedworks.errors import EmptyInputError, FormatError, InputError
from embedworks.evaluation.kinds.retrieval import RetrievalTask
from embedworks.evaluation.kinds.sts import StsTask
from embedworks.evaluation.reports._plots import heat_map
from embedworks.evaluation.runner import evaluate_systems
from embedworks.evaluation.sweeps import dimension_sweep
from embedworks.evaluation.systems import EncoderSystem
from embedworks.models import encode_batched, truncate_model

__all__ = ["GridCell", "LayerDimGrid", "evaluate_grid"]

_SPEED_TEXTS = 256


@dataclass(frozen=True)
class GridCell:
    """A model cut to some layers and dimensions."""

    layers: int
    dim: int
    quality: Mapping[str, float]
    """Task -> its main figure."""
    texts_per_second: float
    """Median of interleaved rounds; it depends on the layers alone."""
    vector_bytes: int
    """Bytes of a float32 vector."""
    parameters: int
    """Weights of the model, token table included."""


@dataclass(frozen=True)
class LayerDimGrid:
    """A model at every size of a grid.

    Attributes:
        name: Of the model.
        cells: By layers, then dimensions.
        full: (layers, dim) of the whole model, which is always among the cells.
        metrics: Task -> name of its main figure.
    """

    name: str
    cells: tuple[GridCell, ...]
    full: tuple[int, int]
    metrics: Mapping[str, str]

    def cell(self, layers: int, dim: int) -> GridCell:
        """Return the cell of a size.

        Raises:
            InputError: When it was not evaluated; lists what was.
        """
        for cell in self.cells:
            if (cell.layers, cell.dim) == (layers, dim):
                return cell
        sizes = ", ".join(f"{c.layers}x{c.dim}" for c in self.cells)
        raise InputError(f"{layers}x{dim} is not in the grid; it has {sizes}.")

    def kept(self, task: str, layers: int, dim: int) -> float:
        """Return the share of the whole model's quality that a size keeps."""
        check_choice(task, self.metrics, name="task")
        whole = self.cell(*self.full).quality[task]
        return self.cell(layers, dim).quality[task] / whole if whole else float("nan")

    def speedup(self, layers: int) -> float:
        """Return how many times faster so many layers encode than the whole model."""
        found = next((c for c in self.cells if c.layers == layers), None)
        if found is None:
            raise InputError(f"{layers} layers are not in the grid.")
        return found.texts_per_second / self.cell(*self.full).texts_per_second

    def mean(self, task: str) -> float:
        """Return the mean quality over all cells: the volume under the grid."""
        check_choice(task, self.metrics, name="task")
        return statistics.fmean(cell.quality[task] for cell in self.cells)

    def markdown(self) -> str:
        """Return the grid as a Markdown table."""
        tasks = list(self.metrics)
        head = ["layers", "dim", *(f"{t} {self.metrics[t]}" for t in tasks)]
        head += [*(f"{t} kept" for t in tasks), "texts/s", "speed", "bytes", "weights"]
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for cell in self.cells:
            row = [str(cell.layers), str(cell.dim)]
            row += [f"{cell.quality[task]:.3f}" for task in tasks]
            row += [f"{self.kept(task, cell.layers, cell.dim):.1%}" for task in tasks]
            row += [f"{cell.texts_per_second:.0f}", f"{self.speedup(cell.layers):.2f}x"]
            row += [f"{cell.vector_bytes:,}", f"{cell.parameters / 1e6:.1f} M"]
            lines.append("| " + " | ".join(row) + " |")
        return "\n".join(lines)

    def heat_map(self, task: str, path: str | Path | None = None) -> str:
        """Return a heat map of a task as SVG, and write it if there is a path.

        Raises:
            UnknownNameError: When there is no such task.
        """
        check_choice(task, self.metrics, name="task")
        layers = sorted({cell.layers for cell in self.cells})
        dims = sorted({cell.dim for cell in self.cells})
        drawn = heat_map(
            [str(n) for n in layers],
            [str(d) for d in dims],
            [[self.cell(n, d).quality[task] for d in dims] for n in layers],
            title=f"{self.name}: {task}, {self.metrics[task]}",
            row_label="layers",
            column_label="dimensions",
        )
        if path is not None:
            write_text(
                Path(path), drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
            )
        return drawn

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values that `from_dict` reads back."""
        return {
            "name": self.name,
            "full": list(self.full),
            "metrics": dict(self.metrics),
            "cells": [asdict(cell) for cell in self.cells],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LayerDimGrid:
        """Read what `to_dict` gave.

        Raises:
            FormatError: When something is missing.
        """
        try:
            layers, dim = values["full"]
            cells = tuple(GridCell(**cell) for cell in values["cells"])
            return cls(values["name"], cells, (layers, dim), dict(values["metrics"]))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"this is not a grid of layers and dimensions ({error}).") from error


def evaluate_grid(
    model: Any,
    tasks: Sequence[RetrievalTask | StsTask],
    *,
    layers: Sequence[int],
    dims: Sequence[int],
    name: str = "model",
    repeats: int = 3,
    show_progress: bool | None = None,
) -> LayerDimGrid:
    """Cut a model to every size, and measure quality, speed and size of each.

    Texts are encoded once per layer count. Speed is measured on up to 256 of the tasks' texts, all
    layer counts in turn, several rounds, with texts sorted by length.

    Args:
        model: A ``SentenceTransformer`` over a transformer.
        tasks: What quality is; names must differ.
        layers: Layer counts; the whole model is added.
        dims: Dimensions; the full width is added.
        name: Of the model, for tables.
        repeats: Rounds of the speed measurement.
        show_progress: True or False to force a bar; by default there is one on a terminal.

    Raises:
        EmptyInputError: When there are no tasks, layers or dims.
        InputError: When a size does not exist.
    """
    check_in_range(repeats, name="repeats", low=1)
    if not tasks or not layers or not dims:
        raise EmptyInputError("a grid needs tasks, layers and dims.")
    width = int(model.get_embedding_dimension())
    wide = sorted({*dims, width})
    if wide[0] < 1 or wide[-1] > width:
        raise InputError(f"dims must be 1 to {width} for this model, got {sorted(dims)}.")
    # None cuts nothing, and refuses what has no layers.
    whole = truncate_model(model)
    count = int(whole[0].auto_model.config.num_hidden_layers)
    deep = sorted({*layers, count})
    cuts = {n: truncate_model(model, n) for n in deep}
    qualities: dict[tuple[int, int], dict[str, float]] = {}
    metrics: dict[str, str] = {}
    with (
        TemporaryDirectory() as cache,
        progress("Cutting", len(deep), enabled=show_progress) as bar,
    ):
        for n, cut in cuts.items():
            system = EncoderSystem(
                cut, name=f"{name}[:{n} layers]", cache=cache, show_progress=False
            )
            systems = [system]
            if wide[:-1]:
                systems += dimension_sweep(system, wide[:-1])
            sizes = [width, *wide[:-1]]
            results = evaluate_systems(systems, tasks, show_progress=False)
            for dim, result in zip(sizes, results, strict=True):
                if result.errors:
                    raise InputError(f"{n} layers x {dim} could not be evaluated: {result.errors}")
                qualities[n, dim] = {
                    task: found.main.interval.mean for task, found in result.tasks.items()
                }
                metrics |= {task: found.metric for task, found in result.tasks.items()}
            bar.advance()
    speeds = _speeds(cuts, _texts(tasks), repeats)
    sizes_of = {n: sum(p.numel() for p in cut.parameters()) for n, cut in cuts.items()}
    cells = tuple(
        GridCell(n, dim, qualities[n, dim], speeds[n], 4 * dim, sizes_of[n])
        for n in deep
        for dim in wide
    )
    return LayerDimGrid(name, cells, (count, width), metrics)


def _texts(tasks: Sequence[RetrievalTask | StsTask]) -> list[str]:
    found: list[str] = []
    for task in tasks:
        if isinstance(task, StsTask):
            found += task.texts()
        elif isinstance(task.corpus, Mapping):
            found += task.corpus.values()
    return list(dict.fromkeys(found))[:_SPEED_TEXTS]


def _speeds(cuts: Mapping[int, Any], texts: Sequence[str], repeats: int) -> dict[int, float]:
    """Return texts per second by layer count, the median of rounds in which all take turns."""
    seconds: dict[int, list[float]] = {n: [] for n in cuts}
    for n in cuts:
        encode_batched(cuts[n], texts[:16], show_progress=False)  # warm up
    for _ in range(repeats):
        for n, cut in cuts.items():
            started = time.perf_counter()
            encode_batched(cut, texts, show_progress=False)
            seconds[n].append(time.perf_counter() - started)
    return {n: len(texts) / statistics.median(found) for n, found in seconds.items()}
