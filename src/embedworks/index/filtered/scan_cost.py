"""What exact searches cost when several queries are asked together: measured, then interpolated.

Queries under one filter share a matrix product and the copy of the rows that pass, so that one of
64 costs a fraction of what a query alone does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedworks.index.exact import ExactIndex, copies_out

__all__ = ["ScanPoint", "measure_scans", "scan_cost"]

_TOGETHER = (1, 8, 64)  # blocks of more queries are no cheaper
_SHARES = (0.01, 0.2, 0.5)  # two that are copied out, one that is not
_TURNS, _K = 3, 10


@dataclass(frozen=True)
class ScanPoint:
    """One measurement of `ExactIndex.search`.

    Attributes:
        queries: How many were asked together.
        rows: How many rows were scored for each.
        copied: Whether these were copied out of the others first.
        microseconds: Time per query.
    """

    queries: int
    rows: int
    copied: bool
    microseconds: float


def measure_scans(exact: ExactIndex, *, seed: int = 0) -> tuple[ScanPoint, ...]:
    """Time exact searches over at least 100 rows for few and many queries and rows."""
    rng = np.random.default_rng(seed)
    total = len(exact)
    points = []
    for share in _SHARES:
        matching = max(1, round(share * total))
        mask = np.zeros(total, dtype=bool)
        mask[rng.choice(total, matching, replace=False)] = True
        copied = copies_out(matching, total)
        for queries in _TOGETHER:
            asked = exact.vectors[rng.integers(0, total, queries)]
            times = []
            for _ in range(_TURNS):
                started = time.perf_counter()
                exact.search(asked, _K, mask=mask, allow_zero=True)
                times.append(1e6 * (time.perf_counter() - started) / queries)
            points.append(ScanPoint(queries, matching if copied else total, copied, min(times)))
    return tuple(points)


def scan_cost(points: Sequence[ScanPoint], queries: int, total: int, matching: float) -> float:
    """Predict the microseconds per query of an exact search.

    Args:
        points: What `measure_scans` returned.
        queries: How many are asked together, at least 1.
        total: Rows in the index.
        matching: How many of them pass the filter.

    Example:
        >>> points = [ScanPoint(1, 100, True, 10.0), ScanPoint(1, 200, True, 12.0),
        ...           ScanPoint(4, 100, True, 5.0), ScanPoint(4, 200, True, 6.0)]
        >>> [round(scan_cost(points, queries, 1000, 150), 2) for queries in (1, 2, 4, 8)]
        [11.0, 7.78, 5.5, 5.5]
    """
    copied = copies_out(matching, total)
    rows = matching if copied else total
    costs: dict[int, float] = {}
    for together in sorted({point.queries for point in points}):
        mine = [p for p in points if p.queries == together]
        line = [p for p in mine if p.copied == copied] or mine
        costs[together] = _at(sorted((p.rows, p.microseconds) for p in line), rows)
    below = max((n for n in costs if n <= queries), default=min(costs))
    above = min((n for n in costs if n >= queries), default=max(costs))
    if below == above:
        return costs[below]
    part = math.log(queries / below) / math.log(above / below)
    return float(costs[below] ** (1 - part) * costs[above] ** part)


def _at(line: Sequence[tuple[int, float]], rows: float) -> float:
    """Read a line of one or two (rows, microseconds) at some number of rows."""
    (few, fast), (many, slow) = line[0], line[-1]
    if few == many:
        return max(1.0, slow * rows / many)
    per_row = max(1e-6, (slow - fast) / (many - few))
    return max(1.0, fast + per_row * (rows - few))
