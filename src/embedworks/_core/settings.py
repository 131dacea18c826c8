"""The base of every settings object: frozen, validated, exact round trip, helpful errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, get_args

import pydantic
import yaml

from embedworks._core.files import write_text
from embedworks._core.registry import did_you_mean
from embedworks.errors import NotFoundError, SettingsError

__all__ = ["Settings", "read_assignment", "read_assignments", "read_recipe_file"]

_MAX_RECIPE_BYTES = 1_000_000


class Settings(pydantic.BaseModel):
    """A frozen, validated group of settings; unknown keys are errors.

    Example:
        >>> class Mining(Settings):
        ...     count: int = 4
        >>> Mining.from_dict({"count": 2}).to_dict()
        {'count': 2}
        >>> Mining.from_dict({"cuont": 2})
        Traceback (most recent call last):
        ...
        embedworks.errors.SettingsError: Mining is not valid:
        - cuont: not a setting here. Did you mean 'count'?
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Validate ``values``; every problem is reported at once.

        Raises:
            SettingsError: Naming each field, its value and what is allowed.
        """
        try:
            return cls.model_validate(dict(values))
        except pydantic.ValidationError as error:
            lines = [_explain(cls, problem) for problem in error.errors()]
            raise SettingsError("\n- ".join([f"{cls.__name__} is not valid:", *lines])) from error

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values that `from_dict` reads back exactly."""
        return self.model_dump(mode="json")

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a YAML file.

        Raises:
            NotFoundError: When the file does not exist.
            SettingsError: When it is not YAML, too large, or not valid.
        """
        return cls.from_dict(read_recipe_file(path))

    def to_yaml(self, path: str | Path) -> None:
        """Write the settings as YAML, atomically."""
        write_text(Path(path), yaml.safe_dump(self.to_dict(), sort_keys=False))

    def replace(self, **changes: Any) -> Self:
        """Return a validated copy with some fields changed."""
        return type(self).from_dict({**self.to_dict(), **changes})


def read_recipe_file(path: str | Path) -> dict[str, Any]:
    """Return the plain values of a YAML file of settings.

    Raises:
        NotFoundError: When the file does not exist.
        SettingsError: When it is not YAML, too large, or no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"The recipe {path} does not exist.")
    if path.stat().st_size > _MAX_RECIPE_BYTES:
        raise SettingsError(f"{path} is larger than 1 MB: this is not a recipe.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(
            f"{path} must hold a mapping of settings, not a {type(values).__name__}."
        )
    return values


def read_assignment(text: str, *, example: str) -> tuple[str, Any]:
    """Split ``name=value`` as ``--set`` takes it; the value is read as YAML.

    Raises:
        SettingsError: When there is no name or no ``=``, or the value is not YAML.

    Example:
        >>> read_assignment("density=0.3", example="density=0.3")
        ('density', 0.3)
    """
    name, mark, value = text.partition("=")
    if not (name.strip() and mark):
        raise SettingsError(f"--set needs name=value, such as {example}, got {text!r}.")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {text!r}: the value is not valid YAML: {error}") from error


def read_assignments(texts: Iterable[str], *, example: str) -> dict[str, Any]:
    """Return what `read_assignment` finds in each text; of a name given twice, the last."""
    return dict(read_assignment(text, example=example) for text in texts)


def _explain(root: type[pydantic.BaseModel], problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        owner: Any = root
        for part in path[:-1]:
            field = getattr(owner, "model_fields", {}).get(part)
            owner = _settings_in(owner if field is None else field.annotation)
        known = list(getattr(owner, "model_fields", {}))
        known = known or list(getattr(owner, "__dataclass_fields__", {}))
        return f"{'.'.join(path)}: not a setting here. {did_you_mean(path[-1], known)}"
    return f"{'.'.join(path)}: {problem['msg']}, got {problem['input']!r:.80}"


def _settings_in(annotation: Any) -> Any:
    """Return the settings class inside an annotation such as ``tuple[X, ...]`` or ``X | None``."""
    if hasattr(annotation, "model_fields") or not get_args(annotation):
        return annotation
    inner = [_settings_in(part) for part in get_args(annotation)]
    return next((x for x in inner if hasattr(x, "model_fields")), None)
