"""Merging as pure functions on one tensor at a time; works on numpy arrays.

Knows nothing about files or models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedworks._core.registry import Registry
from embedworks.errors import InputError, NonFiniteError, ShapeError

__all__ = ["MERGE_METHODS", "linear"]

MERGE_METHODS: Registry = Registry("merge methods")


@MERGE_METHODS.register("linear", summary="Weighted sum of the same tensor of several models.")
def linear(tensors: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Return ``sum_i w_i * tensor_i``; weights are used as given and not normalised.

    Args:
        tensors: Arrays of one shape (...), at least one, any float type.
        weights: One finite number per tensor; for an interpolation they sum to 1.

    Returns:
        Array (...) of the first tensor's type; the sum is formed in at least float32.

    Raises:
        ShapeError: When shapes differ.
        InputError: When the numbers of tensors and weights differ.
        NonFiniteError: When a tensor or a weight is NaN or infinite.

    Paper: Wortsman et al. 2022, arXiv 2203.05482 (uniform soup: all weights 1/n).

    Example:
        >>> linear([np.zeros(2), np.ones(2)], [0.25, 0.75])
        array([0.75, 0.75])
    """
    if not tensors or len(tensors) != len(weights):
        raise InputError(
            f"linear needs one weight per tensor, got {len(tensors)} tensors and "
            f"{len(weights)} weights."
        )
    if not np.isfinite(weights).all():
        raise NonFiniteError(f"weights must be finite, got {list(weights)}.")
    first = np.asarray(tensors[0])
    total = np.zeros(first.shape, dtype=np.promote_types(first.dtype, np.float32))
    for position, (tensor, weight) in enumerate(zip(tensors, weights)):
        if np.shape(tensor) != first.shape:
            raise ShapeError(
                f"tensor {position} has shape {np.shape(tensor)}, the first has {first.shape}: "
                "the models must have the same structure."
            )
        if not np.isfinite(tensor).all():
            raise NonFiniteError(f"tensor {position} contains NaN or infinity.")
        total += weight * np.asarray(tensor, dtype=total.dtype)
    return total.astype(first.dtype)
