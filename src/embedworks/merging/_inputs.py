"""What every merge of one tensor needs: checked input, blocks that fit the cache, a checked result.

Knows nothing about any method. Tensors are read in blocks, so that a merge needs little memory
beside its input and its result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from embedworks.errors import InputError, NonFiniteError, ShapeError

__all__ = ["BLOCK", "Inputs", "check_inputs"]

#: Elements of one tensor that are worked on at a time: small enough for the cache.
BLOCK = 1 << 16


@dataclass(frozen=True)
class Inputs:
    """The same tensor of n models, checked.

    Attributes:
        tensors: n float arrays of one shape, flattened.
        base: The base's tensor, flattened, or None.
        weights: n finite numbers; they sum to 1 where the method asked for that.
        shape: Shape of the result.
        dtype: Type of the result, the first tensor's.
        work: Type the maths runs in, float32 or wider.
        label: The method's name, for messages.
    """

    tensors: tuple[np.ndarray, ...]
    base: np.ndarray | None
    weights: tuple[float, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    work: np.dtype
    label: str

    @property
    def size(self) -> int:
        """Number of elements of the tensor."""
        return int(self.tensors[0].size)

    @property
    def row(self) -> int:
        """Length of the last axis, at least 1; a scalar is one row of one element."""
        return max(1, self.shape[-1]) if self.shape else 1

    def blocks(self, *, rows: bool = False) -> Iterator[slice]:
        """Yield slices that cover the flattened tensor; with ``rows``, whole rows only."""
        step = max(1, BLOCK // self.row) * self.row if rows else BLOCK
        for start in range(0, self.size, step):
            yield slice(start, min(start + step, self.size))

    def part(self, index: int, block: slice) -> np.ndarray:
        """Return a block of tensor ``index`` in the type the maths runs in; never a view."""
        return self.tensors[index][block].astype(self.work)

    def delta(self, index: int, block: slice) -> np.ndarray:
        """Return a block of ``tensor - base``, or of the tensor where there is no base."""
        part = self.part(index, block)
        if self.base is not None:
            part -= self.base[block]
        return part

    def origin(self, block: slice) -> np.ndarray:
        """Return a block of the base, zeros where there is none; never a view."""
        if self.base is None:
            return np.zeros(block.stop - block.start, self.work)
        return self.base[block].astype(self.work)

    def result(self, make: Callable[[slice], np.ndarray], *, rows: bool = False) -> np.ndarray:
        """Return the merged tensor whose blocks ``make`` computes, in the first tensor's type.

        Raises:
            NonFiniteError: When merged values are too large for that type.
        """
        out = np.empty(self.size, self.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            for block in self.blocks(rows=rows):
                out[block] = make(block)
        if not _finite(out):
            raise NonFiniteError(
                f"{self.label}: the merged values are too large for {self.dtype}. Lower the "
                "weights or the scale, or convert the models to float32."
            )
        return out.reshape(self.shape)


def check_inputs(
    label: str,
    tensors: Sequence[np.ndarray],
    weights: Sequence[float] | None,
    *,
    base: np.ndarray | None = None,
    needs_base: bool = False,
    least: int = 1,
    most: int | None = None,
    normalize: bool = False,
    negative: bool = True,
    equal: bool = False,
) -> Inputs:
    """Check the same tensor of several models.

    Args:
        label: The method's name, for messages.
        tensors: Float arrays of one shape.
        weights: One finite number per tensor, or None for ``1 / n`` each.
        base: Float array of the same shape, or None.
        needs_base: Whether a missing base is an error.
        least: Fewest tensors the method works on.
        most: Most tensors, or None.
        normalize: Whether weights are divided by their sum, which must not be zero then.
        negative: Whether weights below zero are allowed.
        equal: Whether unequal weights are an error, because the method has no use for them.

    Raises:
        InputError: On a wrong number of tensors or weights, types other than floats, a missing
            base, or weights the method cannot use.
        ShapeError: When shapes differ.
        NonFiniteError: When a tensor, the base or a weight is NaN or infinite.
    """
    _check_count(label, len(tensors), least, most)
    used = _check_weights(label, weights, len(tensors), normalize, negative, equal)
    arrays = [np.asarray(tensor) for tensor in tensors]
    if base is None and needs_base:
        raise InputError(
            f"{label} works on what each model changed, so it needs the base the models were "
            "trained from: give `base`."
        )
    named = [(f"tensor {position}", array) for position, array in enumerate(arrays)]
    if base is not None:
        named.append(("the base's tensor", np.asarray(base)))
    for name, array in named:
        if array.dtype.kind != "f":
            raise InputError(
                f"{name} has type {array.dtype}, {label} merges floating point numbers. Integer "
                "tensors (positions, counts, quantised weights) cannot be averaged: they must be "
                "equal, or the models converted first."
            )
        if array.shape != arrays[0].shape:
            raise ShapeError(
                f"{name} has shape {array.shape}, the first has {arrays[0].shape}: "
                "the models must have the same structure."
            )
        if not _finite(array):
            raise NonFiniteError(f"{name} contains NaN or infinity.")
    flat = [array.reshape(-1) for _, array in named]
    return Inputs(
        tensors=tuple(flat[: len(arrays)]),
        base=flat[-1] if base is not None else None,
        weights=used,
        shape=arrays[0].shape,
        dtype=arrays[0].dtype,
        work=np.result_type(np.float32, *(array.dtype for array in flat)),
        label=label,
    )


def _check_count(label: str, count: int, least: int, most: int | None) -> None:
    if count < least or (most is not None and count > most):
        wanted = f"exactly {least}" if most == least else f"at least {least}"
        raise InputError(f"{label} merges {wanted} model{'s'[: least != 1]}, got {count}.")


def _check_weights(
    label: str,
    weights: Sequence[float] | None,
    count: int,
    normalize: bool,
    negative: bool,
    equal: bool,
) -> tuple[float, ...]:
    try:
        values = [1.0 / count] * count if weights is None else [float(w) for w in weights]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"weights must be a list of numbers, one per tensor, got {weights!r:.80}."
        ) from error
    if len(values) != count:
        raise InputError(
            f"{label} needs one weight per tensor, got {count} tensors and {len(values)} weights."
        )
    if not np.isfinite(values).all():
        raise NonFiniteError(f"weights must be finite, got {values}.")
    if equal and len(set(values)) > 1:
        raise InputError(
            f"{label} finds its own weights and takes none, got {values}: leave them out."
        )
    if not negative and min(values) < 0:
        raise InputError(f"{label} needs weights of 0 or greater, got {values}.")
    if not normalize:
        return tuple(values)
    total = sum(values)
    if abs(total) <= 1e-12 * sum(abs(value) for value in values):
        raise InputError(
            f"{label} divides the weights by their sum, and {values} sum to zero: "
            "give at least one weight that the others do not cancel."
        )
    return tuple(value / total for value in values)


def _finite(array: np.ndarray) -> bool:
    """Whether every value is finite; the sum of NaN or infinity never is, and sums are fast."""
    if array.dtype.itemsize < 4:  # float16 sums overflow, and are no faster
        return bool(np.isfinite(array).all())
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum())) or bool(np.isfinite(array).all())
