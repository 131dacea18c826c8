"""Feedback against the formulas, written as loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedworks.errors import InputError, ShapeError
from embedworks.index.feedback import expand_terms, rank_weights, rocchio


def unit(vector):
    norm = np.sqrt(sum(float(x) ** 2 for x in vector))
    return np.array([x / norm if norm else 0.0 for x in vector])


def test_rank_weights():
    assert rank_weights(0).tolist() == []
    assert rank_weights(1).tolist() == [1.0]
    weights = rank_weights(9)
    assert weights.sum() == pytest.approx(1.0)
    assert weights[0] / weights[3] == pytest.approx(2.0)


@given(st.integers(0, 1000), st.integers(0, 5), st.sampled_from([0.0, 0.3, 1.0]))
def test_rocchio_equals_the_formula(seed, count, share):
    rng = np.random.default_rng(seed)
    query, documents = rng.standard_normal(4), rng.standard_normal((count, 4))
    weights = rank_weights(count)
    centre = unit(sum((w * d for w, d in zip(weights, documents, strict=True)), np.zeros(4)))
    expected = unit(share * unit(query) + (1 - share) * centre)
    found = rocchio(query, documents, weights=weights, original_weight=share)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


profiles = st.lists(
    st.dictionaries(st.integers(0, 9), st.sampled_from([0.5, 1.0, 2.0]), max_size=5), max_size=4
)


@given(profiles, st.integers(1, 6), st.sampled_from([0.0, 0.5, 1.0]))
def test_expand_terms_equals_the_formula(bags, terms, share):
    idf = np.linspace(0.5, 3.0, 10)
    query = {0: 1.0, 7: 2.0}
    weights = rank_weights(len(bags))
    strength = {}
    for weight, bag in zip(weights, bags, strict=True):
        length = np.sqrt(sum(v**2 for v in bag.values()))
        for term, value in bag.items():
            strength[term] = strength.get(term, 0.0) + weight * value / length
    documents = [(np.array(sorted(b), np.int64), np.array([b[t] for t in sorted(b)])) for b in bags]
    found = expand_terms(
        query, documents, weights=weights, idf=idf, terms=terms, original_weight=share
    )
    if not strength:
        assert found == query
        return
    assert sum(found.values()) == pytest.approx(3.0)
    ordered = sorted(strength, key=lambda t: (-round(strength[t], 12), t))[:terms]
    if len({round(v, 9) for v in strength.values()}) == len(strength):  # no ties to break
        added = {t: strength[t] / idf[t] for t in ordered}
        total = sum(added.values())
        for term in set(query) | set(added):
            expected = share * query.get(term, 0) + (1 - share) * 3.0 * added.get(term, 0) / total
            assert found[term] == pytest.approx(expected)


def test_a_query_without_known_terms_gains_some():
    found = expand_terms(
        {}, [(np.array([3]), np.array([2.0]))], weights=np.ones(1), idf=np.zeros(4)
    )
    assert found == {3: 0.5}


def test_bad_input():
    with pytest.raises(ShapeError, match="do not fit"):
        rocchio(np.ones(2), np.ones((1, 3)), weights=np.ones(1))
    with pytest.raises(InputError, match="original_weight"):
        rocchio(np.ones(2), np.ones((1, 2)), weights=np.ones(1), original_weight=2)
    with pytest.raises(ShapeError, match="as many weights"):
        expand_terms({1: 1.0}, [], weights=np.ones(1), idf=np.ones(2))
    with pytest.raises(InputError, match="terms must"):
        expand_terms({1: 1.0}, [], weights=np.ones(0), idf=np.ones(2), terms=0)
