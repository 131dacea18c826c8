"""A killed training goes on and ends with the weights it would have had: with real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytest.importorskip("sentence_transformers")

from training.plan_recipes import two_stages

pytestmark = pytest.mark.slow


def start(recipe: Path, out: Path, *extra: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "embedworks", "train", str(recipe), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (out.parent / f"{out.name}.log").open("w") as log:
        return subprocess.Popen(
            [*command, "--data-root", str(recipe.parent), *extra],
            env=environment,
            stdout=log,
            stderr=log,
        )


def finish(process: subprocess.Popen) -> None:
    assert process.wait(timeout=600) == 0, "see the log beside the run's folder"


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


def kill_when(process: subprocess.Popen, reached) -> None:
    """Kill a process without warning at the first moment that `reached` sees."""
    while process.poll() is None:
        if reached():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return
        time.sleep(0.002)
    raise AssertionError("it ended first: see the log beside the run's folder")


@pytest.fixture(scope="module")
def world(tmp_path_factory, transformer_folder, documents):
    folder = tmp_path_factory.mktemp("plan")
    shutil.copytree(documents, folder / "docs")
    recipe = folder / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(two_stages(str(transformer_folder))))
    finish(start(recipe, folder / "whole"))
    return folder, recipe


def logged(out: Path, stage: str, step: int):
    def reached() -> bool:
        journal = out / "run.jsonl"
        if not journal.is_file():
            return False
        for line in journal.read_text().splitlines():
            entry = json.loads(line) if line.endswith("}") else {}
            if entry.get("stage") == stage and entry.get("step", 0) >= step:
                return True
        return False

    return reached


@pytest.mark.parametrize(
    ("stage", "step"), [("first", 1), ("first", 3), ("second", 1), ("second", 5)]
)
def test_a_kill_at_a_step(world, stage, step):
    folder, recipe = world
    out = folder / f"{stage}-{step}"
    kill_when(start(recipe, out), logged(out, stage, step))
    assert not (out / "model").exists()
    finish(start(recipe, out, "--resume"))
    assert weights(out) == weights(folder / "whole")
    assert not (out / "work").exists()


def test_a_kill_while_a_checkpoint_is_written(world):
    folder, recipe = world
    out = folder / "half"
    checkpoint = out / "work" / "second" / "checkpoints" / "checkpoint-4"
    kill_when(start(recipe, out), checkpoint.exists)
    # Whatever was on disk at that moment, the mark of a whole checkpoint may not be there.
    (checkpoint / "complete.json").unlink(missing_ok=True)
    (checkpoint / "weights.safetensors").write_bytes(b"half")
    finish(start(recipe, out, "--resume"))
    assert weights(out) == weights(folder / "whole")


def test_kills_between_steps_of_the_plan(world):
    folder, recipe = world
    out = folder / "between"
    moments = [
        out / "work" / "first" / "rows.parquet",
        out / "work" / "first" / "model",
        out / "work" / "second" / "rows.parquet",
        out / "work" / "final" / "model",
    ]
    for moment in moments:
        kill_when(start(recipe, out, "--resume"), moment.exists)
    finish(start(recipe, out, "--resume"))
    assert weights(out) == weights(folder / "whole")


def test_two_processes_train_on_the_batches_of_one(world, transformer_folder, tmp_path):
    """Cut over two devices, a step has the same batch: the weights are the same up to rounding."""
    import numpy as np
    from safetensors.numpy import load_file

    folder, _ = world
    recipe = tmp_path / "plain.yaml"
    values = two_stages(str(transformer_folder))
    del values["stages"][1], values["model"]["prompts"]
    stage = values["stages"][0]
    # Dropout draws per device, and mixing too: without them both runs compute the same.
    stage["negatives"].update(mixer=None, queue=0)
    stage["objective"] = {"temperature": {"value": 0.1, "learned": True}}
    stage["optimizer"] = "sgd"
    stage["learning_rate"] = 0.05
    values["model"]["base"] = str(without_dropout(transformer_folder, tmp_path / "base"))
    recipe.write_text(yaml.safe_dump(values))
    shutil.copytree(folder / "docs", tmp_path / "docs")
    finish(start(recipe, tmp_path / "one"))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "29631", "-m", "embedworks", "train", str(recipe)]
    command += ["--out", str(tmp_path / "two"), "--data-root", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    one, two = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two")
    )
    base = load_file(tmp_path / "base" / "model.safetensors")
    moved = max(float(np.abs(one[name] - base[name]).max()) for name in one)
    assert moved > 1e-3
    for name in one:
        np.testing.assert_allclose(two[name], one[name], atol=moved * 1e-3)


def without_dropout(model: Path, target: Path) -> Path:
    shutil.copytree(model, target)
    config = json.loads((target / "config.json").read_text())
    config.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    (target / "config.json").write_text(json.dumps(config))
    (target / "golden.json").unlink(missing_ok=True)
    return target
