"""Memory vectors, and a vector as a token: their texts, scores, and a very small run of each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embedworks.data import Row, RowSet
from embedworks.evaluation import RetrievalTask
from embedworks.reproductions import Comparison, RetrievalWorld, reproduce
from embedworks.reproductions.papers import (
    _memory_world,
    survey_memory_vectors,
    survey_vector_token,
)
from embedworks.reproductions.papers._memory_world import passages
from embedworks.reproductions.papers.survey_memory_vectors import token_f1

WORDS = ["tea", "rye", "oat", "fig", "yam", "nut", "egg", "ham", "pea", "soy"]
SMALL = {
    "world": "captions", "rows": 60, "documents": 8, "vocabulary": 330, "dim": 32, "layers": 1,
    "heads": 2, "length": 4, "embedder": "static", "max_tokens": 12,
    "lm": {"steps": 8, "batch_size": 8, "length": 24, "learning_rate": 3e-3},
    "steps": 10, "batch": 16, "lr": 5e-3, "gradient_steps": 40, "gradient_lr": 0.1,
}  # fmt: skip


def sentence(rng):
    return f"the {' '.join(rng.choice(WORDS, 5))}"


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    rng = np.random.default_rng(0)
    records = [{"image_id": n, "en_captions": [sentence(rng) for _ in range(3)]} for n in range(80)]
    monkeypatch.setattr(_memory_world, "read_records", lambda *_: records)


def test_tested_documents_are_in_no_training_sample_and_parts_are_of_one_document():
    first, second = passages(SMALL, 0), passages(SMALL, 1)
    assert first.test == second.test
    assert len(first.test) == 8
    assert first.documents != second.documents
    for texts in (first, second):
        assert len(texts.documents) == len(texts.train) == 60
        for document, (read, follow) in zip(texts.documents, texts.train, strict=True):
            assert document.startswith(read + follow)
        seen = " ".join(texts.documents)
        assert not any(read in seen for read, _ in texts.test.values())


def test_abstracts_are_cut_in_two_and_short_ones_left_out(monkeypatch):
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(WORDS, n)) for n in (79, 80, 200)]
    task = RetrievalTask("toy", {"0": "a"}, dict(zip("012", texts, strict=True)), {"0": {"0": 1}})
    rows = RowSet(Row(f"title {n}", text) for n, text in enumerate(texts))
    world = RetrievalWorld("toy", rows, task, task, {}, {})
    monkeypatch.setattr(_memory_world, "acl_retrieval", lambda *_, **__: world)
    found = passages({**SMALL, "world": "abstracts"}, 0)
    assert list(found.test) == ["1", "2"]
    for text, (read, follow) in zip(texts[1:], found.train, strict=True):
        assert text.startswith(read + follow)
        assert (len(read.split()), len(follow.split())) == (48, 32)
    assert found.documents == tuple(texts)


@pytest.mark.parametrize(
    ("found", "wanted", "f1"),
    [([1, 2], [2, 1], 1.0), ([], [1], 0.0), ([1, 1], [1, 2], 0.5), ([3], [1, 3, 3], 0.5)],
)
def test_f1_counts_tokens_as_often_as_they_occur(found, wanted, f1):
    assert token_f1(found, wanted) == pytest.approx(f1)


def test_a_very_small_run_of_memory_vectors(tmp_path):
    (entry,) = survey_memory_vectors.ENTRIES
    arms = ("m = 1", "m = T", "m = T, another's", "m = T, frozen", "m = 1, gradients",
            "m = T, gradients")  # fmt: skip
    small = replace(
        entry, arms=tuple(map(entry.arm, arms)), seeds=2, scales={"mini": SMALL}, conditions=(),
        secondary=(), decisive=Comparison.between("m = T, gradients", "m = 1", "token f1"),
    )  # fmt: skip
    result = reproduce(small, out=tmp_path, device="cpu")
    f1 = {arm.name: arm.metrics["token f1"].mean for arm in result.arms}
    assert f1["m = T, gradients"] > f1["m = 1, gradients"]
    assert all(0 <= value <= 1 for value in f1.values())


def test_a_very_small_run_of_a_vector_as_a_token(tmp_path):
    (entry,) = survey_vector_token.ENTRIES
    small = replace(entry, seeds=2, scales={"mini": SMALL})
    result = reproduce(small, out=tmp_path, device="cpu")
    losses = {arm.name: arm.metrics["nats per token"].mean for arm in result.arms}
    assert len({round(value, 6) for value in losses.values()}) == 5
    assert losses["same for all"] < losses["none"]
