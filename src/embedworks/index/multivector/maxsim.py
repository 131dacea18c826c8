"""Exact late interaction: MaxSim of a query with every document, nothing pruned.

A blocked matrix product and a numba kernel propose candidates with a margin above the rounding
error; these are then scored in float64 in a fixed order. So scores and ranks do not depend on
block sizes, masks, other queries or the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.validation import check_choice, check_k
from embedworks.errors import FormatError, NonFiniteError
from embedworks.index._saved_arrays import load_arrays, save_arrays
from embedworks.index.exact import SIMILARITIES, matching_rows
from embedworks.index.multivector._kernels import maxsim_of_block, maxsim_of_document
from embedworks.index.multivector.tokens import TokenMatrix, cut_queries, prepare_query

__all__ = ["ARRAYS", "STORAGES", "MaxSimIndex", "maxsim"]

ARRAYS = ("tokens", "offsets", "scales")
STORAGES = ("float32", "float16", "int8")

_BLOCK_BYTES = 8 * 2**20  # float32 token vectors scored at a time
_QUERY_TOKENS = 256  # query tokens scored at a time
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def maxsim(query: np.ndarray, document: np.ndarray, *, similarity: str = "cosine") -> float:
    """Return the sum over query tokens of the largest similarity to a document token.

    ``s(q, d) = sum_i max_j <q_i, d_j>``. There is no padding: give the tokens that are there.

    Args:
        query: Token vectors of the query, (U, D).
        document: Token vectors of the document, (T, D).
        similarity: ``"cosine"`` (tokens get unit length first; the score is at most U) or
            ``"dot"``.

    Raises:
        ShapeError: When the shapes do not fit.
        EmptyInputError: When one has no tokens.
        InputError: On a zero vector under cosine; `NonFiniteError` on NaN or infinity.

    Paper: Khattab and Zaharia 2020 (ColBERT), arXiv 2004.12832, equation 3.

    Example:
        >>> round(maxsim(np.eye(2), np.array([[0.6, 0.8], [1.0, 0.0]])), 6)
        1.8
    """
    matrix = TokenMatrix.from_documents([document])
    checked = prepare_query(query, matrix.dim, similarity, name="query")
    if similarity == "cosine":
        matrix = matrix.normalized()
    turned = np.ascontiguousarray(checked.T, dtype=np.float64)
    return float(maxsim_of_document(matrix.tokens, turned))


class MaxSimIndex:
    """Documents of many vectors each, searched by exact MaxSim.

    Args:
        documents: One array (T, D) per document, or a `TokenMatrix`. float32 tokens of a
            matrix are not copied under ``"dot"``.
        storage: ``"float32"``, ``"float16"`` or ``"int8"`` (one float32 scale per token). Scores
            are exact for the vectors as they are stored.
        similarity: ``"cosine"`` or ``"dot"``.
        truncate_dim: Keep only so many first dimensions of documents and queries, before they
            get unit length; for models trained so (Matryoshka). None keeps all.

    Raises:
        ShapeError, EmptyInputError, NonFiniteError, InputError: For documents `TokenMatrix`
            refuses, and zero vectors under cosine.

    Example:
        >>> index = MaxSimIndex([np.eye(2), np.array([[0.6, 0.8]])])
        >>> ids, scores = index.search([np.array([[1.0, 0.0], [0.0, 1.0]])], 2)
        >>> ids, scores.round(3)
        (array([[0, 1]]), array([[2. , 1.4]], dtype=float32))
    """

    def __init__(
        self,
        documents: Iterable[np.ndarray] | TokenMatrix,
        *,
        storage: str = "float32",
        similarity: str = "cosine",
        truncate_dim: int | None = None,
    ) -> None:
        self.storage = check_choice(storage, STORAGES, name="storage")
        self.similarity = check_choice(similarity, SIMILARITIES, name="similarity")
        matrix = documents
        if isinstance(matrix, TokenMatrix):
            matrix.check_finite()
        else:
            matrix = TokenMatrix.from_documents(matrix)
        self._given_dim = matrix.dim
        if truncate_dim is not None:
            matrix = matrix.truncated(truncate_dim)
        if similarity == "cosine":
            matrix = matrix.normalized()
        self.offsets = matrix.offsets
        self._tokens, self._scales = _store(matrix.tokens, storage)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def dim(self) -> int:
        """Dimensions of a token vector, D."""
        return self._tokens.shape[1]

    def document(self, number: int) -> np.ndarray:
        """Return the token vectors of a document as scores see them, float32 (T, D)."""
        return self._decode(int(self.offsets[number]), int(self.offsets[number + 1]))

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        parts = {"tokens": self._tokens.nbytes, "offsets": self.offsets.nbytes}
        return parts if self._scales is None else parts | {"scales": self._scales.nbytes}

    def search(
        self, queries: Sequence[np.ndarray], k: int, *, mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best ``min(k, matching)`` documents of every query.

        Args:
            queries: One array (U, D) per query.
            k: Number of results wanted.
            mask: Boolean array (M,); only documents where it is True can be returned.

        Returns:
            ``(ids, scores)``, int64 and float32 of shape (Q, k'), sorted by score, equal scores
            by ascending document.

        Raises:
            ShapeError: When a query or the mask does not fit.
            EmptyInputError: When a query has no tokens.
            NonFiniteError: When a query, or a score, is NaN or infinite.
            InputError: When k < 1, or on a zero vector under cosine.
        """
        k = check_k(k)
        prepared = [
            prepare_query(query, self.dim, self.similarity, name=f"Query {number}")
            for number, query in enumerate(cut_queries(queries, self._given_dim, self.dim))
        ]
        rows = matching_rows(mask, len(self))
        chosen = np.arange(len(self)) if rows is None else rows
        wanted = min(k, len(chosen))
        ids = np.empty((len(prepared), wanted), dtype=np.int64)
        scores = np.empty((len(prepared), wanted), dtype=np.float32)
        start = 0
        for group in _groups(prepared) if wanted else ():
            margins = [self._margin(query) for query in group]
            for query, margin, line in zip(group, margins, self._approximate(group, chosen)):
                limit = np.partition(line, len(line) - wanted)[-wanted] - margin
                candidates = chosen[line >= limit]
                exact = self._scores(query, candidates)
                order = np.lexsort((candidates, -exact))[:wanted]
                ids[start], scores[start] = candidates[order], exact[order]
                start += 1
        return ids, scores

    def scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the exact scores of one query (U, D) for some documents, float32 (len(rows),)."""
        (query,) = cut_queries([query], self._given_dim, self.dim)
        return self._scores(prepare_query(query, self.dim, self.similarity, name="query"), rows)

    def _scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        turned = np.ascontiguousarray(query.T, dtype=np.float64)
        found = [maxsim_of_document(self.document(int(row)), turned) for row in rows]
        return np.array(found, dtype=np.float64).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write the index as a folder; an older one stays complete until the new one is.

        Raises:
            StorageError: When the disk is full or not writable.
        """
        save_arrays(folder, "maxsim", *self.parts())

    @classmethod
    def load(cls, folder: Path) -> MaxSimIndex:
        """Open a saved index; the tokens are mapped into memory, not read.

        Raises:
            NotFoundError: When there is none.
            FormatError: When it is damaged, of another kind or of a newer version.
        """
        settings, arrays = load_arrays(folder, "maxsim", ARRAYS, mapped=("tokens",))
        return cls.from_parts(settings, arrays, folder)

    def parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the settings and arrays that make up the index, for saving."""
        scales = np.empty(0, dtype=np.float32) if self._scales is None else self._scales
        settings = {
            "storage": self.storage,
            "similarity": self.similarity,
            "given_dim": self._given_dim,
        }
        return settings, dict(zip(ARRAYS, (self._tokens, self.offsets, scales)))

    @classmethod
    def from_parts(
        cls, settings: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path
    ) -> MaxSimIndex:
        """Put an index together from its `parts`; ``folder`` is where they come from.

        Raises:
            FormatError: When they do not fit together.
        """
        index = cls.__new__(cls)
        index.storage, index.similarity = (
            settings.get("storage", ""),
            settings.get("similarity", ""),
        )
        tokens, index.offsets, scales = (arrays[name] for name in ARRAYS)
        index._given_dim = settings.get("given_dim", 0)
        if (
            index.storage not in STORAGES
            or index.similarity not in SIMILARITIES
            or tokens.ndim != 2
            or tokens.dtype != np.dtype(index.storage)
            or scales.shape != ((len(tokens),) if index.storage == "int8" else (0,))
            or not isinstance(index._given_dim, int)
            or index._given_dim < tokens.shape[1]
            or not valid_offsets(index.offsets, len(tokens))
        ):
            raise FormatError(f"The arrays in {folder} do not fit together. Build the index again.")
        index._tokens, index._scales = tokens, scales if len(scales) else None
        return index

    def _decode(self, start: int, stop: int) -> np.ndarray:
        """Return some tokens as float32."""
        tokens = np.asarray(self._tokens[start:stop], dtype=np.float32)
        return tokens if self._scales is None else tokens * self._scales[start:stop, None]

    def _margin(self, query: np.ndarray) -> np.float32:
        """Bound twice the rounding error of a float32 score (int8 scales round once more)."""
        largest = np.sqrt((query.astype(np.float64) ** 2).sum(axis=1)).sum() * self._longest
        if not largest < _LARGEST_FLOAT32:
            raise NonFiniteError(
                "Scores may overflow float32: the token vectors are too long for "
                "similarity='dot'. Use similarity='cosine' or scale them down."
            )
        return np.float32(2 * (self.dim + len(query) + 8) * 2.0**-24 * largest)

    @cached_property
    def _longest(self) -> float:
        """Length of the longest token vector, or slightly more."""
        if self.similarity == "cosine":
            return 1.1
        found = 0.0
        for start in range(0, len(self._tokens), 65_536):
            part = self._decode(start, start + 65_536).astype(np.float64)
            found = max(found, float(np.sqrt((part**2).sum(axis=1)).max(initial=0.0)))
        return found

    def _approximate(self, queries: list[np.ndarray], rows: np.ndarray) -> np.ndarray:
        """Return float32 scores (Q, len(rows)), off by at most half a margin."""
        stacked = np.ascontiguousarray(np.concatenate(queries).T)
        edges = np.cumsum([0, *(len(query) for query in queries)], dtype=np.int64)
        result = np.empty((len(queries), len(rows)), dtype=np.float32)
        for first, last, tokens, offsets in self._blocks(rows):
            part = np.empty((len(queries), last - first), dtype=np.float32)
            maxsim_of_block(tokens @ stacked, offsets, edges, part)
            result[:, first:last] = part
        return result

    def _blocks(self, rows: np.ndarray) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
        """Yield ``(first, last, tokens (T', D), offsets)`` of runs of the chosen documents."""
        most = max(1, _BLOCK_BYTES // (4 * self.dim))
        lengths = np.diff(self.offsets)[rows]
        ends = np.cumsum(lengths)
        everything = len(rows) == len(self)
        first = 0
        while first < len(rows):
            before = ends[first] - lengths[first]
            last = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
            offsets = np.zeros(last - first + 1, dtype=np.int64)
            offsets[1:] = ends[first:last] - before
            if everything:
                tokens = self._decode(int(self.offsets[first]), int(self.offsets[last]))
            else:
                tokens = np.concatenate([self.document(int(row)) for row in rows[first:last]])
            yield first, last, tokens, offsets
            first = last


def valid_offsets(offsets: np.ndarray, total: int) -> bool:
    """Say whether int64 offsets (M + 1,) rise from 0 to ``total`` and no document is empty."""
    if offsets.dtype != np.int64 or offsets.ndim != 1 or len(offsets) < 2:
        return False
    return bool(offsets[0] == 0 and offsets[-1] == total and (np.diff(offsets) > 0).all())


def _groups(queries: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Yield runs of queries that have a limited number of tokens together."""
    group: list[np.ndarray] = []
    for query in queries:
        if group and sum(map(len, group)) + len(query) > _QUERY_TOKENS:
            yield group
            group = []
        group.append(query)
    if group:
        yield group


def _store(tokens: np.ndarray, storage: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return tokens as they are kept, and for int8 one float32 scale per token."""
    if storage != "int8":
        with np.errstate(over="ignore"):
            kept = np.ascontiguousarray(tokens, dtype=storage)
        if not np.isfinite(kept.max(initial=0)) or not np.isfinite(kept.min(initial=0)):
            raise NonFiniteError(
                f"Token vectors have values too large for storage={storage!r}: use 'float32' or "
                "similarity='cosine'."
            )
        return kept, None
    kept = np.empty(tokens.shape, dtype=np.int8)
    scales = np.empty(len(tokens), dtype=np.float32)
    for start in range(0, len(tokens), 65_536):
        part = tokens[start : start + 65_536].astype(np.float32)
        largest = np.abs(part).max(axis=1) / np.float32(127)
        scales[start : start + 65_536] = largest
        kept[start : start + 65_536] = np.rint(part / np.where(largest > 0, largest, 1)[:, None])
    return kept, scales
