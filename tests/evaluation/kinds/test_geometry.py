"""Known shapes, slow loops, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from references.toy_systems import RandomVectors, VectorTable, system_of

from embedworks.errors import EmptyInputError, InputError, ShapeError
from embedworks.evaluation.kinds.geometry import (
    GeometryTask,
    alignment,
    effective_rank,
    geometry_report,
    iso_score,
    k_occurrences,
    linear_cka,
    mean_cosine,
    partition_isotropy,
    uniformity,
)
from embedworks.evaluation.outcomes import Resampling


def _random(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


shapes = st.tuples(st.integers(3, 30), st.integers(2, 12), st.integers(0))


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_figures_agree_with_slow_loops(shape):
    n, d, seed = shape
    vectors = _random(n, d, seed) + 0.3
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    assert mean_cosine(vectors) == pytest.approx(
        np.mean([unit[i] @ unit[j] for i, j in pairs]), abs=1e-5
    )
    potentials = [np.exp(-2 * np.sum((unit[i] - unit[j]) ** 2)) for i, j in pairs]
    assert uniformity(vectors) == pytest.approx(np.log(np.mean(potentials)), abs=1e-4)
    singular = np.linalg.svd(vectors, compute_uv=False)
    shares = singular / singular.sum()
    rank = np.exp(-sum(p * np.log(p) for p in shares if p > 1e-12))
    assert effective_rank(vectors) == pytest.approx(rank, rel=1e-4)
    k = min(3, n - 1)
    counts = np.zeros(n, dtype=int)
    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: -(unit[i] @ unit[j]))
        counts[others[:k]] += 1
    assert k_occurrences(vectors, k).tolist() == counts.tolist()


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_the_iso_score_follows_the_published_steps(shape):
    n, d, seed = shape
    vectors = _random(n, d, seed) * np.linspace(1, 3, d)
    values = np.sort(np.linalg.eigvalsh(np.atleast_2d(np.cov(vectors.T))))[::-1].clip(0)
    normal = np.sqrt(d) * values / np.linalg.norm(values)
    defect = np.linalg.norm(normal - 1) / np.sqrt(2 * (d - np.sqrt(d)))
    share = (d - defect**2 * (d - np.sqrt(d))) ** 2 / d**2
    assert iso_score(vectors) == pytest.approx((d * share - 1) / (d - 1), abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(shapes)
def test_a_rotation_changes_nothing(shape):
    n, d, seed = shape
    vectors = _random(n, d, seed) + 0.5
    turned = vectors @ np.linalg.qr(_random(d, d, seed))[0]
    for figure in (mean_cosine, uniformity, effective_rank, iso_score, partition_isotropy):
        assert figure(turned) == pytest.approx(figure(vectors), abs=2e-3)


def test_gaussian_vectors_are_isotropic():
    report = geometry_report(_random(4000, 16))
    assert report.mean_cosine == pytest.approx(0, abs=0.005)
    assert report.iso_score > 0.98
    assert report.partition_isotropy > 0.8
    assert report.effective_rank > 15.9
    assert report.uniformity < -2.9
    assert abs(report.hubness) < 1.5
    assert report.alignment is None


def test_vectors_of_rank_one_are_not():
    line = np.outer(np.linspace(1, 2, 50), np.ones(16))
    report = geometry_report(line)
    assert report.mean_cosine == pytest.approx(1)
    assert report.iso_score == pytest.approx(0, abs=1e-6)
    assert report.effective_rank == pytest.approx(1)
    assert report.uniformity == pytest.approx(0, abs=1e-6)
    assert report.partition_isotropy < 0.2


def test_a_shift_shows_in_the_cosine_and_not_in_the_iso_score():
    vectors = _random(2000, 16)
    assert mean_cosine(vectors + 5) > 0.9
    assert iso_score(vectors + 5) == pytest.approx(iso_score(vectors), abs=1e-4)


def test_alignment_is_zero_for_equal_partners():
    vectors = _random(20, 4)
    assert alignment(vectors, 3 * vectors) == pytest.approx(0)
    assert alignment(vectors, -vectors) == pytest.approx(4)
    assert alignment(vectors, -vectors, alpha=1) == pytest.approx(2)
    report = geometry_report(vectors, pairs=[(0, 0), (1, 1)])
    assert report.alignment == pytest.approx(0)


def test_turned_spaces_are_alike_and_others_are_not():
    vectors = _random(500, 8)
    turned = 3 * vectors @ np.linalg.qr(_random(8, 8, 1))[0] + 2
    assert linear_cka(vectors, turned) == pytest.approx(1, abs=1e-5)
    assert linear_cka(vectors, _random(500, 12, 2)) < 0.1
    with pytest.raises(ShapeError, match="500 and 3 vectors"):
        linear_cka(vectors, _random(3, 8))
    with pytest.raises(InputError, match="nothing to compare"):
        linear_cka(vectors, np.ones((500, 2)))


def test_a_planted_hub_is_flagged():
    """A vector in the middle of all is near to everything: the sign of a planted document."""
    vectors = _random(400, 64) + 0.4
    vectors[7] = 0.4
    counts = k_occurrences(vectors, 10)
    assert counts.argmax() == 7
    assert counts[7] > 200
    assert geometry_report(vectors).largest_hub == counts[7]
    texts = [f"text {i}" for i in range(400)]
    task = GeometryTask("hub", texts)
    system = system_of(VectorTable(dict(zip(texts, vectors, strict=True))))
    found = task.run(system, Resampling(n_resamples=100))
    assert found.failures[0].text == "text 7"
    assert found.details["largest_hub"] == counts[7]


def test_the_task_has_an_interval_and_counts_what_it_leaves_out():
    texts = [f"text {i}" for i in range(200)]
    table = dict(zip(texts, _random(200, 8) + 1, strict=True))
    table["text 3"] = np.zeros(8)
    task = GeometryTask("toy", [*texts, "text 0"], pairs=[(0, 200), (1, 2)])
    found = task.run(system_of(VectorTable(table)), Resampling(n_resamples=200))
    assert found.excluded == {"texts that are there already": 1, "texts with the zero vector": 1}
    rest = np.stack([v for t, v in table.items() if t != "text 3"])
    assert found.main.interval.mean == pytest.approx(mean_cosine(rest), abs=1e-6)
    assert found.main.interval.low < found.main.interval.mean < found.main.interval.high
    again = [np.random.default_rng(s).normal(size=(199, 8)) + 1 for s in range(60)]
    inside = [found.main.interval.low < mean_cosine(v) < found.main.interval.high for v in again]
    assert np.mean(inside) > 0.75  # the interval speaks of other texts of the kind


def test_random_vectors_pass_as_a_system():
    task = GeometryTask("toy", [f"text {i}" for i in range(100)])
    found = task.run(system_of(RandomVectors()), Resampling(n_resamples=100))
    assert abs(found.main.interval.mean) < 0.02


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="is the zero vector"):
        mean_cosine(np.array([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(EmptyInputError, match="At least 2"):
        uniformity(np.ones((1, 3)))
    with pytest.raises(InputError, match="All vectors are zero"):
        effective_rank(np.zeros((3, 3)))
    with pytest.raises(InputError, match="All vectors are zero"):
        partition_isotropy(np.zeros((3, 3)))
    with pytest.raises(InputError, match="no variance"):
        iso_score(np.ones((3, 3)))
    with pytest.raises(ShapeError, match="2 dimensions"):
        iso_score(np.ones((3, 1)))
    with pytest.raises(InputError, match="at most 2 neighbours"):
        k_occurrences(_random(3, 3), k=3)
    with pytest.raises(ShapeError, match="Partners"):
        alignment(_random(3, 3), _random(4, 3))
    with pytest.raises(EmptyInputError, match="needs 3 vectors"):
        geometry_report(np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]))
    with pytest.raises(InputError, match="outside"):
        geometry_report(_random(5, 3), pairs=[(0, 5)])
    with pytest.raises(EmptyInputError, match="20 different texts, got 2"):
        GeometryTask("few", ["a", "b", "a"])
    with pytest.raises(InputError, match="none of its 30 texts"):
        GeometryTask("pairs", [str(i) for i in range(30)], pairs=[(0, 30)])
