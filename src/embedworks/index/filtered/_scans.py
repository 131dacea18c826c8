"""The scan of a partition index: clusters in turn, and in each only buckets that may match."""

from __future__ import annotations

import numpy as np
from numba import types

from embedworks._core.kernels import compile_kernel
from embedworks.index.filtered._beam import (
    i64,
    links_t,
    mask_t,
    out_rows,
    out_scores,
    point_t,
    points_t,
    rows_t,
)
from embedworks.index.filtered._heaps import _offer
from embedworks.index.filtered._kernels import _dot

__all__ = ["scan_partitions"]


@compile_kernel(
    types.UniTuple(i64, 2),
    points_t,
    point_t,
    types.Array(i64, 1, "C", readonly=True),
    rows_t,
    links_t,
    links_t,
    mask_t,
    mask_t,
    mask_t,
    mask_t,
    i64,
    out_rows,
    out_scores,
)
def scan_partitions(
    points: np.ndarray,
    query: np.ndarray,
    clusters: np.ndarray,
    order: np.ndarray,
    ends: np.ndarray,
    splits: np.ndarray,
    allowed: np.ndarray,
    only: np.ndarray,
    mask: np.ndarray,
    alive: np.ndarray,
    enough: int,
    rows: np.ndarray,
    scores: np.ndarray,
) -> tuple[int, int]:
    """Keep the best rows that pass in the heap ``rows, scores``.

    Args:
        points: float32 (M, D).
        query: float32 (D,).
        clusters: Clusters, nearest first, int64.
        order: Rows by cluster and bucket, int32 (M,).
        ends: Cluster -> where its buckets begin in ``order``, int32 (clusters, buckets + 2); the
            last bucket holds what was not split off.
        splits: Cluster -> the value that each bucket shares, int32 (clusters, buckets), -1 where
            there are fewer.
        allowed: 1 for values with which a row may pass, uint8.
        only: 1 for values without which no row passes, uint8.
        mask: 1 for rows that pass, uint8.
        alive: 1 for rows that are not removed, uint8.
        enough: Stop after the cluster in which so many rows were scored.
        rows: Room for the heap, int32.
        scores: Room for its scores, float32.

    Returns:
        ``(count, scored)``: rows in the heap, rows scored.
    """
    count, scored = 0, 0
    for cluster in clusters:
        complete = False
        for bucket in range(splits.shape[1] + 1):
            last = bucket == splits.shape[1]
            if not last:
                value = splits[cluster, bucket]
                if value < 0 or not allowed[value]:
                    continue
            for place in range(ends[cluster, bucket], ends[cluster, bucket + 1]):
                row = order[place]
                if mask[row] and alive[row]:
                    count = _offer(scores, rows, count, _dot(points[row], query), row)
                    scored += 1
            if not last and only[splits[cluster, bucket]]:
                complete = True
            if complete:
                break
        if scored >= enough:
            break
    return count, scored
