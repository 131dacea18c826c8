"""A graph laid out for search over all rows: near rows near in memory, compared by int8 codes."""

from __future__ import annotations

import threading

import numpy as np

from embedworks.index.filtered._beam import Scratch
from embedworks.index.filtered._search_graph import lay_out, nearest, nearest_each
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
    """The lowest level of an HNSW graph in the order of inverted lists.

    A walk starts at the best of one row per list, in place of the graph's upper levels, and
    compares the codes that the lists hold already; only the rows it ends with are read in full.
    What is kept besides graph and lists can be made from them at any time, so nothing is saved.

    The rows of a beam are about the best of all rows, so those of them that pass a filter are
    about the best that pass: where many rows pass, `near` and a filter of its few rows are all a
    filtered search needs, as long as at least k of them are left.

    Args:
        graph: Graph over M rows.
        lists: Lists over the same rows.

    Raises:
        ValueError: When graph and lists have different rows.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> vectors = rng.normal(size=(500, 16)).astype(np.float32)
        >>> graph = Graph.build(vectors, similarity="dot")
        >>> search = SearchGraph(graph, InvertedLists.build(vectors, similarity="dot"))
        >>> rows, scores, counts = search.search(vectors, vectors[:2], 3, ef=50)
        >>> rows.shape, counts.tolist()
        ((2, 3), [3, 3])
    """

    def __init__(self, graph: Graph, lists: InvertedLists) -> None:
        total = len(lists.order)
        if len(graph.links) != total or total == 0:
            raise ValueError(f"a graph of {len(graph.links)} rows and lists of {total}")
        self.starts = np.empty(total + 1, dtype=np.int64)
        self.links = lay_out(graph.links, lists.order, self.starts)
        self.entries = lists.middles()
        self.entry_codes = lists.codes[self.entries]
        most = int(np.diff(self.starts).max())
        self._arrays = (lists.codes, lists.scales, lists.order, self.starts, self.links,
                        self.entries, self.entry_codes, most)  # fmt: skip
        self._local = threading.local()

    def __len__(self) -> int:
        return len(self.starts) - 1

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
        held = (self.starts, self.links, self.entries, self.entry_codes)
        return sum(array.nbytes for array in held)

    def _scratch(self) -> Scratch:
        """Return this thread's work space."""
        scratch: Scratch | None = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = Scratch(len(self))
        return scratch
