"""A number that changes over training, as data. Knows nothing of what it drives."""

from __future__ import annotations

import math
from typing import Literal, Self

import pydantic

from embedworks._core.settings import Settings

__all__ = ["Schedule"]


class Schedule(Settings):
    """A value as a function of training progress.

    A plain number is read as a constant: ``Schedule.of(2.0)``, and ``strength: 2.0`` in a recipe.

    Attributes:
        kind: ``constant`` (``start`` throughout), ``linear``, ``cosine`` (half a cosine wave), or
            ``step`` (``start`` before ``to``, ``end`` from then on).
        start: Value up to ``since``.
        end: Value from ``to`` on; ignored when constant.
        since: Share of the training at which the change begins, 0 to 1.
        to: Share of the training at which it is complete, ``since`` to 1.

    Example:
        >>> Schedule(kind="linear", start=0.0, end=5.0, to=0.8).at(0.4)
        2.5
        >>> Schedule.of(2).at(0.9)
        2.0
    """

    kind: Literal["constant", "linear", "cosine", "step"] = "constant"
    start: float = pydantic.Field(default=0.0, allow_inf_nan=False)
    end: float | None = pydantic.Field(default=None, allow_inf_nan=False)
    since: float = pydantic.Field(default=0.0, ge=0, le=1)
    to: float = pydantic.Field(default=1.0, ge=0, le=1)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _number_is_constant(cls, value: object) -> object:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"kind": "constant", "start": float(value)}
        return value

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.to < self.since:
            raise ValueError(f"the schedule ends (to={self.to}) before it begins ({self.since})")
        if self.kind != "constant" and self.end is None:
            raise ValueError(f"a {self.kind} schedule needs 'end'")
        return self

    @classmethod
    def of(cls, value: float) -> Schedule:
        """Return a constant schedule."""
        return cls(kind="constant", start=float(value))

    def at(self, progress: float) -> float:
        """Return the value when ``progress`` (0 to 1) of the training is done."""
        if self.kind == "constant" or self.end is None:
            return self.start
        if self.kind == "step":
            return self.end if progress >= self.to else self.start
        span = self.to - self.since
        share = 1.0 if span == 0 else (progress - self.since) / span
        share = min(max(share, 0.0), 1.0) if span else float(progress >= self.to)
        if self.kind == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.start + (self.end - self.start) * share

    @property
    def values(self) -> tuple[float, ...]:
        """The values it can begin and end with, for checking ranges."""
        return (self.start,) if self.end is None else (self.start, self.end)
