"""Metrics against hand-computed values, a slow obvious implementation, and peers if present."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedworks.errors import DuplicateIdError, InputError, NonFiniteError, UnknownNameError
from embedworks.evaluation import (
    METRICS,
    average_precision,
    mrr_at_k,
    ndcg_at_k,
    parse_metric,
    precision_at_k,
    rank_documents,
    recall_at_k,
    success_at_k,
)

DOCS = [f"d{i}" for i in range(12)]


def slow(name, ranked, judgements, k):
    """The definitions, one loop each."""
    cut = len(ranked) if k is None else k
    top = ranked[:cut]
    relevance = [max(judgements.get(doc, 0), 0) for doc in top]
    relevant = sum(1 for value in judgements.values() if value > 0)
    if name == "recall":
        return sum(1 for value in relevance if value) / relevant
    if name == "precision":
        return sum(1 for value in relevance if value) / cut if cut else 0.0
    if name == "success":
        return 1.0 if any(relevance) else 0.0
    if name == "mrr":
        for place, value in enumerate(relevance):
            if value:
                return 1 / (place + 1)
        return 0.0
    if name == "map":
        total = 0.0
        for place, value in enumerate(relevance):
            if value:
                total += sum(1 for v in relevance[: place + 1] if v) / (place + 1)
        return total / relevant
    ideal = sorted((max(v, 0) for v in judgements.values()), reverse=True)
    ideal = ideal if k is None else ideal[:k]

    def discounted(values):
        return sum(value / math.log2(place + 2) for place, value in enumerate(values))

    return discounted(relevance) / discounted(ideal)


@given(
    ranked=st.permutations(DOCS).flatmap(
        lambda docs: st.integers(0, len(docs)).map(lambda n: docs[:n])
    ),
    judgements=st.dictionaries(st.sampled_from(DOCS), st.integers(-1, 4), min_size=1).filter(
        lambda j: any(v > 0 for v in j.values())
    ),
    k=st.one_of(st.none(), st.integers(1, 15)),
)
def test_every_metric_equals_the_slow_one(ranked, judgements, k):
    for name in METRICS:
        value = METRICS[name](ranked, judgements, k)
        assert value == pytest.approx(slow(name, ranked, judgements, k), abs=1e-12)
        assert 0.0 <= value <= 1.0


def test_hand_computed():
    ranked = ["x", "a", "y", "b", "z"]
    judgements = {"a": 2, "b": 1, "c": 3, "x": 0}
    dcg = 2 / math.log2(3) + 1 / math.log2(5)
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert ndcg_at_k(ranked, judgements, 10) == pytest.approx(dcg / ideal)
    assert ndcg_at_k(ranked, judgements, 2) == pytest.approx(
        (2 / math.log2(3)) / (3 + 2 / math.log2(3))
    )
    assert recall_at_k(ranked, judgements, 3) == pytest.approx(1 / 3)
    assert precision_at_k(ranked, judgements, 10) == pytest.approx(0.2)
    assert precision_at_k(ranked, judgements) == pytest.approx(0.4)
    assert mrr_at_k(ranked, judgements, 10) == 0.5
    assert mrr_at_k(ranked, judgements, 1) == 0.0
    assert average_precision(ranked, judgements, 10) == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert success_at_k(ranked, judgements, 2) == 1.0
    assert success_at_k(ranked, judgements, 1) == 0.0


def test_perfect_ranking_is_exactly_one():
    judgements = {f"d{i}": i % 4 for i in range(30)}
    ranked = sorted(judgements, key=lambda doc: -judgements[doc])
    assert ndcg_at_k(ranked, judgements, 10) == 1.0


def test_empty_ranking_scores_zero():
    for name in METRICS:
        assert METRICS[name]([], {"a": 1}, 10) == 0.0
        assert METRICS[name]([], {"a": 1}, None) == 0.0


def test_ties_are_broken_by_id_descending():
    assert rank_documents({"a": 0.5, "c": 0.5, "b": 0.5, "z": 0.1}) == ["c", "b", "a", "z"]
    assert rank_documents({"10": 1.0, "9": 1.0}) == ["9", "10"]  # as text, not as numbers
    assert rank_documents({"a": -math.inf, "b": math.inf}) == ["b", "a"]
    assert rank_documents({}) == []


@given(st.dictionaries(st.text(max_size=3), st.sampled_from([0.0, 0.5, 1.0])))
def test_ranking_is_sorted(scores):
    ranked = rank_documents(scores)
    keys = [(scores[doc], doc) for doc in ranked]
    assert keys == sorted(keys, reverse=True)
    assert set(ranked) == set(scores)


def test_nan_scores_are_refused():
    with pytest.raises(NonFiniteError, match="'b'"):
        rank_documents({"a": 1.0, "b": math.nan})


def test_no_relevant_document_is_refused():
    for name in METRICS:
        with pytest.raises(InputError, match="leave the query out"):
            METRICS[name](["a"], {"a": 0}, 10)


def test_bad_rankings_are_refused():
    with pytest.raises(DuplicateIdError, match="'a'"):
        ndcg_at_k(["a", "b", "a"], {"a": 1}, 10)
    with pytest.raises(InputError, match="one string"):
        ndcg_at_k("ab", {"a": 1}, 10)
    with pytest.raises(InputError, match="k must be"):
        ndcg_at_k(["a"], {"a": 1}, 0)


def test_parse_metric_round_trip():
    for text in ("ndcg@10", "recall@100", "map", "success@1"):
        assert parse_metric(text).label == text
    assert parse_metric(" mrr@10 ").k == 10
    assert parse_metric("mrr@10")(["x", "a"], {"a": 1}) == 0.5


@pytest.mark.parametrize("text", ["ndcg@0", "ndcg@-1", "ndcg@", "ndcg@ten", "ndcg@1.5", "ndcg@١"])
def test_bad_cutoffs(text):
    with pytest.raises(InputError, match="ndcg@10"):
        parse_metric(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [("ndgc@10", "'ndcg@10'"), ("recal@5", "'recall@5'"), ("nDCG@10", "ndcg@10"), ("", "Known")],
)
def test_unknown_metrics_get_a_hint(text, hint):
    with pytest.raises(UnknownNameError, match=hint):
        parse_metric(text)


def test_metric_must_be_a_string():
    with pytest.raises(InputError, match="string"):
        parse_metric(10)


def test_every_metric_has_a_summary():
    assert all(METRICS.summary(name).endswith(".") for name in METRICS)


def test_equals_pytrec_eval():
    peer = pytest.importorskip("pytrec_eval", reason="peer is not installed")
    qrels = {"q": {"a": 2, "b": 1, "c": 3, "d": 0}}
    run = {"q": {"x": 1.0, "a": 0.5, "b": 0.5, "d": 0.5, "c": 0.1}}
    theirs = peer.RelevanceEvaluator(qrels, {"ndcg_cut.10", "map_cut.10", "recall.10", "P.10"})
    expected = theirs.evaluate(run)["q"]
    ranked = rank_documents(run["q"])
    assert ndcg_at_k(ranked, qrels["q"], 10) == pytest.approx(expected["ndcg_cut_10"])
    assert average_precision(ranked, qrels["q"], 10) == pytest.approx(expected["map_cut_10"])
    assert recall_at_k(ranked, qrels["q"], 10) == pytest.approx(expected["recall_10"])
    assert precision_at_k(ranked, qrels["q"], 10) == pytest.approx(expected["P_10"])
