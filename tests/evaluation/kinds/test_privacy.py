"""Defences: what they do to vectors, what epsilon they have, and the curve."""

from __future__ import annotations

import math

import numpy as np
import pytest
from references.toy_systems import BagOfWords, system_of

from embedworks.errors import DuplicateIdError, InputError
from embedworks.evaluation import InversionTask, Resampling, RetrievalTask
from embedworks.evaluation.kinds.privacy import (
    binary_vectors,
    gaussian_epsilon,
    gaussian_noise,
    int8_vectors,
    leakage_curve,
    rounded_vectors,
)

FEW = Resampling(n_resamples=100)


def _unit(n=40, d=16, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _failure_probability(sigma, epsilon, sensitivity=2.0, steps=400_001):
    """Return delta by integrating what one Gaussian has above e^epsilon times the other."""
    x = np.linspace(-12 * sigma, 12 * sigma + sensitivity, steps)
    p = np.exp(-((x - sensitivity) ** 2) / (2 * sigma**2))
    q = np.exp(-(x**2) / (2 * sigma**2))
    density = np.maximum(p - np.exp(epsilon) * q, 0.0) / (sigma * math.sqrt(2 * math.pi))
    return float(density.sum() * (x[1] - x[0]))


@pytest.mark.parametrize("sigma", [0.5, 2.0, 10.0])
@pytest.mark.parametrize("delta", [1e-5, 1e-2])
def test_epsilon_has_the_delta_it_says(sigma, delta):
    epsilon = gaussian_epsilon(sigma, delta=delta)
    assert _failure_probability(sigma, epsilon) == pytest.approx(delta, rel=1e-3)


def test_epsilon_is_below_the_classical_bound_where_that_holds():
    for sigma in (12.0, 20.0, 50.0):
        classical = math.sqrt(2 * math.log(1.25 / 1e-5)) * 2 / sigma
        assert classical < 1
        assert gaussian_epsilon(sigma) < classical
    assert gaussian_epsilon(0.02) > gaussian_epsilon(0.2) > gaussian_epsilon(2.0)
    assert gaussian_epsilon(1e6, delta=0.1) == 0
    with pytest.raises(InputError, match="sigma"):
        gaussian_epsilon(0.0)


def test_noise_has_its_length_and_is_the_text_s_own():
    vectors = _unit(200, 64)
    noise = gaussian_noise(0.5, dimension=64, seed=1)
    lengths = np.linalg.norm(noise(vectors) - vectors, axis=1)
    assert lengths.mean() == pytest.approx(0.5, rel=0.05)
    assert np.array_equal(noise(vectors)[::-1], noise(vectors[::-1]))  # in any order
    assert np.array_equal(noise(vectors), gaussian_noise(0.5, dimension=64, seed=1)(vectors))
    other = gaussian_noise(0.5, dimension=64, seed=2)(vectors)
    added, another = noise(vectors) - vectors, other - vectors
    assert abs(np.corrcoef(added.ravel(), another.ravel())[0, 1]) < 0.05
    assert abs(np.corrcoef(added[0], added[1])[0, 1]) < 0.5
    assert f"epsilon {noise.about['epsilon']:.3g}" in noise.name
    with pytest.raises(InputError, match="made for 64 dimensions, the vectors have 16"):
        noise(_unit())
    with pytest.raises(InputError, match="scale"):
        gaussian_noise(0.0, dimension=4)


def test_zero_vectors_stay_zero():
    zero = np.zeros((1, 8))
    for transform in (gaussian_noise(1.0, dimension=8), binary_vectors(), int8_vectors(),
                      rounded_vectors(2)):  # fmt: skip
        assert not transform(zero).any()


def test_the_fewer_bits_the_further_from_the_original():
    vectors = _unit(100, 64)
    cosines = []
    for transform in (int8_vectors(), rounded_vectors(2), rounded_vectors(1), binary_vectors()):
        changed = transform(vectors)
        assert changed.dtype == np.float32
        norms = np.linalg.norm(changed, axis=1)
        cosines.append(float(((changed * vectors).sum(axis=1) / norms).mean()))
    assert cosines == sorted(cosines, reverse=True)
    assert cosines[0] > 0.9999
    assert set(np.unique(binary_vectors()(vectors))) == {-1.0, 1.0}
    assert len(np.unique(int8_vectors()(vectors)[0])) <= 255
    assert np.allclose(int8_vectors()(vectors), int8_vectors()(7 * vectors))


NOUNS = ["tea", "rye", "oat", "fig", "yam", "nut", "egg", "ham", "pea", "soy"]
LOOKS = ["red", "old", "hot", "raw", "big", "dry", "wet", "new", "odd", "shy"]
TEXTS = [f"{look} {noun} {place}" for look in LOOKS for noun in NOUNS for place in ("inn", "bar")]


def _tasks():
    corpus = {f"d{i}": text for i, text in enumerate(TEXTS)}
    queries = {f"q{i}": " ".join(TEXTS[i].split()[::-1][:2]) for i in range(0, 200, 5)}
    qrels = {q: {f"d{int(q[1:])}": 1} for q in queries}
    return InversionTask("read", TEXTS, max_share=0.2), RetrievalTask("use", queries, corpus, qrels)


def test_more_noise_leaks_less_and_is_worth_less():
    system = system_of(BagOfWords(dim=64))
    transforms = [gaussian_noise(scale, dimension=64) for scale in (0.3, 1.0, 8.0)]
    points = leakage_curve(system, transforms, *_tasks(), FEW)
    assert points[0].name == "as they are"
    assert points[0].leakage_share == points[0].utility_share == 1
    leaks = [point.leakage.interval.mean for point in points]
    uses = [point.utility.interval.mean for point in points]
    assert leaks == sorted(leaks, reverse=True)
    assert uses[0] >= uses[-1]
    assert points[-1].leakage_share < 0.5
    epsilons = [point.about["epsilon"] for point in points[1:]]
    assert epsilons == sorted(epsilons, reverse=True)
    shown = points[1].to_dict()
    assert shown["about"]["epsilon"] == epsilons[0]
    assert shown["leakage"]["mean"] == leaks[1]
    assert system.encode(["tea"]).any()  # the system itself is as it was


def test_names_must_differ():
    with pytest.raises(DuplicateIdError):
        leakage_curve(system_of(BagOfWords()), [binary_vectors()] * 2, *_tasks(), FEW)
