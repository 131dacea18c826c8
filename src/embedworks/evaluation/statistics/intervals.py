"""Intervals for means and paired differences, by resampling queries.

A mean over queries is an estimate: other queries would have given another one. The bootstrap
draws queries with replacement and reports the middle share of the resulting means. Two systems
scored on the same queries are compared by their per-query differences, which removes the spread
between easy and hard queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_in_range
from embedworks.errors import EmptyInputError, InputError, NonFiniteError, ShapeError
from embedworks.evaluation._records import FlatRecord

__all__ = ["Difference", "Interval", "bootstrap_interval", "check_resampling", "paired_difference"]

#: Numbers drawn at a time: bounds the memory of a bootstrap to about 64 MB.
_BLOCK = 4_000_000

_SINGLE = "one value: no interval"
_CONSTANT = "all values are equal: the interval has no width"


@dataclass(frozen=True)
class Interval(FlatRecord):
    """A mean with its bootstrap interval."""

    mean: float
    """Mean of the values."""
    low: float
    """Lower end; equal to the mean when `note` is set."""
    high: float
    """Upper end; equal to the mean when `note` is set."""
    n: int
    """Number of values, for example queries."""
    confidence: float = 0.95
    """Share of resampled means between `low` and `high`."""
    note: str = ""
    """Why there is no interval, or empty."""

    def describe(self, digits: int = 3) -> str:
        """Return ``"0.512 [0.481, 0.544]"``, or the mean and the reason for no interval.

        Example:
            >>> Interval(0.5, 0.41, 0.59, 40).describe()
            '0.500 [0.410, 0.590]'
            >>> bootstrap_interval([0.5], seed=0).describe()
            '0.500 (n = 1)'
        """
        return _describe(self, f".{digits}f")


@dataclass(frozen=True)
class Difference(FlatRecord):
    """A paired mean difference ``a - b`` with its interval and randomisation p-value."""

    mean: float
    """Mean of ``a - b`` over the pairs; positive when ``a`` is better."""
    low: float
    """Lower end of the bootstrap interval."""
    high: float
    """Upper end of the bootstrap interval."""
    p_value: float
    """Two-sided p of the randomisation test that swaps ``a`` and ``b`` within pairs."""
    n: int
    """Number of pairs."""
    confidence: float = 0.95
    """Share of resampled means between `low` and `high`."""
    note: str = ""
    """Why there is no interval, or empty."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval exists and excludes zero."""
        return self.n > 1 and (self.low > 0 or self.high < 0)

    def describe(self, digits: int = 3) -> str:
        """Return ``"+0.062 [+0.040, +0.081]"``.

        Example:
            >>> Difference(0.062, 0.04, 0.081, 0.001, 200).describe()
            '+0.062 [+0.040, +0.081]'
        """
        return _describe(self, f"+.{digits}f")


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int,
) -> Interval:
    """Compute the mean of ``values`` with a percentile bootstrap interval.

    One value has no spread to resample and equal values have none at all: both give an interval
    without width, and say so in `Interval.note`. With few values (below about 20) the interval
    is somewhat too narrow, as all percentile bootstraps are.

    Args:
        values: One value per query, shape (Q,).
        confidence: Share of resampled means inside the interval, in (0, 1).
        n_resamples: Number of resamples, at least 100.
        seed: Seed of the resampling, 0 or greater.

    Raises:
        EmptyInputError: When there are no values.
        NonFiniteError: When a value is NaN or infinite.
        InputError: When ``confidence`` or ``n_resamples`` is out of range.

    Example:
        >>> interval = bootstrap_interval([0.0, 0.0, 1.0, 1.0] * 10, seed=0)
        >>> interval.low < interval.mean < interval.high
        True
        >>> bootstrap_interval([0.5], seed=0).note
        'one value: no interval'
    """
    array = _check_values(values, name="values")
    check_resampling(confidence, n_resamples)
    mean, low, high, note = _interval_of_mean(array, confidence, n_resamples, seed)
    return Interval(mean, low, high, len(array), confidence, note)


