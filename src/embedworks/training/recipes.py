"""Recipes by name: the YAML files that come with the package, and those of the user."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeVar

import yaml

from embedworks._core.registry import Registry
from embedworks._core.settings import Settings, read_recipe_file
from embedworks.errors import SettingsError

__all__ = ["RECIPES", "Recipe", "load_recipe", "recipe_kind"]

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Recipe:
    """A recipe that comes with the package.

    Attributes:
        name: File name without ``.yaml``.
        kind: What runs it: ``"adapt"``, ``"distill-static"`` or ``"plan"``.
        path: The file.
    """

    name: str
    kind: str
    path: Path


RECIPES: Registry[Recipe] = Registry("recipes")


def _fill() -> None:
    folder = Path(str(resources.files("embedworks") / "recipes"))
    for path in sorted(folder.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        kind = str(yaml.safe_load(text).get("kind", ""))
        summary = text.split("\n", 1)[0].lstrip("# ")
        RECIPES.add(path.stem, Recipe(path.stem, kind, path), summary=summary)


_fill()


def load_recipe(recipe: str | Path, settings: type[S]) -> S:
    """Read a recipe by name or path into its settings class.

    Raises:
        UnknownNameError: When it is neither a file nor a known name.
        SettingsError: When the file is not a valid recipe of this kind.

    Example:
        >>> from embedworks.training import AdaptSettings
        >>> load_recipe("adapt", AdaptSettings).base
        'static'
    """
    path = Path(recipe)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        path = RECIPES[str(recipe)].path
    try:
        return settings.from_yaml(path)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def recipe_kind(recipe: str | Path) -> tuple[str, Path]:
    """Return what runs a recipe, given by name or path, and its file.

    Raises:
        UnknownNameError: When it is neither a file nor a known name.
        NotFoundError: When there is no such file.
        SettingsError: When the file is not YAML or does not say its kind.

    Example:
        >>> recipe_kind("static-en")[0]
        'distill-static'
    """
    path = Path(recipe)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        known = RECIPES[str(recipe)]
        return known.kind, known.path
    kind = read_recipe_file(path).get("kind")
    if not isinstance(kind, str):
        raise SettingsError(
            f"{path} does not say what it is: add a line such as `kind: plan` (or adapt, "
            "distill-static)."
        )
    return kind, path
