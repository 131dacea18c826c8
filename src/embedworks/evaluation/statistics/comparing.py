"""Which system is better, and how sure is that?

Systems are compared task by task on the same items. Many comparisons find differences by chance,
so their p-values are corrected together. Means over tasks hold for these tasks; their intervals
resample the items within every task, alike for all systems.

Only tasks that every system ran, and none met in its training as far as is known, enter means,
ranks and counts; the others are named. Figures of which less is better, or zero or a half is best,
are turned for differences, ranks and counts, and are left out of means, which would mix
directions; mere descriptions are not compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import combinations
from typing import Any

import numpy as np

from embedworks._core.files import sha256_of_text
from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice, check_unique
from embedworks.errors import FormatError, InputError
from embedworks.evaluation._records import FlatRecord, check_keys
from embedworks.evaluation.outcomes import BETTER, Resampling, Score, TaskResult
from embedworks.evaluation.runner import SystemResult
from embedworks.evaluation.statistics._sentences import listed, sentence
from embedworks.evaluation.statistics._significance import corrected, mean_ranks, normal_tail
from embedworks.evaluation.statistics.intervals import Difference, Interval

__all__ = ["Average", "Gap", "Standing", "SystemComparison", "compare_systems"]


@dataclass(frozen=True)
class Gap:
    """By how much a system is better than another, on one task or on the mean of all."""

    system: str
    """The system."""
    other: str
    """The one it is compared with."""
    task: str
    """Name of the task, or ``"mean over tasks"``."""
    difference: Difference
    """Positive when ``system`` is better, whatever the direction of the metric."""
    corrected_p: float
    """The p-value after correction for all comparisons made with it."""
    alpha: float = 0.05
    """Corrected p-values up to this one are clear of noise."""

    @property
    def finding(self) -> str:
        """``"better"``, ``"worse"`` or ``"unclear"``."""
        if self.corrected_p > self.alpha or self.difference.mean == 0:
            return "unclear"
        return "better" if self.difference.mean > 0 else "worse"

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold; `from_dict` restores it exactly."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: object) -> Gap:
        """Restore what `to_dict` returned.

        Raises:
            FormatError: When keys are unknown or missing.
        """
        record = check_keys(value, [f.name for f in fields(cls)], kind="Gap")
        return cls(**{**record, "difference": Difference.from_dict(record["difference"])})


@dataclass(frozen=True)
class Average:
    """A system's means, each with an interval over the items of its tasks."""

    tasks: Interval
    """Mean over tasks; `Interval.n` counts the items of all."""
    kinds: Interval
    """Mean over kinds of the means within a kind: many tasks of one kind do not rule."""
    other_tasks: Interval
    """Mean over tasks, with tasks resampled within their kind: how it might be on others;
    `Interval.n` counts tasks."""

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold; `from_dict` restores it exactly."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: object) -> Average:
        """Restore what `to_dict` returned.

        Raises:
            FormatError: When keys are unknown or missing.
        """
        record = check_keys(value, [f.name for f in fields(cls)], kind="Average")
        return cls(**{name: Interval.from_dict(record[name]) for name in record})


@dataclass(frozen=True)
class Standing(FlatRecord):
    """A system's place among the others, on the tasks that all of them ran."""

    borda: float
    """Systems beaten, summed over tasks; an equal figure counts half."""
    mean_rank: float
    """Mean rank over tasks, 1 is best; equal figures share the average."""
    wins: int
    """Comparisons in which it is clearly better, after correction."""
    ties: int
    """Comparisons that are not clear of noise."""
    losses: int
    """Comparisons in which it is clearly worse."""


