"""Weights of tokens, and a very small run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embedworks import load
from embedworks.data import Row, RowSet
from embedworks.reproductions import GradedWorld, ReproductionResult, reproduce
from embedworks.reproductions.papers import survey_isotropy
from embedworks.reproductions.papers.survey_isotropy import ENTRIES, sif_weights, token_table

(ENTRY,) = ENTRIES


def test_common_tokens_weigh_less():
    model = load("static")
    texts = ["the cat and the dog and the horse", "the end"]
    weights = sif_weights(model, texts)
    ids = {word: int(model.tokenize([word])[0][0]) for word in ("the", "and", "zebra")}
    assert weights[ids["the"]] < weights[ids["and"]] < weights[ids["zebra"]] == 1
    assert token_table("static").table is not None


@pytest.fixture
def graded(monkeypatch):
    words = ["tea", "rye", "oat", "fig", "yam", "nut", "egg", "ham", "pea", "soy"]
    rng = np.random.default_rng(0)

    def pair():
        shared = rng.permutation(words)[: int(rng.integers(1, 5))].tolist()
        rest = rng.permutation(words)[:3].tolist()
        return " ".join([*shared, rest[0]]), " ".join([*shared, rest[1]]), float(len(shared))

    rows = RowSet(Row(a, b, score=s) for a, b, s in (pair() for _ in range(300)))
    world = GradedWorld("toy", rows, (), tuple(pair() for _ in range(60)))
    monkeypatch.setattr(survey_isotropy, "stsb_graded", lambda: world)


@pytest.mark.usefixtures("graded")
def test_a_very_small_run(tmp_path):
    settings = {"model": "static", "rows": 250, "pairs": 40, "axes": 1, "noise": 2.0}
    small = replace(ENTRY, scales={"mini": settings}, seeds=2)
    result = reproduce(small, out=tmp_path, device="cpu")
    assert ReproductionResult.load(tmp_path / "survey-isotropy-mini.json") == result
    means = {arm.name: arm.metrics for arm in result.arms}
    assert means["noise"]["iso score"].mean > means["mean"]["iso score"].mean
