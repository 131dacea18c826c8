"""Numeracy probes: perfect on vectors that hold the numbers, at chance on vectors that do not."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.errors import InputError
from embedworks.evaluation import EncoderSystem, NumeracyTask, Resampling
from embedworks.models import dice_vectors, magnitude_vectors

LISTS = 400


class Numbers:
    """Vectors made from the number in a text by a function."""

    def __init__(self, make):
        self.make = make

    def encode(self, texts):
        return self.make(np.array([float(text.split()[-1]) for text in texts]))


def figures(make, **options):
    task = NumeracyTask("numbers", low=1, high=4000, lists=LISTS, template="about {}", **options)
    result = task.run(EncoderSystem(Numbers(make), name="made", fingerprint="made"), Resampling())
    return {name: score.interval.mean for name, score in result.scores.items()}, result


@pytest.mark.parametrize("make", [dice_vectors, magnitude_vectors])
def test_vectors_of_numbers_are_read(make):
    found, result = figures(lambda values: make(values, low=1, high=4000))
    assert found["list-maximum"] > 0.95
    assert found["comparison"] > 0.95
    assert found["decoding"] > 0.98
    assert found["addition"] > 0.98
    assert result.details["decoding_rmse"] < 0.15 * 4000


def test_random_vectors_are_at_chance():
    rng = np.random.default_rng(0)
    found, result = figures(lambda values: rng.standard_normal((len(values), 64)))
    assert abs(found["list-maximum"] - 0.2) < 4 * (0.2 * 0.8 / LISTS) ** 0.5
    assert abs(found["comparison"] - 0.5) < 4 * 0.5 / LISTS**0.5
    assert found["decoding"] < 0.05
    assert found["addition"] < 0.05
    assert result.details["chance"] == pytest.approx(0.2)
    assert result.failures
    assert result.failures[0].found != result.failures[0].expected


def test_figures_are_those_of_the_plain_rules():
    """A vector that is the number itself, negated and noised: judged by hand."""
    noise = np.random.default_rng(1).normal(0, 400, 5000)
    task = NumeracyTask("n", low=0, high=4999, lists=50, length=3)
    system = EncoderSystem(
        Numbers(lambda v: np.stack([noise[v.astype(int)] - v, np.ones(len(v))], axis=1)),
        name="x",
        fingerprint="x",
    )
    result = task.run(system, Resampling())
    reading = {value: value - noise[value] for value in task.test.tolist()}
    hits = [
        max(row, key=reading.__getitem__) == max(row) for row in task.test[task._lists].tolist()
    ]
    assert 0 < sum(hits) < 50
    assert result.main.interval.mean == pytest.approx(sum(hits) / 50)


def test_train_and_test_do_not_meet_and_bad_settings_are_refused():
    task = NumeracyTask("n", low=-50, high=9999, spell=lambda n: f"n{n}")
    assert not set(task.train) & set(task.test)
    assert task.texts()[0] == f"n{task.train[0]}"
    with pytest.raises(InputError, match="100 numbers"):
        NumeracyTask("n", low=0, high=99)
    with pytest.raises(InputError, match="needs a"):
        NumeracyTask("n", template="no place")
    with pytest.raises(InputError, match="length"):
        NumeracyTask("n", length=1)


def test_sums_are_read_as_well_as_numbers_from_wide_noisy_vectors():
    """Pairs share numbers: a strength chosen on pairs left out would fit the noise of them all."""
    rng = np.random.default_rng(0)

    def wide(values):
        signal = np.outer(values / 2000 - 1, rng.standard_normal(300))
        return signal + 5 * rng.standard_normal((len(values), 300))

    found, _ = figures(wide, train=300)
    assert 0.3 < found["decoding"] < 0.95
    assert found["addition"] > found["decoding"] - 0.15
    assert found["comparison"] > 0.7
