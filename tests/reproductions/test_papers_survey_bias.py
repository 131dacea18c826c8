"""The planted words, what is removed from them, and a very small run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embedworks.reproductions import ReproductionResult, reproduce
from embedworks.reproductions.papers.survey_bias import (
    ENTRIES,
    bias_direction,
    erase_linear,
    planted_words,
    remove,
)

(ENTRY,) = ENTRIES


def test_nothing_of_the_directions_is_left():
    rng = np.random.default_rng(0)
    vectors, directions = rng.normal(size=(9, 6)), rng.normal(size=(3, 6))
    left = remove(vectors, directions)
    assert np.allclose(left @ directions.T, 0)
    assert np.allclose(remove(left, directions), left)
    assert np.linalg.matrix_rank(left) == 3


def test_the_direction_is_the_planted_one():
    rng = np.random.default_rng(0)
    planted = np.eye(8)[2]
    middle = rng.normal(size=(10, 8))
    pairs = np.stack([middle + planted, middle - planted], axis=1)
    pairs += 0.05 * rng.normal(size=pairs.shape)
    assert abs(bias_direction(pairs) @ planted) > 0.99


def test_classifiers_find_each_direction_once():
    rng = np.random.default_rng(0)
    labels = np.repeat([1, -1], 100)
    vectors = rng.normal(size=(200, 6))
    vectors[:, :2] += 2 * labels[:, None]
    found = erase_linear(vectors, labels, rounds=3)
    assert np.allclose(np.abs(found @ found.T), np.eye(3), atol=0.05)
    left = remove(vectors, found)
    assert abs(left[labels > 0].mean(axis=0) - left[labels < 0].mean(axis=0)).max() < 0.3


def test_groups_and_leans_are_as_planted():
    strong = planted_words(1.0, jobs=40, sentences=20_000, dim=20, seed=0)
    assert strong.jobs.shape == (40, 20)
    assert strong.definitional.shape == (10, 2, 20)
    assert strong.leans.sum() == 0
    axis = (strong.definitional[:, 1] - strong.definitional[:, 0]).mean(axis=0)
    assert np.corrcoef(strong.jobs @ axis, strong.leans)[0, 1] > 0.8
    none = planted_words(0.0, jobs=40, sentences=20_000, dim=20, seed=0)
    axis = (none.definitional[:, 1] - none.definitional[:, 0]).mean(axis=0)
    assert abs(np.corrcoef(none.jobs @ axis, none.leans)[0, 1]) < 0.5


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_very_small_run(tmp_path):
    settings = {"strength": 0.9, "jobs": 60, "sentences": 4000, "dim": 10, "rounds": 2}
    small = replace(ENTRY, scales={"mini": settings}, seeds=2)
    result = reproduce(small, out=tmp_path, device="cpu")
    assert ReproductionResult.load(tmp_path / "survey-bias-mini.json") == result
    assert (tmp_path / "survey-bias.md").is_file()
