"""Scaling laws: how a loss falls with the size of a model and the amount of data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.seeding import generator
from embedworks._core.validation import check_in_range
from embedworks.errors import EmptyInputError, InputError, NonFiniteError, ShapeError
from embedworks.evaluation._records import FlatRecord

__all__ = ["BestSize", "ScalingLaw", "fit_scaling"]

#: Huber's delta on the logarithm of the loss: beyond it, errors count linearly.
_DELTA = 1e-3
_SLOPES = (0.15, 0.4, 0.9)
_FLOORS = (0.3, 0.9)


@dataclass(frozen=True)
class BestSize(FlatRecord):
    """The size and the data that reach the lowest loss for a budget."""

    size: float
    """Parameters."""
    size_low: float
    """Lower end of the interval."""
    size_high: float
    """Upper end of the interval."""
    data: float
    """Units of data, as they were counted for the fit."""
    loss: float
    """Loss of the law there."""
    extrapolated: bool
    """Whether size or data lie outside of what was measured."""


@dataclass(frozen=True)
class ScalingLaw:
    """``loss = a * size ** -alpha + b * data ** -beta + c``; made by `fit_scaling`."""

    a: float
    alpha: float
    b: float
    beta: float
    c: float
    alpha_interval: tuple[float, float]
    """Middle 95 % of the refits."""
    beta_interval: tuple[float, float]
    error: float
    """Root mean square of the relative errors at the measured points."""
    sizes: tuple[float, float]
    """Smallest and largest measured."""
    amounts: tuple[float, float]
    """The same of the data."""
    refits: np.ndarray = field(repr=False, compare=False)
    """Parameters of the refits, float64 (B, 5): ln a, alpha, ln b, beta, ln c."""
    residuals: np.ndarray = field(repr=False, compare=False)
    """ln(measured / law) at the points, float64 (N,), widened for the parameters fitted."""

    def predict(self, size: float, data: float) -> float:
        """Return the loss of the law.

        Raises:
            InputError: When a value is not positive.
        """
        check_in_range(size, name="size", low=0.0, open_low=True)
        check_in_range(data, name="data", low=0.0, open_low=True)
        return self.a * size**-self.alpha + self.b * data**-self.beta + self.c

    def interval(
        self, size: float, data: float, *, confidence: float = 0.95, seed: int = 0
    ) -> tuple[float, float]:
        """Return where a new measurement is expected: the refits, with the scatter of the points.

        Raises:
            InputError: When a value is out of range.
        """
        check_in_range(confidence, name="confidence", low=0.0, high=1.0, open_low=True)
        self.predict(size, data)
        draws = np.repeat(_log_law(self.refits, np.log([size]), np.log([data]))[:, 0], 20)
        draws = draws + generator(seed, "scaling band").choice(self.residuals, size=len(draws))
        low, high = np.exp(np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2]))
        return float(low), float(high)

    def best_size(self, budget: float, *, per_unit: float = 6.0) -> BestSize:
        """Return the size and data of lowest loss with ``per_unit * size * data = budget``.

        Args:
            budget: Operations of the whole training.
            per_unit: Operations per parameter and unit of data: 6 when data is tokens, and 6 times
                the tokens of a row when it is rows.

        Raises:
            InputError: When a value is not positive, or the law does not fall in both.
        """
        check_in_range(budget, name="budget", low=0.0, open_low=True)
        check_in_range(per_unit, name="per_unit", low=0.0, open_low=True)
        own = np.array([[np.log(self.a), self.alpha, np.log(self.b), self.beta, 0.0]])
        room = float(np.log(budget) - np.log(per_unit))
        size = float(np.exp(_best_log_size(own, room)[0]))
        low, high = np.exp(np.quantile(_best_log_size(self.refits, room), [0.025, 0.975]))
        data = budget / per_unit / size
        inside = self.sizes[0] <= size <= self.sizes[1] and (
            self.amounts[0] <= data <= self.amounts[1]
        )
        loss = self.predict(size, data)
        return BestSize(size, float(low), float(high), data, loss, not inside)


def fit_scaling(
    sizes: Sequence[float],
    data: Sequence[float],
    losses: Sequence[float],
    *,
    resamples: int = 200,
    seed: int = 0,
) -> ScalingLaw:
    """Fit how a loss falls with size and data, with intervals of the exponents.

    Minimises the Huber loss of ``ln(law) - ln(measured)`` from several starts. For intervals,
    residuals are drawn again onto the law and it is fitted anew. A quality is fitted as what it
    lacks: ``1 - quality``.

    Args:
        sizes: Parameters of each model, N values of at least three sizes.
        data: Data it was trained on (tokens, or rows), N values of at least three amounts.
        losses: What was measured, positive.
        resamples: Refits for the intervals.
        seed: Of the refits.

    Raises:
        ShapeError: When the three differ in length.
        EmptyInputError: When there are fewer than six points.
        NonFiniteError: When a value is not finite.
        InputError: When a value is not positive, or there are fewer than three sizes or amounts.
        MissingExtraError: When scipy is not installed.

    Paper: Hoffmann et al. 2022, arXiv 2203.15556, section 3.3: the form, Huber's loss on the
    logarithm with delta 0.001, and the best size for a budget. They draw points again for their
    intervals; we draw residuals, since few points do not bear losing some.

    Example:
        >>> points = [(n, d) for n in (1e6, 4e6, 16e6) for d in (1e7, 1e8, 1e9)]
        >>> losses = [400 * n**-0.4 + 90 * d**-0.3 + 1.2 for n, d in points]
        >>> law = fit_scaling(*zip(*points), losses, resamples=10)
        >>> round(law.alpha, 2), round(law.beta, 2), round(law.c, 2)
        (0.4, 0.3, 1.2)
    """
    arrays = [np.asarray(list(values), dtype=np.float64) for values in (sizes, data, losses)]
    if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 1:
        found = [array.shape for array in arrays]
        raise ShapeError(f"sizes, data and losses need one value a model each, got {found}.")
    if len(arrays[0]) < 6:
        raise EmptyInputError(
            f"{len(arrays[0])} points cannot fix five parameters: six are needed, nine are better."
        )
    for name, array in zip(("sizes", "data", "losses"), arrays, strict=True):
        if not np.isfinite(array).all():
            place = int(np.flatnonzero(~np.isfinite(array))[0])
            raise NonFiniteError(f"{name}[{place}] is {array[place]}.")
        if (array <= 0).any():
            raise InputError(f"{name} must be positive, got {array.min()}.")
        if name != "losses" and len(np.unique(array)) < 3:
            raise InputError(
                f"{name} has {len(np.unique(array))} different values: three are needed to tell a "
                "power from a constant."
            )
    check_in_range(resamples, name="resamples", low=1)
    size, amount, loss = (np.log(array) for array in arrays)
    best = _fitted(size, amount, loss, _starts(size, amount, loss))
    fitted = _log_law(best[None], size, amount)[0]
    rest = loss - fitted
    widened = (rest - rest.mean()) * np.sqrt(len(loss) / max(1, len(loss) - len(best)))
    rng = generator(seed, "scaling")
    refits = np.stack(
        [
            _fitted(size, amount, fitted + rng.choice(widened, size=len(loss)), [best])
            for _ in range(resamples)
        ]
    )
    a, b, c = (float(np.exp(best[place])) for place in (0, 2, 4))
    ends = np.quantile(refits, [0.025, 0.975], axis=0)
    return ScalingLaw(
        a, float(best[1]), b, float(best[3]), c, _pair(ends[:, 1]), _pair(ends[:, 3]),
        float(np.sqrt(np.mean(np.expm1(rest) ** 2))),
        _pair([arrays[0].min(), arrays[0].max()]), _pair([arrays[1].min(), arrays[1].max()]),
        refits, widened,
    )  # fmt: skip


def _pair(values: Any) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)


def _log_law(parameters: np.ndarray, size: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Return ln of the law at each point, (B, N), for parameters (B, 5) and logarithms (N,)."""
    found: np.ndarray = np.logaddexp.reduce(_terms(parameters, size, amount), axis=0)
    return found


