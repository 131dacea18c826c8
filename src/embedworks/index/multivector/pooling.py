"""Fewer token vectors per document: clusters of similar tokens become one vector each."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.progress import track
from embedworks.errors import EmptyInputError, InputError
from embedworks.index.multivector.tokens import TokenMatrix

__all__ = ["pool_documents", "pool_tokens"]


def pool_tokens(tokens: np.ndarray, factor: int, *, protected: int = 1) -> np.ndarray:
    """Merge a document's tokens into about one ``factor``-th as many vectors.

    Ward's hierarchical clustering on the distances 1 - cosine cuts the tokens after the
    protected ones into ``max(1, T' // factor)`` clusters (fewer when tokens are equal). Each
    becomes the mean of its unit vectors, given unit length, in the order of its first token.

    Args:
        tokens: Token vectors of one document, (T, D).
        factor: Tokens per vector on average; 1 merges nothing.
        protected: First tokens that stay as they are, such as [CLS] and the prompt's.

    Returns:
        Unit vectors, float32 (T'', D).

    Raises:
        InputError: When ``factor`` < 1, ``protected`` < 0, or a token is a zero vector.
        ShapeError, EmptyInputError, NonFiniteError: As `TokenMatrix.from_documents`.
        MissingExtraError: When scipy is not installed.

    Paper: Clavie, Chaffin and Adams 2024, arXiv 2409.14683, section 3. The clustering gets the
    distances themselves; some code gives it the rows of the distance matrix as if they were
    points.

    Example:
        >>> tokens = np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [1.0, 0.1]])
        >>> pool_tokens(tokens, 2, protected=0).round(2)
        array([[1.  , 0.05],
               [0.05, 1.  ]], dtype=float32)
    """
    if isinstance(factor, bool) or not isinstance(factor, (int, np.integer)) or factor < 1:
        raise InputError(f"factor must be an integer of at least 1, got {factor!r}.")
    if isinstance(protected, bool) or not isinstance(protected, int) or protected < 0:
        raise InputError(f"protected must be an integer of at least 0, got {protected!r}.")
    unit = TokenMatrix.from_documents([tokens]).normalized().tokens
    rest = unit[protected:].astype(np.float64)
    clusters = max(1, len(rest) // factor)
    if factor == 1 or len(rest) <= clusters:
        return unit
    hierarchy = require_extra("scipy.cluster.hierarchy", extra="train", purpose="pool tokens")
    upper = np.triu_indices(len(rest), 1)
    distances = np.maximum(0.0, 1.0 - (rest @ rest.T)[upper])
    tree = hierarchy.linkage(distances, method="ward")
    labels = hierarchy.fcluster(tree, clusters, criterion="maxclust")
    _, first, places = np.unique(labels, return_index=True, return_inverse=True)
    sums = np.zeros((len(first), rest.shape[1]))
    np.add.at(sums, places, rest)
    norms = np.linalg.norm(sums, axis=1)
    # Opposite tokens may cancel out: the first of them then stands for all.
    merged = np.where(norms[:, None] > 1e-6, sums / np.maximum(norms, 1e-6)[:, None], rest[first])
    pooled = merged[np.argsort(first)].astype(np.float32)
    return np.concatenate([unit[:protected], pooled])


def pool_documents(
    documents: Iterable[np.ndarray] | TokenMatrix,
    factor: int,
    *,
    protected: int = 1,
) -> TokenMatrix:
    """Pool every document with `pool_tokens`; float32.

    Args:
        documents: One array (T, D) per document, or a `TokenMatrix`.
        factor: Tokens per vector on average.
        protected: First tokens of each document that stay as they are.

    Raises:
        EmptyInputError: When there are no documents; further as `pool_tokens`, naming the
            document.

    Example:
        >>> tokens = np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [1.0, 0.1]])
        >>> pool_documents([tokens, tokens[:2]], 3, protected=0).lengths
        array([1, 1])
    """
    matrix = documents
    if not isinstance(matrix, TokenMatrix):
        matrix = TokenMatrix.from_documents(matrix)
    if not len(matrix):
        raise EmptyInputError("There are no documents: at least one is needed.")
    matrix = matrix.normalized()  # names the document that has a zero vector
    numbers = track(range(len(matrix)), "Pooling tokens")
    pooled = (pool_tokens(matrix.document(m), factor, protected=protected) for m in numbers)
    return TokenMatrix.from_documents(pooled)
