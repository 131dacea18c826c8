"""Merging models: per-tensor methods as pure functions, and a registry of them by name.

Knows nothing about training.
"""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__,
    {"MERGE_METHODS": "functional", "functional": "functional", "linear": "functional"},
)
