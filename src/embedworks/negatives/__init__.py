"""Negatives: finding documents that look relevant and are not.

Knows nothing about losses.
"""

from embedworks._core.lazy import attach as _attach

__getattr__, __dir__, __all__ = _attach(
    __name__, {"MinedNegatives": "mining", "mine_hard_negatives": "mining"}
)
