from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import InputError, ShapeError, UnknownNameError
from embedworks.negatives import (
    NEGATIVE_RULES,
    Candidates,
    NegativeRule,
    adaptive_limit,
    relative_limit,
)


def slow_keep(kind, score, positive, similarity, spread, value):
    return {
        "absolute": score < positive - value,
        "relative": score < positive - abs(positive) * value,
        "adaptive": score < positive - value * spread,
        "document": similarity < value,
        "max-score": score <= value,
        "min-score": score >= value,
    }[kind]


@pytest.mark.parametrize("kind", NEGATIVE_RULES.names())
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_equals_the_slow_loop(kind, seed):
    rng = np.random.default_rng(seed)
    rows, columns = int(rng.integers(1, 5)), int(rng.integers(1, 8))
    scores = rng.normal(size=(rows, columns))
    candidates = Candidates(
        scores,
        rng.normal(size=rows),
        rng.random((rows, columns)) < 0.8,
        rng.normal(size=scores.shape),
    )
    rule = NegativeRule(kind, 0.25, sources={"b": 0.75})
    sources = [str(s) for s in rng.choice(["a", "b"], rows)]
    kept = rule.keep(candidates, sources)
    for i in range(rows):
        there = scores[i][candidates.known[i]]
        spread = there.std() if len(there) else 0.0
        for j in range(columns):
            expected = not candidates.known[i, j] or slow_keep(
                kind,
                scores[i, j],
                candidates.positive[i],
                candidates.similarity[i, j],
                spread,
                0.75 if sources[i] == "b" else 0.25,
            )
            assert kept[i, j] == expected


def test_relative_margin_lies_below_a_negative_positive():
    """The published form ``t * 0.95`` would lie above it and keep what outranks the positive."""
    assert relative_limit(np.array(-0.4), 0.05) < -0.4


def test_nothing_is_below_a_positive_that_was_not_found():
    candidates = Candidates(np.array([[1.0, -5.0]]), np.array([-np.inf]), np.ones((1, 2), bool))
    for kind in ("absolute", "relative", "adaptive"):
        for value in (0.0, 0.5):
            assert not NegativeRule(kind, value).keep(candidates, ["a"]).any()


def test_the_spread_ignores_unknown_scores():
    scores = np.array([[0.2, 0.4, -np.inf]])
    known = np.isfinite(scores)
    limit = adaptive_limit(np.array([1.0]), scores, known, 1.0)
    np.testing.assert_allclose(limit, 1.0 - 0.1)


def test_bad_rules_are_explained():
    with pytest.raises(UnknownNameError, match="Did you mean 'relative'"):
        NegativeRule("relativ", 0.05)
    with pytest.raises(InputError, match="value of rule 'absolute' for source 'x'"):
        NegativeRule("absolute", 0.1, sources={"x": -1.0})
    with pytest.raises(InputError, match="nan"):
        NegativeRule("max-score", float("nan"))
    with pytest.raises(UnknownNameError, match="'quora'"):
        NegativeRule("absolute", 0.1, sources={"quroa": 0.2}).check_sources(["quora"])
    blind = Candidates(np.zeros((1, 1)), np.zeros(1), np.ones((1, 1), bool))
    with pytest.raises(InputError, match="dense"):
        NegativeRule("document", 0.9).keep(blind, ["a"])
    with pytest.raises(ShapeError, match="positive"):
        Candidates(np.zeros((2, 1)), np.zeros(1), np.ones((2, 1), bool))
