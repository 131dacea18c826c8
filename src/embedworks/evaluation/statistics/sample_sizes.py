"""How many items a comparison needs, and how few would have told the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from embedworks._core.files import sha256_of_text
from embedworks._core.seeding import generator
from embedworks._core.validation import check_in_range
from embedworks.errors import InputError, NonFiniteError
from embedworks.evaluation.runner import SystemResult

__all__ = [
    "SizeAgreement",
    "agreement_by_size",
    "detectable_difference",
    "kendall_agreement",
    "required_sample_size",
]


@dataclass(frozen=True)
class SizeAgreement:
    """How well random samples of one size order the systems as the full task does."""

    size: int
    """Number of items in a sample."""
    mean: float
    """Mean Kendall tau-b over samples; samples in which all systems are equal count 0."""
    low: float
    """The value that 5 % of the samples do not reach."""
    same_best: float
    """Share of samples with the same best system."""


def required_sample_size(
    difference: float, deviation: float, *, power: float = 0.8, alpha: float = 0.05
) -> int:
    """Return how many items a paired test needs to find a difference.

    From the normal distribution with Guenther's correction for an estimated deviation:
    ``((z(1 - alpha/2) + z(power)) * deviation / difference) ** 2 + z(1 - alpha/2) ** 2 / 2``.

    Args:
        difference: The smallest mean difference worth finding.
        deviation: Standard deviation of the per-item differences, from a pilot.
        power: Chance to find it, in (0, 1).
        alpha: Level of the two-sided test, in (0, 1).

    Raises:
        InputError: When a value is out of range.

    Example:
        >>> required_sample_size(0.02, 0.2)
        787
    """
    check_in_range(abs(difference), name="difference", low=0.0, open_low=True)
    check_in_range(deviation, name="deviation", low=0.0)
    test, found = _quantiles(power, alpha)
    return max(2, math.ceil(((test + found) * deviation / difference) ** 2 + test**2 / 2))


def detectable_difference(
    n: int, deviation: float, *, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Return the smallest mean difference that a paired test of n items finds.

    The inverse of `required_sample_size`, with the same arguments.

    Raises:
        InputError: When a value is out of range, or n is too small for the level.

    Example:
        >>> round(detectable_difference(787, 0.2), 3)
        0.02
    """
    check_in_range(deviation, name="deviation", low=0.0)
    test, found = _quantiles(power, alpha)
    left = n - test**2 / 2
    if left <= 0:
        raise InputError(f"A test at the level {alpha} needs more than {n} items.")
    return (test + found) * deviation / math.sqrt(left)


def kendall_agreement(small: Mapping[str, float], full: Mapping[str, float]) -> float:
    """Return Kendall's tau-b between two orders of the same systems.

    Args:
        small: System -> figure, for example on a sample of the items.
        full: System -> figure on all of them.

    Returns:
        1 for the same order, -1 for the reverse.

    Raises:
        InputError: When the systems differ, are fewer than two, or all are equal on one side.
        NonFiniteError: When a figure is NaN or infinite.

    Example:
        >>> kendall_agreement({"a": 0.5, "b": 0.4, "c": 0.1}, {"a": 0.6, "b": 0.2, "c": 0.3})
        0.333...
    """
    if set(small) != set(full):
        raise InputError("Both sides need the same systems: an order is compared with itself.")
    if len(small) < 2:
        raise InputError(f"An order needs at least two systems, got {len(small)}.")
    values = np.array([[small[name], full[name]] for name in small], dtype=np.float64)
    if not np.isfinite(values).all():
        raise NonFiniteError("Every figure must be a number: one is NaN or infinite.")
    tau = float(_tau(values[:, :1].T, values[:, 1])[0])
    if math.isnan(tau):
        raise InputError("All systems are equal on one side: there is no order to agree with.")
    return tau


def agreement_by_size(
    results: Sequence[SystemResult],
    task: str,
    *,
    sizes: Sequence[int] = (),
    n_samples: int = 200,
    seed: int = 0,
) -> list[SizeAgreement]:
    """Tell how few items would have ordered the systems as the full task does.

    Items are drawn without replacement, the same for all systems.

    Args:
        results: Results of at least two systems on the task.
        task: Its name; its figure must be a mean over items.
        sizes: Sizes of the samples; by default 10, 20, 50, 100, ... below the number of items.
        n_samples: Samples of each size.
        seed: Seed of the samples.

    Raises:
        InputError: When the task was not run by all, is no mean over items, orders nothing, or
            a size is not below the number of items.

    Example:
        >>> from embedworks.evaluation import Score, TaskResult
        >>> def system(name, values):
        ...     task = TaskResult("t", "retrieval", "m", {"m": Score.of_values(values)})
        ...     return SystemResult(name, {}, {"t": task})
        >>> good, weak = system("good", [1.0] * 40), system("weak", [0.0] * 40)
        >>> agreement_by_size([good, weak], "t", sizes=[10])
        [SizeAgreement(size=10, mean=1.0, low=1.0, same_best=1.0)]
    """
    absent = [result.name for result in results if task not in result.tasks]
    if len(results) < 2 or absent:
        raise InputError(
            f"The order on {task!r} needs at least two systems that ran it, got {len(results)}"
            + (f", of which {', '.join(absent)} did not." if absent else ".")
        )
    columns = [result.tasks[task].goodness.values for result in results]
    n = len(columns[0])
    if n == 0 or any(len(column) != n for column in columns):
        raise InputError(f"{task!r} has no values per item, the same number for all systems.")
    values = np.array(columns, dtype=np.float64)
    full = values.mean(axis=1)
    if (full == full[0]).all():
        raise InputError(f"All systems are equal on {task!r}: there is no order to agree with.")
    wanted = list(sizes) or [s for p in range(1, 7) for s in (10**p, 2 * 10**p, 5 * 10**p) if s < n]
    if bad := [size for size in wanted if not 1 <= size <= n]:
        raise InputError(f"A sample of {bad[0]} items cannot be drawn from {n}.")
    rng = generator(seed, "agreement", sha256_of_text(task), n)
    found = []
    for size in wanted:
        means = np.array(
            [values[:, rng.choice(n, size, replace=False)].mean(axis=1) for _ in range(n_samples)]
        )
        taus = np.nan_to_num(_tau(means, full), nan=0.0)
        same = float((means.argmax(axis=1) == full.argmax()).mean())
        found.append(SizeAgreement(size, float(taus.mean()), float(np.quantile(taus, 0.05)), same))
    return found


def _tau(rows: np.ndarray, full: np.ndarray) -> np.ndarray:
    """Return tau-b of each row (R, S) with the full order (S,); NaN where one is constant."""
    upper = np.triu_indices(len(full), 1)
    mine = np.sign(rows[:, upper[0]] - rows[:, upper[1]])
    theirs = np.sign(full[upper[0]] - full[upper[1]])
    scale = np.sqrt((mine != 0).sum(axis=1) * float((theirs != 0).sum()))
    with np.errstate(invalid="ignore"):
        return np.asarray((mine @ theirs) / np.where(scale > 0, scale, np.nan))


def _quantiles(power: float, alpha: float) -> tuple[float, float]:
    for name, value in (("power", power), ("alpha", alpha)):
        if not 0 < value < 1:
            raise InputError(f"{name} must be in (0, 1), got {value!r}.")
    normal = NormalDist()
    return normal.inv_cdf(1 - alpha / 2), normal.inv_cdf(power)
