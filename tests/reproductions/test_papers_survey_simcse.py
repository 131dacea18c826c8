"""SimCSE on a very small language model: what is scored is kept out, dropout alone differs."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from embedworks.data import Row, RowSet  # noqa: E402
from embedworks.models import new_language_model, train_tokenizer  # noqa: E402
from embedworks.reproductions import Context, GradedWorld, ReproductionResult, reproduce  # noqa: E402
from embedworks.reproductions.papers import survey_simcse  # noqa: E402
from embedworks.reproductions.papers.survey_simcse import (  # noqa: E402
    ENTRIES,
    encoder_of,
    sentences_of,
)

(ENTRY,) = ENTRIES

WORDS = ["tea", "rye", "oat", "fig", "yam", "nut", "egg", "ham", "pea", "soy"]
TEXTS = [f"the {a} is with {b} in the {c} field." for a in WORDS for b in WORDS for c in WORDS[:3]]
PAIRS = tuple((a, b, float(n)) for n, (a, b) in enumerate(zip(TEXTS[::15], TEXTS[::-15])))

SMALL = {
    "vocabulary": 330, "dim": 32, "layers": 2, "heads": 2, "characters": 1000,
    "tokenizer_texts": 300, "sentences": 100,
    "pretraining": {"steps": 4, "batch_size": 8, "length": 24, "learning_rate": 3e-3},
    "pairs": 20, "max_tokens": 24, "batch": 8, "steps": 3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    survey_simcse._texts.cache_clear()
    rows = RowSet(Row(a, b, score=1.0) for a, b in zip(TEXTS[1::15], TEXTS[2::15]))
    monkeypatch.setattr(
        survey_simcse, "stsb_graded", lambda: GradedWorld("toy", rows, PAIRS[:10], PAIRS)
    )
    monkeypatch.setattr(survey_simcse, "english_texts", lambda characters, *, exclude, seed: TEXTS)
    monkeypatch.setattr(
        survey_simcse, "read_records",
        lambda name, columns: [
            {"dataset": "sick2014", "sentence1": a, "sentence2": b, "score": grade}
            for a, b, grade in PAIRS
        ],
    )  # fmt: skip


def test_a_very_small_run(tmp_path):
    small = replace(ENTRY, scales={"mini": SMALL}, seeds=2, tuning=None)
    small = replace(small, run=_at_rate(ENTRY.run, 1e-3))
    result = reproduce(small, out=tmp_path, device="cpu")
    assert ReproductionResult.load(tmp_path / "survey-simcse-mini.json") == result
    values = {arm.name: arm.metrics["mean cosine"].mean for arm in result.arms}
    assert len({round(value, 6) for value in values.values()}) == len(values)
    assert {arm.metrics["masked loss"].mean for arm in result.arms} == {
        result.arms[0].metrics["masked loss"].mean
    }


def _at_rate(run, rate):
    def at_rate(arm, seed, settings, context):
        return run(arm, seed, settings, replace(context, tuned={"lr": rate}))

    return at_rate


def test_what_is_scored_is_not_among_the_sentences(tmp_path):
    context = Context("mini", "test", {}, "cpu", tmp_path)
    data = survey_simcse._data(SMALL, 0, context)
    scored = {text for part in data["pairs"].values() for a, b, _ in part for text in (a, b)}
    assert len(data["sentences"]) == 100
    assert not scored & set(data["sentences"])


def test_encoders_differ_in_dropout_alone():
    tokenizer = train_tokenizer(TEXTS, vocab_size=330)
    sizes = {name: SMALL[name] for name in ("dim", "layers", "heads")}
    start = new_language_model(
        "modernbert", tokenizer, masked=True, max_tokens=128, seed=3, **sizes
    )
    data = {"tokenizer": tokenizer}
    with_it, without = (
        encoder_of(start, data, SMALL, dropout=share, device="cpu") for share in (0.1, 0.0)
    )
    for name, value in start.base_model.state_dict().items():
        assert torch.equal(value, with_it[0].auto_model.state_dict()[name]), name
        assert torch.equal(value, without[0].auto_model.state_dict()[name]), name
    features = with_it.preprocess(TEXTS[:2])

    def twice(model):
        model.train()
        first, second = (model(dict(features))["sentence_embedding"] for _ in range(2))
        return float((first - second).detach().abs().max())

    assert twice(without) == 0.0
    assert twice(with_it) > 0.01


def test_sentences_are_of_some_words():
    assert sentences_of(["a b c d. e f. g h i j! k", "a b c d."]) == ["a b c d.", "g h i j!"]
