"""Small reproductions that need no model: one that holds, one that fails, one that is open."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.reproductions import Arm, Comparison, Outcome, Reproduction


def measured(effects, *, spread=0.02, items=60, seed_spread=0.01):
    """Make a `run` whose arms score their effect plus item noise they share, and their own."""

    def run(arm, seed, settings, context):
        hard = np.random.default_rng(7).normal(0.5, 0.1, items)  # the same questions every seed
        rng = np.random.default_rng([seed, sorted(effects).index(arm.name)])
        shift = rng.normal(0, seed_spread)
        values = hard + effects[arm.name] + shift + rng.normal(0, spread, items)
        return Outcome(
            {"steps": float(settings["steps"])},
            {"score": {f"q{i}": float(v) for i, v in enumerate(values)}},
        )

    return run


@pytest.fixture
def make():
    """Build a reproduction around effects of the arms treatment, control and placebo."""

    def _make(slug="toy", *, treatment=0.2, placebo=0.0, run=None, **changes):
        effects = {"treatment": treatment, "control": 0.0, "placebo": placebo}
        values = {
            "slug": slug,
            "paper": "On toys",
            "arxiv": "0000.00000",
            "claim": "The treatment scores more than the control | and than a placebo.",
            "falsifier": "It does not, or the placebo does as well.",
            "arms": (
                Arm("treatment", "what is claimed"),
                Arm("control", "nothing"),
                Arm("placebo", "looks like the treatment", {"rate": 0.5}),
            ),
            "decisive": Comparison.between("treatment", "control", "score", margin=0.05),
            "conditions": (Comparison.between("treatment", "placebo", "score", margin=0.05),),
            "secondary": (
                Comparison.between(
                    "placebo", "control", "score", name="placebo is nothing", claim="equal",
                    margin=0.05,
                ),
            ),
            "scales": {"mini": {"steps": 10}},
            "run": run or measured(effects),
            "setup": "Random numbers.",
            "limits": "Anything about the world.",
        }  # fmt: skip
        return Reproduction(**{**values, **changes})

    return _make
