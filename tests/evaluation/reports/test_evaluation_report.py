"""The evaluation report: complete, closed, escaped, small, and the same figures in both forms."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from embedworks.errors import DuplicateIdError, EmptyInputError, StorageError
from embedworks.evaluation import (
    EncoderSystem,
    Failure,
    LexicalSystem,
    Resampling,
    RetrievalTask,
    Score,
    StsTask,
    SystemResult,
    TaskResult,
    dimension_sweep,
    evaluate_systems,
    evaluation_markdown,
    length_sweep,
    quantisation_sweep,
    render_evaluation_report,
    write_evaluation_report,
)
from embedworks.evaluation.outcomes import Cost

HOSTILE = "<script>alert(1)</script>\"'><img src=http://x.example onerror=alert(2)>&\x00\ud800|`"
VOID = {"meta", "link", "br", "img", "input", "hr"}
QUICK = Resampling(n_resamples=100)


class Reader(HTMLParser):
    """Collects tags and text, and checks that tags are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links, self.anchors, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("href", "src"):
                self.links.append(value)
            if name == "id":
                self.anchors.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def read(html):
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


class Letters:
    def __init__(self):
        self.prompts = {"query": "find: "}

    def encode(self, texts):
        rows = np.zeros((len(texts), 16), dtype=np.float32)
        for row, text in enumerate(texts):
            for place, letter in enumerate(text):
                rows[row, ord(letter) % 16] += (-1) ** place
        return rows


@pytest.fixture(scope="module")
def real():
    words = ["archive", "median", "socket", "parser", "thread", "colour", "market", "garden"]
    docs = {f"d{i}": f"about {w} number {i} and more of it" for i, w in enumerate(words * 3)}
    queries = {f"q{i}": w for i, w in enumerate(words)}
    qrels = {f"q{i}": {f"d{i}": 2, f"d{i + 8}": 1} for i in range(8)}
    search = RetrievalTask("search", queries, docs, qrels)
    pairs = StsTask("pairs", [(a, b, float(a[0] == b[0])) for a in words for b in words])
    letters = EncoderSystem(Letters(), name="letters")
    systems = [
        letters,
        *dimension_sweep(letters, [4, 8]),
        *quantisation_sweep(letters, ["int8", "binary"]),
        LexicalSystem(),
    ]
    return evaluate_systems(
        systems,
        [search, pairs, *length_sweep(search, [2, 4])],
        resampling=QUICK,
        skipped={"absent": "absent.parquet not in data"},
    )


def made(name, tasks=1, failures=1, text="plain"):
    rng = np.random.default_rng(len(name))
    results = {}
    for place in range(tasks):
        task = f"task {place} {text}"
        results[task] = TaskResult(
            task,
            "retrieval",
            "ndcg@10",
            {"ndcg@10": Score.of_values(rng.random(12), QUICK)},
            items=tuple(f"i{i}" for i in range(12)),
            excluded={text: 3},
            failures=tuple(
                Failure(f"i{i}", text, 0.1, (text,) * 3, (text,) * 3) for i in range(failures)
            ),
            details={"instruction": text, "sweep": {"label": text, "x": [1, 2], "y": [0.1, 0.2]}},
            cost=Cost(1.0, 0.5, 100, 0, 10, 2, 1, 50.0),
        )
    return SystemResult(
        f"{name} {text}",
        {"kind": "encoder", "fingerprint": "abc", "dimension": 8, "prompts": {"query": text}},
        results,
        skipped={f"skipped {text}": text},
        errors={f"failed {text}": text},
        resampling=QUICK,
        environment={"versions": {"numpy": "2"}, "machine": text, "date": "2026-01-01T00:00:00"},
    )


def test_everything_is_on_the_page(real):
    html = render_evaluation_report(real, title="Letters")
    page = read(html)
    text = " ".join(page.text)
    assert page.anchors.count("tip") == 0
    for anchor in ("systems", "tasks", "differences", "sweeps", "failures", "left-out", "repeat"):
        assert anchor in page.anchors
        assert f"#{anchor}" in page.links
    for part in (
        "search", "pairs", "bm25", "letters[:4]", "Fewer dimensions", "Quantisation",
        "search by words", "absent.parquet not in data", "gives no vectors",
        "prompt 'query'", "find: ", "resamples, seed 0", "versions", "numpy", "MB", "★", "≈",
        "Corrected p",
    ):  # fmt: skip
        assert part in text, part
    assert real[0].about["fingerprint"] in text
    figure = real[0].tasks["search"].main.interval
    assert f"{figure.mean:.3f}" in text
    assert f"[{figure.low:.3f}, {figure.high:.3f}]" in text
    failure = real[0].tasks["search"].failures[0]
    assert failure.text in text
    assert failure.found[0].split(" (")[0] in text
    assert failure.expected[0].split(" (")[0] in text


