"""What a collection builds over its vectors: a graph, inverted lists and int8 codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from embedworks.errors import FormatError
from embedworks.index._graph_rows import check_graph, renumber_graph
from embedworks.index.filtered.graph import Graph
from embedworks.index.filtered.lists import InvertedLists, quantize

__all__ = ["ARRAYS", "Structures"]

ARRAYS = (
    "links",
    "upper_place",
    "upper_links",
    "codes",
    "scales",
    "centroids",
    "starts",
    "list_order",
    "list_codes",
    "list_scales",
    "list_spreads",
)


@dataclass(frozen=True, eq=False)
class Structures:
    """Everything over the same M rows.

    Attributes:
        graph: Links between the rows.
        lists: The rows by nearest centroid, with codes in that order.
        codes: int8 vectors in the order of the rows (M, D).
        scales: What their integer products are multiplied with, float32 (M,).
    """

    graph: Graph
    lists: InvertedLists
    codes: np.ndarray
    scales: np.ndarray

    @classmethod
    def build(cls, vectors: np.ndarray) -> Structures:
        """Build all of it over float32 vectors of unit length (M, D)."""
        lists = InvertedLists.build(vectors, similarity="cosine")
        graph = Graph.build(vectors, similarity="cosine", lists=lists)
        return cls(graph, lists, *quantize(vectors))

    def __len__(self) -> int:
        return len(self.graph.links)

    def kept(self, rows: np.ndarray) -> Structures:
        """Return the structures of the rows that stay, under their new numbers.

        Args:
            rows: Old numbers of the rows that stay, int64 (N,), each once and N >= 1; the row
                ``rows[i]`` becomes row i.
        """
        number = np.full(len(self), -1, dtype=np.int32)
        number[rows] = np.arange(len(rows), dtype=np.int32)
        lists = self.lists
        order = number[lists.order]
        stay = order >= 0
        starts = np.concatenate([[0], np.cumsum(stay, dtype=np.int64)])[lists.starts]
        codes, scales = lists.codes[stay], lists.scales[stay]
        kept = InvertedLists(lists.centroids, starts, order[stay], codes, scales, lists.spreads)
        graph = renumber_graph(self.graph, rows)
        return Structures(graph, kept, self.codes[rows], self.scales[rows])

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what `of` reads, by the names in `ARRAYS`."""
        graph, lists = self.graph, self.lists
        return {
            "links": graph.links,
            "upper_place": graph.upper_place,
            "upper_links": graph.upper_links,
            "codes": self.codes,
            "scales": self.scales,
            "centroids": lists.centroids,
            "starts": lists.starts,
            "list_order": lists.order,
            "list_codes": lists.codes,
            "list_scales": lists.scales,
            "list_spreads": lists.spreads,
        }

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], entry: int) -> Structures:
        """Put together what `arrays` gave; see `check`."""
        links, place, upper, codes, scales, *rest = (np.asarray(arrays[name]) for name in ARRAYS)
        return cls(Graph(links, place, upper, entry), InvertedLists(*rest), codes, scales)

    def check(self, dim: int) -> None:
        """Raise `FormatError` unless every number names a row and all shapes fit.

        Searches follow the numbers without looking, so those that came from a file are checked.
        """
        check_graph(self.graph)
        rows, lists = len(self), self.lists
        sound = (
            lists.centroids.shape == (len(lists.starts) - 1, dim)
            and lists.spreads.shape == (len(lists.centroids),)
            and self.codes.shape == lists.codes.shape == (rows, dim)
            and self.scales.shape == lists.scales.shape == lists.order.shape == (rows,)
            and all(array.dtype == np.int8 for array in (self.codes, lists.codes))
            and lists.order.dtype == np.int32
            and lists.starts.dtype == np.int64
            and all(
                array.dtype == np.float32
                for array in (lists.centroids, lists.spreads, self.scales, lists.scales)
            )
            and (int(lists.starts[0]), int(lists.starts[-1])) == (0, rows)
            and bool((np.diff(lists.starts) >= 0).all())
            and int(lists.order.min()) >= 0
            and int(lists.order.max()) < rows
            and bool((np.bincount(lists.order, minlength=rows) == 1).all())
        )
        if not sound:
            raise FormatError("The inverted lists do not hold every row once, or do not fit.")

    def nbytes(self) -> dict[str, int]:
        """Return the bytes by part."""
        return {
            "graph": self.graph.nbytes(),
            "lists": self.lists.nbytes(),
            "codes": int(self.codes.nbytes + self.scales.nbytes),
        }
