"""ACORN: one graph for every filter, so dense that the rows that pass form a graph of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa

from embedworks._core.validation import check_in_range
from embedworks.index.filtered import _acorn as kernels
from embedworks.index.filtered._beam import Scratch, in_parts, on_sphere
from embedworks.index.filtered._ready import Ready
from embedworks.index.filtered._walked import WalkedIndex, check_numbers
from embedworks.index.filtered._walks import guard

__all__ = ["AcornIndex"]

_TOP = 128  # rows up to which the highest level is scanned rather than walked
_SEEDS = 12  # passing rows a walk starts from besides the one found from above
_ENTRY_WIDTH = 8


@dataclass(frozen=True, eq=False)
class DenseGraph:
    """The levels of an ACORN graph over M rows.

    Level l holds the first ``M / links**l`` rows of ``order``; the highest is scanned.

    Attributes:
        order: Rows in the order in which they were inserted, int32 (M,).
        links: Lists of the lowest level, int32 (M, L), row numbers, filled up with -1.
        upper: Lists of the levels above, the lowest first, as places in ``order``.
        top: How many rows the highest level has.
    """

    order: np.ndarray
    links: np.ndarray
    upper: tuple[np.ndarray, ...]
    top: int

    @classmethod
    def build(
        cls,
        points: np.ndarray,
        *,
        links: int,
        gamma: int,
        direct: int,
        ef_construction: int,
        seed: int,
    ) -> DenseGraph:
        """Build the graph of points on a sphere (M, D); see `AcornIndex.build`."""
        order = np.random.default_rng(seed).permutation(len(points)).astype(np.int32)
        sizes = [len(points)]
        while sizes[-1] > _TOP:
            sizes.append(max(1, sizes[-1] // links))
        limit, top = links * gamma, sizes[-1]
        room = direct + (3 * links // 2 if gamma > 1 else 0)
        high = points[order[: sizes[1] if len(sizes) > 1 else top]]
        upper: list[np.ndarray] = []
        for level in range(max(0, len(sizes) - 2), -1, -1):
            size = sizes[level]
            members = order if level == 0 else np.arange(size, dtype=np.int32)
            there = points if level == 0 else high[:size]
            seeds = np.tile(np.arange(top, dtype=np.int32), (size, 1))
            for above in reversed(upper):
                found = np.empty((size, _ENTRY_WIDTH // 2), dtype=np.int32)
                lower = high[: len(above)]
                kernels.find_seeds(lower, above, there[members], seeds, links, found)
                seeds = found
            if level == 0:
                seeds = np.where(seeds >= 0, order[seeds], np.int32(-1))
            whole = limit if level else direct
            made = np.full((size, limit if level else room), -1, dtype=np.int32)
            scratch, seen = Scratch(size), Scratch(size)
            for part in in_parts(size, "Linking"):
                count = part.stop - part.start
                kernels.insert_dense(
                    there, made, members[part], seeds[part], links, whole, limit,
                    max(ef_construction, limit), *scratch.take(count),
                    *seen.take(count * (made.shape[1] + 1)),
                )  # fmt: skip
            if level:
                upper.insert(0, made)
        return cls(order, made, tuple(upper), top)


class AcornIndex(WalkedIndex):
    """A graph that serves every filter (Patel et al., SIGMOD 2024, arXiv 2403.04871).

    Each row keeps about ``gamma`` times as many links as in HNSW, so that of any part of the
    rows that is larger than ``1 / gamma`` enough links lead to rows of that part: the walk
    visits rows that pass and no others. A part that is smaller is scanned exactly.

    With ``gamma=1`` this is ACORN-1: plain lists, and a walk that looks through rows that fail
    at their neighbours. (The plan ``"two-hop"`` of `FilteredIndex` is the same walk over an HNSW
    graph that faiss pruned.)

    Differs from the paper: levels are drawn as prefixes of one random order and are built from
    the highest down, the highest is scanned; the walk also starts at random rows that pass,
    which rescues parts of the graph that are cut off; of the entries from ``direct`` on only
    rows that fail are looked through, as the others are walked to.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> vectors = rng.normal(size=(500, 16)).astype(np.float32)
        >>> rows = pa.table({"year": [2000 + i % 20 for i in range(500)]})
        >>> index = AcornIndex.build(vectors, rows, links=8, gamma=4, direct=16)
        >>> index.search(vectors[:1], 3, where="year < 2010").plans
        ['acorn']
        >>> print(index.explain(3, where="year = 2010"))
        25 of 500 rows match
        filter: year = 2010
        -> exact: at most 125 rows are scanned
    """

    FORMAT = "acorn"
    WALK = "acorn"
    serves = "every filter"

    def __init__(
        self, graph: DenseGraph, *, links: int, gamma: int, direct: int, **common: Any
    ) -> None:
        self._graph, self.links, self.gamma, self.direct = graph, links, gamma, direct
        super().__init__(**common)
        self._high = self._points[graph.order[: len(graph.upper[0]) if graph.upper else graph.top]]

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        attributes: pa.Table,
        *,
        similarity: str = "cosine",
        links: int = 32,
        gamma: int = 12,
        direct: int | None = None,
        ef_construction: int = 40,
        ef: int = 64,
        seed: int = 0,
    ) -> Self:
        """Build an index.

        Args:
            vectors: Array of shape (M, D).
            attributes: Arrow table of M rows.
            similarity: ``"cosine"`` or ``"dot"``.
            links: M of the paper: neighbours a walk takes at least, and links of a plain graph.
            gamma: How much denser the lists are; 1 is ACORN-1. Choose one over the smallest
                share of rows that filters leave, for smaller ones are scanned.
            direct: M_beta of the paper: how many entries of a list are kept without looking
                whether two steps reach them; ``2 * links`` by default.
            ef_construction: Width of the searches for neighbours, at least ``links * gamma``.
            ef: Width of a search that gives none.
            seed: Seed of the order in which rows are inserted.

        Raises:
            ShapeError: When vectors and attributes differ in number.
            NonFiniteError: When a vector contains NaN or infinity.
            InputError: When a number is out of range.
        """
        stored, table = cls._prepare(vectors, attributes, similarity)
        check_in_range(links, name="links", low=2)
        check_in_range(gamma, name="gamma", low=1)
        direct = int(check_in_range(direct or 2 * links, name="direct", low=1))
        graph = DenseGraph.build(
            on_sphere(stored, similarity), links=links, gamma=gamma, direct=direct,
            ef_construction=ef_construction, seed=seed,
        )  # fmt: skip
        density = gamma if gamma > 1 else links
        return cls(
            graph, links=links, gamma=gamma, direct=direct, vectors=stored, table=table,
            similarity=similarity, inside=np.ones(len(stored), dtype=np.uint8),
            exact_below=len(stored) // density, ef=ef,
        )  # fmt: skip

    def _route(self, ready: Ready) -> None:
        """Every filter is served."""

    def _walk(self, point: np.ndarray, k: int, ef: int, ready: Ready) -> np.ndarray | None:
        graph, scratch, cap = self._graph, self._scratch, 2 * self.links
        passing = ready.mask[graph.order[: len(self._high)]]
        among = np.flatnonzero(passing).astype(np.int32)
        seeds = among[: np.searchsorted(among, graph.top)]
        rows, scores = np.empty(_ENTRY_WIDTH, np.int32), np.empty(_ENTRY_WIDTH, np.float32)
        for links in reversed(graph.upper):
            size, width = links.shape
            started = np.concatenate([seeds, among[: min(_SEEDS, np.searchsorted(among, size))]])
            small = Scratch(size)
            count, _ = kernels.walk_dense(
                self._high[:size], point, links, passing[:size], width, cap, started,
                guard(ef, cap, 0), *small.take(), rows, scores,
            )  # fmt: skip
            seeds = rows[: max(0, count)].copy()
        started = graph.order[np.concatenate([seeds, among[:_SEEDS]])]
        if len(among) < _SEEDS:
            started = np.concatenate([started, ready.rows[ready.rows < self.built][:_SEEDS]])
        rows, scores = np.empty(ef, dtype=np.int32), np.empty(ef, dtype=np.float32)
        direct = self.direct if self.gamma > 1 else 0
        count, _ = kernels.walk_dense(
            self._points, point, graph.links, ready.mask, direct, cap, started,
            guard(ef, cap, ready.count), *scratch.take(), rows, scores,
        )  # fmt: skip
        return None if count < 0 else rows[:count]

    def _parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        settings = {"links": self.links, "gamma": self.gamma, "direct": self.direct,
                    "top": self._graph.top, "levels": len(self._graph.upper)}  # fmt: skip
        upper = {f"upper_{number}": links for number, links in enumerate(self._graph.upper)}
        return settings, {"order": self._graph.order, "links": self._graph.links, **upper}

    @classmethod
    def _from_parts(
        cls, settings: dict[str, Any], arrays: dict[str, np.ndarray], common: dict[str, Any]
    ) -> Self:
        built, sizes = common["built"], [int(settings.pop("top"))]
        upper: list[np.ndarray] = []
        for number in reversed(range(settings.pop("levels"))):
            links = arrays[f"upper_{number}"]
            upper.insert(0, check_numbers("upper", links, below=len(links), least=-1, dim=2))
            sizes.append(len(links))
        if sorted([*sizes, built]) != [*sizes, built]:
            raise ValueError(f"levels have {sizes} rows of {built}")
        graph = DenseGraph(
            check_numbers("order", arrays["order"], below=built, rows=built),
            check_numbers("links", arrays["links"], below=built, least=-1, dim=2, rows=built),
            tuple(upper),
            sizes[0],
        )
        return cls(graph, **settings, **common)
