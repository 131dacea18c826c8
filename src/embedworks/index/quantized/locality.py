"""Batches whose negatives are hard: cut from a local patch of the query-candidate graph."""

from __future__ import annotations

from collections import deque

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice, check_in_range
from embedworks.errors import InputError, ShapeError

__all__ = ["STRATEGIES", "locality_batches", "shuffled_batches"]

STRATEGIES = ("snowball", "random_walk")


def locality_batches(
    candidates: np.ndarray,
    positives: np.ndarray,
    *,
    batch_size: int,
    strategy: str = "snowball",
    seed: int = 0,
) -> list[np.ndarray]:
    """Draw triples (query, positive, negative) so that those of one batch lie close together.

    Queries and the documents that a first search finds for them form a graph. Each batch starts
    at a query not visited before. From a query's candidates a negative is drawn; all queries
    that list it join the line; the next query is the first in line (``"snowball"``) or the last
    (``"random_walk"``). When the line is empty a new query is drawn. Every query comes once.

    Args:
        candidates: Documents found for each query, int (Q, N); -1 fills up shorter lists. The
            query's own positive is never drawn.
        positives: One relevant document of each query, int (Q,).
        batch_size: Triples per batch; the last batch may be smaller.
        strategy: ``"snowball"`` or ``"random_walk"``.
        seed: Seed of all draws.

    Returns:
        Int64 arrays (B, 3). A query whose candidates are all used up in its batch, or whose list
        is empty, gets a random document.

    Raises:
        ShapeError: When the shapes do not fit.
        InputError: When an argument is out of range, or there are fewer than two documents.

    Paper: Xiao et al. 2022 (BiDR), arXiv 2201.05409, algorithm 1. As in the paper, a query and a
    document are linked by the same ranks both ways; its code links back by ranks 200 to 400.

    Example:
        >>> found = np.array([[0, 1, 2], [1, 2, 0], [7, 8, 9], [8, 9, 7]])
        >>> batches = locality_batches(found, np.array([0, 1, 7, 8]), batch_size=2)
        >>> sorted(sorted(batch[:, 0].tolist()) for batch in batches)
        [[0, 1], [2, 3]]
    """
    check_choice(strategy, STRATEGIES, name="strategy")
    check_in_range(batch_size, name="batch_size", low=1)
    if candidates.ndim != 2 or positives.shape != (len(candidates),):
        raise ShapeError(
            f"candidates {candidates.shape} and positives {positives.shape} must have shapes "
            "(Q, N) and (Q,)."
        )
    documents = int(max(candidates.max(initial=-1), positives.max(initial=-1))) + 1
    if len(positives) and (documents < 2 or positives.min() < 0):
        raise InputError("Triples need two documents or more, and a positive for every query.")
    rng = generator(seed, "locality")
    lines, starts = _linked_queries(candidates, documents)
    unvisited = rng.permutation(len(candidates)).tolist()
    visited = np.zeros(len(candidates), dtype=bool)
    batches: list[np.ndarray] = []
    batch: list[tuple[int, int, int]] = []
    waiting: deque[int] = deque()
    used: set[int] = set()
    while True:
        query = _next(waiting, unvisited, visited, first=strategy == "snowball")
        if query is None:
            break
        visited[query] = True
        positive = int(positives[query])
        row = candidates[query]
        free = [int(one) for one in row if one >= 0 and one != positive and int(one) not in used]
        if free:
            negative = free[int(rng.integers(len(free)))]
        else:
            negative = int(rng.integers(documents - 1))
            negative += negative >= positive
        batch.append((query, positive, negative))
        used |= {positive, negative}
        linked = lines[starts[negative] : starts[negative + 1]]
        waiting.extend(rng.permutation(linked[~visited[linked]]).tolist())
        if len(batch) == batch_size:
            batches.append(np.array(batch, dtype=np.int64))
            batch, waiting, used = [], deque(), set()
    if batch:
        batches.append(np.array(batch, dtype=np.int64))
    return batches


def shuffled_batches(batches: list[np.ndarray], *, seed: int = 0) -> list[np.ndarray]:
    """Deal the same triples out at random: batches of the same sizes without locality.

    Example:
        >>> batches = [np.array([[0, 0, 1], [1, 1, 0]]), np.array([[2, 2, 3]])]
        >>> [len(batch) for batch in shuffled_batches(batches)]
        [2, 1]
    """
    if not batches:
        return []
    triples = np.concatenate(batches)
    triples = triples[generator(seed, "shuffled").permutation(len(triples))]
    return np.split(triples, np.cumsum([len(batch) for batch in batches])[:-1])


def _linked_queries(candidates: np.ndarray, documents: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(queries, starts)``; ``queries[starts[d]:starts[d + 1]]`` list document d."""
    queries = np.repeat(np.arange(len(candidates)), candidates.shape[1])
    listed = candidates.ravel()
    queries, listed = queries[listed >= 0], listed[listed >= 0]
    order = np.argsort(listed, kind="stable")
    counts = np.bincount(listed, minlength=documents)
    return queries[order], np.concatenate([[0], np.cumsum(counts)])


def _next(
    waiting: deque[int], unvisited: list[int], visited: np.ndarray, *, first: bool
) -> int | None:
    while waiting:
        query = waiting.popleft() if first else waiting.pop()
        if not visited[query]:
            return query
    while unvisited:
        query = unvisited.pop()
        if not visited[query]:
            return query
    return None
