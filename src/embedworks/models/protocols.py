"""What the rest of the house asks of a model, as a typing protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

__all__ = ["Encoder"]


@runtime_checkable
class Encoder(Protocol):
    """Anything that turns texts into vectors, one row per text.

    `StaticModel` and ``sentence_transformers.SentenceTransformer`` satisfy it; so does any object
    of another library with these methods. No inheritance is needed.

    Example:
        >>> class Lengths:
        ...     def encode(self, texts, **options):
        ...         return np.array([[len(text)] for text in texts], dtype=np.float32)
        ...     encode_query = encode_document = encode
        >>> isinstance(Lengths(), Encoder)
        True
    """

    def encode(self, texts: Sequence[str], /, **options: Any) -> np.ndarray:
        """Return float32 vectors of shape (N, D)."""
        ...

    def encode_query(self, texts: Sequence[str], /, **options: Any) -> np.ndarray:
        """Return float32 vectors of shape (N, D) for search queries."""
        ...

    def encode_document(self, texts: Sequence[str], /, **options: Any) -> np.ndarray:
        """Return float32 vectors of shape (N, D) for what is searched."""
        ...
