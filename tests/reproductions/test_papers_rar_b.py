"""Together or apart: the pair model, its candidates, and very small runs from end to end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from embedworks.evaluation import reasoning_set
from embedworks.models import load
from embedworks.reproductions import (
    PairModel,
    ReproductionResult,
    candidate_lists,
    reproduce,
    tune_pairs,
)
from embedworks.reproductions.papers.rar_b import ENTRIES, SETS

TUNING, INSTRUCTION = ENTRIES


@pytest.fixture(scope="module")
def made():
    return reasoning_set("coreference", train=40, test=20, seed=2)


@pytest.fixture(scope="module")
def texts(made):
    return [text for x in (*made.train, *made.test) for text in (x.question, *x.options)]


def small(texts, together, seed=0):
    return PairModel(texts, together=together, dim=16, layers=1, max_tokens=32, seed=seed)


def test_only_the_way_of_reading_differs(texts):
    together, apart = small(texts, True), small(texts, False)
    for one, other in zip(together.body.parameters(), apart.body.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(together.tokens.weight, apart.tokens.weight)
    counts = [sum(p.numel() for p in model.parameters()) for model in (together, apart)]
    assert counts[0] - counts[1] == 16
    assert not torch.equal(small(texts, True, seed=1).narrow.weight, together.narrow.weight)


@pytest.mark.parametrize("together", [True, False])
def test_scores_do_not_depend_on_the_batch(made, texts, together):
    model = small(texts, together)
    pairs = [(x.question, text) for x in made.test for text in x.options]
    alone = np.concatenate([model.predict([pair]) for pair in pairs])
    assert np.allclose(model.predict(pairs), alone, atol=1e-5)
    assert model.predict(pairs).shape == (len(pairs),)


def test_apart_the_score_is_the_sum_of_two_scaled_cosines(texts):
    unit = load("static").encode(texts[:3])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    pairs = [(texts[0], texts[1]), (texts[0], texts[2])]
    for together in (True, False):
        model = small(texts, together)
        with torch.no_grad():
            model.scale.zero_()
            model.score.weight.zero_()
            model.score.bias.zero_()
        assert np.allclose(model.predict(pairs), 5 * unit[1:] @ unit[0], atol=1e-3)
    assert np.abs(small(texts, False).predict(pairs)).max() <= 10.0 + 1e-4


@pytest.mark.parametrize("together", [True, False])
def test_training_lowers_the_loss_and_repeats_exactly(made, texts, together):
    batches = candidate_lists(made.train[:8], width=3, batch=8, steps=40, seed=0)
    losses = tune_pairs(small(texts, together), batches, lr=1e-2)
    assert np.mean(losses[-5:]) < 0.9 * losses[0]
    assert losses == tune_pairs(small(texts, together), batches, lr=1e-2)


def test_candidates_start_with_the_right_answer_and_keep_rivals(made):
    known = {x.question: x for x in made.train}
    batches = candidate_lists(made.train, width=4, batch=10, steps=8, seed=1)
    assert [len(batch) for batch in batches] == [10] * 8
    seen = [question for batch in batches for question, _ in batch]
    assert len(set(seen)) == 40  # two epochs of forty questions
    for question, listed in (row for batch in batches for row in batch):
        x = known[question]
        assert listed[0] in x.right
        assert set(x.options) <= set(listed)
        assert len(listed) == len(set(listed)) == 4
        assert not set(listed[1:]) & set(x.right)


def test_a_very_small_tuning(tmp_path):
    settings = {
        "sets": ["coreference", "sums"], "train": 20, "train_code": 5, "test": 8, "dim": 8,
        "tokens": 32, "width": 3, "batch": 4, "steps": 2, "steps_code": 2, "lr": 1e-3, "depth": 5,
    }  # fmt: skip
    entry = replace(
        TUNING,
        scales={"mini": settings},
        seeds=2,
        secondary=tuple(
            c for c in TUNING.secondary if c.metric.endswith((", sums", ", coreference"))
        ),
    )
    result = reproduce(entry, out=tmp_path, device="cpu")
    assert ReproductionResult.load(tmp_path / "rar-b-mini.json") == result
    metrics = {arm.name: arm.metrics for arm in result.arms}
    assert metrics["cross-encoder"]["accuracy"].items == 32
    assert metrics["not tuned"]["ndcg@10, sums"].items == 16
    assert (tmp_path / "rar-b.md").is_file()


def test_a_very_small_instruction_run(tmp_path):
    settings = {"sets": ["coreference"], "train": 10, "train_code": 0, "test": 8}
    arms = tuple(
        replace(arm, settings={**arm.settings, "model": "static"}) for arm in INSTRUCTION.arms
    )
    entry = replace(
        INSTRUCTION,
        arms=arms,
        scales={"mini": settings},
        seeds=2,
        secondary=INSTRUCTION.secondary[:3],
    )
    result = reproduce(entry, out=tmp_path, device="cpu")
    found = {arm.name: arm.metrics["ndcg@10"].mean for arm in result.arms}
    assert found["minilm, nothing"] == found["static, nothing"]
    assert result.decisive.items == 16


def test_entries_name_every_set():
    for entry in ENTRIES:
        for scale in entry.scales.values():
            assert tuple(scale["sets"]) == SETS
        assert {c.metric for c in entry.secondary} >= {f"ndcg@10, {name}" for name in SETS}
