"""Is everything that was measured drawn where it belongs?"""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from embedworks.evaluation.filtered.plots import render_filtered_curves, render_filtered_speeds
from embedworks.evaluation.filtered.report import CellReport, FilteredReport, Point

SVG = "{http://www.w3.org/2000/svg}"


def point(method, recall, qps):
    return Point(method, 1.0, recall, 0, 0, (1 / qps,), 1 / qps, 1 / qps)


def cell(name, *points):
    return CellReport(name, "range", 0.1, "none", 0.1, 0.0, 1, "", points)


@pytest.fixture
def report():
    easy = cell("easy", point("a & b", 0.97, 100), point("a & b", 0.6, 1000),
                point("planner", 0.99, 10_000))  # fmt: skip
    hard = cell("hard", point("a & b", 0.4, 500), point("planner", 0.9, 50))
    return FilteredReport({"k": 5}, 0.95, ("planner",), {}, (easy, hard))


def marks(svg):
    """Return the (x, y) of every mark, without the legend's two."""
    found = ElementTree.fromstring(svg).iter(f"{SVG}path")
    texts = [path.get("transform")[len("translate(") : -1].split() for path in found]
    return [(float(x), float(y)) for x, y in texts][2:]


def labels(svg):
    return [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_speeds(report):
    svg = render_filtered_speeds(report)
    slow, fast = sorted(marks(svg))
    assert slow[1] == fast[1]  # one row; the other has none at the recall
    assert {"a & b", "planner", "easy", "hard", "no method reaches it"} <= set(labels(svg))
    ticks = {t.text: float(t.get("x")) for t in ElementTree.fromstring(svg).iter(f"{SVG}text")}
    assert (slow[0], fast[0]) == pytest.approx((ticks["100"], ticks["10,000"]), abs=0.1)
    assert "recall@5 of 0.95" in labels(svg)[0]


def test_curves(report):
    svg = render_filtered_curves(report, columns=2)
    drawn = marks(svg)
    assert len(drawn) == 4  # the point with recall 0.4 is left out
    low, high = drawn[:2]  # of one method, by recall
    assert low[0] < high[0]
    assert low[1] < high[1]  # less recall, more speed: higher up
    lines = list(ElementTree.fromstring(svg).iter(f"{SVG}polyline"))
    assert len(lines) == 3
