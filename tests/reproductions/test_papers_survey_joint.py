"""One model for two tasks: lists, ranks, what each arm trains, and a run in a very small world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from embedworks.data import Row, RowSet  # noqa: E402
from embedworks.evaluation import RetrievalTask  # noqa: E402
from embedworks.models import new_model, train_tokenizer  # noqa: E402
from embedworks.reproductions import ReproductionResult, RetrievalWorld, reproduce  # noqa: E402
from embedworks.reproductions.papers import survey_joint  # noqa: E402
from embedworks.reproductions.papers.survey_joint import (  # noqa: E402
    DEPTH,
    ENTRIES,
    candidate_places,
    reciprocal_ranks,
)

(ENTRY,) = ENTRIES

WORDS = ["tea", "rye", "oat", "fig", "yam", "nut", "egg", "ham", "pea", "soy"]
TEXTS = [f"the {a} is with {b} in the field" for a in WORDS for b in WORDS]
SMALL = {
    "world": "captions", "rows": 40, "documents": 30, "queries": 6,
    "ranked": {"validation": 3, "test": 5}, "text_characters": 80, "margin": 1.0, "weight": 0.5,
    "steps": 3, "batch": 4, "others": 1, "read": 16,
}  # fmt: skip


def _toy(dataset, count, *, documents, queries, seed):
    corpus = {f"d{n}": text for n, text in enumerate(TEXTS[:documents])}
    asked = {f"d{n}": " ".join(corpus[f"d{n}"].split()[1:5]) for n in range(queries)}
    task = RetrievalTask("toy", asked, corpus, {one: {one: 1} for one in asked})
    rows = RowSet(Row(" ".join(text.split()[1:5]), text) for text in TEXTS[-count:])
    return RetrievalWorld(dataset, rows, task, task, {}, {})


@pytest.fixture
def small_base(monkeypatch):
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    base = new_model("bert", tokenizer, dim=32, layers=2, heads=2, max_tokens=32)
    monkeypatch.setattr(survey_joint, "_base", lambda device: base)
    monkeypatch.setattr(survey_joint, "pair_retrieval", _toy)
    return base


def test_a_very_small_run(tmp_path, small_base):
    before = {name: value.clone() for name, value in small_base.state_dict().items()}
    small = replace(
        ENTRY, scales={"mini": SMALL}, seeds=2,
        tuning=replace(ENTRY.tuning, grid={"lr": (1e-3, 1e-2)}),
    )  # fmt: skip
    result = reproduce(small, out=tmp_path, device="cpu")
    assert ReproductionResult.load(tmp_path / "survey-gpte-joint-rank-mini.json") == result
    found = {arm.name: arm.metrics for arm in result.arms}
    assert set(found["joint"]) >= {"vectors ndcg@10", "ranking mrr", "lists by vectors"}
    assert "ranking mrr" not in found["embedder"]
    assert "vectors ndcg@10" not in found["ranker"]
    for name, value in small_base.state_dict().items():
        assert torch.equal(value, before[name]), f"{name}: an arm trained the shared base"


def test_rows_have_a_negative_and_lists_the_right_document(small_base):
    data = survey_joint._data(SMALL, small_base, "test", 0)
    for row in data["rows"]:
        assert len(row.negatives) == 1
        assert row.negatives[0] != row.positive
    assert list(data["lists"]) == [f"d{n}" for n in range(5)]
    for query, texts in data["lists"].items():
        assert texts[0] == data["task"].corpus[query]
        assert len(set(texts)) == DEPTH


def test_lists_and_ranks_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    similarities, right = rng.random((7, 9)), rng.integers(9, size=7)
    places = candidate_places(similarities, right, 4)
    scores = rng.integers(3, size=(7, 4)).astype(float)
    for row, (found, own) in enumerate(zip(places.tolist(), right.tolist(), strict=True)):
        others = sorted((-similarities[row, n], n) for n in range(9) if n != own)
        assert found == [own, *(n for _, n in others[:3])]
        ahead = sum(scores[row, n] >= scores[row, 0] for n in range(1, 4))
        assert reciprocal_ranks(scores)[row] == pytest.approx(1 / (1 + ahead))
