"""Affine transforms of vectors, learned once and kept: whitening, removal, alignment, erasure.

Each ``fit_...`` learns from vectors in float64 and returns a `VectorTransform`. Fit on training
vectors only: a transform that is fitted on the vectors it is scored on has seen the test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_in_range, check_vectors
from embedworks.errors import InputError, ShapeError

__all__ = [
    "VectorTransform",
    "fit_component_removal",
    "fit_hard_debiasing",
    "fit_leace",
    "fit_procrustes",
    "fit_whitening",
    "random_projection",
]


@dataclass(frozen=True)
class VectorTransform:
    """The map ``x -> (x - mean) @ matrix + offset``.

    Args:
        name: What it is, for reports.
        mean: float array (D,).
        matrix: float array (D, D').
        offset: float array (D',).

    Raises:
        ShapeError: When the shapes do not fit.

    Example:
        >>> half = VectorTransform("half", np.ones(2), np.eye(2) / 2, np.zeros(2))
        >>> half(np.array([[3.0, 1.0]]))
        array([[1., 0.]], dtype=float32)
    """

    name: str
    mean: np.ndarray
    matrix: np.ndarray
    offset: np.ndarray

    def __post_init__(self) -> None:
        expected = (np.shape(self.mean)[0:1], np.shape(self.offset)[0:1])
        if np.ndim(self.matrix) != 2 or np.shape(self.matrix) != expected[0] + expected[1]:
            raise ShapeError(
                f"{self.name}: matrix has shape {np.shape(self.matrix)}, but mean and offset "
                f"have {np.shape(self.mean)} and {np.shape(self.offset)}: expected (D, D'), (D,) "
                "and (D',)."
            )
        check_vectors(self.matrix, name=f"{self.name}: matrix")
        check_vectors(np.atleast_2d(self.mean), name=f"{self.name}: mean")
        check_vectors(np.atleast_2d(self.offset), name=f"{self.name}: offset")

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Return the transformed vectors, float32 (N, D').

        Zero vectors, which stand for texts without a known word, stay zero.

        Raises:
            ShapeError: When the vectors do not have D dimensions.
            NonFiniteError: When they hold NaN or infinity.
        """
        rows = check_vectors(vectors, dim=len(self.mean), allow_empty=True)
        moved = (rows - self.mean) @ self.matrix + self.offset
        moved[~np.asarray(rows.any(axis=1))] = 0
        return np.asarray(moved, dtype=np.float32)


def fit_whitening(
    vectors: np.ndarray, *, dim: int | None = None, floor: float = 1e-6
) -> VectorTransform:
    """Learn the map after which ``vectors`` have mean zero and the identity as covariance.

    ``x -> (x - mean) U / sqrt(lambda)``, with eigenvectors U and eigenvalues lambda of the
    covariance (divided by N), largest first. Su et al. 2021, arXiv 2103.15316, algorithm 1.

    Args:
        vectors: float array (N, D) to learn from.
        dim: Keep the first so many axes; None keeps all.
        floor: Eigenvalues below this share of the largest are raised to it, so that directions
            without variance are not blown up; their variance then stays below one.

    Raises:
        InputError: When ``dim`` is above D, or all vectors are equal.

    Example:
        >>> fitted = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 8.0], [2.0, 8.0]])
        >>> white = fit_whitening(fitted)(fitted + 1e-9)
        >>> np.round(white.T @ white / 4, 4) + 0.0
        array([[1., 0.],
               [0., 1.]], dtype=float32)
    """
    rows = _checked(vectors)
    kept = rows.shape[1] if dim is None else dim
    check_in_range(kept, name="dim", low=1, high=rows.shape[1])
    check_in_range(floor, name="floor", low=0.0, high=1.0, open_low=True)
    mean = rows.mean(axis=0)
    values, axes = np.linalg.eigh(_covariance(rows, rows))
    if values[-1] <= 0:
        raise InputError("All vectors are equal: there is no variance to whiten.")
    order = np.argsort(-values, kind="stable")[:kept]
    scale = np.sqrt(np.maximum(values[order], floor * values.max()))
    return VectorTransform("whitening", mean, axes[:, order] / scale, np.zeros(kept))


def random_projection(width: int, dim: int, *, seed: int = 0) -> VectorTransform:
    """Return a drawn map from D to D' dimensions that about keeps distances; it learns nothing.

    ``x -> x R / sqrt(D')`` with standard normal R. A squared distance is right on average, with a
    relative standard deviation of ``sqrt(2 / D')``; all distances among N vectors are within
    ``1 +- eps`` with a chance of at least ``1 - 1/N`` when ``D' >= 12 ln N / (eps^2 - eps^3 / 3)``
    or so (Johnson and Lindenstrauss 1984). `fit_whitening` with ``dim`` keeps more of real
    vectors, whose variance lies in few directions, but has to see some first.

    Args:
        width: Number of dimensions D that go in.
        dim: Number D' that come out.
        seed: Vectors of two seeds cannot be compared.

    Raises:
        InputError: When a number is below 1, or ``dim`` is above ``width``.

    Example:
        >>> random_projection(300, 64)(np.ones((2, 300))).shape
        (2, 64)
    """
    check_in_range(width, name="width", low=1)
    check_in_range(dim, name="dim", low=1, high=width)
    drawn = generator(seed, "random projection", width, dim).standard_normal((width, dim))
    return VectorTransform("random projection", np.zeros(width), drawn / dim**0.5, np.zeros(dim))


def fit_component_removal(
    vectors: np.ndarray, *, count: int = 1, centre: bool = True
) -> VectorTransform:
    """Learn to take the first ``count`` common directions out.

    With ``centre``, the mean goes too and the directions are principal axes: "all but the top",
    Mu and Viswanath 2018, arXiv 1702.01417. Without it, they are the first right singular
    vectors of the vectors as they are: the common component of SIF, Arora et al. 2017.

    Args:
        vectors: float array (N, D) to learn from.
        count: Number of directions; 0 takes out the mean alone.
        centre: Whether to take the mean away first.

    Example:
        >>> line = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
        >>> np.round(fit_component_removal(line)(np.array([[9.0, 3.0]])), 5) + 0.0
        array([[0., 2.]], dtype=float32)
    """
    rows = _checked(vectors)
    check_in_range(count, name="count", low=0, high=min(rows.shape))
    width = rows.shape[1]
    mean = rows.mean(axis=0) if centre else np.zeros(width)
    axes = np.linalg.svd(rows - mean, full_matrices=False)[2][:count]
    matrix = np.eye(width) - axes.T @ axes
    return VectorTransform("component removal", mean, matrix, np.zeros(width))


def fit_procrustes(source: np.ndarray, target: np.ndarray) -> VectorTransform:
    """Learn the rotation that brings ``source`` nearest to ``target``, row by row.

    ``min ||X R - Y||`` over orthogonal R is ``U V^T`` of the SVD of ``X^T Y`` (Schönemann 1966);
    it leaves all cosines within a language as they are.

    Args:
        source: float array (N, D), one row per pair of the dictionary.
        target: float array (N, D), the rows' partners.

    Raises:
        ShapeError: When the two differ in shape.

    Example:
        >>> turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
        >>> points = np.array([[1.0, 0.0], [0.0, 2.0]])
        >>> np.round(fit_procrustes(points, points @ turn)(points), 6) + 0.0
        array([[ 0.,  1.],
               [-2.,  0.]], dtype=float32)
    """
    left, right = _checked(source), _checked(target)
    if left.shape != right.shape:
        raise ShapeError(
            f"source has shape {left.shape} but target {right.shape}: row i of one must be the "
            "partner of row i of the other."
        )
    u, _, vt = np.linalg.svd(left.T @ right)
    width = left.shape[1]
    return VectorTransform("procrustes", np.zeros(width), u @ vt, np.zeros(width))


def fit_hard_debiasing(first: np.ndarray, second: np.ndarray, *, count: int = 1) -> VectorTransform:
    """Learn to project out what tells the partners of pairs apart.

    The directions are the first principal axes of the pairs' halves, each centred on its pair
    (Bolukbasi et al. 2016, arXiv 1607.06520, section 6, "neutralise"). A caution from
    ``survey-bias``: neighbours may still tell the groups apart afterwards.

    Args:
        first: float array (N, D), such as the vectors of "he", "man", "king".
        second: float array (N, D), their partners "she", "woman", "queen".
        count: Number of directions.

    Raises:
        ShapeError: When the two differ in shape.
        InputError: When all partners are equal.
    """
    left, right = _checked(first), _checked(second)
    if left.shape != right.shape:
        raise ShapeError(
            f"first has shape {left.shape} but second {right.shape}: pairs are needed."
        )
    check_in_range(count, name="count", low=1, high=min(left.shape))
    differences = (left - right) / 2
    if not differences.any():
        raise InputError("The partners of all pairs are equal: nothing tells them apart.")
    axes = np.linalg.svd(differences, full_matrices=False)[2][:count]
    width = left.shape[1]
    matrix = np.eye(width) - axes.T @ axes
    return VectorTransform("hard debiasing", np.zeros(width), matrix, np.zeros(width))


def fit_leace(vectors: np.ndarray, labels: Sequence[str] | np.ndarray) -> VectorTransform:
    """Learn the smallest change after which no linear probe can tell the labels.

    ``x - W^+ P W (x - mean)`` with ``W = (cov(x)^(1/2))^+`` and P the projection on the columns
    of ``W cov(x, z)``, z the labels one-hot. Belrose et al. 2023, arXiv 2306.03819, theorem 4.3.

    Args:
        vectors: float array (N, D).
        labels: N labels, at least two different ones.

    Raises:
        ShapeError: When there is not one label per vector.
        InputError: When all labels are equal.
    """
    rows = _checked(vectors)
    names, places = np.unique(np.asarray(labels), return_inverse=True)
    if np.shape(labels) != (len(rows),):
        raise ShapeError(f"{len(rows)} vectors need as many labels, got {np.shape(labels)}.")
    if len(names) < 2:
        raise InputError(f"At least two different labels are needed, got only {names[0]!r}.")
    mean = rows.mean(axis=0)
    values, axes = np.linalg.eigh(_covariance(rows, rows))
    there = values > 1e-10 * max(values.max(), 0.0)
    roots = np.sqrt(values[there])
    kept = axes[:, there]
    whiten, colour = kept / roots @ kept.T, kept * roots @ kept.T
    found, sizes, _ = np.linalg.svd(
        whiten @ _covariance(rows, np.eye(len(names))[places]), full_matrices=False
    )
    basis = found[:, sizes > 1e-8]
    change = colour @ basis @ basis.T @ whiten
    return VectorTransform("leace", mean, (np.eye(len(mean)) - change).T, mean)


def _covariance(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(axis=0)
    return np.asarray(centred.T @ (others - others.mean(axis=0)) / len(rows))


def _checked(vectors: np.ndarray) -> np.ndarray:
    check_vectors(vectors)
    rows = np.asarray(vectors, dtype=np.float64)
    if len(rows) < 2:
        raise InputError(f"At least two vectors are needed to learn from, got {len(rows)}.")
    return rows
