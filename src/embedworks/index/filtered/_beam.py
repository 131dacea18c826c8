"""One beam search over graphs of rows, for every filtered graph, at search and while building.

What differs between the graphs is only which neighbours a row has under a filter. A graph is a
named tuple of arrays, and `neighbours` names the function that reads it: it writes the
neighbours not seen yet to ``fresh``, stamps them and returns their number. A new graph is such a
tuple, such a function and a kernel of one call.

Points lie on a sphere (see `on_sphere`), so the largest dot product is the smallest distance.
The beam is one list of the best rows, best first, each with a mark that says whether its
neighbours were looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import overload

from embedworks._core.progress import progress
from embedworks.index.filtered._kernels import _dot

__all__ = ["Links", "PassingLinks", "Scratch", "beam", "in_parts", "neighbours", "on_sphere"]

_PART = 2000  # rows between two movements of a progress bar

# Types of arrays in signatures; what is only read may be a read-only view.
i64, f32 = types.int64, types.float32
points_t = types.Array(f32, 2, "C", readonly=True)
point_t = types.Array(f32, 1, "C", readonly=True)
rows_t = types.Array(types.int32, 1, "C", readonly=True)
links_t = types.Array(types.int32, 2, "C", readonly=True)
mask_t = types.Array(types.uint8, 1, "C", readonly=True)
out_rows, out_scores, out_marks = types.int32[::1], types.float32[::1], types.uint8[::1]
out_links = types.int32[:, ::1]


def on_sphere(vectors: np.ndarray, similarity: str) -> np.ndarray:
    """Return float32 points (M, D') whose squared distances order rows as the similarity does.

    Unit vectors are such points. For the dot product one coordinate is added that gives all the
    same length (Bachrach et al. 2014); a query gets a zero there.

    Example:
        >>> points = on_sphere(np.array([[3.0, 4.0], [0.0, 1.0]], np.float32), "dot")
        >>> points.shape, np.linalg.norm(points, axis=1).tolist()
        ((2, 3), [5.0, 5.0])
    """
    if similarity == "cosine":
        return vectors
    squares = np.einsum("md,md->m", vectors, vectors, dtype=np.float64)
    rest = np.sqrt(np.maximum(0.0, squares.max(initial=0.0) - squares))
    return np.hstack([vectors, rest[:, None]]).astype(np.float32)


class Scratch:
    """Work space of beam searches over M rows; one thread at a time may use it."""

    def __init__(self, size: int) -> None:
        self.stamps, self._stamp = np.zeros(size, dtype=np.int32), 0

    def take(self, count: int = 1) -> tuple[np.ndarray, int]:
        """Return ``(stamps, stamp)``: the array and the first of ``count`` values not in it."""
        if self._stamp > 2**31 - 2 - count:
            self.stamps[:], self._stamp = 0, 0
        first = self._stamp + 1
        self._stamp += count
        return self.stamps, first


def in_parts(count: int, description: str) -> Iterator[slice]:
    """Yield slices that cover ``count`` rows while a bar counts them.

    Example:
        >>> [(part.start, part.stop) for part in in_parts(3000, "Linking")]
        [(0, 2000), (2000, 3000)]
    """
    with progress(description, total=count) as bar:
        for start in range(0, count, _PART):
            part = slice(start, min(count, start + _PART))
            yield part
            bar.advance(part.stop - start)


_RULES: dict[type, Callable] = {}


def neighbours(kind: type) -> Callable[[Callable], Callable]:
    """Register how a graph, a named tuple, is read: ``f(graph, row, stamps, stamp, fresh)``."""

    def register(function: Callable) -> Callable:
        _RULES[kind] = function
        return function

    return register


def _gather(graph: Any, row: int, stamps: np.ndarray, stamp: int, fresh: np.ndarray) -> int:
    raise NotImplementedError("Only for kernels.")


@overload(_gather)
def _rule(graph: Any, row: Any, stamps: Any, stamp: Any, fresh: Any) -> Callable | None:
    return _RULES.get(getattr(graph, "instance_class", type(None)))


class Links(NamedTuple):
    """A graph without a filter: neighbours, int32 (M, L) filled up with -1."""

    links: np.ndarray


class PassingLinks(NamedTuple):
    """A graph of which only rows that pass are walked: neighbours, and a mask, uint8 (M,)."""

    links: np.ndarray
    mask: np.ndarray


@njit
def _enter(rows: Any, scores: Any, marks: Any, count: Any, score: Any, row: Any) -> Any:
    """Insert a row into the beam, dropping the worst if it is full; returns its place."""
    place = count if count < len(rows) else count - 1
    while place > 0 and scores[place - 1] < score:
        rows[place], scores[place] = rows[place - 1], scores[place - 1]
        marks[place] = marks[place - 1]
        place -= 1
    rows[place], scores[place], marks[place] = row, score, 0
    return place


@njit
def beam(
    graph: Any,
    points: Any,
    query: Any,
    seeds: Any,
    limit: Any,
    stamps: Any,
    stamp: Any,
    rows: Any,
    scores: Any,
    trail: Any,
    fresh: Any,
) -> Any:
    """Search from ``seeds``; the best rows are left in ``rows, scores``, best first.

    Args:
        graph: A named tuple that `neighbours` knows.
        points: float32 (M, D).
        query: float32 (D,).
        seeds: Rows to start from, int32.
        limit: Number of distances after which to give up.
        stamps: int32 (M,): rows seen hold ``stamp``.
        stamp: A value not yet in ``stamps``.
        rows: int32 (ef,), written.
        scores: float32 (ef,), written.
        trail: int32; the first ``len(trail)`` rows whose neighbours were looked at are written.
        fresh: int32, room for all neighbours of a row.

    Returns:
        ``(count, distances, steps)``: rows found, distances computed, and rows whose neighbours
        were looked at; count is -1 when the limit was reached.
    """
    marks = np.empty(len(rows), dtype=np.uint8)
    count, distances, steps = 0, 0, 0
    for row in seeds:
        if stamps[row] != stamp:
            stamps[row] = stamp
            score = _dot(points[row], query)
            distances += 1
            if count < len(rows) or score > scores[count - 1]:
                _enter(rows, scores, marks, count, score, row)
                count = min(count + 1, len(rows))
    place = 0
    while place < count:
        if marks[place]:
            place += 1
            continue
        marks[place] = 1
        if steps < len(trail):
            trail[steps] = rows[place]
        steps += 1
        found = _gather(graph, rows[place], stamps, stamp, fresh)
        distances += found
        if distances > limit:
            return -1, distances, steps
        after = place + 1
        for number in range(found):
            row = fresh[number]
            score = _dot(points[row], query)
            if count < len(rows) or score > scores[count - 1]:
                after = min(after, _enter(rows, scores, marks, count, score, row))
                count = min(count + 1, len(rows))
        place = after
    return count, distances, steps


@neighbours(Links)
def _all(graph: Any, row: Any, stamps: Any, stamp: Any, fresh: Any) -> Any:
    found = 0
    for other in graph.links[row]:
        if other < 0:
            break
        if stamps[other] != stamp:
            stamps[other] = stamp
            fresh[found] = other
            found += 1
    return found


@neighbours(PassingLinks)
def _passing(graph: Any, row: Any, stamps: Any, stamp: Any, fresh: Any) -> Any:
    found = 0
    for other in graph.links[row]:
        if other < 0:
            break
        if graph.mask[other] and stamps[other] != stamp:
            stamps[other] = stamp
            fresh[found] = other
            found += 1
    return found
