"""Maps of vectors: agreement with an SVD, determinism, degenerate input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import EmptyInputError, InputError, NonFiniteError, ShapeError
from embedworks.evaluation import project_2d


@settings(max_examples=30, deadline=None)
@given(n=st.integers(3, 40), d=st.integers(2, 12), seed=st.integers(0, 50))
def test_equals_an_svd_up_to_sign(n, d, seed):
    rows = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    points = project_2d(rows)
    u, s, _ = np.linalg.svd(rows - rows.mean(axis=0, dtype=np.float64), full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(u[:, :2] * s[:2]), atol=1e-4)


def test_sign_does_not_depend_on_row_order():
    rows = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    order = np.random.default_rng(1).permutation(50)
    np.testing.assert_allclose(project_2d(rows)[order], project_2d(rows[order]), atol=1e-6)


def test_blocks_do_not_matter(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    whole, layout = project_2d(rows), project_2d(rows, layout_steps=5)
    monkeypatch.setattr("embedworks.evaluation.reports.projection._BLOCK", 7)
    np.testing.assert_allclose(project_2d(rows), whole, atol=1e-9)
    np.testing.assert_allclose(project_2d(rows, layout_steps=5), layout, atol=1e-5)


def test_degenerate_input():
    assert project_2d(np.ones((1, 4))).tolist() == [[0.0, 0.0]]
    assert not project_2d(np.full((5, 4), 0.3), layout_steps=3).any()
    line = project_2d(np.arange(4.0)[:, None])
    assert line.shape == (4, 2)
    assert not line[:, 1].any()
    assert project_2d(np.eye(3), layout_steps=5).shape == (3, 2)
    with pytest.raises(EmptyInputError):
        project_2d(np.zeros((0, 4)))
    with pytest.raises(ShapeError):
        project_2d(np.zeros(4))
    with pytest.raises(NonFiniteError):
        project_2d(np.array([[1.0, np.nan]]))
    with pytest.raises(InputError, match="layout_steps"):
        project_2d(np.eye(3), layout_steps=-1)
    with pytest.raises(InputError, match="sample"):
        project_2d(np.zeros((20_001, 1)), layout_steps=1)


def test_layout_is_seeded_finite_and_keeps_groups_together():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 16)) * 3
    labels = np.repeat(np.arange(5), 30)
    rows = (centres[labels] + rng.normal(size=(150, 16))).astype(np.float32)
    before = rows.copy()
    points = project_2d(rows, seed=1, layout_steps=100)
    assert np.array_equal(rows, before)
    assert np.isfinite(points).all()
    assert points.std(axis=0).max() == pytest.approx(1.0)
    np.testing.assert_allclose(points.mean(axis=0), 0.0, atol=1e-9)
    assert np.array_equal(points, project_2d(rows, seed=1, layout_steps=100))
    assert not np.array_equal(points, project_2d(rows, seed=2, layout_steps=100))

    def purity(plane):
        distances = ((plane[:, None] - plane[None]) ** 2).sum(axis=2)
        np.fill_diagonal(distances, np.inf)
        return (labels[np.argsort(distances, axis=1)[:, :5]] == labels[:, None]).mean()

    assert purity(points) >= max(0.95, purity(project_2d(rows)))
