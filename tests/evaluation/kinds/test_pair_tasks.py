"""Pair classification against scikit-learn and slow loops."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import EmptyInputError, InputError, NonFiniteError
from embedworks.evaluation import (
    EncoderSystem,
    PairClassificationTask,
    Resampling,
    TaskResult,
)

sklearn_metrics = pytest.importorskip("sklearn.metrics")

FEW = Resampling(n_resamples=100)


class Angles:
    """Texts are angles in degrees."""

    def encode(self, texts):
        angles = np.deg2rad([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def system(model=None):
    return EncoderSystem(model or Angles(), name="angles", fingerprint="angles")


def task_of(angles, labels, **options):
    return PairClassificationTask(
        "toy", [("0", str(a), label) for a, label in zip(angles, labels)], **options
    )


def cosines(angles):
    vectors = Angles().encode(["0", *map(str, angles)]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.einsum("d,nd->n", vectors[0].astype(float), vectors[1:].astype(float))


def slow_best(scores, labels):
    """Best F1 and accuracy over every threshold, "none above" included."""
    best_f1 = best_accuracy = 0.0
    for threshold in [*scores, max(scores) + 1]:
        said = [score >= threshold for score in scores]
        hits = sum(s and y for s, y in zip(said, labels))
        accuracy = sum(s == bool(y) for s, y in zip(said, labels)) / len(labels)
        best_f1 = max(best_f1, 2 * hits / (sum(said) + sum(labels)))
        best_accuracy = max(best_accuracy, accuracy)
    return best_f1, best_accuracy


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 10, 20, 30, 90, 180]), st.integers(0, 1)),
        min_size=2,
        max_size=40,
    ).filter(lambda rows: len({a for a, _ in rows}) > 1 and len({y for _, y in rows}) > 1)
)
@settings(max_examples=40, deadline=None)
def test_equals_scikit_learn_and_slow_loops_with_ties(rows):
    angles, labels = zip(*rows)
    scores = task_of(angles, labels).run(system(), FEW).scores
    cosine = cosines(angles)
    expected = sklearn_metrics.average_precision_score(labels, cosine)
    assert scores["ap"].interval.mean == pytest.approx(expected, abs=1e-9)
    f1, accuracy = slow_best(cosine, labels)
    assert scores["best-f1"].interval.mean == pytest.approx(f1, abs=1e-9)
    assert scores["best-accuracy"].interval.mean == pytest.approx(accuracy, abs=1e-9)


def test_resamples_equal_scikit_learn_too():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, size=30)
    angles = rng.integers(0, 8, size=30) * 10 + 5 * labels
    score = task_of(angles, labels).run(system(), Resampling(n_resamples=100)).main
    from embedworks._core.seeding import generator

    draws, cosine = generator(0, "statistic", 30), cosines(angles)
    for value in score.replicates[:20]:
        rows = draws.integers(0, 30, size=30)
        expected = sklearn_metrics.average_precision_score(labels[rows], cosine[rows])
        assert value == pytest.approx(expected, abs=1e-9)


def test_failures_and_details_can_be_read():
    result = task_of([0, 5, 10, 80, 85], [1, 1, 0, 0, 1]).run(system(), FEW)
    assert result.metric == "ap"
    assert result.kind == "pair-classification"
    assert result.details["chance"] == pytest.approx(0.6)
    worst = result.failures[0]
    assert worst.expected == ("together",)
    assert "not together" in worst.found[0]
    assert worst.text == "0 / 85"
    restored = TaskResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert restored.to_dict() == result.to_dict()


def test_thresholds_reproduce_their_figures():
    angles, labels = [0, 5, 10, 80, 85, 90], [1, 1, 0, 1, 0, 0]
    result = task_of(angles, labels).run(system(), FEW)
    said = cosines(angles) >= result.details["f1_threshold"]
    assert sklearn_metrics.f1_score(labels, said) == pytest.approx(
        result.scores["best-f1"].interval.mean
    )
    said = cosines(angles) >= result.details["accuracy_threshold"]
    assert sklearn_metrics.accuracy_score(labels, said) == pytest.approx(
        result.scores["best-accuracy"].interval.mean
    )


def test_no_threshold_is_better_than_calling_all_pairs_apart():
    result = task_of([0, 10, 20, 30], [0, 0, 0, 1]).run(system(), FEW)
    assert result.details["accuracy_threshold"] is None
    assert result.scores["best-accuracy"].interval.mean == 0.75


def test_two_systems_are_paired():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, size=60)
    task = task_of(90 - 60 * labels + rng.integers(0, 30, size=60), labels)

    class Noisy(Angles):
        def encode(self, texts):
            noise = np.random.default_rng(0).normal(scale=2, size=(len(texts), 2))
            return super().encode(texts) + noise

    good, bad = task.run(system(), FEW).main, task.run(system(Noisy()), FEW).main
    difference = good.minus(bad, FEW)
    assert difference.is_clear
    assert difference.mean == good.interval.mean - bad.interval.mean


def test_bad_pairs_and_systems():
    with pytest.raises(EmptyInputError, match="no pairs"):
        task_of([], [])
    with pytest.raises(InputError, match="label of pair 1 is 2"):
        task_of([1, 2], [1, 2])
    with pytest.raises(InputError, match="have the label 1"):
        task_of([1, 2], [1, 1])
    with pytest.raises(InputError, match="string"):
        PairClassificationTask("toy", [("a", None, 1), ("a", "b", 0)])
    with pytest.raises(InputError, match=r"angles gives all 2 pairs"):
        task_of([30, 30], [0, 1]).run(system(), FEW)

    class Broken:
        def encode(self, texts):
            return np.full((len(texts), 2), np.nan)

    with pytest.raises(NonFiniteError):
        task_of([1, 2], [0, 1]).run(system(Broken()), FEW)
