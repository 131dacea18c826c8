"""Merges of one tensor at a time whose result is a weighted sum: averages, spheres, Model Stock.

Each function takes the same tensor of several models and returns the merged one, of the first
tensor's shape and type; the maths runs in float32 or wider, and what is given is not changed.
Weights left out are ``1 / n`` each. Methods that drop entries are in `embedworks.merging.sparse`.
Knows nothing about files or models.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from embedworks._core.validation import check_choice, check_in_range
from embedworks.errors import DataWarning
from embedworks.merging._coefficients import (
    karcher_coefficients,
    model_stock_share,
    multi_slerp_coefficients,
    nuslerp_coefficients,
    slerp_coefficients,
)
from embedworks.merging._inputs import Inputs, check_inputs

__all__ = [
    "karcher",
    "linear",
    "model_stock",
    "multi_slerp",
    "nuslerp",
    "slerp",
    "task_arithmetic",
]


def linear(
    tensors: Sequence[np.ndarray],
    weights: Sequence[float] | None = None,
    *,
    normalize: bool = True,
) -> np.ndarray:
    """Return the weighted mean ``sum_i w_i W_i / sum_i w_i``: a model soup.

    The first thing to try with models trained from the same start. Models that pull apart lose
    length when they are averaged; `slerp` and `multi_slerp` keep it.

    Args:
        tensors: Arrays of one shape (...), at least one, any float type.
        weights: One finite number per tensor; None for equal ones.
        normalize: Whether weights are divided by their sum.

    Returns:
        Array (...) of the first tensor's type; the sum is formed in at least float32.

    Raises:
        ShapeError: When shapes differ.
        InputError: When the numbers of tensors and weights differ, a tensor is not of floats, or
            weights to be divided by their sum sum to zero.
        NonFiniteError: When a tensor or a weight is NaN or infinite.

    Paper: Wortsman et al. 2022, arXiv 2203.05482 (uniform soup: all weights 1/n).

    Example:
        >>> linear([np.zeros(2), np.ones(2)], [1.0, 3.0])
        array([0.75, 0.75])
    """
    given = check_inputs("linear", tensors, weights, normalize=normalize)
    return _weighted_sum(given, given.weights)


def task_arithmetic(
    tensors: Sequence[np.ndarray],
    weights: Sequence[float] | None = None,
    *,
    base: np.ndarray,
    scale: float = 1.0,
) -> np.ndarray:
    """Return ``W_0 + scale * sum_i w_i (W_i - W_0)``: a sum of task vectors.

    A negative weight unlearns a task. One model with ``scale`` between 0 and 1 is the
    interpolation of WiSE-FT (Wortsman et al. 2021, arXiv 2109.01903).

    Args:
        tensors: Arrays of one shape (...), at least one, any float type.
        weights: One finite number per tensor, used as given; None for ``1 / n`` each.
        base: Array (...), where the models were trained from.
        scale: Finite factor of the whole step.

    Returns:
        Array (...) of the first tensor's type.

    Raises:
        ShapeError: When shapes differ.
        InputError: When the numbers of tensors and weights differ, or a tensor is not of floats.
        NonFiniteError: When a tensor or a weight is NaN or infinite.

    Paper: Ilharco et al. 2022, arXiv 2212.04089. There the vectors are added (weights of 1) and
    the scale is searched; here weights left out make their mean, so that the merge of a model
    with itself is that model.

    Example:
        >>> task_arithmetic([np.array([2.0, 0.0]), np.array([1.0, 3.0])], [1, 1], base=np.ones(2))
        array([2., 2.])
    """
    given = check_inputs("task_arithmetic", tensors, weights, base=base, needs_base=True)
    check_in_range(scale, name="scale")
    return _weighted_sum(given, [scale * weight for weight in given.weights])


def slerp(
    tensors: Sequence[np.ndarray],
    weights: Sequence[float] | None = None,
    *,
    base: np.ndarray | None = None,
) -> np.ndarray:
    """Return the point on the arc between two tensors, seen as two flat vectors.

    ``sin((1 - t) a) / sin(a) * V_1 + sin(t a) / sin(a) * V_2``, where ``t = w_2 / (w_1 + w_2)``
    and ``a`` is the angle between them. With a base, ``V_i = W_i - W_0`` and the base is added
    to the result; without one, ``V_i = W_i``. The factors are applied to the vectors as they are,
    so with different lengths the result is between them but not at the mean length
    (`nuslerp` is).

    Vectors that are nearly parallel or opposite (absolute cosine above 0.9995), and a vector of
    zeros, are interpolated in a straight line.

    Args:
        tensors: Two arrays of one shape (...), any float type.
        weights: Two numbers of 0 or greater; None for equal ones.
        base: Array (...), or None.

    Returns:
        Array (...) of the first tensor's type.

    Raises:
        ShapeError: When shapes differ.
        InputError: When there are not two tensors and two usable weights.
        NonFiniteError: When a tensor or a weight is NaN or infinite.

    Paper: Shoemake 1985, Animating rotation with quaternion curves; on task vectors of embedding
    models, Li et al. 2024, arXiv 2410.15035.

    Example:
        >>> slerp([np.array([1.0, 0.0]), np.array([0.0, 1.0])]).round(4)
        array([0.7071, 0.7071])
    """
    given = check_inputs(
        "slerp", tensors, weights, base=base, least=2, most=2, normalize=True, negative=False
    )
    return _weighted_sum(given, slerp_coefficients(_gram(given)[0], given.weights))


def nuslerp(
    tensors: Sequence[np.ndarray],
    weights: Sequence[float] | None = None,
    *,
    base: np.ndarray | None = None,
    per: str = "tensor",
) -> np.ndarray:
    """Return the point on the arc between two directions, at the length between the two.

    ``((1 - t) |V_1| + t |V_2|) * arc(V_1 / |V_1|, V_2 / |V_2|; t)`` with
    ``arc(u, v; t) = sin((1 - t) a) / sin(a) * u + sin(t a) / sin(a) * v``, where
    ``t = w_2 / (w_1 + w_2)`` and ``a`` is the angle between the two. With a base,
    ``V_i = W_i - W_0`` and the base is added to the result; without one, ``V_i = W_i``.

    For two models of different size, where `slerp` lets the longer tensor decide the direction.
    Vectors without a direction between them (opposite ones, and zeros) are interpolated in a
    straight line.

    Args:
        tensors: Two arrays of one shape (...), any float type.
        weights: Two numbers of 0 or greater; None for equal ones.
        base: Array (...), or None.
        per: What one vector is: the whole ``"tensor"``, each ``"row"`` (along the last axis: the
            vector of one token, the inputs of one neuron) or each ``"column"`` (along the first
            axis). Tensors of fewer than two axes are one vector in any case.

    Returns:
        Array (...) of the first tensor's type.

    Raises:
        ShapeError: When shapes differ.
        InputError: When there are not two tensors and two usable weights.
        UnknownNameError: When ``per`` is none of the three.
        NonFiniteError: When a tensor or a weight is NaN or infinite.

    Example:
        >>> nuslerp([np.array([3.0, 0.0]), np.array([0.0, 1.0])]).round(4)
        array([1.4142, 1.4142])
    """
    given = check_inputs(
        "nuslerp", tensors, weights, base=base, least=2, most=2, normalize=True, negative=False
    )
    check_choice(per, _VECTORS, name="per")
    moved = _columns_last(given) if per == "column" else given
    rows = per != "tensor" and len(given.shape) > 1
    merged = _weighted_sum(moved, nuslerp_coefficients(_gram(moved, rows=rows), given.weights))
    return merged if moved is given else np.ascontiguousarray(np.moveaxis(merged, -1, 0))


def multi_slerp(
    tensors: Sequence[np.ndarray],
    weights: Sequence[float] | None = None,
    *,
    base: np.ndarray | None = None,
) -> np.ndarray:
    """Return the mean direction of several tensors at their mean length.

    ``(sum_i w_i |V_i|) * m / |m|`` with ``m = sum_i w_i V_i / |V_i|`` and weights that sum to 1.
    With a base, ``V_i = W_i - W_0`` and the base is added to the result; without one,
    ``V_i = W_i``.

    An average that does not shrink where the models disagree. It is the first guess at the mean
    on the sphere; `karcher` is the mean itself. Other implementations go on from here to the
    plane that touches the sphere at ``m / |m|`` and back, which moves nothing: seen from there
    the weighted vectors sum to zero. Where ``m`` is zero, the result is the weighted mean.

    Args:
        tensors: Arrays of one shape (...), at least one, any float type.
        weights: Numbers of 0 or greater with a positive sum; None for equal ones.
        base: Array (...), or None.

    Returns:
        Array (...) of the first tensor's type.

    Raises:
        ShapeError: When shapes differ.
        InputError: On weights that cannot be used, or a tensor that is not of floats.
        NonFiniteError: When a tensor or a weight is NaN or infinite.

    Example:
        >>> multi_slerp([np.array([3.0, 0.0]), np.array([0.0, 1.0])]).round(4)
        array([1.4142, 1.4142])
    """
    given = check_inputs("multi_slerp", tensors, weights, base=base, normalize=True, negative=False)
    return _weighted_sum(given, multi_slerp_coefficients(_gram(given)[0], given.weights))


def karcher(
    tensors: Sequence[np.ndarray],
    weights: Sequence[float] | None = None,
    *,
    base: np.ndarray | None = None,
    max_iter: int = 10,
    tol: float = 1e-5,
    key: str = "",
) -> np.ndarray:
    """Return the mean of several tensors on the sphere, at their mean length.

    The direction u with the least ``sum_i w_i angle(u, u_i)^2`` over ``u_i = V_i / |V_i|``, found
    by ``u <- exp_u(sum_i w_i log_u(u_i))`` from the normalised mean, where
    ``log_u(v) = a / sin(a) * (v - cos(a) u)`` for the angle ``a`` between u and v, and
    ``exp_u(x) = cos(|x|) u + sin(|x|) x / |x|``. The result is ``(sum_i w_i |V_i|) * u``. With a
    base, ``V_i = W_i - W_0`` and the base is added to the result; without one, ``V_i = W_i``.

    With two tensors of one length this is `slerp`; it is what `slerp` becomes for more. A tensor
    of zeros has no direction, so that it counts for the length alone; where the normalised mean
    is zero, the result is the weighted mean.

    Args:
        tensors: Arrays of one shape (...), at least one, any float type.
        weights: Numbers of 0 or greater with a positive sum; None for equal ones.
        base: Array (...), or None.
        max_iter: Most steps, at least 1; stopping there is a `DataWarning`.
        tol: Length of a step in radians, above 0, at which the mean is found.
        key: Name of the tensor, for the warning.

    Returns:
        Array (...) of the first tensor's type.

    Raises:
        ShapeError: When shapes differ.
        InputError: On weights or options that cannot be used, or a tensor that is not of floats.
        NonFiniteError: When a tensor or a weight is NaN or infinite.

    Paper: Karcher 1977, Riemannian center of mass and mollifier smoothing.

    Example:
        >>> karcher([np.eye(3)[0], np.eye(3)[1], np.eye(3)[2]]).round(4)
        array([0.5774, 0.5774, 0.5774])
    """
    given = check_inputs("karcher", tensors, weights, base=base, normalize=True, negative=False)
    check_in_range(max_iter, name="max_iter", low=1)
    check_in_range(tol, name="tol", low=0.0, open_low=True)
    factors, rest = karcher_coefficients(_gram(given)[0], given.weights, max_iter, tol)
    if rest >= tol:
        warnings.warn(
            f"karcher{_named(key)} stopped after {max_iter} steps, the last of {rest:.1g} radians "
            f"where {tol:g} was asked for. Give a larger max_iter.",
            DataWarning,
            stacklevel=2,
        )
    return _weighted_sum(given, factors)


def model_stock(
    tensors: Sequence[np.ndarray],
    weights: Sequence[float] | None = None,
    *,
    base: np.ndarray,
    per: str = "tensor",
    key: str = "",
) -> np.ndarray:
    """Return a point between the base and the mean of the models, as near as their angle says.

    ``t * mean_i(W_i) + (1 - t) * W_0`` with ``t = n c / (1 + (n - 1) c)``, where c is the mean
    cosine between two of the n task vectors ``W_i - W_0``. Models that moved the same way
    (c = 1) give their mean, unrelated ones (c = 0) the base.

    For several models trained on the same data with other seeds or settings, which lie around a
    centre that is better than any of them.

    Args:
        tensors: Arrays of one shape (...), at least two, any float type.
        weights: None, or equal numbers: the method has no weights.
        base: Array (...), where the models were trained from.
        per: Whether c is measured for the whole ``"tensor"`` or each ``"row"`` (along the last
            axis).
        key: Name of the tensor, for the warning.

    Returns:
        Array (...) of the first tensor's type. Where c is below 0, t would be as well: the base
        is kept, with a `DataWarning`. A model that is equal to the base has cosine 0.

    Raises:
        ShapeError: When shapes differ.
        InputError: On fewer than two tensors, unequal weights, or a tensor that is not of floats.
        UnknownNameError: When ``per`` is neither of the two.
        NonFiniteError: When a tensor is NaN or infinite.

    Paper: Jang et al. 2024, arXiv 2403.19522. There one angle describes all pairs; here it is
    the mean cosine over them.

    Example:
        >>> a, b = np.array([1.0, 0.0]), np.array([1.0, 1.0])
        >>> model_stock([a, a + b], base=np.zeros(2)).round(3)
        array([1.416, 0.472])
    """
    given = check_inputs(
        "model_stock", tensors, weights, base=base, needs_base=True, least=2, equal=True
    )
    check_choice(per, _VECTORS[:2], name="per")
    share, cosine = model_stock_share(_gram(given, rows=per == "row"))
    apart = cosine < -1e-8  # nearer to 0 it is rounding
    if apart.any():
        warnings.warn(
            f"model_stock{_named(key)}: the models moved away from the base and from each other "
            f"in {int(apart.sum())} of {len(cosine)} {per}s (mean cosine down to "
            f"{cosine.min():.2g}). The base is kept there.",
            DataWarning,
            stacklevel=2,
        )
    count = len(given.tensors)
    return _weighted_sum(given, np.repeat(share[:, None] / count, count, axis=1))


def _named(key: str) -> str:
    return f" of {key}" if key else ""


#: What `per` may say: the whole tensor is one vector, or each row, or each column.
_VECTORS = ("tensor", "row", "column")


def _weighted_sum(given: Inputs, factors: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return ``W_0 + sum_i f_i (W_i - W_0)``; without a base, W_0 is zero.

    Args:
        given: The checked input.
        factors: n factors, or an array (R, n) with those of each of R rows.
    """
    table = np.atleast_2d(np.asarray(factors, np.float64))
    rows = len(table) > 1
    rest = 1.0 - table.sum(axis=1)

    def times(part: np.ndarray, column: np.ndarray, block: slice) -> np.ndarray:
        if rows:
            lines = part.reshape(-1, given.row)
            lines *= column[block.start // given.row : block.stop // given.row, None]
        else:
            part *= float(column[0])
        return part

    def make(block: slice) -> np.ndarray:
        total = times(given.part(0, block), table[:, 0], block)
        for index in range(1, table.shape[1]):
            total += times(given.part(index, block), table[:, index], block)
        if given.base is not None and rest.any():
            total += times(given.origin(block), rest, block)
        return total

    return given.result(make, rows=rows)


def _gram(given: Inputs, *, rows: bool = False) -> np.ndarray:
    """Return the products of the tensors, less the base where there is one.

    Returns:
        float64 array (R, n, n): for each row with ``rows``, else R = 1 for the whole.
    """
    count = len(given.tensors)
    found = [np.zeros((0, count, count))] if rows else [np.zeros((1, count, count))]
    for block in given.blocks(rows=rows):
        parts = np.stack([given.delta(index, block) for index in range(count)])
        lines = parts.astype(np.float64).reshape(count, -1, given.row if rows else parts.shape[1])
        products = lines.transpose(1, 0, 2) @ lines.transpose(1, 2, 0)
        if rows:
            found.append(products)
        else:
            found[0] += products
    return np.concatenate(found)


def _columns_last(given: Inputs) -> Inputs:
    """Return the tensors with their first axis moved to the end, so that columns are rows."""
    if len(given.shape) < 2:
        return given

    def move(flat: np.ndarray) -> np.ndarray:
        return np.moveaxis(flat.reshape(given.shape), 0, -1).reshape(-1)

    return replace(
        given,
        tensors=tuple(move(tensor) for tensor in given.tensors),
        base=None if given.base is None else move(given.base),
        shape=given.shape[1:] + given.shape[:1],
    )
