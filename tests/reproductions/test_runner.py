"""Whole runs: verdicts that must come out, resuming after a kill, tuning, mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from embedworks.errors import (
    FormatError,
    InputError,
    NonFiniteError,
    NotFoundError,
    UnknownNameError,
)
from embedworks.reproductions import (
    REPRODUCTIONS,
    Arm,
    Outcome,
    ReproductionResult,
    Tuning,
    reproduce,
)


@pytest.mark.parametrize(
    ("effects", "verdict"),
    [
        ({"treatment": 0.2}, "holds"),
        ({"treatment": 0.0}, "fails"),
        ({"treatment": -0.2}, "fails"),
        ({"treatment": 0.2, "placebo": 0.2}, "fails"),  # the placebo does as well
    ],
)
def test_verdicts_follow_the_truth(make, tmp_path, effects, verdict):
    result = reproduce(make(**effects), out=tmp_path, device="cpu", seeds=4)
    assert result.verdict == verdict
    assert result.interval[0] <= effects["treatment"] <= result.interval[1]


def test_noise_leaves_it_open(make, tmp_path):
    def noisy(arm, seed, settings, context):
        base = 0.1 if arm.name == "treatment" else 0.0
        return {"score": base + 0.2 * ((7 * seed + len(arm.name)) % 3)}

    result = reproduce(make(run=noisy), out=tmp_path, device="cpu")
    assert result.verdict == "inconclusive"


def test_the_record_is_whole_and_reads_back(make, tmp_path):
    result = reproduce(make(), out=tmp_path, device="cpu")
    path = tmp_path / "toy-mini.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    assert {
        "paper", "arxiv", "slug", "claim", "falsifier", "arms", "seeds", "effect", "interval",
        "verdict", "conditions", "secondary", "seconds", "environment", "scale", "date",
        "fingerprint",
    } <= values.keys()  # fmt: skip
    assert ReproductionResult.load(path) == result
    arm = result.arms[0]
    assert arm.metrics["score"].items == 60
    assert len(arm.metrics["score"].by_seed) == 3
    assert arm.metrics["steps"].mean == 10
    assert result.secondary[0].finding == "supported"
    assert result.environment["versions"]["embedworks"]
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == [
        "index.md", "toy-mini.json", "toy-mini.svg", "toy.md",
    ]  # fmt: skip


def test_records_cannot_be_edited(make, tmp_path):
    reproduce(make(), out=tmp_path, device="cpu")
    path = tmp_path / "toy-mini.json"
    good = json.loads(path.read_text(encoding="utf-8"))

    def broken(**changes):
        path.write_text(json.dumps({**good, **changes}), encoding="utf-8")
        with pytest.raises(FormatError) as caught:
            ReproductionResult.load(path)
        return str(caught.value)

    assert "contradicts itself" in broken(verdict="fails")
    assert "effect and interval" in broken(effect=0.9)
    assert "not refuted by its numbers" in broken(
        decisive={**good["decisive"], "finding": "refuted"}
    )
    assert "values for the seeds" in broken(seeds=[0, 1])
    assert "Did you mean 'verdict'" in broken(verdikt="holds")
    assert "arms" in broken(arms=3)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(FormatError, match="half written"):
        ReproductionResult.load(path)
    with pytest.raises(NotFoundError):
        ReproductionResult.load(tmp_path / "none.json")


def test_arms_take_turns_and_share_what_is_made_once(make, tmp_path):
    order, made = [], []

    def run(arm, seed, settings, context):
        order.append((seed, arm.name))
        context.once(("world", seed), lambda: made.append(seed))
        return {"score": len(arm.name) + 0.1 * seed}

    reproduce(make(run=run), out=tmp_path, device="cpu", seeds=2)
    names = ["treatment", "control", "placebo"]
    assert order == [(seed, name) for seed in (0, 1) for name in names]
    assert made == [0, 1]


def test_finished_cells_are_reused_until_something_changes(make, tmp_path):
    calls = []

    def run(arm, seed, settings, context):
        calls.append((arm.name, seed))
        return {"score": len(arm.name) + 0.1 * seed + settings["steps"]}

    first = reproduce(make(run=run), out=tmp_path, device="cpu", seeds=2)
    assert len(calls) == 6
    again = reproduce(make(run=run), out=tmp_path, device="cpu", seeds=2)
    assert len(calls) == 6
    assert again.to_dict() == first.to_dict()
    reproduce(make(run=run), out=tmp_path, device="cpu", seeds=3)  # only the third seed
    assert len(calls) == 9
    reproduce(make(run=run), out=tmp_path, device="cpu", seeds=2, resume=False)
    assert len(calls) == 15
    reproduce(make(run=run, scales={"mini": {"steps": 11}}), out=tmp_path, device="cpu", seeds=2)
    assert len(calls) == 21


def test_a_damaged_cell_runs_again(make, tmp_path, caplog):
    first = reproduce(make(), out=tmp_path, device="cpu")
    cells = sorted((tmp_path / "cells").rglob("*.json"))
    assert len(cells) == 9
    cells[0].write_text("{", encoding="utf-8")
    cells[1].write_text("[]", encoding="utf-8")
    again = reproduce(make(), out=tmp_path, device="cpu")
    assert again.effect == first.effect
    assert caplog.text.count("is damaged") == 2


SCRIPT = """
import sys, time
from pathlib import Path
from embedworks.reproductions import Arm, Reproduction, reproduce

