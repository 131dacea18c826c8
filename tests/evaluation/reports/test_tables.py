"""Comparisons as text."""

from __future__ import annotations

import pytest

from embedworks.errors import UnknownNameError
from embedworks.evaluation import compare_runs, format_table, markdown_table, verdict_sentence

QRELS = {f"q{i}": {"a": 1} for i in range(40)}
GOOD = {q: {"a": 1.0} if int(q[1:]) % 8 else {"b": 1.0, "a": 0.5} for q in QRELS}
WEAK = {q: {"a": 1.0} if int(q[1:]) % 2 else {"b": 1.0} for q in QRELS}
METRICS = ["success@1", "ndcg@10"]


@pytest.fixture(scope="module")
def table():
    runs = {"bm25": WEAK, "base": WEAK, "adapted": GOOD}
    return compare_runs(runs, QRELS, baseline=["base", "bm25"], metrics=METRICS)


def test_columns_are_aligned(table):
    text = format_table(table, labels={"bm25": "BM25", "adapted": "Adapted | model"})
    lines = text.splitlines()
    start = lines[0].index("ndcg@10")
    for line in lines:
        if line.startswith(("BM25", "base", "Adapted")):
            assert line[start - 2 : start] == "  "
            assert line[start] in "0+-"
    assert "40 queries" in lines[-1]
    assert "95%" in lines[-1]
    assert not any(line.endswith(" ") for line in lines)


def test_mirrored_pairs_are_listed_once(table):
    lines = format_table(table).splitlines()
    assert "minus base" in lines
    block = lines[lines.index("minus bm25") + 1 :]
    assert block[0].startswith("adapted")
    assert block[1] == ""


def test_stars_mark_clear_differences(table):
    rows = format_table(table).split("minus base")[1].splitlines()
    assert next(row for row in rows if row.startswith("adapted")).count("*") == 2
    assert "*" not in next(row for row in rows if row.startswith("bm25"))


def test_markdown_escapes_bars_and_stars(table):
    text = markdown_table(table, labels={"adapted": "A | B"})
    assert r"A \| B" in text
    assert r"\*" in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.replace(r"\|", "").count("|") == 4


def test_verdict_names_everything(table):
    sentence = verdict_sentence(table, system="adapted", against=["base", "bm25"])
    assert sentence.startswith(
        "Adapted finds the right passage first in 88% of 40 held-out questions, base in 50%, "
        "bm25 in 50%. The gain over base is 38 points (95% interval +"
    )


def test_verdict_of_a_loss_and_of_noise(table):
    runs = {"base": GOOD, "adapted": WEAK, "same": GOOD}
    other = compare_runs(runs, QRELS, baseline="base", metrics=METRICS)
    assert "The loss against base is 38 points" in verdict_sentence(
        other, system="adapted", against=["base"]
    )
    assert "not clear of noise" in verdict_sentence(other, system="same", against=["base"])


def test_verdict_with_another_metric(table):
    sentence = verdict_sentence(table, system="adapted", against=["base"], metric="ndcg@10")
    assert sentence.startswith("Adapted has ndcg@10 0.954 on 40 held-out questions, base 0.500.")


def test_verdict_of_one_question():
    qrels = {"q0": {"a": 1}}
    runs = {"base": {"q0": {"b": 1.0}}, "new": {"q0": {"a": 1.0}}}
    table = compare_runs(runs, qrels, baseline="base", metrics=["success@1"])
    sentence = verdict_sentence(table, system="new", against=["base"])
    assert "1 held-out question," in sentence
    assert "One question cannot tell" in sentence
    assert "(n = 1)" in format_table(table)


def test_unknown_names(table):
    with pytest.raises(UnknownNameError, match="adapted"):
        verdict_sentence(table, system="adaptd", against=["base"])
    with pytest.raises(UnknownNameError, match="metric"):
        verdict_sentence(table, system="adapted", against=["base"], metric="map")
    with pytest.raises(UnknownNameError, match="baseline"):
        verdict_sentence(table, system="base", against=["adapted"])
