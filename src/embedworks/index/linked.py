"""Vectors that know what they are linked to: smoothing over a graph, and documents that are hubs.

Pure functions on arrays. Links may be citations, hyperlinks, imports, or rows of the same table.
"""

from __future__ import annotations

import numpy as np

from embedworks._core.validation import check_in_range, check_k, check_vectors, normalize_rows
from embedworks.errors import InputError, ShapeError

__all__ = ["query_hubs", "smooth_over_links"]

_BLOCK = 1024


def smooth_over_links(
    vectors: np.ndarray, links: np.ndarray, *, share: float = 0.3, steps: int = 2
) -> np.ndarray:
    """Mix each vector with those of the rows it is linked to.

    ``E <- share * S E + (1 - share) * E_0``, ``steps`` times, with ``S = D^-1/2 A D^-1/2`` over
    links in both directions; rows without a link keep their vector. The result has unit length.

    Args:
        vectors: float array (N, D).
        links: int array (L, 2) of row numbers; a link given twice counts once, a link of a row to
            itself not at all.
        share: Weight of the neighbours, in [0, 1); 0 changes nothing but the length.
        steps: How far vectors travel, 0 or more.

    Raises:
        ShapeError: When links are no pairs.
        InputError: When a link names a row that is not there.

    Paper: the iteration of APPNP, Gasteiger et al. 2019, arXiv 1810.05997, equation 4, on vectors
    instead of predictions and without self loops.

    Example:
        >>> smooth_over_links(np.eye(3), np.array([[0, 1]]), share=0.5, steps=1).round(3)
        array([[0.707, 0.707, 0.   ],
               [0.707, 0.707, 0.   ],
               [0.   , 0.   , 1.   ]], dtype=float32)
    """
    check_vectors(vectors)
    check_in_range(share, name="share", low=0.0, high=1.0)
    check_in_range(steps, name="steps", low=0)
    if share == 1.0:
        raise InputError("share must be below 1: with 1 nothing of a row's own vector is left.")
    start = normalize_rows(np.asarray(vectors, dtype=np.float64))
    ends = _links(links, len(start))
    if not len(ends):
        return np.asarray(start, dtype=np.float32)
    both = np.concatenate([ends, ends[:, ::-1]])
    degree = np.bincount(both[:, 0], minlength=len(start))
    weight = 1 / np.sqrt(degree[both[:, 0]] * degree[both[:, 1]])
    linked = degree > 0
    moved = start.copy()
    for _ in range(steps):
        around = np.zeros_like(start)
        np.add.at(around, both[:, 0], weight[:, None] * moved[both[:, 1]])
        moved[linked] = share * around[linked] + (1 - share) * start[linked]
    return np.asarray(normalize_rows(moved), dtype=np.float32)


def _links(links: np.ndarray, rows: int) -> np.ndarray:
    ends = np.asarray(links)
    if not ends.size:
        return np.zeros((0, 2), dtype=np.int64)
    if ends.ndim != 2 or ends.shape[1] != 2 or ends.dtype.kind not in "iu":
        raise ShapeError(
            f"links has shape {ends.shape} and type {ends.dtype}: expected whole numbers (L, 2)."
        )
    outside = ends[(ends < 0).any(axis=1) | (ends >= rows).any(axis=1)]
    if len(outside):
        raise InputError(
            f"{len(outside)} links name rows outside 0 to {rows - 1}; the first is "
            f"{tuple(outside[0].tolist())}."
        )
    ends = np.sort(ends[ends[:, 0] != ends[:, 1]].astype(np.int64), axis=1)
    return np.unique(ends, axis=0)


def query_hubs(
    documents: np.ndarray, queries: np.ndarray, *, k: int = 10, factor: float = 20.0
) -> list[tuple[int, int]]:
    """Find documents that turn up for far more queries than their share.

    A document that was written to be near many queries (a poisoned passage), or that says nothing
    in particular, is among the first ``k`` of many. Ordinary hubs exist in every space: look at
    what is found, do not delete it unseen.

    Args:
        documents: float array (N, D).
        queries: float array (Q, D), unrelated ones: a sample of real traffic, or random texts.
        k: First results that count, at most N.
        factor: How many times its share ``Q k / N`` a document must turn up, and at least in two
            queries.

    Returns:
        ``(row, number of queries)`` of each, most frequent first.

    Raises:
        ShapeError: When the two differ in D.
        InputError: When ``k`` is above N.

    Example:
        >>> towards = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
        >>> asked = np.array([[1.0, 0.8], [0.8, 1.0], [1.0, 0.9], [0.9, 1.0]])
        >>> query_hubs(towards, asked, k=1, factor=2)
        [(0, 4)]
    """
    check_k(k)
    check_in_range(factor, name="factor", low=1.0)
    rows = normalize_rows(check_vectors(documents, name="documents"))
    asked = normalize_rows(check_vectors(queries, name="queries", dim=rows.shape[1]))
    if k > len(rows):
        raise InputError(f"{len(rows)} documents have no first {k}.")
    counts = np.zeros(len(rows), dtype=np.int64)
    for start in range(0, len(asked), _BLOCK):
        scores = asked[start : start + _BLOCK] @ rows.T
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        counts += np.bincount(best.ravel(), minlength=len(rows))
    limit = max(2.0, factor * len(asked) * k / len(rows))
    order = np.argsort(-counts, kind="stable")
    return [(int(row), int(counts[row])) for row in order if counts[row] >= limit]
