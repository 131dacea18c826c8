"""The report page: complete, closed, escaped, small, readable in both themes."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from embedworks.errors import NonFiniteError, ShapeError, StorageError, UnknownNameError
from embedworks.evaluation import (
    Curve,
    PointMap,
    ReportData,
    StageTime,
    compare_runs,
    render_report,
    worst_queries,
    write_report,
)

HOSTILE = "<script>alert(1)</script>\"'><img src=http://x.example onerror=alert(2)>&\x00\ud800"
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Reader(HTMLParser):
    """Collects tags and checks that they are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(html):
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def full(text="plain", points=40, rows=3, size=1):
    """A report with every section, each user text made from ``text``."""
    long = text * size
    qrels = {f"q{i}": {"a": 1} for i in range(20)}
    weak = {q: {"b": 1.0, "a": 0.5} for q in qrels}
    good = {q: {"a": 1.0} if i % 3 else {"b": 1.0} for i, q in enumerate(qrels)}
    runs = {"base" + text: weak, "own" + text: good}
    rng = np.random.default_rng(0)
    return ReportData(
        title=long,
        verdict=long,
        kicker=long,
        key_figures={f"{i}{long}": long for i in range(rows)},
        notes=[long] * rows,
        comparison=compare_runs(runs, qrels, baseline="base" + text),
        own="own" + text,
        labels={"base" + text: "B" + long},
        costs={"own" + text: {"per query" + long: "0.4 ms" + long}},
        failures=worst_queries(
            good,
            qrels,
            dict.fromkeys(qrels, long),
            baseline=weak,
            titles={"a": long, "b": long},
        ),
        failure_baseline=long,
        point_map=PointMap.from_vectors(
            rng.normal(size=(points, 4)),
            [f"{i % 11}{long}" for i in range(points)],
            [f"title {i} {long}" for i in range(points)],
            layout_steps=2,
        ),
        merge_curve=Curve((0.0, 0.5, 1.0), (0.4, 0.5, 0.45), long, long, chosen=0.5, caption=long),
        loss_curve=Curve(range(1000), rng.random(1000), "step", "loss"),
        pair_sources=[{"source": long, "pairs": 1200 + i, "weight": 0.5} for i in range(rows)],
        read={f"{i}{long}": 12345 for i in range(rows)},
        skipped={f"{i}{long}": 7 for i in range(rows)},
        skipped_examples=[(long, long)] * rows,
        timings=[StageTime(long, 60.0, 58.1), StageTime("Index", None, 0.25)],
        provenance={f"{i}{long}": long for i in range(rows)},
        prompts={"query" + long: "", "document": long},
        recipe=long,
    )


def test_every_section_is_there():
    html = render_report(full())
    reader = read(html)
    for name in ("Result", "Worst queries", "Map", "Training", "What was read", "Time"):
        assert f"<h2>{name}</h2>" in html
    assert reader.tags.count("h1") == 1
    assert reader.tags.count("figure") == 3 + 1 + 2
    assert "1,200" in html
    assert "12,345" in html
    assert "1 min 00 s" in html
    assert "250 ms" in html
    assert "95% interval" in html
    assert "20 questions" in html
    assert "all 40 texts" in html.lower()
    assert "Each point is the mean of 5 values." in html


def test_nothing_but_title_and_verdict_is_needed():
    html = render_report(ReportData(title="T", verdict="V"))
    reader = read(html)
    assert "section" not in reader.tags
    assert "nav" not in reader.tags


def test_hostile_text_is_only_text():
    html = render_report(full(HOSTILE))
    reader = read(html)
    assert reader.tags.count("script") == 1
    assert "img" not in reader.tags
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
    assert "\x00" not in html
    html.encode("utf-8")
    assert "&lt;script&gt;" in html


def test_no_outside_resource():
    reader = read(render_report(full("http://x.example/a.js")))
    assert set(reader.tags).isdisjoint({"img", "iframe", "object", "embed", "base", "form"})
    for tag, name, value in reader.attributes:
        if name in ("href", "src", "xlink:href", "action", "srcset"):
            assert value.startswith("#") or (tag == "link" and value == "data:,")
    assert "@import" not in render_report(full())
    assert "url(" not in render_report(full())


