"""Exact round trips between frozen dataclasses and plain dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from embedworks._core.registry import did_you_mean
from embedworks.errors import FormatError

__all__ = ["check_keys", "flat_from_dict"]

T = TypeVar("T")


def check_keys(value: object, expected: list[str], *, kind: str) -> Mapping[str, Any]:
    """Return ``value`` if it is a mapping with exactly the ``expected`` keys.

    Raises:
        FormatError: Naming the unknown or missing keys.
    """
    if not isinstance(value, Mapping):
        raise FormatError(f"{kind} must be an object with keys, got {type(value).__name__}.")
    unknown = [str(key) for key in value if key not in expected]
    if unknown:
        raise FormatError(
            f"{kind} has the unknown key {unknown[0]!r}. {did_you_mean(unknown[0], expected)}"
        )
    missing = [key for key in expected if key not in value]
    if missing:
        raise FormatError(f"{kind} lacks the key {missing[0]!r}: is it of another version?")
    return value


def flat_from_dict(cls: type[T], value: object) -> T:
    """Build the flat dataclass ``cls`` from a dictionary made with ``dataclasses.asdict``."""
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    return cls(**check_keys(value, names, kind=cls.__name__))
