"""Scaling laws: planted ones are found again, the best size is that of a search."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.errors import EmptyInputError, InputError, NonFiniteError, ShapeError
from embedworks.evaluation import fit_scaling

PLANTED = {"a": 300.0, "alpha": 0.42, "b": 150.0, "beta": 0.31, "c": 0.9}
SIZES = (1e5, 4e5, 1.6e6, 6.4e6, 2.56e7)
AMOUNTS = (1e4, 4e4, 1.6e5, 6.4e5)


def planted(size, data):
    return PLANTED["a"] * size ** -PLANTED["alpha"] + (
        PLANTED["b"] * data ** -PLANTED["beta"] + PLANTED["c"]
    )


def measured(noise, seed=0, leave_out=()):
    rng = np.random.default_rng(seed)
    points = [(n, d) for n in SIZES for d in AMOUNTS if (n, d) not in leave_out]
    losses = [planted(n, d) * np.exp(noise * rng.standard_normal()) for n, d in points]
    return [n for n, _ in points], [d for _, d in points], losses


@pytest.fixture(scope="module")
def law():
    return fit_scaling(*measured(0.003), resamples=60)


def test_planted_exponents_are_found_without_noise():
    law = fit_scaling(*measured(0.0), resamples=1)
    for name, value in PLANTED.items():
        assert getattr(law, name) == pytest.approx(value, rel=1e-3), name
    assert law.error < 1e-6


def test_planted_exponents_lie_in_their_intervals(law):
    assert law.alpha == pytest.approx(PLANTED["alpha"], rel=0.05)
    assert law.beta == pytest.approx(PLANTED["beta"], rel=0.05)
    for name in ("alpha", "beta"):
        low, high = getattr(law, f"{name}_interval")
        assert low < PLANTED[name] < high
        assert high - low < 0.2


def test_the_largest_point_held_out_lies_in_the_band():
    last = (SIZES[-1], AMOUNTS[-1])
    inside = 0
    for seed in range(4):
        law = fit_scaling(*measured(0.01, seed, leave_out=[last]), resamples=15, seed=seed)
        noise = np.random.default_rng(100 + seed).standard_normal()
        low, high = law.interval(*last)
        inside += low <= planted(*last) * np.exp(0.01 * noise) <= high
        assert low < law.predict(*last) < high
    assert inside >= 3


def test_one_wrong_point_does_not_move_the_law():
    sizes, data, losses = measured(0.002)
    losses[7] *= 1.5
    law = fit_scaling(sizes, data, losses, resamples=1)
    assert law.alpha == pytest.approx(PLANTED["alpha"], rel=0.1)
    assert law.beta == pytest.approx(PLANTED["beta"], rel=0.1)


def test_the_best_size_is_the_lowest_of_a_search(law):
    budget = 6 * 9e10
    best = law.best_size(budget)
    grid = np.geomspace(1e4, 1e9, 20_001)
    found = [law.predict(n, budget / 6 / n) for n in grid]
    assert best.size == pytest.approx(grid[int(np.argmin(found))], rel=2e-3)
    assert best.loss == pytest.approx(min(found), rel=1e-6)
    assert 6 * best.size * best.data == pytest.approx(budget)
    assert best.size_low < best.size < best.size_high
    assert not best.extrapolated
    assert law.best_size(budget * 1e6).extrapolated


def test_equal_exponents_share_a_budget_evenly():
    points = [(n, d) for n in (1e4, 1e5, 1e6) for d in (1e4, 1e5, 1e6)]
    losses = [5 * n**-0.5 + 5 * d**-0.5 + 0.1 for n, d in points]
    law = fit_scaling(*zip(*points, strict=True), losses, resamples=1)
    best = law.best_size(6e10)
    assert best.size == pytest.approx(1e5, rel=0.01)
    assert best.data == pytest.approx(1e5, rel=0.01)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda n, d, y: (n[:-1], d, y), ShapeError, "one value a model"),
        (lambda n, d, y: (n[:5], d[:5], y[:5]), EmptyInputError, "5 points"),
        (lambda n, d, y: (n, d, [*y[:-1], float("nan")]), NonFiniteError, r"losses\[19\]"),
        (lambda n, d, y: (n, d, [*y[:-1], 0.0]), InputError, "losses must be positive"),
        (lambda n, d, y: ([1e6] * len(n), d, y), InputError, "sizes has 1 different"),
        (lambda n, d, y: (n, [1e6] * len(n), y), InputError, "data has 1 different"),
    ],
)
def test_what_cannot_be_fitted(change, error, message):
    with pytest.raises(error, match=message):
        fit_scaling(*change(*measured(0.0)))


def test_a_budget_must_be_positive(law):
    with pytest.raises(InputError, match="budget"):
        law.best_size(0)
    with pytest.raises(InputError, match="size"):
        law.predict(0, 1)
