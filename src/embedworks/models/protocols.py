"""What the rest of the house asks of a model, as a typing protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

__all__ = ["Encoder"]


@runtime_checkable
class Encoder(Protocol):
    """Anything that turns texts into vectors, one row per text.

    `StaticModel` and ``sentence_transformers.SentenceTransformer`` satisfy it; so does any object
    of another library with these methods. No inheritance is needed. Only the texts, a sequence of
    strings, are ever passed to a model of unknown kind.

    Example:
        >>> class Lengths:
        ...     def encode(self, texts):
        ...         return np.array([[len(text)] for text in texts], dtype=np.float32)
        ...
        ...     encode_query = encode_document = encode
        >>> isinstance(Lengths(), Encoder)
        True
    """

    @property
    def encode(self) -> Callable[..., np.ndarray]:
        """Called with N texts; returns vectors (N, D)."""
        ...

    @property
    def encode_query(self) -> Callable[..., np.ndarray]:
        """As `encode`, for search queries."""
        ...

    @property
    def encode_document(self) -> Callable[..., np.ndarray]:
        """As `encode`, for what is searched."""
        ...
