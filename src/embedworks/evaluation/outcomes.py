"""What a task says of a system: figures with intervals, failures, cost, and what was left out.

Every figure can be compared with another system's on the same items. A mean keeps its value per
item; any other statistic (a rank correlation, an average precision) keeps its values in the
bootstrap's resamples. Resamples depend on the number of items and the seed alone, so two systems
were resampled alike and the differences of their values are the paired bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice
from embedworks.errors import EmptyInputError, FormatError
from embedworks.evaluation._records import FlatRecord, check_keys
from embedworks.evaluation.statistics.intervals import (
    Difference,
    Interval,
    bootstrap_interval,
    check_resampling,
    paired_difference,
)

__all__ = ["BETTER", "Cost", "Failure", "Resampling", "Score", "TaskResult", "shorten"]

#: Which figures of a task are good ones -> in words. Those near zero are, for signed effects as in
#: bias tests; those near a half, for shares of two choices; neither, for mere descriptions.
BETTER = {
    "higher": "more is better",
    "lower": "less is better",
    "zero": "zero is best",
    "half": "one half is best",
    "neither": "neither more nor less is better",
}


def shorten(text: str, limit: int = 160) -> str:
    """Return a text on one line, cut with an ellipsis; half characters become question marks.

    Example:
        >>> shorten("a  long   text", 8)
        'a long …'
    """
    line = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


@dataclass(frozen=True)
class Resampling:
    """How intervals are made.

    Raises:
        InputError: When ``confidence`` or ``n_resamples`` is out of range.
    """

    confidence: float = 0.95
    """Share of resampled values inside an interval."""
    n_resamples: int = 1000
    """Number of resamples."""
    seed: int = 0
    """Seed of the resamples, the same for all systems."""

    def __post_init__(self) -> None:
        check_resampling(self.confidence, self.n_resamples)

    def options(self) -> dict[str, Any]:
        """Return the fields as keyword arguments."""
        return asdict(self)


@dataclass(frozen=True)
class Score:
    """One figure of one system on one task."""

    interval: Interval
    """The figure with its interval over items."""
    values: tuple[float, ...] = ()
    """Value of each of `TaskResult.items`, for a figure that is their mean."""
    replicates: tuple[float, ...] = ()
    """Value in each resample, for any other figure; NaN where it is not defined."""

    @classmethod
    def of_values(
        cls, values: Sequence[float] | np.ndarray, resampling: Resampling | None = None
    ) -> Score:
        """Return the mean of one value per item.

        Raises:
            EmptyInputError: When there are no values.
            NonFiniteError: When a value is NaN or infinite.

        Example:
            >>> Score.of_values([0.0, 1.0]).interval.mean
            0.5
        """
        options = (resampling or Resampling()).options()
        return cls(bootstrap_interval(values, **options), tuple(float(v) for v in values))

    @classmethod
    def of_statistic(
        cls,
        n: int,
        statistic: Callable[[np.ndarray], float | None],
        resampling: Resampling | None = None,
    ) -> Score:
        """Return any statistic of n items, resampled.

        Args:
            n: Number of items.
            statistic: Called with item numbers, int64 (n,), which may repeat; returns its value
                for these items, or None when it has none, as a correlation of constants.
            resampling: How.

        Raises:
            EmptyInputError: When there are no items or the statistic is not defined for them.

        Example:
            >>> values = np.array([1.0, 2.0, 9.0])
            >>> Score.of_statistic(3, lambda rows: float(np.median(values[rows]))).interval.mean
            2.0
        """
        how = resampling or Resampling()
        point = statistic(np.arange(n)) if n else None
        if point is None:
            raise EmptyInputError(f"The statistic is not defined for these {n} items.")
        rng = generator(how.seed, "statistic", n)
        drawn = [statistic(rng.integers(0, n, size=n)) for _ in range(how.n_resamples)]
        replicates = np.array([np.nan if value is None else value for value in drawn])
        defined = replicates[np.isfinite(replicates)]
        low, high, note = point, point, "no resample has a value: no interval"
        if len(defined):
            tail = (1 - how.confidence) / 2
            low, high = (float(q) for q in np.quantile(defined, [tail, 1 - tail]))
            note = ""
        interval = Interval(float(point), low, high, n, how.confidence, note)
        return cls(interval, replicates=tuple(replicates.tolist()))

    def minus(self, other: Score, resampling: Resampling | None = None) -> Difference:
        """Return the paired difference to another system's score on the same items.

        Means are compared item by item (randomisation test); other statistics resample by
        resample, where p is twice the smaller share of differences on one side of zero.

        Raises:
            FormatError: When the scores are of different kinds or numbers of items, or were not
                resampled alike.

        Example:
            >>> Score.of_values([1.0, 1.0]).minus(Score.of_values([0.0, 1.0])).mean
            0.5
        """
        how = resampling or Resampling()
        if self.values and other.values:
            if len(self.values) != len(other.values):
                raise FormatError(
                    f"Scores of {len(self.values)} and {len(other.values)} items cannot be paired."
                )
            return paired_difference(self.values, other.values, **how.options())
        same = self.interval.n == other.interval.n
        if not (same and self.replicates and len(self.replicates) == len(other.replicates)):
            raise FormatError(
                "These scores cannot be compared: they need the same items and resamples "
                f"({self.interval.n} and {other.interval.n} items, {len(self.replicates)} and "
                f"{len(other.replicates)} resamples)."
            )
        gaps = np.array(self.replicates) - np.array(other.replicates)
        gaps = gaps[np.isfinite(gaps)]
        mean = self.interval.mean - other.interval.mean
        n, level = self.interval.n, self.interval.confidence
        if not len(gaps):
            note = "no resample has a value for both: no interval"
            return Difference(mean, mean, mean, 1.0, n, level, note)
        tail = (1 - level) / 2
        low, high = (float(q) for q in np.quantile(gaps, [tail, 1 - tail]))
        side = min(int((gaps <= 0).sum()), int((gaps >= 0).sum()))
        p_value = min(1.0, 2 * (1 + side) / (1 + len(gaps)))
        return Difference(mean, low, high, p_value, n, level)

    def negated(self) -> Score:
        """Return the score with the other sign, for figures of which less is better.

        Example:
            >>> Score.of_values([0.0, 1.0]).negated().interval.mean
            -0.5
        """
        span = self.interval
        interval = replace(span, mean=-span.mean, low=-span.high, high=-span.low)
        return Score(
            interval, tuple(-v for v in self.values), tuple(-value for value in self.replicates)
        )

    def shifted(self, by: float) -> Score:
        """Return the score with a constant added.

        Example:
            >>> Score.of_values([0.0, 1.0]).shifted(-0.5).interval.mean
            0.0
        """
        span = self.interval
        interval = replace(span, mean=span.mean + by, low=span.low + by, high=span.high + by)
        return Score(
            interval, tuple(v + by for v in self.values), tuple(v + by for v in self.replicates)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold; `from_dict` restores it exactly."""
        return {
            "interval": self.interval.to_dict(),
            "values": list(self.values),
            "replicates": [None if value != value else value for value in self.replicates],
        }

    @classmethod
    def from_dict(cls, value: object) -> Score:
        """Restore what `to_dict` returned.

        Raises:
            FormatError: When keys are unknown or missing.
        """
        record = check_keys(value, ["interval", "values", "replicates"], kind="Score")
        return cls(
            Interval.from_dict(record["interval"]),
            tuple(record["values"]),
            tuple(float("nan") if x is None else x for x in record["replicates"]),
        )


