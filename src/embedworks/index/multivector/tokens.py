"""Token vectors of many documents in one matrix, with the checks every index here relies on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from embedworks._core.validation import check_choice
from embedworks.errors import EmptyInputError, InputError, NonFiniteError, ShapeError
from embedworks.index.exact import SIMILARITIES

__all__ = ["TokenMatrix", "prepare_query"]

_BLOCK = 65_536  # tokens checked at a time


@dataclass(frozen=True, eq=False)
class TokenMatrix:
    """The token vectors of M documents, one below the other.

    Args:
        tokens: Float32 or float16 array of shape (T, D), possibly a memory map; not copied.
        offsets: Int64 array (M + 1,): document m has rows ``offsets[m]`` to ``offsets[m + 1]``.

    Raises:
        ShapeError: When the shapes or types do not fit together.
        EmptyInputError: When a document has no tokens.

    Example:
        >>> matrix = TokenMatrix.from_documents([np.eye(2), np.ones((3, 2))])
        >>> len(matrix), matrix.tokens.shape, matrix.offsets
        (2, (5, 2), array([0, 2, 5]))
    """

    tokens: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        tokens, offsets = self.tokens, self.offsets
        if tokens.ndim != 2 or tokens.dtype not in (np.float32, np.float16):
            raise ShapeError(
                "tokens must be a float32 or float16 array of shape (T, D), got "
                f"{tokens.dtype} of shape {tokens.shape}."
            )
        if offsets.ndim != 1 or offsets.dtype != np.int64 or not len(offsets):
            raise ShapeError(
                "offsets must be an int64 array with one value more than there are documents, "
                f"got {offsets.dtype} of shape {offsets.shape}."
            )
        if offsets[0] != 0 or offsets[-1] != len(tokens) or (np.diff(offsets) < 0).any():
            raise ShapeError(
                f"offsets must rise from 0 to the number of tokens, {len(tokens)}, got values "
                f"from {offsets[0]} to {offsets[-1]}."
            )
        empty = np.flatnonzero(np.diff(offsets) == 0)
        if len(empty):
            raise EmptyInputError(
                f"{len(empty)} of {len(self)} documents have no tokens, the first is document "
                f"{empty[0]}: MaxSim is not defined for them. Leave empty texts out."
            )

    @classmethod
    def from_documents(
        cls, documents: Iterable[np.ndarray], *, dtype: str = "float32"
    ) -> TokenMatrix:
        """Stack the arrays (T_m, D) of all documents; values may be of any numeric type.

        Raises:
            ShapeError: When one is not 2-D, or has another D than the first; names it.
            EmptyInputError: When there is no document, or one has no tokens.
            NonFiniteError: When a value is NaN or infinite, or too large for ``dtype``.
        """
        parts: list[np.ndarray] = []
        for number, document in enumerate(documents):
            with np.errstate(over="ignore"):
                part = np.asarray(document, dtype=check_choice(dtype, _DTYPES, name="dtype"))
            if part.ndim != 2:
                raise ShapeError(
                    f"Document {number} must have shape (T, D), one row per token, got "
                    f"{part.shape}."
                )
            if part.shape[1] != (parts or [part])[0].shape[1]:
                raise ShapeError(
                    f"Document {number} has token vectors of {part.shape[1]} dimensions, "
                    f"document 0 of {parts[0].shape[1]}: were they made by another model?"
                )
            parts.append(part)
        if not parts:
            raise EmptyInputError("There are no documents: at least one is needed.")
        offsets = np.zeros(len(parts) + 1, dtype=np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        matrix = cls(np.ascontiguousarray(np.concatenate(parts)), offsets)
        matrix.check_finite()
        return matrix

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def dim(self) -> int:
        """Dimensions of a token vector, D."""
        return self.tokens.shape[1]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every document, int64 (M,)."""
        return np.diff(self.offsets)

    def document(self, number: int) -> np.ndarray:
        """Return the token vectors of one document, (T_m, D), as they are stored."""
        if not 0 <= number < len(self):
            raise InputError(f"There is no document {number}: there are {len(self)}, from 0.")
        return self.tokens[self.offsets[number] : self.offsets[number + 1]]

    def owner(self, token: int) -> int:
        """Return the number of the document that a token (row) belongs to."""
        return int(np.searchsorted(self.offsets, token, side="right")) - 1

    def check_finite(self) -> None:
        """Raise `NonFiniteError` naming the first document with NaN or infinity."""
        for start in range(0, len(self.tokens), _BLOCK):
            finite = np.isfinite(self.tokens[start : start + _BLOCK]).all(axis=1)
            if not finite.all():
                token = start + int(np.argmin(finite))
                raise NonFiniteError(
                    f"Document {self.owner(token)} has NaN or infinity in token "
                    f"{token - self.offsets[self.owner(token)]} (or a value too large for "
                    f"{self.tokens.dtype})."
                )

    def truncated(self, dim: int) -> TokenMatrix:
        """Return the matrix with the first ``dim`` dimensions only, a copy.

        Raises:
            InputError: When ``dim`` is not between 1 and D.
        """
        if isinstance(dim, bool) or not isinstance(dim, int) or not 1 <= dim <= self.dim:
            raise InputError(f"truncate_dim must be from 1 to {self.dim}, got {dim!r}.")
        return TokenMatrix(np.ascontiguousarray(self.tokens[:, :dim]), self.offsets)

    def normalized(self) -> TokenMatrix:
        """Return the matrix with tokens of unit length, of the same type.

        Raises:
            InputError: When a token is a zero vector: it has no direction.
        """
        result = np.empty(self.tokens.shape, dtype=self.tokens.dtype)
        for start in range(0, len(self.tokens), _BLOCK):
            part = self.tokens[start : start + _BLOCK].astype(np.float32)
            norms = np.sqrt((part.astype(np.float64) ** 2).sum(axis=1))
            if not norms.all():
                token = start + int(np.argmin(norms))
                raise InputError(
                    f"Document {self.owner(token)} has a zero vector as token "
                    f"{token - self.offsets[self.owner(token)]}: cosine similarity is not defined "
                    "for it. Leave padding out, or use similarity='dot'."
                )
            result[start : start + _BLOCK] = part / norms[:, None]
        return TokenMatrix(result, self.offsets)


