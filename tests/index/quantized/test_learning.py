"""Learned codes and local batches against slow loops, and what they are for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from embedworks.errors import InputError, ShapeError, UnknownNameError
from embedworks.index.quantized.learning import (
    contrastive_loss,
    learn_quantizer,
    quantize_through,
)
from embedworks.index.quantized.locality import STRATEGIES, locality_batches, shuffled_batches
from embedworks.index.quantized.product import ProductQuantizer

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:.*are few for:embedworks.errors.DataWarning")


def test_quantised_values_and_gradients_equal_slow_ones():
    torch.manual_seed(0)
    z = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    books = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, 6, dtype=torch.float64)
    (quantize_through(z, books, temperature=0.7) * weights).sum().backward()
    # The same by differences: values are codewords, gradients those of (1 - stop(p) + p) @ words.
    value = quantize_through(z, books)
    for row in range(3):
        for part in range(2):
            piece = z[row, 3 * part : 3 * part + 3].tolist()
            distances = [math.dist(piece, word.tolist()) for word in books[part]]
            word = books[part, int(np.argmin(distances))]
            torch.testing.assert_close(value[row, 3 * part : 3 * part + 3], word)
    z2, books2 = (x.detach().clone().requires_grad_() for x in (z, books))
    pieces = z2.reshape(3, 2, 1, 3)
    shares = torch.softmax(-((pieces - books2) ** 2).sum(-1) / 0.7, dim=-1)
    hard = torch.nn.functional.one_hot(shares.argmax(-1), 5).double()
    soft = hard - shares.detach() + shares
    coded = torch.einsum("bsp,spw->bsw", soft, books2).reshape(3, 6)
    (coded * weights).sum().backward()
    torch.testing.assert_close(z.grad, z2.grad)
    torch.testing.assert_close(books.grad, books2.grad)


def test_loss_equals_a_slow_one():
    rng = np.random.default_rng(1)
    queries, documents = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    ignored = np.zeros((3, 5), dtype=bool)
    ignored[0, 1] = ignored[2, 2] = ignored[1, 4] = True  # [2, 2] is the own positive: stays
    total = 0.0
    for number, query in enumerate(queries):
        scores = [float(query @ document) / 0.3 for document in documents]
        kept = [s for d, s in enumerate(scores) if d == number or not ignored[number, d]]
        total += math.log(sum(math.exp(s) for s in kept)) - scores[number]
    found = contrastive_loss(
        *map(torch.tensor, (queries, documents)), temperature=0.3, ignored=torch.tensor(ignored)
    )
    assert abs(found.item() - total / 3) < 1e-12


@pytest.fixture(scope="module")
def world():
    """Documents whose first half decides what answers a query; the second half is loud noise."""
    rng = np.random.default_rng(2)
    meaning = rng.normal(size=(1500, 8))
    noise = rng.normal(0, 2.0, size=(1500, 8))
    documents = np.concatenate([meaning, noise], axis=1)
    queries = np.concatenate([meaning + rng.normal(0, 0.2, (1500, 8)), np.zeros((1500, 8))], axis=1)
    unit = lambda x: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)  # noqa: E731
    return unit(queries), unit(documents)


def recall(quantizer, queries, documents, rows, k=10):
    scores = queries[rows] @ quantizer.decode(quantizer.encode(documents)).T
    return (np.argsort(-scores, axis=1)[:, :k] == rows[:, None]).any(axis=1).mean()


def test_learned_codes_keep_what_queries_ask_for(world):
    queries, documents = world
    start = ProductQuantizer.fit(documents, 2)
    trained = np.arange(1000)
    learned = learn_quantizer(
        start, queries[:1000], documents, positives=trained, epochs=6, batch_size=200,
        learning_rate=1e-2, train_rotation=True,
    )  # fmt: skip
    np.testing.assert_allclose(learned.rotation.T @ learned.rotation, np.eye(16), atol=1e-4)
    held_out = np.arange(1000, 1500)
    before = recall(start, queries, documents, held_out)
    assert recall(learned, queries, documents, held_out) > before + 0.05
    again = learn_quantizer(
        start, queries[:1000], documents, positives=trained, epochs=1, batch_size=200, seed=1
    )
    same = learn_quantizer(
        start, queries[:1000], documents, positives=trained, epochs=1, batch_size=200, seed=1
    )
    np.testing.assert_array_equal(again.codebooks, same.codebooks)


def test_a_fixed_rotation_stays_and_batches_can_be_given(world):
    queries, documents = world
    start = ProductQuantizer.fit(documents, 2)
    found = np.argsort(-(queries[:300] @ documents.T), axis=1)[:, :20]
    batches = locality_batches(found, np.arange(300), batch_size=50)
    learned = learn_quantizer(
        start, queries[:300], documents, batches, positives=np.arange(300), epochs=1,
    )  # fmt: skip
    np.testing.assert_array_equal(learned.rotation, start.rotation)
    assert (learned.codebooks != start.codebooks).any()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_query_once_and_negatives_from_its_candidates(strategy):
    rng = np.random.default_rng(3)
    candidates = np.stack([rng.permutation(300)[:15] for _ in range(200)])
    positives = rng.integers(0, 300, 200)
    batches = locality_batches(candidates, positives, batch_size=32, strategy=strategy, seed=1)
    triples = np.concatenate(batches)
    assert sorted(triples[:, 0]) == list(range(200))
    assert [len(batch) for batch in batches] == [32] * 6 + [8]
    for batch in batches:
        seen = set()
        for query, positive, negative in batch.tolist():
            assert positive == positives[query] != negative
            free = set(candidates[query].tolist()) - {positive} - seen
            assert negative in free or not free
            seen |= {positive, negative}
    again = locality_batches(candidates, positives, batch_size=32, strategy=strategy, seed=1)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))


def test_batches_are_local_and_shuffled_ones_are_not():
    # 20 groups of 16 queries; candidates come from the own group of documents only.
    groups = np.repeat(np.arange(20), 16)
    rng = np.random.default_rng(4)
    candidates = (
        groups[:, None] * 16 + rng.permuted(np.tile(np.arange(16), (320, 1)), axis=1)[:, :8]
    )
    positives = groups * 16 + np.tile(np.arange(16), 20)

    def mixture(batches):
        return np.mean([len(set(groups[batch[:, 0]])) for batch in batches])

    for strategy in STRATEGIES:
        batches = locality_batches(candidates, positives, batch_size=16, strategy=strategy)
        shuffled = shuffled_batches(batches)
        assert mixture(batches) < 4 < 8 < mixture(shuffled)
        whole, mixed = np.concatenate(batches), np.concatenate(shuffled)
        assert sorted(map(tuple, whole.tolist())) == sorted(map(tuple, mixed.tolist()))


def test_snowball_goes_wide_and_a_random_walk_deep():
    # Query 0 and document 1 are linked to queries 1 and 2; from each a chain goes on.
    candidates = np.array([[1, -1], [1, 3], [1, 4], [3, 5], [4, 6], [5, -1], [6, -1]])
    positives = np.array([0, 10, 11, 12, 13, 14, 15])
    depth = {0: 0, 1: 1, 2: 1, 3: 2, 4: 2, 5: 3, 6: 3}
    for seed in range(40):
        order = locality_batches(candidates, positives, batch_size=7, seed=seed)[0][:, 0].tolist()
        if order[0] == 0:
            assert [depth[query] for query in order[:3]] == [0, 1, 1]
            walk = locality_batches(
                candidates, positives, batch_size=7, strategy="random_walk", seed=seed
            )[0][:, 0].tolist()
            if walk[2] not in (1, 2):
                assert [depth[query] for query in walk[:3]] == [0, 1, 2]
                return
    pytest.fail("no seed starts at query 0 and leaves its neighbours")


def test_empty_lists_get_random_documents():
    batches = locality_batches(np.full((9, 2), -1), np.arange(9), batch_size=4)
    triples = np.concatenate(batches)
    assert (triples[:, 1] != triples[:, 2]).all()
    assert ((triples[:, 2] >= 0) & (triples[:, 2] < 9)).all()


def test_bad_input(world):
    queries, documents = world
    start = ProductQuantizer.fit(documents, 2)
    with pytest.raises(ShapeError, match="positives"):
        learn_quantizer(start, queries, documents, positives=np.arange(3))
    with pytest.raises(InputError, match="positives must be from 0"):
        learn_quantizer(start, queries, documents, positives=np.arange(1, 1501))
    with pytest.raises(InputError, match="temperature"):
        learn_quantizer(start, queries, documents, positives=np.arange(1500), temperature=0)
    with pytest.raises(ShapeError):
        learn_quantizer(start, queries[:, :4], documents, positives=np.arange(1500))
    with pytest.raises(UnknownNameError, match="snowball"):
        locality_batches(np.zeros((2, 2), int), np.arange(2), batch_size=2, strategy="snowbal")
    with pytest.raises(ShapeError):
        locality_batches(np.zeros((2, 2), int), np.arange(3), batch_size=2)
    assert locality_batches(np.empty((0, 2), int), np.empty(0, int), batch_size=2) == []
    assert shuffled_batches([]) == []
