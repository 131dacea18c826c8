"""Vectors of numbers: by an angle, whose cosine says how near they are, or by their magnitude."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice, check_in_range
from embedworks.errors import InputError, NonFiniteError, ShapeError

__all__ = ["dice_vectors", "magnitude_vectors"]


def dice_vectors(
    values: Sequence[float] | np.ndarray,
    *,
    low: float,
    high: float,
    dim: int = 64,
    form: Literal["planar", "polar"] = "planar",
    seed: int = 0,
) -> np.ndarray:
    """Return unit vectors of numbers, by their angle ``theta = pi (x - low) / (high - low)``.

    Sundararaman et al. 2020, "Methods for numeracy-preserving word embeddings" (DICE). The
    ``"planar"`` form repeats ``(cos theta, sin theta)`` over D/2 planes, so that the cosine of two
    numbers is ``cos(theta_x - theta_y)`` and falls strictly with their distance. The paper's
    ``"polar"`` form, ``v_k = sin^(k-1)(theta) cos(theta)`` with ``v_D = sin^(D-1)(theta)``, does
    not keep that order for D above 2, so it is not the default. Either is turned by one drawn
    rotation.

    Args:
        values: N numbers; those outside the range are moved to its nearest end.
        low: Lower end of the range.
        high: Upper end, above ``low``.
        dim: Number of dimensions D, at least 2; even for ``"planar"``.
        form: ``"planar"`` or ``"polar"``.
        seed: Of the rotation; vectors of two seeds cannot be compared.

    Returns:
        float32 (N, D).

    Raises:
        NonFiniteError: When a value is NaN or infinite.
        InputError: When the range is empty, or ``dim`` does not suit the form.
        ShapeError: When the values are not one row of numbers.

    Example:
        >>> a, b, c = dice_vectors([10, 20, 90], low=0, high=100)
        >>> bool(a @ b > b @ c > a @ c)
        True
    """
    check_choice(form, ("planar", "polar"), name="form")
    check_in_range(dim, name="dim", low=2)
    _check_span(low, high)
    if form == "planar" and dim % 2:
        raise InputError(f"dim must be even for the planar form, got {dim}.")
    numbers = _finite(values)
    theta = np.pi * (np.clip(numbers, low, high) - low) / (high - low)
    if form == "planar":
        pair = np.stack([np.cos(theta), np.sin(theta)], axis=1) * np.sqrt(2 / dim)
        plain = np.tile(pair, (1, dim // 2))
    else:
        powers = np.sin(theta)[:, None] ** np.arange(dim)
        plain = powers * np.append(np.ones(dim - 1), 0) * np.cos(theta)[:, None]
        plain[:, -1] = powers[:, -1]
    rotation = np.linalg.qr(generator(seed, "dice").standard_normal((dim, dim)))[0]
    return np.asarray(plain @ rotation.T, dtype=np.float32)


def magnitude_vectors(
    values: Sequence[float] | np.ndarray, *, low: float, high: float, frequencies: int = 8
) -> np.ndarray:
    """Return features of numbers from which a linear model can read sign, size and value.

    ``[sign, log10 |x|, mantissa]``, with ``|x| = mantissa * 10^e`` and mantissa in [1, 10), then
    ``sin(2^k t)`` and ``cos(2^k t)`` for k = 0 to K - 1, with ``t = pi/4 (x - low)/(high - low)``:
    the slow waves say where x lies in the range, the fast ones tell neighbours apart (Tancik et
    al. 2020, arXiv 2006.10739, section 4; the eighth of a turn keeps the slowest nearly straight).
    Put them beside a text's vector or before a probe; for cosines use `dice_vectors`. Zero has the
    first three features 0.

    Args:
        values: N numbers; those outside the range keep their first three features, and are moved
            to its nearest end for the waves.
        low: Lower end of the range.
        high: Upper end, above ``low``.
        frequencies: K, from 1 to 32.

    Returns:
        float32 (N, 3 + 2K).

    Raises:
        NonFiniteError: When a value is NaN or infinite.
        InputError: When the range is empty, or ``frequencies`` does not fit.
        ShapeError: When the values are not one row of numbers.

    Example:
        >>> magnitude_vectors([-250.0, 0.0], low=-1000, high=1000)[:, :3].round(3)
        array([[-1.   ,  2.398,  2.5  ],
               [ 0.   ,  0.   ,  0.   ]], dtype=float32)
    """
    check_in_range(frequencies, name="frequencies", low=1, high=32)
    _check_span(low, high)
    numbers = _finite(values)
    size = np.abs(numbers)
    logs = np.log10(np.where(size > 0, size, 1))
    mantissa = np.where(size > 0, 10 ** (logs - np.floor(logs)), 0)
    turn = np.pi / 4 * (np.clip(numbers, low, high) - low) / (high - low)
    waves = turn[:, None] * 2.0 ** np.arange(frequencies)
    first = np.stack([np.sign(numbers), logs, mantissa], axis=1)
    return np.concatenate([first, np.sin(waves), np.cos(waves)], axis=1).astype(np.float32)


def _check_span(low: float, high: float) -> None:
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise InputError(f"low must be below high, both finite, got {low!r} and {high!r}.")


def _finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1:
        raise ShapeError(f"values must have shape (N,), got {numbers.shape}.")
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise NonFiniteError(f"values[{bad[0]}] is {numbers[bad[0]]}; {len(bad)} are not finite.")
    return numbers
