"""Random word vectors, the construction's end, and very small runs from end to end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embedworks.reproductions import ReproductionResult, reproduce
from embedworks.reproductions.papers.limit import ENTRIES, RandomTokens, _tasks, polytope_n

LIMIT, CRITICAL, _ = ENTRIES


def test_random_words_add_up():
    model = RandomTokens(2000, seed=1)
    both, one, other, same = model.encode(["figs pears", "figs", "plums", "Figs?"])
    assert np.linalg.norm(both) == pytest.approx(1, abs=1e-5)
    assert one == pytest.approx(same)
    assert both @ one == pytest.approx(2**-0.5, abs=0.05)
    assert abs(one @ other) < 0.1
    assert (
        RandomTokens(8, seed=1).encode(["figs"]) != RandomTokens(8, seed=2).encode(["figs"])
    ).all()


def test_the_construction_ends_where_precision_does():
    assert polytope_n(4, dtype="float64", most=60) == 60
    assert 10 < polytope_n(4, dtype="float16", most=60) < 46


def test_crowded_documents_are_asked_the_same():
    settings = LIMIT.scales["mini"] | {"queries": 10, "small docs": 8, "small queries": 20}
    tasks = _tasks(settings, 3)
    for pattern in ("dense", "disjoint"):
        plain, crowded = tasks[pattern], tasks[f"{pattern} crowded"]
        assert plain.queries == crowded.queries
        assert plain.qrels == crowded.qrels
        assert plain.corpus != crowded.corpus


def test_a_very_small_run_of_the_patterns(tmp_path):
    small = replace(
        LIMIT,
        arms=tuple(arm for arm in LIMIT.arms if not arm.name.startswith(("minilm", "random 4096"))),
        decisive=("random 384 disjoint", "random 384 dense", "recall@2"),
        conditions=(),
        secondary=(),
        scales={
            "mini": {
                "queries": 10,
                "items": 9,
                "crowded items": 20,
                "small docs": 8,
                "small queries": 20,
            }
        },
        seeds=2,
    )
    result = reproduce(small, out=tmp_path, device="cpu")
    assert ReproductionResult.load(tmp_path / "limit-mini.json") == result
    arms = {arm.name: arm.metrics for arm in result.arms}
    assert arms["bm25 dense"]["recall@2"].mean == 1.0
    assert arms["bm25 disjoint crowded"]["recall@2"].mean == 1.0
    assert "recall@2, 32 dims" in arms["static small"]
    assert "recall@2, 32 dims" not in arms["bm25 small"]


def test_a_very_small_run_of_the_search(tmp_path):
    small = replace(
        CRITICAL,
        arms=tuple(arm for arm in CRITICAL.arms if arm["d"] == 4),
        decisive=("d=4, construction", "d=4", "critical n"),
        conditions=(),
        secondary=(),
        scales={"mini": {"steps": 300, "sweep": 0, "most": 6}},
        seeds=2,
    )
    result = reproduce(small, out=tmp_path, device="cpu")
    arms = {arm.name: arm.metrics for arm in result.arms}
    assert arms["d=4, construction"]["critical n"].mean == 6
    assert arms["d=4, construction"]["above published"].mean == -4
    assert result.verdict in ("holds", "inconclusive")
    assert list(tmp_path.rglob("critical-n.json"))
