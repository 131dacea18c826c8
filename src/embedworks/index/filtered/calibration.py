"""Measure what the plans of a filtered index cost on this machine, and what they find."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from embedworks._core.validation import normalize_rows
from embedworks.index.exact import ExactIndex
from embedworks.index.filtered.planner import Calibration, WalkPoint

__all__ = ["measure", "queries_near"]

#: ``answer(plan, width, query, mask)`` returns rows found, or None when the walk gave up.
Answer = Callable[[str, int, np.ndarray, np.ndarray], np.ndarray | None]

_SHARES = (1.0, 0.5, 0.2, 0.05, 0.02, 0.005)
_WIDTHS = {
    "lists": (50, 100, 200, 400, 800, 1600, 3200, 6400),
    "graph": (12, 16, 24, 32, 64, 128),
    "two-hop": (12, 16, 24, 32, 64, 128),
}
_QUERIES, _AWAY_QUERIES, _K = 32, 12, 10
_LEAST = 200  # rows that pass; a scan is faster below
_GOOD, _HOPELESS = 0.999, 0.5


def queries_near(
    exact: ExactIndex, chosen: np.ndarray, rng: np.random.Generator, *, unit: bool
) -> np.ndarray:
    """Return queries (N, D) at a nearest neighbour's distance from some rows.

    A stored row itself would be too easy a query: structures were built with it.
    """
    vectors = exact.vectors
    rows = vectors[chosen]
    mask = np.ones(len(vectors), dtype=bool)
    mask[chosen] = False
    nearest = vectors[exact.search(rows, 1, mask=mask)[0][:, 0]]
    distance = np.linalg.norm(rows - nearest, axis=1, keepdims=True)
    step = normalize_rows(rng.normal(size=rows.shape))
    queries = (rows + step * distance).astype(np.float32)
    return normalize_rows(queries) if unit else queries


def measure(
    exact: ExactIndex,
    alive: np.ndarray,
    plans: tuple[str, ...],
    scans: Sequence[Callable[[np.ndarray, np.ndarray], Any]],
    answer: Answer,
    *,
    unit: bool,
    queries: np.ndarray | None = None,
    seed: int = 0,
) -> Calibration:
    """Time scans and walks, and count what the walks find.

    Walks are measured under filters that have nothing to do with the vectors, and their recall
    also under filters that point away from the query.

    Args:
        exact: The index's vectors; gives the truth.
        alive: 1 for rows that are not removed, uint8 (M,).
        plans: Walks that the index has: of ``"lists"``, ``"graph"``, ``"two-hop"``.
        scans: ``scan(query, rows)`` scores rows: exactly, and by their codes where there are any.
        answer: Carries out a walk.
        unit: Whether queries have unit length.
        queries: Real queries (Q, D), prepared; without them some are made near stored rows.
        seed: Of queries and filters.
    """
    total = len(exact)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(total, min(_QUERIES, total), replace=False)
    some = rng.choice(total, min(2000, total), replace=False).astype(np.int32)
    few = some[: max(1, len(some) // 20)]
    costs = []
    for scan in scans:
        fast, slow = (
            float(
                np.median([_timed(lambda r=r, p=p, s=scan: s(exact.vectors[r], p)) for r in chosen])
            )
            for p in (few, some)
        )
        per_row = max(1e-3, (slow - fast) / max(1, len(some) - len(few)))
        costs.append((max(1.0, fast - per_row * len(few)), per_row))
    (base, per_row), per_code = costs[0], costs[-1][1]
    points: list[WalkPoint] = []
    if plans and total > len(chosen):
        if queries is None:
            queries = queries_near(exact, chosen, rng, unit=unit)
        for share in _SHARES:
            if share * total < _LEAST and share < 1:
                break
            world = _filters(exact, alive, queries, share, rng)
            for plan in plans if share < 1 else tuple(p for p in plans if p != "two-hop"):
                points += _walks(plan, share, world, answer)
    return Calibration(base, per_row, per_row / 2, per_code, tuple(points))


def _filters(
    exact: ExactIndex,
    alive: np.ndarray,
    queries: np.ndarray,
    share: float,
    rng: np.random.Generator,
) -> list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Return per kind of filter: (query, mask, true rows) of each query."""
    random = (rng.random(len(exact)) < share).astype(np.uint8) & alive
    truth = exact.search(queries, _K, mask=random.view(bool))[0]
    kinds = [[(q, random, t) for q, t in zip(queries, truth, strict=True)]]
    if share < 1:
        away = []
        for query in queries[:_AWAY_QUERIES]:
            score = exact.vectors @ query
            score += (score.std() * rng.normal(size=len(score))).astype(np.float32)
            mask = (score <= np.quantile(score, share)).astype(np.uint8) & alive
            away.append((query, mask, exact.search(query[None], _K, mask=mask.view(bool))[0][0]))
        kinds.append(away)
    return kinds


def _walks(plan: str, share: float, world: Any, answer: Answer) -> list[WalkPoint]:
    points = []
    for width in _WIDTHS[plan]:
        recalls, times = [], []
        for place, kind in enumerate(world):
            hits, wanted = 0, 0
            for query, mask, truth in kind:
                started = time.perf_counter()
                found = answer(plan, width, query, mask)
                if place == 0:
                    times.append(1e6 * (time.perf_counter() - started))
                hits += 0 if found is None else len(np.intersect1d(found, truth))
                wanted += len(truth)
            recalls.append(hits / max(1, wanted))
        microseconds = float(np.median(times))
        points.append(WalkPoint(plan, share, width, recalls[0], microseconds, recalls[-1]))
        if min(recalls) >= _GOOD or (recalls[0] >= _GOOD and recalls[-1] < _HOPELESS):
            break
    return points


def _timed(run: Callable[..., Any], *arguments: Any) -> float:
    started = time.perf_counter()
    run(*arguments)
    return 1e6 * (time.perf_counter() - started)
