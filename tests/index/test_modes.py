"""Search modes: invariants over all of them, and hybrid against a slow version."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import InputError, SettingsError, UnknownNameError
from embedworks.index.bm25 import BM25Index
from embedworks.index.exact import ExactIndex
from embedworks.index.feedback import expand_terms, rank_weights, rocchio
from embedworks.index.modes import FUSIONS, SEARCH_MODES, HybridSettings, Queries, Searchable

WORDS = ["file", "open", "socket", "close", "path", "read", "write", "the", "is"]


def corpus(seed, total, dim=5):
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(0, 9))) for _ in range(total)]
    vectors = rng.standard_normal((total, dim)).astype(np.float32)
    if total > 4:  # exact duplicates make exact ties
        texts[3], vectors[3] = texts[1], vectors[1]
    return texts, vectors, rng


@given(
    mode=st.sampled_from(SEARCH_MODES.names()),
    seed=st.integers(0, 1000),
    total=st.integers(0, 30),
    k=st.integers(1, 40),
    share=st.sampled_from([None, 0.0, 0.2, 0.9]),
    fusion=st.sampled_from(FUSIONS),
)
@settings(max_examples=100, deadline=None)
def test_invariants(mode, seed, total, k, share, fusion):
    texts, vectors, rng = corpus(seed, total)
    mask = None if share is None else rng.random(total) < share
    chosen = HybridSettings(fusion=fusion)
    searchable = Searchable(ExactIndex(vectors), BM25Index.build(texts), chosen)
    queries = Queries(["open file", "the", "zebra"], rng.standard_normal((3, 5)))
    results = SEARCH_MODES[mode].run(searchable, queries, k, mask)
    matching = total if mask is None else int(mask.sum())
    assert len(results) == 3
    for ids, scores in results:
        assert scores.dtype == np.float32
        assert len(ids) == len(scores) == len(set(ids.tolist()))
        assert len(ids) <= min(k, matching) if mode == "bm25" else len(ids) == min(k, matching)
        assert mask is None or mask[ids].all()
        pairs = list(zip(-scores, ids, strict=True))
        assert pairs == sorted(pairs)


@pytest.mark.parametrize("feedback_rows", [0, 3])
def test_hybrid_equals_its_formula(feedback_rows):
    texts, vectors, rng = corpus(1, 40)
    bm25, dense = BM25Index.build(texts), ExactIndex(vectors)
    settings_ = HybridSettings(bm25_weight=0.3, feedback_rows=feedback_rows, feedback_terms=4)
    query, vector = "open the socket path", rng.standard_normal(5).astype(np.float32)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def fuse(terms, direction):
        lexical, semantic = bm25.row_scores(terms), units @ direction
        found = lexical[lexical > 0]
        lexical = (lexical - found.mean()) / max(found.std(), 0.25 * found.mean())
        return 0.3 * lexical + 0.7 * (semantic - semantic.mean()) / semantic.std()

    terms, direction = bm25.query_terms(query), vector / np.linalg.norm(vector)
    scores = fuse(terms, direction)
    if feedback_rows:
        best = np.argsort(-scores, kind="stable")[:feedback_rows]
        weights = rank_weights(feedback_rows)
        terms = expand_terms(
            terms,
            [bm25.row_profile(row) for row in best],
            weights=weights,
            idf=bm25.arrays["idf"],
            terms=4,
        )
        scores = fuse(terms, rocchio(direction, units[best], weights=weights))
    searchable = Searchable(dense, bm25, settings_)
    ids, found = SEARCH_MODES["hybrid"].run(searchable, Queries([query], vector[None]), 40, None)[0]
    np.testing.assert_allclose(found, scores[ids], atol=1e-4)
    assert np.corrcoef(np.argsort(-scores, kind="stable"), ids)[0, 1] > 0.99


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("fusion", ["linear", "rrf"])
def test_other_fusions_equal_their_formulas(fusion, masked):
    texts, vectors, rng = corpus(4, 40)
    bm25, dense = BM25Index.build(texts), ExactIndex(vectors)
    mask = rng.random(40) < 0.5 if masked else np.ones(40, dtype=bool)
    query, vector = "open the socket path", rng.standard_normal(5).astype(np.float32)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    lexical = bm25.row_scores(bm25.query_terms(query)).astype(np.float64)
    semantic = (units @ (vector / np.linalg.norm(vector))).astype(np.float64)
    rows = np.flatnonzero(mask)
    if fusion == "linear":
        expected = 0.3 * lexical / lexical.max() + 0.7 * (semantic + 1) / 2
    else:
        expected = np.zeros(40)
        for weight, scores in ((0.3, lexical), (0.7, semantic)):
            order = sorted(rows, key=lambda row: (-np.float32(scores[row]), row))
            for rank, row in enumerate(order, start=1):
                if scores is semantic or scores[row] > 0:
                    expected[row] += weight / (60 + rank)
    chosen = HybridSettings(bm25_weight=0.3, feedback_rows=0, fusion=fusion)
    run = SEARCH_MODES["hybrid"].run
    given_mask = mask if masked else None
    ids, found = run(
        Searchable(dense, bm25, chosen), Queries([query], vector[None]), 9, given_mask
    )[0]
    np.testing.assert_allclose(found, np.sort(expected[rows])[::-1][:9], atol=1e-5)
    np.testing.assert_allclose(found, expected[ids], atol=1e-5)
    assert mask[ids].all()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_hybrid_does_not_depend_on_batch_or_k(fusion):
    texts, vectors, rng = corpus(2, 300, dim=32)
    chosen = HybridSettings(fusion=fusion)
    searchable = Searchable(ExactIndex(vectors), BM25Index.build(texts), chosen)
    asked = rng.standard_normal((20, 32)).astype(np.float32)
    questions = [" ".join(rng.choice(WORDS, 3)) for _ in range(20)]
    run = SEARCH_MODES["hybrid"].run
    together = run(searchable, Queries(questions, asked), 300, None)
    for number in range(20):
        alone = run(searchable, Queries(questions[number : number + 1], asked[[number]]), 9, None)
        np.testing.assert_array_equal(alone[0][0], together[number][0][:9])
        np.testing.assert_array_equal(alone[0][1], together[number][1][:9])


def test_feedback_reads_only_rows_that_match():
    texts, vectors, _ = corpus(3, 20)
    other = vectors.copy()
    other[10:] = other[10:][::-1]
    mask = np.arange(20) < 10
    queries = Queries(["open file"], vectors[:1])
    hybrid = SEARCH_MODES["hybrid"].run
    bm25 = BM25Index.build(texts)
    left = hybrid(Searchable(ExactIndex(vectors), bm25), queries, 10, mask)[0]
    right = hybrid(Searchable(ExactIndex(other), bm25), queries, 10, mask)[0]
    np.testing.assert_array_equal(left[0], right[0])


def test_missing_parts_are_named():
    texts, vectors, _ = corpus(0, 5)
    searchable = Searchable(ExactIndex(vectors), BM25Index.build(texts))
    for mode in ("dense", "hybrid"):
        with pytest.raises(InputError, match="encoder="):
            SEARCH_MODES[mode].run(searchable, Queries(["x"], None), 1, None)
    for mode in ("bm25", "hybrid"):
        with pytest.raises(InputError, match="mode='dense'"):
            SEARCH_MODES[mode].run(searchable, Queries(None, vectors[:1]), 1, None)
    with pytest.raises(UnknownNameError, match="hybrid"):
        SEARCH_MODES["hybird"]


def test_every_mode_explains_itself():
    texts, vectors, _ = corpus(0, 5)
    searchable = Searchable(ExactIndex(vectors), BM25Index.build(texts))
    for mode in SEARCH_MODES:
        assert SEARCH_MODES.summary(mode).startswith("Rank by")
        assert all(SEARCH_MODES[mode].plan(searchable, 5, None))


def test_settings_are_checked_and_round_trip():
    settings_ = HybridSettings(bm25_weight=0.35, feedback_rows=0, fusion="rrf")
    assert HybridSettings.from_dict(settings_.to_dict()) == settings_
    for name, value in [("bm25_weight", 1.5), ("feedback_rows", -1), ("original_weight", 2)]:
        with pytest.raises(InputError, match=name):
            HybridSettings(**{name: value})
    with pytest.raises(UnknownNameError, match="'rrf'"):
        HybridSettings(fusion="rff")
    with pytest.raises(SettingsError, match="bm25_weight"):
        HybridSettings.from_dict({"bm25_wieght": 1})
