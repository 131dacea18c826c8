"""A pretrained transformer tuned together or apart, from end to end with a tiny one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from embedworks.errors import InputError, NotFoundError
from embedworks.evaluation import reasoning_set
from embedworks.models import load
from embedworks.reproductions import (
    Context,
    ReproductionResult,
    Tuning,
    candidate_lists,
    reproduce,
    tune_pairs,
)
from embedworks.reproductions.papers.rar_b_minilm import ENTRIES, PretrainedPairs

(ENTRY,) = ENTRIES


@pytest.fixture(scope="module")
def base(transformer_folder):
    return load(transformer_folder, device="cpu")


@pytest.fixture(scope="module")
def made():
    return reasoning_set("coreference", train=30, test=10, seed=2)


def pairs_of(base, together, seed=0):
    return PretrainedPairs(base, together=together, max_tokens=48, seed=seed)


def small(folder, **changes):
    return {
        "base": str(folder), "sets": ["coreference", "months"], "train": 20, "validation": 6,
        "test": 8, "test_full": 4, "tokens": 48, "width": {"coreference": 2, "months": 3},
        "batch": 4, "steps": {"coreference": 2, "months": 2}, "depth": 5, **changes,
    }  # fmt: skip


def test_both_start_from_the_same_weights_and_leave_the_base_alone(base, made):
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    together, apart = pairs_of(base, True), pairs_of(base, False)
    for one, other in zip(together.model.parameters(), apart.model.parameters(), strict=True):
        assert torch.equal(one, other)
    counts = [sum(p.numel() for p in model.parameters()) for model in (together, apart)]
    assert counts[0] - counts[1] == 31  # a linear map against one scale
    tune_pairs(together, candidate_lists(made.train, width=2, batch=4, steps=2, seed=0), lr=1e-2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
    table = together.model[0].auto_model.get_input_embeddings().weight
    assert torch.equal(table, apart.model[0].auto_model.get_input_embeddings().weight)
    assert not torch.equal(pairs_of(base, True, seed=1).head, pairs_of(base, True).head)


def test_apart_the_untuned_score_is_the_scaled_cosine_of_the_base(base, made):
    pairs = [(x.question, text) for x in made.test for text in x.options]
    questions, answers = (base.encode([pair[side] for pair in pairs]) for side in (0, 1))
    found = pairs_of(base, False).predict(pairs)
    assert np.allclose(found, 20 * (questions * answers).sum(1), atol=1e-4)


@pytest.mark.parametrize("together", [True, False])
def test_scores_do_not_depend_on_the_batch_and_tuning_repeats_exactly(base, made, together):
    model = pairs_of(base, together)
    pairs = [(x.question, text) for x in made.test for text in x.options]
    alone = np.concatenate([model.predict([pair]) for pair in pairs])
    assert np.allclose(model.predict(pairs), alone, atol=1e-4)
    batches = candidate_lists(made.train[:8], width=2, batch=8, steps=15, seed=0)
    losses = tune_pairs(model, batches, lr=1e-2)
    assert min(losses[-5:]) < losses[0]
    assert losses == tune_pairs(pairs_of(base, together), batches, lr=1e-2)


def test_together_the_order_of_the_words_of_both_matters(base):
    model = pairs_of(base, True)
    one, other = model.predict([("the cup", "a table"), ("a table", "the cup")])
    assert one != other


def test_a_static_model_and_a_missing_one_are_refused(static_folder, tmp_path):
    with pytest.raises(InputError, match="StaticModel is no transformer"):
        pairs_of(load(static_folder), True)
    context = Context("mini", "test", {"lr": 1e-3}, "cpu", tmp_path)
    with pytest.raises(NotFoundError, match="no model folder"):
        ENTRY.run(ENTRY.arms[0], 0, small(tmp_path / "gone"), context)


def test_a_very_small_run(tmp_path, transformer_folder):
    entry = replace(
        ENTRY,
        scales={"mini": small(transformer_folder)},
        seeds=2,
        tuning=Tuning({"lr": (1e-3, 1e-2)}, metric="accuracy"),
    )
    result = reproduce(entry, out=tmp_path, device="cpu")
    assert ReproductionResult.load(tmp_path / "rar-b-minilm-mini.json") == result
    metrics = {arm.name: arm.metrics for arm in result.arms}
    for name in ("cross-encoder", "bi-encoder", "not tuned", "bm25"):
        assert metrics[name]["accuracy"].items == 32
        assert metrics[name]["ndcg@10, months"].items == 8
    assert metrics["guessing"]["accuracy"].mean == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert [table.arm for table in result.tuning] == ["cross-encoder", "bi-encoder"]
    assert (tmp_path / "rar-b-minilm.md").is_file()
