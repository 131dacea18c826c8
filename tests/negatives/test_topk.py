from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.negatives._topk import pair_scores, top_k


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000))
def test_equals_sorting_everything(seed):
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(1, 5), rng.integers(1, 300)
    k = int(rng.integers(1, 12))
    scores = rng.integers(0, rng.integers(2, 40), (rows, columns)).astype(np.float32)
    scores[rng.random((rows, columns)) < rng.choice([0.0, 0.3, 1.0])] = -np.inf
    expected = []
    for row in scores:
        order = sorted((i for i in range(columns) if row[i] > -np.inf), key=lambda i: (-row[i], i))
        expected.append((order[:k] + [-1] * k)[:k])
    np.testing.assert_array_equal(top_k(scores, k), expected)


def test_pair_scores_skip_absent_pairs_and_tie_exactly():
    rng = np.random.default_rng(0)
    left = rng.normal(size=(3, 37)).astype(np.float32)
    right = rng.normal(size=(9, 37)).astype(np.float32)
    right[5] = right[1]
    positions = np.array([[1, 5, -1], [0, -1, 8], [5, 1, 1]])
    scores = pair_scores(left, right, positions)
    assert scores[0, 0] == scores[0, 1]
    assert scores[0, 2] == -np.inf
    np.testing.assert_allclose(scores[1, 2], left[1] @ right[8], rtol=1e-5)
