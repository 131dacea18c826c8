"""Build graphs: one pruning rule, one insertion, with or without labels.

RobustPrune with ``alpha`` = 1 is the relative neighbourhood rule of HNSW, so there is no second
rule. Distances are squared Euclidean, as in the published code of DiskANN; the paper's formula
has plain ones, so its ``alpha`` is the square root of ours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit, types

from embedworks._core.kernels import compile_kernel
from embedworks.index.filtered._beam import (
    Links,
    beam,
    f32,
    i64,
    neighbours,
    out_links,
    out_rows,
    points_t,
    rows_t,
)

__all__ = ["insert_labelled", "insert_plain", "prune_rows", "robust_prune", "stitch"]


@njit(fastmath=True)
def _gap(a: Any, b: Any) -> Any:
    """Return the squared distance; zero for equal points, which a difference of dots is not."""
    total = np.float32(0.0)
    for place in range(a.shape[0]):
        step = a[place] - b[place]
        total += step * step
    return total


@njit
def share_label(offsets: Any, labels: Any, one: Any, other: Any) -> Any:
    """Say whether two rows have a label in common; each row's labels are ascending."""
    a, b = offsets[one], offsets[other]
    while a < offsets[one + 1] and b < offsets[other + 1]:
        if labels[a] == labels[b]:
            return True
        if labels[a] < labels[b]:
            a += 1
        else:
            b += 1
    return False


@njit
def _may_occlude(offsets: Any, labels: Any, row: Any, kept: Any, other: Any) -> Any:
    """Say whether every label that ``row`` and ``other`` share is one of ``kept``'s."""
    if not len(offsets):
        return True
    a, b, c = offsets[row], offsets[other], offsets[kept]
    while a < offsets[row + 1] and b < offsets[other + 1]:
        if labels[a] < labels[b]:
            a += 1
        elif labels[a] > labels[b]:
            b += 1
        else:
            while c < offsets[kept + 1] and labels[c] < labels[a]:
                c += 1
            if c == offsets[kept + 1] or labels[c] != labels[a]:
                return False
            a += 1
            b += 1
    return True


@njit
def robust_prune(
    points: Any, offsets: Any, labels: Any, row: Any, near: Any, count: Any, alpha: Any, out: Any
) -> Any:
    """Choose neighbours of a row among candidates, nearest first, until ``out`` is full.

    A candidate c is dropped when a kept r has ``alpha * d(r, c) <= d(row, c)`` and, with labels,
    has every label that ``row`` and c share (Filtered-DiskANN, Gollapudi et al., WWW 2023,
    Algorithm 3; the published code asks for all labels of c). The row itself is dropped too.

    Args:
        points: float32 (M, D).
        offsets: Row -> where its labels begin in ``labels``, int64 (M + 1,); empty without.
        labels: int32, ascending within a row.
        row: The row that gets neighbours.
        near: Candidates, int32; they are sorted here.
        count: How many.
        alpha: At least 1; more keeps longer links.
        out: int32 (L,), written and filled up with -1.

    Returns:
        How many were kept.
    """
    gaps = np.empty(count, dtype=np.float32)
    for place in range(count):
        gaps[place] = _gap(points[near[place]], points[row])
    kept = 0
    for place in np.argsort(gaps, kind="mergesort"):
        other = near[place]
        if other == row:
            continue
        clear = True
        for number in range(kept):
            if out[number] == other or (
                alpha * _gap(points[out[number]], points[other]) <= gaps[place]
                and _may_occlude(offsets, labels, row, out[number], other)
            ):
                clear = False
                break
        if clear:
            out[kept] = other
            kept += 1
            if kept == len(out):
                break
    out[kept:] = -1
    return kept


@compile_kernel(
    i64, points_t, types.Array(i64, 1, "C", readonly=True), rows_t, i64, rows_t, f32, out_rows
)
def prune_rows(
    points: np.ndarray,
    offsets: np.ndarray,
    labels: np.ndarray,
    row: int,
    near: np.ndarray,
    alpha: float,
    out: np.ndarray,
) -> int:
    """Call `robust_prune` from Python."""
    return int(robust_prune(points, offsets, labels, row, near, len(near), alpha, out))


@njit
def _degree(links: Any) -> Any:
    count = 0
    while count < len(links) and links[count] >= 0:
        count += 1
    return count


@njit
def _link_back(
    points: Any, offsets: Any, labels: Any, links: Any, row: Any, alpha: Any, near: Any
) -> None:
    """Give every neighbour of ``row`` a link to it, pruning lists that are full."""
    for other in links[row]:
        if other < 0:
            break
        count = _degree(links[other])
        known = False
        for place in range(count):
            if links[other, place] == row:
                known = True
        if known:
            continue
        if count < links.shape[1]:
            links[other, count] = row
            continue
        near[:count] = links[other]
        near[count] = row
        robust_prune(points, offsets, labels, other, near, count + 1, alpha, links[other])


