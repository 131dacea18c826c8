"""INLP: take out, one after the other, the directions that a linear classifier finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.validation import check_in_range, check_vectors
from embedworks.errors import InputError, ShapeError
from embedworks.models.words.transforms import VectorTransform

__all__ = ["fit_inlp"]


def fit_inlp(
    vectors: np.ndarray,
    labels: Sequence[str] | np.ndarray,
    *,
    rounds: int = 35,
    tolerance: float = 0.02,
) -> VectorTransform:
    """Learn the projection after which linear classifiers are as good as the commonest label.

    Each round trains a logistic regression on what is left and takes the span of its weights out;
    the result is one projection on the intersection of all null spaces. Ravfogel et al. 2020, arXiv
    2004.07667, algorithm 1. `fit_leace` reaches the same in one step and changes vectors less.
    Neither hides the labels from a classifier that is not linear, or from nearest neighbours.

    Args:
        vectors: float array (N, D).
        labels: N labels, at least two different ones.
        rounds: Train at most so often.
        tolerance: Stop when the accuracy on the same vectors is at most so much above the share of
            the commonest label.

    Raises:
        ShapeError: When there is not one label per vector.
        InputError: When all labels are equal, or a number is out of range.
        MissingExtraError: When scikit-learn is not installed.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> points = rng.normal(size=(200, 4))
        >>> hidden = fit_inlp(points, points[:, 0] > 0)(points)
        >>> bool(abs(np.corrcoef(hidden[:, 0], points[:, 0] > 0)[0, 1]) < 0.2)
        True
    """
    rows = check_vectors(vectors).astype(np.float64)
    check_in_range(rounds, name="rounds", low=1)
    check_in_range(tolerance, name="tolerance", low=0.0, high=1.0)
    if np.shape(labels) != (len(rows),):
        raise ShapeError(f"{len(rows)} vectors need as many labels, got {np.shape(labels)}.")
    names, places = np.unique(np.asarray(labels), return_inverse=True)
    if len(names) < 2:
        raise InputError(f"At least two different labels are needed, got only {names[0]!r}.")
    linear: Any = require_extra("sklearn.linear_model", extra="train", purpose="find directions")
    majority = np.bincount(places).max() / len(places)
    mean = rows.mean(axis=0)
    left = rows - mean
    # The size of vectors must not decide how much the classifier is regularised.
    left /= max(float(left.std()), 1e-12)
    projection = np.eye(rows.shape[1])
    found = np.zeros((0, rows.shape[1]))
    for _ in range(rounds):
        now = left @ projection
        classifier = linear.LogisticRegression(max_iter=1000).fit(now, places)
        if classifier.score(now, places) <= majority + tolerance:
            break
        found = np.concatenate([found, np.asarray(classifier.coef_) @ projection])
        _, sizes, axes = np.linalg.svd(found, full_matrices=False)
        basis = axes[sizes > 1e-10 * sizes[0]]
        projection = np.eye(rows.shape[1]) - basis.T @ basis
        if len(basis) == rows.shape[1]:
            break
    return VectorTransform("inlp", mean, projection, mean)