_DTYPES = ("float32", "float16")


def prepare_query(query: np.ndarray, dim: int, similarity: str, *, name: str) -> np.ndarray:
    """Check a query's token vectors (U, D); under cosine give them unit length. Float32.

    Raises:
        ShapeError: When the query is not 2-D or has another dimension.
        EmptyInputError: When it has no tokens.
        NonFiniteError: When it contains NaN or infinity.
        InputError: When a token is a zero vector under cosine.
    """
    array = np.ascontiguousarray(query, dtype=np.float32)
    if array.ndim != 2 or array.shape[1] != dim:
        raise ShapeError(
            f"{name} must have shape (U, {dim}), one row per token, got {array.shape}: was it "
            "made by another model?"
        )
    if not len(array):
        raise EmptyInputError(f"{name} has no tokens.")
    if not np.isfinite(array).all():
        raise NonFiniteError(f"{name} contains NaN or infinity.")
    if check_choice(similarity, SIMILARITIES, name="similarity") == "dot":
        return array
    norms = np.sqrt((array.astype(np.float64) ** 2).sum(axis=1))
    if not norms.all():
        raise InputError(
            f"{name} has a zero vector as token {int(np.argmin(norms))}: cosine similarity is "
            "not defined for it. Leave padding out."
        )
    return np.asarray(array / norms[:, None], dtype=np.float32)


def cut_queries(queries: Sequence[np.ndarray], given: int, kept: int) -> list[np.ndarray]:
    """Cut queries (U, given) to the dimensions that are kept; one bare array is refused."""
    if getattr(queries, "ndim", 3) != 3:
        raise ShapeError(
            f"queries must be a list of arrays (U, {given}), one per query, got one array of "
            f"shape {np.shape(queries)}: put it in a list."
        )
    cut = []
    for number, query in enumerate(queries):
        array = np.asarray(query)
        if array.ndim != 2 or array.shape[1] != given:
            raise ShapeError(
                f"Query {number} must have shape (U, {given}), one row per token, got "
                f"{array.shape}: was it made by another model?"
            )
        cut.append(array[:, :kept])
    return cut
