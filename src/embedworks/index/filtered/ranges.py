"""Indexes for ranges of one column: rows in its order, and links chosen for each range."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pyarrow as pa

from embedworks._core.progress import track
from embedworks._core.validation import check_choice, check_in_range
from embedworks.errors import InputError
from embedworks.index._attribute_columns import SetColumn
from embedworks.index.attributes import AttributeTable
from embedworks.index.filtered._beam import Scratch, in_parts, on_sphere
from embedworks.index.filtered._linking import insert_plain
from embedworks.index.filtered._ready import Ready
from embedworks.index.filtered._segments import link_segments, walk_segments, walk_tree
from embedworks.index.filtered._walked import WalkedIndex, check_numbers
from embedworks.index.filtered._walks import guard

__all__ = ["RangeTreeIndex", "SegmentGraphIndex"]

_STARTS = 8  # evenly spaced ranks from which a segment graph is walked


class _RangeIndex(WalkedIndex):
    """A structure over ranks; a filter is a range of them."""

    def __init__(self, order: np.ndarray, *, column: str, **common: Any) -> None:
        self.column, self._order = column, order
        self.serves = (
            f"ranges of column {column!r}: =, <, <=, >, >=, BETWEEN, IS NULL, and AND of them"
        )
        super().__init__(**common)

    def _structured(self, vectors: np.ndarray) -> np.ndarray:
        return vectors[self._order]

    def _renew(self) -> None:
        super()._renew()
        column: Any = self.table.column(self.column)
        #: Place in the column's order -> how many built rows lie before it.
        self._before = np.concatenate([[0], np.cumsum(column.order < self.built)])

    def _route(self, ready: Ready) -> tuple[int, int]:
        """Return the range ``[start, end)`` of built ranks that pass."""
        if ready.compiled is None:
            return 0, self.built
        run = ready.compiled.run
        if run is None or run[0] != self.column:
            if ready.compiled.cardinality().maximum == 0:
                return 0, 0
            raise self._refuse(ready.condition)
        return int(self._before[run[1]]), int(self._before[run[2]])

    @classmethod
    def _ordered(
        cls, vectors: np.ndarray, attributes: pa.Table, similarity: str, column: str
    ) -> tuple[dict[str, Any], np.ndarray]:
        """Return the common arguments of an index, and its points by rank."""
        stored, table = cls._prepare(vectors, attributes, similarity)
        order = _order(table, column)
        common = {"vectors": stored, "table": table, "similarity": similarity, "order": order,
                  "inside": np.ones(len(stored), dtype=np.uint8), "column": column}  # fmt: skip
        return common, on_sphere(stored[order], similarity)


def _order(table: AttributeTable, name: str) -> np.ndarray:
    check_choice(name, table.table.column_names, name="column")
    column = table.column(name)
    if isinstance(column, SetColumn):
        raise InputError(f"Column {name!r} holds sets, which have no order.")
    return column.order


def _check_numbers(links: int, ef_construction: int) -> None:
    check_in_range(links, name="links", low=2)
    check_in_range(ef_construction, name="ef_construction", low=1)


class SegmentGraphIndex(_RangeIndex):
    """One graph whose links hold for some ranges each.

    Each row has neighbours below it for every lower end of a range, chosen by the rule of HNSW
    among the candidates in range, and neighbours above it for every upper end; equal choices
    are stored once, with the ends for which they hold. A walk under a range follows the links
    that hold for it: there is no filter left to test.

    After SeRF (Zuo et al., SIGMOD 2024) and ARKGraph (VLDB 2023). Differs from SeRF: candidates
    come from one wide search of a graph of all rows rather than from insertion in order, which
    serves both ends alike and needs no unpruned reverse links; the next ranks are candidates
    too, so the rows of any range are connected.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> vectors = rng.normal(size=(500, 16)).astype(np.float32)
        >>> rows = pa.table({"year": rng.integers(1900, 2000, 500)})
        >>> index = SegmentGraphIndex.build(vectors, rows, column="year", exact_below=50)
        >>> index.search(vectors[:1], 3, where="year >= 1950 AND year < 1980").plans
        ['segments']
    """

    FORMAT = "segment-graph"
    WALK = "segments"

    def __init__(
        self, offsets: np.ndarray, targets: np.ndarray, lows: np.ndarray, highs: np.ndarray,
        **common: Any,
    ) -> None:  # fmt: skip
        self._segments = offsets, targets, lows, highs
        self._most = int(np.diff(offsets).max(initial=0))
        super().__init__(**common)

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        attributes: pa.Table,
        *,
        column: str,
        similarity: str = "cosine",
        links: int = 16,
        ef_construction: int = 100,
        candidates: int = 500,
        leap: float = 0.5,
        exact_below: int = 1000,
        ef: int = 64,
        seed: int = 0,
    ) -> Self:
        """Build an index.

        Args:
            vectors: Array of shape (M, D).
            attributes: Arrow table of M rows.
            column: The column of single values whose ranges are filters.
            similarity: ``"cosine"`` or ``"dot"``.
            links: At most so many neighbours on each side of a row for one range.
            ef_construction: Width of the searches when the graph of all rows is built.
            candidates: ef_max of SeRF: how many near rows a row's neighbours are chosen from.
            leap: When neighbours are chosen anew as a range shrinks: 0 as soon as one of them is
                out of range (nothing is approximated), 1 when all are (SeRF's MaxLeap).
            exact_below: Up to so many matching rows are scanned instead.
            ef: Width of a search that gives none.
            seed: Seed of the order in which rows are inserted.

        Raises:
            UnknownNameError: When there is no such column.
            ShapeError: When vectors and attributes differ in number.
            NonFiniteError: When a vector contains NaN or infinity.
            InputError: When a number is out of range, or the column holds sets.
        """
        common, points = cls._ordered(vectors, attributes, similarity, column)
        _check_numbers(links, ef_construction)
        check_in_range(candidates, name="candidates", low=1)
        check_in_range(leap, name="leap", low=0, high=1)
        graph = np.full((len(points), 2 * links), -1, dtype=np.int32)
        order = np.random.default_rng(seed).permutation(len(points)).astype(np.int32)
        scratch = Scratch(len(points))
        for part in in_parts(len(points), "Linking"):
            insert_plain(points, graph, order[part], order[:1], 1.2, ef_construction,
                         *scratch.take(part.stop - part.start))  # fmt: skip
        made = [
            link_segments(points, graph, part.start, part.stop, links, candidates, links, leap)
            for part in in_parts(len(points), "Choosing")
        ] or [link_segments(points, graph, 0, 0, links, candidates, links, leap)]
        counts, *arrays = (np.concatenate(pieces) for pieces in zip(*made, strict=True))
        return cls(np.concatenate([[0], np.cumsum(counts)]), *arrays, exact_below=exact_below,
                   ef=ef, **common)  # fmt: skip

    def _walk(self, point: np.ndarray, k: int, ef: int, ready: Ready) -> np.ndarray | None:
        (start, end), scratch = ready.route, self._scratch
        seeds = np.unique(np.linspace(start, end - 1, _STARTS).astype(np.int32))
        rows, scores = np.empty(ef, dtype=np.int32), np.empty(ef, dtype=np.float32)
        count, _ = walk_segments(
            self._points, point, *self._segments, self._most, start, end - 1, seeds,
            guard(ef, self._most, end - start), *scratch.take(), rows, scores,
        )  # fmt: skip
        return None if count < 0 else self._order[rows[:count]]

    def _parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays = dict(zip(("offsets", "targets", "lows", "highs"), self._segments, strict=True))
        return {"column": self.column}, {"order": self._order, **arrays}

    @classmethod
    def _from_parts(
        cls, settings: dict[str, Any], arrays: dict[str, np.ndarray], common: dict[str, Any]
    ) -> Self:
        offsets, built = arrays["offsets"], common["built"]
        total = len(arrays["targets"])
        check_numbers("order", arrays["order"], below=built, rows=built)
        check_numbers("targets", arrays["targets"], below=built)
        for name in ("lows", "highs"):
            check_numbers(name, arrays[name], below=built, rows=total)
        if (
            offsets.dtype != np.int64 or offsets.shape != (built + 1,)
            or offsets[0] or offsets[-1] != total or (np.diff(offsets) < 0).any()
        ):  # fmt: skip
            raise ValueError("offsets do not fit the links")
        return cls(**arrays, **settings, **common)


class RangeTreeIndex(_RangeIndex):
    """A binary tree of graphs over the order of a column, put together under a range.

    After iRangeGraph (Xu et al. 2024, arXiv 2409.02571): every segment of the tree has a graph;
    the links a walk follows from a row are those of the segments that the range cuts, from the
    widest down to the first that lies inside it. The lowest level are segments of about
    ``2 * links`` rows; those that a range cuts there are scored outright.

    Each row has ``links`` entries per level, so memory grows with the logarithm of the rows; it
    is built in about a third of the time of `SegmentGraphIndex`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> vectors = rng.normal(size=(500, 16)).astype(np.float32)
        >>> rows = pa.table({"year": rng.integers(1900, 2000, 500)})
        >>> index = RangeTreeIndex.build(vectors, rows, column="year", exact_below=50)
        >>> index.search(vectors[:1], 3, where="year BETWEEN 1950 AND 1980").plans
        ['range-tree']
    """

    FORMAT = "range-tree"
    WALK = "range-tree"

    def __init__(self, levels: np.ndarray, **common: Any) -> None:
        self._levels = levels
        super().__init__(**common)

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        attributes: pa.Table,
        *,
        column: str,
        similarity: str = "cosine",
        links: int = 16,
        ef_construction: int = 100,
        exact_below: int = 1000,
        ef: int = 64,
        seed: int = 0,
    ) -> Self:
        """Build an index.

        Args:
            vectors: Array of shape (M, D).
            attributes: Arrow table of M rows.
            column: The column of single values whose ranges are filters.
            similarity: ``"cosine"`` or ``"dot"``.
            links: M of the paper: links per row in the graph of a segment.
            ef_construction: Width of the searches for neighbours.
            exact_below: Up to so many matching rows are scanned instead.
            ef: Width of a search that gives none.
            seed: Seed of the starts of those searches.

        Raises:
            UnknownNameError: When there is no such column.
            ShapeError: When vectors and attributes differ in number.
            NonFiniteError: When a vector contains NaN or infinity.
            InputError: When a number is out of range, or the column holds sets.
        """
        common, points = cls._ordered(vectors, attributes, similarity, column)
        _check_numbers(links, ef_construction)
        levels = _build_tree(points, links, ef_construction, seed)
        return cls(levels, exact_below=exact_below, ef=ef, **common)

    def _walk(self, point: np.ndarray, k: int, ef: int, ready: Ready) -> np.ndarray | None:
        (start, end), scratch = ready.route, self._scratch
        seeds = np.array(_covering(self.built, len(self._levels), start, end), dtype=np.int32)
        rows, scores = np.empty(ef, dtype=np.int32), np.empty(ef, dtype=np.float32)
        _, _, links = self._levels.shape
        count, _ = walk_tree(
            self._points, point, self._levels, start, end, links, seeds,
            guard(ef, 2 * links, end - start), *scratch.take(), rows, scores,
        )  # fmt: skip
        return None if count < 0 else self._order[rows[:count]]

    def _parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {"column": self.column}, {"order": self._order, "levels": self._levels}

    @classmethod
    def _from_parts(
        cls, settings: dict[str, Any], arrays: dict[str, np.ndarray], common: dict[str, Any]
    ) -> Self:
        built = common["built"]
        check_numbers("order", arrays["order"], below=built, rows=built)
        levels = check_numbers("levels", arrays["levels"], below=built, least=-1, dim=3)
        if levels.shape[1] != built or not len(levels):
            raise ValueError(f"levels have shape {levels.shape}")
        return cls(**arrays, **settings, **common)


def _build_tree(points: np.ndarray, links: int, width: int, seed: int) -> np.ndarray:
    """Return the links of every level, int32 (levels, M, links), the whole first.

    A parent starts as its children; each row of the second child then searches the first, so
    far as it has grown, and is linked both ways.
    """
    total, rng = len(points), np.random.default_rng(seed)
    depth = max(1, int(np.ceil(np.log2(max(1, total) / (2 * links)))) + 1)
    levels = np.full((depth, total, links), -1, dtype=np.int32)
    scratch = Scratch(total)
    for level in track(range(depth - 1, -1, -1), "Linking"):
        lowest = level == depth - 1
        if not lowest:
            levels[level] = levels[level + 1]
        for start, end in _segments(total, level):
            middle = start if lowest else (start + end) // 2
            order = np.arange(middle, end, dtype=np.int32)
            there = rng.integers(start, max(middle, start + 1), 3).astype(np.int32)
            insert_plain(points, levels[level], order, there, 1.0, width,
                         *scratch.take(len(order)))  # fmt: skip
    return levels


def _segments(total: int, level: int) -> list[tuple[int, int]]:
    """Return the segments of a level of the tree over ``total`` ranks."""
    found = [(0, total)]
    for _ in range(level):
        halves = [((a, (a + b) // 2), ((a + b) // 2, b)) for a, b in found]
        found = [half for pair in halves for half in pair]
    return [(a, b) for a, b in found if a < b]


def _covering(total: int, depth: int, start: int, end: int) -> list[int]:
    """Return ranks to start from: one in each segment that covers the range without rest.

    Segments of the lowest level that the range cuts give all their ranks inside it.
    """
    found: list[int] = []
    waiting = [(0, total, depth - 1)]
    while waiting:
        a, b, below = waiting.pop()
        if start <= a and b <= end:
            found.append((a + b) // 2)
        elif max(a, start) < min(b, end):
            if below:
                middle = (a + b) // 2
                waiting += [(a, middle, below - 1), (middle, b, below - 1)]
            else:
                found += range(max(a, start), min(b, end))
    return found
