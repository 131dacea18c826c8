"""What it costs to score all rows that pass, alone and together: measured, then interpolated.

The more rows pass, the nearer they lie to one another in memory, and the less each of them costs.
Queries under one filter share a matrix product and the copy of the rows that pass, so that one of
64 costs a fraction of what a query alone does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedworks.index.exact import ExactIndex, copies_out

__all__ = [
    "LonePoint", "ScanPoint", "lone_cost", "measure_lone_scans", "measure_scans", "scan_cost",
]  # fmt: skip

_TOGETHER = (1, 8, 64)  # blocks of more queries are no cheaper
_SHARES = (0.01, 0.2, 0.5)  # two that are copied out, one that is not
_TURNS, _K = 3, 10
_LONE, _LONE_QUERIES = (100, 1000, 10_000, 100_000), 24


@dataclass(frozen=True)
class LonePoint:
    """One measurement of a scan for one query.

    Attributes:
        codes: Whether int8 codes were read, rather than vectors.
        rows: How many rows were scored.
        microseconds: Time of the query.
    """

    codes: bool
    rows: int
    microseconds: float


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


def measure_lone_scans(
    total: int,
    vectors: np.ndarray,
    scans: Sequence[Callable[[np.ndarray, np.ndarray], Any]],
    *,
    seed: int = 0,
) -> tuple[LonePoint, ...]:
    """Time scans of few and of many rows.

    Args:
        total: Rows there are.
        vectors: Queries (Q, D).
        scans: ``scan(query, rows)`` scores rows, int32 ascending, as those of a filter mostly
            are: exactly, and by their codes where there are any.
        seed: Of the rows.
    """
    rng = np.random.default_rng(seed)
    sizes = [size for size in _LONE if size <= total // 2] or [max(1, total // 2)]
    points = []
    for size in sizes:
        # Rows of its own for every query: rows just read would come from the processor's cache.
        chosen = [np.sort(rng.choice(total, size, replace=False)).astype(np.int32)
                  for _ in range(_LONE_QUERIES)]  # fmt: skip
        for codes, scan in enumerate(scans):
            times = []
            for number in rng.permutation(_LONE_QUERIES):
                started = time.perf_counter()
                scan(vectors[number % len(vectors)], chosen[number])
                times.append(1e6 * (time.perf_counter() - started))
            points.append(LonePoint(bool(codes), size, float(np.median(times))))
    return tuple(points)


def lone_cost(points: Sequence[LonePoint], codes: bool, matching: float) -> float | None:
    """Predict the microseconds of a scan for one query; None when it was not measured.

    Example:
        >>> points = [LonePoint(False, 100, 10.0), LonePoint(False, 200, 15.0)]
        >>> lone_cost(points, False, 50), lone_cost(points, False, 400), lone_cost(points, True, 9)
        (7.5, 25.0, None)
    """
    line = sorted((p.rows, p.microseconds) for p in points if p.codes == codes)
    if not line:
        return None
    above = next((place for place, (rows, _) in enumerate(line) if rows >= matching), len(line) - 1)
    return _at(line[max(0, above - 1) : max(0, above - 1) + 2], matching)


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
