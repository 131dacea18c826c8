"""Fusion against slow loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedworks.errors import InputError, NonFiniteError, ShapeError
from embedworks.index.fusion import convex_combination, reciprocal_rank_fusion, standardize

rankings = st.lists(st.lists(st.integers(0, 20), unique=True, max_size=8), max_size=4)


@given(rankings, st.sampled_from([0.0, 10.0, 60.0]), st.data())
def test_reciprocal_rank_fusion_equals_a_loop(lists, k, data):
    weights = data.draw(
        st.none()
        | st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=len(lists), max_size=len(lists))
    )
    expected = {}
    for number, ranking in enumerate(lists):
        for rank, item in enumerate(ranking, start=1):
            weight = 1.0 if weights is None else weights[number]
            expected[item] = expected.get(item, 0.0) + weight / (k + rank)
    arrays = [np.array(ranking, dtype=np.int64) for ranking in lists]
    ids, scores = reciprocal_rank_fusion(arrays, k=k, weights=weights)
    assert set(ids.tolist()) == set(expected)
    np.testing.assert_allclose(scores, [expected[i] for i in ids.tolist()])
    pairs = list(zip(-scores, ids, strict=True))
    assert pairs == sorted(pairs)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=1, max_size=9))
def test_convex_combination_equals_a_loop(pairs):
    left, right = np.array(pairs, dtype=float).T
    found = convex_combination([left, right], weights=[1, 3])
    for row in range(len(pairs)):
        expected = 0.0
        for weight, values in ((0.25, left), (0.75, right)):
            if values.std() > 0:
                expected += weight * (values[row] - values.mean()) / values.std()
        assert found[row] == pytest.approx(expected, abs=1e-12)


def test_standardize_with_given_moments():
    np.testing.assert_allclose(standardize(np.array([3.0]), mean=1.0, deviation=2.0), [1.0])
    np.testing.assert_array_equal(standardize(np.array([3.0, 3.0])), [0.0, 0.0])
    assert len(standardize(np.empty(0))) == 0


def test_bad_input():
    with pytest.raises(InputError, match="same id twice"):
        reciprocal_rank_fusion([np.array([1, 1])])
    with pytest.raises(ShapeError, match="one dimension"):
        reciprocal_rank_fusion([np.ones((2, 2), int)])
    with pytest.raises(InputError, match="2 rankings need 2 weights"):
        reciprocal_rank_fusion([np.array([1]), np.array([2])], weights=[1.0])
    with pytest.raises(InputError, match="each weight"):
        reciprocal_rank_fusion([np.array([1])], weights=[-1.0])
    with pytest.raises(InputError, match="k must"):
        reciprocal_rank_fusion([np.array([1])], k=-1)
    with pytest.raises(InputError, match="Nothing to fuse"):
        convex_combination([])
    with pytest.raises(InputError, match="Nothing to fuse"):
        convex_combination([np.ones(2)], weights=[0.0])
    with pytest.raises(ShapeError, match=r"\(2,\), \(3,\)"):
        convex_combination([np.ones(2), np.ones(3)])
    with pytest.raises(NonFiniteError):
        convex_combination([np.array([1.0, np.nan])])
