"""Merges of one tensor at a time that also look at what was measured on data.

Fisher merging weighs every number by how much a loss depends on it, RegMean every input of a
linear layer by how it is used. What they need is measured by `embedworks.merging.collect_fisher`
and `embedworks.merging.collect_grams`. Knows nothing about files, models or torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedworks._core.validation import check_in_range
from embedworks.errors import InputError, NonFiniteError, ShapeError
from embedworks.merging._inputs import check_inputs

__all__ = ["fisher", "regmean"]


def fisher(
    tensors: Sequence[np.ndarray],
    fishers: Sequence[np.ndarray],
    weights: Sequence[float] | None = None,
    *,
    eps: float = 1e-8,
) -> np.ndarray:
    """Return the mean of the models, each number weighted by its diagonal Fisher information.

    ``sum_i w_i (F_i + eps) W_i / sum_i w_i (F_i + eps)``, entry by entry: the mode of the product
    of the models' posteriors, each taken for a normal distribution with precision F_i. A number
    that a model's loss depends on is taken from that model; where no loss depends on it, eps makes
    the result the weighted mean.

    Args:
        tensors: Arrays of one shape (...), at least one, any float type.
        fishers: For each tensor an array (...) of 0 or greater: the mean square of the loss's
            gradient with respect to each number.
        weights: Numbers of 0 or greater with a positive sum; None for equal ones.
        eps: Above 0, on the scale of the Fishers.

    Returns:
        Array (...) of the first tensor's type; the maths runs in float64.

    Raises:
        ShapeError: When shapes differ.
        InputError: On weights that cannot be used, a negative Fisher, or a tensor that is not of
            floats.
        NonFiniteError: When a tensor, a Fisher or a weight is NaN or infinite.

    Paper: Matena and Raffel 2021, arXiv 2111.09832, eq. 2. There nothing is added to the Fishers;
    without eps an entry that no loss depends on would be 0/0.

    Example:
        >>> fisher([np.zeros(2), np.ones(2)], [np.array([1.0, 0.0]), np.array([3.0, 0.0])]).round(2)
        array([0.75, 0.5 ])
    """
    check_in_range(eps, name="eps", low=0.0, open_low=True)
    given = check_inputs("fisher", tensors, weights, normalize=True, negative=False)
    flat = _check_measured("fisher", given.shape, fishers, len(given.tensors))
    for place, found in enumerate(flat):
        if found.size and found.min() < 0:
            raise InputError(
                f"the Fisher of tensor {place} has values below 0, and a mean square has none."
            )

    def make(block: slice) -> np.ndarray:
        top = np.zeros(block.stop - block.start)
        bottom = np.zeros_like(top)
        for tensor, found, weight in zip(given.tensors, flat, given.weights):
            share = weight * (found[block].astype(np.float64) + eps)
            top += share * tensor[block]
            bottom += share
        return np.asarray(top / bottom)

    return given.result(make)


def regmean(
    tensors: Sequence[np.ndarray],
    grams: Sequence[np.ndarray],
    weights: Sequence[float] | None = None,
    *,
    alpha: float = 0.9,
    ridge: float = 1e-6,
) -> np.ndarray:
    """Return the linear layer whose outputs are nearest to those of every model on its own inputs.

    In the paper's form, with W of shape (in, out), ``(sum_i G_i)^-1 sum_i G_i W_i`` is the least
    squares solution over the inputs X_i, of which only ``G_i = w_i X_i^T X_i`` is needed.
    Off-diagonal entries of G_i are multiplied by ``alpha``, which keeps the models from mixing
    along directions few inputs have shown. Weights of torch's linear layers are stored the other
    way round, (out, in), and so are taken and given here: ``(sum_i W_i G_i) (sum_i G_i)^-1``.

    Along directions that no input has, the sum of the G_i is singular and the solution is free.
    ``ridge`` times the mean diagonal entry is added to the diagonal of each G_i by its weight, so
    that there the result is the weighted mean.

    Args:
        tensors: Arrays (out, in), at least one, any float type.
        grams: For each tensor its G_i before the weight, a symmetric array (in, in).
        weights: Numbers of 0 or greater with a positive sum; None for equal ones.
        alpha: Factor of off-diagonal entries, 0 to 1; 1 is plain least squares, 0 a mean of each
            column weighted by the size of its input.
        ridge: 0 or greater, relative to the mean diagonal entry.

    Returns:
        Array (out, in) of the first tensor's type; the maths runs in float64.

    Raises:
        ShapeError: When shapes differ, or are not those of a linear layer and its inputs.
        InputError: On weights or options out of range, a Gram matrix that is not symmetric, or a
            singular sum with ``ridge=0``.
        NonFiniteError: When a value is NaN or infinite.

    Paper: Jin et al. 2022, arXiv 2212.09849, eq. 3; the ridge is ours.

    Example:
        >>> a, b = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
        >>> regmean([a, b], [np.diag([9.0, 1.0]), np.diag([1.0, 9.0])]).round(3)
        array([[0.9, 0.9]])
    """
    check_in_range(alpha, name="alpha", low=0.0, high=1.0)
    check_in_range(ridge, name="ridge", low=0.0)
    given = check_inputs("regmean", tensors, weights, normalize=True, negative=False)
    if len(given.shape) != 2:
        raise ShapeError(f"regmean merges matrices (out, in), got the shape {given.shape}.")
    wide = given.shape[1]
    used = _check_measured("regmean", (wide, wide), grams, len(given.tensors))
    total = np.zeros((wide, wide))
    mixed = np.zeros(given.shape)
    scaled = [_scaled(gram.reshape(wide, wide), place, alpha) for place, gram in enumerate(used)]
    size = sum(w * np.trace(gram) for w, gram in zip(given.weights, scaled)) / max(1, wide)
    for tensor, gram, weight in zip(given.tensors, scaled, given.weights):
        gram[np.diag_indices(wide)] += ridge * size if size > 0 else 1.0
        gram *= weight
        total += gram
        mixed += tensor.reshape(given.shape).astype(np.float64) @ gram
    solved = _solve(total, mixed).reshape(-1)
    return given.result(lambda block: solved[block])


def _check_measured(
    label: str, shape: tuple[int, ...], measured: Sequence[np.ndarray], count: int
) -> list[np.ndarray]:
    """Return what was measured for each tensor, flattened, after checks."""
    if len(measured) != count:
        raise InputError(
            f"{label} needs what was measured for every tensor, got {count} tensors and "
            f"{len(measured)} measurements."
        )
    flat = []
    for place, value in enumerate(measured):
        found = np.asarray(value)
        if found.shape != shape:
            raise ShapeError(
                f"what was measured for tensor {place} has shape {found.shape}, {label} needs "
                f"{shape}."
            )
        if found.dtype.kind != "f" or not np.isfinite(found).all():
            raise NonFiniteError(
                f"what was measured for tensor {place} ({found.dtype}) contains values that are "
                "not finite numbers."
            )
        flat.append(found.reshape(-1))
    return flat


def _scaled(gram: np.ndarray, place: int, alpha: float) -> np.ndarray:
    """Return a float64 copy with its off-diagonal entries multiplied by ``alpha``."""
    wide = gram.astype(np.float64)
    diagonal = np.diagonal(wide)
    slack = 1e-3 * max(1e-300, float(np.abs(wide).max(initial=0.0)))
    if (diagonal < 0).any() or not np.allclose(wide, wide.T, rtol=0.0, atol=slack):
        raise InputError(
            f"the Gram matrix of tensor {place} is not symmetric with a diagonal of 0 or greater: "
            "expected X^T X of the layer's inputs X."
        )
    scaled = alpha * (wide + wide.T) / 2
    scaled[np.diag_indices(len(wide))] = diagonal
    return scaled


def _solve(total: np.ndarray, mixed: np.ndarray) -> np.ndarray:
    """Return ``mixed @ inverse(total)`` for a symmetric matrix that must be positive definite."""
    if not total.size or not mixed.size:
        return mixed
    try:
        root = np.linalg.cholesky(total)
    except np.linalg.LinAlgError:
        root = np.zeros_like(total)
    diagonal = np.diagonal(root)
    if diagonal.min() <= 1e-7 * diagonal.max():
        raise InputError(
            "regmean: the inputs do not fill the space, so that the sum of the Gram matrices has "
            "no usable inverse. Give a ridge above 0 (1e-6 is usual), a smaller alpha, or more "
            "probe texts."
        )
    return np.linalg.solve(total, mixed.T).T
