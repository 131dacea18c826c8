"""`FilteredIndex` as a contestant: its planner, and each of its plans alone.

The knob is the recall aimed at, from which the calibration tells the width of a walk.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from embedworks.evaluation.filtered.methods import Answer, BuiltIndex, FilteredMethod
from embedworks.evaluation.filtered.worlds import FilteredData
from embedworks.index.where import Condition

__all__ = ["METHODS"]


def _build_planned(data: FilteredData) -> BuiltIndex:
    from embedworks.index.filtered.planned import FilteredIndex

    index = FilteredIndex.build(data.vectors, data.table, ordered=data.ordered)
    without = sum(index.table.memory().values())
    return BuiltIndex(index, sum(index.memory().values()) - without)


def _ask_planned(plan: str, built: BuiltIndex, data: FilteredData) -> Answer:
    from embedworks.index.filtered.planner import Planner

    index, calibration = built.index, built.index.planner.calibration
    own: dict[float, Planner] = {}  # what the index learns under one plan stays there

    def answer(query: np.ndarray, k: int, where: Condition, target: float) -> np.ndarray:
        index.planner = own.get(target) or own.setdefault(target, Planner(calibration, target))
        found: np.ndarray = index.search(query[None], k, where=where, plan=plan).rows[0]
        return found

    return answer


def _forget_planned(built: BuiltIndex) -> None:
    built.index.forget_filters()


def _planned(name: str, plan: str, summary: str, ladder: tuple[float, ...]) -> FilteredMethod:
    return FilteredMethod(
        name,
        summary,
        _build_planned,
        partial(_ask_planned, plan),
        knob="target recall",
        ladder=ladder,
        planner=plan == "auto",
        forget=_forget_planned,
    )


_TARGETS = (0.9, 0.95, 0.98, 0.99)

METHODS: tuple[FilteredMethod, ...] = (
    _planned("planner", "auto", "FilteredIndex as it comes: aims at recall 0.95", (0.95,)),
    _planned("planner, tuned", "auto", "FilteredIndex, aiming at several recalls", _TARGETS),
    _planned("exact plan", "exact", "FilteredIndex: score every row that passes", (0.95,)),
    _planned("codes plan", "codes", "FilteredIndex: int8 codes of passing rows first", (0.95,)),
    _planned("lists plan", "lists", "FilteredIndex: nearest inverted lists", _TARGETS),
    _planned(
        "post-filter plan", "post-filter", "FilteredIndex: graph walk, then the filter", _TARGETS
    ),
    _planned("graph plan", "graph", "FilteredIndex: graph walk that keeps passing rows", _TARGETS),
    _planned("two-hop plan", "two-hop", "FilteredIndex: graph walk over passing rows", _TARGETS),
)
