"""Compile numba kernels with one signature each, cached on disk where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

__all__ = ["compiled"]


def compiled(result: Any, *arguments: Any, **options: Any) -> Callable[[Callable], Any]:
    """Return a decorator that compiles a function for these types; it releases the GIL."""

    def decorate(function: Callable) -> Any:
        chosen = {"nogil": True, **options}
        try:
            return njit(result(*arguments), cache=True, **chosen)(function)
        except RuntimeError:  # numba finds no writable place for its cache
            return njit(result(*arguments), **chosen)(function)

    return decorate
