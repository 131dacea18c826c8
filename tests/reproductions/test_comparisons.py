"""Intervals, findings and verdicts, against slow or known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import EmbedworksError, InputError, NonFiniteError, UnknownNameError
from embedworks.evaluation import Interval
from embedworks.reproductions import Comparison, estimate
from embedworks.reproductions.comparisons import (
    CLAIMS,
    _t_over_z,
    _t_within,
    judge,
    verdict_of,
)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 9, 10, 29])
def test_student_t_equals_scipy(df):
    stats = pytest.importorskip("scipy.stats")
    for t in (0.3, 1.0, 2.5, 8.0):
        assert _t_within(t, df) == pytest.approx(2 * stats.t.cdf(t, df) - 1, abs=1e-9)
    expected = stats.t.ppf(0.975, df) / stats.norm.ppf(0.975)
    assert _t_over_z(0.95, df) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("seeds", "items", "seed_sd", "item_sd"),
    [(3, 0, 1.0, 0.0), (5, 0, 1.0, 0.0), (3, 40, 0.0, 1.0), (3, 40, 0.3, 1.0), (5, 200, 1.0, 1.0)],
)
def test_intervals_cover_the_truth_about_as_often_as_they_say(seeds, items, seed_sd, item_sd):
    """Items are shared by all seeds, as test questions are; the truth is 0."""
    rng = np.random.default_rng(0)
    inside, runs = 0, 150
    for _ in range(runs):
        shifts = rng.normal(0, seed_sd, seeds)
        if items:
            shared = rng.normal(0, item_sd, items)
            own = rng.normal(0, 0.1, (seeds, items))
            values = [
                {str(i): float(v) for i, v in enumerate(shared + s + noise)}
                for s, noise in zip(shifts, own)
            ]
        else:
            values = [float(s) for s in shifts]
        found = estimate(values)
        inside += found.low <= 0 <= found.high
    assert 0.88 <= inside / runs <= 1.0


def test_the_same_items_under_each_seed_do_not_count_as_more_items():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 1, 50)
    same = [{str(i): float(v) for i, v in enumerate(hard)} for _ in range(4)]
    other = [{f"{s}-{i}": float(v) for i, v in enumerate(rng.permutation(hard))} for s in range(4)]
    wide, narrow = estimate(same), estimate(other)
    assert wide.mean == pytest.approx(narrow.mean)
    assert (wide.high - wide.low) > 1.6 * (narrow.high - narrow.low)
    assert (wide.n, narrow.n) == (50, 200)


def test_one_seed_says_what_is_missing():
    found = estimate([{"a": 1.0, "b": 2.0, "c": 4.0}])
    assert "one seed" in found.note
    assert found.low < found.mean < found.high


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcdef"), st.floats(-5, 5), min_size=1),
        min_size=2,
        max_size=5,
    )
)
def test_the_mean_is_the_mean_of_seed_means(values):
    found = estimate(values)
    expected = np.mean([np.mean(list(one.values())) for one in values])
    assert found.mean == pytest.approx(expected, abs=1e-9)
    assert np.isfinite([found.low, found.high]).all()
    assert found == estimate(values)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["x", "y", "z"]), st.floats(-3, 3).filter(bool), min_size=1),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 10_000),
)
def test_contrasts_equal_a_slow_loop(weights, seeds, with_items, number):
    rng = np.random.default_rng(number)
    cells = {
        arm: [
            {"q1": float(rng.normal()), "q2": float(rng.normal())}
            if with_items
            else float(rng.normal())
            for _ in range(seeds)
        ]
        for arm in ("x", "y", "z")
    }
    found = Comparison("c", "m", weights, null=0.25).values(cells)
    for place, value in enumerate(found):
        if with_items:
            for item in ("q1", "q2"):
                slow = sum(w * cells[arm][place][item] for arm, w in weights.items()) - 0.25
                assert value[item] == pytest.approx(slow)
        else:
            slow = sum(w * cells[arm][place] for arm, w in weights.items()) - 0.25
            assert value == pytest.approx(slow)


def test_arms_without_items_are_compared_by_their_means():
    cells = {"x": [{"a": 1.0, "b": 3.0}], "y": [1.5]}
    assert Comparison.between("x", "y", "m").values(cells) == [0.5]


@pytest.mark.parametrize(
    ("claim", "low", "high", "margin", "finding"),
    [
        ("greater", 0.1, 0.3, 0.0, "supported"),
        ("greater", -0.1, 0.3, 0.0, "open"),
        ("greater", -0.3, -0.1, 0.0, "refuted"),
        ("greater", -0.1, 0.04, 0.05, "refuted"),
        ("greater", 0.01, 0.04, 0.05, "refuted"),  # clear, and too small to count
        ("greater", 0.01, 0.2, 0.05, "supported"),
        ("less", -0.3, -0.1, 0.0, "supported"),
        ("less", -0.04, 0.1, 0.05, "refuted"),
        ("less", -0.2, 0.1, 0.05, "open"),
        ("equal", -0.04, 0.04, 0.05, "supported"),
        ("equal", -0.04, 0.06, 0.05, "open"),
        ("equal", 0.06, 0.2, 0.05, "refuted"),
        ("not_worse", -0.04, 0.3, 0.05, "supported"),
        ("not_worse", -0.2, -0.06, 0.05, "refuted"),
        ("not_worse", -0.2, 0.1, 0.05, "open"),
    ],
)
def test_findings(claim, low, high, margin, finding):
    assert judge(claim, Interval((low + high) / 2, low, high, 9), margin) == finding


@given(st.sampled_from(CLAIMS), st.floats(-1, 1), st.floats(0, 1), st.floats(0.001, 0.5))
def test_less_mirrors_greater_and_findings_are_total(claim, low, width, margin):
    interval = Interval(low, low, low + width, 9)
    assert judge(claim, interval, margin) in ("supported", "refuted", "open")
    mirrored = Interval(-low, -(low + width), -low, 9)
    assert judge("greater", interval, margin) == judge("less", mirrored, margin)


@pytest.mark.parametrize(
    ("decisive", "conditions", "seeds", "verdict"),
    [
        ("supported", [], 3, "holds"),
        ("supported", [("supported", True)], 3, "holds"),
        ("supported", [("open", True)], 3, "inconclusive"),
        ("supported", [("refuted", True)], 3, "fails"),
        ("supported", [("refuted", False)], 3, "inconclusive"),
        ("refuted", [("supported", True)], 3, "fails"),
        ("open", [("supported", True)], 3, "inconclusive"),
        ("open", [("refuted", True)], 3, "fails"),
        ("supported", [], 1, "inconclusive"),
        ("refuted", [], 1, "inconclusive"),
    ],
)
def test_verdicts(decisive, conditions, seeds, verdict):
    found, reason = verdict_of(decisive, conditions, seeds)
    assert found == verdict
    assert reason


def test_bad_comparisons_are_refused():
    with pytest.raises(InputError, match="no arms"):
        Comparison("c", "m", {})
    with pytest.raises(InputError, match="weight"):
        Comparison("c", "m", {"a": 0.0})
    with pytest.raises(InputError, match="margin above 0"):
        Comparison("c", "m", {"a": 1.0}, "equal")
    with pytest.raises(UnknownNameError, match="greater"):
        Comparison("c", "m", {"a": 1.0}, "greator")
    with pytest.raises(InputError, match="itself"):
        Comparison.between("a", "a", "m")
    with pytest.raises(UnknownNameError, match="Did you mean 'gist'"):
        Comparison.between("gits", "none", "m").values({"gist": [1.0], "none": [1.0]})
    with pytest.raises(InputError, match="different items"):
        Comparison.between("a", "b", "m").values({"a": [{"x": 1.0}], "b": [{"y": 1.0}]})
    with pytest.raises(NonFiniteError):
        estimate([1.0, float("nan")])
    with pytest.raises(InputError, match="per item"):
        estimate([1.0, {"a": 1.0}])
    with pytest.raises(EmbedworksError, match="no seeds"):
        estimate([])
    with pytest.raises(EmbedworksError, match="no items"):
        estimate([{}, {"a": 1.0}])
