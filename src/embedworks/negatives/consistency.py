"""Drop rows whose positive a retriever cannot find: a cheap test for wrong pairs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedworks._core.validation import check_k
from embedworks.data import RowSet
from embedworks.errors import InputError, ShapeError

__all__ = ["ConsistencyReport", "rank_consistency_filter"]


@dataclass(frozen=True)
class ConsistencyReport:
    """What a rank-consistency filter dropped.

    Attributes:
        k: The lowest rank that is kept.
        rows: Rows by source.
        dropped: Dropped rows by source.
        kept: int64 positions of the kept rows.
    """

    k: int
    rows: dict[str, int]
    dropped: dict[str, int]
    kept: np.ndarray

    @property
    def drop_rates(self) -> dict[str, float]:
        """Share of rows dropped, by source."""
        return {source: self.dropped[source] / count for source, count in self.rows.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"k": self.k, "rows": self.rows, "dropped": self.dropped, "rates": self.drop_rates}


def rank_consistency_filter(
    rows: RowSet, ranks: np.ndarray, k: int = 50
) -> tuple[RowSet, ConsistencyReport]:
    """Keep the rows whose positive is among the ``k`` best documents for its anchor.

    Args:
        rows: N rows.
        ranks: int array (N,), rank of each row's positive counted from 1, as
            `MiningResult.positive_ranks` and `positive_ranks` give it.
        k: The last rank that is kept. Code that compares the positive with the candidate at
            index k, counted from 0, keeps one rank more: ``k + 1`` here gives the same rows.

    Returns:
        The kept rows and a `ConsistencyReport`.

    Raises:
        ShapeError: When there is not one rank per row.
        InputError: When a rank is below 1, or no row would be left.

    Example:
        >>> rows = RowSet.from_columns(["a", "b"], ["one", "two"])
        >>> kept, report = rank_consistency_filter(rows, np.array([1, 51]), k=50)
        >>> len(kept), report.drop_rates
        (1, {'default': 0.5})
    """
    check_k(k)
    ranks = np.asarray(ranks)
    if ranks.shape != (len(rows),) or ranks.dtype.kind not in "iu":
        raise ShapeError(
            f"ranks must be integers, one per row ({len(rows)},), got {ranks.dtype} {ranks.shape}."
        )
    if len(ranks) and ranks.min() < 1:
        raise InputError(f"ranks are counted from 1, got {ranks.min()}.")
    keep = ranks <= k
    if not keep.any():
        raise InputError(
            f"no row's positive is among the best {k}: do the ranks belong to these rows, and was "
            "the right corpus searched?"
        )
    dropped = Counter(row.source for row, good in zip(rows, keep, strict=True) if not good)
    report = ConsistencyReport(
        k, rows.sources, {source: dropped[source] for source in rows.sources}, np.flatnonzero(keep)
    )
    return RowSet(row for row, good in zip(rows, keep, strict=True) if good), report
