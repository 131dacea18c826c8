"""Exact search against a slow loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import InputError, NonFiniteError, ShapeError, UnknownNameError
from embedworks.index import exact
from embedworks.index.exact import ExactIndex, topk


def slow(query, vectors, k, mask, similarity):
    """Rank all rows by float64 sums; returns [(row, score)]."""
    scored = []
    for row, vector in enumerate(vectors.astype(float)):
        if mask is not None and not mask[row]:
            continue
        score = math.fsum(q * v for q, v in zip(query.astype(float), vector, strict=True))
        if similarity == "cosine":
            lengths = math.hypot(*query) * math.hypot(*vector)
            score = score / lengths if lengths else 0.0
        scored.append((row, score))
    scored.sort(key=lambda item: (-np.float32(item[1]), item[0]))
    return scored[:k]


def check_invariants(ids, scores, k, mask, total):
    matching = total if mask is None else int(mask.sum())
    assert ids.shape == scores.shape == (len(ids), min(k, matching))
    assert ids.dtype == np.int64
    assert scores.dtype == np.float32
    for row_ids, row_scores in zip(ids, scores, strict=True):
        assert len(set(row_ids.tolist())) == len(row_ids)
        assert mask is None or mask[row_ids].all()
        pairs = list(zip(-row_scores, row_ids, strict=True))
        assert pairs == sorted(pairs)


@given(
    seed=st.integers(0, 10_000),
    total=st.integers(0, 60),
    dim=st.integers(1, 9),
    queries=st.integers(0, 4),
    k=st.integers(1, 70),
    share=st.sampled_from([None, 0.0, 0.1, 0.6, 1.0]),
    similarity=st.sampled_from(exact.SIMILARITIES),
    block=st.sampled_from([16, 300, 10**7]),
)
@settings(max_examples=120, deadline=None)
def test_equals_the_slow_loop(seed, total, dim, queries, k, share, similarity, block):
    rng = np.random.default_rng(seed)
    # Few different values: many ties, duplicates and zero vectors.
    vectors = rng.integers(-1, 2, (total, dim)).astype(np.float32)
    asked = rng.integers(-1, 2, (queries, dim)).astype(np.float32)
    mask = None if share is None else rng.random(total) < share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "_BLOCK_BYTES", block)
        index = ExactIndex(vectors, similarity=similarity)
        ids, scores = index.search(asked, k, mask=mask, allow_zero=True)
    check_invariants(ids, scores, k, mask, total)
    for query, row_ids, row_scores in zip(asked, ids, scores, strict=True):
        expected = slow(query, vectors, k, mask, similarity)
        np.testing.assert_allclose(row_scores, [s for _, s in expected], atol=1e-6)
        if similarity == "dot":  # integer sums are exact, so order is too
            assert row_ids.tolist() == [row for row, _ in expected]


@pytest.mark.parametrize("similarity", exact.SIMILARITIES)
def test_result_does_not_depend_on_blocks_masks_or_batch(similarity, monkeypatch):
    rng = np.random.default_rng(0)
    base = rng.standard_normal((300, 48)).astype(np.float32)
    vectors = np.concatenate([base, base[:150], base[:7]])  # exact duplicates: exact ties
    queries = rng.standard_normal((20, 48)).astype(np.float32)
    index = ExactIndex(vectors, similarity=similarity)
    ids, scores = index.search(queries, 40)
    check_invariants(ids, scores, 40, None, len(vectors))
    for block in (5_000, 77_777):
        monkeypatch.setattr(exact, "_BLOCK_BYTES", block)
        for part in (slice(0, 1), slice(3, 9), slice(0, 20)):
            again_ids, again_scores = index.search(queries[part], 40)
            np.testing.assert_array_equal(again_ids, ids[part])
            np.testing.assert_array_equal(again_scores, scores[part])
    for share in (0.05, 0.9):
        mask = rng.random(len(vectors)) < share
        found, values = index.search(queries, 10, mask=mask)
        everything, all_scores = index.search(queries, len(vectors))
        for number in range(len(queries)):
            keep = mask[everything[number]]
            np.testing.assert_array_equal(found[number], everything[number][keep][:10])
            np.testing.assert_array_equal(values[number], all_scores[number][keep][:10])


def test_memory_mapped_vectors(tmp_path):
    vectors = np.random.default_rng(1).standard_normal((50, 8)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    for left, right in zip(topk(vectors[:3], mapped, 5), topk(vectors[:3], vectors, 5)):
        np.testing.assert_array_equal(left, right)


def test_inputs_are_not_changed():
    vectors = np.random.default_rng(1).standard_normal((20, 4)).astype(np.float32)
    queries = vectors[:2].copy()
    before = vectors.copy()
    topk(queries, vectors, 3, mask=np.arange(20) % 2 == 0)
    np.testing.assert_array_equal(vectors, before)
    np.testing.assert_array_equal(queries, before[:2])


def test_other_types_are_accepted_by_topk():
    ids, _ = topk(np.eye(2, dtype=np.float64), np.eye(2, dtype=np.int32), 1)
    assert ids.tolist() == [[0], [1]]


def test_bad_input():
    vectors = np.eye(3, dtype=np.float32)
    nan = vectors.copy()
    nan[1, 1] = np.nan
    with pytest.raises(NonFiniteError, match="first is row 1"):
        topk(nan, vectors, 1)
    with pytest.raises(NonFiniteError, match="1 of 3 rows"):
        topk(vectors, nan, 1)
    with pytest.raises(InputError, match=r"1 of 1 queries are zero vectors"):
        topk(np.zeros((1, 3)), vectors, 1)
    assert topk(np.zeros((1, 3)), vectors, 1, similarity="dot")[0].tolist() == [[0]]
    with pytest.raises(ShapeError, match="another model"):
        topk(np.ones((1, 4)), vectors, 1)
    with pytest.raises(ShapeError, match="mask"):
        topk(vectors, vectors, 1, mask=np.ones(2, bool))
    with pytest.raises(ShapeError, match="mask"):
        topk(vectors, vectors, 1, mask=np.ones(3))
    with pytest.raises(InputError, match="k must be"):
        topk(vectors, vectors, 0)
    with pytest.raises(UnknownNameError, match="cosine"):
        topk(vectors, vectors, 1, similarity="cosin")
    with pytest.raises(ShapeError, match="float32"):
        ExactIndex(np.eye(3))
    with pytest.raises(ShapeError, match="norms"):
        ExactIndex(vectors, norms=np.ones(2))
    with pytest.raises(NonFiniteError, match="overflow"):
        huge = np.full((2, 3), 3e38, dtype=np.float32)
        topk(huge, huge, 1, similarity="dot")


def test_plan_says_what_is_done():
    index = ExactIndex(np.eye(8, dtype=np.float32))
    assert "copy out 1 of 8" in index.plan(1)
    assert "drop those" in index.plan(7)
    assert index.plan(8).endswith("in blocks")
