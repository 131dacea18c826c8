"""SMAE against masked tokens, in a very small world."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from embedworks.data import Row, RowSet
from embedworks.evaluation import RetrievalTask
from embedworks.models import train_tokenizer
from embedworks.reproductions import GradedWorld, ReproductionResult, RetrievalWorld, reproduce
from embedworks.reproductions.papers import starbucks_smae
from embedworks.reproductions.papers.starbucks_smae import ENTRIES, pretrained

(ENTRY,) = ENTRIES

WORDS = ["tea", "rye", "oat", "fig", "yam", "nut", "egg", "ham", "pea", "soy"]
TEXTS = [f"the {a} is with {b} in the {c} field" for a in WORDS for b in WORDS for c in WORDS[:3]]

SMALL = {
    "vocabulary": 330, "dim": 32, "layers": 2, "heads": 2, "sizes": [[1, 16], [2, 32]],
    "characters": 1000, "tokenizer_texts": 300, "text_characters": 80,
    "pretraining": {"steps": 4, "batch_size": 8, "length": 24, "learning_rate": 3e-3},
    "longer": 1.5, "rows": 30, "queries": 6, "documents": 10, "pairs": 20, "max_tokens": 32,
    "batch": 8, "steps": 2, "lr": 1e-3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    corpus = {f"d{n}": text for n, text in enumerate(TEXTS[::29])}
    queries = {f"d{n}": " ".join(corpus[f"d{n}"].split()[1:5]) for n in range(6)}
    task = RetrievalTask("toy", queries, corpus, {one: {one: 1} for one in queries})
    rows = RowSet(Row(" ".join(text.split()[1:5]), text) for text in TEXTS[::7])
    pairs = tuple((a, b, float(n)) for n, (a, b) in enumerate(zip(TEXTS[::15], TEXTS[::-15])))
    monkeypatch.setattr(
        starbucks_smae, "acl_retrieval",
        lambda count, *, queries, seed: RetrievalWorld("toy", rows, task, task, {}, {}),
    )  # fmt: skip
    monkeypatch.setattr(
        starbucks_smae, "stsb_graded", lambda: GradedWorld("toy", rows, pairs, pairs)
    )
    monkeypatch.setattr(starbucks_smae, "english_texts", lambda characters, *, exclude, seed: TEXTS)


def test_a_very_small_run(tmp_path):
    small = replace(ENTRY, scales={"mini": SMALL}, seeds=2)
    result = reproduce(small, out=tmp_path, device="cpu")
    assert ReproductionResult.load(tmp_path / "starbucks-smae-mini.json") == result
    values = {arm.name: arm.metrics["small sts"].mean for arm in result.arms}
    assert len({round(value, 6) for value in values.values()}) == len(values)


def test_each_pre_training_starts_alike_and_ends_apart():
    data = {"tokenizer": train_tokenizer(TEXTS, vocab_size=330), "texts": TEXTS}
    none = pretrained("none", data, SMALL, 0, "cpu").state_dict()
    ends = [pretrained(kind, data, SMALL, 0, "cpu").state_dict() for kind in ("mlm", "smae", "mlm")]
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(ends[0][name], ends[2][name])
    for one, other in ((none, ends[0]), (none, ends[1]), (ends[0], ends[1])):
        assert not torch.equal(one[name], other[name])
