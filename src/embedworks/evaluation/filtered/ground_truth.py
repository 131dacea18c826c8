"""The answer key of filtered search: every row scored in float64, and how near an answer comes.

Independent of every index on purpose: a mask, a matrix product and a sort. Knows nothing of
filters or plans; a filter is a boolean mask here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedworks._core.validation import check_in_range, check_k, check_vectors
from embedworks.errors import ShapeError

__all__ = ["FilteredTruth", "Judgement", "exact_filtered", "filter_correlation"]

_BLOCK = 8192
_TIE = 1e-7  # scores nearer than this are equal: contestants score in float32


@dataclass(frozen=True)
class Judgement:
    """How good one answer is.

    Attributes:
        recall: Share of the ``min(k, matching)`` places filled by a row that passes and scores no
            less than the worst of the true answer; 1.0 when nothing matches and nothing came.
        wrong: Rows that fail the filter, do not exist, or were given before.
        missing: Places left empty, of the ``min(k, matching)``.
    """

    recall: float
    wrong: int
    missing: int


@dataclass(frozen=True, eq=False)
class FilteredTruth:
    """The true answers of Q filtered queries over M rows.

    Attributes:
        rows: One int64 array of ``min(k, matching)`` row numbers per query, best first, equal
            scores by row.
        scores: Their inner products, float64.
        masks: Which rows pass, bool (Q, M).
        k: Rows wanted.
    """

    rows: list[np.ndarray]
    scores: list[np.ndarray]
    masks: np.ndarray
    k: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def matching(self) -> np.ndarray:
        """Rows that pass, int64 (Q,)."""
        return np.asarray(self.masks.sum(axis=1), dtype=np.int64)

    def judge(self, number: int, found: np.ndarray, vectors: np.ndarray, query: np.ndarray) -> (
        Judgement
    ):  # fmt: skip
        """Judge the answer to one query.

        A row that ties with the worst row of the true answer counts like it, so that copies of
        one vector cost nobody recall.

        Args:
            number: Which query.
            found: Row numbers, best first; those beyond ``k`` and those below 0 (padding) are
                left out.
            vectors: The rows' vectors (M, D).
            query: The query's vector (D,).
        """
        expected = len(self.rows[number])
        given = np.asarray(found, dtype=np.int64).ravel()[: self.k]
        given = given[given >= 0]
        inside = np.unique(given[given < self.masks.shape[1]])
        valid = inside[self.masks[number, inside]]
        wrong, missing = len(given) - len(valid), max(0, expected - len(valid))
        if not expected:
            return Judgement(1.0 if not len(given) else 0.0, wrong, missing)
        scores = vectors[valid].astype(np.float64) @ query.astype(np.float64)
        good = int((scores >= self.scores[number][-1] - _TIE).sum())
        return Judgement(min(good, expected) / expected, wrong, missing)


def exact_filtered(
    vectors: np.ndarray, queries: np.ndarray, masks: np.ndarray, k: int
) -> FilteredTruth:
    """Find the ``k`` rows of largest inner product among those that pass, for each query.

    Args:
        vectors: Array of shape (M, D); bring them to unit length for cosine.
        queries: Array of shape (Q, D).
        masks: Which rows pass, bool (Q, M).
        k: Rows wanted.

    Raises:
        ShapeError: When the shapes do not fit together.
        NonFiniteError: When a vector contains NaN or infinity.

    Example:
        >>> vectors = np.eye(3, dtype=np.float32)
        >>> truth = exact_filtered(vectors, vectors[:1], np.array([[False, True, True]]), k=2)
        >>> truth.rows[0].tolist(), truth.matching.tolist()
        ([1, 2], [2])
        >>> truth.judge(0, np.array([2, 0]), vectors, vectors[0])
        Judgement(recall=0.5, wrong=1, missing=1)
    """
    k = check_k(k)
    vectors = check_vectors(vectors)
    queries = check_vectors(queries, name="queries", dim=vectors.shape[1])
    masks = np.asarray(masks, dtype=bool)
    if masks.shape != (len(queries), len(vectors)):
        raise ShapeError(
            f"masks must have shape (queries, rows) = {(len(queries), len(vectors))}, got "
            f"{masks.shape}."
        )
    wide = queries.astype(np.float64)
    best_rows = [np.empty(0, dtype=np.int64)] * len(queries)
    best_scores = [np.empty(0, dtype=np.float64)] * len(queries)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK].astype(np.float64)
        scores = wide @ block.T
        for number in range(len(queries)):
            rows = np.flatnonzero(masks[number, start : start + _BLOCK])
            if len(rows):
                joined_rows = np.concatenate([best_rows[number], rows + start])
                joined = np.concatenate([best_scores[number], scores[number, rows]])
                order = np.lexsort((joined_rows, -joined))[:k]
                best_rows[number], best_scores[number] = joined_rows[order], joined[order]
    return FilteredTruth(best_rows, best_scores, masks, k)


def filter_correlation(vectors: np.ndarray, query: np.ndarray, mask: np.ndarray) -> float:
    """Measure how much nearer the rows that pass lie than as many rows drawn at random would.

    The expected distance ``1 - score`` from the query to the nearest of a random subset of the
    same size, minus that to the nearest row that passes: above 0 the filter prefers rows near the
    query, below 0 rows far from it (ACORN, arXiv 2403.04871, query correlation). Differs from the
    paper on purpose: the expectation over subsets is computed exactly, not by drawing some.

    Args:
        vectors: Unit vectors (M, D).
        query: Unit vector (D,).
        mask: Which rows pass, bool (M,), at least one.

    Returns:
        A number in [-2, 2]; 0.0 when every row passes.

    Raises:
        ShapeError: When the mask does not fit.
        InputError: When no row passes.

    Example:
        >>> line = np.array([[1, 0], [0.6, 0.8], [0, 1]], dtype=np.float32)
        >>> round(filter_correlation(line, line[0], np.array([True, False, False])), 3)
        0.467
    """
    vectors = check_vectors(vectors)
    mask = np.asarray(mask, dtype=bool)
    if mask.shape != (len(vectors),):
        raise ShapeError(f"mask must have shape ({len(vectors)},), got {mask.shape}.")
    check_in_range(int(mask.sum()), name="rows that pass", low=1)
    scores = vectors @ np.asarray(query, dtype=np.float32)
    nearest = 1.0 - float(scores[mask].max())
    distances = 1.0 - np.sort(scores.astype(np.float64))[::-1]
    return float(_first_of_subset(distances, int(mask.sum()))) - nearest


def _first_of_subset(ascending: np.ndarray, size: int) -> float:
    """Return the mean of the smallest of ``size`` values drawn without replacement."""
    total = len(ascending)
    # The i-th smallest (from 0) is the smallest drawn with probability size / (total - i), if
    # none before it was drawn, which has probability prod over j < i of 1 - size / (total - j).
    left = total - np.arange(total - size + 1, dtype=np.float64)
    drawn = size / left
    none_before = np.concatenate([[1.0], np.cumprod(1.0 - drawn)[:-1]])
    return float((ascending[: len(drawn)] * drawn * none_before).sum())
