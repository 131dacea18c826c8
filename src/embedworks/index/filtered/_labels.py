"""Labels of rows as arrays, and the row from which a search for a label starts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from embedworks._core.validation import check_choice
from embedworks.index._attribute_columns import SetColumn
from embedworks.index.attributes import AttributeTable
from embedworks.index.where import Condition, Contains, Or

__all__ = ["Labels", "is_union_of_labels"]


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of M rows: the values of a column, or the elements of its sets.

    Attributes:
        offsets: Row -> where its labels begin, int64 (M + 1,).
        labels: Numbers of labels, ascending within a row, int32.
        count: How many labels there are.
    """

    offsets: np.ndarray
    labels: np.ndarray
    count: int

    @classmethod
    def of(cls, table: AttributeTable, name: str) -> Labels:
        """Read a column; missing values and empty sets are rows without labels.

        Raises:
            UnknownNameError: When there is no such column.

        Example:
            >>> rows = AttributeTable.from_columns({"tags": [["b", "a"], [], ["b"], None]})
            >>> found = Labels.of(rows, "tags")
            >>> found.offsets.tolist(), found.labels.tolist(), found.count
            ([0, 2, 2, 3, 3], [0, 1, 1], 2)
        """
        check_choice(name, table.table.column_names, name="column")
        column = table.column(name)
        if isinstance(column, SetColumn):
            values, owners = column.elements, column.owners
        else:
            values, owners = column, column.order
        counts = np.diff(values.offsets)
        codes = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
        pairs = np.unique(owners[: len(codes)].astype(np.int64) * max(1, len(counts)) + codes)
        rows, labels = np.divmod(pairs, max(1, len(counts)))
        offsets = np.searchsorted(rows, np.arange(len(table) + 1)).astype(np.int64)
        return cls(offsets, labels.astype(np.int32), len(counts))

    def members(self) -> list[np.ndarray]:
        """Return the rows of each label, int32, ascending."""
        rows = np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int32), np.diff(self.offsets))
        order = np.argsort(self.labels, kind="stable")
        ends = np.searchsorted(self.labels[order], np.arange(self.count + 1))
        return [rows[order[a:b]] for a, b in pairwise(ends)]

    def starts(self, *, seed: int, tries: int = 25) -> np.ndarray:
        """Choose a row per label to start from, int32 (labels,).

        Of ``tries`` random rows of a label the one that is a start least often is taken
        (Filtered-DiskANN, Algorithm 2).
        """
        rng, used = np.random.default_rng(seed), np.zeros(len(self.offsets) - 1, dtype=np.int64)
        starts = np.empty(self.count, dtype=np.int32)
        for label, rows in enumerate(self.members()):
            few = rng.choice(rows, min(tries, len(rows)), replace=False)
            starts[label] = few[np.argmin(used[few])]
            used[starts[label]] += 1
        return starts


def is_union_of_labels(condition: Condition, table: AttributeTable, name: str) -> bool:
    """Say whether a filter passes exactly the rows that have one of some labels of a column.

    Of a column of single values every filter that reads no other column does; of a column of
    sets, ``CONTAINS`` and an OR of those.
    """
    if condition.columns() != {name}:
        return False
    if not isinstance(table.column(name), SetColumn):
        return True
    if isinstance(condition, Or):
        return all(is_union_of_labels(part, table, name) for part in condition.parts)
    return isinstance(condition, Contains)
