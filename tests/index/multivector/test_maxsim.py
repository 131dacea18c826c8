"""Exact MaxSim against slow loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import (
    EmptyInputError,
    FormatError,
    InputError,
    NonFiniteError,
    NotFoundError,
    ShapeError,
    UnknownNameError,
)
from embedworks.index.multivector import maxsim as module
from embedworks.index.multivector.maxsim import STORAGES, MaxSimIndex, maxsim
from embedworks.index.multivector.tokens import TokenMatrix


def slow(query, document, similarity):
    """Sum over query tokens of the best document token, one product at a time."""
    total = 0.0
    for one in query.astype(float):
        best = -math.inf
        for other in document.astype(float):
            score = math.fsum(a * b for a, b in zip(one, other, strict=True))
            if similarity == "cosine":
                score /= math.hypot(*one) * math.hypot(*other)
            best = max(best, score)
        total += best
    return total


def ragged(rng, count, dim, most=5):
    return [rng.normal(size=(int(rng.integers(1, most + 1)), dim)) for _ in range(count)]


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 25),
    dim=st.integers(1, 9),
    queries=st.integers(0, 4),
    k=st.integers(1, 30),
    share=st.sampled_from([None, 0.0, 0.2, 0.7, 1.0]),
    similarity=st.sampled_from(["cosine", "dot"]),
    storage=st.sampled_from(STORAGES),
    block=st.sampled_from([16, 300, 10**7]),
    group=st.sampled_from([1, 6, 256]),
)
@settings(max_examples=120, deadline=None)
def test_equals_the_slow_loop(
    seed, count, dim, queries, k, share, similarity, storage, block, group
):
    rng = np.random.default_rng(seed)
    documents, asked = ragged(rng, count, dim), ragged(rng, queries, dim)
    mask = None if share is None else rng.random(count) < share
    index = MaxSimIndex(documents, storage=storage, similarity=similarity)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_BYTES", block)
        patch.setattr(module, "_QUERY_TOKENS", group)
        ids, scores = index.search(asked, k, mask=mask)
    allowed = np.arange(count) if mask is None else np.flatnonzero(mask)
    assert ids.shape == scores.shape == (queries, min(k, len(allowed)))
    assert set(ids.ravel()) <= set(allowed)
    for query, row, found in zip(asked, ids, scores, strict=True):
        # Scores are those of the vectors as they are stored, float16 and int8 not quite of
        # unit length.
        if similarity == "cosine":
            query = query / np.linalg.norm(query, axis=1, keepdims=True)
        kind = similarity if storage == "float32" else "dot"
        exact = {m: slow(query, index.document(m), kind) for m in allowed}
        np.testing.assert_allclose(found, [exact[m] for m in row], rtol=2e-6, atol=2e-6)
        best = sorted(exact.values(), reverse=True)[: len(row)]
        np.testing.assert_allclose(found, best, rtol=2e-6, atol=2e-6)
        assert list(zip(-found, row, strict=True)) == sorted(zip(-found, row, strict=True))


@pytest.mark.parametrize(
    ("storage", "error"), [("float32", 1e-6), ("float16", 1e-3), ("int8", 0.01)]
)
def test_storage_costs_little_accuracy(storage, error):
    rng = np.random.default_rng(1)
    documents = ragged(rng, 30, 16)
    query = rng.normal(size=(4, 16))
    index = MaxSimIndex(documents, storage=storage)
    _, scores = index.search([query], 30)
    truth = sorted((maxsim(query, document) for document in documents), reverse=True)
    assert np.abs(scores[0] - truth).max() < 4 * error
    size = {"float32": 4, "float16": 2, "int8": 1}[storage]
    assert index.memory()["tokens"] == size * 16 * index.offsets[-1]


def test_scores_do_not_depend_on_company():
    rng = np.random.default_rng(2)
    documents, asked = ragged(rng, 200, 24, most=20), ragged(rng, 6, 24, most=12)
    index = MaxSimIndex(documents)
    together = index.search(asked, 200)
    mask = np.zeros(200, dtype=bool)
    mask[5:40] = True
    for number, query in enumerate(asked):
        ids, scores = index.search([query], 200)
        assert (ids[0] == together[0][number]).all()
        assert (scores[0] == together[1][number]).all()
        alone = dict(zip(*(part[0].tolist() for part in index.search([query], 40, mask=mask))))
        assert len(alone) == 35
        all_scores = dict(zip(ids[0].tolist(), scores[0].tolist()))
        assert all(all_scores[m] == score for m, score in alone.items())


def test_equal_documents_rank_by_number():
    document = np.random.default_rng(3).normal(size=(4, 8))
    ids, scores = MaxSimIndex([document] * 7).search([document[:2]], 3)
    assert ids.tolist() == [[0, 1, 2]]
    assert len(set(scores[0].tolist())) == 1


def test_negative_similarities_are_not_padded_away():
    ids, scores = MaxSimIndex([[[-1.0, 0.0]], [[-0.6, 0.8], [-1.0, 0.0]]]).search(
        [np.array([[1.0, 0.0]])], 2
    )
    assert ids.tolist() == [[1, 0]]
    np.testing.assert_allclose(scores, [[-0.6, -1.0]], atol=1e-6)


def test_float16_tokens_are_taken_as_they_are():
    tokens = np.random.default_rng(4).normal(size=(5, 4)).astype(np.float16)
    matrix = TokenMatrix(tokens, np.array([0, 2, 5]))
    index = MaxSimIndex(matrix, storage="float16", similarity="dot")
    np.testing.assert_array_equal(index.document(1), tokens[2:].astype(np.float32))


@pytest.mark.parametrize("storage", STORAGES)
def test_saved_and_loaded(tmp_path, storage):
    rng = np.random.default_rng(5)
    index = MaxSimIndex(ragged(rng, 20, 6), storage=storage)
    index.save(tmp_path / "index")
    index.save(tmp_path / "index")  # a second time replaces it
    again = MaxSimIndex.load(tmp_path / "index")
    asked = ragged(rng, 3, 6)
    for one, other in zip(index.search(asked, 9), again.search(asked, 9), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_damage_is_found(tmp_path):
    index = MaxSimIndex(ragged(np.random.default_rng(6), 20, 6))

    def damaged(change):
        folder = tmp_path / "index"
        index.save(folder)
        change(folder)
        return folder

    def shorten(folder):
        data = (folder / "tokens.npy").read_bytes()
        (folder / "tokens.npy").write_bytes(data[:-10])

    def exchange(folder):
        np.save(folder / "offsets.npy", np.arange(21))

    def newer(folder):
        text = (folder / "index.json").read_text()
        (folder / "index.json").write_text(text.replace('"version": 1', '"version": 7'))

    def other(folder):
        text = (folder / "index.json").read_text()
        (folder / "index.json").write_text(text.replace('"maxsim"', '"plaid"'))

    for change, message in [
        (shorten, "damaged"),
        (exchange, "do not fit"),
        (lambda folder: (folder / "scales.npy").unlink(), "missing"),
        (lambda folder: (folder / "index.json").write_text("{"), "half written"),
        (lambda folder: (folder / "index.json").write_text("{}"), "not the header"),
        (lambda folder: np.save(folder / "tokens.npy", np.zeros((3, 6))), "promises"),
        (newer, "version 7"),
        (other, "'plaid'"),
    ]:
        with pytest.raises(FormatError, match=message):
            MaxSimIndex.load(damaged(change))
    with pytest.raises(NotFoundError):
        MaxSimIndex.load(tmp_path / "nowhere")


def test_a_failed_save_leaves_the_old_index(tmp_path, monkeypatch):
    rng = np.random.default_rng(7)
    old = MaxSimIndex(ragged(rng, 5, 3))
    old.save(tmp_path / "index")
    monkeypatch.setattr(np, "save", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="disk is full"):
        MaxSimIndex(ragged(rng, 9, 3)).save(tmp_path / "index")
    assert len(MaxSimIndex.load(tmp_path / "index")) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_bad_documents():
    good = np.ones((2, 3))
    with pytest.raises(EmptyInputError, match="no documents"):
        MaxSimIndex([])
    with pytest.raises(EmptyInputError, match="document 1"):
        MaxSimIndex([good, np.ones((0, 3))])
    with pytest.raises(ShapeError, match="Document 1 .* 4 dimensions"):
        MaxSimIndex([good, np.ones((2, 4))])
    with pytest.raises(ShapeError, match="Document 1 must have shape"):
        MaxSimIndex([good, np.ones(3)])
    with pytest.raises(NonFiniteError, match="Document 1 .* token 1"):
        MaxSimIndex([good, np.array([[1.0, 1, 1], [1, np.nan, 1]])])
    with pytest.raises(InputError, match="Document 1 has a zero vector as token 0"):
        MaxSimIndex([good, np.array([[0.0, 0, 0], [1, 1, 1]])])
    with pytest.raises(NonFiniteError, match="too large"):
        MaxSimIndex([np.full((1, 2), 1e6)], storage="float16", similarity="dot")
    with pytest.raises(UnknownNameError, match="float16"):
        MaxSimIndex([good], storage="flaot16")
    with pytest.raises(ShapeError, match="offsets"):
        TokenMatrix(np.ones((3, 2), dtype=np.float32), np.array([0, 4]))


def test_bad_queries():
    index = MaxSimIndex([np.ones((2, 3))])
    with pytest.raises(ShapeError, match="list"):
        index.search(np.ones((2, 3)), 1)
    with pytest.raises(ShapeError, match="Query 0"):
        index.search([np.ones((2, 4))], 1)
    with pytest.raises(EmptyInputError, match="Query 0"):
        index.search([np.ones((0, 3))], 1)
    with pytest.raises(NonFiniteError, match="Query 1"):
        index.search([np.ones((1, 3)), np.full((1, 3), np.inf)], 1)
    with pytest.raises(InputError, match="zero vector"):
        index.search([np.zeros((1, 3))], 1)
    with pytest.raises(InputError, match="k must be"):
        index.search([np.ones((1, 3))], 0)
    with pytest.raises(ShapeError, match="mask"):
        index.search([np.ones((1, 3))], 1, mask=np.ones(2, dtype=bool))
    long = MaxSimIndex([np.full((1, 3), 1e30)], similarity="dot")
    with pytest.raises(NonFiniteError, match="overflow"):
        long.search([np.full((1, 3), 1e30)], 1)
