"""The scan of chosen rows against a sum in float64."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.index.filtered._kernels import best_of_rows


def exactly(vectors, query, chosen, k):
    scores = np.array([sum(float(a) * float(b) for a, b in zip(vectors[row], query, strict=True))
                       for row in chosen]).astype(np.float32)  # fmt: skip
    order = np.lexsort((chosen, -scores))[:k]
    return chosen[order], scores[order]


@pytest.mark.parametrize("kinds", [1, 3, 400])
@pytest.mark.parametrize("k", [1, 10, 300])
def test_the_best_rows_are_found_in_order_among_equal_ones_too(kinds, k):
    rng = np.random.default_rng(kinds)
    vectors = rng.normal(size=(kinds, 19)).astype(np.float32)[rng.integers(0, kinds, 900)]
    vectors += rng.choice([0, 1e-7], vectors.shape).astype(np.float32)  # rounding decides
    query = rng.normal(size=19).astype(np.float32)
    chosen = rng.permutation(900)[:300].astype(np.int32)
    found = np.empty(k, dtype=np.int64), np.empty(k, dtype=np.float32)
    margin = np.float32(2 * 23 * 2.0**-24 * np.linalg.norm(query) * 10)
    best_of_rows(vectors, query, chosen, margin, *found)
    rows, scores = exactly(vectors, query, chosen, k)
    np.testing.assert_array_equal(found[0], rows)
    np.testing.assert_array_equal(found[1], scores)


def test_nothing_is_wanted_of_no_rows():
    beside = np.full(2, 7, dtype=np.int64), np.full(2, 7, dtype=np.float32)
    vectors, no_rows = np.ones((2, 3), dtype=np.float32), np.empty(0, dtype=np.int32)
    best_of_rows(vectors, vectors[0], no_rows, 0.0, *(part[:0] for part in beside))
    assert [part.tolist() for part in beside] == [[7, 7], [7, 7]]
