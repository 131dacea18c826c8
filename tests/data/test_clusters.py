"""Clusters against brute force, planted groups and unusable vectors."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.data import (
    balanced_kmeans,
    choose_cluster_count,
    clusters,
    draw_per_cluster,
    kmeans,
)
from embedworks.errors import EmptyInputError, InputError, NonFiniteError, ShapeError


def blobs(count, per, dim=6, spread=0.1, seed=0):
    rng = np.random.default_rng(seed)
    centers = 4 * rng.normal(size=(count, dim))
    truth = np.repeat(np.arange(count), per)
    order = rng.permutation(len(truth))
    return (centers[truth] + spread * rng.normal(size=(len(truth), dim)))[order], truth[order]


def same_partition(one, two):
    pairs = set(zip(one.tolist(), two.tolist(), strict=True))
    return len(pairs) == len(set(one.tolist())) == len(set(two.tolist()))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.data())
def test_sizes_differ_by_at_most_one(count, data):
    k = data.draw(st.integers(1, count))
    dim = data.draw(st.integers(1, 4))
    vectors = np.random.default_rng(count).integers(0, 4, size=(count, dim)).astype(float)
    found = balanced_kmeans(vectors, k, seed=k)
    assert np.ptp(found.sizes) <= 1
    assert found.sizes.sum() == count
    plain = kmeans(vectors, k, seed=k)
    assert plain.sizes.min() >= 1
    for result in (found, plain):
        slow = sum(
            ((vectors[result.of_row == c] - vectors[result.of_row == c].mean(axis=0)) ** 2).sum()
            for c in range(k)
        )
        assert result.inertia == pytest.approx(slow, abs=1e-3)


def test_planted_groups_are_found():
    vectors, truth = blobs(7, 20)
    for found in (kmeans(vectors, 7, seed=1), balanced_kmeans(vectors, 7, seed=1)):
        assert same_partition(found.of_row, truth)
    again = balanced_kmeans(vectors, 7, seed=1)
    np.testing.assert_array_equal(again.of_row, found.of_row)


def test_balance_costs_little_more_than_the_best_balanced_partition():
    rng = np.random.default_rng(3)
    ratios = []
    for _ in range(20):
        vectors = rng.normal(size=(8, 2))
        costs = []
        for others in combinations(range(1, 8), 3):
            left = np.isin(np.arange(8), (0, *others))
            parts = vectors[left], vectors[~left]
            costs.append(sum(((part - part.mean(axis=0)) ** 2).sum() for part in parts))
        ratios.append(balanced_kmeans(vectors, 2).inertia / min(costs))
    assert np.mean(ratios) < 1.3


def test_many_clusters_are_found_by_halves(monkeypatch):
    vectors, _ = blobs(16, 30, dim=8)
    monkeypatch.setattr(clusters, "_MAX_DISTANCES", 1000)
    found = balanced_kmeans(vectors, 16)
    assert (found.sizes == 30).all()
    center = vectors.mean(axis=0)
    assert found.inertia < 0.4 * ((vectors - center) ** 2).sum()
    assert np.ptp(balanced_kmeans(vectors, 37).sizes) <= 1


def test_the_gap_statistic_counts_groups():
    for count in (2, 4):
        vectors, _ = blobs(count, 40, dim=60, seed=count)
        found = choose_cluster_count(vectors, range(1, 8), references=5)
        assert found.k == count
        assert found.found
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(200, 5))
    assert choose_cluster_count(noise, range(1, 6), pca_dim=None).k == 1
    one = choose_cluster_count(noise, [3])
    assert (one.k, one.found) == (3, False)


def test_draws_are_even_without_repeats():
    of_row = np.repeat([5, 7, 9], [50, 8, 20])
    drawn = draw_per_cluster(of_row, seed=1)
    assert np.unique(of_row[drawn], return_counts=True)[1].tolist() == [8, 8, 8]
    assert len(set(drawn.tolist())) == 24
    np.testing.assert_array_equal(drawn, draw_per_cluster(of_row, seed=1))
    assert drawn.tolist() != draw_per_cluster(of_row, seed=2).tolist()
    assert len(draw_per_cluster(of_row, 3)) == 9
    with pytest.raises(InputError, match="cluster 7 has 8"):
        draw_per_cluster(of_row, 9)


def test_unusable_input_is_refused():
    with pytest.raises(InputError, match="between 1 and the 3 vectors"):
        balanced_kmeans(np.eye(3), 4)
    with pytest.raises(NonFiniteError, match="row 1"):
        kmeans(np.array([[0.0], [np.nan]]), 1)
    with pytest.raises(InputError, match="all vectors are equal"):
        choose_cluster_count(np.ones((30, 2)), [1, 2])
    with pytest.raises(InputError, match="ascending"):
        choose_cluster_count(np.eye(3), [2, 1])
    with pytest.raises(ShapeError):
        draw_per_cluster(np.zeros((2, 2), int))
    with pytest.raises(EmptyInputError):
        draw_per_cluster(np.zeros(0, int))
    same = balanced_kmeans(np.ones((10, 3)), 3)
    assert sorted(same.sizes.tolist()) == [3, 3, 4]
