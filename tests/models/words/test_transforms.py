"""Transforms against slow loops and planted structure; transformed models load as models."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.errors import DataWarning, EmptyInputError, FormatError, InputError, ShapeError
from embedworks.models import (
    CountModel,
    TransformedModel,
    VectorTransform,
    fit_component_removal,
    fit_hard_debiasing,
    fit_leace,
    fit_procrustes,
    fit_whitening,
    load,
    model_fingerprint,
    random_projection,
)

RNG = np.random.default_rng(0)
MIXED = RNG.normal(size=(400, 6)) @ RNG.normal(size=(6, 6)) + RNG.normal(size=6)
TEXTS = ["red apple pie", "red car", "blue sky", "blue car", "apple tart", "grey sky"]


def slow_covariance(rows: np.ndarray) -> np.ndarray:
    mean = [sum(column) / len(rows) for column in rows.T.astype(np.float64)]
    total = np.zeros((rows.shape[1], rows.shape[1]))
    for row in rows:
        for i in range(len(row)):
            for j in range(len(row)):
                total[i, j] += (row[i] - mean[i]) * (row[j] - mean[j]) / len(rows)
    return total


@pytest.mark.parametrize("dim", [None, 3])
def test_whitened_vectors_have_unit_covariance(dim):
    white = fit_whitening(MIXED, dim=dim)(MIXED)
    assert white.shape == (400, dim or 6)
    np.testing.assert_allclose(slow_covariance(white), np.eye(dim or 6), atol=1e-4)
    kept = slow_covariance(MIXED)
    best = np.sort(np.linalg.eigvalsh(kept))[::-1][: dim or 6]
    axes = fit_whitening(MIXED, dim=dim).matrix
    np.testing.assert_allclose(np.diag(axes.T @ kept @ axes), 1.0, atol=1e-8)
    np.testing.assert_allclose((axes**2).sum(axis=0), 1 / best, rtol=1e-6)


def test_directions_without_variance_are_not_blown_up():
    flat = MIXED.copy()
    flat[:, 5] = flat[:, 4]
    assert np.abs(fit_whitening(flat)(flat)).max() < 10


def test_removed_components_are_gone_and_nothing_else_moves():
    removal = fit_component_removal(MIXED, count=2)
    left = removal(MIXED).astype(np.float64)
    values = np.sort(np.linalg.eigvalsh(slow_covariance(MIXED)))
    remaining = np.sort(np.linalg.eigvalsh(slow_covariance(left)))
    np.testing.assert_allclose(remaining[:2], 0, atol=1e-5)
    np.testing.assert_allclose(remaining[2:], values[:4], rtol=1e-3)
    raw = fit_component_removal(MIXED, count=1, centre=False)
    vector = np.ones(6)
    for _ in range(3000):  # power iteration finds the same first singular vector
        vector = MIXED.T @ (MIXED @ vector)
        vector /= np.linalg.norm(vector)
    np.testing.assert_allclose(raw(MIXED), MIXED - np.outer(MIXED @ vector, vector), atol=1e-4)


def test_a_planted_rotation_is_recovered():
    rotation = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
    found = fit_procrustes(MIXED[:50], MIXED[:50] @ rotation)
    np.testing.assert_allclose(found.matrix, rotation, atol=1e-6)
    np.testing.assert_allclose(found.matrix @ found.matrix.T, np.eye(6), atol=1e-10)


def test_debiasing_takes_the_planted_direction_out():
    direction = np.eye(6)[2]
    shared = RNG.normal(size=(30, 6)) * (1 - direction)
    gaps = RNG.uniform(1, 2, size=(30, 1))
    debias = fit_hard_debiasing(shared + gaps * direction, shared - gaps * direction)
    moved = debias(MIXED)
    np.testing.assert_allclose(moved @ direction, 0, atol=1e-5)
    np.testing.assert_allclose(moved[:, [0, 1, 3, 4, 5]], MIXED[:, [0, 1, 3, 4, 5]], atol=1e-5)


def test_leace_leaves_no_class_mean_and_changes_less_than_projecting():
    labels = np.array(["a", "b", "c"])[RNG.integers(3, size=400)]
    means = {name: RNG.normal(size=6) for name in "abc"}
    rows = MIXED + np.array([means[label] for label in labels])
    erased = fit_leace(rows, labels)(rows).astype(np.float64)
    for name in "abc":  # equal class means: a linear probe has nothing to go by
        np.testing.assert_allclose(
            erased[labels == name].mean(axis=0), rows.mean(axis=0), atol=1e-4
        )
    centres = np.array([rows[labels == name].mean(axis=0) for name in "abc"])
    axes = np.linalg.svd(centres - centres.mean(axis=0))[2][:2]
    centred = rows - rows.mean(axis=0)
    projected = rows - centred @ axes.T @ axes
    assert ((erased - rows) ** 2).sum() < ((projected - rows) ** 2).sum()


def test_zero_vectors_stay_zero_and_inputs_stay_as_they_were():
    rows = MIXED.copy()
    rows[3] = 0
    before = rows.copy()
    assert not fit_whitening(MIXED)(rows)[3].any()
    np.testing.assert_array_equal(rows, before)


def test_a_transformed_model_is_a_model(tmp_path):
    base = CountModel.fit(TEXTS)
    vectors = base.encode(TEXTS)
    first = fit_component_removal(vectors)
    model = TransformedModel(base, [first, fit_whitening(first(vectors), dim=3)])
    again = load(model.save_pretrained(tmp_path / "model"))
    assert isinstance(again, TransformedModel)
    np.testing.assert_allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-6)
    np.testing.assert_array_equal(model.encode_query(TEXTS), model.encode(TEXTS))
    assert model_fingerprint(again) == model_fingerprint(model)
    assert model_fingerprint(model) != model_fingerprint(TransformedModel(base, [first]))
    with pytest.warns(DataWarning, match="1 of 2 texts have no token"):
        assert not model.encode(["zzz", "red"])[0].any()
    assert model.encode([]).shape == (0, 3)
    (tmp_path / "model" / "model" / "model.safetensors").write_bytes(b"")
    with pytest.raises(FormatError):
        load(tmp_path / "model")


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="no variance"):
        fit_whitening(np.ones((3, 2)))
    with pytest.raises(InputError, match="dim must be"):
        fit_whitening(MIXED, dim=7)
    with pytest.raises(ShapeError, match="partner"):
        fit_procrustes(MIXED, MIXED[1:])
    with pytest.raises(InputError, match="two different labels"):
        fit_leace(MIXED, ["a"] * 400)
    with pytest.raises(InputError, match="nothing tells them apart"):
        fit_hard_debiasing(MIXED, MIXED)
    with pytest.raises(ShapeError, match="matrix has shape"):
        VectorTransform("odd", np.zeros(2), np.eye(3), np.zeros(3))
    with pytest.raises(EmptyInputError, match="At least one transform"):
        TransformedModel(CountModel.fit(TEXTS), [])
    with pytest.raises(ShapeError, match="gives 2 dimensions"):
        white = fit_whitening(MIXED, dim=2)
        TransformedModel(CountModel.fit(TEXTS), [white, white])


def test_random_projection_keeps_all_distances_within_the_bound():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((40, 600)) * rng.random(600)
    eps = 0.5
    # Per pair, each side fails with chance exp(-(eps^2 - eps^3) dim / 4) at most: 780 pairs, 1e-4.
    dim = int(np.ceil(4 * np.log(2 * 780 / 1e-4) / (eps**2 - eps**3)))
    moved = random_projection(600, dim, seed=3)(points)
    before, after = (
        np.square(rows[:, None] - rows[None]).sum(axis=2)[np.triu_indices(40, 1)]
        for rows in (points, moved.astype(np.float64))
    )
    assert (np.abs(after / before - 1) < eps).all()


def test_random_projection_is_right_on_average_and_repeats():
    point = np.random.default_rng(1).standard_normal((1, 50))
    squares = [
        float(np.square(random_projection(50, 8, seed=seed)(point)).sum()) for seed in range(600)
    ]
    ratio = np.array(squares) / np.square(point).sum()
    assert abs(ratio.mean() - 1) < 4 * (2 / 8) ** 0.5 / 600**0.5
    assert ratio.std() == pytest.approx((2 / 8) ** 0.5, rel=0.15)
    first, again = random_projection(50, 8), random_projection(50, 8)
    assert (first.matrix == again.matrix).all()
    with pytest.raises(InputError, match="dim"):
        random_projection(8, 9)
