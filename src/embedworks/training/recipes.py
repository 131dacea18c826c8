"""Recipes by name: the YAML files that come with the package, and those of the user."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeVar

import yaml

from embedworks._core.registry import Registry
from embedworks._core.settings import Settings
from embedworks.errors import SettingsError

__all__ = ["RECIPES", "Recipe", "load_recipe"]

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Recipe:
    """A recipe that comes with the package.

    Attributes:
        name: File name without ``.yaml``.
        kind: Which command runs it: ``"adapt"`` or ``"distill-static"``.
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
