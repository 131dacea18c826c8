"""What is compared, how sure we are, and what that says about the claim.

A comparison is a weighted sum of arms on one metric: ``+1 treatment, -1 control`` in the plain
case, a difference of differences when an effect must grow with something. Its interval resamples
seeds and, where runs give one value per item, the items.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from embedworks._core.registry import did_you_mean
from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice, check_in_range
from embedworks.errors import EmptyInputError, InputError, NonFiniteError, UnknownNameError
from embedworks.evaluation import Interval, bootstrap_interval

__all__ = ["CLAIMS", "Claim", "Comparison", "Finding", "Verdict", "estimate", "judge", "verdict_of"]

Claim = Literal["greater", "less", "equal", "not_worse"]
Finding = Literal["supported", "refuted", "open"]
Verdict = Literal["holds", "fails", "inconclusive"]

CLAIMS: tuple[Claim, ...] = ("greater", "less", "equal", "not_worse")

_RESAMPLES = 2000
_ROWS = 250

#: One seed's values: a mean, or item id -> value.
SeedValues = float | Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """One question to the arms, with the answer that the claim predicts.

    Make the plain kind with `between`. With ``difference = sum(weight * arm) - null``:

    ========== ============================ ===========================
    claim      supported when               refuted when
    ========== ============================ ===========================
    greater    low > 0 and high >= margin   high < margin, or high < 0
    less       high < 0 and low <= -margin  low > -margin, or low > 0
    equal      inside (-margin, +margin)    outside it altogether
    not_worse  low > -margin                high < -margin
    ========== ============================ ===========================

    ``[low, high]`` is the interval of the difference; anything else leaves the question open.

    Args:
        name: Short name for tables, such as ``"gist over random mask"``.
        metric: Name of a metric that every arm in ``contrast`` reports.
        contrast: Arm -> weight.
        claim: What the paper predicts about the difference.
        null: Value that the weighted sum is compared with, for thresholds such as a precision
            of at least 0.8.
        margin: The smallest difference that counts. A clear difference below it refutes
            ``greater`` and ``less``; it is the tolerance of ``equal`` and ``not_worse``, which
            need one above 0.
        falsifies: Whether refuting this condition falsifies the claim, or only keeps it from
            being confirmed.

    Raises:
        InputError: When the contrast is empty, a weight is 0, or the margin does not fit.
        UnknownNameError: When ``claim`` is not one of the four.

    Example:
        >>> growth = Comparison("gap grows", "ndcg@10",
        ...                     {"mask 0.4": 1, "none 0.4": -1, "mask 0": -1, "none 0": 1})
        >>> Comparison.between("mask 0.4", "none 0.4", "ndcg@10").name
        'mask 0.4 over none 0.4'
    """

    name: str
    metric: str
    contrast: Mapping[str, float]
    claim: Claim = "greater"
    null: float = 0.0
    margin: float = 0.0
    falsifies: bool = True

    def __post_init__(self) -> None:
        check_choice(self.claim, CLAIMS, name="claim")
        check_in_range(self.null, name="null")
        check_in_range(self.margin, name="margin", low=0.0)
        if not self.contrast:
            raise InputError(f"Comparison {self.name!r} has no arms.")
        for arm, weight in self.contrast.items():
            if not math.isfinite(weight) or weight == 0:
                raise InputError(
                    f"Comparison {self.name!r}: the weight of {arm!r} must be a number other "
                    f"than 0, got {weight}."
                )
        if self.claim in ("equal", "not_worse") and self.margin == 0:
            raise InputError(
                f"Comparison {self.name!r} claims {self.claim!r}: it needs a margin above 0, the "
                "largest difference that does not count."
            )

    @classmethod
    def between(
        cls,
        treatment: str,
        control: str,
        metric: str,
        *,
        name: str = "",
        claim: Claim = "greater",
        margin: float = 0.0,
        falsifies: bool = True,
    ) -> Comparison:
        """Compare two arms: treatment minus control."""
        if treatment == control:
            raise InputError(f"An arm cannot be compared with itself: {treatment!r}.")
        return cls(
            name or f"{treatment} over {control}",
            metric,
            {treatment: 1.0, control: -1.0},
            claim,
            margin=margin,
            falsifies=falsifies,
        )

    def values(self, cells: Mapping[str, Sequence[SeedValues]]) -> list[SeedValues]:
        """Return the difference per seed, by item where every arm has items.

        Args:
            cells: Arm -> one entry per seed, in the same order of seeds for all arms.

        Raises:
            UnknownNameError: When an arm is not among ``cells``.
            InputError: When arms were scored on different items in the same seed.
        """
        for arm in self.contrast:
            if arm not in cells:
                hint = did_you_mean(arm, list(cells))
                raise UnknownNameError(f"Comparison {self.name!r}: no arm {arm!r}. {hint}")
        seeds = len(next(iter(cells.values())))
        return [self._one({arm: cells[arm][s] for arm in self.contrast}) for s in range(seeds)]

    def _one(self, arms: Mapping[str, SeedValues]) -> SeedValues:
        by_item = {arm: value for arm, value in arms.items() if isinstance(value, Mapping)}
        if len(by_item) < len(arms):
            total = sum(w * _mean_of(arms[arm]) for arm, w in self.contrast.items())
            return total - self.null
        items = [set(value) for value in by_item.values()]
        if any(found != items[0] for found in items[1:]):
            raise InputError(
                f"Comparison {self.name!r}: the arms {', '.join(arms)} were scored on different "
                "items, so their difference has no meaning. Evaluate all arms of a seed on the "
                "same items."
            )
        return {
            item: sum(w * by_item[arm][item] for arm, w in self.contrast.items()) - self.null
            for item in sorted(items[0])
        }


def estimate(values: Sequence[SeedValues], *, seed: int = 0, confidence: float = 0.95) -> Interval:
    """Compute a mean over seeds with an interval that covers other seeds and other items.

    A two-level bootstrap. Items are drawn with replacement, an item together with itself in
    every seed where it occurs: if the same queries are asked under all seeds, their choice is one
    source of error, not one per seed. Beside them seeds are drawn. Percentile intervals over
    three or five seeds are far too narrow, so the seeds' part of each resample is widened by
    ``sqrt(S / (S - 1)) * t / z``, which is what Student's t asks for.

    Args:
        values: Per seed a number, or item id -> value; one kind for all seeds.
        seed: Seed of the resampling.
        confidence: Share of resampled means inside the interval.

    Returns:
        The interval; `n` counts items (seeds when there are no items), and `note` says what the
        interval leaves out when there is a single seed.

    Raises:
        EmptyInputError: When there are no values.
        InputError: When some seeds have items and others do not.
        NonFiniteError: When a value is NaN or infinite.

    Example:
        >>> found = estimate([{"a": 1.0, "b": 3.0}, {"a": 1.2, "b": 3.4}, {"a": 0.8, "b": 3.0}])
        >>> found.low < 1.0 < 3.0 < found.high, round(found.mean, 3), found.n
        (True, 2.067, 2)
    """
    check_in_range(confidence, name="confidence", low=0.5, high=0.999)
    if not values:
        raise EmptyInputError("There are no seeds to compute an interval from.")
    with_items = [isinstance(value, Mapping) for value in values]
    if any(with_items) != all(with_items):
        raise InputError("Some seeds have values per item and others do not.")
    table, present = _table(values)
    if len(values) == 1:
        single = bootstrap_interval(
            table[0][present[0]], confidence=confidence, n_resamples=_RESAMPLES, seed=seed
        )
        note = "one seed: the spread of training is not in the interval"
        return Interval(single.mean, single.low, single.high, single.n, confidence, note)
    seeds, items = table.shape
    counts = present.sum(axis=1)
    mean = float((table.sum(axis=1) / counts).mean())
    own = table.sum(axis=1) / counts
    centres = np.full(_RESAMPLES, mean)
    if items > 1:
        for start in range(0, _RESAMPLES, _ROWS):
            weights = _item_weights(seed, items)[start : start + _ROWS].astype(np.float64)
            drawn = weights @ present.T
            sums = weights @ table.T
            per_seed = np.where(drawn > 0, sums / np.maximum(drawn, 1), own)
            centres[start : start + _ROWS] = per_seed.mean(axis=1)
    widen = math.sqrt(seeds / (seeds - 1)) * _t_over_z(confidence, seeds - 1)
    rng = generator(seed, "reproduction seeds")
    picks = rng.integers(0, seeds, size=(_RESAMPLES, seeds))
    means = centres + widen * (own[picks].mean(axis=1) - mean)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high), items if any(with_items) else seeds, confidence)


@lru_cache(maxsize=4)
def _item_weights(seed: int, items: int) -> np.ndarray:
    """Return how often each item is drawn in each resample, (resamples, items)."""
    rng = generator(seed, "reproduction items")
    return rng.multinomial(items, np.full(items, 1 / items), size=_RESAMPLES).astype(np.int16)


def _table(values: Sequence[SeedValues]) -> tuple[np.ndarray, np.ndarray]:
    """Return values (S, items) with 0 where an item is absent, and what is present."""
    maps = [value if isinstance(value, Mapping) else {"": value} for value in values]
    place = {item: n for n, item in enumerate(dict.fromkeys(i for one in maps for i in one))}
    table = np.zeros((len(maps), len(place)))
    present = np.zeros(table.shape, dtype=bool)
    for row, one in enumerate(maps):
        if not one:
            raise EmptyInputError(f"Seed number {row + 1} has no items.")
        columns = [place[item] for item in one]
        table[row, columns] = list(one.values())
        present[row, columns] = True
    if not np.isfinite(table).all():
        raise NonFiniteError("A value is NaN or infinite: every arm must give numbers.")
    return table, present


def _mean_of(value: SeedValues) -> float:
    return float(np.mean(list(value.values()))) if isinstance(value, Mapping) else float(value)


def judge(claim: Claim, interval: Interval, margin: float) -> Finding:
    """Say what an interval of a difference means for a claim; see `Comparison`."""
    low, high = interval.low, interval.high
    if claim == "less":
        low, high = -high, -low
    if claim in ("greater", "less"):
        if high < margin or high < 0:
            return "refuted"
        return "supported" if low > 0 else "open"
    if claim == "not_worse":
        return "supported" if low > -margin else "refuted" if high < -margin else "open"
    if -margin < low and high < margin:
        return "supported"
    return "refuted" if low > margin or high < -margin else "open"


def verdict_of(
    decisive: Finding, conditions: Sequence[tuple[Finding, bool]], seeds: int
) -> tuple[Verdict, str]:
    """Apply the rule for verdicts.

    Args:
        decisive: Finding of the decisive comparison.
        conditions: (finding, whether refuting it falsifies) of each condition.
        seeds: Number of seeds; a verdict needs two.

    Returns:
        The verdict and the reason in words.

    Example:
        >>> verdict_of("supported", [("open", True)], 3)
        ('inconclusive', 'the decisive comparison is supported, but 1 of 1 conditions is not')
    """
    if seeds < 2:
        return "inconclusive", "one seed cannot tell an effect from the luck of training"
    if decisive == "refuted":
        return "fails", "the decisive comparison is refuted"
    broken = sum(finding == "refuted" and falsifies for finding, falsifies in conditions)
    if broken:
        return "fails", f"{broken} of {len(conditions)} conditions {_is(broken)} refuted"
    if decisive == "open":
        return "inconclusive", "the interval of the decisive comparison leaves it open"
    missing = sum(finding != "supported" for finding, _ in conditions)
    if missing:
        return "inconclusive", (
            f"the decisive comparison is supported, but {missing} of {len(conditions)} "
            f"conditions {_is(missing)} not"
        )
    beside = f" and all {len(conditions)} conditions" if conditions else ""
    return "holds", f"the decisive comparison{beside} {'are' if conditions else 'is'} supported"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _t_over_z(confidence: float, df: int) -> float:
    """Ratio of Student's quantile with ``df`` degrees of freedom to the normal one."""
    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, df) < confidence else (low, middle)
    z_low, z_high = 0.0, 10.0
    for _ in range(80):
        middle = (z_low + z_high) / 2
        inside = math.erf(middle / math.sqrt(2))
        z_low, z_high = (middle, z_high) if inside < confidence else (z_low, middle)
    return low / z_low


def _t_within(t: float, df: int) -> float:
    """Probability that Student's t with ``df`` degrees of freedom lies in ``[-t, t]``."""
    angle = math.atan(t / math.sqrt(df))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    term, total = 1.0, 0.0
    first = 1 if df % 2 else 0
    for j in range(first, df // 2 + first):
        if df % 2 == 0:
            total += term
            term *= (2 * j + 1) / (2 * j + 2) * square
        elif 2 * j < df:
            total += term
            term *= 2 * j / (2 * j + 1) * square
    if df % 2 == 0:
        return sine * total
    return (angle + sine * math.cos(angle) * total) * 2 / math.pi
