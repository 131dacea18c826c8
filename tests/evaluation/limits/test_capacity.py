"""Bounds against published figures, constructions against the definition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import (
    BudgetError,
    DataWarning,
    EmptyInputError,
    InputError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
)
from embedworks.evaluation.limits import (
    CRITICAL_N,
    all_subsets,
    critical_n_fit,
    cyclic_polytope_embeddings,
    cyclic_polytope_queries,
    margin_ceiling,
    max_subsets,
    min_dimension,
    random_subsets,
    verify_subsets,
)


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (10**3, {2: 6, 10: 23, 100: 135}),
        (10**5, {2: 10, 10: 42, 100: 329, 1000: 2334}),
        (10**7, {2: 14, 10: 61, 100: 521, 1000: 4257}),
        (10**9, {2: 17, 10: 81, 100: 713, 1000: 6177}),
    ],
)
def test_least_dimensions_are_the_published_ones(n, expected):
    assert {k: min_dimension(n, k, 0.1) for k in expected} == expected


@given(st.integers(2, 60), st.data(), st.sampled_from([0.01, 0.1, 0.3, 0.5, 1.0]))
def test_the_least_dimension_is_exact(n, data, margin):
    k = data.draw(st.integers(1, n - 1))
    d = min_dimension(n, k, margin)
    assert max_subsets(d, margin) >= math.comb(n, k)
    assert d == 1 or max_subsets(d - 1, margin) < math.comb(n, k)


def test_large_dimensions_do_not_overflow():
    assert max_subsets(4096, 0.1) == 11**4096


@pytest.mark.parametrize("margin", [0, -0.1, 1.5, float("nan")])
def test_a_margin_has_a_range(margin):
    with pytest.raises(InputError, match="margin"):
        min_dimension(10, 2, margin)


@pytest.mark.parametrize("k", [3, 4])
def test_k_is_below_n(k):
    for ask in (margin_ceiling, all_subsets, cyclic_polytope_embeddings):
        with pytest.raises(InputError, match="k must be below"):
            ask(3, k)


@pytest.mark.parametrize(("n", "k"), [(3, 1), (6, 2), (7, 3), (46, 2)])
def test_a_simplex_reaches_the_margin_ceiling(n, k):
    simplex = np.eye(n) - 1 / n
    simplex /= np.linalg.norm(simplex, axis=1, keepdims=True)
    subsets = all_subsets(n, k)
    queries = simplex[subsets].sum(axis=1)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    check = verify_subsets(simplex, queries, subsets)
    assert check.smallest_gap == pytest.approx(2 * margin_ceiling(n, k))
    assert check.median_gap == pytest.approx(check.smallest_gap)


def test_random_vectors_stay_below_the_margin_ceiling():
    rng = np.random.default_rng(0)
    documents = rng.normal(size=(8, 30))
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    subsets = all_subsets(8, 2)
    queries = documents[subsets].sum(axis=1)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    assert verify_subsets(documents, queries, subsets).smallest_gap < 2 * margin_ceiling(8, 2)


def test_the_fit_is_near_the_table_and_warns_outside():
    gaps = [abs(critical_n_fit(d) - n) / n for d, n in CRITICAL_N.items() if 5 <= d <= 40]
    assert max(gaps) < 0.2
    with pytest.warns(DataWarning, match="extrapolates"):
        assert critical_n_fit(1024) == pytest.approx(4e6, rel=0.05)
    with pytest.warns(DataWarning):
        critical_n_fit(3)


def test_subsets_are_listed_or_drawn():
    assert all_subsets(6, 3).tolist() == [list(s) for s in itertools.combinations(range(6), 3)]
    drawn = random_subsets(1000, 5, 200, seed=1)
    assert drawn.shape == (200, 5)
    assert len({tuple(row) for row in drawn.tolist()}) == 200
    assert (np.diff(drawn, axis=1) > 0).all()
    assert (random_subsets(1000, 5, 200, seed=1) == drawn).all()
    with pytest.raises(InputError, match="There are 6 sets"):
        random_subsets(4, 2, 7, seed=0)
    with pytest.raises(BudgetError, match="random_subsets"):
        all_subsets(10_000, 2)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 4), st.booleans(), st.data())
def test_the_construction_serves_every_subset(k, unit_norm, data):
    n = data.draw(st.integers(k + 1, 14 if k < 4 else 10))
    documents = cyclic_polytope_embeddings(n, k, unit_norm=unit_norm)
    subsets = all_subsets(n, k)
    queries = cyclic_polytope_queries(subsets, n, unit_norm=unit_norm)
    assert documents.shape == (n, 2 * k)
    assert queries.shape == (len(subsets), 2 * k)
    if unit_norm:
        assert np.allclose(np.linalg.norm(documents, axis=1), 1)
    assert np.allclose(np.linalg.norm(queries, axis=1), 1)
    assert verify_subsets(documents, queries, subsets).wrong == 0


def test_the_queries_are_the_formula_for_pairs():
    n, (a, b) = 46, (3, 17)
    s, t = 2 * np.pi * a / n, 2 * np.pi * b / n
    expected = np.array(
        [np.cos(s) + np.cos(t), np.sin(s) + np.sin(t), -np.cos(s + t) / 2, -np.sin(s + t) / 2]
    )
    found = cyclic_polytope_queries([[a, b]], n)[0]
    assert found == pytest.approx(expected / np.linalg.norm(expected))


def test_four_dimensions_are_ended_by_precision_not_by_geometry():
    wrong = {}
    for n in (46, 200):
        documents, subsets = cyclic_polytope_embeddings(n, 2), all_subsets(n, 2)
        queries = cyclic_polytope_queries(subsets, n)
        for dtype in ("float64", "float32", "float16"):
            check = verify_subsets(documents, queries, subsets, dtype=dtype)
            wrong[n, dtype] = check.wrong
            if dtype == "float64":
                gap = {46: 3.0e-5, 200: 8.4e-8}[n]
                assert check.smallest_gap == pytest.approx(gap, rel=0.02)
    assert wrong[46, "float64"] == wrong[46, "float32"] == wrong[200, "float64"] == 0
    # How many are lost depends on the order of additions and on how ties are counted.
    assert 80 <= wrong[46, "float16"] <= 250
    assert 4 <= wrong[200, "float32"] <= 200


def test_verification_is_the_definition():
    rng = np.random.default_rng(3)
    documents, queries = rng.normal(size=(7, 3)), rng.normal(size=(21, 3))
    subsets = all_subsets(7, 2)
    gaps = []
    for query, chosen in zip(queries, subsets.tolist(), strict=True):
        scores = [sum(x * y for x, y in zip(query, doc, strict=True)) for doc in documents]
        rest = [s for i, s in enumerate(scores) if i not in chosen]
        gaps.append(min(scores[i] for i in chosen) - max(rest))
    check = verify_subsets(documents, queries, subsets)
    assert check.realised == sum(gap > 0 for gap in gaps)
    assert check.wrong == check.total - check.realised
    assert check.smallest_gap == pytest.approx(min(gaps))
    assert check.median_gap == pytest.approx(np.median(gaps))
    assert check.to_dict()["share"] == check.realised / 21


def test_a_tie_does_not_count():
    check = verify_subsets(np.ones((3, 2)), np.ones((1, 2)), [[0]])
    assert (check.realised, check.smallest_gap) == (0, 0.0)


def test_bad_input_is_named():
    documents, queries = np.eye(3), np.eye(3)
    with pytest.raises(ShapeError, match="one D"):
        verify_subsets(documents, np.eye(2), [[0]])
    with pytest.raises(ShapeError, match="one each"):
        verify_subsets(documents, queries, [[0]])
    with pytest.raises(InputError, match=r"\[0, 2\]"):
        verify_subsets(documents, queries, [[0], [1], [3]])
    with pytest.raises(InputError, match="twice"):
        verify_subsets(documents, queries, [[0, 1], [1, 2], [2, 2]])
    with pytest.raises(ShapeError, match="one size"):
        verify_subsets(documents, queries, [[0], [1, 2], [2]])
    with pytest.raises(EmptyInputError):
        verify_subsets(documents, queries, [])
    with pytest.raises(NonFiniteError, match="float16"):
        verify_subsets(documents * 1e6, queries, [[0], [1], [2]], dtype="float16")
    with pytest.raises(UnknownNameError, match="bfloat16"):
        verify_subsets(documents, queries, [[0], [1], [2]], dtype="bfloat16")