def paired_difference(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int,
) -> Difference:
    """Compare two systems scored on the same queries: mean of ``a - b``, interval, p-value.

    The interval is a bootstrap over queries. The p-value flips the sign of each query's
    difference at random and counts how often the mean is at least as far from zero as the
    observed one: exact when all flips number no more than ``n_resamples``, otherwise
    ``(1 + count) / (1 + n_resamples)``, which is never 0.

    Args:
        a: Values of the first system, shape (Q,).
        b: Values of the second system on the same queries in the same order, shape (Q,).
        confidence: Share of resampled means inside the interval, in (0, 1).
        n_resamples: Number of resamples, at least 100.
        seed: Seed of the resampling, 0 or greater.

    Raises:
        ShapeError: When ``a`` and ``b`` differ in length.
        EmptyInputError: When there are no values.
        NonFiniteError: When a value is NaN or infinite.

    Example:
        >>> difference = paired_difference([0.9, 0.8, 0.7, 0.9], [0.5, 0.6, 0.5, 0.4], seed=0)
        >>> round(difference.mean, 3), difference.n, difference.p_value
        (0.325, 4, 0.125)
    """
    first, second = _check_values(a, name="a"), _check_values(b, name="b")
    if len(first) != len(second):
        raise ShapeError(
            f"a has {len(first)} values and b has {len(second)}: "
            "a paired difference needs both systems on the same queries."
        )
    check_resampling(confidence, n_resamples)
    gaps = first - second
    mean, low, high, note = _interval_of_mean(gaps, confidence, n_resamples, seed)
    p_value = _sign_flip_p(gaps, n_resamples, seed)
    return Difference(mean, low, high, p_value, len(gaps), confidence, note)


def _interval_of_mean(
    values: np.ndarray, confidence: float, n_resamples: int, seed: int
) -> tuple[float, float, float, str]:
    mean = float(values.mean())
    if len(values) == 1:
        return mean, mean, mean, _SINGLE
    if (values == values[0]).all():
        mean = float(values[0])
        return mean, mean, mean, _CONSTANT
    rng = generator(seed, "bootstrap")

    def draw(rows: int) -> np.ndarray:
        picks = rng.integers(0, len(values), size=(rows, len(values)), dtype=np.int32)
        return np.asarray(values[picks].mean(axis=1))

    means = np.concatenate(list(_in_blocks(draw, n_resamples, len(values))))
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return mean, float(low), float(high), ""


def _sign_flip_p(gaps: np.ndarray, n_resamples: int, seed: int) -> float:
    """Two-sided p-value of the mean under random sign flips of the differences."""
    moving = gaps[gaps != 0]
    if len(moving) == 0:
        return 1.0
    # Sums that equal the observed one up to rounding count as reached.
    observed = abs(float(moving.sum())) * (1 - 1e-9)
    if len(moving) < 60 and 2 ** len(moving) <= n_resamples:
        codes = np.arange(2 ** len(moving))[:, None]
        signs = 1.0 - 2.0 * ((codes >> np.arange(len(moving))) & 1)
        return float((np.abs(signs @ moving) >= observed).mean())
    rng = generator(seed, "sign flips")

    def draw(rows: int) -> np.ndarray:
        heads = rng.integers(0, 2, size=(rows, len(moving)), dtype=np.int8)
        return np.asarray(np.abs(moving.sum() - 2.0 * (heads @ moving)))

    reached = sum(
        int((sums >= observed).sum()) for sums in _in_blocks(draw, n_resamples, len(moving))
    )
    return (1 + reached) / (1 + n_resamples)


def _in_blocks(
    draw: Callable[[int], np.ndarray], n_resamples: int, width: int
) -> Iterator[np.ndarray]:
    """Call ``draw(rows)`` until ``n_resamples`` rows are drawn, never too many at once."""
    rows = max(1, _BLOCK // width)
    for start in range(0, n_resamples, rows):
        yield draw(min(rows, n_resamples - start))


def _check_values(values: Sequence[float] | np.ndarray, *, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ShapeError(f"{name} must have shape (Q,), one value per query, got {array.shape}.")
    if len(array) == 0:
        raise EmptyInputError(f"{name} is empty: at least one query is needed.")
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array))[0])
        raise NonFiniteError(f"{name}[{bad}] is {array[bad]}: every value must be a number.")
    return array


def check_resampling(confidence: float, n_resamples: int) -> None:
    """Refuse a confidence outside (0, 1) and too few resamples for an interval.

    Raises:
        InputError: Naming the setting, the value and the allowed range.
    """
    check_in_range(confidence, name="confidence", low=0.0, high=1.0, open_low=True)
    if confidence == 1.0:
        raise InputError("confidence must be below 1: no finite sample is that certain.")
    if n_resamples < 100:
        raise InputError(
            f"n_resamples must be at least 100, got {n_resamples}: fewer give a meaningless tail."
        )


def _describe(estimate: Interval | Difference, form: str) -> str:
    if estimate.n == 1:
        return f"{estimate.mean:{form}} (n = 1)"
    return f"{estimate.mean:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"
