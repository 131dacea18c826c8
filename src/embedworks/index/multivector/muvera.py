"""Late interaction as one inner product: fixed-dimension encodings, then exact MaxSim."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedworks._core.validation import check_in_range, check_k
from embedworks.errors import FormatError, InputError, ShapeError
from embedworks.index._saved_arrays import load_arrays, save_arrays
from embedworks.index.exact import matching_rows
from embedworks.index.multivector._kernels import gather_cells
from embedworks.index.multivector.maxsim import ARRAYS, MaxSimIndex
from embedworks.index.multivector.tokens import TokenMatrix, cut_queries, prepare_query

__all__ = ["FixedDimensionEncoder", "MuveraIndex"]

_BLOCK = 2048  # documents encoded at a time


@dataclass(frozen=True, eq=False)
class FixedDimensionEncoder:
    """Random cells that turn any number of token vectors into one vector of fixed length.

    Each of R repetitions cuts the space into ``2**planes`` cells by random planes through the
    origin. A query's block for a cell is the sum of its tokens there, a document's their mean;
    a cell without document tokens takes the token whose cell is nearest in Hamming distance.
    The inner product of both, over all cells, is an average over the repetitions of
    ``sum_i <q_i, mean of the document's tokens near q_i>``: never above MaxSim without
    ``projected``, equal for documents of one token, and close where tokens that share a cell
    are similar.

    Args:
        normals: Normals of the planes, float32 (R, planes, D).
        signs: Random +-1 / sqrt(p) matrices (R, D, p) that shorten tokens before they are
            gathered, or (R, D, 0) for none. Inner products stay right on average.

    Paper: Dhulipala et al. 2024 (MUVERA), arXiv 2405.19504, section 2. Difference: both sides
    are divided by the square root of R, so that products are on MaxSim's scale.

    Example:
        >>> encoder = FixedDimensionEncoder.draw(8, repetitions=5, planes=3)
        >>> tokens = np.eye(8, dtype=np.float32)
        >>> query = encoder.encode_queries(TokenMatrix.from_documents([tokens[:2]]))
        >>> document = encoder.encode_documents(TokenMatrix.from_documents([tokens[1:2]]))
        >>> (query @ document.T).round(3)
        array([[1.]], dtype=float32)
    """

    normals: np.ndarray
    signs: np.ndarray

    def __post_init__(self) -> None:
        normals, signs = self.normals, self.signs
        if normals.ndim != 3 or signs.ndim != 3 or normals.shape[::2] != signs.shape[:2]:
            raise ShapeError(
                f"normals {normals.shape} and signs {signs.shape} must have shapes "
                "(R, planes, D) and (R, D, p)."
            )

    @classmethod
    def draw(
        cls,
        dim: int,
        *,
        repetitions: int = 20,
        planes: int = 4,
        projected: int | None = None,
        seed: int = 0,
    ) -> FixedDimensionEncoder:
        """Draw an encoder for token vectors of ``dim`` dimensions.

        Args:
            dim: Dimensions of a token vector, D.
            repetitions: R, at least 1.
            planes: Planes per repetition, 0 to 12.
            projected: Numbers kept per cell, at most D; None keeps all D.
            seed: Seed of planes and signs.

        Raises:
            InputError: When a number is out of range.
        """
        for name, value, low, high in (
            ("dim", dim, 1, None), ("repetitions", repetitions, 1, None), ("planes", planes, 0, 12),
            ("projected", dim if projected is None else projected, 1, dim),
        ):  # fmt: skip
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise InputError(f"{name} must be an integer, got {value!r}.")
            check_in_range(value, name=name, low=low, high=high)
        rng = np.random.default_rng(seed)
        normals = rng.normal(size=(repetitions, planes, dim)).astype(np.float32)
        width = projected or 0
        signs = rng.choice((-1.0, 1.0), size=(repetitions, dim, width)) / np.sqrt(max(1, width))
        return cls(normals, signs.astype(np.float32))

    @property
    def size(self) -> int:
        """Length of an encoding."""
        repetitions, planes, dim = self.normals.shape
        return repetitions * 2**planes * (self.signs.shape[2] or dim)

    def encode_documents(self, documents: TokenMatrix) -> np.ndarray:
        """Return the encodings of documents, float32 (M, size)."""
        return self._encode(documents, mean=True)

    def encode_queries(self, queries: TokenMatrix) -> np.ndarray:
        """Return the encodings of queries, float32 (Q, size)."""
        return self._encode(queries, mean=False)

    def _encode(self, matrix: TokenMatrix, *, mean: bool) -> np.ndarray:
        repetitions, planes, dim = self.normals.shape
        if matrix.dim != dim:
            raise ShapeError(f"Token vectors must have {dim} dimensions, got {matrix.dim}.")
        width = self.signs.shape[2] or dim
        result = np.empty((len(matrix), repetitions, 2**planes, width), dtype=np.float32)
        weights = 2 ** np.arange(planes, dtype=np.int64)
        for start in range(0, len(matrix), _BLOCK):
            edges = matrix.offsets[start : start + _BLOCK + 1]
            tokens = matrix.tokens[edges[0] : edges[-1]].astype(np.float32)
            blocks = np.empty((len(edges) - 1, 2**planes, width), dtype=np.float32)
            for repetition in range(repetitions):
                cells = (tokens @ self.normals[repetition].T > 0) @ weights
                short = tokens @ self.signs[repetition] if self.signs.shape[2] else tokens
                gather_cells(short, cells, edges - edges[0], mean, blocks)
                result[start : start + len(blocks), repetition] = blocks
        return result.reshape(len(matrix), -1) / np.float32(np.sqrt(repetitions))


class MuveraIndex:
    """Documents of many vectors each, found by one inner product and scored by exact MaxSim.

    Args:
        documents: One array (T, D) per document, or a `TokenMatrix`.
        repetitions: See `FixedDimensionEncoder.draw`; so ``planes`` and ``projected``.
        planes: Planes per repetition.
        projected: Numbers kept per cell, D where that is less; None keeps all D.
        storage: How the tokens for the second stage are kept, see `MaxSimIndex`.
        similarity: ``"cosine"`` or ``"dot"``.
        seed: Seed of planes and signs.

    Raises:
        ShapeError, EmptyInputError, NonFiniteError, InputError: As `MaxSimIndex`, and for numbers
            out of range.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> documents = [rng.normal(size=(6, 16)) for _ in range(50)]
        >>> MuveraIndex(documents).search([documents[7]], 1, candidates=10)[0]
        array([[7]])
    """

    def __init__(
        self,
        documents: Iterable[np.ndarray] | TokenMatrix,
        *,
        repetitions: int = 20,
        planes: int = 4,
        projected: int | None = 16,
        storage: str = "float32",
        similarity: str = "cosine",
        seed: int = 0,
    ) -> None:
        matrix = documents
        if not isinstance(matrix, TokenMatrix):
            matrix = TokenMatrix.from_documents(matrix)
        self.encoder = FixedDimensionEncoder.draw(
            matrix.dim, repetitions=repetitions, planes=planes,
            projected=projected if projected is None else min(projected, matrix.dim), seed=seed,
        )  # fmt: skip
        self.exact = MaxSimIndex(matrix, storage=storage, similarity=similarity)
        if similarity == "cosine":
            matrix = matrix.normalized()
        self._encodings = self.encoder.encode_documents(matrix)

    def __len__(self) -> int:
        return len(self.exact)

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        encoder = self.encoder.normals.nbytes + self.encoder.signs.nbytes
        own = {"encodings": self._encodings.nbytes, "encoder": encoder}
        return own | self.exact.memory()

    def search(
        self,
        queries: Sequence[np.ndarray],
        k: int,
        *,
        mask: np.ndarray | None = None,
        candidates: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return about the best ``min(k, matching)`` documents of every query.

        Args:
            queries: One array (U, D) per query.
            k: Number of results wanted.
            mask: Boolean array (M,); only documents where it is True can be returned.
            candidates: Documents scored exactly; None takes ``max(100, 10 k)``.

        Returns:
            ``(ids, scores)``, int64 and float32 of shape (Q, k'); scores are exact MaxSim.

        Raises:
            ShapeError, EmptyInputError, NonFiniteError, InputError: As `MaxSimIndex.search`.
        """
        k = check_k(k)
        count = max(100, 10 * k) if candidates is None else max(k, check_k(candidates))
        chosen = matching_rows(mask, len(self))
        rows = np.arange(len(self)) if chosen is None else chosen
        ids = np.empty((len(queries), min(k, len(rows))), dtype=np.int64)
        scores = np.empty(ids.shape, dtype=np.float32)
        for number, query in enumerate(cut_queries(queries, self.exact.dim, self.exact.dim)):
            checked = prepare_query(
                query, self.exact.dim, self.exact.similarity, name=f"Query {number}"
            )
            encoded = self.encoder.encode_queries(TokenMatrix.from_documents([checked]))[0]
            allowed = np.zeros(len(self), dtype=bool)
            if len(rows) > count:
                rough = (self._encodings @ encoded)[rows]
                allowed[rows[np.argpartition(rough, len(rows) - count)[-count:]]] = True
            else:
                allowed[rows] = True
            found = self.exact.search([checked], k, mask=allowed)
            ids[number], scores[number] = found[0][0], found[1][0]
        return ids, scores

    def save(self, folder: Path) -> None:
        """Write the index as a folder; an older one stays complete until the new one is.

        Raises:
            StorageError: When the disk is full or not writable.
        """
        settings, arrays = self.exact.parts()
        own = (self._encodings, self.encoder.normals, self.encoder.signs)
        save_arrays(folder, "muvera", settings, arrays | dict(zip(_OWN, own)))

    @classmethod
    def load(cls, folder: Path) -> MuveraIndex:
        """Open a saved index; tokens and encodings are mapped into memory, not read.

        Raises:
            NotFoundError: When there is none.
            FormatError: When it is damaged, of another kind or of a newer version.
        """
        settings, arrays = load_arrays(
            folder, "muvera", (*ARRAYS, *_OWN), mapped=("tokens", "encodings")
        )
        index = cls.__new__(cls)
        index._encodings, *drawn = (arrays.pop(name) for name in _OWN)
        index.exact = MaxSimIndex.from_parts(settings, arrays, folder)
        problem = f"The arrays in {folder} do not fit together. Build the index again."
        try:
            index.encoder = FixedDimensionEncoder(*drawn)
        except ShapeError as error:
            raise FormatError(f"{problem} ({error})") from error
        if (
            index.encoder.normals.shape[2] != index.exact.dim
            or index._encodings.shape != (len(index), index.encoder.size)
            or any(part.dtype != np.float32 for part in (index._encodings, *drawn))
        ):
            raise FormatError(problem)
        return index


_OWN = ("encodings", "normals", "signs")
