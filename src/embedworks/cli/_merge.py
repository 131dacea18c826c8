"""``embedworks merge``: one model from several of the same structure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from embedworks._core.files import read_json
from embedworks.cli._output import JsonFlag, console, emit_json
from embedworks.errors import SettingsError

if TYPE_CHECKING:
    from embedworks.merging import MergeReport

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(merge)


def merge(
    models: Annotated[
        list[str], typer.Argument(help="Folders of the models, or of adapters, in order.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the result.")],
    method: Annotated[
        str | None,
        typer.Option(
            "--method", "-m",
            help="A name from `list merge-methods`, `list data-merge-methods` or `list "
            "merge-methods-by-place`. [default: linear; with --search: searched]",
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="What the models were trained from, where a method asks.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="One number per model, such as 0.7,0.3; or a JSON file of such lists by part of "
            "the model, such as merge.json of a searched merge. By default the method's own."
        ),
    ] = None,
    search: Annotated[
        Path | None,
        typer.Option(
            help="JSONL or Parquet file of probe rows (anchor, positive; source, score, label) "
            "for methods that look at data."
        ),
    ] = None,
    tokenizer: Annotated[
        str, typer.Option(help="same, or union: join different vocabularies by token text.")
    ] = "same",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Option of the method, such as density=0.3; repeatable."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model that is there.")
    ] = False,
    json: JsonFlag = False,
) -> None:  # fmt: skip
    """Merge models of one structure, or LoRA adapters of one base, into a new model."""
    from embedworks._core.settings import read_assignments
    from embedworks.merging import merge as merge_models

    report = merge_models(
        models,
        out,
        method,
        weights=None if weights is None else _weights(weights),
        base=base,
        rows=search,
        options=read_assignments(settings or (), example="density=0.3"),
        tokenizer=tokenizer,
        overwrite=overwrite,
        show_progress=False if json else None,
    )
    if json:
        emit_json({"out": str(out), **report.to_dict()})
        return
    console.print(
        f"{len(report.inputs)} models merged by {report.method}: {report.parameters:,} numbers in "
        f"{report.tensors:,} tensors, {report.seconds:.1f} s.",
        markup=False,
    )
    if "search" in report.data:
        _print_search(report)
    if report.left_out:
        console.print(
            f"Not taken over from the first model: {', '.join(report.left_out)}", markup=False
        )
    console.print(f"Model written to {out}. Use it: embedworks.load({str(out)!r})", markup=False)


def _print_search(report: MergeReport) -> None:
    """Show the losses on what was held out, by task."""
    from rich.table import Table

    found = report.data["search"]
    labels = {f"model {n}": item.path.name for n, item in enumerate(report.inputs, start=1)}
    labels |= {"start": "even merge", "found": "searched merge"}
    table = Table(
        box=None, title_justify="left", title="Loss on held-out probe rows (lower is better)"
    )
    table.add_column("")
    for task in found["losses"]["base"]:
        table.add_column(task, justify="right")
    for name, losses in found["losses"].items():
        table.add_row(labels.get(name, name), *(f"{value:.4f}" for value in losses.values()))
    console.print(table)
    console.print(f"Coefficients from step {found['step']} of {found['steps']}.", markup=False)


def _weights(text: str) -> list[float] | dict[str, list[float]]:
    if text.endswith(".json"):
        stored = read_json(Path(text))
        parts = stored.get("parts") if isinstance(stored, dict) else None
        found = parts or stored
        if not isinstance(found, dict) or not all(isinstance(v, list) for v in found.values()):
            raise SettingsError(
                f"{text} must hold lists of numbers by part of the model, such as "
                '{"layer 0": [1, 0], "*": [0.5, 0.5]}, or be merge.json of a searched merge.'
            )
        return found
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise SettingsError(
            f"--weights needs numbers with commas between them, such as 0.7,0.3, or a .json file, "
            f"got {text!r}."
        ) from error
