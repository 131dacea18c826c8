"""UNG: a graph per label set, and links from each set to the next larger ones."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pyarrow as pa

from embedworks._core.validation import check_in_range
from embedworks.index._attribute_columns import SetColumn
from embedworks.index.filtered._beam import on_sphere
from embedworks.index.filtered._groups import Groups, link_groups
from embedworks.index.filtered._labels import Labels
from embedworks.index.filtered._ready import Ready
from embedworks.index.filtered._walked import WalkedIndex, check_numbers
from embedworks.index.filtered._walks import walk_each

__all__ = ["UngIndex"]


class UngIndex(WalkedIndex):
    """The unified navigating graph (Cai et al., SIGMOD 2024): a graph per label set.

    Rows with the same labels form a group with a graph of its own; each row is also linked to
    near rows of the groups whose sets are the minimal supersets of its own. So from the smallest
    sets that a filter passes, links lead to all larger ones, and whatever the walk meets passes.

    Serves every filter that reads the one column, for such a filter passes a group as a whole.
    Fast are those that few small sets pass: ``CONTAINS``, AND of them, one value. There is one
    walk for each of those smallest sets; where they are many, matching rows are scanned.

    Rows without a value are scanned. Differs from the paper: every filter on the column is
    served, and every smallest set has a walk of its own, whatever the filter.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> vectors = rng.normal(size=(500, 16)).astype(np.float32)
        >>> rows = pa.table({"tags": [[t for t in "xyz" if rng.random() < 0.5] for _ in vectors]})
        >>> index = UngIndex.build(vectors, rows, column="tags", exact_below=50)
        >>> index.search(vectors[:1], 3, where="tags CONTAINS 'x' AND tags CONTAINS 'y'").plans
        ['ung']
    """

    FORMAT = "ung"
    WALK = "ung"

    def __init__(
        self, links: np.ndarray, groups: Groups, *, column: str, starts: int, **common: Any
    ) -> None:
        self.links, self.groups, self.column, self.starts = links, groups, column, starts
        self.serves = f"filters that read no column but {column!r}"
        super().__init__(**common)

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        attributes: pa.Table,
        *,
        column: str,
        similarity: str = "cosine",
        links: int = 32,
        cross_links: int = 6,
        ef_construction: int = 100,
        alpha: float = 1.2,
        starts: int = 16,
        exact_below: int = 1000,
        ef: int = 64,
    ) -> Self:
        """Build an index.

        Args:
            vectors: Array of shape (M, D).
            attributes: Arrow table of M rows.
            column: The column that holds the labels, a value or a set per row.
            similarity: ``"cosine"`` or ``"dot"``.
            links: R of the paper: links per row inside its group.
            cross_links: delta of the paper: links per row to groups with more labels.
            ef_construction: L of the paper: width of the searches for neighbours.
            alpha: At least 1; more keeps longer links.
            starts: sigma of the paper: rows of each smallest set that a walk starts from.
            exact_below: Up to so many matching rows are scanned instead.
            ef: Width of a search that gives none.

        Raises:
            UnknownNameError: When there is no such column.
            ShapeError: When vectors and attributes differ in number.
            NonFiniteError: When a vector contains NaN or infinity.
            InputError: When a number is out of range.
        """
        stored, table = cls._prepare(vectors, attributes, similarity)
        check_in_range(links, name="links", low=2)
        for name, value in (("cross_links", cross_links), ("ef_construction", ef_construction),
                            ("alpha", alpha), ("starts", starts)):  # fmt: skip
            check_in_range(value, name=name, low=1)
        labels = Labels.of(table, column)
        inside = np.diff(labels.offsets) > 0
        values = table.column(column)
        if isinstance(values, SetColumn):  # an empty set is a set; a missing one is none
            inside[:] = True
            inside[values.missing] = False
        groups = Groups.of(labels, np.flatnonzero(inside))
        made = link_groups(on_sphere(stored, similarity), groups, links=links, cross=cross_links,
                           width=ef_construction, alpha=alpha)  # fmt: skip
        return cls(made, groups, column=column, starts=starts, vectors=stored, table=table,
                   similarity=similarity, inside=inside.astype(np.uint8),
                   exact_below=exact_below, ef=ef)  # fmt: skip

    def _route(self, ready: Ready) -> list[np.ndarray]:
        """Return the rows to start from in each of the smallest sets that pass."""
        if ready.condition is not None and ready.condition.columns() != {self.column}:
            raise self._refuse(ready.condition)
        found = []
        for group in self.groups.entries(ready.mask):
            rows = self.groups.rows(group)
            places = np.linspace(0, len(rows) - 1, min(self.starts, len(rows))).astype(np.int64)
            found.append(rows[places])
        return found

    def _walk(self, point: np.ndarray, k: int, ef: int, ready: Ready) -> np.ndarray | None:
        return walk_each(
            self._points, point, self.links, ready.mask, ready.route, ef, ready.count,
            self._scratch,
        )  # fmt: skip

    def _parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        names = ("order", "ends", "parents", "children")
        arrays = {name: getattr(self.groups, name) for name in names}
        return {"column": self.column, "starts": self.starts}, {"links": self.links, **arrays}

    @classmethod
    def _from_parts(
        cls, settings: dict[str, Any], arrays: dict[str, np.ndarray], common: dict[str, Any]
    ) -> Self:
        built, links = common["built"], arrays.pop("links")
        check_numbers("links", links, below=built, least=-1, dim=2, rows=built)
        found = Groups(**arrays)
        check_numbers("order", found.order, below=built)
        check_numbers("parents", found.parents, below=len(found))
        check_numbers("children", found.children, below=len(found), rows=len(found.parents))
        if found.ends[0] or found.ends[-1] != len(found.order) or (np.diff(found.ends) < 1).any():
            raise ValueError("ends do not fit the groups")
        return cls(links, found, **settings, **common)
