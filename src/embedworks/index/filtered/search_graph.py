"""Search over a graph by the codes of its lists: among all rows, or steered by a filter."""

from __future__ import annotations

import threading

import numpy as np

from embedworks.index.filtered._beam import Scratch
from embedworks.index.filtered._filter_walk import walk_filtered
from embedworks.index.filtered._search_graph import nearest, nearest_each
from embedworks.index.filtered.graph import Graph
from embedworks.index.filtered.lists import InvertedLists

__all__ = ["SearchGraph", "kept"]

_SPARE = 4  # rows scored exactly beyond 2 k: codes may misplace some


def kept(k: int) -> int:
    """Return how many rows found by codes are scored exactly, for k results.

    Example:
        >>> kept(10)
        24
    """
    return 2 * k + _SPARE


class SearchGraph:
    """A graph with the inverted lists in whose order its rows are.

    A walk starts at the best of one row per list, where HNSW has levels above, and compares the
    codes that the lists hold already; only the rows it ends with are read in full. What is kept
    besides graph and lists are those rows to start from: nothing is saved.

    The rows of a beam are about the best of all rows, so those of them that pass a filter are
    about the best that pass: where many rows pass, `near` and a filter of its few rows are all a
    filtered search needs, as long as at least k of them are left.

    Args:
        graph: Graph over M rows.
        lists: The lists it was built from.

    Raises:
        ValueError: When graph and lists have different rows.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> vectors = rng.normal(size=(500, 16)).astype(np.float32)
        >>> lists = InvertedLists.build(vectors, similarity="dot")
        >>> search = SearchGraph(Graph.build(lists), lists)
        >>> rows, scores, counts = search.search(vectors, vectors[:2], 3, ef=50)
        >>> rows.shape, counts.tolist()
        ((2, 3), [3, 3])
    """

    def __init__(self, graph: Graph, lists: InvertedLists) -> None:
        if len(graph) != len(lists.order) or len(graph) == 0:
            raise ValueError(f"a graph of {len(graph)} rows and lists of {len(lists.order)}")
        self.graph, self.lists = graph, lists
        self.entries = lists.middles()
        self.entry_codes = lists.codes[self.entries]
        self.most = int(np.diff(graph.starts).max())
        self._arrays = (lists.codes, lists.scales, lists.order, graph.starts, graph.links,
                        self.entries, self.entry_codes, self.most)  # fmt: skip
        self._local = threading.local()

    def __len__(self) -> int:
        return len(self.graph)

    def near(self, query: np.ndarray, ef: int) -> tuple[np.ndarray, np.ndarray]:
        """Return about the best ``ef`` of all rows, best first, removed ones included.

        Args:
            query: float32 (D,).
            ef: Width of the beam, at least 1.

        Returns:
            ``(rows, scores)``, int32 and float32; the scores come from codes and are right up to
            a factor that depends on the query alone.
        """
        rows, scores = np.empty(ef, dtype=np.int32), np.empty(ef, dtype=np.float32)
        count = nearest(*self._arrays, query, *self._scratch().take(), rows, scores)
        return rows[:count], scores[:count]

    def passing(
        self,
        query: np.ndarray,
        mask: np.ndarray,
        ef: int,
        *,
        seeds: np.ndarray,
        two_hop: bool,
        matching: int,
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return about the best ``ef`` rows that pass, in the order of a heap.

        Args:
            query: float32 (D,).
            mask: 1 for rows that pass, uint8 (M',); the first M of them are the graph's rows.
            ef: Room for results, at least 1.
            seeds: Passing rows to start from besides, int32.
            two_hop: Whether to walk passing rows only, and look through the others at their
                neighbours (ACORN-1, arXiv 2403.04871); else all rows are walked.
            matching: How many of the graph's rows pass.

        Returns:
            ``(rows, scores)`` as `near` does; None when scoring all rows that pass is cheaper
            than going on. Far fewer than ``ef`` means that the walk was cut off from the others.
        """
        rows, scores = np.empty(ef, dtype=np.int32), np.empty(ef, dtype=np.float32)
        limit = max(4 * ef * self.most, matching + matching // 2)
        count, _ = walk_filtered(*self._arrays, query, mask, self.lists.places[seeds],
                                 int(two_hop), limit, *self._scratch().take(), rows,
                                 scores)  # fmt: skip
        return None if count < 0 else (rows[:count], scores[:count])

    def search(
        self,
        vectors: np.ndarray,
        queries: np.ndarray,
        k: int,
        *,
        ef: int,
        alive: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the best rows that are alive for many queries, with their exact scores.

        Args:
            vectors: float32 (M', D); the first M of them are the graph's rows.
            queries: float32 (Q, D), prepared as the vectors were.
            k: Results wanted, at least 1.
            ef: Width of the beam; at least ``2 k + 4`` is used.
            alive: 1 for rows that may be results, uint8 (M',); None for all.

        Returns:
            ``(rows, scores, counts)``: int64 (Q, k), float32 (Q, k) and int64 (Q,). Only the
            first ``counts[q]`` of a line are filled. They are fewer than k when the beam held
            fewer rows that are alive: the caller then searches wider, or scans.
        """
        keep = kept(k)
        best = np.empty((len(queries), k), dtype=np.int64)
        scores = np.empty((len(queries), k), dtype=np.float32)
        counts = np.empty(len(queries), dtype=np.int64)
        if alive is None:
            alive = np.ones(len(vectors), dtype=np.uint8)
        stamps, stamp = self._scratch().take(max(1, len(queries)))
        nearest_each(*self._arrays, vectors, queries, alive, max(ef, keep), keep, stamps, stamp,
                     best, scores, counts)  # fmt: skip
        return best, scores, counts

    def nbytes(self) -> int:
        """Return the bytes held beside graph and lists."""
        return int(self.entries.nbytes + self.entry_codes.nbytes)

    def _scratch(self) -> Scratch:
        """Return this thread's work space."""
        scratch: Scratch | None = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = Scratch(len(self))
        return scratch
