"""Checks of values that come from outside, each with a message that tells what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from embedworks._core.registry import did_you_mean
from embedworks.errors import (
    DuplicateIdError,
    EmptyInputError,
    InputError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
)

__all__ = [
    "check_choice",
    "check_in_range",
    "check_k",
    "check_texts",
    "check_unique",
    "check_vectors",
    "normalize_rows",
    "unit_directions",
]


def check_choice(value: str, allowed: Iterable[str], *, name: str) -> str:
    """Return ``value`` if it is one of ``allowed``.

    Raises:
        UnknownNameError: With the closest allowed values.

    Example:
        >>> check_choice("dense", ["dense", "bm25"], name="mode")
        'dense'
    """
    choices = list(allowed)
    if value not in choices:
        raise UnknownNameError(f"{name} {value!r} is not known. {did_you_mean(value, choices)}")
    return value


def check_in_range(
    value: float,
    *,
    name: str,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
) -> float:
    """Return ``value`` if it is finite and inside ``[low, high]`` (``(low, high]`` if open).

    Raises:
        InputError: Naming the argument, the value and the allowed range.

    Example:
        >>> check_in_range(0.5, name="alpha", low=0.0, high=1.0)
        0.5
    """
    below = low is not None and (value < low or (open_low and value == low))
    if not np.isfinite(value) or below or (high is not None and value > high):
        left = ("(" if open_low else "[") + ("-inf" if low is None else f"{low:g}")
        right = ("inf" if high is None else f"{high:g}") + "]"
        raise InputError(f"{name} must be in {left}, {right}, got {value!r}.")
    return value


def check_k(k: int) -> int:
    """Return ``k`` if it is an integer of at least 1.

    A ``k`` above the corpus size is not an error: the result simply has every match.
    """
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise InputError(f"k must be an integer of at least 1, got {k!r}.")
    return int(k)


def check_texts(texts: Sequence[str], *, name: str = "texts") -> list[str]:
    """Return ``texts`` as a list of strings.

    Raises:
        InputError: When one string is given in place of a list, or an item is not a string.

    Example:
        >>> check_texts(["a", "b"])
        ['a', 'b']
    """
    if isinstance(texts, (str, bytes)):
        raise InputError(f"{name} must be a list of strings, got one {type(texts).__name__}.")
    items = list(texts)
    for position, item in enumerate(items):
        if not isinstance(item, str):
            raise InputError(
                f"{name}[{position}] must be a string, got {type(item).__name__}: {item!r:.60}."
            )
    return items


def check_unique(ids: Sequence[str], *, name: str = "ids") -> None:
    """Raise `DuplicateIdError` naming the first id that occurs twice."""
    seen: set[str] = set()
    for item in ids:
        if item in seen:
            raise DuplicateIdError(f"{name} must be unique, but {item!r} occurs more than once.")
        seen.add(item)


def check_vectors(
    vectors: np.ndarray, *, name: str = "vectors", dim: int | None = None, allow_empty: bool = False
) -> np.ndarray:
    """Return ``vectors`` as a C-contiguous float32 array of shape (N, D).

    Args:
        vectors: Array of shape (N, D), any float or integer type.
        name: Used in messages.
        dim: Required D, or None.
        allow_empty: Whether N = 0 is fine.

    Raises:
        ShapeError: When the array is not 2-D or D differs from ``dim``.
        EmptyInputError: When N = 0 and ``allow_empty`` is False.
        NonFiniteError: When a value is NaN or infinite; names the first such row.
    """
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.ndim != 2:
        raise ShapeError(f"{name} must have shape (N, D), got {array.shape}.")
    if dim is not None and array.shape[1] != dim:
        raise ShapeError(
            f"{name} have {array.shape[1]} dimensions but {dim} are expected: "
            "were they made by another model?"
        )
    if array.shape[0] == 0 and not allow_empty:
        raise EmptyInputError(f"{name} are empty: at least one row is needed.")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise NonFiniteError(
            f"{name} contain NaN or infinity in {len(bad)} of {len(array)} rows, "
            f"the first is row {bad[0]}."
        )
    return array


def unit_directions(
    vectors: np.ndarray, *, name: str = "vectors", dim: int | None = None
) -> np.ndarray:
    """Return rows of length 1, float64 (N, D), of vectors that must all have a direction.

    Raises:
        InputError: When a row is zero, or the array is unusable; see `check_vectors`.

    Example:
        >>> unit_directions(np.array([[3.0, 4.0]]))
        array([[0.6, 0.8]])
    """
    array = check_vectors(vectors, name=name, dim=dim).astype(np.float64)
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    if not norms.all():
        bad = int(np.flatnonzero(norms[:, 0] == 0)[0])
        raise InputError(f"{name}[{bad}] is the zero vector, which has no direction: leave it out.")
    return np.asarray(array / norms)


def normalize_rows(vectors: np.ndarray) -> np.ndarray:
    """Divide each row by its L2 norm; zero rows stay zero. Shape (N, D) float32.

    Example:
        >>> normalize_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))
        array([[0.6, 0.8],
               [0. , 0. ]], dtype=float32)
    """
    array = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    return np.asarray(array / np.where(norms > 0, norms, 1.0), dtype=np.float32)
