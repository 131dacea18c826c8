"""Compile numba kernels ahead of their first call, and keep them on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

__all__ = ["compile_kernel"]


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
