"""The divergence through a vocabulary, by hand and inside a training."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

import embedworks as ew  # noqa: E402
from embedworks.errors import InputError, ShapeError  # noqa: E402
from embedworks.losses import TokenTargetLoss  # noqa: E402
from embedworks.losses.token_target import token_divergence  # noqa: E402
from embedworks.models import VocabLens, text_token_targets  # noqa: E402

TEXTS = ["read a file line by line", "heap tree", "compress with gzip", "sort a list", "..."]


def test_the_divergence_equals_a_sum_by_hand():
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.0, 0.5], [1.0, 1.0, 1.0, 1.0, 1.0]]).double()
    ids = torch.tensor([[2, 0], [4, 1]])
    shares = torch.tensor([[0.7, 0.3], [1.0, 0.0]]).double()
    expected = 0.0
    for row, places, parts in zip(logits.tolist(), ids.tolist(), shares.tolist()):
        total = sum(math.exp(z) for z in row)
        for place, q in zip(places, parts):
            if q:
                expected += q * (math.log(q) - math.log(math.exp(row[place]) / total)) / 2
    assert token_divergence(logits, ids, shares).item() == pytest.approx(expected, rel=1e-12)


def test_its_gradient_is_the_difference_of_the_distributions():
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    ids, shares = (
        torch.tensor([[0, 1], [2, 3], [0, 0]]),
        torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64),
    )  # the last row does not count
    token_divergence(logits, ids, shares).backward()
    target = torch.zeros(3, 5, dtype=torch.float64).scatter_add(1, ids, shares)
    expected = (logits.detach().softmax(dim=1) - target) / 2
    expected[2] = 0
    torch.testing.assert_close(logits.grad, expected, atol=1e-12, rtol=0)
    assert token_divergence(logits, ids, shares * 0).item() == 0
    with pytest.raises(ShapeError, match="do not fit"):
        token_divergence(logits, ids[:2], shares)


@pytest.fixture
def model(transformer_folder):
    return ew.load(transformer_folder)


def test_training_moves_vectors_and_not_the_vocabulary(model):
    targets = text_token_targets(TEXTS, model.tokenizer, max_share=1.0)
    # The test model's table has small entries: unit vectors need a low temperature.
    loss = TokenTargetLoss(model, targets, temperature=0.005, mini_batch_tokens=16)
    before = loss.head.clone()
    assert targets.empty == 1
    assert not [name for name, _ in loss.named_parameters() if not name.startswith("model.")]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    labels = torch.arange(len(TEXTS))
    model.eval()
    hits = [VocabLens(model, loss.head.numpy()).alignment(TEXTS, k=10).local]
    values = []
    for _ in range(25):
        value = loss([model.preprocess(TEXTS)], labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    hits.append(VocabLens(model, loss.head.numpy()).alignment(TEXTS, k=10).local)
    assert torch.equal(loss.head, before)
    assert values[-1] < 0.7 * values[0]
    assert hits[1] > hits[0] + 0.3  # vectors point at their texts' tokens now


def test_what_does_not_fit_is_refused(model):
    targets = text_token_targets(TEXTS, model.tokenizer, max_share=1.0)
    loss = TokenTargetLoss(model, targets)
    columns = [model.preprocess(TEXTS[:2])]
    with pytest.raises(InputError, match="label column must say"):
        loss(columns)
    with pytest.raises(InputError, match="labels must be 0 to 4"):
        loss(columns, torch.tensor([0, 5]))
    with pytest.raises(InputError, match="one label per vector"):
        loss(columns, torch.tensor([0]))
    with pytest.raises(ShapeError, match="the head is"):
        TokenTargetLoss(model, targets, head=torch.zeros(3, 32))
    with pytest.raises(InputError, match="nothing to learn"):
        TokenTargetLoss(model, text_token_targets(["..."], model.tokenizer))
    from embedworks.models import train_tokenizer

    other = train_tokenizer(TEXTS, vocab_size=270)
    with pytest.raises(InputError, match="another tokenizer"):
        TokenTargetLoss(model, text_token_targets(TEXTS, other))
