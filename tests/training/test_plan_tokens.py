"""Stages of a plan that learn from tokens: pre-training, and key tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import embedworks as ew
from embedworks.data import Row, RowSet, content_key
from embedworks.errors import InputError, SettingsError
from embedworks.losses import TokenTargetLoss
from embedworks.models import new_model, text_token_targets, train_tokenizer
from embedworks.modules import attends_both_ways
from embedworks.training import StageSettings, preview_plan, train_plan
from embedworks.training.plan import PlanSettings
from embedworks.training.plan_tokens import pretrain_stage, row_texts, target_loss

WORDS = ["tea", "rye", "oat", "fig", "yam", "nut", "egg", "ham", "pea", "soy"]
ROWS = RowSet(
    Row(f"what is {a} with {b}", f"the {a} is a {b} from the {a} field", source="docs")
    for a in WORDS
    for b in WORDS
    if a != b
)
SIZES = {"dim": 32, "layers": 2, "heads": 2, "max_tokens": 64}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(row_texts(ROWS), vocab_size=400, max_tokens=64)


@pytest.fixture
def saved(tokenizer, tmp_path):
    def made(architecture):
        folder = tmp_path / architecture
        new_model(architecture, tokenizer, **SIZES).save_pretrained(str(folder))
        ROWS.save(tmp_path / "rows.parquet")
        return str(folder)

    return made


def stage(**changes):
    values = {"name": "one", "data": [{"name": "docs", "rows": "rows.parquet"}], "steps": 8,
              "batches": {"batch_size": 8}, "learning_rate": 3e-3}  # fmt: skip
    return StageSettings.from_dict({**values, **changes})


def plan(base, *stages):
    found = [one.to_dict() for one in stages]
    rows = {"rows": "rows.parquet", "max_queries": 20, "max_corpus": 40}
    return PlanSettings.from_dict(
        {"name": "tokens", "model": {"base": base}, "stages": found, "evaluation": rows}
    )


def test_masked_tokens_then_key_tokens(saved, tmp_path):
    masked = stage(name="masked", pretrain={"objective": "mntp", "length": 24})
    keys = stage(name="keys", token_targets={"max_share": 0.9})
    wanted = plan(saved("qwen3"), masked, keys)
    done = train_plan(wanted, tmp_path / "run", data_root=tmp_path)
    model = ew.load(str(done.model), device="cpu")
    assert attends_both_ways(model)
    for name in ("masked", "keys"):
        losses = [entry["loss"] for entry in done.metrics["stages"][name]["losses"]]
        assert len(losses) == 8
        assert losses[-1] < losses[0]
    again = train_plan(wanted, tmp_path / "again", data_root=tmp_path)
    texts = ["the tea", "what is rye"]
    np.testing.assert_allclose(
        ew.load(str(again.model), device="cpu").encode(texts), model.encode(texts), atol=1e-5
    )
    shown = preview_plan(wanted, data_root=tmp_path)
    assert [one.seconds_per_step is None for one in shown.stages] == [True, False]


@pytest.mark.parametrize(
    ("architecture", "objective"),
    [("bert", "mlm"), ("bert", "smae"), ("qwen3", "causal"), ("gpt2", "mntp")],
)
def test_pretraining_changes_the_transformer_in_place(architecture, objective, tokenizer):
    model = new_model(architecture, tokenizer, **SIZES)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    body = model[0].auto_model
    wanted = stage(pretrain={"objective": objective, "length": 24}, steps=3, warmup=1)
    done = pretrain_stage(model, ROWS, wanted, seed=0)
    assert done["steps"] == 3
    assert model[0].auto_model is body
    after = model.state_dict()
    assert after.keys() == before.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) > 0.8 * sum("pooler" not in name for name in before)
    assert np.isfinite(model.encode(["the tea"])).all()
    if architecture != "bert":
        assert attends_both_ways(model) == (objective == "mntp")


def test_key_tokens_are_learned_from_anchors_and_positives(tokenizer):
    model = new_model("bert", tokenizer, **SIZES)
    model.eval()
    loss = target_loss(model, ROWS, stage(token_targets={"max_share": 1.0}), None)
    columns = []
    for side in ("anchor", "positive"):
        texts = [getattr(ROWS[n], side) for n in (3, 40, 7)]
        keys = torch.tensor([content_key(text) for text in texts])
        columns.append({**model.preprocess(texts), "row_key": keys})
    texts = row_texts(ROWS)
    plain = TokenTargetLoss(model, text_token_targets(texts, tokenizer, max_share=1.0))
    expected = [
        plain([model.preprocess([getattr(ROWS[n], side) for n in (3, 40, 7)])],
              torch.tensor([texts.index(getattr(ROWS[n], side)) for n in (3, 40, 7)]))
        for side in ("anchor", "positive")
    ]  # fmt: skip
    assert loss(columns).item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)


def test_what_does_not_fit_is_refused(tokenizer):
    for changes, said in (
        ({"pretrain": {}, "token_targets": {}}, "not both"),
        ({"pretrain": {}, "steps": None, "epochs": 1}, "steps, not epochs"),
        ({"pretrain": {}, "precision": "fp16"}, "fp32 or bf16"),
        ({"pretrain": {"pairs": [[1, 2]]}}, "objective smae"),
        ({"pretrain": {}, "nested": {}}, "leave nested out"),
        ({"token_targets": {}, "matryoshka": {"dims": [8]}}, "leave matryoshka out"),
        ({"token_targets": {"weighting": "idf"}}, "weighting"),
    ):
        with pytest.raises(SettingsError, match=said):
            stage(**changes)
    first, second = stage(pretrain={}), stage(name="two", reset_optimizer=False)
    with pytest.raises(SettingsError, match="no optimiser to go on with"):
        plan("minilm", first, second)
    bert = new_model("bert", tokenizer, **SIZES)
    with pytest.raises(InputError, match="is an encoder"):
        pretrain_stage(bert, ROWS, stage(pretrain={"objective": "causal"}), seed=0)
    with pytest.raises(InputError, match="no such output layer"):
        llama = new_model("llama", tokenizer, **SIZES)
        pretrain_stage(llama, ROWS, stage(pretrain={"objective": "mlm"}), seed=0)
    with pytest.raises(InputError, match="has a dict"):
        row_texts(RowSet([Row({"image": "x"}, "a")]))


def test_frequent_words_get_tokens_before_pretraining(tmp_path):
    few = train_tokenizer(["a b c d"], vocab_size=262, max_tokens=64)
    new_model("bert", few, **SIZES).save_pretrained(str(tmp_path / "bert"))
    ROWS.save(tmp_path / "rows.parquet")
    wanted = plan(str(tmp_path / "bert"), stage(pretrain={"length": 16, "new_tokens": 4}))
    done = train_plan(wanted, tmp_path / "run", data_root=tmp_path)
    told = done.metrics["stages"]["one"]["new_tokens"]
    assert len(told) == 4
    assert "field" in told
    model = ew.load(str(done.model), device="cpu")
    assert len(model.tokenizer.tokenize("the field")) < len(few.tokenize("the field"))
    assert len(model.tokenizer) == len(few) + 4


def test_a_stage_that_embeds_and_generates(tokenizer, tmp_path):
    from embedworks.losses import next_token_loss
    from embedworks.models import causal_language_model

    base = new_model("qwen3", tokenizer, **SIZES, bidirectional=True, tie_word_embeddings=True)
    base.save_pretrained(str(tmp_path / "base"))
    ROWS.save(tmp_path / "rows.parquet")
    text = base.preprocess(["the tea is a oat from the tea field"])

    def surprise(model):
        logits = causal_language_model(model)(input_ids=text["input_ids"]).logits
        return float(next_token_loss(logits, text["input_ids"], text["attention_mask"]).detach())

    found = {}
    for name, more in (("alone", {}), ("both", {"generate": {"weight": 1.0}})):
        wanted = plan(str(tmp_path / "base"), stage(steps=30, **more))
        done = train_plan(wanted, tmp_path / name, data_root=tmp_path)
        model = ew.load(str(done.model), device="cpu")
        assert attends_both_ways(model)
        found[name] = surprise(model)
    assert found["both"] < surprise(base) - 0.5
    assert found["both"] < found["alone"] - 0.5
    with pytest.raises(SettingsError, match="leave generate out"):
        stage(pretrain={}, generate={})
    with pytest.raises(SettingsError, match="weight"):
        stage(generate={"weight": 0})


def test_a_stage_that_embeds_and_ranks(tokenizer, tmp_path):
    from embedworks.models import JointReranker

    new_model("bert", tokenizer, **SIZES).save_pretrained(str(tmp_path / "base"))
    ROWS.save(tmp_path / "rows.parquet")
    first = stage(name="first", steps=20, rank={"others": 2})
    wanted = plan(str(tmp_path / "base"), first, stage(name="next", steps=20, rank={}))
    done = train_plan(wanted, tmp_path / "run", data_root=tmp_path)
    model = ew.load(str(done.model), device="cpu")
    assert [type(part).__name__ for part in model].count("RankingHead") == 1
    scores = JointReranker(model).predict([("what is tea with rye", "the tea is a rye")])
    assert np.isfinite(scores).all()
    for name in ("first", "next"):
        losses = [entry["loss"] for entry in done.metrics["stages"][name]["losses"]]
        assert losses[-1] < losses[0]
    with pytest.raises(SettingsError, match="leave rank out"):
        stage(token_targets={}, rank={})
