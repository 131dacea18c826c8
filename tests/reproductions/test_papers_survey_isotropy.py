"""Changes of vectors against what they promise, and a very small run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embedworks import load
from embedworks.data import Row, RowSet
from embedworks.reproductions import GradedWorld, ReproductionResult, reproduce
from embedworks.reproductions.papers import survey_isotropy
from embedworks.reproductions.papers.survey_isotropy import (
    ENTRIES,
    sif_weights,
    token_table,
    whitening,
    without_top,
)

(ENTRY,) = ENTRIES


def _stretched(n=400, d=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3


def test_whitening_gives_unit_covariance_to_what_it_was_fitted_on_only():
    fitted = _stretched()
    white = whitening(fitted, fitted, floor=1e-9)
    assert np.allclose(np.cov(white.T, ddof=0), np.eye(6), atol=1e-6)
    assert np.allclose(white.mean(axis=0), 0, atol=1e-9)
    one = whitening(fitted, fitted[:1], floor=1e-9)
    assert np.allclose(one, white[:1])


def test_a_floor_keeps_noise_small():
    fitted = np.column_stack([_stretched()[:, :2], 1e-9 * _stretched()[:, 2]])
    assert whitening(fitted, fitted).std(axis=0).min() < 1e-3


def test_the_top_axes_are_gone():
    fitted = _stretched()
    axes = np.linalg.svd(fitted - fitted.mean(axis=0), full_matrices=False)[2]
    left = without_top(fitted, fitted, count=2)
    assert np.allclose(left @ axes[:2].T, 0, atol=1e-9)
    assert np.allclose(left @ axes[2:].T, (fitted - fitted.mean(axis=0)) @ axes[2:].T)
    assert np.allclose(without_top(fitted, fitted, count=0), fitted - fitted.mean(axis=0))


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
