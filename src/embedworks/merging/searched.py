"""Whole models merged with coefficients that were searched on probe rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedworks.merging._planning import MergeCall
from embedworks.merging.landscape import Landscape, draw_landscape, loss_landscape
from embedworks.merging.probe import Probe
from embedworks.merging.search import SearchOutcome, search_coefficients, simplex_grid
from embedworks.merging.search_settings import CoefficientSearch, GridOptions
from embedworks.merging.streaming import MergeReport
from embedworks.merging.task_vectors import TaskVectors
from embedworks.models import load_trainable

if TYPE_CHECKING:
    from embedworks.data import RowSet
    from embedworks.merging.models import OpenedModels

__all__ = ["merge_searched", "search_opened"]

_CARRIED_OUT = "task_arithmetic"


def merge_searched(
    opened: OpenedModels,
    rows: RowSet,
    settings: CoefficientSearch,
    *,
    told: Mapping[str, Any],
    device: str | None = None,
    workers: int | None = None,
    show_progress: bool | None = None,
) -> MergeReport:
    """Search coefficients and merge by them.

    The base and the models' task vectors are held in memory for the search; the merge itself is
    streamed, by ``task_arithmetic`` with the coefficients as weights by part. The card gets the
    losses and the coefficients, ``merge.json`` the whole search.

    Args:
        opened: The models, and the base.
        rows: Probe rows; their sources are the tasks.
        settings: How to search.
        told: Fields of the report, such as the method's name.
        device: Torch device of the search.
        workers: Threads of the merge.
        show_progress: True or False to force bars.
    """
    opened.plans(lambda stem: MergeCall(_CARRIED_OUT))  # what does not fit is told before a search
    found, surface = search_opened(
        opened, rows, settings, device=device, show_progress=show_progress
    )
    names = [root.name for root in opened.roots]
    files = {} if surface is None else {"landscape.svg": draw_landscape(surface, names)}
    data: dict[str, Any] = {**told.get("data", {}), "search": found.to_dict()}
    if surface is not None:
        data["landscape"] = surface.to_dict()
    call = MergeCall.of(_CARRIED_OUT, found.weights, None)
    return opened.write(
        lambda stem: call,
        workers=workers,
        show_progress=show_progress,
        told={
            **told,
            "options": settings.to_dict(),
            "data": data,
        },
        lines=_card_lines(found, names),
        files=files,
    )


def search_opened(
    opened: OpenedModels,
    rows: RowSet,
    settings: CoefficientSearch,
    *,
    device: str | None = None,
    show_progress: bool | None = None,
) -> tuple[SearchOutcome, Landscape | None]:
    """Search the coefficients of opened models; measure the surface where that is wanted."""
    assert opened.origin is not None  # the method needs a base, which was checked

    def model_of(root: Path, where: str | None) -> Any:
        return load_trainable(root, device=where).float()

    origin = model_of(opened.origin.root, device)
    vectors = TaskVectors(
        dict(origin.named_parameters()),
        [dict(model_of(root, "cpu").named_parameters()) for root in opened.roots],
        by=settings.by,
    )
    grid = None
    if isinstance(settings, GridOptions):
        grid = list(simplex_grid(len(vectors), parts=settings.parts, lengths=settings.lengths))
    probe = Probe.of(origin, rows, settings)
    found = search_coefficients(
        vectors, origin, probe, settings, grid=grid, show_progress=show_progress
    )
    if not settings.surface or len(vectors) < 2:
        return found, None
    surface = loss_landscape(
        vectors,
        origin,
        probe,
        found=found.coefficients,
        steps=settings.surface,
        show_progress=show_progress,
    )
    return found, surface


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
