"""Merges of one tensor at a time that keep some of what each model changed and drop the rest.

Each function takes the same tensor of several models and of the base they were trained from, and
returns the merged one, of the first tensor's shape and type; the maths runs in float32 or wider,
and what is given is not changed. Weights left out are ``1 / n`` each. Below, ``d_i = W_i - W_0``
is the task vector of model i. Knows nothing about files or models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embedworks._core.validation import check_choice, check_in_range
from embedworks.errors import InputError
from embedworks.merging._inputs import Inputs, check_inputs
from embedworks.merging._thinning import (
    COMBINE,
    RESCALE,
    Start,
    agree,
    drop_at_random,
    drop_by_rank,
    keep_between,
    merge_thinned,
    same_length,
    smallest_kept,
)

__all__ = ["breadcrumbs", "dare", "della", "ram", "sce", "ties"]


def ties(
    tensors: Sequence[np.ndarray],
    weights: Sequence[float] | None = None,
    *,
    base: np.ndarray,
    density: float = 0.2,
    scale: float = 1.0,
    majority: str = "sum",
) -> np.ndarray:
    """Trim each task vector, elect a sign for each entry, and average the models that agree.

    1. Trim: keep the ``density`` largest entries of ``d_i`` by magnitude; others become 0.
    2. Elect: ``s = sign(sum_i w_i d_i)`` for each entry; a sum of 0 counts as positive.
    3. Merge: ``W_0 + scale * sum_{i agrees} w_i d_i / sum_{i agrees} w_i``, where a model agrees
       if its trimmed entry is not 0 and has the elected sign.

    For models that were trained for different tasks and undo each other's changes when they are
    averaged.

    Args:
        tensors: Arrays of one shape (...), at least one, any float type.
        weights: Numbers of 0 or greater with a positive sum; None for equal ones.
        base: Array (...), where the models were trained from.
        density: Share of each task vector to keep, above 0 and at most 1. At least one entry is
            kept, and entries as large as the smallest kept one are kept too.
        scale: Finite factor of the whole step.
        majority: ``"sum"`` elects the sign with the larger total, ``"count"`` the one of more
            models.

    Returns:
        Array (...) of the first tensor's type.

    Raises:
        ShapeError: When shapes differ.
        InputError: On weights or options out of range, or a tensor that is not of floats.
        UnknownNameError: When ``majority`` is neither of the two.
        NonFiniteError: When a tensor or a weight is NaN or infinite.

    Paper: Yadav et al. 2023, arXiv 2306.01708. There the model is trimmed as one long vector, so
    that some tensors keep more than others; here every tensor keeps the same share, which can be
    done without holding a whole model.

    Example:
        >>> models = [np.array([4.0, -1.0, 0.1]), np.array([2.0, 3.0, -0.2])]
        >>> ties(models, base=np.zeros(3), density=2 / 3)
        array([3., 3., 0.])
    """
    given = _inputs("ties", tensors, weights, base, "ties")
    check_in_range(density, name="density", low=0.0, high=1.0, open_low=True)
    trim = keep_between(given, smallest_kept(density, given.size), given.size - 1)
    return merge_thinned(given, trim, combine="ties", scale=scale, majority=majority)


def dare(
    tensors: Sequence[np.ndarray],
    weights: Sequence[float] | None = None,
    *,
    base: np.ndarray,
    density: float = 0.5,
    rescale: str = "expected",
    combine: str = "linear",
    scale: float = 1.0,
    majority: str = "sum",
    seed: int = 0,
    key: str = "",
) -> np.ndarray:
    """Drop entries of each task vector at random, rescale the rest, and add them up.

    ``m_i * d_i / p`` with ``m_i ~ Bernoulli(p)`` for each entry, where p is the density, takes
    the place of ``d_i``; its mean over all draws is ``d_i``. Then ``combine="linear"`` gives
    ``W_0 + scale * sum_i w_i m_i d_i / p``, and ``"ties"`` elects signs and averages as `ties`
    does.

    For models fine-tuned a little, most of whose changes are redundant; each is thinned by
    itself, so that they collide less.

    Args:
        tensors: Arrays of one shape (...), at least one, any float type.
        weights: Finite numbers, used as given, or None for ``1 / n`` each; with
            ``combine="ties"``, numbers of 0 or greater with a positive sum.
        base: Array (...), where the models were trained from.
        density: Probability p to keep an entry, above 0 and at most 1.
        rescale: ``"expected"`` divides by p, as published. ``"l1"`` restores the sum of absolute
            values of this very draw, as a widely used implementation does. ``"none"`` leaves
            the entries as they are.
        combine: ``"linear"`` or ``"ties"``.
        scale: Finite factor of the whole step.
        majority: As in `ties`, with ``combine="ties"``.
        seed: 0 or greater.
        key: Name of the tensor: each name has random numbers of its own.

    Returns:
        Array (...) of the first tensor's type, the same for the same seed and key.

    Raises:
        ShapeError: When shapes differ.
        InputError: On weights or options out of range, or a tensor that is not of floats.
        UnknownNameError: When ``rescale``, ``combine`` or ``majority`` is not known.
        NonFiniteError: When a tensor or a weight is NaN or infinite.

    Paper: Yu et al. 2023, arXiv 2311.03099.

    Example:
        >>> dare([np.ones(8)], base=np.zeros(8), density=0.5, seed=3, key="layer.0.weight")
        array([2., 0., 0., 2., 2., 2., 0., 2.])
    """
    given = _random_inputs("dare", tensors, weights, base, density, rescale, combine)
    start = drop_at_random(seed, key, density, rescale=rescale == "expected")
    return _rescaled(given, start, rescale, combine, scale, majority, rows=False)


def della(
    tensors: Sequence[np.ndarray],
    weights: Sequence[float] | None = None,
    *,
    base: np.ndarray,
    density: float = 0.5,
    epsilon: float = 0.15,
    rescale: str = "expected",
    combine: str = "ties",
    scale: float = 1.0,
    majority: str = "sum",
    seed: int = 0,
    key: str = "",
) -> np.ndarray:
    """Drop entries of each task vector at random, small ones rather than large ones.

    As `dare`, but in each row (along the last axis, of length L) the entry of rank r by
    magnitude, 0 the smallest, is kept with probability
    ``p_r = density - epsilon + 2 epsilon r / (L - 1)`` and divided by that. A row of one entry
    has ``p = density``; entries of one magnitude rank by position.

    Args:
        tensors: Arrays of one shape (...), at least one, any float type.
        weights: As in `dare`.
        base: Array (...), where the models were trained from.
        density: Mean probability to keep an entry, above 0 and at most 1.
        epsilon: 0 or greater; ``density - epsilon`` must be above 0 and ``density + epsilon`` at
            most 1. With 0 this is `dare`.
        rescale: As in `dare`; ``"expected"`` divides each entry by its own probability.
        combine: ``"ties"``, as published, or ``"linear"``.
        scale: Finite factor of the whole step.
        majority: As in `ties`, with ``combine="ties"``.
        seed: 0 or greater.
        key: Name of the tensor: each name has random numbers of its own.

    Returns:
        Array (...) of the first tensor's type, the same for the same seed and key.

    Raises:
        ShapeError: When shapes differ.
        InputError: On weights or options out of range, or a tensor that is not of floats.
        UnknownNameError: When ``rescale``, ``combine`` or ``majority`` is not known.
        NonFiniteError: When a tensor or a weight is NaN or infinite.

    Paper: Deep et al. 2024, arXiv 2406.11617.

    Example:
        >>> della([np.array([4.0, 3.0, 2.0, 1.0])], base=np.zeros(4), density=0.5, epsilon=0.25)
        array([5.33333333, 0.        , 4.8       , 0.        ])
    """
    check_in_range(epsilon, name="epsilon", low=0.0)
    if density - epsilon <= 0 or density + epsilon > 1:
        raise InputError(
            f"density - epsilon must be above 0 and density + epsilon at most 1, because they are "
            f"the least and greatest probability to keep an entry; got density {density} and "
            f"epsilon {epsilon}."
        )
    given = _random_inputs("della", tensors, weights, base, density, rescale, combine)
    start = drop_by_rank(given, seed, key, density, epsilon, rescale=rescale == "expected")
    return _rescaled(given, start, rescale, combine, scale, majority, rows=True)


def breadcrumbs(
    tensors: Sequence[np.ndarray],
    weights: Sequence[float] | None = None,
    *,
    base: np.ndarray,
    density: float = 0.14,
    gamma: float = 0.01,
    combine: str = "linear",
    scale: float = 1.0,
    majority: str = "sum",
) -> np.ndarray:
    """Drop the largest entries of each task vector and the smallest, and add up the middle.

    Of the entries of ``d_i`` sorted by magnitude, the share ``gamma`` at the top is dropped as
    outliers, the share ``density`` below it is kept, and the rest is dropped as noise. Then
    ``W_0 + scale * sum_i w_i d_i``, or the elected signs of `ties`. The defaults drop the largest
    1 % and the smallest 85 %.

    Args:
        tensors: Arrays of one shape (...), at least one, any float type.
        weights: Finite numbers, used as given, or None for ``1 / n`` each; with
            ``combine="ties"``, numbers of 0 or greater with a positive sum.
        base: Array (...), where the models were trained from.
        density: Share to keep, above 0 and at most ``1 - gamma``. The counts are rounded; at
            least one entry is kept, and entries as large as a kept one are kept too. So a bias
            of a few entries has no outliers, and is not lost.
        gamma: Share to drop at the top, 0 or greater and below 1.
        combine: ``"linear"`` or ``"ties"``.
        scale: Finite factor of the whole step.
        majority: As in `ties`, with ``combine="ties"``.

    Returns:
        Array (...) of the first tensor's type.

    Raises:
        ShapeError: When shapes differ.
        InputError: On weights or options out of range, or a tensor that is not of floats.
        UnknownNameError: When ``combine`` or ``majority`` is not known.
        NonFiniteError: When a tensor or a weight is NaN or infinite.

    Paper: Davari and Belilovsky 2023, arXiv 2312.06795.

    Example:
        >>> breadcrumbs([np.array([9.0, 1.0, 3.0, 2.0])], base=np.zeros(4), density=0.5, gamma=0.25)
        array([0., 0., 3., 2.])
    """
    check_in_range(density, name="density", low=0.0, high=1.0, open_low=True)
    check_in_range(gamma, name="gamma", low=0.0, high=1.0)
    if density + gamma > 1 + 1e-9:
        raise InputError(
            f"density + gamma must be at most 1, the share to keep and the share of outliers; got "
            f"density {density} and gamma {gamma}."
        )
    given = _inputs("breadcrumbs", tensors, weights, base, combine)
    top = min(int(gamma * given.size + 0.5), max(0, given.size - 1))
    bottom = max(0, smallest_kept(density, given.size) - top)
    crumbs = keep_between(given, bottom, given.size - 1 - top)
    return merge_thinned(given, crumbs, combine=combine, scale=scale, majority=majority)


def sce(
    tensors: Sequence[np.ndarray],
    weights: Sequence[float] | None = None,
    *,
    base: np.ndarray,
    select_topk: float = 1.0,
) -> np.ndarray:
    """Select the entries the models differ in, calculate weights from them, erase minorities.

    1. Select: keep the ``select_topk`` share of entries with the largest variance of ``d_i``
       over the models; the others become 0 in all.
    2. Calculate: ``c_i = mean(d_i^2) / sum_j mean(d_j^2)``: who changed more counts more.
    3. Erase: drop the entries whose sign is not ``sign(sum_i d_i)``; a sum of 0 is positive.

    The result is ``W_0 + sum_{i agrees} c_i d_i / sum_{i agrees} c_i``.

    Args:
        tensors: Arrays of one shape (...), at least two, any float type.
        weights: None, or equal numbers: the method finds its own.
        base: Array (...), where the models were trained from.
        select_topk: Share of entries to keep, above 0 and at most 1. At least one is kept, and
            entries with as large a variance as the last are kept too.

    Returns:
        Array (...) of the first tensor's type.

    Raises:
        ShapeError: When shapes differ.
        InputError: On fewer than two tensors, unequal weights, a share out of range, or a tensor
            that is not of floats.
        NonFiniteError: When a tensor is NaN or infinite.

    Paper: Wan et al. 2024, FuseChat, arXiv 2408.07990.

    Example:
        >>> sce([np.array([3.0, 1.0]), np.array([1.0, -2.0])], base=np.zeros(2)).round(3)
        array([ 2.333, -2.   ])
    """
    given = check_inputs("sce", tensors, weights, base=base, needs_base=True, least=2, equal=True)
    check_in_range(select_topk, name="select_topk", low=0.0, high=1.0, open_low=True)
    count = len(given.tensors)

    def deltas(block: slice) -> np.ndarray:
        return np.stack([given.delta(index, block) for index in range(count)])

    least = -1.0  # below any variance
    lowest = smallest_kept(select_topk, given.size)
    if lowest > 0:
        variance = np.empty(given.size, given.work)
        for block in given.blocks():
            variance[block] = deltas(block).var(axis=0)
        least = float(np.partition(variance, lowest)[lowest])

    def selected(block: slice) -> np.ndarray:
        parts = deltas(block)
        return parts * (parts.var(axis=0) >= least)

    energy = np.zeros(count)
    for block in given.blocks():
        energy += np.square(selected(block), dtype=np.float64).sum(axis=1)
    found = energy / energy.sum() if energy.sum() > 0 else np.full(count, 1 / count)
    shares = found.astype(given.work)[:, None]

    def make(block: slice) -> np.ndarray:
        parts = selected(block)
        return agree(parts, shares, parts) + given.origin(block)

    return given.result(make)


def ram(
    tensors: Sequence[np.ndarray],
    weights: Sequence[float] | None = None,
    *,
    base: np.ndarray,
    eps: float = 1e-5,
) -> np.ndarray:
    """Average each change over the models that made it.

    ``W_0 + sum_{i: |d_i| > eps} w_i d_i / sum_{i: |d_i| > eps} w_i``, entry by entry: a change
    that one model made is taken whole, where `task_arithmetic` would dilute it by the models
    that did not touch the entry; a change that several made is averaged.

    For models that changed few entries each, as reinforcement learning leaves them.

    Args:
        tensors: Arrays of one shape (...), at least one, any float type.
        weights: Numbers of 0 or greater with a positive sum; None for equal ones.
        base: Array (...), where the models were trained from.
        eps: Size up to which a change is none, 0 or greater.

    Returns:
        Array (...) of the first tensor's type.

    Raises:
        ShapeError: When shapes differ.
        InputError: On weights or options out of range, or a tensor that is not of floats.
        NonFiniteError: When a tensor or a weight is NaN or infinite.

    Example:
        >>> ram([np.array([2.0, 0.0, 1.0]), np.array([4.0, 3.0, 0.0])], base=np.zeros(3))
        array([3., 3., 1.])
    """
    given = _inputs("ram", tensors, weights, base, "ties")
    check_in_range(eps, name="eps", low=0.0)
    shares = np.array(given.weights, given.work)[:, None]

    def make(block: slice) -> np.ndarray:
        parts = np.stack([given.delta(index, block) for index in range(len(given.tensors))])
        changed = (np.abs(parts) > eps) * shares
        total = changed.sum(axis=0)
        merged = (parts * changed).sum(axis=0) / np.where(total > 0, total, 1)
        return np.asarray(merged + given.origin(block))

    return given.result(make)


def _inputs(
    label: str,
    tensors: Sequence[np.ndarray],
    weights: Sequence[float] | None,
    base: np.ndarray | None,
    combine: str,
) -> Inputs:
    """Check the input of a method whose weights are used as given, or to average a majority."""
    check_choice(combine, COMBINE, name="combine")
    average = combine == "ties"
    return check_inputs(
        label, tensors, weights, base=base, needs_base=True, normalize=average, negative=not average
    )


def _random_inputs(
    label: str,
    tensors: Sequence[np.ndarray],
    weights: Sequence[float] | None,
    base: np.ndarray | None,
    density: float,
    rescale: str,
    combine: str,
) -> Inputs:
    check_in_range(density, name="density", low=0.0, high=1.0, open_low=True)
    check_choice(rescale, RESCALE, name="rescale")
    return _inputs(label, tensors, weights, base, combine)


def _rescaled(
    given: Inputs,
    start: Start,
    rescale: str,
    combine: str,
    scale: float,
    majority: str,
    *,
    rows: bool,
) -> np.ndarray:
    if rescale == "l1":
        start = same_length(given, start, rows=rows)
    return merge_thinned(given, start, combine=combine, scale=scale, majority=majority, rows=rows)
