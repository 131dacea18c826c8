"""Averages of checkpoints, in files and during a training."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import embedworks as ew
from embedworks.errors import DataWarning, InputError, NotFoundError
from embedworks.merging import ema, ema_weights, find_checkpoints, linear, merge_models, swa


def table(folder):
    (value,) = load_file(folder / "model.safetensors").values()
    return value


@pytest.fixture
def run(tmp_path, static_folder, varied):
    """A training's output: checkpoints whose names do not sort as their steps do."""
    folder = tmp_path / "run"
    for step in (5, 10, 100, 20):
        varied(static_folder, f"run/checkpoint-{step}", step, size=0.3)
    (folder / "checkpoint-last").mkdir()
    (folder / "checkpoint-7").write_text("a file")
    return folder


def test_ema_weights_are_the_recursion_written_out():
    for decay in (0.0, 0.3, 0.999):
        values = np.random.default_rng(0).normal(size=6)
        average = values[0]
        for value in values[1:]:
            average = decay * average + (1 - decay) * value
        weights = ema_weights(6, decay)
        assert sum(weights) == pytest.approx(1)
        assert values @ weights == pytest.approx(average, abs=1e-12)
    assert ema_weights(1, 0.9) == [1.0]
    for bad in (1.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="decay must be"):
            ema_weights(3, bad)
    with pytest.raises(InputError, match="at least 1"):
        ema_weights(0, 0.5)


def test_checkpoints_are_averaged_in_the_order_of_their_steps(tmp_path, run):
    steps = [run / f"checkpoint-{step}" for step in (5, 10, 20, 100)]
    assert find_checkpoints(run) == steps
    report = ema(run, tmp_path / "out", decay=0.5)
    expected = linear([table(path) for path in steps], [0.125, 0.125, 0.25, 0.5])
    np.testing.assert_allclose(table(tmp_path / "out"), expected, atol=1e-6)
    ew.load(tmp_path / "out")  # checks the golden vectors
    stored = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert (stored["method"], stored["options"]) == ("ema", {"decay": 0.5})
    assert [item.path for item in report.inputs] == steps
    turned = ema(steps[::-1], tmp_path / "turned", decay=0.5)
    assert turned.files != report.files


def test_a_window_is_the_plain_mean_of_the_last(tmp_path, run):
    report = swa(run, tmp_path / "out", window=2)
    last = [run / "checkpoint-20", run / "checkpoint-100"]
    assert [item.path for item in report.inputs] == last
    assert report.files == merge_models(last, tmp_path / "same").files
    assert len(swa(run, tmp_path / "all").inputs) == 4
    with pytest.raises(InputError, match="only 4 checkpoints"):
        swa(run, tmp_path / "x", window=5)
    with pytest.raises(InputError, match="at least 1"):
        swa(run, tmp_path / "x", window=0)
    assert not (tmp_path / "x").exists()


def test_files_are_averaged_too(tmp_path):
    files = []
    for value in range(3):
        files.append(tmp_path / f"{value}.safetensors")
        save_file({"w": np.full(2, value, np.float32)}, files[-1])
    report = ema(files, tmp_path / "out.safetensors", decay=0.5)
    np.testing.assert_allclose(load_file(tmp_path / "out.safetensors")["w"], 1.25)
    assert report.method == "ema"


def test_checkpoints_of_a_training_hold_more_than_a_model(tmp_path, run):
    """What this package's stages and transformers' trainer leave there is not averaged."""
    for number, path in enumerate(sorted(run.glob("checkpoint-*0*"))):
        save_file({"queue": np.full(2, number)}, path / "objective.safetensors")
        for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "trainer_state.json"):
            (path / name).write_text(str(number))
        (path / "complete.json").write_text("{}")
    with pytest.warns(DataWarning, match=r"1 of 4 .* cut short.*checkpoint-5"):
        report = swa(run, tmp_path / "out")
    assert len(report.inputs) == 3
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not names & {"objective.safetensors", "complete.json", "optimizer.pt"}
    assert "objective.safetensors" in report.left_out


def test_what_cannot_be_averaged(tmp_path, run):
    with pytest.raises(NotFoundError, match="no folders checkpoint-STEP"):
        ema(tmp_path / "nowhere", tmp_path / "x")
    with pytest.raises(NotFoundError, match="no folders checkpoint-STEP"):
        ema(run / "checkpoint-5", tmp_path / "x")
    with pytest.raises(InputError, match="at least one checkpoint"):
        swa([], tmp_path / "x")
    with pytest.raises(InputError, match="lie in one another"):
        swa(run, run / "checkpoint-5" / "mean")
    weights = run / "checkpoint-20" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="half written"):
        ema(run, tmp_path / "x")
    shutil.rmtree(run / "checkpoint-20")
    ema(run, tmp_path / "x")


def test_the_callback_averages_every_step_of_a_real_training(tmp_path, transformer_folder):
    pytest.importorskip("torch")
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
    from transformers import TrainerCallback

    from embedworks.losses import ContrastiveLoss
    from embedworks.merging import EmaCallback

    def weights(model):
        return {n: p.detach().float().numpy().copy() for n, p in model.named_parameters()}

    class Watch(TrainerCallback):
        seen: tuple = ()

        def on_train_begin(self, args, state, control, model=None, **_):
            self.seen = (weights(model),)

        def on_step_end(self, args, state, control, model=None, **_):
            self.seen += (weights(model),)

    model = SentenceTransformer(str(transformer_folder), device="cpu")
    frozen = "0.model.embeddings.word_embeddings.weight"
    model.get_parameter(frozen).requires_grad_(False)
    watch, average = Watch(), EmaCallback(decay=0.6, every=2)
    anchors = [f"open file {n}" for n in range(8)]
    positives = [f"read text number {n}" for n in range(8)]
    trainer = SentenceTransformerTrainer(
        model=model,
        args=Arguments(
            output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=2, use_cpu=True,
            learning_rate=0.05, report_to=[], save_strategy="no", disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"anchor": anchors, "positive": positives}),
        loss=ContrastiveLoss(model),
        callbacks=[watch, average],
    )  # fmt: skip
    trainer.train()
    assert len(watch.seen) == 5
    after = weights(model)
    moved = 0
    for name, value in after.items():
        expected = watch.seen[0][name]
        for step in (2, 4):
            expected = 0.6 * expected + 0.4 * watch.seen[step][name]
        np.testing.assert_allclose(value, expected, atol=1e-6, err_msg=name)
        moved += not np.allclose(value, watch.seen[4][name], atol=1e-4)
    assert moved > 20
    assert frozen not in average.average
    average.swap(model)  # the last weights are not lost
    for name, value in weights(model).items():
        np.testing.assert_allclose(value, watch.seen[4][name], atol=1e-7)


def test_the_callback_keeps_small_steps_in_half_precision():
    torch = pytest.importorskip("torch")
    from embedworks.merging import EmaCallback

    layer = torch.nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    average = EmaCallback(decay=0.999)
    with pytest.raises(InputError, match="no average yet"):
        average.swap(layer)
    torch.nn.init.ones_(layer.weight)
    average.update(layer)
    torch.nn.init.constant_(layer.weight, 2.0)
    for _ in range(1000):
        average.update(layer)
    (value,) = average.average.values()
    assert float(value) == pytest.approx(2 - 0.999**1000, rel=1e-4)  # 1.0 if kept in bfloat16
    for bad in (1.0, 2.0):
        with pytest.raises(InputError, match="decay must be"):
            EmaCallback(bad)
    with pytest.raises(InputError, match="at least 1"):
        EmaCallback(every=0)
