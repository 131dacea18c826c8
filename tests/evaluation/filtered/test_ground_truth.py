"""The answer key against loops, and what it says of answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from embedworks.errors import InputError, NonFiniteError, ShapeError
from embedworks.evaluation.filtered.ground_truth import exact_filtered, filter_correlation


def by_loops(vectors, query, mask, k):
    """Score every row in float64 and sort by (-score, row)."""
    scored = []
    for row, vector in enumerate(vectors):
        if mask[row]:
            score = sum(float(a) * float(b) for a, b in zip(vector, query, strict=True))
            scored.append((-score, row))
    return [row for _, row in sorted(scored)[:k]]


@pytest.mark.parametrize("share", [1.0, 0.5, 0.02, 0.0])
def test_equals_loops(share, monkeypatch):
    monkeypatch.setattr("embedworks.evaluation.filtered.ground_truth._BLOCK", 37)
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(200, 6)).astype(np.float32)
    queries = rng.normal(size=(5, 6)).astype(np.float32)
    masks = rng.random((5, 200)) < share
    truth = exact_filtered(vectors, queries, masks, 7)
    for number in range(5):
        expected = by_loops(vectors, queries[number], masks[number], 7)
        assert truth.rows[number].tolist() == expected
        assert truth.matching[number] == masks[number].sum()
        found = truth.judge(number, truth.rows[number], vectors, queries[number])
        assert (found.recall, found.wrong, found.missing) == (1.0, 0, 0)


def test_copies_of_a_vector_cost_no_recall():
    vectors = np.repeat(np.eye(2, dtype=np.float32), 4, axis=0)
    truth = exact_filtered(vectors, vectors[:1], np.ones((1, 8), dtype=bool), 2)
    assert truth.rows[0].tolist() == [0, 1]
    assert truth.judge(0, np.array([3, 2]), vectors, vectors[0]).recall == 1.0
    assert truth.judge(0, np.array([3, 4]), vectors, vectors[0]).recall == 0.5


def test_wrong_rows_are_counted():
    vectors = np.eye(4, dtype=np.float32)
    truth = exact_filtered(vectors, vectors[:1], np.array([[True, True, False, False]]), 3)
    repeated = truth.judge(0, np.array([0, 0, 2]), vectors, vectors[0])
    assert (repeated.recall, repeated.wrong, repeated.missing) == (0.5, 2, 1)
    padded = truth.judge(0, np.array([0, 1, -1]), vectors, vectors[0])
    assert (padded.recall, padded.wrong, padded.missing) == (1.0, 0, 0)
    outside = truth.judge(0, np.array([0, 99]), vectors, vectors[0])
    assert (outside.wrong, outside.missing) == (1, 1)


def test_nothing_matches():
    vectors = np.eye(2, dtype=np.float32)
    truth = exact_filtered(vectors, vectors[:1], np.zeros((1, 2), dtype=bool), 3)
    assert truth.judge(0, np.array([], dtype=np.int64), vectors, vectors[0]).recall == 1.0
    assert truth.judge(0, np.array([1]), vectors, vectors[0]).recall == 0.0


def test_correlation_equals_all_subsets():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(9, 3))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    query = vectors[4]
    distances = [1 - float(np.dot(v.astype(np.float64), query)) for v in vectors]
    for size in (1, 3, 9):
        subsets = list(itertools.combinations(range(9), size))
        expected = sum(min(distances[i] for i in s) for s in subsets) / len(subsets)
        chosen = subsets[len(subsets) // 2]
        mask = np.isin(np.arange(9), chosen)
        wanted = expected - min(distances[i] for i in chosen)
        assert filter_correlation(vectors, query, mask) == pytest.approx(wanted, abs=1e-6)


def test_mistakes_are_named():
    vectors = np.eye(3, dtype=np.float32)
    with pytest.raises(ShapeError, match=r"\(1, 3\)"):
        exact_filtered(vectors, vectors[:1], np.ones((2, 3), dtype=bool), 1)
    with pytest.raises(NonFiniteError):
        exact_filtered(vectors * np.nan, vectors[:1], np.ones((1, 3), dtype=bool), 1)
    with pytest.raises(InputError, match="rows that pass"):
        filter_correlation(vectors, vectors[0], np.zeros(3, dtype=bool))
    with pytest.raises(ShapeError):
        filter_correlation(vectors, vectors[0], np.ones(2, dtype=bool))
