"""SimCSE: one text as both sides. Dropout makes the views differ; training spreads the vectors."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

import embedworks as ew  # noqa: E402
from embedworks.evaluation import uniformity  # noqa: E402
from embedworks.losses import ContrastiveLoss  # noqa: E402

THINGS = ("file", "list", "heap", "gzip", "tree", "line", "queue", "string")
TEXTS = [f"{verb} a {thing}" for verb in ("read", "sort", "open", "close") for thing in THINGS]


@pytest.fixture
def model(transformer_folder):
    return ew.load(transformer_folder)


def columns(model):
    return [model.tokenize(TEXTS) for _ in range(2)]


def test_dropout_alone_makes_the_two_views_differ(model):
    loss = ContrastiveLoss(model, "infonce", temperature=1.0)
    seen = []
    loss.contrast = lambda query, document, *_: seen.append((query, document)) or query.sum()
    for training in (True, False):
        model.train(training)
        loss(columns(model))
        query, document = seen.pop()
        cosines = torch.cosine_similarity(query, document)
        assert bool((cosines < 0.999).all()) is training
        assert bool((cosines > 0.99999).all()) is not training


def test_training_spreads_the_vectors_and_keeps_the_views_together(model):
    torch.manual_seed(0)
    before = uniformity(model.encode(TEXTS))
    loss = ContrastiveLoss(model, "infonce", temperature=0.05)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        value = loss(columns(model))
        value.backward()
        optimiser.step()
        losses.append(value.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    model.eval()
    assert uniformity(model.encode(TEXTS)) < before - 0.3  # lower is more even
