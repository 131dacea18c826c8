from __future__ import annotations

import shutil

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")

from embedworks.errors import EmptyInputError, ShapeError
from embedworks.models import load
from embedworks.training import train_transformer
from embedworks.training.settings import TransformerSettings
from embedworks.training.transformer import measure_step_seconds

SETTINGS = TransformerSettings(batch_size=8, max_tokens=16, learning_rate=1e-3)
ANCHORS = [f"read file number {i}" for i in range(40)]
POSITIVES = [f"open the archive {i} and return its text" for i in range(40)]


def test_training_changes_the_model_and_lowers_the_loss(transformer_folder, tmp_path):
    model = load(str(transformer_folder))
    before = model.encode(ANCHORS)
    losses = train_transformer(
        model, ANCHORS, POSITIVES, steps=30, settings=SETTINGS, checkpoints=tmp_path / "c"
    )
    assert np.mean([e["loss"] for e in losses[-5:]]) < np.mean([e["loss"] for e in losses[:5]])
    assert np.abs(model.encode(ANCHORS) - before).max() > 1e-3
    assert model.max_seq_length == 64


def test_a_resumed_training_ends_with_the_same_weights(transformer_folder, tmp_path):
    def train(folder):
        model = load(str(transformer_folder))
        train_transformer(
            model,
            ANCHORS,
            POSITIVES,
            POSITIVES[::-1],
            steps=10,
            settings=SETTINGS,
            checkpoints=folder,
            seed=3,
        )
        return model.encode(ANCHORS)

    whole = train(tmp_path / "a")
    # What a kill leaves: an early whole checkpoint, and a later one cut short.
    shutil.rmtree(tmp_path / "a" / "checkpoint-10")
    (tmp_path / "a" / "checkpoint-9").mkdir()
    resumed = train(tmp_path / "a")
    np.testing.assert_array_equal(whole, resumed)
    assert not (tmp_path / "a" / "checkpoint-9").exists()


def test_timing_a_step_leaves_the_model_alone(transformer_folder):
    model = load(str(transformer_folder))
    before = model.encode(ANCHORS)
    assert measure_step_seconds(model, ANCHORS[:3], POSITIVES[:3], settings=SETTINGS) > 0
    np.testing.assert_array_equal(model.encode(ANCHORS), before)
    assert not model.training


def test_bad_input_is_explained(transformer_folder, tmp_path):
    model = load(str(transformer_folder))
    with pytest.raises(EmptyInputError, match="no training pairs"):
        train_transformer(model, [], [], steps=1, settings=SETTINGS, checkpoints=tmp_path)
    with pytest.raises(ShapeError, match="one text per pair"):
        train_transformer(model, ["a"], [], steps=1, settings=SETTINGS, checkpoints=tmp_path)