def test_policy_allows_exactly_the_own_script():
    html = render_report(full())
    script = re.search(r"<script>(.*?)</script>", html, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html).group(1)
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_size_stays_bounded():
    html = render_report(full("длинный <текст> & ", points=5000, rows=400, size=2000))
    assert len(html.encode()) < 3_000_000
    read(html)
    assert "3,000 of 5,000 texts" in html
    assert "more rows are not shown" in html


def test_tables_and_pictures_are_accessible():
    reader = read(render_report(full()))
    assert reader.tags.count("caption") == reader.tags.count("table")
    heads = [a for a in reader.attributes if a[0] == "th" and a[1] == "scope"]
    assert len(heads) == reader.tags.count("th")
    named = sum(1 for tag, name, _ in reader.attributes if (tag, name) == ("svg", "aria-label"))
    hidden = sum(1 for tag, name, _ in reader.attributes if (tag, name) == ("svg", "aria-hidden"))
    assert named + hidden == reader.tags.count("svg")
    assert ("html", "lang", "en") in reader.attributes


def luminance(colour):
    full_form = colour if len(colour) == 7 else "#" + "".join(c * 2 for c in colour[1:])
    parts = [int(full_form[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_in_both_themes():
    html = render_report(full())
    light = dict(re.findall(r"--([\w-]+):(#\w+)", html.split("@media")[0]))
    dark = {**light, **dict(re.findall(r"--([\w-]+):(#\w+)", html.split("@media")[1]))}
    for theme in (light, dark):
        for ground in ("paper", "raised"):
            for text in ("ink", "soft", "own", "good", "bad"):
                assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
            for number in range(8):
                assert contrast(theme[f"g{number}"], theme[ground]) >= 3.0, (number, ground)
        assert contrast(theme["ink"], theme["own-wash"]) >= 4.5
        assert contrast(theme["soft"], theme["own-wash"]) >= 4.5


def test_one_question_and_one_point():
    qrels = {"q": {"a": 1}}
    runs = {"base": {"q": {"b": 1.0}}, "own": {"q": {"a": 1.0}}}
    data = ReportData(
        title="T",
        verdict="V",
        comparison=compare_runs(runs, qrels, baseline="base"),
        own="own",
        point_map=PointMap.from_vectors(np.ones((1, 3)), ["g"], ["t"]),
        merge_curve=Curve([0.0], [0.4], "w", "s", chosen=0.0),
    )
    html = render_report(data)
    read(html)
    assert "one question, no interval" in html
    assert "nan" not in html.split("<script>")[0].split("</style>")[1].lower()


def test_mirrored_and_unclear_differences():
    html = render_report(full())
    assert "▲" in html
    unclear = compare_runs(
        {"a": {"q1": {"x": 1.0}}, "b": {"q1": {"x": 1.0}}},
        {"q1": {"x": 1}, "q2": {"x": 1}, "q3": {"y": 0}},
        baseline=["a", "b"],
    )
    html = render_report(ReportData(title="T", verdict="V", comparison=unclear))
    assert "≈ +0.000" in html
    assert html.count(" − ") == 1
    assert "1 questions without a relevant document" not in html
    assert "1 question without a relevant document is left out" in html


def test_write_replaces_in_one_step(tmp_path):
    path = write_report(ReportData(title="T", verdict="V"), tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        write_report(ReportData(title="T", verdict="V"), tmp_path / "file" / "report.html")


def test_same_data_same_page():
    assert render_report(full()) == render_report(full())


def test_bad_parts_are_refused():
    with pytest.raises(ShapeError, match="as many x as y"):
        Curve([1.0], [], "x", "y")
    with pytest.raises(NonFiniteError):
        Curve([1.0], [float("nan")], "x", "y")
    with pytest.raises(ShapeError, match="groups"):
        PointMap(np.zeros((2, 2)), ["a"], ["a", "b"], 2)
    with pytest.raises(ShapeError, match="titles"):
        PointMap.from_vectors(np.zeros((2, 3)), ["a", "b"], ["a"])
    with pytest.raises(UnknownNameError, match="own"):
        ReportData(title="T", verdict="V", own="x")
    with pytest.raises(UnknownNameError, match="costs"):
        ReportData(title="T", verdict="V", costs={"x": {}})
