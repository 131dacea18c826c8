"""Features of numbers: as a slow loop makes them, and read back by a ridge on unseen numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from embedworks.errors import InputError, NonFiniteError, ShapeError
from embedworks.models import magnitude_vectors


def slow_features(value: float, low: float, high: float, frequencies: int) -> list[float]:
    exponent = math.floor(math.log10(abs(value))) if value else 0
    first = (
        [math.copysign(1, value), math.log10(abs(value)), abs(value) / 10**exponent]
        if value
        else [0.0, 0.0, 0.0]
    )
    inside = min(max(value, low), high)
    turns = [math.pi / 4 * (inside - low) / (high - low) * 2**k for k in range(frequencies)]
    return [*first, *map(math.sin, turns), *map(math.cos, turns)]


def test_features_are_those_of_a_slow_loop():
    values = [-350.0, -1.0, 0.0, 0.02, 3.5, 99.0, 4e6]
    got = magnitude_vectors(values, low=-500, high=500, frequencies=5)
    expected = [slow_features(value, -500, 500, 5) for value in values]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_a_ridge_reads_numbers_back_within_a_hundredth():
    rng = np.random.default_rng(0)
    values = rng.uniform(-400, 900, 600)
    rows = magnitude_vectors(values, low=-400, high=900).astype(np.float64)
    rows = np.concatenate([rows, np.ones((600, 1))], axis=1)
    train, test = rows[:300], rows[300:]
    gram = train.T @ train + 1e-6 * np.eye(rows.shape[1])
    read = test @ np.linalg.solve(gram, train.T @ values[:300])
    assert np.abs(read - values[300:]).max() < 0.01 * 1300
    # The size of a number is there over all magnitudes, not only in the range.
    sizes = 10 ** rng.uniform(-6, 12, 50)
    logs = magnitude_vectors(sizes, low=0, high=1)[:, 1].astype(np.float64)
    np.testing.assert_allclose(10**logs, sizes, rtol=0.01)


def test_bad_numbers_and_ranges_are_refused():
    with pytest.raises(NonFiniteError, match=r"values\[1\]"):
        magnitude_vectors([1.0, float("nan")], low=0, high=1)
    with pytest.raises(InputError, match="below high"):
        magnitude_vectors([1.0], low=1, high=1)
    with pytest.raises(InputError, match="frequencies"):
        magnitude_vectors([1.0], low=0, high=1, frequencies=0)
    with pytest.raises(ShapeError, match=r"\(N,\)"):
        magnitude_vectors([[1.0]], low=0, high=1)
