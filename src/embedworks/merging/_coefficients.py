"""Merges that are weighted sums, as the factors of the sum.

The angles between tensors and their lengths are all that these methods look at, so the factors
follow from the products between the tensors, a small matrix. The tensors are read once to make it
and once to be added.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = [
    "karcher_coefficients",
    "model_stock_share",
    "multi_slerp_coefficients",
    "nuslerp_coefficients",
    "slerp_coefficients",
]

#: Above this absolute cosine `slerp` takes the arc for a line.
_LINE = 0.9995
#: Nearer than this to a cosine of 1 or -1, two directions are one, or have none between them.
_NEAR = 1e-8
#: Below this length a sum of unit vectors is rounding, and has no direction.
_TINY = 1e-6


def slerp_coefficients(gram: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Return the two factors of `embedworks.merging.slerp`.

    Args:
        gram: float64 array (2, 2), the products of the two vectors.
        weights: Two numbers of 0 or greater that sum to 1.
    """
    lengths = np.sqrt(gram[0, 0]) * np.sqrt(gram[1, 1])
    cosine = gram[0, 1] / lengths if lengths > 0 else 1.0
    if abs(cosine) > _LINE:
        return np.array(weights)
    angle = np.arccos(cosine)
    return np.asarray(np.sin(np.array(weights) * angle) / np.sin(angle))


def nuslerp_coefficients(gram: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Return the factors (R, 2) of `embedworks.merging.nuslerp`, one pair for each of R rows.

    Args:
        gram: float64 array (R, 2, 2), the products of the two vectors of each row.
        weights: Two numbers of 0 or greater that sum to 1.
    """
    share = np.array(weights)
    lengths = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
    both = (lengths > 0).all(axis=1)
    safe = np.where(both[:, None], lengths, 1.0)
    cosine = np.clip(gram[:, 0, 1] / safe[:, 0] / safe[:, 1], -1.0, 1.0)
    bent = both & (np.abs(cosine) < 1 - _NEAR)
    angle = np.arccos(np.where(bent, cosine, 0.0))
    factors = np.sin(share * angle[:, None]) / np.sin(angle)[:, None]
    factors *= (lengths @ share)[:, None] / safe
    return np.where(bent[:, None], factors, share)


def multi_slerp_coefficients(gram: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Return the factors (n,) of `embedworks.merging.multi_slerp`.

    Args:
        gram: float64 array (n, n), the products of the vectors.
        weights: n numbers of 0 or greater that sum to 1.
    """
    share = np.array(weights)
    lengths, cosines = _unit(gram)
    found = _normalized(np.where(lengths > 0, share, 0.0), cosines)
    return share if found is None else _stretch(found, lengths, share)


def karcher_coefficients(
    gram: np.ndarray, weights: Sequence[float], max_iter: int, tol: float
) -> tuple[np.ndarray, float]:
    """Return the factors (n,) of `embedworks.merging.karcher`, and the length of the last step.

    The mean stays in the span of the vectors, so that a point is n factors of unit vectors and
    every step is made on those.

    Args:
        gram: float64 array (n, n), the products of the vectors.
        weights: n numbers of 0 or greater that sum to 1.
        max_iter: Most steps, at least 1.
        tol: Length of the step, in radians, at which it is done.
    """
    share = np.array(weights)
    lengths, cosines = _unit(gram)
    pull = np.where(lengths > 0, share, 0.0)
    point = _normalized(pull, cosines)
    if point is None:
        return share, 0.0
    pull /= pull.sum()
    length = 0.0
    for _ in range(max_iter):
        near = np.clip(cosines @ point, -1.0, 1.0)
        bent = np.abs(near) < 1 - _NEAR
        angle = np.arccos(np.where(bent, near, 0.0))
        stretch = np.where(bent, angle / np.sin(angle), 1.0) * pull
        step = stretch - (stretch @ near) * point
        length = float(np.sqrt(max(0.0, step @ cosines @ step)))
        if length < tol:
            break
        moved = np.cos(length) * point + np.sin(length) / length * step
        point = moved / np.sqrt(moved @ cosines @ moved)  # it has length 1 but for rounding
    return _stretch(point, lengths, share), length


def model_stock_share(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the share (R,) of the mean in `embedworks.merging.model_stock`, and the cosines (R,).

    Args:
        gram: float64 array (R, n, n), the products of the n task vectors of each row.
    """
    count = gram.shape[-1]
    cosines = _unit(gram)[1]
    pairs = cosines.sum(axis=(1, 2)) - np.trace(cosines, axis1=1, axis2=2)
    mean = pairs / (count * (count - 1))
    used = np.clip(mean, 0.0, 1.0)
    return count * used / (1 + (count - 1) * used), mean


def _unit(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return lengths (..., n) and cosines (..., n, n); a vector of zeros has cosine 0 with all."""
    lengths = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
    inverse = np.where(lengths > 0, 1 / np.where(lengths > 0, lengths, 1.0), 0.0)
    return lengths, gram * inverse[..., None, :] * inverse[..., None]


def _normalized(factors: np.ndarray, cosines: np.ndarray) -> np.ndarray | None:
    """Scale factors of unit vectors so that their sum has length 1; None where it has none."""
    length = np.sqrt(max(0.0, factors @ cosines @ factors))
    return factors / length if length > _TINY else None


def _stretch(point: np.ndarray, lengths: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Turn factors of unit vectors into factors of the vectors, at their mean length."""
    safe = np.where(lengths > 0, lengths, 1.0)
    return np.asarray(point / safe * (lengths @ share))
