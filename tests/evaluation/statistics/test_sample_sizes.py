"""Sample sizes against the exact t-test and simulation; agreement against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedworks.errors import InputError, NonFiniteError
from embedworks.evaluation import (
    Score,
    SystemResult,
    TaskResult,
    agreement_by_size,
    detectable_difference,
    kendall_agreement,
    required_sample_size,
)

stats = pytest.importorskip("scipy.stats")


def power_of(n, effect, alpha):
    """Power of the paired t-test from the noncentral t distribution."""
    limit = stats.t.ppf(1 - alpha / 2, n - 1)
    away = effect * math.sqrt(n)
    return stats.nct.sf(limit, n - 1, away) + stats.nct.cdf(-limit, n - 1, away)


@pytest.mark.parametrize("effect", [0.05, 0.1, 0.3, 0.8])
@pytest.mark.parametrize("power", [0.8, 0.95])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_required_size_gives_the_power(effect, power, alpha):
    n = required_sample_size(effect * 0.25, 0.25, power=power, alpha=alpha)
    assert power_of(n, effect, alpha) >= power - 0.01
    assert power_of(max(2, n - 2), effect, alpha) < power + 0.015


def test_detectable_difference_is_the_inverse():
    for n in (20, 100, 3000):
        gap = detectable_difference(n, 0.3)
        assert required_sample_size(gap * 1.0001, 0.3) <= n
        assert required_sample_size(gap * 0.99, 0.3) >= n
    assert detectable_difference(100, 0.0) == 0.0
    assert required_sample_size(-0.02, 0.2) == required_sample_size(0.02, 0.2)


def test_simulated_power():
    n = required_sample_size(0.1, 0.3)
    rng = np.random.default_rng(0)
    gaps = rng.normal(0.1, 0.3, size=(4000, n))
    share = (stats.ttest_1samp(gaps, 0, axis=1).pvalue < 0.05).mean()
    assert share == pytest.approx(0.8, abs=0.025)


@pytest.mark.parametrize(
    "call",
    [
        lambda: required_sample_size(0.0, 0.2),
        lambda: required_sample_size(0.1, -1.0),
        lambda: required_sample_size(0.1, 0.2, power=1.0),
        lambda: required_sample_size(0.1, 0.2, alpha=0.0),
        lambda: required_sample_size(float("nan"), 0.2),
        lambda: detectable_difference(1, 0.2),
    ],
)
def test_bad_values(call):
    with pytest.raises(InputError):
        call()


FIGURES = st.lists(
    st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.4]), st.sampled_from([0.1, 0.2, 0.3])),
    min_size=2,
    max_size=8,
)


@given(FIGURES)
def test_tau_equals_scipy(pairs):
    small = {f"s{i}": a for i, (a, _) in enumerate(pairs)}
    full = {f"s{i}": b for i, (_, b) in enumerate(pairs)}
    expected = stats.kendalltau(*zip(*pairs)).statistic
    if math.isnan(expected):
        with pytest.raises(InputError, match="no order"):
            kendall_agreement(small, full)
    else:
        assert kendall_agreement(small, full) == pytest.approx(expected, abs=1e-12)


def test_bad_orders():
    with pytest.raises(InputError, match="same systems"):
        kendall_agreement({"a": 1.0, "b": 2.0}, {"a": 1.0, "c": 2.0})
    with pytest.raises(InputError, match="two systems"):
        kendall_agreement({"a": 1.0}, {"a": 1.0})
    with pytest.raises(NonFiniteError):
        kendall_agreement({"a": 1.0, "b": float("nan")}, {"a": 1.0, "b": 2.0})


def systems(rows, better="higher"):
    made = []
    for place, values in enumerate(rows):
        task = TaskResult("t", "retrieval", "m", {"m": Score.of_values(values)}, better=better)
        made.append(SystemResult(f"s{place}", {}, {"t": task}))
    return made


def test_more_items_agree_better():
    rng = np.random.default_rng(0)
    rows = [rng.random(400) + 0.08 * place for place in range(5)]
    found = agreement_by_size(systems(rows), "t", n_samples=100)
    assert [one.size for one in found] == [10, 20, 50, 100, 200]
    means = [one.mean for one in found]
    assert means == sorted(means)
    assert found[0].mean < 0.9 < found[-1].mean
    assert all(-1 <= one.low <= 1 and one.mean <= 1 for one in found)
    assert found == agreement_by_size(systems(rows), "t", n_samples=100)
    whole = agreement_by_size(systems(rows), "t", sizes=[400], n_samples=3)[0]
    assert (whole.mean, whole.same_best) == (1.0, 1.0)


def test_agreement_turns_tasks_where_less_is_better():
    rng = np.random.default_rng(1)
    rows = [rng.random(100) + place for place in range(3)]
    up = agreement_by_size(systems(rows), "t", sizes=[10])
    assert agreement_by_size(systems(rows, "lower"), "t", sizes=[10]) == up


def test_agreement_refuses_what_has_no_answer():
    rows = [[1.0, 0.0], [0.0, 0.0]]
    with pytest.raises(InputError, match="did not"):
        agreement_by_size(systems(rows), "u")
    with pytest.raises(InputError, match="cannot be drawn"):
        agreement_by_size(systems(rows), "t", sizes=[3])
    with pytest.raises(InputError, match="equal"):
        agreement_by_size(systems([[1.0, 0.0], [0.0, 1.0]]), "t", sizes=[1])
    statistic = TaskResult(
        "t", "sts", "m", {"m": Score.of_statistic(3, lambda rows: float(rows.mean()))}
    )
    with pytest.raises(InputError, match="values per item"):
        agreement_by_size([SystemResult(n, {}, {"t": statistic}) for n in "ab"], "t")
