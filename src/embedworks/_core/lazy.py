"""Lazy re-exports: a room's public names without importing what stands behind them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["attach"]


def attach(
    package: str, exports: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Build ``__getattr__``, ``__dir__`` and ``__all__`` for a package.

    Args:
        package: The package's ``__name__``.
        exports: Public name -> submodule that defines it, relative to ``package``
            (``"chunking"``). A name that is itself a submodule maps to itself.

    Returns:
        ``(__getattr__, __dir__, __all__)`` to assign at module level; ``__all__`` is sorted.

    Example:
        >>> getattr_, dir_, names = attach("embedworks._core", {"Registry": "registry"})
        >>> names
        ['Registry']
        >>> getattr_("Registry").__name__
        'Registry'
    """
    names = sorted(exports)

    def __getattr__(name: str) -> Any:
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{exports[name]}")
        return module if name == exports[name] else getattr(module, name)

    def __dir__() -> list[str]:
        return names

    return __getattr__, __dir__, names
