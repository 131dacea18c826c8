"""The ladder's parts against what they promise, and a very small run on made-up data."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from embedworks.data import Row, RowSet
from embedworks.evaluation import RetrievalTask
from embedworks.reproductions import GradedWorld, ReproductionResult, reproduce
from embedworks.reproductions.papers import survey_word_vectors
from embedworks.reproductions.papers.survey_word_vectors import (
    ENTRIES,
    draw_texts,
    word_correlation,
)

(ENTRY,) = ENTRIES
WORDS = ["tea", "rye", "oat", "fig", "yam", "nut", "egg", "ham", "pea", "soy"]


def test_texts_are_drawn_once_each_until_there_are_enough_words():
    texts = [f"a{i} b c" for i in range(50)]
    drawn = draw_texts(texts, 30, seed=1)
    assert len(drawn) == len(set(drawn)) == 10
    assert draw_texts(texts, 30, seed=2) != drawn
    assert sorted(draw_texts(texts, 10**6, seed=0)) == sorted(texts)


def test_unknown_words_count_as_unrelated():
    known = {"tea": [1.0, 0.0], "rye": [0.8, 0.6], "fig": [0.0, 1.0]}

    def encode(words):
        return np.array([known.get(word, [0.0, 0.0]) for word in words])

    pairs = [("tea", "rye", 9.0), ("rye", "fig", 6.0), ("tea", "zzz", 1.0)]
    assert word_correlation(encode, {"toy": pairs}) == (pytest.approx(1.0), pytest.approx(2 / 3))
    assert word_correlation(lambda words: np.eye(9)[: len(words)] * 0, {"toy": pairs})[0] == 0.0


@pytest.fixture
def toy(monkeypatch):
    rng = np.random.default_rng(0)

    def text(count=6):
        return " ".join(rng.choice(WORDS, count))

    def pair():
        shared = rng.permutation(WORDS)[: int(rng.integers(1, 5))].tolist()
        rest = rng.permutation(WORDS)[:3].tolist()
        return " ".join([*shared, rest[0]]), " ".join([*shared, rest[1]]), float(len(shared))

    rows = RowSet(Row(a, b, score=s) for a, b, s in (pair() for _ in range(60)))
    world = GradedWorld("toy", rows, (), tuple(pair() for _ in range(60)))
    corpus = {str(i): text() for i in range(30)}
    task = RetrievalTask("toys", {"q": corpus["3"], "r": corpus["4"]}, corpus,
                         {"q": {"3": 1}, "r": {"4": 1}})  # fmt: skip
    pairs = [(a, b, float(rng.random())) for a, b in itertools.pairwise(WORDS)]
    monkeypatch.setattr(survey_word_vectors, "stsb_graded", lambda: world)
    monkeypatch.setattr(survey_word_vectors, "training_texts", lambda: [text() for _ in range(90)])
    monkeypatch.setattr(survey_word_vectors, "word_pairs", lambda: {"toy": pairs})
    monkeypatch.setattr(survey_word_vectors, "_collections", lambda: [task])


@pytest.mark.usefixtures("toy")
def test_a_very_small_run(tmp_path):
    settings = {
        "words": 400, "dim": 4, "window": 3, "min_count": 1, "x_max": 10.0, "count_words": 10,
        "static": "static", "minilm": "static",
    }  # fmt: skip
    arms = tuple(arm for arm in ENTRY.arms if "usif" not in arm.name)  # ten words are too few
    keep = [one for one in ENTRY.secondary if "usif" not in one.name and "ndcg" not in one.metric]
    small = replace(ENTRY, arms=arms, scales={"mini": settings}, seeds=2, secondary=tuple(keep))
    result = reproduce(small, out=tmp_path, device="cpu")
    name = "survey-word-vectors-to-multimodal-mini.json"
    assert ReproductionResult.load(tmp_path / name) == result
    means = {arm.name: arm.metrics for arm in result.arms}
    assert means["tf-idf"]["word spearman"].mean == 0.0
    assert means["tf-idf"]["toys ndcg@10"].mean == 1.0
    assert means["distilled"]["sts spearman"].mean == means["transformer"]["sts spearman"].mean
