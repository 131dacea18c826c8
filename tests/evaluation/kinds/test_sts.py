"""Rank correlation and scored pairs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedworks.errors import DataWarning, EmptyInputError, InputError, NonFiniteError, ShapeError
from embedworks.evaluation import StsResult, evaluate_sts, spearman

SMALL = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 3.0])


def slow_ranks(values):
    return [
        1 + sum(v < value for v in values) + (sum(v == value for v in values) - 1) / 2
        for value in values
    ]


def slow_spearman(a, b):
    x, y = slow_ranks(a), slow_ranks(b)
    mean = (len(x) + 1) / 2
    top = sum((p - mean) * (q - mean) for p, q in zip(x, y))
    scale = sum((p - mean) ** 2 for p in x) * sum((q - mean) ** 2 for q in y)
    return top / scale**0.5


@given(st.lists(st.tuples(SMALL, SMALL), min_size=2, max_size=30))
def test_equals_the_slow_one_with_ties(pairs):
    a, b = [p[0] for p in pairs], [p[1] for p in pairs]
    if len(set(a)) == 1 or len(set(b)) == 1:
        with pytest.raises(InputError, match="constant"):
            spearman(a, b)
    else:
        assert spearman(a, b) == pytest.approx(slow_spearman(a, b), abs=1e-12)


def test_hand_computed():
    assert spearman([1, 2, 3], [1, 4, 9]) == 1.0
    assert spearman([1, 2, 3], [3, 2, 1]) == -1.0
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486832980505138)


def test_bad_values():
    with pytest.raises(ShapeError):
        spearman([1, 2], [1, 2, 3])
    with pytest.raises(ShapeError):
        spearman([[1, 2]], [[1, 2]])
    with pytest.raises(InputError, match="two items"):
        spearman([1], [1])
    with pytest.raises(NonFiniteError, match=r"b\[1\]"):
        spearman([1, 2], [1, float("nan")])


class Words:
    """Counts of three words; texts without them have no vector."""

    def encode(self, texts):
        return np.array([[t.split().count(w) for w in ("a", "b", "c")] for t in texts], dtype=float)


PAIRS = [("a", "a", 5), ("a b", "a", 4), ("a", "b", 0), ("a b c", "a b", 4), ("c", "a c c", 3)]


def test_model_similarities_are_ranked():
    result = evaluate_sts(Words(), PAIRS, seed=0)
    cosines = [1, 1 / 2**0.5, 0, 2 / 6**0.5, 2 / 5**0.5]
    assert result.spearman.mean == pytest.approx(spearman(cosines, [5, 4, 0, 4, 3]))
    assert result.spearman.low <= result.spearman.mean <= result.spearman.high
    assert (result.spearman.n, result.zero_vectors) == (5, 0)
    assert evaluate_sts(Words(), PAIRS, seed=0) == result
    assert StsResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_zero_vectors_are_counted():
    with pytest.warns(DataWarning, match="2 of 12 texts"):
        result = evaluate_sts(Words(), [*PAIRS, ("x", "y", 1)])
    assert result.zero_vectors == 2


def test_interval_matches_a_slow_bootstrap():
    rng = np.random.default_rng(0)
    left = rng.normal(size=(60, 2))
    right = left + rng.normal(size=(60, 2))

    class Table:
        def encode(self, texts):
            return np.concatenate([left, right])

    cosines = (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    scores = np.round(cosines + rng.normal(scale=0.5, size=60), 1)
    result = evaluate_sts(Table(), [(f"l{i}", f"r{i}", s) for i, s in enumerate(scores)], seed=1)
    draws = []
    for _ in range(300):
        picks = rng.integers(0, 60, size=60)
        draws.append(slow_spearman(list(cosines[picks]), list(scores[picks])))
    low, high = np.quantile(draws, [0.025, 0.975])
    assert result.spearman.low == pytest.approx(low, abs=0.06)
    assert result.spearman.high == pytest.approx(high, abs=0.06)


def test_bad_pairs_and_models():
    with pytest.raises(EmptyInputError):
        evaluate_sts(Words(), [])
    with pytest.raises(InputError, match="constant"):
        evaluate_sts(Words(), [("a", "b", 1.0), ("a", "c", 1.0)])
    with pytest.raises(InputError, match="string"):
        evaluate_sts(Words(), [("a", None, 1.0), ("a", "c", 2.0)])

    class Short:
        def encode(self, texts):
            return np.ones((1, 2))

    with pytest.raises(ShapeError, match="1 vectors for 10"):
        evaluate_sts(Short(), PAIRS)
