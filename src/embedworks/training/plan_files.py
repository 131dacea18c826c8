"""Read staged plans from recipes and files, and compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedworks._core.registry import did_you_mean
from embedworks._core.settings import read_recipe_file
from embedworks.errors import SettingsError
from embedworks.training._plan_values import differences, overlay, parse_assignment, set_path
from embedworks.training.plan import PlanSettings
from embedworks.training.recipes import RECIPES

__all__ = ["RecipeChange", "diff_plans", "load_plan"]


def load_plan(
    recipe: str | Path | Mapping[str, Any],
    *,
    scale: str | None = None,
    changes: Sequence[str] = (),
) -> PlanSettings:
    """Read a plan by the recipe's name, its path, or as values.

    Args:
        recipe: Name from `RECIPES`, YAML file, or a mapping with the same content.
        scale: One of the recipe's ``scales``; None or ``full`` takes the values as written.
        changes: ``key=value`` with dotted keys, such as ``stages.0.steps=20``; ``*`` stands for
            every stage.

    Raises:
        UnknownNameError: When there is no such recipe.
        NotFoundError: When there is no such file.
        SettingsError: When the recipe, the scale or a change is not valid.

    Example:
        >>> load_plan("gistembed", scale="mini", changes=["stages.*.steps=5"]).stages[0].steps
        5
    """
    values = dict(recipe) if isinstance(recipe, Mapping) else _read(recipe)
    kind = values.get("kind", "plan")
    if kind != "plan":
        raise SettingsError(f"this recipe is of kind {kind!r}, not a plan.")
    scales = values.pop("scales", None) or {}
    if not isinstance(scales, Mapping):
        raise SettingsError(f"scales must map a name to changes, got {scales!r:.60}.")
    known = list(dict.fromkeys(["full", *scales]))
    if scale is not None and scale not in known:
        raise SettingsError(f"the recipe has no scale {scale!r}. {did_you_mean(scale, known)}")
    _spell_out_presets(values)
    if scale is not None:
        values = overlay(values, scales.get(scale) or {})
    for text in changes:
        keys, value = parse_assignment(text)
        set_path(values, keys, value)
    try:
        return PlanSettings.from_dict(values)
    except SettingsError as error:
        name = values.get("name", "") if isinstance(recipe, Mapping) else recipe
        raise SettingsError(f"{name}: {error}") from error


def _spell_out_presets(values: dict[str, Any]) -> None:
    """Turn ``objective: name`` into ``objective: {preset: name}``, so that parts can be changed."""
    stages = values.get("stages")
    if not isinstance(stages, list):
        return
    stages = [dict(stage) if isinstance(stage, Mapping) else stage for stage in stages]
    values["stages"] = stages
    for stage in stages:
        if not isinstance(stage, dict):
            continue
        if isinstance(stage.get("objective"), str):
            stage["objective"] = {"preset": stage["objective"]}
        if isinstance(stage.get("losses"), Mapping):
            stage["losses"] = {
                name: {**loss, "objective": {"preset": loss["objective"]}}
                if isinstance(loss, Mapping) and isinstance(loss.get("objective"), str)
                else loss
                for name, loss in stage["losses"].items()
            }


def _read(recipe: str | Path) -> dict[str, Any]:
    path = Path(recipe)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        path = RECIPES[str(recipe)].path
    return read_recipe_file(path)


@dataclass(frozen=True)
class RecipeChange:
    """One value in which two recipes differ; None stands for what is not there."""

    path: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.path}: {_short(self.before)} -> {_short(self.after)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def diff_plans(before: PlanSettings, after: PlanSettings) -> list[RecipeChange]:
    """Return every value in which two plans differ; stages and sources are matched by name.

    Example:
        >>> small = load_plan("gistembed", scale="mini")
        >>> changed = load_plan("gistembed", scale="mini", changes=["seed=3"])
        >>> [str(change) for change in diff_plans(small, changed)]
        ['seed: 0 -> 3']
    """
    return [RecipeChange(*found) for found in differences(before.to_dict(), after.to_dict())]
