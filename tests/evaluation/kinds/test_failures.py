"""The listing of the worst queries."""

from __future__ import annotations

import json

import pytest

from embedworks.errors import InputError
from embedworks.evaluation import FailedQuery, worst_queries

QRELS = {"good": {"a": 1}, "worse": {"b": 1}, "zero": {"c": 2, "d": 1}, "none": {"a": 0}}
QUERIES = {"good": "find a", "worse": "find b", "zero": "find c"}
BASE = {"good": {"a": 1.0}, "worse": {"b": 1.0}, "zero": {"x": 1.0}}
NEW = {
    "good": {"a": 1.0},
    "worse": {"x": 0.9, "y": 0.8, "b": 0.7},
    "zero": {"x": 0.9, "y": 0.8, "d": 0.1},
}


def test_lowest_scores_first_and_full_scores_left_out():
    listing = worst_queries(NEW, QRELS, QUERIES, metric="mrr@2")
    assert [item.query_id for item in listing] == ["worse", "zero"]
    assert all(item.score == 0.0 and item.baseline_score is None for item in listing)


def test_largest_loss_against_the_baseline_first():
    listing = worst_queries(NEW, QRELS, QUERIES, metric="mrr@10", baseline=BASE)
    assert [item.query_id for item in listing] == ["worse", "zero"]
    assert (listing[0].score, listing[0].baseline_score) == (pytest.approx(1 / 3), 1.0)
    assert listing[1].baseline_score == 0.0


def test_what_was_expected_and_found():
    item = worst_queries(NEW, QRELS, QUERIES, metric="mrr@2", titles={"c": "C title"})[1]
    assert item.text == "find c"
    assert [(e.doc_id, e.relevance, e.rank, e.title) for e in item.expected] == [
        ("c", 2, None, "C title"),
        ("d", 1, 3, "d"),
    ]
    assert [(f.doc_id, f.rank, f.relevance) for f in item.found] == [
        ("x", 1, 0),
        ("y", 2, 0),
        ("d", 3, 1),
    ]
    assert [f.score for f in item.found] == [0.9, 0.8, 0.1]


def test_limits():
    assert len(worst_queries(NEW, QRELS, QUERIES, metric="mrr@2", k=1)) == 1
    assert len(worst_queries(NEW, QRELS, QUERIES, metric="mrr@2", depth=1)[1].found) == 1
    with pytest.raises(InputError, match="k must be"):
        worst_queries(NEW, QRELS, QUERIES, k=0)


def test_a_query_without_results():
    item = worst_queries({"good": {"a": 1.0}}, {"good": {"a": 1}, "q": {"a": 1}}, {})[0]
    assert (item.query_id, item.text, item.found) == ("q", "q", ())


def test_round_trip_through_json():
    for item in worst_queries(NEW, QRELS, QUERIES, baseline=BASE):
        assert FailedQuery.from_dict(json.loads(json.dumps(item.to_dict()))) == item
