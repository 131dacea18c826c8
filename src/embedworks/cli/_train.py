"""``embedworks train``: run a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedworks.cli._output import JsonFlag, console, emit_json
from embedworks.errors import SettingsError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(train)


def train(
    recipe: Annotated[str, typer.Argument(help="Name from `list recipes`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the model.")],
    data_root: Annotated[Path, typer.Option(help="Folder with the recipe's training data.")],
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Train a model by its recipe, such as the bundled `static-en`."""
    from embedworks.training import RECIPES
    from embedworks.training.distill import distill_static

    chosen = RECIPES[recipe]
    if chosen.kind != "distill-static":
        raise SettingsError(
            f"The recipe {recipe!r} is run by `embedworks {chosen.kind} --recipe {recipe}`."
        )
    result = distill_static(chosen.path, data_root=data_root, out=out, seed=seed)
    if json:
        emit_json(result.to_dict())
        return
    console.print(f"Model written to {out}. Use it: embedworks adapt DOCS --base {out} --out RUN")
