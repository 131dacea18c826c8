"""Time budgets: parse them, spend them, show the plan before work starts."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from embedworks.errors import BudgetError, SettingsError

__all__ = ["Plan", "PlanStep", "format_duration", "parse_duration", "plan_training_steps"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str | float) -> float:
    """Return seconds for ``"90s"``, ``"10m"``, ``"1h30m"`` or a plain number of seconds.

    Raises:
        SettingsError: When the text is not a duration above 0.

    Example:
        >>> parse_duration("1h30m"), parse_duration("10m"), parse_duration(45)
        (5400.0, 600.0, 45.0)
    """
    cleaned = str(text).strip().lower().replace(" ", "")
    if re.fullmatch(r"\d+(\.\d+)?", cleaned):
        seconds = float(cleaned)
    elif re.fullmatch(r"(\d+(\.\d+)?[smh])+", cleaned):
        parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", cleaned)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        raise SettingsError(f"A duration looks like '90s', '10m' or '1h30m', got {text!r}.")
    if seconds <= 0:
        raise SettingsError(f"A duration must be above 0, got {text!r}.")
    return seconds


def format_duration(seconds: float) -> str:
    """Return a short text for a number of seconds.

    Example:
        >>> format_duration(0.25), format_duration(75), format_duration(5400)
        ('0.2s', '1m15s', '1h30m')
    """
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m"


@dataclass(frozen=True)
class PlanStep:
    """One line of a plan: what is done, how much of it, and the seconds it should take."""

    name: str
    work: str
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What an adaptation is going to do, made from measured speeds before training starts.

    Attributes:
        budget_seconds: Wall clock allowed.
        spent_seconds: Already used for reading and pairing.
        steps: Estimated work in order; the training line is what the budget leaves.
    """

    budget_seconds: float
    spent_seconds: float
    steps: list[PlanStep] = field(default_factory=list)

    @property
    def total_seconds(self) -> float:
        """Estimated wall clock of the whole job."""
        return self.spent_seconds + sum(step.seconds for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "total_seconds": self.total_seconds}


def plan_training_steps(
    *, available: float, seconds_per_step: float, wanted: int, least: int = 1
) -> int:
    """Return how many steps fit: ``min(wanted, available / seconds_per_step)``.

    Raises:
        BudgetError: When not even ``least`` steps fit; says which budget would do.

    Example:
        >>> plan_training_steps(available=60.0, seconds_per_step=0.5, wanted=500)
        120
    """
    fitting = int(max(available, 0.0) / seconds_per_step)
    if fitting < least:
        missing = least * seconds_per_step - available
        raise BudgetError(
            f"The budget leaves {format_duration(max(available, 0.0))} for training, and "
            f"{least} steps of {seconds_per_step:.2f} s are the least that makes sense. "
            f"Raise --budget by {format_duration(missing + 1)}, use a smaller --base, "
            "or give fewer documents."
        )
    return min(wanted, fitting)