@dataclass(frozen=True)
class SystemComparison:
    """Systems compared on tasks; made by `compare_systems`."""

    systems: tuple[str, ...]
    """Their names, in the order given."""
    tasks: tuple[str, ...]
    """The tasks that all of them ran."""
    gaps: tuple[Gap, ...]
    """Per task, for every pair, or for every system against the baseline."""
    overall: tuple[Gap, ...]
    """The same on the mean over tasks, corrected among themselves; empty without such a mean."""
    averages: Mapping[str, Average]
    """System -> means; empty when no common task has a figure of which more is better."""
    standings: Mapping[str, Standing]
    """System -> place."""
    leaders: Mapping[str, tuple[str, ...]]
    """Task -> the best system, then those that are not clearly worse."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Task -> why it is not among `tasks`, or not in the means."""
    baseline: str | None = None
    """What all others are compared with; None when all pairs are compared."""
    correction: str = "holm"
    """How p-values are corrected."""

    def sentence(self) -> str:
        """Say in plain words which system is better and how sure that is.

        Example:
            >>> gap = Gap("new", "old", "sts", Difference(0.03, 0.01, 0.05, 0.002, 500), 0.002)
            >>> SystemComparison(("new", "old"), ("sts",), (gap,), (), {}, {}, {}).sentence()
            'new is better than old on sts by 0.030 (95 % interval +0.010 to +0.050; p = 0.002).'
        """
        return sentence(self)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold; `from_dict` restores it exactly."""
        return {
            "systems": list(self.systems),
            "tasks": list(self.tasks),
            "gaps": [gap.to_dict() for gap in self.gaps],
            "overall": [gap.to_dict() for gap in self.overall],
            "averages": {name: average.to_dict() for name, average in self.averages.items()},
            "standings": {name: place.to_dict() for name, place in self.standings.items()},
            "leaders": {task: list(names) for task, names in self.leaders.items()},
            "left_out": dict(self.left_out),
            "baseline": self.baseline,
            "correction": self.correction,
        }

    @classmethod
    def from_dict(cls, value: object) -> SystemComparison:
        """Restore what `to_dict` returned.

        Raises:
            FormatError: When keys are unknown or missing.
        """
        record = check_keys(value, [f.name for f in fields(cls)], kind="SystemComparison")
        return cls(
            systems=tuple(record["systems"]),
            tasks=tuple(record["tasks"]),
            gaps=tuple(Gap.from_dict(gap) for gap in record["gaps"]),
            overall=tuple(Gap.from_dict(gap) for gap in record["overall"]),
            averages={k: Average.from_dict(v) for k, v in record["averages"].items()},
            standings={k: Standing.from_dict(v) for k, v in record["standings"].items()},
            leaders={k: tuple(v) for k, v in record["leaders"].items()},
            left_out=dict(record["left_out"]),
            baseline=record["baseline"],
            correction=record["correction"],
        )


def compare_systems(
    results: Sequence[SystemResult],
    *,
    baseline: str | None = None,
    correction: str = "holm",
    resampling: Resampling | None = None,
) -> SystemComparison:
    """Compare systems on the tasks they share.

    A system without a single result, such as one that failed everywhere, is not among them: it
    would leave no task that all have run.

    Args:
        results: What `embedworks.evaluation.evaluate_systems` returned, at least two.
        baseline: Compare all others with this one; by default all pairs are compared.
        correction: ``"holm"`` bounds the chance of a single false finding,
            ``"benjamini-hochberg"`` the share of false ones among the findings, ``"none"``
            corrects nothing.
        resampling: How differences are resampled; by default as the first system was. One minus
            its confidence is the level of the tests.

    Raises:
        InputError: When there are fewer than two systems, or none of their tasks is shared.
        FormatError: When results on one task are of different items or resamples.

    Example:
        >>> from embedworks.evaluation import LexicalSystem, RetrievalTask, evaluate_systems
        >>> texts = {f"d{i}": f"word{i} x{i % 3}" for i in range(9)}
        >>> task = RetrievalTask("toy", {f"q{i}": f"word{i}" for i in range(9)}, texts,
        ...                      {f"q{i}": {f"d{i}": 1} for i in range(9)})
        >>> systems = [LexicalSystem(name="a"), LexicalSystem(name="b", k1=0.5)]
        >>> found = compare_systems(evaluate_systems(systems, [task]))
        >>> found.gaps[0].finding, found.leaders["toy"]
        ('unclear', ('a', 'b'))
    """
    if len(results) < 2:
        raise InputError(f"A comparison needs at least two systems, got {len(results)}.")
    check_unique([result.name for result in results], name="system names")
    check_choice(correction, ("holm", "benjamini-hochberg", "none"), name="correction")
    by_name, left_out = _comparable([result for result in results if result.tasks])
    names = tuple(by_name)
    if len(names) < 2:
        without = listed([result.name for result in results if not result.tasks])
        raise InputError(f"A comparison needs two systems with results; {without} has none.")
    if baseline is not None:
        check_choice(baseline, names, name="baseline")
    how = resampling or results[0].resampling
    made = _Pairs(by_name, how)
    pairs = list(combinations(names, 2))
    if baseline is not None:
        pairs = [(name, baseline) for name in names if name != baseline]
    found = [
        (system, other, task)
        for system, other in pairs
        for task in by_name[system].tasks
        if task in by_name[other].tasks
    ]
    if not found:
        raise InputError(f"No task was run by two of the systems {', '.join(names)}: none to pair.")
    alpha = 1 - how.confidence
    raw = [made.difference(*key) for key in found]
    gaps = _gaps(found, raw, correction, alpha)
    tasks = _common_tasks(by_name, left_out)
    averages, overall = _averages(by_name, tasks, left_out, pairs, correction, how)
    return SystemComparison(
        systems=names,
        tasks=tasks,
        gaps=gaps,
        overall=overall,
        averages=averages,
        standings=_standings(by_name, tasks, gaps),
        leaders=_leaders(by_name, made, gaps, correction, alpha),
        left_out=left_out,
        baseline=baseline,
        correction=correction,
    )


class _Pairs:
    """Differences of pairs on tasks, each computed once."""

    def __init__(self, results: Mapping[str, SystemResult], how: Resampling) -> None:
        self.results = results
        self.how = how
        self._known: dict[tuple[str, str, str], Difference] = {}

    def difference(self, system: str, other: str, task: str) -> Difference:
        """Return by how much a system is better than another on a task."""
        if (turned := self._known.get((other, system, task))) is not None:
            return Difference(
                -turned.mean, -turned.high, -turned.low, turned.p_value, turned.n,
                turned.confidence, turned.note,
            )  # fmt: skip
        key = (system, other, task)
        if key not in self._known:
            first, second = self.results[system].tasks[task], self.results[other].tasks[task]
            if first.main.replicates and self._seed(system) != self._seed(other):
                raise FormatError(
                    f"{system} and {other} were resampled with the seeds {self._seed(system)} and "
                    f"{self._seed(other)} on {task!r}: evaluate both with the same seed."
                )
            gap = first.gain_over(second, self.how)
            self._known[key] = normal_tail(gap, first.goodness, second.goodness, self.how)
        return self._known[key]

    def _seed(self, system: str) -> int:
        return self.results[system].resampling.seed


def _gaps(
    keys: Sequence[tuple[str, str, str]],
    differences: Sequence[Difference],
    correction: str,
    alpha: float,
) -> tuple[Gap, ...]:
    values = corrected([gap.p_value for gap in differences], correction)
    return tuple(
        Gap(system, other, task, gap, p, round(alpha, 12))
        for (system, other, task), gap, p in zip(keys, differences, values.tolist(), strict=True)
    )


def _comparable(
    results: Sequence[SystemResult],
) -> tuple[dict[str, SystemResult], dict[str, str]]:
    """Return the results without mere descriptions, and why those are left out."""
    left_out: dict[str, str] = {}
    kept = {}
    for result in results:
        own = {name: one for name, one in result.tasks.items() if one.better != "neither"}
        left_out |= {name: BETTER["neither"] for name in result.tasks if name not in own}
        kept[result.name] = replace(result, tasks=own)
    return kept, left_out


def _common_tasks(results: Mapping[str, SystemResult], left_out: dict[str, str]) -> tuple[str, ...]:
    """Return the tasks that all systems ran and none trained on; adds why others are left out."""
    common = []
    for task in dict.fromkeys(task for result in results.values() for task in result.tasks):
        absent = [name for name, result in results.items() if task not in result.tasks]
        trained = [
            name
            for name, result in results.items()
            if task in result.tasks and result.tasks[task].details.get("seen_in_training")
        ]
        if absent:
            left_out[task] = f"not run by {listed(absent)}"
        elif trained:
            left_out[task] = f"not in the means: {listed(trained)} met it in training"
        else:
            common.append(task)
    return tuple(common)


def _averages(
    results: Mapping[str, SystemResult],
    tasks: Sequence[str],
    left_out: dict[str, str],
    pairs: Sequence[tuple[str, str]],
    correction: str,
    how: Resampling,
) -> tuple[dict[str, Average], tuple[Gap, ...]]:
    first = next(iter(results.values()))
    means = [task for task in tasks if first.tasks[task].better == "higher"]
    for task in tasks:
        if task not in means:
            left_out[task] = f"not in the means: {BETTER[first.tasks[task].better]}"
    if not means:
        return {}, ()
    kinds = [first.tasks[task].kind for task in means]
    points = {
        name: np.array([result.tasks[task].main.interval.mean for task in means])
        for name, result in results.items()
    }
    drawn = _resampled_means(results, means, how)
    weights = np.array([1 / kinds.count(kind) for kind in kinds]) / len(set(kinds))
    picks = _task_picks(kinds, how)
    lone = "one task of each kind: no interval" if len(set(kinds)) == len(kinds) else ""
    items = sum(first.tasks[task].main.interval.n for task in means)
    averages = {}
    for name, point in points.items():
        averages[name] = Average(
            _spread(float(point.mean()), drawn[name].mean(axis=0), items, how),
            _spread(float(weights @ point), weights @ drawn[name], items, how),
            _spread(float(point.mean()), point[picks].mean(axis=1), len(means), how, lone),
        )
    keys = [(system, other, "mean over tasks") for system, other in pairs]
    differences = []
    for system, other in pairs:
        mean = float(points[system].mean() - points[other].mean())
        gaps = (drawn[system] - drawn[other]).mean(axis=0)
        span = _spread(mean, gaps, items, how)
        score = Score(span, replicates=tuple(gaps.tolist()))
        zero = Score(Interval(0.0, 0.0, 0.0, items), replicates=(0.0,) * len(gaps))
        difference = score.minus(zero, how)
        differences.append(normal_tail(difference, score, zero, how))
    return averages, _gaps(keys, differences, correction, 1 - how.confidence)


def _resampled_means(
    results: Mapping[str, SystemResult], tasks: Sequence[str], how: Resampling
) -> dict[str, np.ndarray]:
    """Return for each system its figures in resamples of each task's items, (tasks, resamples)."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in results}
    for task in tasks:
        own = {name: result.tasks[task] for name, result in results.items()}
        n = next(iter(own.values())).main.interval.n
        rng = generator(how.seed, "average", sha256_of_text(task), n)
        if all(result.main.values for result in own.values()):
            columns = np.array([result.main.values for result in own.values()]).T
            size = max(1, 2_000_000 // n)
            parts = []
            for start in range(0, how.n_resamples, size):
                shape = (min(size, how.n_resamples - start), n)
                parts.append(columns[rng.integers(0, n, size=shape)].mean(axis=1))
            for name, values in zip(own, np.concatenate(parts).T, strict=True):
                rows[name].append(values)
        else:
            for name, result in own.items():
                rows[name].append(_replicates(result))
    length = min(len(values) for part in rows.values() for values in part)
    return {name: np.array([values[:length] for values in part]) for name, part in rows.items()}


def _replicates(result: TaskResult) -> np.ndarray:
    """Return the stored resamples; the figure itself stands where one has no value."""
    main = result.main
    if not main.replicates:
        raise FormatError(f"Results on {result.task!r} lack resamples: evaluate again.")
    values = np.array(main.replicates)
    return np.where(np.isfinite(values), values, main.interval.mean)


def _task_picks(kinds: Sequence[str], how: Resampling) -> np.ndarray:
    """Draw tasks with replacement within each kind, (resamples, tasks)."""
    rng = generator(how.seed, "tasks", len(kinds))
    picks = np.empty((how.n_resamples, len(kinds)), dtype=np.int64)
    for kind in dict.fromkeys(kinds):
        members = np.flatnonzero([one == kind for one in kinds])
        picks[:, members] = rng.choice(members, size=(how.n_resamples, len(members)))
    return picks


def _spread(mean: float, drawn: np.ndarray, n: int, how: Resampling, note: str = "") -> Interval:
    tail = (1 - how.confidence) / 2
    low, high = (float(q) for q in np.quantile(drawn, [tail, 1 - tail]))
    return Interval(mean, low, high, n, how.confidence, note)


def _standings(
    results: Mapping[str, SystemResult], tasks: Sequence[str], gaps: Sequence[Gap]
) -> dict[str, Standing]:
    names = list(results)
    figures = np.array(
        [[results[name].tasks[task].goodness.interval.mean for task in tasks] for name in names]
    ).reshape(len(names), len(tasks))
    ranks = mean_ranks(figures)
    standings = {}
    for row, name in enumerate(names):
        counts = {"better": 0, "worse": 0, "unclear": 0}
        for gap in gaps:
            if name == gap.system:
                counts[gap.finding] += 1
            elif name == gap.other:
                turned = {"better": "worse", "worse": "better"}.get(gap.finding, "unclear")
                counts[turned] += 1
        standings[name] = Standing(
            borda=float((len(names) - ranks[row]).sum()),
            mean_rank=float(ranks[row].mean()) if tasks else float(len(names) + 1) / 2,
            wins=counts["better"],
            ties=counts["unclear"],
            losses=counts["worse"],
        )
    return standings


def _leaders(
    results: Mapping[str, SystemResult],
    made: _Pairs,
    gaps: Sequence[Gap],
    correction: str,
    alpha: float,
) -> dict[str, tuple[str, ...]]:
    """Return for each task the best system and those not clearly worse.

    What `gaps` found holds here too; pairs that are not among them are corrected together.
    """
    leaders: dict[str, tuple[str, ...]] = {}
    known = {(gap.system, gap.other, gap.task): gap.finding for gap in gaps}
    known |= {(gap.other, gap.system, gap.task): gap.finding for gap in gaps}
    wanted = []
    for task in dict.fromkeys(task for result in results.values() for task in result.tasks):
        ran = [name for name, result in results.items() if task in result.tasks]
        best = max(ran, key=lambda n: results[n].tasks[task].goodness.interval.mean)
        leaders[task] = (best,)
        wanted += [(best, rival, task) for rival in ran if rival != best]
    new = [key for key in wanted if key not in known]
    found = _gaps(new, [made.difference(*key) for key in new], correction, alpha)
    known |= {(gap.system, gap.other, gap.task): gap.finding for gap in found}
    for best, rival, task in wanted:
        if known[best, rival, task] == "unclear":
            leaders[task] += (rival,)
    return leaders
