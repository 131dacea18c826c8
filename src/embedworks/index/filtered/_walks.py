"""Walks over plain lists, for indexes whose structure lies in which links there are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import types

from embedworks._core.kernels import compile_kernel
from embedworks.index.filtered._beam import (
    PassingLinks,
    Scratch,
    beam,
    i64,
    links_t,
    mask_t,
    out_rows,
    out_scores,
    point_t,
    points_t,
    rows_t,
)

__all__ = ["guard", "walk_each", "walk_passing"]


@compile_kernel(
    types.UniTuple(i64, 2),
    points_t,
    point_t,
    links_t,
    mask_t,
    rows_t,
    i64,
    out_rows,
    i64,
    out_rows,
    out_scores,
)
def walk_passing(
    points: np.ndarray,
    query: np.ndarray,
    links: np.ndarray,
    mask: np.ndarray,
    seeds: np.ndarray,
    limit: int,
    stamps: np.ndarray,
    stamp: int,
    rows: np.ndarray,
    scores: np.ndarray,
) -> tuple[int, int]:
    """Search among the rows that pass; see `beam`. Seeds must pass."""
    trail, fresh = np.empty(0, dtype=np.int32), np.empty(links.shape[1], dtype=np.int32)
    count, distances, _ = beam(PassingLinks(links, mask), points, query, seeds, limit, stamps,
                               stamp, rows, scores, trail, fresh)  # fmt: skip
    return count, distances


def guard(ef: int, width: int, matching: int) -> int:
    """Return after how many distances a walk gives up: it shall not cost far more than a scan."""
    return int(max(4 * ef * width, 1.5 * matching))


def walk_each(
    points: np.ndarray,
    query: np.ndarray,
    links: np.ndarray,
    mask: np.ndarray,
    starts: Sequence[np.ndarray],
    ef: int,
    matching: int,
    scratch: Scratch,
) -> np.ndarray | None:
    """Walk once from each of several sets of starts and return all that was found.

    One walk from all of them would drop the parts whose starts lie far from the query.

    Returns:
        Rows, each once; None when a scan of the ``matching`` rows is cheaper.
    """
    left = guard(ef, links.shape[1], matching)
    if len(starts) * ef > max(matching, ef):
        return None
    found = []
    for seeds in starts:
        rows, scores = np.empty(ef, dtype=np.int32), np.empty(ef, dtype=np.float32)
        count, distances = walk_passing(
            points, query, links, mask, seeds, left, *scratch.take(), rows, scores
        )
        left -= distances
        if count < 0:
            return None
        found.append(rows[:count])
    return np.unique(np.concatenate(found)) if len(found) > 1 else found[0]
