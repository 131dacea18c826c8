"""Plain values of a recipe: laid over each other, changed by dotted path, compared.

Knows nothing of what the values mean, except that items of a list may have a ``name``.
"""

from __future__ import annotations

import copy
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from embedworks._core.registry import did_you_mean
from embedworks._core.settings import read_assignment
from embedworks.errors import SettingsError

__all__ = ["differences", "overlay", "parse_assignment", "set_path", "unknown_keys"]


def overlay(base: Any, changes: Any) -> Any:
    """Return ``base`` with ``changes`` laid over it.

    Mappings are merged key by key. A mapping laid over a list changes the items it names, by
    their ``name``. Everything else replaces.

    Raises:
        SettingsError: When a mapping names an item that the list does not have.

    Example:
        >>> overlay({"a": 1, "s": [{"name": "x", "n": 1}]}, {"s": {"x": {"n": 2}}})
        {'a': 1, 's': [{'name': 'x', 'n': 2}]}
    """
    if isinstance(base, Mapping) and isinstance(changes, Mapping):
        merged = copy.deepcopy(dict(base))
        for key, value in changes.items():
            merged[key] = overlay(merged[key], value) if key in merged else copy.deepcopy(value)
        return merged
    if _is_named_list(base) and isinstance(changes, Mapping):
        items = list(base)
        for name, value in changes.items():
            place = _place(items, name, where=str(name))
            items[place] = overlay(items[place], value)
        return items
    return copy.deepcopy(changes)


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """Split ``key.key=value``; the value is read as YAML.

    Raises:
        SettingsError: When there is no ``=``, or the value is not YAML.

    Example:
        >>> parse_assignment("stages.first.steps=20")
        (['stages', 'first', 'steps'], 20)
    """
    example = "stages.0.steps=100"
    path, value = read_assignment(text, example=example)
    keys = path.split(".")
    if not all(keys):
        raise SettingsError(f"--set needs a dotted name, such as {example}, got {text!r}.")
    return keys, value


def set_path(values: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    """Change one value in place.

    A key of a list is a position, an item's ``name``, or ``*`` for every item.

    Raises:
        SettingsError: When the way leads through something that is not there.

    Example:
        >>> recipe = {"stages": [{"name": "a", "steps": 1}, {"name": "b", "steps": 2}]}
        >>> set_path(recipe, ["stages", "*", "steps"], 9)
        >>> [stage["steps"] for stage in recipe["stages"]]
        [9, 9]
    """
    _set(values, list(keys), value, [])


def _set(owner: Any, keys: list[str], value: Any, before: list[str]) -> None:
    key, rest, where = keys[0], keys[1:], ".".join(keys and [*before, keys[0]])
    if isinstance(owner, list):
        places = range(len(owner)) if key == "*" else [_place(owner, key, where=where)]
        for place in places:
            if rest:
                _set(owner[place], rest, value, [*before, key])
            else:
                owner[place] = copy.deepcopy(value)
        return
    if not isinstance(owner, dict):
        raise SettingsError(f"{'.'.join(before)} is {owner!r:.60}: it has nothing named {key!r}.")
    if not rest:
        owner[key] = copy.deepcopy(value)
        return
    if owner.get(key) is None:
        owner[key] = {}
    _set(owner[key], rest, value, [*before, key])


def _is_named_list(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, Mapping) and "name" in item for item in value)
    )


def _place(items: Sequence[Any], key: Any, *, where: str) -> int:
    names = [str(i.get("name")) if isinstance(i, Mapping) else "" for i in items]
    if str(key) in names:
        return names.index(str(key))
    text = str(key)
    if text.isdigit() and int(text) < len(items):
        return int(text)
    known = [n for n in names if n] or [str(place) for place in range(len(items))]
    raise SettingsError(f"{where}: no item {text!r} here. {did_you_mean(text, known)}")


def differences(before: Any, after: Any, path: tuple[str, ...] = ()) -> list[tuple[str, Any, Any]]:
    """Return ``(dotted path, value before, value after)`` wherever two recipes differ.

    Items of lists are matched by ``name`` where they have one. None stands for what is not there.

    Example:
        >>> differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3, "d": 4}})
        [('b.c', 2, 3), ('b.d', None, 4)]
    """
    if before == after:
        return []
    if _is_named_list(before) and _is_named_list(after):
        before = {item["name"]: item for item in before}
        after = {item["name"]: item for item in after}
        if list(before) != list(after) and set(before) == set(after):
            return [(".".join([*path, "order"]), list(before), list(after))]
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = [*before, *(key for key in after if key not in before)]
        return [
            found
            for key in keys
            for found in differences(before.get(key), after.get(key), (*path, str(key)))
        ]
    return [(".".join(path), before, after)]


def unknown_keys(
    settings: type[pydantic.BaseModel],
    values: Any,
    path: str = "",
    *,
    also: Mapping[type, Sequence[str]] | None = None,
) -> list[str]:
    """Return a line for every key that a settings class, or one inside it, does not have.

    Args:
        settings: The class.
        values: What it is to be made from.
        path: Where the values stand, ending with a dot.
        also: Settings class -> keys that it reads beside its fields.
    """
    if not isinstance(values, Mapping):
        return []
    known = [*settings.model_fields, *(also or {}).get(settings, ())]
    lines = []
    for key, value in values.items():
        where = f"{path}{key}"
        if key not in known:
            lines.append(f"{where}: not a setting here. {did_you_mean(str(key), known)}")
            continue
        if key not in settings.model_fields:
            continue
        inner, container = _settings_inside(settings.model_fields[key].annotation)
        if inner is None:
            continue
        if container is list and isinstance(value, list | tuple):
            for place, item in enumerate(value):
                name = item.get("name", place) if isinstance(item, Mapping) else place
                lines += unknown_keys(inner, item, f"{where}.{name}.", also=also)
        elif container is dict and isinstance(value, Mapping):
            for name, item in value.items():
                lines += unknown_keys(inner, item, f"{where}.{name}.", also=also)
        elif container is None:
            lines += unknown_keys(inner, value, f"{where}.", also=also)
    return lines


def _settings_inside(annotation: Any) -> tuple[type[pydantic.BaseModel] | None, type | None]:
    """Return the settings class in an annotation, and whether it stands in a list or a dict."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _settings_inside(typing.get_args(annotation)[0])
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return annotation, None
    arguments = typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        for argument in arguments:
            found = _settings_inside(argument)
            if found[0] is not None:
                return found
    elif origin in (tuple, list):
        return _settings_inside(arguments[0])[0], list
    elif origin is dict:
        return _settings_inside(arguments[1])[0], dict
    return None, None