log = Path(sys.argv[1]) / "log.txt"

def run(arm, seed, settings, context):
    time.sleep(0.15)
    with open(log, "a") as handle:
        handle.write(f"{arm.name} {seed}\\n")
    return {"score": len(arm.name) + 0.001 * seed}

toy = Reproduction(
    slug="toy", paper="p", arxiv="", claim="c", falsifier="f", arms=(Arm("a"), Arm("bb")),
    decisive=("bb", "a", "score"), run=run, scales={"mini": {}}, seeds=6,
)
print(reproduce(toy, out=sys.argv[1], device="cpu").verdict)
"""


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    script = tmp_path / "run_toy.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    first = subprocess.Popen([sys.executable, str(script), str(out)])
    deadline = time.monotonic() + 60
    while len(list((out / "cells").rglob("*.json"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert not (out / "toy-mini.json").exists()
    kept = len(list((out / "cells").rglob("*.json")))
    before = len((out / "log.txt").read_text().splitlines())
    assert 4 <= kept < 12
    done = subprocess.run(
        [sys.executable, str(script), str(out)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "holds"
    lines = (out / "log.txt").read_text().splitlines()
    assert len(lines) == before + 12 - kept  # nothing finished was done again
    assert len(set(lines)) == 12
    assert not list((out / "cells").rglob("*.tmp"))


def test_every_arm_is_tuned_on_the_same_grid_with_other_seeds(make, tmp_path):
    best = {"treatment": 0.2, "control": 0.3, "placebo": None}
    seen = []

    def run(arm, seed, settings, context):
        seen.append((arm.name, seed, context.part, context.tuned["lr"]))
        quality = 1.0 - abs(context.tuned["lr"] - best[arm.tune_as or arm.name])
        name = "validation score" if context.part == "validation" else "score"
        return {name: quality + (arm.name == "treatment") + 0.001 * seed}

    entry = make(
        run=run,
        arms=(Arm("treatment"), Arm("control"), Arm("placebo", tune_as="control")),
        tuning=Tuning({"lr": (0.1, 0.2, 0.3)}, metric="validation score", seeds=(1000, 1001)),
    )
    result = reproduce(entry, out=tmp_path, device="cpu", seeds=2)
    tried = [(name, seed, lr) for name, seed, part, lr in seen if part == "validation"]
    assert sorted(tried) == sorted(
        (name, seed, lr)
        for name in ("treatment", "control")
        for seed in (1000, 1001)
        for lr in (0.1, 0.2, 0.3)
    )
    used = {(name, lr) for name, _, part, lr in seen if part == "test"}
    assert used == {("treatment", 0.2), ("control", 0.3), ("placebo", 0.3)}
    assert [(one.arm, one.chosen, one.at_edge) for one in result.tuning] == [
        ("treatment", {"lr": 0.2}, False),
        ("control", {"lr": 0.3}, True),
    ]
    page = (tmp_path / "toy.md").read_text(encoding="utf-8")
    assert "end of the grid" in page
    with pytest.raises(InputError, match="kept for tuning"):
        reproduce(entry, out=tmp_path, device="cpu", seeds=[5, 1000])


def test_mistakes_are_named(make, tmp_path):
    where = {"out": tmp_path, "device": "cpu"}
    with pytest.raises(UnknownNameError, match="among the reproductions"):
        reproduce("no-such-entry", **where)
    with pytest.raises(UnknownNameError, match="Known: 'mini'"):
        reproduce(make(), scale="gpu", **where)
    with pytest.raises(InputError, match="seeds"):
        reproduce(make(), seeds=0, **where)
    with pytest.raises(InputError, match="unique"):
        reproduce(make(), seeds=[1, 1], **where)
    with pytest.raises(UnknownNameError, match="reports no metric 'score'"):
        reproduce(make(run=lambda *_: {"scores": 1.0}), **where)
    with pytest.raises(NonFiniteError, match="toy, arm 'treatment', seed 0.*diverge"):
        reproduce(make(run=lambda *_: {"score": float("nan")}), **where)

    def missing(arm, seed, settings, context):
        raise NotFoundError("acl.parquet is needed. Set EMBEDWORKS_DATA.")

    with pytest.raises(NotFoundError, match="EMBEDWORKS_DATA"):
        reproduce(make(run=missing), **where)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slug": "Not a slug"}, "slug"),
        ({"claim": " "}, "claim is empty"),
        ({"arms": (Arm("treatment"),)}, "at least two arms"),
        ({"arms": (Arm("treatment"), Arm("treatment"))}, "unique"),
        ({"decisive": ("treatmnt", "control", "score")}, "Did you mean 'treatment'"),
        ({"scales": {"gpu": {}}}, "no scale 'mini'"),
        ({"seeds": 1}, "2 seeds"),
        ({"tuning": Tuning({"lr": (1.0,)}, metric="m", seeds=(0,))}, "tuning seeds"),
        ({"arms": (Arm("treatment"), Arm("control"), Arm("placebo", tune_as="x"))}, "tuned as"),
    ],
)
def test_bad_definitions_are_refused(make, changes, message):
    with pytest.raises((InputError, UnknownNameError), match=message):
        make(**changes)


def test_outcomes_are_checked():
    with pytest.raises(InputError, match="mean of its items"):
        Outcome({"a": 1.0}, {"a": {"x": 0.0}})
    with pytest.raises(NonFiniteError):
        Outcome(items={"a": {"x": float("inf")}})
    with pytest.raises(InputError, match="at least one metric"):
        Outcome()
    with pytest.raises(InputError, match="no items"):
        Outcome(items={"a": {}})
    with pytest.raises(InputError, match="Both outcomes"):
        Outcome({"a": 1.0}) | Outcome({"a": 2.0})
    assert Outcome({"a": 1.0}).prefixed("acl ").metrics == {"acl a": 1.0}


def test_settings_are_part_of_the_fingerprint(make):
    entry = make()
    assert entry.fingerprint("mini") == make().fingerprint("mini")
    assert entry.fingerprint("mini") != make(seeds=3, conditions=()).fingerprint("mini")
    with pytest.raises(InputError, match="plain values"):
        make(scales={"mini": {"steps": object()}}).fingerprint("mini")


def test_shipped_entries_are_well_formed():
    for slug in REPRODUCTIONS:
        entry = REPRODUCTIONS[slug]
        assert entry.slug == slug
        assert entry.arxiv or entry.paper
        assert entry.setup.strip()
        assert entry.limits.strip()
        for scale in entry.scales:
            assert entry.fingerprint(scale)
