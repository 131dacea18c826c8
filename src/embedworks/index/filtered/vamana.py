"""Filtered and Stitched Vamana: graphs in which every label's rows can be walked by themselves."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pyarrow as pa

from embedworks._core.progress import track
from embedworks._core.validation import check_in_range
from embedworks.index.filtered._beam import Scratch, in_parts, on_sphere
from embedworks.index.filtered._labels import Labels, is_union_of_labels
from embedworks.index.filtered._linking import insert_labelled, insert_plain, stitch
from embedworks.index.filtered._ready import Ready
from embedworks.index.filtered._walked import WalkedIndex, check_numbers
from embedworks.index.filtered._walks import walk_each

__all__ = ["FilteredVamanaIndex", "StitchedVamanaIndex"]


class _LabelGraph(WalkedIndex):
    """A graph that is walked along rows that have a label, from that label's start.

    Under an OR of labels there is one walk for each.
    """

    def __init__(
        self, links: np.ndarray, starts: np.ndarray, *, column: str, inside: np.ndarray,
        **common: Any,
    ) -> None:  # fmt: skip
        self.links, self.column, self._starts = links, column, starts
        super().__init__(inside=inside, **common)
        self.serves = f"filters on the labels in column {column!r}: =, IN, CONTAINS, and OR of them"

    def _route(self, ready: Ready) -> None:
        condition = ready.condition
        if condition and not is_union_of_labels(condition, self.table, self.column):
            raise self._refuse(condition)

    def _walk(self, point: np.ndarray, k: int, ef: int, ready: Ready) -> np.ndarray | None:
        starts = self._starts[ready.mask[self._starts].view(bool)]
        return walk_each(
            self._points, point, self.links, ready.mask, starts[:, None], ef, ready.count,
            self._scratch,
        )  # fmt: skip

    def _parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {"column": self.column}, {"links": self.links, "starts": self._starts}

    @classmethod
    def _from_parts(
        cls, settings: dict[str, Any], arrays: dict[str, np.ndarray], common: dict[str, Any]
    ) -> Self:
        built = common["built"]
        links = check_numbers("links", arrays["links"], below=built, least=-1, dim=2, rows=built)
        starts = check_numbers("starts", arrays["starts"], below=built)
        return cls(links, starts, **settings, **common)


class FilteredVamanaIndex(_LabelGraph):
    """One graph built from searches among rows that share labels (Gollapudi et al., WWW 2023).

    Every link joins rows with a label in common, and a link is left out only for one that
    serves all labels the two share; so the rows of each label form a graph of their own. Rows
    without a label are scanned.

    Differs from the published code: candidates come from the search among rows that share a
    label alone, and rows are inserted in one pass.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> vectors = rng.normal(size=(500, 16)).astype(np.float32)
        >>> rows = pa.table({"kind": rng.choice(["a", "b", "c"], 500)})
        >>> index = FilteredVamanaIndex.build(vectors, rows, column="kind", exact_below=50)
        >>> index.search(vectors[:1], 3, where="kind IN ('a', 'c')").plans
        ['filtered-vamana']
    """

    FORMAT = "filtered-vamana"
    WALK = "filtered-vamana"

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        attributes: pa.Table,
        *,
        column: str,
        similarity: str = "cosine",
        links: int = 48,
        ef_construction: int = 100,
        alpha: float = 1.2,
        exact_below: int = 1000,
        ef: int = 64,
        seed: int = 0,
    ) -> Self:
        """Build an index.

        Args:
            vectors: Array of shape (M, D).
            attributes: Arrow table of M rows.
            column: The column that holds the labels, a value or a set per row.
            similarity: ``"cosine"`` or ``"dot"``.
            links: R of the paper: links per row.
            ef_construction: L of the paper: width of the searches for neighbours.
            alpha: At least 1; more keeps longer links.
            exact_below: Up to so many matching rows are scanned instead.
            ef: Width of a search that gives none.
            seed: Seed of starts and of the order in which rows are inserted.

        Raises:
            UnknownNameError: When there is no such column.
            ShapeError: When vectors and attributes differ in number.
            NonFiniteError: When a vector contains NaN or infinity.
            InputError: When a number is out of range.
        """
        stored, table = cls._prepare(vectors, attributes, similarity)
        check_in_range(links, name="links", low=2)
        check_in_range(ef_construction, name="ef_construction", low=1)
        check_in_range(alpha, name="alpha", low=1)
        labels = Labels.of(table, column)
        starts, inside = labels.starts(seed=seed), np.diff(labels.offsets) > 0
        made = np.full((len(stored), links), -1, dtype=np.int32)
        order = np.random.default_rng(seed).permutation(len(stored)).astype(np.int32)
        points, scratch = on_sphere(stored, similarity), Scratch(len(stored))
        order = order[inside[order]]
        for part in in_parts(len(order), "Linking"):
            insert_labelled(
                points, labels.offsets, labels.labels, made, order[part], starts, alpha,
                ef_construction, *scratch.take(part.stop - part.start),
            )  # fmt: skip
        return cls(made, starts, column=column, inside=inside.astype(np.uint8), vectors=stored,
                   table=table, similarity=similarity, exact_below=exact_below, ef=ef)  # fmt: skip


class StitchedVamanaIndex(_LabelGraph):
    """A graph per label, laid over one another and pruned (Gollapudi et al., WWW 2023).

    Takes longer to build than `FilteredVamanaIndex` where rows have several labels, and finds
    more at the same width there.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> vectors = rng.normal(size=(500, 16)).astype(np.float32)
        >>> rows = pa.table({"tags": [[t for t in "xyz" if rng.random() < 0.5] for _ in vectors]})
        >>> index = StitchedVamanaIndex.build(vectors, rows, column="tags", exact_below=50)
        >>> index.search(vectors[:1], 3, where="tags CONTAINS 'x' OR tags CONTAINS 'y'").plans
        ['stitched-vamana']
    """

    FORMAT = "stitched-vamana"
    WALK = "stitched-vamana"

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        attributes: pa.Table,
        *,
        column: str,
        similarity: str = "cosine",
        links: int = 64,
        label_links: int = 32,
        ef_construction: int = 100,
        alpha: float = 1.2,
        exact_below: int = 1000,
        ef: int = 64,
        seed: int = 0,
    ) -> Self:
        """Build an index.

        Args:
            vectors: Array of shape (M, D).
            attributes: Arrow table of M rows.
            column: The column that holds the labels, a value or a set per row.
            similarity: ``"cosine"`` or ``"dot"``.
            links: R_stitched of the paper: links per row in the end.
            label_links: R_small of the paper: links per row in the graph of one label.
            ef_construction: L_small of the paper: width of the searches for neighbours.
            alpha: At least 1; more keeps longer links.
            exact_below: Up to so many matching rows are scanned instead.
            ef: Width of a search that gives none.
            seed: Seed of starts and of the order in which rows are inserted.

        Raises:
            UnknownNameError: When there is no such column.
            ShapeError: When vectors and attributes differ in number.
            NonFiniteError: When a vector contains NaN or infinity.
            InputError: When a number is out of range.
        """
        stored, table = cls._prepare(vectors, attributes, similarity)
        for name, value in (("links", links), ("label_links", label_links)):
            check_in_range(value, name=name, low=2)
        check_in_range(ef_construction, name="ef_construction", low=1)
        check_in_range(alpha, name="alpha", low=1)
        labels, points = Labels.of(table, column), on_sphere(stored, similarity)
        starts, rng = labels.starts(seed=seed), np.random.default_rng(seed)
        owners, near = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
        for start, rows in track(list(zip(starts, labels.members(), strict=True)), "Linking"):
            small = np.full((len(rows), label_links), -1, dtype=np.int32)
            first = np.searchsorted(rows, [start]).astype(np.int32)
            insert_plain(points[rows], small, rng.permutation(len(rows)).astype(np.int32), first,
                         alpha, ef_construction, *Scratch(len(rows)).take(len(rows)))  # fmt: skip
            place, _ = np.nonzero(small >= 0)
            owners.append(rows[place])
            near.append(rows[small[small >= 0]])
        order = np.argsort(np.concatenate(owners), kind="stable")
        ends = np.searchsorted(np.concatenate(owners)[order], np.arange(len(stored) + 1))
        made = np.full((len(stored), links), -1, dtype=np.int32)
        stitch(points, labels.offsets, labels.labels, ends.astype(np.int64),
               np.concatenate(near)[order], alpha, made)  # fmt: skip
        inside = (np.diff(labels.offsets) > 0).astype(np.uint8)
        return cls(made, starts, column=column, inside=inside, vectors=stored, table=table,
                   similarity=similarity, exact_below=exact_below, ef=ef)  # fmt: skip
