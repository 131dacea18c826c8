"""Measure what the plans of a filtered index cost on this machine, and what they find."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from embedworks._core.validation import normalize_rows
from embedworks.index.exact import ExactIndex
from embedworks.index.filtered.lists import InvertedLists
from embedworks.index.filtered.planner import Calibration, WalkPoint
from embedworks.index.filtered.scan_cost import measure_lone_scans, measure_scans

__all__ = ["measure", "queries_near"]

#: ``answer(plan, width, query, mask)`` returns rows found, or None when the walk gave up.
Answer = Callable[[str, float, np.ndarray, np.ndarray], np.ndarray | None]

_SHARES = (1.0, 0.5, 0.2, 0.05, 0.02, 0.005)
_WIDTHS: dict[str, tuple[float, ...]] = {
    "lists": (0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8),
    "post-filter": (24, 40, 64, 96, 128, 192, 256, 384),
    "graph": (12, 16, 24, 32, 64, 128),
    "two-hop": (12, 16, 24, 32, 64, 128),
}
_QUERIES, _AWAY_QUERIES, _K = 32, 12, 10
_ALL_QUERIES = 128  # where all rows pass: the truth about them is one matrix product
_LEAST = 200  # rows that pass; a scan is faster below
_GOOD, _HOPELESS = 0.999, 0.5
_TIE = 1e-6


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
    lists: InvertedLists | None,
    unit: bool,
    queries: np.ndarray | None = None,
    seed: int = 0,
) -> Calibration:
    """Time scans and walks, and count what the walks find.

    Walks are measured under filters that have nothing to do with the vectors, and their recall
    also under filters that point away from the query: rows on the far side of a direction, and
    whole clusters among those that are not near.

    Args:
        exact: The index's vectors; gives the truth.
        alive: 1 for rows that are not removed, uint8 (M,).
        plans: Walks that the index has: of `embedworks.index.filtered.planner.WALKS`.
        scans: What `measure_lone_scans` takes.
        answer: Carries out a walk.
        lists: Clusters of the rows.
        unit: Whether queries have unit length.
        queries: Real queries (Q, D), prepared; without them some are made near stored rows.
        seed: Of queries and filters.
    """
    total = len(exact)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(total, min(_QUERIES, total), replace=False)
    alone = measure_lone_scans(total, exact.vectors[chosen], scans, seed=seed)
    points: list[WalkPoint] = []
    if plans and total > len(chosen):
        if queries is None:
            asking = rng.choice(total, min(_ALL_QUERIES, total), replace=False)
            more = queries_near(exact, asking, rng, unit=unit)
            queries = queries_near(exact, chosen, rng, unit=unit)
        else:
            more = queries
        for share in _SHARES:
            if share * total < _LEAST and share < 1:
                break
            if share < 1:
                world = _filters(exact, alive, lists, queries, share, rng)
            else:
                world = [_all_rows(exact, alive, more)]
            for plan in plans if share < 1 else tuple(p for p in plans if p != "two-hop"):
                points += _walks(exact, plan, share, world, answer)
    together = measure_scans(exact, seed=seed) if points else ()
    return Calibration(walks=tuple(points), scans=together, alone=alone)


_Case = tuple[np.ndarray, np.ndarray, np.ndarray]  # query, mask, true scores


def _all_rows(exact: ExactIndex, alive: np.ndarray, queries: np.ndarray) -> list[_Case]:
    """Return cases without a filter."""
    truth = exact.search(queries, _K, mask=alive.view(bool))[1]
    return [(query, alive, scores) for query, scores in zip(queries, truth, strict=True)]


def _filters(
    exact: ExactIndex,
    alive: np.ndarray,
    lists: InvertedLists | None,
    queries: np.ndarray,
    share: float,
    rng: np.random.Generator,
) -> list[list[_Case]]:
    """Return cases by kind of filter, those that have nothing to do with the vectors first."""
    some = queries[:_AWAY_QUERIES]
    # A filter of its own for every query, as rows just read come from the processor's cache.
    kinds = [(queries, [(rng.random(len(exact)) < share).astype(np.uint8) for _ in queries])]
    kinds.append((some, [_far_side(exact.vectors, query, share, rng) for query in some]))
    if lists is not None and len(lists.order) == len(exact):
        kinds.append((some, [_far_clusters(lists, query, share, rng) for query in some]))
    found = []
    for asked, masks in kinds:
        cases = []
        for query, mask in zip(asked, masks, strict=True):
            mask &= alive
            cases.append((query, mask, exact.search(query[None], _K, mask=mask.view(bool))[1][0]))
        found.append(cases)
    return found


def _far_side(
    vectors: np.ndarray, query: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    score = vectors @ query
    score += (score.std() * rng.normal(size=len(score))).astype(np.float32)
    return (score <= np.quantile(score, share)).astype(np.uint8)


def _far_clusters(
    lists: InvertedLists, query: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    order = np.argsort(lists.centroids @ query)  # farthest first
    far = order[: max(1, round(0.9 * len(order)))]
    mask = np.zeros(len(lists.order), dtype=np.uint8)
    wanted = share * len(mask)
    for chosen in rng.permutation(far).tolist():
        if np.count_nonzero(mask) >= wanted:
            break
        mask[lists.order[lists.starts[chosen] : lists.starts[chosen + 1]]] = 1
    return mask


def _walks(
    exact: ExactIndex, plan: str, share: float, world: Any, answer: Answer
) -> list[WalkPoint]:
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
                if found is not None and len(truth):  # of equal rows any will do
                    scores = exact.vectors[found].astype(np.float64) @ query
                    hits += int(np.count_nonzero(scores >= truth[-1] - _TIE * abs(truth[-1])))
                wanted += len(truth)
            recalls.append(hits / max(1, wanted))
        microseconds = float(np.median(times))
        away = min(recalls)
        points.append(WalkPoint(plan, share, width, recalls[0], microseconds, away))
        hopeless = plan != "lists" and away < _HOPELESS  # lists widen by themselves
        if away >= _GOOD or (recalls[0] >= _GOOD and hopeless):
            break
    return points