def _terms(parameters: np.ndarray, size: np.ndarray, amount: np.ndarray) -> np.ndarray:
    a, alpha, b, beta, c = (column[:, None] for column in parameters.T)
    return np.stack([a - alpha * size, b - beta * amount, c + 0.0 * size])


def _fitted(
    size: np.ndarray, amount: np.ndarray, loss: np.ndarray, starts: Sequence[np.ndarray]
) -> np.ndarray:
    """Return the best parameters (5,) from several starts."""
    optimize = require_extra("scipy.optimize", extra="train", purpose="fit a scaling law")

    # Centred, so that an exponent and its factor do not move together.
    middle = np.array([size.mean(), amount.mean()])

    def centred(p: np.ndarray) -> np.ndarray:
        return p + np.array([-p[1] * middle[0], 0.0, -p[3] * middle[1], 0.0, 0.0])

    def errors(p: np.ndarray) -> np.ndarray:
        found: np.ndarray = _log_law(p[None], size - middle[0], amount - middle[1])[0] - loss
        return found

    def slopes(p: np.ndarray) -> np.ndarray:
        terms = _terms(p[None], size - middle[0], amount - middle[1])[:, 0]
        first, second, third = np.exp(terms - np.logaddexp.reduce(terms, axis=0))
        x, y = size - middle[0], amount - middle[1]
        return np.stack([first, -x * first, second, -y * second, third], axis=1)

    low = [-30.0, 1e-3, -30.0, 1e-3, loss.min() - 15.0]
    high = [30.0, 5.0, 30.0, 5.0, loss.max()]
    best, cost = None, np.inf
    for start in starts:
        found = optimize.least_squares(
            errors, np.clip(centred(start), np.add(low, 1e-6), np.subtract(high, 1e-6)), slopes,
            bounds=(low, high), loss="huber", f_scale=_DELTA, x_scale="jac",
            xtol=1e-12, ftol=1e-12, gtol=1e-12, max_nfev=400,
        )  # fmt: skip
        if found.cost < cost:
            best, cost = found.x, found.cost
    if best is None:
        raise NonFiniteError("the fit found no finite loss: are the values of one kind?")
    back = np.array([best[1] * middle[0], 0.0, best[3] * middle[1], 0.0, 0.0])
    return np.asarray(best + back)


def _starts(size: np.ndarray, amount: np.ndarray, loss: np.ndarray) -> list[np.ndarray]:
    """Return starts: a share of the smallest loss as floor, the rest halved between the terms."""
    starts = []
    for alpha, beta, share in product(_SLOPES, _SLOPES, _FLOORS):
        floor = share * np.exp(loss.min())
        rest = np.log((np.exp(loss).mean() - floor) / 2)
        starts.append(
            np.array([rest + alpha * size.mean(), alpha, rest + beta * amount.mean(), beta,
                      np.log(floor)])
        )  # fmt: skip
    return starts


def _best_log_size(parameters: np.ndarray, room: float) -> np.ndarray:
    """Return ln of the best size for each set of parameters, ``ln size + ln data = room``."""
    a, alpha, b, beta = parameters.T[:4]
    found: np.ndarray = (np.log(alpha / beta) + a - b + beta * room) / (alpha + beta)
    return found