@dataclass(frozen=True)
class Failure:
    """One item a system got wrong, for people to look at."""

    item: str
    """Its id."""
    text: str
    """What was asked."""
    score: float
    """The system's value of the task's main metric, or its nearest per-item kin."""
    expected: tuple[str, ...]
    """What was right, best first."""
    found: tuple[str, ...]
    """What the system gave, best first."""

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold; `from_dict` restores it exactly."""
        return {**asdict(self), "expected": list(self.expected), "found": list(self.found)}

    @classmethod
    def from_dict(cls, value: object) -> Failure:
        """Restore what `to_dict` returned.

        Raises:
            FormatError: When keys are unknown or missing.
        """
        record = check_keys(value, [f.name for f in fields(cls)], kind="Failure")
        lists = {name: tuple(record[name]) for name in ("expected", "found")}
        return cls(**{**record, **lists})


@dataclass(frozen=True)
class Cost(FlatRecord):
    """What a task took."""

    seconds: float = 0.0
    """Wall clock of the whole task."""
    encoding_seconds: float = 0.0
    """Wall clock of encoding."""
    texts: int = 0
    """Texts whose vectors were asked for."""
    cached: int = 0
    """Of these, taken from the cache."""
    tokens: int = 0
    """Tokens encoded; 0 when the model cannot tell."""
    truncated: int = 0
    """Texts of which the model does not read the end, cached ones too."""
    zero_vectors: int = 0
    """Texts with the zero vector; they are similar to nothing."""
    peak_memory_mb: float = 0.0
    """Peak memory above that at the start of the task."""


@dataclass(frozen=True)
class TaskResult:
    """A system's result on a task."""

    task: str
    """Name of the task."""
    kind: str
    """Its kind, one of `embedworks.evaluation.TASK_KINDS`."""
    metric: str
    """The main metric, a key of `scores`."""
    scores: Mapping[str, Score]
    """Metric -> score."""
    items: tuple[str, ...] = ()
    """Ids of the scored items, in the order of `Score.values`."""
    excluded: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of items left out."""
    failures: tuple[Failure, ...] = ()
    """The worst items."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else there is to know, as JSON values: prompts, chance level, sub-tables."""
    cost: Cost = Cost()
    """What it took; filled in by the runner."""
    better: str = ""
    """Which figures of the main metric are good ones, one of `BETTER`. If not given: high ones, low
    ones for leakage, and neither for bias, where the task must say what is good."""

    def __post_init__(self) -> None:
        if not self.better:
            usual = {"leakage": "lower", "bias": "neither"}.get(self.kind, "higher")
            object.__setattr__(self, "better", usual)
        check_choice(self.better, BETTER, name="better")

    @property
    def main(self) -> Score:
        """The score of the main metric."""
        return self.scores[self.metric]

    @property
    def goodness(self) -> Score:
        """The main score, turned where less is better: more is always better.

        Where zero or a half is best, it is the negated distance to it on the side where the score
        lies. For mere descriptions it is the score as it is.
        """
        if self.better in ("higher", "neither"):
            return self.main
        if self.better == "lower":
            return self.main.negated()
        apart = self.main.shifted(-0.5 if self.better == "half" else 0.0)
        return apart.negated() if apart.interval.mean > 0 else apart

    def gain_over(self, other: TaskResult, resampling: Resampling | None = None) -> Difference:
        """Return by how much this result is better than another system's on the same items.

        Positive is better, whatever the direction of the metric.

        Raises:
            FormatError: When the results are of different tasks, metrics or items.

        Example:
            >>> few = TaskResult("t", "bias", "gap", {"gap": Score.of_values([0.1, 0.1])},
            ...                  better="lower")
            >>> many = TaskResult("t", "bias", "gap", {"gap": Score.of_values([0.4, 0.6])},
            ...                   better="lower")
            >>> few.gain_over(many).mean
            0.4
        """
        for what in ("task", "metric", "better", "items"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                shown = "" if what == "items" else f" ({mine!r} and {theirs!r})"
                raise FormatError(
                    f"Results on {self.task!r} cannot be paired: they differ in {what}{shown}. "
                    "Evaluate both systems on the same data."
                )
        return self.goodness.minus(other.goodness, resampling)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold; `from_dict` restores it exactly."""
        return {
            "task": self.task,
            "kind": self.kind,
            "metric": self.metric,
            "scores": {name: score.to_dict() for name, score in self.scores.items()},
            "items": list(self.items),
            "excluded": dict(self.excluded),
            "failures": [failure.to_dict() for failure in self.failures],
            "details": dict(self.details),
            "cost": self.cost.to_dict(),
            "better": self.better,
        }

    @classmethod
    def from_dict(cls, value: object) -> TaskResult:
        """Restore what `to_dict` returned.

        Raises:
            FormatError: When keys are unknown or missing.
        """
        record = check_keys(value, [f.name for f in fields(cls)], kind="TaskResult")
        return cls(
            task=record["task"],
            kind=record["kind"],
            metric=record["metric"],
            scores={name: Score.from_dict(score) for name, score in record["scores"].items()},
            items=tuple(record["items"]),
            excluded=dict(record["excluded"]),
            failures=tuple(Failure.from_dict(failure) for failure in record["failures"]),
            details=dict(record["details"]),
            cost=Cost.from_dict(record["cost"]),
            better=record["better"],
        )
