"""GRIT: what is scored, that arms differ as they say, and a very small run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embedworks.data import Row, RowSet
from embedworks.evaluation import RetrievalTask
from embedworks.models import new_language_model, new_model, train_tokenizer
from embedworks.reproductions import (
    Comparison,
    ReproductionResult,
    RetrievalWorld,
    reproduce,
)
from embedworks.reproductions.papers import survey_grit
from embedworks.reproductions.papers.survey_grit import ENTRIES, _loss, log_likelihoods

(ENTRY,) = ENTRIES
WORDS = ["tea", "rye", "oat", "fig", "yam", "nut", "egg", "ham", "pea", "soy"]
TEXTS = [f"the {a} is with {b} in the {c} field" for a in WORDS for b in WORDS for c in WORDS[:2]]
SMALL = {
    "world": "captions", "rows": 30, "documents": 10, "queries": 6, "vocabulary": 330,
    "dim": 32, "layers": 1, "heads": 2, "max_tokens": 24, "steps": 6, "batch": 8, "lr": 1e-2,
    "lm": {"steps": 4, "batch_size": 8, "length": 24, "learning_rate": 3e-3},
}  # fmt: skip


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    corpus = {f"d{n}": text for n, text in enumerate(TEXTS[::19])}
    queries = {f"d{n}": " ".join(corpus[f"d{n}"].split()[1:5]) for n in range(6)}
    task = RetrievalTask("toy", queries, corpus, {one: {one: 1} for one in queries})
    rows = RowSet(Row(" ".join(text.split()[1:5]), text) for text in TEXTS[::7])
    world = RetrievalWorld("toy", rows, task, task, {}, {})
    monkeypatch.setattr(survey_grit, "pair_retrieval", lambda *_, **__: world)


def test_likelihoods_are_those_of_one_text_at_a_time():
    tokenizer = train_tokenizer(TEXTS, vocab_size=330)
    lm = new_language_model("qwen3", tokenizer, dim=16, layers=1, heads=2).eval()
    texts = ["the tea", TEXTS[3], TEXTS[100]]
    found = log_likelihoods(lm, tokenizer, texts, max_tokens=9)
    for text, value in zip(texts, found, strict=True):
        ids = tokenizer(text, truncation=True, max_length=9, return_tensors="pt")["input_ids"]
        expected = -float(lm(input_ids=ids, labels=ids).loss.detach())
        assert value == pytest.approx(expected, abs=1e-5)


def test_the_loss_of_both_is_the_sum_of_the_others():
    tokenizer = train_tokenizer(TEXTS, vocab_size=330, max_tokens=24)
    model = new_model("qwen3", tokenizer, dim=16, layers=1, heads=2, bidirectional=True,
                      tie_word_embeddings=True)  # fmt: skip
    columns = [model.preprocess(TEXTS[:4]), model.preprocess(TEXTS[4:8])]
    values = {
        kind: float(_loss(kind, model, 0.5)([dict(one) for one in columns], None).detach())
        for kind in ("embed", "generate", "both")
    }
    assert values["both"] == pytest.approx(values["embed"] + 0.5 * values["generate"], rel=1e-5)


def test_a_very_small_run(tmp_path):
    arms = ("both", "generate", "embed", "start")
    small = replace(
        ENTRY, arms=tuple(map(ENTRY.arm, arms)), seeds=2, scales={"mini": SMALL}, secondary=(),
        conditions=(Comparison.between("both", "embed", "ndcg@10"),),
    )  # fmt: skip
    result = reproduce(small, out=tmp_path, device="cpu")
    assert ReproductionResult.load(tmp_path / "survey-grit-mini.json") == result
    said = {arm.name: arm.metrics["log-likelihood"].mean for arm in result.arms}
    assert said["generate"] > said["start"] + 0.1
    assert len(set(np.round(list(said.values()), 6))) == len(arms)
