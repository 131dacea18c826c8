"""Codes in memory find candidates; vectors on disk, read row by row, rank them."""

from __future__ import annotations

import mmap
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from embedworks._core.validation import check_choice, check_k, check_vectors
from embedworks.errors import FormatError, InputError, NonFiniteError, ShapeError
from embedworks.index._saved_arrays import load_arrays, save_arrays
from embedworks.index.quantized.index import ARRAYS, QuantizedIndex
from embedworks.index.quantized.product import ProductQuantizer

resource: ModuleType | None
try:
    import resource
except ImportError:  # pragma: no cover - not on Windows
    resource = None

__all__ = ["PAGE", "STORAGES", "TwoTierIndex"]

STORAGES = ("float32", "float16")

#: Bytes of a page, the least that a disk is asked for.
PAGE = 4096

_TRIED = 8  # rows read before the others are asked for ahead


class TwoTierIndex:
    """A large collection with little memory: codes in it, vectors on disk.

    A query's ``candidates`` best rows by the codes are read from the disk, in the order in which
    they lie there, and ranked by exact similarity. Nothing else is read: ``bytes_read`` and
    ``pages_read`` count.

    Make one with `build` and open it with `load`; it lives in a folder.

    Paper: Xiao et al. 2022 (BiDR), arXiv 2201.05409, section 3.4, over a scan of the codes in
    place of a graph. Ranks by the vectors alone; the paper's code adds 0.3 times the code score.

    Example:
        >>> import tempfile
        >>> vectors = np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     index = TwoTierIndex.build(Path(folder) / "index", vectors, codes="binary")
        ...     ids, scores = index.search(vectors[:1], 2, candidates=20)
        >>> int(ids[0, 0]), index.bytes_read == 20 * 64 * 4
        (0, True)
    """

    def __init__(self, coarse: QuantizedIndex, vectors: np.ndarray) -> None:
        fits = vectors.ndim == 2 and len(vectors) == len(coarse) and vectors.shape[1] > 0
        if not fits or str(vectors.dtype) not in STORAGES:
            raise FormatError(
                f"{len(coarse)} codes need {' or '.join(STORAGES)} vectors of shape "
                f"({len(coarse)}, D), got {vectors.dtype} of shape {vectors.shape}."
            )
        self.coarse = coarse
        self.vectors = vectors
        #: Bytes of vectors read by searches so far.
        self.bytes_read = 0
        #: Pages of 4 KiB that these bytes lie on, counted once per query.
        self.pages_read = 0
        self._starts_at = getattr(vectors, "offset", 0)

    @classmethod
    def build(
        cls,
        folder: Path,
        vectors: np.ndarray,
        *,
        codes: str = "opq",
        similarity: str = "cosine",
        subspaces: int | None = None,
        quantizer: ProductQuantizer | None = None,
        ranked: np.ndarray | None = None,
        storage: str = "float32",
        seed: int = 0,
    ) -> TwoTierIndex:
        """Code vectors, write codes and vectors as a folder, and open it.

        Args:
            folder: Where to; an older index there stays complete until the new one is.
            vectors: Array (M, D). Building holds them in memory, in float32; searching does not.
            codes: How vectors are kept in memory, see `QuantizedIndex`.
            similarity: ``"cosine"`` or ``"dot"``.
            subspaces: Bytes per vector of product codes.
            quantizer: A fitted or learned quantizer, see `learn_quantizer`.
            ranked: Other vectors of the same rows, (M, R), to put on the disk and rank by, such
                as those of a head from `learn_heads`, or longer ones than are coded. None takes
                ``vectors``.
            storage: ``"float32"`` or ``"float16"``, half the bytes on disk and per query.
            seed: Seed of k-means.

        Raises:
            StorageError: When the disk is full or not writable.
            ShapeError, EmptyInputError, NonFiniteError, InputError: As `QuantizedIndex`; also for
                ``ranked`` vectors that do not fit, and for values float16 cannot hold.
        """
        check_choice(storage, STORAGES, name="storage")
        vectors = check_vectors(vectors)
        kept = _for_disk(vectors if ranked is None else ranked, storage, similarity)
        if len(kept) != len(vectors):
            raise ShapeError(f"{len(vectors)} vectors need as many ranked ones, got {len(kept)}.")
        coarse = QuantizedIndex(
            vectors, codes=codes, similarity=similarity, subspaces=subspaces, quantizer=quantizer,
            seed=seed,
        )  # fmt: skip
        settings, arrays = coarse.parts()
        save_arrays(folder, "two-tier", settings, arrays | {"vectors": kept})
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> TwoTierIndex:
        """Open an index: codes are read, vectors stay on disk.

        Raises:
            NotFoundError: When there is none.
            FormatError: When it is damaged, of another kind or of a newer version.
        """
        settings, arrays = load_arrays(
            folder, "two-tier", (*ARRAYS, "vectors"), mapped=("vectors",)
        )
        vectors = arrays.pop("vectors")
        _read_without_neighbours(vectors)
        return cls(QuantizedIndex.from_parts(settings, arrays, folder), vectors)

    def __len__(self) -> int:
        return len(self.coarse)

    def memory(self) -> dict[str, int]:
        """Return the bytes held in memory, by part; the vectors are not among them."""
        return self.coarse.memory()

    def disk(self) -> int:
        """Return the bytes of the vectors on disk."""
        return self.vectors.nbytes

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        mask: np.ndarray | None = None,
        candidates: int = 1000,
        ranking: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return about the best ``min(k, matching)`` rows of every query.

        Args:
            queries: Array (Q, D).
            k: Number of results wanted.
            mask: Boolean array (M,); only rows where it is True can be returned.
            candidates: Rows read and ranked per query, at least k.
            ranking: The same queries as the vectors on disk need them, (Q, R), where those are
                not the coded ones; None takes ``queries``.

        Returns:
            ``(ids, scores)``, int64 and float32 (Q, k'), sorted by exact similarity, equal
            scores by ascending row.

        Raises:
            ShapeError, NonFiniteError: For unusable queries or masks, and when a vector read
                from disk has NaN or infinity.
            InputError: When k < 1, ``candidates`` < k, or on a zero query under cosine.
        """
        k = check_k(k)
        if candidates < k:
            raise InputError(f"candidates must be at least k = {k}, got {candidates}.")
        asked = check_vectors(queries, name="queries", dim=self.coarse.dim, allow_empty=True)
        judging = check_vectors(
            asked if ranking is None else ranking, name="ranking queries",
            dim=self.vectors.shape[1], allow_empty=True,
        )  # fmt: skip
        if len(judging) != len(asked):
            raise ShapeError(f"{len(asked)} queries need as many in ranking, got {len(judging)}.")
        if self.coarse.similarity == "cosine" and not judging.any(axis=1).all():
            raise InputError("A query is a zero vector: cosine similarity is not defined for it.")
        found, _ = self.coarse.search(asked, candidates, mask=mask)
        wanted = min(k, found.shape[1])
        ids = np.empty((len(asked), wanted), dtype=np.int64)
        scores = np.empty((len(asked), wanted), dtype=np.float32)
        for number, query in enumerate(judging):
            rows = np.sort(found[number])
            exact = self._exact(query, rows)
            order = np.lexsort((rows, -exact))[:wanted]
            ids[number], scores[number] = rows[order], exact[order]
        return ids, scores

    def _exact(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Read some rows and return their exact similarities, float32."""
        self._ask_ahead(rows)
        read = np.asarray(self.vectors[rows])
        self.bytes_read += read.nbytes
        first, last = self._pages(rows)
        shared = int((first[1:] == last[:-1]).sum())  # neighbours share no more than one page
        self.pages_read += int((last - first + 1).sum()) - shared
        if not np.isfinite(read).all():
            bad = rows[int(np.argmin(np.isfinite(read).all(axis=1)))]
            raise NonFiniteError(
                f"Vector {bad} on disk has NaN or infinity: build the index again."
            )
        wide, one = read.astype(np.float64), query.astype(np.float64)
        exact = (wide * one).sum(axis=1)
        if self.coarse.similarity == "cosine":
            exact /= np.sqrt((wide**2).sum(axis=1)) * np.sqrt((one**2).sum())
        return np.asarray(exact, dtype=np.float32)

    def _pages(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first and last page of the file that each row lies on."""
        stride = self.vectors.strides[0]
        starts = self._starts_at + rows * stride
        return starts // PAGE, (starts + stride - 1) // PAGE

    def _ask_ahead(self, rows: np.ndarray) -> None:
        """Have the disk work on all rows at once, if a few of them were not in memory.

        Reading an array waits for one page after the other. Asking for what is in memory already
        would cost more than reading it, so a few rows are tried first.
        """
        mapped = getattr(self.vectors, "_mmap", None)
        if mapped is None or not hasattr(mmap, "MADV_WILLNEED") or len(rows) <= _TRIED:
            return
        before = _page_faults()
        self.vectors[rows[:: len(rows) // _TRIED]].max()
        if _page_faults() == before:
            return
        first, last = self._pages(rows)
        apart = np.flatnonzero(first[1:] > last[:-1] + 1) + 1  # where a new run of pages starts
        starts = first[np.concatenate([[0], apart])] * PAGE
        ends = (last[np.concatenate([apart - 1, [len(rows) - 1]])] + 1) * PAGE
        for start, end in zip(starts.tolist(), np.minimum(ends, len(mapped)).tolist(), strict=True):
            mapped.madvise(mmap.MADV_WILLNEED, start, end - start)


def _page_faults() -> int:
    """Return how often this process has waited for a page from disk; 0 where nobody counts."""
    if resource is None:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


def _for_disk(vectors: np.ndarray, storage: str, similarity: str) -> np.ndarray:
    """Return vectors as they are stored, or raise when the storage cannot hold them."""
    vectors = check_vectors(vectors, name="ranked vectors")
    with np.errstate(over="ignore"):
        kept = vectors.astype(storage, copy=False)
    lost = ~np.isfinite(kept).all(axis=1)
    if similarity == "cosine":
        lost |= ~kept.any(axis=1)
    if lost.any():
        raise InputError(
            f"{lost.sum()} of {len(kept)} ranked vectors are zero or infinite in {storage}, the "
            f"first is row {int(lost.argmax())}: use unit vectors, or storage='float32'."
        )
    return np.asarray(kept)


def _read_without_neighbours(vectors: Any) -> None:
    """Tell the system that rows are read here and there, so that it reads no more than asked."""
    mapped = getattr(vectors, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)
