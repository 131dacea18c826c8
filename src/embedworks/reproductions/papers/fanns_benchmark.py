"""A survey of filtered search (arXiv 2507.21989): is one method enough, and does planning pay?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embedworks.reproductions import Arm, Comparison, Context, Outcome, Reproduction

if TYPE_CHECKING:
    from embedworks.evaluation import FilteredReport

__all__ = ["ENTRIES"]

PAPER = (
    "Benchmarking Filtered Approximate Nearest Neighbor Search Algorithms on Transformer-based "
    "Embedding Vectors"
)
ARXIV = "2507.21989"

#: Methods of any filter that choose nothing: what a user could pick for everything.
_SINGLE = (
    "numpy exact", "exact plan", "codes plan", "lists plan", "graph plan", "two-hop plan",
    "ACORN", "ACORN-1", "CAPS", "faiss HNSW", "faiss HNSW, then filter", "faiss IVF",
)  # fmt: skip
#: Groups of methods: those for labels, those for ranges, and those for every filter.
_GROUPS = {
    "label indexes": ["FilteredVamana", "StitchedVamana", "UNG"],
    "range indexes": ["segment graph", "range tree"],
    "ACORN": ["ACORN", "ACORN-1"],
}
_GROUPED = [name for names in _GROUPS.values() for name in names]
_PLANNERS = ("planner", "planner, tuned")
_PLANS = ("exact plan", "codes plan", "lists plan", "graph plan", "two-hop plan")
_TARGET = 0.95


def _measured(seed: int, settings: Mapping[str, Any], methods: Sequence[str]) -> FilteredReport:
    """Measure all methods in turns on data, queries and filters of one seed."""
    from embedworks.evaluation import compare_filtered, filtered_workload, synthetic_filtered_data

    made = synthetic_filtered_data(
        settings["rows"], settings["dim"], settings["queries"], seed=seed
    )
    data = replace(
        made,
        table=made.table.select(settings.get("columns", made.table.column_names)),
        labels=tuple(settings.get("labels", ())),
        ordered=tuple(settings.get("ordered", ())),
    )
    workload = filtered_workload(
        data,
        kinds=settings["kinds"],
        shares=settings["shares"],
        correlated_shares=settings["correlated shares"],
        seed=seed,
    )
    return compare_filtered(
        workload,
        methods,
        target_recall=_TARGET,
        rounds=settings["rounds"],
        slowest=settings["slowest"],
        seed=seed,
    )


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    """Say how far a method falls behind in its worst cell, and in how many it is best."""
    methods = arm["measured with"]
    report = context.once(("filtered", *methods), lambda: _measured(seed, settings, methods))
    names = report.single_methods if arm["any of them"] else (arm.name,)
    worst = {name: report.worst_share(name) for name in names}
    name = max(names, key=lambda one: worst[one])
    reached = [cell.fastest(name, _TARGET) is not None for cell in report.cells]
    found = {
        "worst share": worst[name],
        "cells at the recall": float(np.mean(reached)),
        "best in": report.wins(name) / len(report.cells),
    }
    return Outcome(found | {f"{k} share": v for k, v in _by_kind(report, name).items()})


def _by_kind(report: FilteredReport, name: str) -> dict[str, float]:
    """Return a method's mean share of the best speed over the cells of each kind."""
    shares: dict[str, list[float]] = {}
    for cell in report.cells:
        if report.best(cell) is not None:
            shares.setdefault(cell.kind, []).append(report.standing(cell, name).share_of_best)
    return {kind: float(np.mean(values)) for kind, values in shares.items()}


