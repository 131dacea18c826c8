"""The record of one reproduction: what JSON holds, checked when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from embedworks._core.files import read_json, write_json
from embedworks._core.settings import Settings
from embedworks.errors import FormatError, SettingsError
from embedworks.evaluation import Interval
from embedworks.reproductions.comparisons import Claim, Finding, Verdict, judge, verdict_of

__all__ = ["ArmSummary", "ComparisonResult", "ReproductionResult", "TunedArm"]

Number = Annotated[float, pydantic.Field(allow_inf_nan=False)]


class MetricSummary(Settings):
    """A metric of one arm: mean over seeds, interval, and the value under each seed."""

    mean: Number
    low: Number
    high: Number
    by_seed: tuple[Number, ...]
    items: int
    """Items each value is a mean of, such as queries; 0 when there are none."""


class ArmSummary(Settings):
    """One arm: what it is, what it was tuned to, what it gave, and what it took."""

    name: str
    summary: str
    settings: dict[str, Any]
    tuned: dict[str, Number]
    metrics: dict[str, MetricSummary]
    seconds: Number
    """Mean wall clock of one cell."""


class ComparisonResult(Settings):
    """One comparison with its interval and what it means for its claim."""

    name: str
    metric: str
    contrast: dict[str, Number]
    claim: Claim
    null: Number
    margin: Number
    falsifies: bool
    mean: Number
    low: Number
    high: Number
    by_seed: tuple[Number, ...]
    items: int
    finding: Finding

    def describe(self, digits: int = 3) -> str:
        """Return ``"+0.062 [+0.040, +0.081]"``."""
        form = f"+.{digits}f"
        return f"{self.mean:{form}} [{self.low:{form}}, {self.high:{form}}]"


class TunedArm(Settings):
    """How one arm was tuned: every point of the grid with its validation value."""

    arm: str
    points: tuple[dict[str, Number], ...]
    values: tuple[Number, ...]
    chosen: dict[str, Number]
    at_edge: bool
    """Whether the best point lies at the end of a grid: a wider grid might do better."""


class ReproductionResult(Settings):
    """What `embedworks.reproductions.reproduce` found, exactly as its JSON file has it.

    Reading checks the types of everything, and that findings and verdict follow from the numbers
    by the rule: a verdict cannot be edited by hand.
    """

    format: Literal[1] = 1
    slug: str
    paper: str
    arxiv: str
    claim: str
    falsifier: str
    setup: str
    limits: str
    scale: str
    seeds: tuple[int, ...]
    arms: tuple[ArmSummary, ...]
    decisive: ComparisonResult
    conditions: tuple[ComparisonResult, ...]
    secondary: tuple[ComparisonResult, ...]
    effect: Number
    interval: tuple[Number, Number]
    verdict: Verdict
    reason: str
    tuning: tuple[TunedArm, ...]
    tuning_metric: str
    settings: dict[str, Any]
    fingerprint: str
    seconds: Number
    """Wall clock of all cells, tuning included."""
    environment: dict[str, Any]
    date: str

    @property
    def comparisons(self) -> tuple[ComparisonResult, ...]:
        """The decisive comparison, the conditions, then the secondary ones."""
        return (self.decisive, *self.conditions, *self.secondary)

    def save(self, path: str | Path) -> None:
        """Write the record as JSON, atomically."""
        write_json(Path(path), self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> ReproductionResult:
        """Read a record.

        Raises:
            NotFoundError: When there is no such file.
            FormatError: When it is not JSON, lacks something, or does not follow from itself.
        """
        path = Path(path)
        values = read_json(path)
        if not isinstance(values, dict):
            raise FormatError(f"{path} is not the record of a reproduction.")
        try:
            result = cls.from_dict(values)
        except SettingsError as error:
            raise FormatError(f"{path} is not the record of a reproduction: {error}") from error
        if problem := result.problem():
            raise FormatError(f"{path} contradicts itself: {problem}. Run the reproduction again.")
        return result

    def problem(self) -> str | None:
        """Return what in the record does not follow from the rest, or None."""
        for one in self.comparisons:
            interval = Interval(one.mean, one.low, one.high, max(one.items, 1))
            if one.finding != judge(one.claim, interval, one.margin):
                return f"comparison {one.name!r} is not {one.finding} by its numbers"
            if len(one.by_seed) != len(self.seeds):
                return f"comparison {one.name!r} has {len(one.by_seed)} values for the seeds"
        conditions = [(c.finding, c.falsifies) for c in self.conditions]
        verdict, _ = verdict_of(self.decisive.finding, conditions, len(self.seeds))
        if verdict != self.verdict:
            return f"the verdict is {self.verdict!r} but the findings say {verdict!r}"
        stated = (self.effect, *self.interval)
        if stated != (self.decisive.mean, self.decisive.low, self.decisive.high):
            return "effect and interval are not those of the decisive comparison"
        return None
