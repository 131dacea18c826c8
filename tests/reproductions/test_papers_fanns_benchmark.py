"""Very small runs of the filtered-search entries, and how cells become verdicts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from embedworks.evaluation import FilteredReport
from embedworks.evaluation.filtered.report import CellReport, Point
from embedworks.reproductions import Context, ReproductionResult, reproduce
from embedworks.reproductions.papers import fanns_benchmark

BEST, PLANNER, SPECIALISED = fanns_benchmark.ENTRIES

SMALL = {
    "rows": 1500, "dim": 12, "queries": 5, "rounds": 1, "slowest": 0.05, "shares": [0.1],
    "correlated shares": [], "kinds": ["exact", "range"],
}  # fmt: skip


def _point(method, recall, qps):
    return Point(method, 1.0, recall, 0, 0, (1 / qps,), 1 / qps, 1 / qps)


def _cell(name, kind, *points):
    return CellReport(name, kind, 0.1, "none", 0.1, 0.0, 1, "", points)


@pytest.fixture
def report():
    """Two cells: `a` is best in one and at half in the other; `b` misses the recall in one."""
    first = _cell("one", "range", _point("a", 1.0, 100), _point("b", 0.9, 900),
                  _point("planner", 0.96, 120))  # fmt: skip
    second = _cell("two", "set", _point("a", 1.0, 100), _point("b", 1.0, 200),
                   _point("planner", 1.0, 120))  # fmt: skip
    return FilteredReport({}, 0.95, ("planner",), {}, (first, second))


def test_a_method_is_as_good_as_its_worst_cell(report, tmp_path, monkeypatch):
    monkeypatch.setattr(fanns_benchmark, "_measured", lambda *_: report)
    context = Context("mini", "test", {}, "cpu", tmp_path)

    def found(name, *, anyone=False):
        arm = replace(BEST.arms[0], name=name, settings={"measured with": ("a", "b"),
                                                         "any of them": anyone})  # fmt: skip
        return fanns_benchmark._run(arm, 0, {}, context).metrics

    assert found("a")["worst share"] == pytest.approx(0.5)
    assert found("b")["worst share"] == 0.0
    assert found("planner")["worst share"] == pytest.approx(0.6)
    assert found("x", anyone=True)["worst share"] == pytest.approx(0.5)
    assert (found("a")["best in"], found("b")["cells at the recall"]) == (0.5, 0.5)
    assert (found("a")["range share"], found("a")["set share"]) == (1.0, pytest.approx(0.5))


def test_a_very_small_run(tmp_path):
    methods = ("planner", "numpy exact", "exact plan")
    arms = fanns_benchmark._arms(methods, methods)
    small = replace(
        PLANNER, arms=arms, conditions=(), secondary=(), seeds=2, scales={"mini": SMALL}
    )
    result = reproduce(small, out=tmp_path, device="cpu")
    assert ReproductionResult.load(tmp_path / "fanns-benchmark-planner-mini.json") == result
    means = {arm.name: arm.metrics for arm in result.arms}
    assert means["numpy exact"]["cells at the recall"].mean == 1.0
    assert means["numpy exact"]["best in"].mean + means["exact plan"]["best in"].mean == (
        pytest.approx(1.0)
    )
    assert 0 < means["numpy exact"]["worst share"].mean <= 1


def test_the_fastest_of_a_group_counts(report, tmp_path, monkeypatch):
    monkeypatch.setattr(fanns_benchmark, "_measured", lambda *_: report)
    arm = replace(SPECIALISED.arms[0], settings={"any of them": ["a", "b"]})
    context = Context("mini", "test", {}, "cpu", tmp_path)
    found = fanns_benchmark._run_groups(arm, 0, {}, context).metrics
    assert found == {"labels share": pytest.approx(1.0), "ranges share": pytest.approx(1.0)}
    alone = replace(arm, settings={"any of them": ["b"]})
    found = fanns_benchmark._run_groups(alone, 0, {}, context).metrics
    assert found == {"labels share": 1.0, "ranges share": 0.0}


def test_a_method_that_is_always_best_refutes_the_claim():
    ends = BEST.decisive.values({"best of them": [0.97, 0.99]})
    assert all(value > 0 for value in ends)
    assert BEST.decisive.claim == "less"
