from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks._core.validation import normalize_rows
from embedworks.errors import InputError, NonFiniteError, ShapeError
from embedworks.negatives import mine_hard_negatives


def slow_mine(queries, corpus, positives, groups, count, depth, margin):
    """One query at a time, sorting everything."""
    result = []
    for query, own in zip(queries, positives, strict=True):
        scores = [float(np.float32(query @ document)) for document in corpus]
        order = sorted(range(len(corpus)), key=lambda i: (-scores[i], i))[:depth]
        kept = [
            i
            for i in order
            if groups[i] != groups[own] and scores[i] < margin * scores[own] and scores[own] > 0
        ]
        result.append((kept + [-1] * count)[:count])
    return np.array(result).reshape(len(queries), count)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_equals_the_slow_loop(seed):
    rng = np.random.default_rng(seed)
    n, m, dim = rng.integers(1, 6), rng.integers(1, 12), 4
    # Multiples of 1/8 are exact in float32, whatever the order of additions.
    queries = rng.integers(-4, 5, (n, dim)).astype(np.float32) / 8
    corpus = rng.integers(-4, 5, (m, dim)).astype(np.float32) / 8
    positives = rng.integers(0, m, n)
    groups = rng.integers(0, 4, m)
    options = {
        "count": int(rng.integers(1, 4)),
        "depth": int(rng.integers(1, 15)),
        "margin": float(rng.choice([0.5, 1.0])),
    }
    mined = mine_hard_negatives(queries, corpus, positives, groups=groups, block=2, **options)
    scores = queries @ corpus.T
    own = scores[np.arange(n), positives][:, None]
    np.testing.assert_array_equal(mined.positive_ranks, 1 + (scores > own).sum(axis=1))
    expected = slow_mine(queries, corpus, positives, groups, **options)
    np.testing.assert_array_equal(mined.positions, expected)


def test_invariants_hold_on_random_vectors():
    rng = np.random.default_rng(0)
    corpus = normalize_rows(rng.normal(size=(200, 8)))
    positives = rng.integers(0, 200, 50)
    queries = normalize_rows(corpus[positives] + 0.3 * rng.normal(size=(50, 8)))
    groups = np.arange(200) // 2
    mined = mine_hard_negatives(queries, corpus, positives, groups=groups, count=3)
    for row, own in zip(range(50), positives, strict=True):
        found = mined.positions[row][mined.positions[row] >= 0]
        scores = corpus[found] @ queries[row]
        assert (scores < 0.95 * (corpus[own] @ queries[row])).all()
        assert (np.diff(scores) <= 0).all()
        assert (groups[found] != groups[own]).all()
    figures = mined.to_dict()
    assert figures["candidates"] == 50 * 50
    assert figures["queries_without_negative"] == (mined.positions[:, 0] < 0).sum()


def test_bad_input_is_explained():
    vectors = np.eye(3, dtype=np.float32)
    with pytest.raises(ShapeError, match="one per query"):
        mine_hard_negatives(vectors, vectors, np.array([0]))
    with pytest.raises(InputError, match="positions in a corpus of 3"):
        mine_hard_negatives(vectors, vectors, np.array([0, 1, 3]))
    with pytest.raises(ShapeError, match="one per document"):
        mine_hard_negatives(vectors, vectors, np.arange(3), groups=np.zeros(2))
    with pytest.raises(InputError, match="margin"):
        mine_hard_negatives(vectors, vectors, np.arange(3), margin=0)
    with pytest.raises(NonFiniteError, match="queries contain NaN"):
        mine_hard_negatives(vectors * np.nan, vectors, np.arange(3))
