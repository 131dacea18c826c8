"""A filter made ready for one index, and how a search under it is carried out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from embedworks.index.attributes import Filter
from embedworks.index.where import Condition

if TYPE_CHECKING:
    from embedworks.index.filtered._walked import WalkedIndex

__all__ = ["Plan", "Ready"]


@dataclass(frozen=True)
class Plan:
    """How a filtered search is carried out by an index that has one structure.

    Attributes:
        plan: ``"empty"``, ``"exact"`` or the name of the index's walk.
        reason: Why, in words.
        where: The filter, or None.
        rows: Rows that are not removed.
        matching: How many of them pass.
    """

    plan: str
    reason: str
    where: str | None
    rows: int
    matching: int

    def __str__(self) -> str:
        filtered = f"\nfilter: {self.where}" if self.where else ""
        head = f"{self.matching:,} of {self.rows:,} rows match{filtered}"
        return f"{head}\n-> {self.plan}: {self.reason}"


class Ready:
    """A filter made ready for one state of an index; everything is made on first use.

    Attributes:
        condition: The filter, None for all rows.
        compiled: The same, ready to run.
        count: How many rows pass and are not removed.
        rows: Those rows, int32.
        beside: Those of them that the structure lacks.
        mask: 1 for rows that pass, removed or not, uint8 (M,).
        route: What the index's walk needs to know.
    """

    def __init__(self, index: WalkedIndex, condition: Condition | None) -> None:
        self.condition = condition
        self.compiled: Filter | None = None
        if condition is not None:
            self.compiled = index.table.compile(condition)
        self._alive, self._live, self._outside = index.alive, len(index), index.outside
        self.route = index._route(self)

    @cached_property
    def mask(self) -> np.ndarray:
        """See the class."""
        if self.compiled is None:
            return np.ones(len(self._alive), dtype=np.uint8)
        return self.compiled.mask()

    @cached_property
    def count(self) -> int:
        """See the class."""
        if self.compiled is None:
            return self._live
        count = self.compiled.cardinality()
        if count.exact and self._live == len(self._alive):
            return count.minimum
        return len(self.rows)

    @cached_property
    def rows(self) -> np.ndarray:
        """See the class."""
        if self.compiled is None:
            return np.flatnonzero(self._alive).astype(np.int32)
        rows = self.compiled.rows()
        return rows[self._alive[rows].view(bool)] if self._live < len(self._alive) else rows

    @cached_property
    def beside(self) -> np.ndarray:
        """See the class."""
        rows = self._outside[self._alive[self._outside].view(bool)]
        return rows if self.compiled is None else rows[self.compiled.test(rows).view(bool)]
