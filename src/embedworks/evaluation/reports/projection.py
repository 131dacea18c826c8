"""Two coordinates for each vector, to draw a collection as a map."""

from __future__ import annotations

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_vectors, normalize_rows
from embedworks.errors import InputError

__all__ = ["project_2d"]

#: Rows handled at a time where the cost grows with N.
_BLOCK = 1024
#: Exact neighbour search is quadratic: beyond this many rows the layout is refused.
_LARGEST_LAYOUT = 20_000


def project_2d(vectors: np.ndarray, *, seed: int = 0, layout_steps: int = 0) -> np.ndarray:
    """Project vectors to the plane for drawing.

    The two directions of largest variance (PCA), each with a fixed sign, so the same vectors
    always give the same picture. PCA keeps distances between far groups and squeezes near ones;
    ``layout_steps`` then lets every point drift towards its nearest neighbours and away from
    random others, which separates groups and gives up meaning of large distances.

    Args:
        vectors: Shape (N, D).
        seed: Seed of the layout; the projection alone has no randomness.
        layout_steps: Steps of the neighbour layout: 0 for PCA only, about 200 for a map. Its
            neighbour search compares all pairs, so N is limited to 20,000.

    Returns:
        float64 array of shape (N, 2), centred. With the layout, neighbours are by cosine and the
        larger standard deviation of the two columns is 1.

    Raises:
        ShapeError: When ``vectors`` is not two-dimensional.
        EmptyInputError: When there are no vectors.
        NonFiniteError: When a value is NaN or infinite.
        InputError: When ``layout_steps`` is negative, or N is too large for a layout.

    Example:
        >>> project_2d(np.array([[0.0, 0.0, 1.0], [2.0, 0.0, 1.0], [4.0, 0.0, 1.0]])).round(3)
        array([[-2.,  0.],
               [ 0.,  0.],
               [ 2.,  0.]])
    """
    rows = check_vectors(vectors)
    if layout_steps < 0:
        raise InputError(f"layout_steps must be 0 or greater, got {layout_steps}.")
    if layout_steps and len(rows) > _LARGEST_LAYOUT:
        raise InputError(
            f"A layout of {len(rows)} vectors would take too long (limit {_LARGEST_LAYOUT}): "
            "draw a sample, or use layout_steps=0."
        )
    points = _principal_plane(rows)
    if layout_steps and len(rows) > 3 and points.any():
        points = _neighbour_layout(rows, points, layout_steps, seed)
    return points


def _principal_plane(rows: np.ndarray) -> np.ndarray:
    """Project onto the two largest principal axes; the largest weight of an axis is positive."""
    mean = rows.mean(axis=0, dtype=np.float64)
    scatter = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), _BLOCK):
        centred = rows[start : start + _BLOCK] - mean
        scatter += centred.T @ centred
    axes = np.linalg.eigh(scatter)[1][:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])] < 0, -1.0, 1.0)
    points = np.zeros((len(rows), 2))
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK] - mean
        points[start : start + _BLOCK, : axes.shape[1]] = block @ axes
    # Rounding noise around a point that all rows share is not a picture.
    points[:, points.std(axis=0) < 1e-9 * max(1.0, float(np.abs(rows).max()))] = 0.0
    return points


def _neighbour_layout(rows: np.ndarray, points: np.ndarray, steps: int, seed: int) -> np.ndarray:
    """Pull points to their nearest neighbours and push them from random others.

    A weak pull to the middle keeps groups that nothing holds from drifting out of the picture.
    """
    neighbours = _nearest(rows, min(10, len(rows) - 1))
    rng = generator(seed, "projection")
    # Both axes start with the spread of the layout's own length unit.
    points = points / points.std(axis=0).max() * 5.0
    points = points + rng.normal(scale=1e-3, size=points.shape)
    for step in range(steps):
        rate = 1.0 - step / steps
        toward = points[neighbours] - points[:, None]
        near = (toward**2).sum(axis=2, keepdims=True)
        pull = (toward / (1.0 + near)).mean(axis=1) * 2.0
        others = rng.integers(0, len(points), size=(len(points), 8))
        away = points[:, None] - points[others]
        far = (away**2).sum(axis=2, keepdims=True)
        push = (away / ((0.05 + far) * (1.0 + far))).mean(axis=1) * 20.0
        points = points + rate * np.clip(pull + push - 0.01 * points, -2.0, 2.0)
    points = points - points.mean(axis=0)
    return np.asarray(points / points.std(axis=0).max())


def _nearest(rows: np.ndarray, count: int) -> np.ndarray:
    """Return the ``count`` nearest other rows by cosine, shape (N, count)."""
    unit = normalize_rows(rows)
    found = np.empty((len(unit), count), dtype=np.int64)
    for start in range(0, len(unit), _BLOCK):
        scores = unit[start : start + _BLOCK] @ unit.T
        own = np.arange(len(scores))
        scores[own, start + own] = -np.inf
        found[start : start + _BLOCK] = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    return found
