"""A very small run with the bundled model, and what its numbers must obey."""

from __future__ import annotations

from dataclasses import replace

from embedworks.reproductions import ReproductionResult, reproduce
from embedworks.reproductions.papers.survey_leakage import ENTRIES

(ENTRY,) = ENTRIES


def test_every_arm_but_the_noise_uses_its_tuning():
    assert ENTRY.arm("noise").tune_as == ""
    assert all(arm.tune_as == "noise" for arm in ENTRY.arms if arm.name != "noise")


def test_a_very_small_run(tmp_path):
    settings = {"model": "static", "rows": 300, "queries": 20, "reserve": 0.0}
    small = replace(
        ENTRY,
        arms=tuple(ENTRY.arm(name) for name in ("as they are", "noise", "drowned")),
        secondary=(),
        scales={"mini": settings},
        seeds=2,
        tuning=replace(ENTRY.tuning, grid={"scale": (0.2, 4.0)}),
    )
    result = reproduce(small, out=tmp_path, device="cpu")
    assert ReproductionResult.load(tmp_path / "survey-leakage-mini.json") == result
    means = {arm.name: arm.metrics for arm in result.arms}
    raw, drowned = means["as they are"], means["drowned"]
    assert raw["word f1"].mean > drowned["word f1"].mean
    assert raw["ndcg@10"].mean > drowned["ndcg@10"].mean
    assert drowned["epsilon"].mean < means["noise"]["epsilon"].mean
