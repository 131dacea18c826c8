"""Rows grouped by their label sets, and the links between groups, as UNG has them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import types

from embedworks._core.kernels import compile_kernel
from embedworks._core.progress import track
from embedworks.index.filtered._beam import (
    Links,
    Scratch,
    _enter,
    beam,
    i64,
    links_t,
    out_links,
    out_rows,
    points_t,
    rows_t,
)
from embedworks.index.filtered._labels import Labels
from embedworks.index.filtered._linking import insert_plain

__all__ = ["Groups", "link_groups", "minimal_supersets"]


@dataclass(frozen=True, eq=False)
class Groups:
    """Rows by label set.

    Attributes:
        order: Rows by group, int32.
        ends: Group -> where its rows begin in ``order``, int64 (groups + 1,).
        parents: Of each edge of the label graph the smaller set's group, int32 (E,).
        children: Its minimal supersets' groups, int32 (E,).
    """

    order: np.ndarray
    ends: np.ndarray
    parents: np.ndarray
    children: np.ndarray

    @classmethod
    def of(cls, labels: Labels, rows: np.ndarray) -> Groups:
        """Group some rows, ascending, by their label sets."""
        sets: dict[bytes, int] = {}
        keys = [labels.labels[labels.offsets[row] : labels.offsets[row + 1]] for row in rows]
        number = np.array([sets.setdefault(key.tobytes(), len(sets)) for key in keys], np.int64)
        order = np.argsort(number, kind="stable")
        ends = np.searchsorted(number[order], np.arange(len(sets) + 1))
        members = [frozenset(np.frombuffer(key, np.int32).tolist()) for key in sets]
        edges = minimal_supersets(members)
        return cls(rows[order].astype(np.int32), ends.astype(np.int64), edges[:, 0], edges[:, 1])

    def __len__(self) -> int:
        return len(self.ends) - 1

    def rows(self, group: int) -> np.ndarray:
        """Return the rows of a group."""
        return self.order[self.ends[group] : self.ends[group + 1]]

    def entries(self, mask: np.ndarray) -> np.ndarray:
        """Return the groups that pass while no minimal subset's group does.

        All rows of a group must agree in ``mask``, uint8 (M,). Every group that passes is reached
        from these along the edges through groups that pass, or is one of them.
        """
        passing = mask[self.order[self.ends[:-1]]].view(bool)
        below = np.zeros(len(self), dtype=bool)
        below[self.children[passing[self.parents]]] = True
        return np.flatnonzero(passing & ~below)


def minimal_supersets(sets: list[frozenset[int]]) -> np.ndarray:
    """Return the pairs (a, b) where b is a superset of a with none between, int32 (E, 2).

    Example:
        >>> minimal_supersets([frozenset(), frozenset([1]), frozenset([1, 2])]).tolist()
        [[0, 1], [1, 2]]
    """
    having: dict[int, set[int]] = {}
    for number, labels in enumerate(sets):
        for label in labels:
            having.setdefault(label, set()).add(number)
    everything = set(range(len(sets)))
    pairs = []
    for number, labels in enumerate(sets):
        larger = set.intersection(*(having[label] for label in labels)) if labels else everything
        kept: list[int] = []
        for other in sorted(larger - {number}, key=lambda n: (len(sets[n]), n)):
            if not any(sets[one] <= sets[other] for one in kept):
                kept.append(other)
        pairs += [(number, other) for other in kept]
    return np.array(pairs, dtype=np.int32).reshape(-1, 2)


@compile_kernel(
    types.void,
    points_t,
    links_t,
    rows_t,
    rows_t,
    i64,
    out_rows,
    i64,
    out_links,
    types.float32[:, ::1],
)
def _cross(
    points: np.ndarray,
    links: np.ndarray,
    rows: np.ndarray,
    starts: np.ndarray,
    width: int,
    stamps: np.ndarray,
    stamp: int,
    near: np.ndarray,
    scores: np.ndarray,
) -> None:
    """Find the nearest rows of other groups for each of ``rows``.

    Args:
        points: float32 (M, D).
        links: A graph per group, int32 (M, L) filled up with -1.
        rows: Rows to search for, int32 (N,).
        starts: A row of each of the other groups, int32.
        width: Width of the searches.
        stamps: Work space, int32 (M,).
        stamp: The first of N values not in ``stamps``.
        near: Written: the nearest, int32 (N, C), filled up with -1.
        scores: Written: their dot products, float32 (N, C).
    """
    found, values = np.empty(width, dtype=np.int32), np.empty(width, dtype=np.float32)
    fresh, trail = np.empty(links.shape[1], dtype=np.int32), np.empty(0, dtype=np.int32)
    marks = np.empty(near.shape[1], dtype=np.uint8)
    for number in range(len(rows)):
        kept = 0
        for group in range(len(starts)):
            count, _, _ = beam(Links(links), points, points[rows[number]],
                               starts[group : group + 1], 2**62, stamps, stamp + number, found,
                               values, trail, fresh)  # fmt: skip
            for place in range(min(count, near.shape[1])):
                if kept < near.shape[1] or values[place] > scores[number, kept - 1]:
                    _enter(near[number], scores[number], marks, kept, values[place], found[place])
                    kept = min(kept + 1, near.shape[1])
        near[number, kept:] = -1


def link_groups(
    points: np.ndarray, groups: Groups, *, links: int, cross: int, width: int, alpha: float
) -> np.ndarray:
    """Build a graph in each group, and link each row to near rows of the minimal supersets.

    A group of at most ``links`` + 1 rows is linked completely. If none of the ``cross`` nearest
    of any row lies in one of the supersets, the nearest pairs are linked besides.

    Args:
        points: float32 (M, D).
        groups: The groups.
        links: Links per row inside its group, R of the paper.
        cross: Links per row to other groups, delta of the paper.
        width: Width of all searches, L of the paper.
        alpha: See `robust_prune`.

    Returns:
        int32 (M, links + 2 * cross), filled up with -1.
    """
    inner = np.full((len(points), links), -1, dtype=np.int32)
    outer = np.full((len(points), 2 * cross), -1, dtype=np.int32)
    scratch = Scratch(len(points))
    for first, last in track(list(pairwise(groups.ends)), "Linking"):
        rows = groups.order[first:last]
        if len(rows) <= links + 1:
            others = np.broadcast_to(rows, (len(rows), len(rows)))
            apart = others[~np.eye(len(rows), dtype=bool)].reshape(len(rows), -1)
            inner[rows, : len(rows) - 1] = apart
        else:
            insert_plain(points, inner, rows, rows[:1], alpha, width, *scratch.take(len(rows)))
    group_of = np.full(len(points), -1, dtype=np.int64)
    group_of[groups.order] = np.repeat(np.arange(len(groups)), np.diff(groups.ends))
    by_parent = np.argsort(groups.parents, kind="stable")
    edges = np.searchsorted(groups.parents[by_parent], np.arange(len(groups) + 1))
    for parent in track(np.unique(groups.parents).tolist(), "Crossing"):
        rows = groups.rows(parent)
        children = groups.children[by_parent[edges[parent] : edges[parent + 1]]]

        def nearest(some: np.ndarray, count: int, rows: np.ndarray = rows) -> tuple:
            near = np.empty((len(rows), count), dtype=np.int32)
            scores = np.empty((len(rows), count), dtype=np.float32)
            _cross(points, inner, rows, groups.order[groups.ends[some]], width,
                   *scratch.take(len(rows)), near, scores)  # fmt: skip
            return near, scores

        outer[rows, :cross] = nearest(children, cross)[0]
        reached = np.unique(group_of[outer[rows, :cross][outer[rows, :cross] >= 0]])
        for child in np.setdiff1d(children, reached):
            near, scores = nearest(np.array([child]), 1)
            room = (outer[rows] < 0).any(axis=1)
            for place in np.argsort(-np.where(room, scores[:, 0], -np.inf), kind="stable")[:cross]:
                free = np.flatnonzero(outer[rows[place]] < 0)
                if len(free):
                    outer[rows[place], free[0]] = near[place, 0]
    return _packed(np.hstack([inner, outer]))


def _packed(links: np.ndarray) -> np.ndarray:
    """Move what fills rows up to their ends."""
    order = np.argsort(links < 0, axis=1, kind="stable")
    return np.ascontiguousarray(np.take_along_axis(links, order, axis=1))
