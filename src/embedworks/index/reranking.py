"""Score the first results again with a model that reads query and text together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from embedworks.errors import InputError, NonFiniteError, ShapeError

__all__ = ["Reranker", "rerank_order", "rerank_scores"]


@runtime_checkable
class Reranker(Protocol):
    """A model that scores pairs, such as ``sentence_transformers.CrossEncoder``."""

    @property
    def predict(self) -> Callable[..., Any]:
        """Called with a list of ``(query, text)``; returns one score per pair."""
        ...


def rerank_scores(model: Reranker, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Return a reranker's scores of pairs, float32 (N,).

    Args:
        model: Anything with ``predict(pairs)``. A model with two outputs per pair is not a
            reranker: give one that returns a single score.
        pairs: N pairs of query and text.

    Raises:
        InputError: When the model has no ``predict``.
        ShapeError: When it does not return one score per pair.
        NonFiniteError: When a score is NaN or infinite.

    Example:
        >>> class Overlap:
        ...     def predict(self, pairs):
        ...         return [len(set(a.split()) & set(b.split())) for a, b in pairs]
        >>> rerank_scores(Overlap(), [("open a file", "a file"), ("open", "close")])
        array([2., 0.], dtype=float32)
    """
    if not isinstance(model, Reranker):
        raise InputError(
            f"rerank needs an object with predict(pairs), such as a CrossEncoder, got "
            f"{type(model).__name__}."
        )
    if not pairs:
        return np.empty(0, dtype=np.float32)
    scores = np.asarray(model.predict(list(pairs)), dtype=np.float32)
    if scores.shape == (len(pairs), 1):
        scores = scores[:, 0]
    if scores.shape != (len(pairs),):
        raise ShapeError(
            f"{type(model).__name__}.predict returned shape {scores.shape} for {len(pairs)} pairs; "
            "a reranker gives one score per pair."
        )
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise NonFiniteError(f"{type(model).__name__} gave NaN or infinity for pair {bad}.")
    return scores


def rerank_order(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the places of the ``k`` best scores, highest first, equal ones in present order.

    Example:
        >>> rerank_order(np.array([0.5, 2.0, 0.5]), 2)
        array([1, 0])
    """
    return np.argsort(-scores, kind="stable")[:k]
