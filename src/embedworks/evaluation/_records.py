"""Exact round trips between frozen dataclasses and plain dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, Self, TypeVar

from embedworks._core.registry import did_you_mean
from embedworks.errors import FormatError

__all__ = ["FlatRecord", "check_keys", "flat_from_dict"]

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


class FlatRecord:
    """Base of frozen dataclasses whose fields JSON can hold as they are."""

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold; `from_dict` restores it exactly."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, value: object) -> Self:
        """Restore what `to_dict` returned.

        Raises:
            FormatError: When keys are unknown or missing.
        """
        return flat_from_dict(cls, value)
