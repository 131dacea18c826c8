"""Vectors of different models or groups in one space: a linear map, and centring by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from embedworks._core.validation import check_in_range, check_vectors
from embedworks.errors import InputError, ShapeError
from embedworks.models.words.transforms import VectorTransform

__all__ = ["GroupCentering", "MapQuality", "fit_linear_map", "map_quality"]


def fit_linear_map(
    source: np.ndarray, target: np.ndarray, *, ridge: float = 1e-3
) -> VectorTransform:
    """Learn to turn one model's vectors into another's, from texts that both have encoded.

    ``min ||(X - mean) W - (Y - mean)||^2 + ridge * N * var(X) ||W||^2`` in closed form. So an index
    can be asked with another model's queries, at some loss: measure it with `map_quality` on
    texts that were not used here. `fit_procrustes` is the map that keeps all cosines.

    Args:
        source: float array (N, D), vectors of the model to turn from.
        target: float array (N, D'), vectors of the same texts in the other space.
        ridge: Penalty, in units of the mean variance of a source dimension; 0 or greater.

    Raises:
        ShapeError: When the two have another number of rows.
        InputError: When there are fewer than two rows.

    Example:
        >>> points = np.random.default_rng(0).normal(size=(50, 3))
        >>> turned = points @ np.array([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]]) + 1
        >>> bool(np.allclose(fit_linear_map(points, turned, ridge=0)(points), turned, atol=1e-5))
        True
    """
    left, right = _pair(source, target)
    check_in_range(ridge, name="ridge", low=0.0)
    if len(left) < 2:
        raise InputError(f"At least two texts are needed to learn from, got {len(left)}.")
    mean, offset = left.mean(axis=0), right.mean(axis=0)
    centred = left - mean
    gram = centred.T @ centred
    gram[np.diag_indices_from(gram)] += ridge * np.trace(gram) / len(gram)
    matrix = np.linalg.lstsq(gram, centred.T @ (right - offset), rcond=None)[0]
    return VectorTransform("linear map", mean, matrix, offset)


@dataclass(frozen=True)
class MapQuality:
    """What is left of a space after a map, on texts that were not used to learn it."""

    explained: float
    """Share of the target's variance that the mapped vectors explain (R squared); 1 is all."""
    cosine: float
    """Mean cosine of mapped vectors with their targets."""
    retrieval: float
    """Share of texts whose own target is the nearest of all targets."""


def map_quality(mapped: np.ndarray, target: np.ndarray) -> MapQuality:
    """Measure a map between two spaces on held-out texts.

    Args:
        mapped: float array (N, D), vectors after the map.
        target: float array (N, D), the other model's vectors of the same texts.

    Raises:
        ShapeError: When the two differ in shape.

    Example:
        >>> map_quality(np.eye(3), np.eye(3))
        MapQuality(explained=1.0, cosine=1.0, retrieval=1.0)
    """
    left, right = _pair(mapped, target)
    if left.shape != right.shape:
        raise ShapeError(f"mapped has shape {left.shape} but target {right.shape}.")
    spread = float(((right - right.mean(axis=0)) ** 2).sum())
    rest = float(((right - left) ** 2).sum())
    units = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (left, right)]
    nearest = (units[0] @ units[1].T).argmax(axis=1)
    return MapQuality(
        1 - rest / spread if spread else 0.0,
        float((units[0] * units[1]).sum(axis=1).mean()),
        float((nearest == np.arange(len(left))).mean()),
    )


class GroupCentering:
    """Take away what all texts of a group share, such as a language.

    Multilingual models put texts of one language nearer to each other than their meaning is;
    taking each language's mean away helps to find texts across languages.

    Args:
        means: Group -> mean vector (D,).

    Example:
        >>> shifted = np.array([[1.0, 5.0], [3.0, 5.0], [1.0, -5.0], [3.0, -5.0]])
        >>> centring = GroupCentering.fit(shifted, ["en", "en", "de", "de"])
        >>> centring(np.array([[1.0, 5.0], [1.0, -5.0]]), ["en", "de"])
        array([[-1.,  0.],
               [-1.,  0.]], dtype=float32)
    """

    def __init__(self, means: Mapping[str, np.ndarray]) -> None:
        self.means = {name: np.asarray(mean, dtype=np.float64) for name, mean in means.items()}

    @classmethod
    def fit(cls, vectors: np.ndarray, groups: Sequence[str]) -> GroupCentering:
        """Learn the mean of every group.

        Args:
            vectors: float array (N, D).
            groups: N names.

        Raises:
            ShapeError: When there is not one group per vector.
        """
        check_vectors(vectors)
        rows, names = np.asarray(vectors, dtype=np.float64), _names(groups, len(vectors))
        return cls({name: rows[names == name].mean(axis=0) for name in np.unique(names).tolist()})

    def __call__(self, vectors: np.ndarray, groups: Sequence[str]) -> np.ndarray:
        """Return the vectors without their groups' means, float32 (N, D).

        Raises:
            ShapeError: When there is not one group per vector.
            InputError: When a group was not seen by `fit`.
        """
        rows = check_vectors(vectors, allow_empty=True)
        names = _names(groups, len(rows))
        unknown = sorted(set(names.tolist()) - set(self.means))
        if unknown:
            raise InputError(
                f"No mean is known for {', '.join(map(repr, unknown))}; known are "
                f"{', '.join(map(repr, sorted(self.means)))}."
            )
        if not len(rows):
            return rows
        means = np.stack([self.means[name] for name in names.tolist()])
        return np.asarray(rows - means, dtype=np.float32)


def _names(groups: Sequence[str], count: int) -> np.ndarray:
    if len(groups) != count:
        raise ShapeError(f"{count} vectors need as many groups, got {len(groups)}.")
    return np.asarray(groups, dtype=object if not len(groups) else None)


def _pair(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    check_vectors(first, name="source")
    check_vectors(second, name="target")
    if len(first) != len(second):
        raise ShapeError(
            f"source has {len(first)} rows but target {len(second)}: row i of one must be the "
            "same text as row i of the other."
        )
    return np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
