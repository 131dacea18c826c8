"""Run an entry of ``papers`` at a very small scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from embedworks.reproductions import Context, Reproduction, ReproductionResult, reproduce


def run_tiny(entry: Reproduction, changes: Mapping[str, Any], out: Path) -> ReproductionResult:
    """Run every arm once, check what comparisons need, then the decisive ones end to end."""
    settings = {**entry.scales["mini"], **changes}
    assert settings.keys() == entry.scales["mini"].keys()
    memory: dict[tuple[Any, ...], Any] = {}
    for arm in entry.arms:
        found = entry.run(arm, 1, settings, Context("mini", "test", {}, "cpu", out, memory))
        metrics = found.metrics if hasattr(found, "metrics") else found
        for one in entry.comparisons:
            if arm.name in one.contrast:
                assert one.metric in metrics, (arm.name, one.metric)
    decisive = entry.comparisons[0]
    reduced = replace(
        entry,
        arms=tuple(
            replace(arm, tune_as="") for arm in entry.arms if arm.name in decisive.contrast
        ),
        conditions=(), secondary=(), scales={"mini": settings}, seeds=2, tuning=None,
    )  # fmt: skip
    result = reproduce(reduced, out=out, device="cpu", show_progress=False)
    again = ReproductionResult.load(out / f"{entry.slug}-mini.json")
    assert again.verdict == result.verdict
    assert (out / f"{entry.slug}.md").is_file()
    return again
