"""The benchmark on small data: right answers, honest counts, and what is left out says why."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from embedworks.errors import (
    DuplicateIdError,
    EmptyInputError,
    FormatError,
    InputError,
    UnknownNameError,
)
from embedworks.evaluation.filtered import measurement
from embedworks.evaluation.filtered.contestants import FILTERED_METHODS
from embedworks.evaluation.filtered.measurement import compare_filtered
from embedworks.evaluation.filtered.methods import BuiltIndex, FilteredMethod
from embedworks.evaluation.filtered.own_data import own_filters
from embedworks.evaluation.filtered.report import CellReport, FilteredReport, Point
from embedworks.evaluation.filtered.workloads import FilteredWorkload, filtered_workload
from embedworks.evaluation.filtered.worlds import synthetic_filtered_data

#: Contestants that are built for some columns, and take part where these are named.
FOR_LABELS = ("FilteredVamana", "StitchedVamana", "UNG")
FOR_RANGES = ("segment graph", "range tree")
EXACT = ("numpy exact", "faiss Flat", "exact plan")


@pytest.fixture(scope="module")
def drawn():
    data = synthetic_filtered_data(3000, 16, 8, seed=5)
    return filtered_workload(
        data, shares=(0.5, 0.01), correlations=("none", "negative"), correlated_shares=(0.01,)
    )


@pytest.fixture(scope="module")
def one_cell(drawn):
    return filtered_workload(drawn.data, kinds=["range"], shares=[0.01], correlations=["none"])


@pytest.fixture(scope="module")
def report(drawn):
    return compare_filtered(drawn, rounds=2)


def test_every_method_gives_rows_that_pass(report, drawn):
    assert [cell.name for cell in report.cells] == [cell.name for cell in drawn.cells]
    told = {name for cell in report.cells for name in cell.skipped}
    assert set(report.methods) | told | set(report.skipped_methods) == set(FILTERED_METHODS)
    for cell in report.cells:
        for point in cell.points:
            assert point.wrong == 0, (cell.name, point)
            assert len(point.seconds) == 2
            assert min(point.seconds) > 0
            assert point.median <= point.p99


def test_exact_methods_have_recall_one(report):
    for cell in report.cells:
        for name in EXACT:
            point = cell.fastest(name, 1.0)
            assert point is not None, (cell.name, name)
            assert point.missing == 0


def test_our_index_never_comes_back_short(report):
    for cell in report.cells:
        for point in cell.points:
            if "plan" in point.method:
                assert point.missing == 0, (cell.name, point)


def test_ladders_end_when_the_recall_is_enough(report):
    for cell in report.cells:
        for name in set(report.methods) - set(report.planners):  # these learn between rounds
            recalls = [point.recall for point in cell.points if point.method == name]
            assert all(recall < 0.99 for recall in recalls[:-1]), (cell.name, name)


def test_the_record_comes_back_the_same(report):
    assert FilteredReport.from_dict(report.to_dict()) == report
    with pytest.raises(FormatError, match="no record"):
        FilteredReport.from_dict({"cells": []})


def test_a_method_of_ones_own(one_cell, monkeypatch):
    """Wrong rows, short answers, slowness, refusals and missing modules are all told."""

    def method(name, answer, **more):
        return FilteredMethod(
            name, "", lambda data: BuiltIndex(None, 0), lambda built, data: answer, **more
        )

    cheat = method("cheat", lambda query, k, where, value: np.arange(k))
    short = method("short", lambda query, k, where, value: np.array([-1] * k))
    slow = method("slow", lambda query, k, where, value: time.sleep(0.01), knob="nap")
    picky = method("picky", None, refuses=lambda built, where: "only on Sundays")
    absent = method("absent", None, requires=("no_such_module",))
    own = (cheat, short, slow, picky, absent)
    monkeypatch.setattr(FILTERED_METHODS, "_items", {m.name: m for m in own})
    report = compare_filtered(one_cell, [m.name for m in own], rounds=1, slowest=0.005)
    (cell,) = report.cells
    found = {point.method: point for point in cell.points}
    assert found["cheat"].wrong > 60
    assert found["cheat"].recall < 0.2
    assert (found["short"].recall, found["short"].missing) == (0.0, 8 * 10)
    assert cell.skipped == {"slow": "over 5 ms a query at nap 0", "picky": "only on Sundays"}
    assert report.skipped_methods == {"absent": "no_such_module is not installed"}
    assert report.best(cell) is None


def test_indexes_for_columns():
    """They answer on the columns they were built for, and refuse the others."""
    made = synthetic_filtered_data(400, 8, 4)
    data = replace(made, labels=("kind", "tags"), ordered=("number",))
    on_label, on_range, elsewhere = (
        own_filters(data, [where])
        for where in ("tags CONTAINS '0.5-0'", "number < 200", "cluster = 3")
    )
    workload = FilteredWorkload(data, (on_label, on_range, elsewhere))
    report = compare_filtered(workload, [*FOR_LABELS, *FOR_RANGES], rounds=1)
    labels, ranges, others = report.cells
    assert {p.method for p in labels.points} == set(FOR_LABELS)
    assert {p.method for p in ranges.points} == set(FOR_RANGES)
    assert not others.points
    assert all("built for" in reason for reason in others.skipped.values())
    assert all(p.recall == 1.0 for cell in report.cells for p in cell.points)


def test_what_is_known_is_told_after_each_cell(one_cell):
    seen = []
    compare_filtered(
        one_cell, ["numpy exact"], rounds=1, on_cell=lambda found: seen.append(len(found.cells))
    )
    assert seen == [1]


@pytest.mark.parametrize("keep", [False, True])
def test_filters_are_forgotten_between_queries_unless_they_may_be_kept(one_cell, keep, monkeypatch):
    forgotten = []
    method = FilteredMethod(
        "mine", "", lambda data: BuiltIndex(None, 0),
        lambda built, data: lambda query, k, where, value: np.arange(k),
        forget=forgotten.append,
    )  # fmt: skip
    monkeypatch.setattr(FILTERED_METHODS, "_items", {"mine": method})
    report = compare_filtered(one_cell, ["mine"], rounds=1, keep_filters=keep)
    assert report.settings["keep_filters"] is keep
    assert bool(forgotten) is not keep


def test_threads_are_given_back():
    import faiss

    before = faiss.omp_get_max_threads()
    with measurement.threads_of(1):
        assert faiss.omp_get_max_threads() == 1
    assert faiss.omp_get_max_threads() == before


def test_mistakes_are_named(one_cell):
    with pytest.raises(UnknownNameError, match="faiss Flat"):
        compare_filtered(one_cell, ["faiss flat"])
    with pytest.raises(DuplicateIdError):
        compare_filtered(one_cell, ["planner", "planner"])
    with pytest.raises(EmptyInputError, match="none was named"):
        compare_filtered(one_cell, [])
    with pytest.raises(InputError, match="enough"):
        compare_filtered(one_cell, enough=0.5)
    with pytest.raises(InputError, match="rounds"):
        compare_filtered(one_cell, rounds=0)


def _point(method, recall, seconds):
    return Point(method, 1.0, recall, 0, 0, seconds, seconds[0], seconds[0])


def _cell(name, *points):
    return CellReport(name, "range", 0.1, "none", 0.1, 0.0, 1, "", points)


def test_standings():
    first = _cell(
        "one",
        _point("fast", 0.96, (0.001, 0.004, 0.002)),
        _point("fast", 0.99, (0.008,)),
        _point("sure", 1.0, (0.004,)),
        _point("planner", 0.97, (0.001,)),
        _point("loose", 0.94, (0.0001,)),
    )
    second = _cell(
        "two", _point("fast", 0.5, (0.001,)), _point("sure", 1.0, (0.001,)),
        _point("planner", 1.0, (0.002,)),
    )  # fmt: skip
    nobody = _cell("three", _point("planner", 1.0, (0.001,)), _point("fast", 0.9, (0.001,)))
    report = FilteredReport({}, 0.95, ("planner",), {}, (first, second, nobody))
    assert report.best(first).qps == pytest.approx(500)  # the median round
    assert report.best(first).qps_range == (pytest.approx(250), pytest.approx(1000))
    assert report.single_methods == ("fast", "sure", "loose")
    assert report.standing(first, "planner").share_of_best == pytest.approx(2.0)
    assert report.standing(first, "loose").point is None
    assert report.worst_share("planner") == pytest.approx(0.5)
    assert report.worst_share("sure") == pytest.approx(0.5)
    assert report.worst_share("fast") == 0.0
    assert (report.wins("fast"), report.wins("sure"), report.best(nobody)) == (1, 1, None)
