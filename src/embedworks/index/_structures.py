"""What a collection builds over its vectors: inverted lists and a graph over their places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from embedworks.errors import FormatError
from embedworks.index.filtered.graph import Graph
from embedworks.index.filtered.lists import InvertedLists

__all__ = ["ARRAYS", "Structures"]

ARRAYS = (
    "link_starts",
    "links",
    "centroids",
    "list_starts",
    "list_order",
    "list_codes",
    "list_scales",
    "list_spreads",
)


@dataclass(frozen=True, eq=False)
class Structures:
    """Everything over the same M rows.

    Attributes:
        graph: Links between the places of the lists.
        lists: The rows by nearest centroid, with codes in that order.
    """

    graph: Graph
    lists: InvertedLists

    @classmethod
    def build(cls, vectors: np.ndarray) -> Structures:
        """Build all of it over float32 vectors of unit length (M, D)."""
        lists = InvertedLists.build(vectors, similarity="cosine")
        return cls(Graph.build(lists), lists)

    def __len__(self) -> int:
        return len(self.graph)

    def kept(self, rows: np.ndarray) -> Structures:
        """Return the structures of the rows that stay, under their new numbers.

        Args:
            rows: Old numbers of the rows that stay, int64 (N,), each once and N >= 1; the row
                ``rows[i]`` becomes row i.
        """
        number = np.full(len(self), -1, dtype=np.int32)
        number[rows] = np.arange(len(rows), dtype=np.int32)
        stay = number[self.lists.order] >= 0
        graph = self.graph if stay.all() else self.graph.kept(stay)
        return Structures(graph, self.lists.kept(stay, number))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what `of` reads, by the names in `ARRAYS`."""
        graph, lists = self.graph, self.lists
        return {
            "link_starts": graph.starts,
            "links": graph.links,
            "centroids": lists.centroids,
            "list_starts": lists.starts,
            "list_order": lists.order,
            "list_codes": lists.codes,
            "list_scales": lists.scales,
            "list_spreads": lists.spreads,
        }

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Structures:
        """Put together what `arrays` gave; see `check`."""
        starts, links, *rest = (np.asarray(arrays[name]) for name in ARRAYS)
        return cls(Graph(starts, links), InvertedLists(*rest))

    def check(self, dim: int) -> None:
        """Raise `FormatError` unless every number names a row and all shapes fit.

        Searches follow the numbers without looking, so those that came from a file are checked.
        """
        self.graph.check()
        rows, lists = len(self), self.lists
        sound = (
            lists.centroids.shape == (len(lists.starts) - 1, dim)
            and lists.spreads.shape == (len(lists.centroids),)
            and lists.codes.shape == (rows, dim)
            and lists.scales.shape == lists.order.shape == (rows,)
            and lists.codes.dtype == np.int8
            and lists.order.dtype == np.int32
            and lists.starts.dtype == np.int64
            and all(
                array.dtype == np.float32
                for array in (lists.centroids, lists.spreads, lists.scales)
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
        return {"graph": self.graph.nbytes(), "lists": self.lists.nbytes()}