@njit
def _insert(
    graph: Any,
    points: Any,
    offsets: Any,
    labels: Any,
    links: Any,
    row: Any,
    seeds: Any,
    alpha: Any,
    stamps: Any,
    stamp: Any,
    rows: Any,
    scores: Any,
    near: Any,
    fresh: Any,
) -> None:
    """Search for a row's neighbours, prune them with those it has, and link back."""
    none = 2**62
    trail = near[len(rows) : len(near) - links.shape[1] - 1]
    count, _, steps = beam(
        graph, points, points[row], seeds, none, stamps, stamp, rows, scores, trail, fresh
    )
    total = min(steps, len(trail))
    near[:count] = rows[:count]
    for place in range(total):
        near[count + place] = trail[place]
    total += count
    for other in links[row]:
        if other < 0:
            break
        near[total] = other
        total += 1
    robust_prune(points, offsets, labels, row, near, total, alpha, links[row])
    _link_back(points, offsets, labels, links, row, alpha, near)


class _Sharing(NamedTuple):
    """A graph of which rows that share a label with the row ``wanted`` are walked."""

    links: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    wanted: int


@neighbours(_Sharing)
def _sharing(graph: Any, row: Any, stamps: Any, stamp: Any, fresh: Any) -> Any:
    found = 0
    for other in graph.links[row]:
        if other < 0:
            break
        if stamps[other] != stamp and share_label(graph.offsets, graph.labels, graph.wanted, other):
            stamps[other] = stamp
            fresh[found] = other
            found += 1
    return found


@compile_kernel(types.void, points_t, out_links, rows_t, rows_t, f32, i64, out_rows, i64)
def insert_plain(
    points: np.ndarray,
    links: np.ndarray,
    order: np.ndarray,
    seeds: np.ndarray,
    alpha: float,
    width: int,
    stamps: np.ndarray,
    stamp: int,
) -> None:
    """Insert rows one after the other into a Vamana graph (DiskANN, NeurIPS 2019).

    Rows that are reached from ``seeds`` already form the graph; a row may have links already,
    which are then candidates.

    Args:
        points: float32 (M, D).
        links: int32 (M, L) filled up with -1, changed in place.
        order: Rows to insert, int32.
        seeds: Rows to start every search from, int32; at least one.
        alpha: See `robust_prune`.
        width: Width of the searches.
        stamps: Work space, int32 (M,).
        stamp: The first of ``len(order)`` values not in ``stamps``.
    """
    none, unlabelled = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
    rows, scores = np.empty(width, dtype=np.int32), np.empty(width, dtype=np.float32)
    near = np.empty(5 * width + links.shape[1] + 1, dtype=np.int32)
    fresh = np.empty(links.shape[1], dtype=np.int32)
    for number in range(len(order)):
        _insert(Links(links), points, unlabelled, none, links, order[number], seeds, alpha,
                stamps, stamp + number, rows, scores, near, fresh)  # fmt: skip


@compile_kernel(
    types.void,
    points_t,
    types.Array(i64, 1, "C", readonly=True),
    rows_t,
    out_links,
    rows_t,
    rows_t,
    f32,
    i64,
    out_rows,
    i64,
)
def insert_labelled(
    points: np.ndarray,
    offsets: np.ndarray,
    labels: np.ndarray,
    links: np.ndarray,
    order: np.ndarray,
    starts: np.ndarray,
    alpha: float,
    width: int,
    stamps: np.ndarray,
    stamp: int,
) -> None:
    """Insert rows as Filtered Vamana does: search among rows that share a label.

    Args:
        points: float32 (M, D).
        offsets: Row -> where its labels begin, int64 (M + 1,).
        labels: int32, ascending within a row.
        links: int32 (M, L) filled up with -1, changed in place.
        order: Rows to insert, int32, each with a label.
        starts: Label -> row that searches for it start from, int32.
        alpha: See `robust_prune`.
        width: Width of the searches.
        stamps: Work space, int32 (M,).
        stamp: The first of ``len(order)`` values not in ``stamps``.
    """
    rows, scores = np.empty(width, dtype=np.int32), np.empty(width, dtype=np.float32)
    near = np.empty(5 * width + links.shape[1] + 1, dtype=np.int32)
    fresh = np.empty(links.shape[1], dtype=np.int32)
    for number in range(len(order)):
        row = order[number]
        seeds = starts[labels[offsets[row] : offsets[row + 1]]]
        _insert(_Sharing(links, offsets, labels, row), points, offsets, labels, links, row, seeds,
                alpha, stamps, stamp + number, rows, scores, near, fresh)  # fmt: skip


@compile_kernel(
    types.void,
    points_t,
    types.Array(i64, 1, "C", readonly=True),
    rows_t,
    types.Array(i64, 1, "C", readonly=True),
    rows_t,
    f32,
    out_links,
)
def stitch(
    points: np.ndarray,
    offsets: np.ndarray,
    labels: np.ndarray,
    ends: np.ndarray,
    near: np.ndarray,
    alpha: float,
    links: np.ndarray,
) -> None:
    """Prune every row's links from several graphs to one list.

    Args:
        points: float32 (M, D).
        offsets: Row -> where its labels begin, int64 (M + 1,).
        labels: int32, ascending within a row.
        ends: Row -> where its links begin in ``near``, int64 (M + 1,).
        near: The links, int32.
        alpha: See `robust_prune`.
        links: int32 (M, L), written.
    """
    for row in range(len(links)):
        some = near[ends[row] : ends[row + 1]]
        robust_prune(points, offsets, labels, row, some, len(some), alpha, links[row])
