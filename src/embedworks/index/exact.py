"""Exact nearest-neighbour search over float32 vectors, in memory or memory-mapped.

A blocked matrix product proposes candidates, with a margin above its rounding error; the
candidates' scores are then summed in float64, in an order that depends on nothing but the
dimension. So the same vectors give the same scores and the same order whatever the block size,
the mask, the other queries or the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from embedworks._core.validation import check_choice, check_k, check_vectors, normalize_rows
from embedworks.errors import InputError, NonFiniteError, ShapeError

__all__ = ["SIMILARITIES", "ExactIndex", "topk"]

SIMILARITIES = ("cosine", "dot")

_BLOCK_BYTES = 32 * 2**20  # scores of one block of queries against one block of vectors
_QUERY_BLOCK = 128
_STATISTICS_ROWS = 200_000
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
_UNIT = 1e-6  # how far from 1 the norm of a vector may be that was divided by it in float32
_GATHER_BELOW = 0.25  # with fewer matching rows than this, copy them out first


class ExactIndex:
    """Vectors ready for exact search.

    Args:
        vectors: Float32 array of shape (M, D), possibly a memory map; not copied.
        similarity: ``"cosine"`` or ``"dot"``.
        norms: Float64 L2 norms of shape (M,) when they are known, to save a pass.
        statistics: Mean (D,) and covariance (D, D) when they are known.

    Raises:
        ShapeError: When ``vectors`` is not a 2-D float32 array.
        NonFiniteError: When a vector contains NaN or infinity.

    Example:
        >>> vectors = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=np.float32)
        >>> ids, scores = ExactIndex(vectors).search(np.array([[1.0, 0.1]]), 2)
        >>> ids
        array([[0, 2]])
    """

    def __init__(
        self,
        vectors: np.ndarray,
        *,
        similarity: str = "cosine",
        norms: np.ndarray | None = None,
        statistics: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise ShapeError(
                "vectors must be a float32 array of shape (M, D), got "
                f"{vectors.dtype} of shape {vectors.shape}."
            )
        self.vectors = vectors
        self.similarity = check_choice(similarity, SIMILARITIES, name="similarity")
        self.norms = row_norms(vectors) if norms is None else norms
        if self.norms.shape != (len(vectors),):
            raise ShapeError(f"norms must have shape ({len(vectors)},), got {self.norms.shape}.")
        if not np.isfinite(self.norms).all():
            bad = np.flatnonzero(~np.isfinite(self.norms))
            raise NonFiniteError(
                f"vectors contain NaN or infinity in {len(bad)} of {len(vectors)} rows, "
                f"the first is row {bad[0]}."
            )
        self._statistics = statistics
        self._scale: np.ndarray | None = None
        if self.similarity == "cosine":
            with np.errstate(divide="ignore"):
                self._scale = np.where(self.norms > 0, 1.0 / self.norms, 0.0)
            self.largest = 1.0
        else:
            self.largest = float(self.norms.max(initial=0.0))

    def __len__(self) -> int:
        return len(self.vectors)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        mask: np.ndarray | None = None,
        allow_zero: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best ``min(k, matching)`` rows of every query.

        Args:
            queries: Array of shape (Q, D).
            k: Number of results wanted.
            mask: Boolean array of shape (M,); only rows where it is True can be returned.
            allow_zero: Under cosine a zero query has no direction and is an error; with True
                every row scores 0 for it.

        Returns:
            ``(ids, scores)``, int64 and float32 of shape (Q, k'), k' = min(k, matching rows);
            sorted by score, highest first, equal scores by ascending row.

        Raises:
            ShapeError: When the dimensions of queries, vectors or mask do not fit.
            NonFiniteError: When a query, or a score, is NaN or infinite.
            InputError: On a zero query under cosine.
        """
        k = check_k(k)
        queries = self.prepare(queries, allow_zero=allow_zero)
        rows = matching_rows(mask, len(self.vectors))
        matching = len(self.vectors) if rows is None else len(rows)
        wanted = min(k, matching)
        ids = np.empty((len(queries), wanted), dtype=np.int64)
        scores = np.empty((len(queries), wanted), dtype=np.float32)
        if wanted:
            for start in range(0, len(queries), _QUERY_BLOCK):
                block = slice(start, start + _QUERY_BLOCK)
                self._search_block(queries[block], rows, ids[block], scores[block])
        return ids, scores

    def plan(self, matching: int) -> str:
        """Say in words how a search over ``matching`` rows is carried out."""
        total = len(self.vectors)
        if copies_out(matching, total):
            return (
                f"exact {self.similarity}: copy out {matching:,} of {total:,} vectors, score them"
            )
        masked = ", drop those that do not match" if matching < total else ""
        return f"exact {self.similarity}: score all {total:,} vectors in blocks{masked}"

    def scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return exact scores for N rows, float32 (N,).

        Args:
            query: One prepared query (D,), or one for each row (N, D).
            rows: Row numbers (N,).
        """
        result = np.empty(len(rows), dtype=np.float32)
        wide = query.astype(np.float64)
        step = max(1, _BLOCK_BYTES // (8 * max(1, query.shape[-1])))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            other = wide if wide.ndim == 1 else wide[start : start + step]
            exact = (self.vectors[part].astype(np.float64) * other).sum(axis=1)
            result[start : start + step] = (
                exact if self._scale is None else exact * self._scale[part]
            )
        return result

    def prepare(self, queries: np.ndarray, *, allow_zero: bool = False) -> np.ndarray:
        """Check queries (Q, D) and, under cosine, give them unit length."""
        dim = self.vectors.shape[1]
        queries = check_vectors(queries, name="queries", dim=dim, allow_empty=True)
        if self.similarity != "cosine":
            return queries
        norms = row_norms(queries)
        zero = np.flatnonzero(norms == 0)
        if len(zero) and not allow_zero:
            raise InputError(
                f"{len(zero)} of {len(queries)} queries are zero vectors, the first is row "
                f"{zero[0]}: cosine similarity is not defined for them. Does the text have a "
                "token that the model knows?"
            )
        return np.asarray(queries / np.where(norms > 0, norms, 1.0)[:, None], dtype=np.float32)

    def approximate(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return scores of prepared queries for ``rows``, float32 (Q, len(rows)).

        They differ from `scores` by at most half of `margins`.
        """
        result = np.empty((len(queries), len(rows)), dtype=np.float32)
        chosen = None if len(rows) == len(self.vectors) else rows
        start = 0
        for _, part in self._blocks(queries, chosen, gather=True):
            result[:, start : start + part.shape[1]] = part
            start += part.shape[1]
        return result

    def unit_vectors(self, rows: np.ndarray) -> np.ndarray:
        """Return some vectors as the similarity sees them: unit length under cosine, float64."""
        vectors = self.vectors[rows].astype(np.float64)
        return vectors if self._scale is None else vectors * self._scale[rows][:, None]

    def moments(self, query: np.ndarray) -> tuple[float, float]:
        """Return mean and standard deviation of a prepared query's scores over all rows.

        Computed from the vectors' mean and covariance, without scoring every row.
        """
        mean, covariance = self.statistics
        wide = query.astype(np.float64)
        variance = float((wide * (covariance * wide).sum(axis=1)).sum())
        return float((mean * wide).sum()), max(0.0, variance) ** 0.5

    @cached_property
    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (D,) and covariance (D, D) of the vectors as the similarity sees them, float64.

        Of more than 200,000 rows an even sample is taken.
        """
        total, dim = self.vectors.shape
        if self._statistics is not None:
            mean, covariance = self._statistics
            if mean.shape != (dim,) or covariance.shape != (dim, dim):
                raise ShapeError(
                    f"statistics must have shapes ({dim},) and ({dim}, {dim}), got {mean.shape} "
                    f"and {covariance.shape}."
                )
            return mean, covariance
        sample = np.arange(0, total, max(1, -(-total // _STATISTICS_ROWS)))
        mean, square = np.zeros(dim), np.zeros((dim, dim))
        for start in range(0, len(sample), 4096):
            part = self.unit_vectors(sample[start : start + 4096])
            mean += part.sum(axis=0)
            square += part.T @ part
        count = max(1, len(sample))
        mean /= count
        return mean, square / count - np.outer(mean, mean)

    def _search_block(
        self, queries: np.ndarray, rows: np.ndarray | None, ids: np.ndarray, scores: np.ndarray
    ) -> None:
        """Fill ``ids`` and ``scores``, both (Q, k'), for one block of prepared queries."""
        wanted = ids.shape[1]
        margins = self.margins(queries)
        thresholds = np.full(len(queries), -np.inf, dtype=np.float32)
        pools = [_Pool(wanted) for _ in queries]
        for block_rows, approximate in self._blocks(queries, rows):
            best = approximate.max(axis=1)
            if np.isnan(best).any() or np.isposinf(best).any():
                raise NonFiniteError(
                    "Scores overflow float32: the vectors are too long for similarity='dot'. "
                    "Use similarity='cosine' or scale them down."
                )
            if approximate.shape[1] >= wanted:
                fresh = np.flatnonzero(np.isneginf(thresholds))
                if len(fresh):
                    place = approximate.shape[1] - wanted
                    parts = np.partition(approximate[fresh], place, axis=1)
                    thresholds[fresh] = parts[:, place]
            limits = thresholds - margins
            for number in np.flatnonzero(best >= limits).tolist():
                columns = np.flatnonzero(approximate[number] >= limits[number])
                if np.isneginf(limits[number]):
                    columns = columns[approximate[number, columns] > -np.inf]
                pool = pools[number]
                pool.add(block_rows[columns], approximate[number, columns])
                thresholds[number] = max(thresholds[number], pool.threshold(margins[number]))
        for number, pool in enumerate(pools):
            candidates = pool.finish(margins[number])
            exact = self.scores(queries[number], candidates)
            order = np.lexsort((candidates, -exact))[:wanted]
            ids[number], scores[number] = candidates[order], exact[order]

    def margins(self, queries: np.ndarray) -> np.ndarray:
        """Bound twice the rounding error of a float32 dot product, per query: float32 (Q,)."""
        error = (queries.shape[1] + 4) * 2.0**-24 * row_norms(queries) * self.largest
        return np.asarray(np.minimum(2 * error, _LARGEST_FLOAT32), dtype=np.float32)

    def _blocks(
        self, queries: np.ndarray, rows: np.ndarray | None, *, gather: bool | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield ``(row numbers, approximate scores (Q, block))`` over all rows or the chosen.

        Chosen rows are copied out when they are few; otherwise all rows are scored and those
        not chosen get -inf, unless ``gather`` forces the first.
        """
        total = len(self.vectors)
        widest = max(len(queries), queries.shape[1])
        size = max(1, _BLOCK_BYTES // (4 * widest))
        excluded = None
        if rows is None:
            numbers = np.arange(total)
        elif gather or copies_out(len(rows), total):
            numbers = rows
        else:
            numbers = np.arange(total)
            excluded = np.ones(total, dtype=bool)
            excluded[rows] = False
        copied = numbers is rows
        for start in range(0, len(numbers), size):
            part = numbers[start : start + size]
            vectors = self.vectors[part] if copied else self.vectors[start : start + size]
            with np.errstate(over="ignore", invalid="ignore"):
                approximate = queries @ np.asarray(vectors).T
            if self._scale is not None:
                approximate *= self._scale[part].astype(np.float32)
            if excluded is not None:
                approximate[:, excluded[start : start + size]] = -np.inf
            yield part, approximate


class _Pool:
    """Candidates of one query: everything that may still be among the best ``wanted``."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._ids: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []
        self._size = 0

    def add(self, ids: np.ndarray, scores: np.ndarray) -> None:
        self._ids.append(ids)
        self._scores.append(scores)
        self._size += len(ids)

    def threshold(self, margin: float) -> float:
        """Return the k-th best approximate score so far; drop what falls below it by a margin."""
        if self._size < self._wanted:
            return -np.inf
        ids, scores = np.concatenate(self._ids), np.concatenate(self._scores)
        limit = float(np.partition(scores, len(scores) - self._wanted)[-self._wanted])
        keep = scores >= np.float32(limit) - np.float32(margin)
        self._ids, self._scores = [ids[keep]], [scores[keep]]
        self._size = int(keep.sum())
        return limit

    def finish(self, margin: float) -> np.ndarray:
        """Return the remaining candidates' ids."""
        self.threshold(margin)
        return np.concatenate(self._ids)


def topk(
    queries: np.ndarray,
    vectors: np.ndarray,
    k: int,
    *,
    mask: np.ndarray | None = None,
    similarity: str = "cosine",
) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact best rows for each query; see `ExactIndex.search`.

    For repeated searches over the same vectors build an `ExactIndex` once.

    Args:
        queries: Array of shape (Q, D).
        vectors: Array of shape (M, D), possibly a memory map.
        k: Number of results wanted.
        mask: Boolean array of shape (M,): True rows may be returned.
        similarity: ``"cosine"`` or ``"dot"``.

    Returns:
        ``(ids, scores)`` of shape (Q, min(k, matching)), int64 and float32.

    Example:
        >>> vectors = np.eye(3, dtype=np.float32)
        >>> ids, scores = topk(vectors[:1], vectors, 5, mask=np.array([True, False, True]))
        >>> ids, scores
        (array([[0, 2]]), array([[1., 0.]], dtype=float32))
    """
    if vectors.dtype != np.float32 or vectors.ndim != 2:
        vectors = check_vectors(vectors, allow_empty=True)
    return ExactIndex(vectors, similarity=similarity).search(queries, k, mask=mask)


def copies_out(matching: float, total: int) -> bool:
    """Tell whether rows that pass are copied out and scored, or all rows and then masked."""
    return matching < _GATHER_BELOW * total


def row_norms(vectors: np.ndarray) -> np.ndarray:
    """Return the float64 L2 norms of the rows of a float32 array (M, D), shape (M,)."""
    norms = np.empty(len(vectors), dtype=np.float64)
    step = max(1, _BLOCK_BYTES // (8 * max(1, vectors.shape[1])))
    for start in range(0, len(vectors), step):
        part = vectors[start : start + step].astype(np.float64)
        norms[start : start + step] = np.sqrt((part * part).sum(axis=1))
    return norms


def unit_rows(vectors: np.ndarray, norms: np.ndarray | None = None) -> np.ndarray:
    """Return float32 vectors (M, D) at unit length: the same array when they have it already.

    Args:
        vectors: The vectors, possibly a memory map.
        norms: What `row_norms` gives for them, when it is known.

    Returns:
        ``vectors`` itself when every row has length 1 or 0 as nearly as float32 can say,
        otherwise a copy in which zero rows stay zero.
    """
    norms = row_norms(vectors) if norms is None else norms
    unit = (np.abs(norms - 1.0) <= _UNIT) | (norms == 0)
    return vectors if unit.all() else normalize_rows(vectors)


def matching_rows(mask: np.ndarray | None, total: int) -> np.ndarray | None:
    """Return the row numbers where the mask is True, or None when nothing is masked."""
    if mask is None:
        return None
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != (total,):
        raise ShapeError(
            f"mask must be boolean of shape ({total},), one value per row, got "
            f"{mask.dtype} of shape {mask.shape}."
        )
    return None if mask.all() else np.flatnonzero(mask)
