"""Hard-negative mining with the relative margin rule, as a pure function over vectors.

Knows nothing about models or losses: vectors and positions in, positions out. `Miner` does the same
for training rows, with any retrievers and rules.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedworks._core.validation import check_in_range, check_k, check_vectors
from embedworks.errors import InputError, ShapeError
from embedworks.negatives._topk import top_k
from embedworks.negatives.rules import relative_limit

__all__ = ["MinedNegatives", "mine_hard_negatives"]


@dataclass(frozen=True)
class MinedNegatives:
    """Hard negatives of each query, and why candidates were turned down.

    Attributes:
        positions: int64 (N, H) corpus positions in order of falling score; -1 where a query has
            fewer than H.
        positive_ranks: int64 (N,), 1-based rank of the positive among the whole corpus.
        n_candidates: Candidates looked at in all.
        n_too_close: Candidates dropped because they score too near the positive, so that they
            may be unmarked positives.
        n_same_group: Candidates dropped because they share the positive's group.
    """

    positions: np.ndarray
    positive_ranks: np.ndarray
    n_candidates: int
    n_too_close: int
    n_same_group: int

    def to_dict(self) -> dict[str, float]:
        """Return the counts, and the mean number of negatives a query got."""
        found = (self.positions >= 0).sum(axis=1)
        return {
            "queries": len(found),
            "negatives_per_query": float(found.mean()) if len(found) else 0.0,
            "queries_without_negative": int((found == 0).sum()),
            "candidates": self.n_candidates,
            "dropped_too_close": self.n_too_close,
            "dropped_same_group": self.n_same_group,
        }


def mine_hard_negatives(
    queries: np.ndarray,
    corpus: np.ndarray,
    positives: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    count: int = 4,
    depth: int = 50,
    margin: float = 0.95,
    block: int = 1024,
) -> MinedNegatives:
    """Find documents that look relevant to a query but score clearly below its positive.

    A candidate among the ``depth`` best is kept when its score is below ``margin`` times the
    positive's score and it is not of the positive's group. A query whose positive scores 0 or
    less gets no negatives: the rule has no meaning there.

    Args:
        queries: float array (N, D), normalised.
        corpus: float array (M, D), normalised.
        positives: int array (N,), the corpus position of each query's positive.
        groups: int array (M,): documents of one group (same file, same text) are never
            negatives of each other. None: only the positive itself is excluded.
        count: Negatives per query (H).
        depth: How many of the best candidates are looked at.
        margin: Share of the positive's score a negative must stay below, in (0, 1].
        block: Queries scored at a time; memory is ``block * M`` floats.

    Raises:
        ShapeError: When the arrays do not agree.
        InputError: When a position is outside the corpus or a number is out of range.

    Paper: de Souza Moreira et al. 2024, arXiv 2407.15831 ("TopK-PercPos", 95 %).

    Example:
        >>> corpus = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> mine_hard_negatives(corpus[:1], corpus, np.array([0]), count=1).positions
        array([[1]])
    """
    queries = check_vectors(queries, name="queries")
    corpus = check_vectors(corpus, name="corpus", dim=queries.shape[1])
    check_k(count)
    check_k(depth)
    check_in_range(margin, name="margin", low=0.0, high=1.0, open_low=True)
    positives = np.asarray(positives, dtype=np.int64)
    n, m = len(queries), len(corpus)
    if positives.shape != (n,):
        raise ShapeError(f"positives must be ({n},), one per query, got {positives.shape}.")
    if n and (positives.min() < 0 or positives.max() >= m):
        raise InputError(f"positives must be positions in a corpus of {m} documents.")
    groups = np.arange(m) if groups is None else np.asarray(groups)
    if groups.shape != (m,):
        raise ShapeError(f"groups must be ({m},), one per document, got {groups.shape}.")

    depth = min(depth, m)
    result = np.full((n, count), -1, dtype=np.int64)
    ranks = np.zeros(n, dtype=np.int64)
    seen = close = grouped = 0
    for start in range(0, n, block):
        rows = slice(start, min(start + block, n))
        scores = queries[rows] @ corpus.T
        own = positives[rows]
        own_score = scores[np.arange(len(own)), own]
        ranks[rows] = 1 + (scores > own_score[:, None]).sum(axis=1)
        top = top_k(scores, depth)
        top_scores = np.take_along_axis(scores, top, axis=1)
        same = groups[top] == groups[own][:, None]
        too_close = ~same & (top_scores >= relative_limit(own_score, 1 - margin)[:, None])
        keep = ~same & ~too_close & (own_score[:, None] > 0)
        seen += top.size
        grouped += int(same.sum())
        close += int(too_close.sum())
        place = np.cumsum(keep, axis=1) - 1
        row, column = np.nonzero(keep & (place < count))
        result[start + row, place[row, column]] = top[row, column]
    return MinedNegatives(result, ranks, seen, close, grouped)
