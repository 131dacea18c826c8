"""The sigmoid objective: by a slow loop, equal content left out, trained inside a trainer."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

import embedworks as ew  # noqa: E402
from embedworks.errors import InputError, ShapeError  # noqa: E402
from embedworks.losses import SigmoidLoss  # noqa: E402
from embedworks.losses.sigmoid import sigmoid_contrast  # noqa: E402


def slow_loss(query, candidates, scale, bias, keys=None):
    total = 0.0
    for i, q in enumerate(query.tolist()):
        for j, d in enumerate(candidates.tolist()):
            if keys is not None and i != j and keys[i] == keys[j]:
                continue
            cosine = sum(a * b for a, b in zip(q, d)) / math.hypot(*q) / math.hypot(*d)
            z = (scale * cosine + bias) * (1 if i == j else -1)
            total -= math.log(1 / (1 + math.exp(-z)))
    return total / len(query)


@pytest.mark.parametrize("keys", [None, [4, 5, 4, 5, 6, 4]])
@pytest.mark.parametrize("rows", [1, 4])
def test_the_loss_is_that_of_a_slow_loop(rows, keys):
    generator = torch.Generator().manual_seed(0)
    query, candidates = torch.randn(rows, 3, generator=generator), torch.randn(6, 3)
    loss = SigmoidLoss(scale=7.0, bias=-2.0)
    got = loss.contrast(query, candidates, keys=None if keys is None else torch.tensor(keys))
    expected = slow_loss(query, candidates, 7.0, -2.0, keys)
    assert got.item() == pytest.approx(expected, rel=1e-4)


def test_columns_and_gradients():
    vectors = [torch.randn(3, 4, dtype=torch.float64) for _ in range(3)]
    loss = SigmoidLoss()
    by_column = loss.compute_loss_from_embeddings(vectors)
    assert by_column.item() == pytest.approx(
        loss.contrast(vectors[0], torch.cat(vectors[1:])).item()
    )
    own = torch.eye(3, 5).bool()
    allowed = torch.rand(3, 5) < 0.7
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda z: sigmoid_contrast(z, own, allowed), logits)
    sigmoid_contrast(logits, own, allowed).backward()
    # The gradient of each pair that counts is its probability less the truth.
    expected = torch.where(allowed, logits.detach().sigmoid() - own.double(), 0) / 3
    torch.testing.assert_close(logits.grad, expected)


def test_bad_shapes_and_settings_are_refused():
    with pytest.raises(ShapeError, match="one shape"):
        sigmoid_contrast(torch.zeros(2, 2), torch.zeros(2, 3).bool())
    with pytest.raises(ShapeError, match="at least as many"):
        SigmoidLoss().contrast(torch.eye(3), torch.eye(3)[:2])
    with pytest.raises(InputError, match="without a model"):
        SigmoidLoss()([{}, {}])
    with pytest.raises(InputError, match="1 columns"):
        SigmoidLoss().compute_loss_from_embeddings([torch.eye(2)])
    with pytest.raises(InputError, match="scale"):
        SigmoidLoss(scale=0)


@pytest.fixture
def model(transformer_folder):
    return ew.load(transformer_folder)


def test_equal_documents_of_two_rows_do_not_count(model):
    texts = [["read a file", "sort a list", "open a file"], ["file", "list", "file"]]
    columns = [model.tokenize(column) for column in texts]
    loss = SigmoidLoss(model.eval())
    with torch.no_grad():
        query, documents = (model(dict(column))["sentence_embedding"] for column in columns)
        got = loss(columns)
    expected = slow_loss(query, documents, 10.0, -10.0, keys=[0, 1, 0])
    assert got.item() == pytest.approx(expected, rel=1e-4)


def test_it_trains_in_the_trainer_with_its_scale_and_bias(model, tmp_path):
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    words = ["file", "list", "heap", "gzip", "tree", "line"]
    rows = Dataset.from_dict({
        "anchor": [f"about {word}" for word in words], "positive": [f"the {w}" for w in words],
    })  # fmt: skip
    loss = SigmoidLoss(model, mini_batch_size=4)
    columns = [model.tokenize(list(rows[name])) for name in ("anchor", "positive")]
    before = loss([dict(column) for column in columns]).item()
    start = loss.get_config_dict()
    arguments = SentenceTransformerTrainingArguments(
        tmp_path, max_steps=12, per_device_train_batch_size=6, learning_rate=3e-3, seed=0,
        report_to=[], save_strategy="no", disable_tqdm=True, logging_strategy="no",
        use_cpu=True,
    )  # fmt: skip
    SentenceTransformerTrainer(model, arguments, train_dataset=rows, loss=loss).train()
    model.eval()
    assert loss([dict(column) for column in columns]).item() < before
    assert loss.get_config_dict() != start