def test_the_page_needs_nothing_but_itself(real):
    html = render_evaluation_report(real)
    page = read(html)
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert "default-src 'none'" in html
    assert "@import" not in html
    assert "url(" not in html


def test_failures_are_there_without_the_script(real):
    html = re.sub(r"<script>.*?</script>", "", render_evaluation_report(real), flags=re.DOTALL)
    lists = re.findall(r'<details class="failure" data-task="([^"]*)" data-system="([^"]*)"', html)
    ran = [(task, r.name) for r in real for task in r.tasks if r.tasks[task].failures]
    assert sorted(lists) == sorted(ran)
    assert "<select" not in html  # the script makes the filters, so none is dead without it


def test_hostile_texts_do_no_harm():
    results = [made(name, text=HOSTILE) for name in ("a", "b")]
    html = render_evaluation_report(results, title=HOSTILE)
    page = read(html)
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert "\x00" not in html
    html.encode("utf-8")
    text = evaluation_markdown(results, title=HOSTILE)
    assert not re.search(r"(?<!\\)<(script|img)", text)
    for line in text.splitlines():
        if line.startswith("|"):
            width = len(re.findall(r"(?<!\\)\|", line))
            assert width in (3, 4, 5, 6, 7, 8)


def test_the_page_stays_small():
    results = [made(f"s{i}", tasks=30, failures=10, text="long text " * 60) for i in range(8)]
    html = render_evaluation_report(results, baseline=results[0].name)
    assert len(html.encode()) < 3_000_000
    assert "more are in the result files" in html
    read(html)


def test_one_system_is_enough():
    one = made("alone", tasks=2)
    html = render_evaluation_report([one])
    page = read(html)
    assert "differences" not in page.anchors
    assert "no other system on the same tasks" in " ".join(page.text)
    assert "## Differences" not in evaluation_markdown([one])


def test_systems_without_a_task_in_common():
    a, b = made("a"), made("b")
    task = replace(next(iter(b.tasks.values())), task="other")
    html = render_evaluation_report([a, replace(b, tasks={"other": task})])
    assert "differences" not in read(html).anchors


def test_how_few_items_would_tell_the_same():
    results = []
    for place in range(3):
        values = np.random.default_rng(place).random(60) + 0.2 * place
        task = TaskResult("t", "retrieval", "m", {"m": Score.of_values(values, QUICK)})
        results.append(SystemResult(f"s{place}", {}, {"t": task}, resampling=QUICK))
    assert "How few items would tell the same order" in render_evaluation_report(results)
    text = evaluation_markdown(results)
    row = next(line for line in text.splitlines() if line.startswith("| items "))
    assert row == "| items | 10 | 20 | 50 |"
    assert "How few items" not in evaluation_markdown(results[:2])


def test_mere_descriptions_are_shown_and_not_marked():
    results = []
    for one in (made("a"), made("b")):
        tasks = {name: replace(task, better="neither") for name, task in one.tasks.items()}
        results.append(replace(one, tasks=tasks))
    html = render_evaluation_report(results)
    assert "neither more nor less is better" in html
    assert "differences" not in read(html).anchors
    assert 'class="best"' not in html


def test_a_system_that_failed_everywhere():
    broken = replace(made("broken"), tasks={}, errors={"task 0 plain": "NonFiniteError: NaN"})
    text = " ".join(read(render_evaluation_report([made("a"), made("b"), broken])).text)
    assert "NonFiniteError: NaN" in text
    assert "failed" in text
    assert "broken plain gave no result." in text
    assert "Mean over" in text  # the others still have their means
    read(render_evaluation_report([broken, made("a"), made("b"), made("c")]))
    evaluation_markdown([broken, made("a"), made("b"), made("c")])
    read(render_evaluation_report([broken]))
    evaluation_markdown([broken])


def test_markdown_tables_are_regular(real):
    text = evaluation_markdown(real)
    for block in text.split("\n\n"):
        if block.startswith("|"):
            rows = [len(re.findall(r"(?<!\\)\|", line)) for line in block.strip().splitlines()]
            assert len(set(rows)) == 1, block
    for heading in ("## Systems", "## Tasks", "## Differences", "## Fewer dimensions of letters",
                    "## Worst failure of each", "## Left out", "## How to repeat it"):  # fmt: skip
        assert heading in text


def test_both_files_are_written(real, tmp_path):
    html, text = write_evaluation_report(real, tmp_path / "sub" / "report.v2")
    assert (html.name, text.name) == ("report.v2.html", "report.v2.md")
    assert html.read_text() == render_evaluation_report(real)
    assert text.read_text() == evaluation_markdown(real)
    html, _ = write_evaluation_report(real, tmp_path / "page.html")
    assert html == tmp_path / "page.html"
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_evaluation_report(real, tmp_path / "file" / "page.html")


def test_bad_input():
    with pytest.raises(EmptyInputError):
        render_evaluation_report([])
    with pytest.raises(DuplicateIdError):
        render_evaluation_report([made("a"), made("a")])
