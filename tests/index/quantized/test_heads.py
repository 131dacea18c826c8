"""Heads over frozen vectors against slow loops, and what they are for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from embedworks.errors import FormatError, InputError, NotFoundError, ShapeError
from embedworks.index.quantized.heads import VectorHead, learn_heads
from embedworks.index.quantized.learning import Plan

pytest.importorskip("torch")


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def world():
    """Half of a document's dimensions are loud and say nothing about what answers a query."""
    rng = np.random.default_rng(0)
    meaning = rng.normal(size=(1200, 8))
    documents = unit(np.concatenate([meaning, rng.normal(0, 2.0, (1200, 8))], axis=1))
    noise = rng.normal(0, 1.0, (1200, 16))
    return unit(np.concatenate([meaning, np.zeros((1200, 8))], axis=1) + 0.3 * noise), documents


def found(queries, documents, rows, k=10):
    scores = queries[rows] @ documents.T
    return (np.argsort(-scores, axis=1)[:, :k] == rows[:, None]).any(axis=1).mean()


def test_a_head_equals_a_slow_one():
    rng = np.random.default_rng(1)
    vectors, weight = rng.normal(size=(3, 4)), rng.normal(size=(4, 4)).astype(np.float32)
    for row, given in zip(vectors, VectorHead(weight)(vectors), strict=True):
        turned = [row[j] + math.fsum(row[i] * weight[i, j] for i in range(4)) for j in range(4)]
        length = math.sqrt(math.fsum(one * one for one in turned))
        np.testing.assert_allclose(given, [one / length for one in turned], atol=1e-6)
    assert not VectorHead(weight)(np.zeros((1, 4))).any()


def test_one_step_follows_the_gradient_of_the_loss():
    """Adam's first step is the sign of the gradient, here from differences in float64."""
    rng = np.random.default_rng(2)
    queries, documents, more = (unit(rng.normal(size=(n, 3))) for n in (4, 6, 6))
    positives = np.array([0, 1, 2, 0])
    batch = np.array([[0, 0, 4], [1, 1, 3], [3, 0, 5]])
    columns = [0, 1, 0, 4, 3, 5]

    def loss(asking, answering):
        total = 0.0
        for side in (documents @ (np.eye(3) + answering), more.astype(float)):
            if side is not more:
                side = side / np.linalg.norm(side, axis=1, keepdims=True)
            for place, row in enumerate((0, 1, 3)):
                query = queries[row] @ (np.eye(3) + asking)
                query = query / math.sqrt(math.fsum(query**2))
                scores = [float(query @ side[column]) / 0.2 for column in columns]
                kept = [
                    score
                    for other, (score, column) in enumerate(zip(scores, columns))
                    if other == place or column != positives[row]
                ]
                total += (math.log(math.fsum(map(math.exp, kept))) - scores[place]) / 3
        return total

    more = more / np.linalg.norm(more, axis=1, keepdims=True)
    heads = learn_heads(
        queries, documents, [batch], positives=positives, also=[more], epochs=1,
        learning_rate=0.01, temperature=0.2,
    )  # fmt: skip
    zero = np.zeros((3, 3))
    for side, head in enumerate(heads):
        for i in range(3):
            for j in range(3):
                bump = zero.copy()
                bump[i, j] = 1e-5
                ends = [
                    loss(sign * bump, zero) if side == 0 else loss(zero, sign * bump)
                    for sign in (1, -1)
                ]
                slope = (ends[0] - ends[1]) / 2e-5
                assert abs(slope) > 1e-4
                assert abs(head.weight[i, j] + 0.01 * np.sign(slope)) < 1e-4


def test_heads_help_questions_not_seen(world):
    queries, documents = world
    rows = np.arange(800, 1200)
    asks, answers = learn_heads(
        queries[:800], documents, positives=np.arange(800), epochs=12, learning_rate=1e-2
    )
    before = found(queries, documents, rows)
    assert found(asks(queries), answers(documents), rows) > before + 0.1
    alone, nothing = learn_heads(
        queries[:800], documents, positives=np.arange(800), epochs=2, document_side=False
    )
    assert alone.weight.any()
    assert not nothing.weight.any()


def test_one_query_head_for_two_sides():
    rng = np.random.default_rng(3)
    meaning, nothing = rng.normal(size=(900, 8)), np.zeros((900, 8))
    first, second = (unit(np.concatenate(x, 1)) for x in ((meaning, nothing), (nothing, meaning)))
    asks, _ = learn_heads(
        first[:600], first, positives=np.arange(600), also=[second], epochs=15,
        learning_rate=1e-2, document_side=False,
    )  # fmt: skip
    rows = np.arange(600, 900)
    assert found(first, second, rows) < 0.1
    assert found(asks(first), first, rows) > 0.9
    assert found(asks(first), second, rows) > 0.9


def test_the_plan():
    positives = np.arange(10)
    options = {"documents": 12, "epochs": 2, "batch_size": 4, "seed": 0, "learning_rate": 1.0}
    plan = Plan(positives, None, **options)
    assert [len(batch) for batch in plan.batches] == [4, 4, 2, 4, 4, 2]
    orders = [np.concatenate(part)[:, 0].tolist() for part in (plan.batches[:3], plan.batches[3:])]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert orders[0] != orders[1]
    with pytest.raises(InputError, match="no batch"):
        Plan(positives[:1], None, **options)
    with pytest.raises(InputError, match="no batch"):
        Plan(positives, [], **options)
    triples = np.array([[9, 11, -1], [0, 0, 11]])
    assert len(Plan(positives, [triples], **options).batches) == 2
    for row in ([10, 0, 0], [0, 12, 0], [0, 0, 12], [0, -1, 0], [-1, 0, 0], [0, 0, -2]):
        with pytest.raises(InputError, match="Batch 1 has numbers"):
            Plan(positives, [triples, np.array([row])], **options)
    for wrong in (triples[:, :2], triples.astype(float), triples[:0]):
        with pytest.raises(ShapeError, match=r"\(B, 3\)"):
            Plan(positives, [wrong], **options)


def test_saved_and_loaded(tmp_path):
    head = VectorHead(np.arange(4, dtype=np.float32).reshape(2, 2))
    head.save(tmp_path / "head")
    np.testing.assert_array_equal(VectorHead.load(tmp_path / "head").weight, head.weight)
    with pytest.raises(NotFoundError):
        VectorHead.load(tmp_path / "other")
    (tmp_path / "head" / "weight.npy").write_bytes(b"short")
    with pytest.raises(FormatError, match="damaged"):
        VectorHead.load(tmp_path / "head")


def test_bad_input(world):
    queries, documents = world
    with pytest.raises(ShapeError, match="D, D"):
        VectorHead(np.zeros((2, 3), dtype=np.float32))
    with pytest.raises(InputError, match="also must have 1200"):
        learn_heads(queries, documents, positives=np.arange(1200), also=[documents[:3]])
    with pytest.raises(InputError, match="temperature"):
        learn_heads(queries, documents, positives=np.arange(1200), temperature=0)
    with pytest.raises(ShapeError, match="positives"):
        learn_heads(queries, documents, positives=np.arange(3))
