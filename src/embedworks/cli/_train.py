"""``embedworks train``: run a recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from embedworks.cli._output import JsonFlag, console, emit_json, show_table
from embedworks.errors import SettingsError

__all__ = ["register"]

_PLAN = "Staged plans only: "


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(train)


def train(
    recipe: Annotated[str, typer.Argument(help="Name from `list recipes`, or a YAML file.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the model.")] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder with the recipe's training data.")
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help=_PLAN + "full (as published) or mini (runs anywhere).")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help=_PLAN + "key=value, such as stages.0.steps=20; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option(help=_PLAN + "say what would be done and what it costs here.")
    ] = False,
    diff: Annotated[
        str | None, typer.Option(help=_PLAN + "show how this recipe differs from the one given.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help=_PLAN + "go on with an interrupted run.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help=_PLAN + "replace a run that is there.")
    ] = False,
    report_to: Annotated[
        list[str] | None,
        typer.Option(help=_PLAN + "experiment tracker, such as wandb; repeatable."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random choice.")] = None,
    json: JsonFlag = False,
) -> None:
    """Train a model by its recipe: a published one, the bundled `static-en`, or your own."""
    from embedworks.training.recipes import recipe_kind

    kind, path = recipe_kind(recipe)
    plan_only = {
        "--scale": scale, "--set": changes, "--dry-run": dry_run, "--diff": diff,
        "--resume": resume, "--overwrite": overwrite, "--report-to": report_to,
    }  # fmt: skip
    if kind == "distill-static":
        given = [name for name, value in plan_only.items() if value]
        if given:
            raise SettingsError(f"{', '.join(given)}: not for recipes of kind {kind!r}.")
        if out is None or data_root is None:
            raise SettingsError(f"the recipe {recipe!r} needs --out and --data-root.")
        _distill(path, out, data_root, seed or 0, json)
        return
    if kind != "plan":
        raise SettingsError(
            f"The recipe {recipe!r} is run by `embedworks {kind} --recipe {recipe}`."
        )
    from embedworks.training import load_plan

    wanted = [*(changes or []), *([f"seed={seed}"] if seed is not None else [])]
    plan = load_plan(recipe, scale=scale, changes=wanted)
    root = data_root or Path()
    if diff is not None:
        _show_diff(diff, plan, scale, json)
    elif dry_run:
        _preview(plan, root, json)
    else:
        if out is None:
            raise SettingsError("--out is needed: the folder for the run.")
        _run(plan, out, root, resume, overwrite, report_to or [], json)


def _distill(path: Path, out: Path, data_root: Path, seed: int, as_json: bool) -> None:
    from embedworks.training.distill import distill_static

    result = distill_static(path, data_root=data_root, out=out, seed=seed)
    if as_json:
        emit_json(result.to_dict())
        return
    console.print(f"Model written to {out}. Use it: embedworks adapt DOCS --base {out} --out RUN")


def _show_diff(other: str, plan: object, scale: str | None, as_json: bool) -> None:
    from embedworks.training import PlanSettings, diff_plans, load_plan

    assert isinstance(plan, PlanSettings)
    found = diff_plans(load_plan(other, scale=scale), plan)
    if as_json:
        emit_json([{"path": c.path, "before": c.before, "after": c.after} for c in found])
        return
    for change in found:
        console.print(str(change), markup=False)
    if not found:
        console.print("No difference.")


def _preview(plan: object, root: Path, as_json: bool) -> None:
    from embedworks.training import PlanSettings, preview_plan

    assert isinstance(plan, PlanSettings)
    preview = preview_plan(plan, data_root=root)
    if as_json:
        emit_json(preview.to_dict())
    else:
        console.print(str(preview), markup=False)


def _run(
    plan: object,
    out: Path,
    root: Path,
    resume: bool,
    overwrite: bool,
    report_to: list[str],
    as_json: bool,
) -> None:
    from embedworks.training import PlanSettings, train_plan

    assert isinstance(plan, PlanSettings)
    result = train_plan(
        plan, out, data_root=root, resume=resume, overwrite=overwrite, report_to=report_to
    )
    if os.environ.get("RANK", "0") != "0":
        return  # one of several processes reports
    if as_json:
        emit_json(result.to_dict())
        return
    table = result.table()
    columns = list(dict.fromkeys(key for line in table for key in line))
    show_table("", columns, ([str(line.get(c, "")) for c in columns] for line in table))
    console.print(
        f"Model written to {result.model}. Use it: embedworks.load({str(result.model)!r})"
    )
