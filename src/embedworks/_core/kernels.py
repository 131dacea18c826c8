"""Compile numba kernels ahead of their first call, keep them on disk, and fetch rows early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

__all__ = ["compile_kernel", "fetch_item", "fetch_row"]

_LINE = 64  # bytes that a processor reads at once


def compile_kernel(result: Any, *arguments: Any, **options: Any) -> Callable[[Callable], Any]:
    """Compile a function for one signature; it releases the GIL and is cached on disk.

    Args:
        result: Numba type of the result.
        arguments: Numba types of the arguments.
        options: Further options of `numba.njit`, such as ``fastmath={"contract"}``.

    Example:
        >>> from numba import types
        >>> double = compile_kernel(types.int64, types.int64)(lambda number: 2 * number)
        >>> double(21)
        42
    """

    def decorate(function: Callable) -> Any:
        signature = result(*arguments)
        try:
            return njit(signature, cache=True, nogil=True, **options)(function)
        except RuntimeError:  # numba finds no writable place for its cache
            return njit(signature, nogil=True, **options)(function)

    return decorate


@intrinsic
def _fetch_line(_typing: Any, address: Any) -> Any:  # pragma: no cover - runs in the compiler
    """Ask the processor to read the line at an address; never fails, changes nothing."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        read, keep, data = number(0), number(3), number(1)
        builder.call(ask, [pointer, read, keep, data])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@njit
def fetch_row(matrix: Any, row: Any) -> None:
    """Ask the processor to read a row of a C-contiguous matrix that is needed soon.

    For use in kernels that read rows from anywhere: the wait for memory is most of their time.
    """
    width = matrix.shape[1] * matrix.itemsize
    address = np.int64(matrix.ctypes.data) + np.int64(row) * width
    for place in range(0, width, _LINE):
        _fetch_line(address + place)


@njit
def fetch_item(values: Any, place: Any) -> None:
    """Ask the processor to read one value of a C-contiguous vector that is needed soon."""
    _fetch_line(np.int64(values.ctypes.data) + np.int64(place) * values.itemsize)
