"""Whole models merged with coefficients that were searched on probe rows: the methods by name."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from embedworks._core.registry import Registry
from embedworks.data import RowSet
from embedworks.errors import InputError
from embedworks.merging._model_folders import ModelFolder
from embedworks.merging._planning import MergeCall
from embedworks.merging.models import Story, open_folders, plan_folders, write_merge
from embedworks.merging.probe import Probe
from embedworks.merging.search import (
    CoefficientSearch,
    SearchOutcome,
    search_coefficients,
    simplex_grid,
)
from embedworks.merging.streaming import MergeReport
from embedworks.merging.task_vectors import TaskVectors
from embedworks.models import load_trainable

__all__ = ["SEARCH_METHODS", "GridSearch", "SearchMethod", "SearchReport", "merge_searched"]

Finite = Annotated[float, Field(allow_inf_nan=False)]
_CARRIED_OUT = "task_arithmetic"


class GridSearch(CoefficientSearch):
    """Coefficients of whole models, tried one by one.

    Attributes:
        parts: Weights are multiples of ``1 / parts`` that sum to each length.
        lengths: Lengths of the merged task vector; 1 is a weighted mean.
    """

    by: Annotated[str, Field(pattern="^all$")] = "all"  # type: ignore[assignment]
    parts: Annotated[int, Field(ge=1, le=50)] = 4
    lengths: tuple[Finite, ...] = (0.6, 0.8, 1.0, 1.2)


@dataclass(frozen=True)
class SearchMethod:
    """A way of searching by its name.

    Attributes:
        name: Name in recipes and on the command line.
        settings: What may be set.
        defaults: What differs from the settings' own defaults.
    """

    name: str
    settings: type[CoefficientSearch]
    defaults: Mapping[str, Any]

    def read(self, options: Mapping[str, Any] | None) -> CoefficientSearch:
        """Return the settings with options changed.

        Raises:
            SettingsError: When an option is unknown or out of range.
        """
        return self.settings.from_dict({**self.defaults, **(options or {})})


#: Ways of searching the coefficients of a merge, by name.
SEARCH_METHODS: Registry[SearchMethod] = Registry("merge searches")


def _add(
    name: str, summary: str, settings: type[CoefficientSearch] = CoefficientSearch, **changed: Any
) -> None:
    SEARCH_METHODS.add(name, SearchMethod(name, settings, changed), summary=summary)


_add(
    "self_positioning",
    "One weight per model and one length, by gradient on probe rows (arXiv 2410.15035).",
    form="slerp",
    by="all",
    goal="mean",
    mu=0.01,
)
_add("searched", "A coefficient for each model and layer, by gradient on probe rows.")
_add(
    "adamerging",
    "A coefficient for each model and layer that makes rankings sure; no labels are used "
    "(arXiv 2310.02575).",
    loss="entropy",
    goal="mean",
)
_add("grid", "Weights of whole models, tried one by one on probe rows.", GridSearch)


@dataclass(frozen=True)
class SearchReport(MergeReport):
    """What a searched merge did: the merge, and the search before it."""

    search: SearchOutcome | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        assert self.search is not None
        return {**super().to_dict(), "search": self.search.to_dict()}


def merge_searched(
    models: Sequence[str | Path],
    out: str | Path,
    method: str = "searched",
    *,
    base: str | Path,
    rows: RowSet | str | Path,
    options: Mapping[str, Any] | None = None,
    device: str | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    show_progress: bool | None = None,
) -> SearchReport:
    """Merge models into a new one whose coefficients are searched on a small probe set.

    The base and the models' task vectors are held in memory for the search; the merge itself is
    streamed as by `merge_models`, by ``task_arithmetic`` with the weights that were found. The
    folder gets ``search.json`` and a table of losses in its card besides.

    Args:
        models: Folders, or short names of models that have a folder.
        out: Folder for the result.
        method: A name among `SEARCH_METHODS`.
        base: What the models were trained from.
        rows: Probe rows, or a JSONL or Parquet file of them; their sources are the tasks. Some
            hundred rows per task are usual. They must not be among the rows that measure the
            result.
        options: Settings of the search by name; see `CoefficientSearch`.
        device: Torch device of the search.
        overwrite: Whether a model in ``out`` is replaced; it stays whole until then.
        workers: Threads of the merge.
        show_progress: True or False to force bars; by default on a terminal.

    Raises:
        InputError: As `merge_models`; or when a task has too few rows, or a model is the base.
        SettingsError: When an option is unknown or out of range.
        UnknownNameError: When no method has this name.
        MissingExtraError: When the ``train`` extra is not installed.

    Example:
        >>> report = merge_searched(
        ...     ["models/qa", "models/sts"], "models/both", "self_positioning",
        ...     base="minilm", rows="probe.jsonl",
        ... )  # doctest: +SKIP
        >>> report.search.weights  # doctest: +SKIP
        {'*': [0.61, 0.48]}
    """
    chosen = SEARCH_METHODS[method]
    settings = chosen.read(options)
    if base is None:
        raise InputError(
            f"{method} works on what each model changed, so it needs the base the models were "
            "trained from: give `base`."
        )
    call = MergeCall.of(_CARRIED_OUT, None, None)
    folders, origin = open_folders(models, base, out, call, overwrite=overwrite)
    assert origin is not None  # a base was given
    plan_folders(folders, origin, call)  # what does not fit is told before the search
    found = search_folders(
        folders, origin, rows, settings, device=device, show_progress=show_progress
    )
    names = [folder.root.name for folder in folders]
    story = Story(
        lines=_card_lines(found, names),
        files={"search.json": _search_json(method, settings, found)},
        method=method,
        options=dict(options or {}),
    )
    report = write_merge(
        folders,
        origin,
        Path(out),
        MergeCall.of(_CARRIED_OUT, found.weights, None),
        workers=workers,
        show_progress=show_progress,
        story=story,
    )
    told = {field.name: getattr(report, field.name) for field in fields(MergeReport)}
    return SearchReport(**told, search=found)


def search_folders(
    folders: Sequence[ModelFolder],
    base: ModelFolder,
    rows: RowSet | str | Path,
    settings: CoefficientSearch,
    *,
    device: str | None = None,
    show_progress: bool | None = None,
) -> SearchOutcome:
    """Search the coefficients of opened models."""
    with tempfile.TemporaryDirectory() as scratch:

        def parameters(folder: ModelFolder, place: int) -> dict[str, Any]:
            own = load_trainable(folder.root, Path(scratch) / str(place), device="cpu")
            return dict(own.named_parameters())

        origin = load_trainable(base.root, Path(scratch) / "base", device=device)
        vectors = TaskVectors(
            dict(origin.named_parameters()),
            [parameters(folder, place) for place, folder in enumerate(folders)],
            by=settings.by,
        )
        probe = Probe(
            origin,
            rows,
            loss=settings.loss,
            batch_size=settings.batch_size,
            held_out=settings.held_out,
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            seed=settings.seed,
        )
        grid = None
        if isinstance(settings, GridSearch):
            grid = list(simplex_grid(len(vectors), parts=settings.parts, lengths=settings.lengths))
        return search_coefficients(
            vectors, origin, probe, settings, grid=grid, show_progress=show_progress
        )


def _search_json(method: str, settings: CoefficientSearch, found: SearchOutcome) -> str:
    told = {"method": method, "settings": settings.to_dict(), **found.to_dict()}
    told.pop("seconds")
    return json.dumps(told, indent=2, allow_nan=False) + "\n"


def _card_lines(found: SearchOutcome, names: Sequence[str]) -> tuple[str, ...]:
    """Return the search as Markdown for the card."""
    tasks = list(found.tasks["base"])
    labels = {f"model {n}": name for n, name in enumerate(names, start=1)}
    labels |= {"start": "even merge", "found": "searched merge"}
    lines = [
        "", "## Search", "",
        f"Coefficients are from step {found.step} of {found.steps}. Losses on probe rows that the "
        "search did not train on (they decided when to stop); lower is better:",
        "", f"| | {' | '.join(tasks)} |", f"|---|{'---|' * len(tasks)}",
    ]  # fmt: skip
    for name, losses in found.tasks.items():
        row = " | ".join(f"{losses[task]:.4f}" for task in tasks)
        lines.append(f"| {labels.get(name, name)} | {row} |")
    lines += ["", f"| part | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for part, weights in found.weights.items():
        lines.append(f"| {part} | {' | '.join(f'{w:.3f}' for w in weights)} |")
    return tuple(lines)
