"""Bootstrap intervals: coverage, edge cases, determinism, and exact p-values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from embedworks.errors import (
    EmptyInputError,
    FormatError,
    InputError,
    NonFiniteError,
    ShapeError,
)
from embedworks.evaluation import Difference, Interval, bootstrap_interval, paired_difference


def test_interval_matches_a_slow_bootstrap():
    values = np.random.default_rng(0).beta(0.5, 0.5, size=60)
    interval = bootstrap_interval(values, seed=1, n_resamples=4000)
    rng = np.random.default_rng(5)
    means = sorted(sum(values[rng.integers(60)] for _ in range(60)) / 60 for _ in range(4000))
    assert interval.low == pytest.approx(means[100], abs=0.012)
    assert interval.high == pytest.approx(means[3899], abs=0.012)
    assert interval.mean == pytest.approx(values.mean())


def test_coverage_is_near_the_level():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        interval = bootstrap_interval(rng.random(80), seed=trial, n_resamples=400)
        hits += interval.low <= 0.5 <= interval.high
    assert 0.90 <= hits / 300 <= 0.98


def test_same_seed_same_interval_other_seed_other():
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_higher_confidence_is_wider():
    values = np.random.default_rng(0).random(50)
    narrow = bootstrap_interval(values, seed=0, confidence=0.5)
    wide = bootstrap_interval(values, seed=0, confidence=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_blocks_do_not_change_the_statistics(monkeypatch):
    values = np.random.default_rng(0).random(50)
    whole = bootstrap_interval(values, seed=0)
    monkeypatch.setattr("embedworks.evaluation.statistics.intervals._BLOCK", 999)
    parts = bootstrap_interval(values, seed=0)
    assert parts.low == pytest.approx(whole.low, abs=0.01)
    assert parts.n == whole.n


def test_one_value_and_constant_values_say_so():
    one = bootstrap_interval([0.3], seed=0)
    assert (one.mean, one.low, one.high, one.n) == (0.3, 0.3, 0.3, 1)
    assert "one value" in one.note
    assert one.describe() == "0.300 (n = 1)"
    same = bootstrap_interval([0.1] * 7, seed=0)
    assert (same.mean, same.low, same.high) == (0.1, 0.1, 0.1)
    assert "equal" in same.note
    gap = paired_difference([1.0], [0.0], seed=0)
    assert gap.p_value == 1.0
    assert not gap.is_clear


def test_bad_values():
    with pytest.raises(EmptyInputError):
        bootstrap_interval([], seed=0)
    with pytest.raises(NonFiniteError, match=r"values\[1\]"):
        bootstrap_interval([0.1, math.nan], seed=0)
    with pytest.raises(ShapeError):
        bootstrap_interval(np.zeros((2, 2)), seed=0)
    for confidence in (0.0, 1.0, 1.5, math.nan):
        with pytest.raises(InputError, match="confidence"):
            bootstrap_interval([0.1, 0.2], seed=0, confidence=confidence)
    with pytest.raises(InputError, match="n_resamples"):
        bootstrap_interval([0.1, 0.2], seed=0, n_resamples=5)
    with pytest.raises(InputError, match="seed"):
        bootstrap_interval([0.1, 0.2], seed=-1)
    with pytest.raises(ShapeError, match="same queries"):
        paired_difference([0.1, 0.2], [0.1], seed=0)


@pytest.mark.parametrize("n", [2, 5, 8, 10])
def test_small_p_values_are_exact(n):
    rng = np.random.default_rng(n)
    a, b = rng.integers(0, 3, size=n) / 2, rng.integers(0, 3, size=n) / 2
    gaps = a - b
    flips = [
        sum(s * g for s, g in zip(signs, gaps)) for signs in itertools.product((1, -1), repeat=n)
    ]
    expected = np.mean([abs(total) >= abs(gaps.sum()) - 1e-9 for total in flips])
    assert paired_difference(a, b, seed=0).p_value == pytest.approx(expected)


def test_sampled_p_values_agree_with_exact_ones(monkeypatch):
    rng = np.random.default_rng(3)
    a, b = rng.random(14) + 0.15, rng.random(14)
    exact = paired_difference(a, b, seed=0, n_resamples=2**14).p_value
    sampled = paired_difference(a, b, seed=0, n_resamples=2**14 - 1).p_value
    assert sampled == pytest.approx(exact, abs=0.015)


def test_paired_difference_finds_a_small_steady_gain():
    rng = np.random.default_rng(0)
    b = rng.random(300)
    gap = paired_difference(b + 0.02 + rng.normal(scale=0.02, size=300), b, seed=0)
    assert gap.is_clear
    assert gap.low > 0
    assert gap.p_value < 0.001
    reverse = paired_difference(b, b + 0.02, seed=0)
    assert reverse.mean == pytest.approx(-0.02)


def test_no_difference_is_no_difference():
    values = np.random.default_rng(0).random(40)
    gap = paired_difference(values, values, seed=0)
    assert (gap.mean, gap.low, gap.high, gap.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert not gap.is_clear


def test_false_alarms_are_rare():
    rng = np.random.default_rng(1)
    alarms = sum(
        paired_difference(rng.random(40), rng.random(40), seed=i, n_resamples=400).p_value < 0.05
        for i in range(300)
    )
    assert alarms / 300 < 0.09


def test_round_trip():
    interval = bootstrap_interval([0.1, 0.4, 0.9], seed=0)
    assert Interval.from_dict(interval.to_dict()) == interval
    gap = paired_difference([0.1, 0.4, 0.9], [0.2, 0.1, 0.4], seed=0)
    assert Difference.from_dict(gap.to_dict()) == gap
    with pytest.raises(FormatError, match="'mean'"):
        Interval.from_dict({**interval.to_dict(), "maen": 1})
    with pytest.raises(FormatError, match="lacks"):
        Interval.from_dict({"mean": 1.0})
    with pytest.raises(FormatError, match="list"):
        Interval.from_dict([1, 2])
