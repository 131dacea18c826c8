"""``embedworks merge``: one model from several of the same structure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from embedworks.cli._output import JsonFlag, console, emit_json
from embedworks.errors import SettingsError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(merge)


def merge(
    models: Annotated[list[str], typer.Argument(help="Folders of the models, in order.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the result.")],
    method: Annotated[
        str, typer.Option("--method", "-m", help="A name from `list merge-methods`.")
    ] = "linear",
    base: Annotated[
        str | None, typer.Option(help="What the models were trained from, where a method asks.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="One number per model, such as 0.7,0.3; by default the method's own."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Option of the method, such as density=0.3; repeatable."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model that is there.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Merge models of one structure into a new one, tensor by tensor."""
    from embedworks.merging import merge as merge_models

    report = merge_models(
        models,
        out,
        method,
        weights=None if weights is None else _numbers(weights),
        base=base,
        options=_options(settings or ()),
        overwrite=overwrite,
        show_progress=False if json else None,
    )
    if json:
        emit_json({"out": str(out), **report.to_dict()})
        return
    console.print(
        f"{len(report.inputs)} models merged by {method}: {report.parameters:,} numbers in "
        f"{report.tensors:,} tensors, {report.seconds:.1f} s.",
        markup=False,
    )
    if report.left_out:
        console.print(
            f"Not taken over from the first model: {', '.join(report.left_out)}", markup=False
        )
    console.print(f"Model written to {out}. Use it: embedworks.load({str(out)!r})", markup=False)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise SettingsError(
            f"--weights needs numbers with commas between them, such as 0.7,0.3, got {text!r}."
        ) from error


def _options(given: Sequence[str]) -> dict[str, Any]:
    import yaml

    options: dict[str, Any] = {}
    for text in given:
        key, mark, value = text.partition("=")
        if not (key.strip() and mark):
            raise SettingsError(f"--set needs key=value, such as density=0.3, got {text!r}.")
        try:
            options[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SettingsError(f"--set {text!r}: the value is not valid YAML: {error}") from error
    return options
