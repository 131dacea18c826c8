"""Objectives: the pure maths in `functional`, and losses for trainers over it."""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__, {"functional": "functional", "info_nce": "functional"}
)
