"""Late interaction over compressed tokens: centroids prune, a few bits per dimension decide."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from embedworks._core.validation import check_choice, check_in_range, check_k
from embedworks.errors import FormatError, InputError, ShapeError
from embedworks.index._saved_arrays import load_arrays, save_arrays
from embedworks.index.exact import SIMILARITIES, matching_rows
from embedworks.index.multivector._kernels import (
    LANES,
    add_centroid_scores,
    add_residual_scores,
    mark_best_rows,
    mark_documents,
)
from embedworks.index.multivector.maxsim import valid_offsets
from embedworks.index.multivector.residual import MOST_CENTROIDS, SCALE_UNIT, ResidualCodec
from embedworks.index.multivector.tokens import TokenMatrix, prepare_query

__all__ = ["PlaidIndex", "default_centroids"]

_ARRAYS = (
    "offsets", "nearest", "codes", "scales", "axes", "centroids", "edges", "codewords",
)  # fmt: skip
_SAMPLE = 32  # tokens per centroid that the codec is learned from
_FIRST = 8  # bytes of a code that the third stage reads at least
_SHARE = 0.3  # of a code's bytes that it reads, in steps of 8


def default_centroids(tokens: int) -> int:
    """Return ``2 ** floor(log2(16 sqrt(T)))`` centroids for T tokens, at most T // 8.

    Paper: Santhanam et al. 2022 (PLAID), arXiv 2205.09707, its code; the limit is ours, for
    small collections.

    Example:
        >>> default_centroids(500_000), default_centroids(100)
        (8192, 12)
    """
    power = 2 ** int(np.log2(16 * np.sqrt(max(1, tokens))))
    return max(1, min(power, tokens // 8, MOST_CENTROIDS))


class PlaidIndex:
    """Documents of many vectors each, compressed, searched in four stages.

    1. The ``probes`` centroids nearest to each query token name the documents to look at.
    2. These are scored with every token taken for its centroid; the ``candidates`` best stay.
    3. These are scored with the first bytes of the codes, which have most of the variance; the
       ``finalists`` best stay. A code of fewer than 16 bytes has no such part: the stage is left
       out, and all candidates are finalists.
    4. These are scored with decoded tokens; the k best are returned.

    Scores are MaxSim with decoded tokens, sums in float32. Against `MaxSimIndex` the codes cost
    a little accuracy and the first three stages may lose a document.

    Args:
        documents: One array (T, D) per document, or a `TokenMatrix`.
        bits: Bits per dimension of what the centroid leaves, on average, above 0 and at most 8;
            a code has ``dims * bits / 8`` bytes, rounded, and at least one.
        dims: Principal axes to keep; None keeps all D, which finds more for the same bytes.
        centroids: Number of centroids; None takes `default_centroids`.
        similarity: ``"cosine"`` or ``"dot"``.
        iterations: Rounds of k-means.
        seed: Seed of the sample and of k-means.

    Raises:
        ShapeError, EmptyInputError, NonFiniteError, InputError: For documents `TokenMatrix`
            refuses, zero vectors under cosine, and arguments out of range.

    Paper: Santhanam et al. 2022, arXiv 2205.09707, section 4. Differences: `ResidualCodec`'s;
    instead of two centroid stages with a threshold there is one over all documents found, and one
    with part of the codes; the last two add up tables of bytes and write no decoded token out.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> documents = [rng.normal(size=(6, 16)) for _ in range(50)]
        >>> index = PlaidIndex(documents, bits=4)
        >>> ids, scores = index.search([documents[7]], 1)
        >>> ids
        array([[7]])
    """

    def __init__(
        self,
        documents: Iterable[np.ndarray] | TokenMatrix,
        *,
        bits: float = 2,
        dims: int | None = None,
        centroids: int | None = None,
        similarity: str = "cosine",
        iterations: int = 6,
        seed: int = 0,
    ) -> None:
        self.similarity = check_choice(similarity, SIMILARITIES, name="similarity")
        matrix = documents
        if isinstance(matrix, TokenMatrix):
            matrix.check_finite()
        else:
            matrix = TokenMatrix.from_documents(matrix)
        if similarity == "cosine":
            matrix = matrix.normalized()
        total = len(matrix.tokens)
        count = default_centroids(total) if centroids is None else centroids
        check_in_range(count, name="centroids", low=1, high=total)
        rows = np.random.default_rng(seed).permutation(total)[: max(_SAMPLE * count, 1024)]
        sample = matrix.tokens[np.sort(rows)].astype(np.float32)
        self.codec = ResidualCodec.fit(
            sample, centroids=count, bits=bits, dims=dims, iterations=iterations, seed=seed
        )
        self.offsets = matrix.offsets
        self._nearest, self._codes, self._scales = self.codec.encode(matrix.tokens)
        self._removed = np.zeros(len(self), dtype=bool)
        self._link()

    def add(self, documents: Iterable[np.ndarray] | TokenMatrix) -> np.ndarray:
        """Append documents, coded with the centroids that are there.

        The centroids do not move: when many documents of another kind have come, recall falls,
        and the index should be built anew.

        Args:
            documents: One array (T, D) per document, or a `TokenMatrix`; none is allowed.

        Returns:
            Their numbers, int64 (N,), which follow those that are there.

        Raises:
            ShapeError, EmptyInputError, NonFiniteError, InputError: As when an index is built,
                and when D is another; nothing is added then.
        """
        if not isinstance(documents, TokenMatrix):
            documents = list(documents)
            if not documents:
                return np.empty(0, dtype=np.int64)
            documents = TokenMatrix.from_documents(documents)
        else:
            documents.check_finite()
        if documents.dim != self.dim:
            raise ShapeError(
                f"The documents have {documents.dim} dimensions, the index has {self.dim}: were "
                "they made by another model?"
            )
        matrix = documents.normalized() if self.similarity == "cosine" else documents
        first, parts = len(self), self.codec.encode(matrix.tokens)
        old = (self._nearest, self._codes, self._scales)
        self._nearest, self._codes, self._scales = (
            np.concatenate(pair) for pair in zip(old, parts, strict=True)
        )
        self.offsets = np.concatenate([self.offsets, self.offsets[-1] + matrix.offsets[1:]])
        self._removed = np.concatenate([self._removed, np.zeros(len(matrix), dtype=bool)])
        self._link()
        return np.arange(first, len(self))

    def remove(self, numbers: np.ndarray | Sequence[int]) -> int:
        """Take documents out of every later search; return how many were not out already.

        Numbers are not given again, and the codes stay until the index is built anew.

        Raises:
            InputError: When a number is no document's; nothing is removed then.
        """
        chosen = np.unique(np.asarray(numbers, dtype=np.int64))
        if len(chosen) and not 0 <= chosen[0] <= chosen[-1] < len(self):
            raise InputError(
                f"numbers must be in [0, {len(self)}), got {chosen[0]} to {chosen[-1]}."
            )
        removed = self._removed.copy()  # a search that runs keeps its own
        removed[chosen] = True
        count = int(removed.sum() - self._removed.sum())
        self._removed = removed
        return count

    @property
    def removed(self) -> np.ndarray:
        """Numbers of the documents that were removed, ascending."""
        return np.flatnonzero(self._removed)

    def _present(self, mask: np.ndarray | None) -> np.ndarray | None:
        """Take the removed documents out of a mask."""
        if not self._removed.any():
            return mask
        matching_rows(mask, len(self))  # complains of a mask that does not fit
        return ~self._removed if mask is None else mask & ~self._removed

    def _link(self) -> None:
        """List the documents of every centroid."""
        owners = np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.offsets))
        pairs = np.unique(self._nearest.astype(np.int64) * len(self) + owners)
        self._lists = (pairs % len(self)).astype(np.int32)
        counts = np.bincount(pairs // len(self), minlength=len(self.codec.centroids))
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def save(self, folder: Path) -> None:
        """Write the index as a folder; an older one stays complete until the new one is.

        Raises:
            StorageError: When the disk is full or not writable.
        """
        codec = self.codec
        parts = (
            self.offsets, self._nearest, self._codes, self._scales, codec.axes, codec.centroids,
            codec.edges, codec.codewords,
        )  # fmt: skip
        settings = {"similarity": self.similarity, "removed": self.removed.tolist()}
        save_arrays(folder, "plaid", settings, dict(zip(_ARRAYS, parts)))

    @classmethod
    def load(cls, folder: Path) -> PlaidIndex:
        """Open a saved index; the codes are mapped into memory, not read.

        Raises:
            NotFoundError: When there is none.
            FormatError: When it is damaged, of another kind or of a newer version.
        """
        settings, arrays = load_arrays(folder, "plaid", _ARRAYS, mapped=("codes",))
        index = cls.__new__(cls)
        index.similarity = settings.get("similarity", "")
        index.offsets, index._nearest, index._codes, index._scales, *codec = arrays.values()
        problem = f"The arrays in {folder} do not fit together. Build the index again."
        try:
            index.codec = ResidualCodec(*codec)
        except ShapeError as error:
            raise FormatError(f"{problem} ({error})") from error
        total = len(index._codes)
        if (
            index.similarity not in SIMILARITIES
            or not valid_offsets(index.offsets, total)
            or index._codes.shape != (total, index.codec.code_bytes)
            or index._codes.dtype != np.uint8
            or any(
                part.shape != (total,) or part.dtype != np.uint16
                for part in (index._nearest, index._scales)
            )
            or any(
                part.dtype != np.float32 or not np.isfinite(part).all()
                for part in (index.codec.axes, index.codec.centroids, index.codec.codewords)
            )
            or index._nearest.max() >= len(index.codec.centroids)
        ):
            raise FormatError(problem)
        index._removed = np.zeros(len(index), dtype=bool)
        try:
            index.remove(settings.get("removed", []))
        except (TypeError, ValueError) as error:
            raise FormatError(f"{problem} ({error})") from error
        index._link()
        return index

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def dim(self) -> int:
        """Dimensions of the token vectors that were given, D."""
        return self.codec.axes.shape[0]

    def document(self, number: int) -> np.ndarray:
        """Return a document's decoded tokens in the axes that are kept, float32 (T, d)."""
        if not 0 <= number < len(self):
            raise InputError(f"There is no document {number}: there are {len(self)}, from 0.")
        if self._removed[number]:
            raise InputError(f"Document {number} was removed.")
        part = slice(self.offsets[number], self.offsets[number + 1])
        return self.codec.decode(self._nearest[part], self._codes[part], self._scales[part])

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        codec = self.codec
        return {
            "codes": self._codes.nbytes,
            "centroid numbers": self._nearest.nbytes,
            "scales": self._scales.nbytes,
            "lists": self._lists.nbytes + self._starts.nbytes,
            "offsets": self.offsets.nbytes,
            "removed": self._removed.nbytes,
            "codec": sum(
                part.nbytes for part in (codec.axes, codec.centroids, codec.edges, codec.codewords)
            ),
        }

    def search(
        self,
        queries: Sequence[np.ndarray],
        k: int,
        *,
        mask: np.ndarray | None = None,
        probes: int = 8,
        candidates: int | None = None,
        finalists: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return about the best ``min(k, matching)`` documents of every query.

        Args:
            queries: One array (U, D) per query.
            k: Number of results wanted.
            mask: Boolean array (M,); only documents where it is True can be returned.
            probes: Centroids looked up per query token. Where they name fewer than k matching
                documents their number is doubled until they do.
            candidates: Documents scored with the first bytes of their codes; None takes
                ``max(256, 16 k)``.
            finalists: Documents scored with decoded tokens; None takes ``max(64, 4 k)``.

        Returns:
            ``(ids, scores)``, int64 and float32 of shape (Q, k'), sorted by score, equal scores
            by ascending document.

        Raises:
            ShapeError: When a query or the mask does not fit.
            EmptyInputError: When a query has no tokens.
            NonFiniteError: When a query contains NaN or infinity.
            InputError: When a number is below 1, or on a zero vector under cosine.
        """
        k = check_k(k)
        check_in_range(probes, name="probes", low=1)
        middle = max(256, 16 * k) if candidates is None else max(k, check_k(candidates))
        fine = max(64, 4 * k) if finalists is None else max(k, check_k(finalists))
        if getattr(queries, "ndim", 3) != 3:
            raise ShapeError("queries must be a list of arrays (U, D), one per query.")
        mask = self._present(mask)
        chosen = matching_rows(mask, len(self))
        wanted = min(k, len(self) if chosen is None else len(chosen))
        ids = np.empty((len(queries), wanted), dtype=np.int64)
        scores = np.empty((len(queries), wanted), dtype=np.float32)
        for number, query in enumerate(queries):
            checked = prepare_query(query, self.dim, self.similarity, name=f"Query {number}")
            if wanted:
                lanes = self._lanes(self.codec.turn(checked))
                found = self._candidates(lanes, wanted, probes, mask)
                best, values = self._score(lanes, found, wanted, middle, fine)
                ids[number], scores[number] = best, values
        return ids, scores

    def _lanes(self, turned: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, int]]:
        """Cut a query into groups of 16 tokens: ``(query (d, 16), similarities (C, 16), used)``."""
        groups = []
        for start in range(0, len(turned), LANES):
            part = turned[start : start + LANES]
            padded = np.zeros((turned.shape[1], LANES), dtype=np.float32)
            padded[:, : len(part)] = part.T
            groups.append((padded, self.codec.centroids @ padded, len(part)))
        return groups

    def _candidates(
        self,
        lanes: list[tuple[np.ndarray, np.ndarray, int]],
        wanted: int,
        probes: int,
        mask: np.ndarray | None,
    ) -> np.ndarray:
        """Return the matching documents that the nearest centroids name, ascending."""
        total = len(self.codec.centroids)
        while True:
            marks = np.zeros(total, dtype=np.uint8)
            for _, similarities, used in lanes:
                mark_best_rows(similarities, used, min(probes, total), marks)
            # A document that may not be returned counts as found already, with another mark.
            found = np.zeros(len(self), dtype=np.uint8) if mask is None else np.where(mask, 0, 2)
            found = found.astype(np.uint8, copy=False)
            if mark_documents(marks, self._starts, self._lists, found) >= wanted:
                return np.flatnonzero(found == 1)
            probes *= 2

    def _score(
        self,
        lanes: list[tuple[np.ndarray, np.ndarray, int]],
        found: np.ndarray,
        wanted: int,
        middle: int,
        fine: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Score by centroids, then by more and more of the codes; return the best documents."""
        codec = self.codec
        if len(found) > middle:
            rough = np.zeros(len(found))
            for _, similarities, used in lanes:
                add_centroid_scores(similarities, self._nearest, self.offsets, found, used, rough)
            found = _best(found, rough, middle)
        tables = [codec.tables(query) for query, _, _ in lanes]
        if codec.code_bytes >= 2 * _FIRST and len(found) > fine:
            first = max(_FIRST, int(_SHARE * codec.code_bytes) // 8 * 8)
            found = _best(
                found, self._decoded(lanes, [table[:first] for table in tables], found), fine
            )
        values = self._decoded(lanes, tables, found).astype(np.float32)
        order = np.lexsort((found, -values))[:wanted]
        return found[order], values[order]

    def _decoded(
        self,
        lanes: list[tuple[np.ndarray, np.ndarray, int]],
        tables: list[np.ndarray],
        found: np.ndarray,
    ) -> np.ndarray:
        """Score documents with as many bytes of the codes as there are tables."""
        scores = np.zeros(len(found))
        for (_, similarities, used), table in zip(lanes, tables, strict=True):
            add_residual_scores(
                similarities, table, self._nearest, self._codes, self._scales, SCALE_UNIT,
                self.offsets, found, used, scores,
            )  # fmt: skip
        return scores


def _best(found: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
    """Return the ``count`` documents of highest score, ascending."""
    return np.sort(found[np.argpartition(scores, len(scores) - count)[-count:]])
