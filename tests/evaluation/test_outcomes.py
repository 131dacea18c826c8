"""Figures, failures and results: exact round trips, and pairing of resamples."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import (
    EmptyInputError,
    FormatError,
    InputError,
    NonFiniteError,
    UnknownNameError,
)
from embedworks.evaluation import Failure, Resampling, Score, TaskResult
from embedworks.evaluation.outcomes import Cost, shorten

QUICK = Resampling(n_resamples=100)
NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


def through_json(value):
    return json.loads(json.dumps(value, allow_nan=False))


def median_of(values, how=QUICK):
    array = np.asarray(values, dtype=np.float64)
    return Score.of_statistic(len(array), lambda rows: float(np.median(array[rows])), how)


def correlation_of(a, b, how=QUICK):
    def statistic(rows):
        if np.ptp(a[rows]) == 0 or np.ptp(b[rows]) == 0:
            return None
        return float(np.corrcoef(a[rows], b[rows])[0, 1])

    return Score.of_statistic(len(a), statistic, how)


@settings(max_examples=30, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=12))
def test_scores_survive_json(values):
    for score in (Score.of_values(values, QUICK), median_of(values)):
        assert Score.from_dict(through_json(score.to_dict())) == score


def test_undefined_resamples_survive_json():
    a, b = np.array([0.0, 0.0, 1.0]), np.array([1.0, 2.0, 3.0])
    score = correlation_of(a, b)
    missing = [math.isnan(value) for value in score.replicates]
    assert any(missing)
    assert not all(missing)
    back = Score.from_dict(through_json(score.to_dict()))
    np.testing.assert_array_equal(back.replicates, score.replicates)
    assert back.interval == score.interval


def test_results_survive_json():
    result = TaskResult(
        task="t",
        kind="sts",
        metric="m",
        scores={"m": Score.of_values([0.1, 1 / 3], QUICK), "n": median_of([1.0, 2.0, 4.0])},
        items=("a", "b"),
        excluded={"no text": 2},
        failures=(Failure("a", "text", 0.1, ("x", "y"), ()),),
        details={"list": [1, 2.5, None], "nested": {"deep": "er"}},
        cost=Cost(1.5, 0.5, 10, 3, 40, 1, 2, 12.5),
        better="lower",
    )
    assert TaskResult.from_dict(through_json(result.to_dict())) == result
    assert result.main == result.scores["m"]


@pytest.mark.parametrize("kind", [Score, Failure, Cost, TaskResult])
def test_wrong_keys_are_refused(kind):
    with pytest.raises(FormatError):
        kind.from_dict({})
    with pytest.raises(FormatError):
        kind.from_dict([])
    whole = {
        Score: Score.of_values([1.0], QUICK),
        Failure: Failure("a", "b", 0.0, (), ()),
        Cost: Cost(),
        TaskResult: TaskResult("t", "sts", "m", {"m": Score.of_values([1.0], QUICK)}),
    }[kind].to_dict()
    with pytest.raises(FormatError, match="unknown key"):
        kind.from_dict({**whole, "extra": 1})
    for key in whole:
        with pytest.raises(FormatError, match="lacks"):
            kind.from_dict({k: v for k, v in whole.items() if k != key})


def test_a_statistic_is_resampled_with_its_seed():
    values = np.random.default_rng(0).normal(size=40)
    one = median_of(values)
    assert one == median_of(values)
    assert one.interval.mean == np.median(values)
    assert one.interval.low <= one.interval.mean <= one.interval.high
    assert one.interval.n == 40
    assert len(one.replicates) == 100
    assert one != median_of(values, Resampling(n_resamples=100, seed=1))


def test_systems_are_resampled_alike():
    """The difference of two systems that differ by a constant is that constant in each resample."""
    values = np.random.default_rng(1).normal(size=50)
    first, second = median_of(values + 0.25), median_of(values)
    gaps = np.array(first.replicates) - np.array(second.replicates)
    np.testing.assert_allclose(gaps, 0.25)
    found = first.minus(second, QUICK)
    assert (found.mean, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    assert found.p_value == pytest.approx(2 / 101)


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(2)
    hard = rng.normal(size=80)
    first, second = (median_of(hard + rng.normal(0, 0.05, 80)) for _ in range(2))
    paired = first.minus(second, QUICK)
    assert paired.high - paired.low < 0.5 * (first.interval.high - first.interval.low)


def test_minus_is_antisymmetric():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 30))
    for first, second in (
        (Score.of_values(a, QUICK), Score.of_values(b, QUICK)),
        (median_of(a), median_of(b)),
    ):
        there, back = first.minus(second, QUICK), second.minus(first, QUICK)
        assert there.mean == pytest.approx(-back.mean)
        assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
        assert there.p_value == back.p_value


def test_undefined_resamples_are_left_out_of_differences():
    rng = np.random.default_rng(4)
    a, b = np.array([0.0, 0.0, 0.0, 1.0]), rng.normal(size=4)
    score = correlation_of(a, b)
    found = score.minus(correlation_of(a, b + 0.01 * rng.normal(size=4)), QUICK)
    assert math.isfinite(found.low)
    assert math.isfinite(found.p_value)


def test_a_statistic_without_resamples_has_no_interval():
    def only_whole(rows):
        return 1.0 if len(set(rows.tolist())) == len(rows) else None

    score = Score.of_statistic(30, only_whole, QUICK)
    assert score.interval.note
    found = score.minus(score, QUICK)
    assert found.p_value == 1.0
    assert found.note


def test_what_cannot_be_paired():
    means, longer = Score.of_values([1.0, 0.0], QUICK), Score.of_values([1.0, 0.0, 1.0], QUICK)
    with pytest.raises(FormatError, match="2 and 3 items"):
        means.minus(longer)
    statistic = median_of([1.0, 0.0])
    with pytest.raises(FormatError, match="cannot be compared"):
        means.minus(statistic)
    with pytest.raises(FormatError, match="200"):
        statistic.minus(median_of([1.0, 0.0], Resampling(n_resamples=200)))
    with pytest.raises(FormatError, match="cannot be compared"):
        statistic.minus(median_of([1.0, 0.0, 2.0]))


def test_bad_values():
    with pytest.raises(EmptyInputError):
        Score.of_values([])
    with pytest.raises(NonFiniteError):
        Score.of_values([1.0, float("nan")])
    with pytest.raises(EmptyInputError, match="0 items"):
        Score.of_statistic(0, lambda rows: 1.0)
    with pytest.raises(EmptyInputError, match="not defined"):
        Score.of_statistic(3, lambda rows: None)
    for bad in ({"confidence": 1.0}, {"confidence": 0.0}, {"n_resamples": 99}):
        with pytest.raises(InputError):
            Resampling(**bad)


def result_of(values, better, items=()):
    return TaskResult(
        "t", "bias", "m", {"m": Score.of_values(values, QUICK)}, items=items, better=better
    )


def test_gains_follow_the_direction():
    low, high = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    assert result_of(high, "higher").gain_over(result_of(low, "higher")).mean > 0
    assert result_of(low, "lower").gain_over(result_of(high, "lower")).mean == pytest.approx(0.4)
    minus = [-value for value in high]
    for near, far in ((low, high), (low, minus)):
        gain = result_of(near, "zero").gain_over(result_of(far, "zero"))
        assert gain.mean == pytest.approx(0.4)
    shares = result_of([0.4, 0.5], "half").gain_over(result_of([0.9, 1.0], "half"))
    assert shares.mean == pytest.approx(0.45 - 0.05)
    with pytest.raises(FormatError, match="better"):
        result_of(low, "zero").gain_over(result_of(low, "lower"))
    with pytest.raises(FormatError, match="items"):
        result_of(low, "zero", ("a", "b", "c")).gain_over(result_of(low, "zero", ("a", "b", "d")))
    with pytest.raises(UnknownNameError, match="better"):
        result_of(low, "highest")


def test_what_is_good_follows_from_the_kind_unless_said():
    scores = {"m": Score.of_values([0.5], QUICK)}
    usual = {"retrieval": "higher", "leakage": "lower", "bias": "neither", "probing": "higher"}
    for kind, better in usual.items():
        assert TaskResult("t", kind, "m", scores).better == better
    assert TaskResult("t", "bias", "m", scores, better="zero").better == "zero"


@settings(max_examples=30, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=8))
def test_negation_is_its_own_inverse(values):
    score = Score.of_values(values, QUICK)
    assert score.negated().negated() == score
    turned = score.negated().interval
    assert turned.low <= turned.high


def test_shorten():
    assert shorten("a\n b\t c") == "a b c"
    assert shorten("half \ud800 of a pair") == "half ? of a pair"
    assert shorten("x" * 200) == "x" * 159 + "…"
    assert len(shorten("word " * 99, 50)) == 50
