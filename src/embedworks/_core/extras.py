"""Optional dependencies: import them, or say which line installs them."""

from __future__ import annotations

import importlib
from types import ModuleType

from embedworks.errors import MissingExtraError

__all__ = ["require_extra"]


def require_extra(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import ``module`` or raise with the exact install line.

    Args:
        module: Module to import, such as ``"lancedb"``.
        extra: The embedworks extra that brings it, such as ``"store"``.
        purpose: What needs it, to complete the sentence "... is needed to <purpose>".

    Raises:
        MissingExtraError: When the module, or something it imports, is not installed.

    Example:
        >>> require_extra("json", extra="store", purpose="read JSON").__name__
        'json'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"The package {module!r} is needed to {purpose} and could not be imported ({error}). "
            f"Install it with: pip install 'embedworks[{extra}]'"
        ) from error