def _run_groups(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    """Say how a group of methods does: in each cell its fastest one counts."""
    report = context.once(("groups",), lambda: _measured(seed, settings, _GROUPED))
    names = arm["any of them"]
    shares: dict[str, dict[str, float]] = {"labels": {}, "ranges": {}}
    for cell in report.cells:
        group = "ranges" if cell.kind == "range" else "labels"
        found = [report.standing(cell, name).share_of_best for name in names]
        shares[group][cell.name] = max(found)
    return Outcome(items={f"{group} share": cells for group, cells in shares.items()})


def _arms(names: tuple[str, ...], methods: tuple[str, ...]) -> tuple[Arm, ...]:
    return tuple(
        Arm(name, f"{name}, alone", {"measured with": list(methods), "any of them": False})
        for name in names
    )


def _half(name: str, *, falsifies: bool = True) -> Comparison:
    return Comparison(
        f"{name}: half of the best or more", "worst share", {name: 1.0}, "greater", null=0.5,
        falsifies=falsifies,
    )  # fmt: skip


_SCALES = {
    "mini": {
        "kinds": ["exact", "range", "set", "combined"],
        "rows": 20_000, "dim": 64, "queries": 30, "rounds": 3, "slowest": 0.01,
        "shares": [0.5, 0.1, 0.01], "correlated shares": [0.1],
    },
    "gpu": {
        "kinds": ["exact", "range", "set", "combined"],
        "rows": 100_000, "dim": 128, "queries": 100, "rounds": 3, "slowest": 0.02,
        "shares": [0.5, 0.1, 0.01, 0.001, 0.0001], "correlated shares": [0.1, 0.01],
    },
}  # fmt: skip
_SETUP = (
    "Clustered unit vectors with text, number, float and set attributes, some independent of the "
    "vectors, some tied to them. Filters of four kinds (one value, a range, a value in a set, AND "
    "/ OR / NOT of those) pass given shares of the rows; some are drawn so that the rows that "
    "pass lie near the query, or far from it. Each query has its own filter, and its cost counts. "
    "Each kind, share and correlation is a cell. In a cell a method's speed is that of its "
    "fastest setting with recall@10 of 0.95 or more, over a ladder of settings; its share is that "
    "speed over the best single method's, 0 where no setting reaches the recall. All methods "
    "take turns in every round, one query at a time, on one thread. Each seed is other data, "
    "other queries and other filters. Nothing needs a GPU: the scale `gpu` is the larger one."
)
_LIMITS = (
    "Generated clusters, not the paper's arXiv abstracts, and other methods than the paper's "
    "eleven: our own builds of ACORN and CAPS, and faiss. Settings are chosen on the queries "
    "they are scored on, for every single method, which flatters them against the planner, that "
    "chooses by itself. Construction settings are fixed. Libraries get their bitmap from our "
    "attribute table. Speeds are of one machine."
)

ENTRIES = (
    Reproduction(
        slug="fanns-benchmark",
        paper=PAPER,
        arxiv=ARXIV,
        claim="No single method of filtered search is the best everywhere: each falls more than "
        "10 % behind the fastest somewhere, or misses the recall.",
        falsifier="Some method alone reaches recall@10 of 0.95 in every cell and is nowhere below "
        "0.9 of the fastest single method's speed.",
        arms=(
            Arm(
                "best of them",
                "the single method that falls behind least in its worst cell",
                {"measured with": list(_SINGLE), "any of them": True},
            ),
            *_arms(_SINGLE, _SINGLE),
        ),
        decisive=Comparison(
            "the most even method: below 0.9", "worst share", {"best of them": 1.0}, "less",
            null=0.9,
        ),
        secondary=tuple(
            Comparison(
                f"{name}: below 0.9", "worst share", {name: 1.0}, "less", null=0.9
            )
            for name in _SINGLE
        ),
        run=_run,
        seeds=5,
        scales=_SCALES,
        setup=_SETUP,
        limits=_LIMITS,
    ),
    Reproduction(
        slug="fanns-benchmark-planner",
        paper=PAPER,
        arxiv=ARXIV,
        claim="So a system needs several plans and a chooser: our planner is nowhere slower than "
        "half the best single method, at the recall.",
        falsifier="In some cell the planner misses recall@10 of 0.95, or is slower than half the "
        "best single method.",
        arms=_arms((*_PLANNERS, *_SINGLE), (*_PLANNERS, *_SINGLE)),
        decisive=_half("planner"),
        conditions=tuple(
            Comparison.between(
                "planner", plan, "worst share", name=f"planner over {plan} alone", falsifies=False
            )
            for plan in _PLANS
        ),
        secondary=(
            _half("planner, tuned"),
            *(Comparison.between("planner", name, "worst share")
              for name in _SINGLE if name not in _PLANS),
        ),
        run=_run,
        seeds=5,
        scales=_SCALES,
        setup=_SETUP,
        limits="The claim is the practical advice the paper draws from its observations, tested on "
        f"our own planner. {_LIMITS}",
    ),
    Reproduction(
        slug="fanns-benchmark-specialised",
        paper=PAPER,
        arxiv=ARXIV,
        claim="Indexes built for one kind of filter are faster than ACORN, which serves every "
        "kind, at the same recall: label indexes on labels, range indexes on ranges.",
        falsifier="On labels or on ranges, ACORN is as near to the fastest method as the indexes "
        "built for them.",
        arms=tuple(
            Arm(name, f"the fastest of {', '.join(methods)} in each cell", {"any of them": methods})
            for name, methods in _GROUPS.items()
        ),
        decisive=Comparison.between("label indexes", "ACORN", "labels share"),
        conditions=(Comparison.between("range indexes", "ACORN", "ranges share"),),
        run=_run_groups,
        seeds=3,
        scales={
            "mini": {
                "rows": 12_000, "dim": 48, "queries": 40, "rounds": 3, "slowest": 0.02,
                "kinds": ["exact", "range"], "shares": [0.5, 0.25, 0.1],
                "correlated shares": [0.25], "columns": ["kind", "number", "along"],
                "labels": ["kind"], "ordered": ["number", "along"],
            },
            "gpu": {
                "rows": 50_000, "dim": 128, "queries": 100, "rounds": 3, "slowest": 0.02,
                "kinds": ["exact", "set", "range"], "shares": [0.5, 0.25, 0.1, 0.03],
                "correlated shares": [0.1], "columns": ["kind", "tags", "number", "along"],
                "labels": ["kind", "tags"], "ordered": ["number", "along"],
            },
        },
        setup=f"{_SETUP} Here the cells are those of one label column and of two columns of "
        "ranges, with shares that leave more than 1,000 rows: with fewer, all of these indexes "
        "scan. Each index is built for each column that it can serve. The share of a group is "
        "that of its fastest member in each cell, averaged over the cells of labels, or of ranges.",
        limits="All are our own builds, on one set of kernels; the paper ran the authors' code. "
        "A group of three has more chances to be fast in a cell than a group of two. Labels are "
        "independent of the vectors.",
    ),
)  # fmt: skip
