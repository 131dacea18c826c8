"""Ranking metrics against loops written from trec_eval's definitions, scikit-learn, pytrec_eval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.evaluation import evaluate_run, rank_documents

DOCS = [f"d{i}" for i in range(14)]
SCORES = st.dictionaries(
    st.sampled_from(DOCS), st.sampled_from([0.0, 0.25, 0.5, 0.5, 1.0, -1.0]), min_size=1
)
QRELS = st.dictionaries(st.sampled_from(DOCS), st.integers(-1, 3), min_size=1).filter(
    lambda judged: any(value > 0 for value in judged.values())
)
METRICS = ("ndcg@10", "ndcg@3", "map", "map@5", "recall@5", "precision@5", "mrr", "success@3")


def trec_order(scores):
    """By score, then by document number, both descending: trec_eval ignores the ranks given."""
    order = []
    left = dict(scores)
    while left:
        best = None
        for doc, score in left.items():
            if best is None or score > left[best] or (score == left[best] and doc > best):
                best = doc
        order.append(best)
        del left[best]
    return order


def trec_value(name, scores, judged):
    """One query's value as trec_eval defines it; unjudged and below 1 is not relevant."""
    kind, _, cut = name.partition("@")
    order = trec_order(scores)
    k = int(cut) if cut else len(order)
    num_rel = 0
    for value in judged.values():
        num_rel += value > 0
    rel_so_far, sum_precision, first, dcg = 0, 0.0, 0, 0.0
    for place in range(min(k, len(order))):
        value = judged.get(order[place], 0)
        if value > 0:
            rel_so_far += 1
            sum_precision += rel_so_far / (place + 1)
            first = first or place + 1
            dcg += value / math.log(place + 2, 2)
    if kind == "map":
        return sum_precision / num_rel
    if kind == "recall":
        return rel_so_far / num_rel
    if kind == "precision":
        return rel_so_far / k
    if kind == "mrr":
        return 1 / first if first else 0.0
    if kind == "success":
        return float(rel_so_far > 0)
    ideal = 0.0
    gains = sorted((value for value in judged.values() if value > 0), reverse=True)
    for place in range(min(k, len(gains)) if cut else len(gains)):
        ideal += gains[place] / math.log(place + 2, 2)
    return dcg / ideal


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(SCORES, QRELS), min_size=1, max_size=4))
def test_metrics_equal_trec_eval_loops(rows):
    run = {f"q{i}": scores for i, (scores, _) in enumerate(rows)}
    qrels = {f"q{i}": judged for i, (_, judged) in enumerate(rows)}
    result = evaluate_run(run, qrels, metrics=METRICS, n_resamples=100)
    for metric in METRICS:
        values = result.per_query(metric)
        for query, scores in run.items():
            assert values[query] == pytest.approx(
                trec_value(metric, scores, qrels[query]), abs=1e-9
            )


@settings(max_examples=80, deadline=None)
@given(SCORES)
def test_order_equals_the_loop(scores):
    assert rank_documents(scores) == trec_order(scores)


def test_missing_queries_count_as_zero_and_unjudged_ones_do_not_count():
    """As ``trec_eval -c``: means are over the judged queries that have a relevant document."""
    qrels = {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 0}}
    result = evaluate_run({"a": {"x": 1.0}, "z": {"x": 1.0}}, qrels, metrics=["map"])
    assert result.per_query("map") == {"a": 1.0, "b": 0.0}
    assert result.intervals["map"].mean == 0.5
    assert (result.skipped, result.without_results, result.unjudged) == (1, 1, 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 10, None]))
def test_ndcg_equals_scikit_learn_without_ties(seed, k):
    """Both sides have every document and no two scores are equal: the conventions agree there."""
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 15))
    scores = rng.permutation(count).astype(float)
    gains = rng.integers(0, 4, size=count)
    gains[rng.integers(count)] = 3
    run = {"q": {f"d{i}": scores[i] for i in range(count)}}
    qrels = {"q": {f"d{i}": int(gains[i]) for i in range(count)}}
    label = "ndcg" if k is None else f"ndcg@{k}"
    mine = evaluate_run(run, qrels, metrics=[label], n_resamples=100).per_query(label)["q"]
    theirs = sklearn.ndcg_score(gains[None, :], scores[None, :], k=k)
    assert mine == pytest.approx(theirs, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_average_precision_equals_scikit_learn_without_ties(seed):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 15))
    scores = rng.permutation(count).astype(float)
    relevant = rng.integers(0, 2, size=count)
    relevant[rng.integers(count)] = 1
    run = {"q": {f"d{i}": scores[i] for i in range(count)}}
    qrels = {"q": {f"d{i}": int(relevant[i]) for i in range(count)}}
    mine = evaluate_run(run, qrels, metrics=["map"], n_resamples=100).per_query("map")["q"]
    assert mine == pytest.approx(sklearn.average_precision_score(relevant, scores), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(SCORES, QRELS)
def test_metrics_equal_pytrec_eval(scores, judged):
    peer = pytest.importorskip("pytrec_eval", reason="peer is not installed")
    names = {
        "ndcg@10": "ndcg_cut_10", "map": "map", "map@5": "map_cut_5", "recall@5": "recall_5",
        "precision@5": "P_5", "mrr": "recip_rank", "success@3": "success_3",
    }  # fmt: skip
    wanted = {"ndcg_cut.10", "map", "map_cut.5", "recall.5", "P.5", "recip_rank", "success.3"}
    theirs = peer.RelevanceEvaluator({"q": judged}, wanted).evaluate({"q": scores})["q"]
    mine = evaluate_run({"q": scores}, {"q": judged}, metrics=list(names), n_resamples=100)
    for metric, name in names.items():
        assert mine.per_query(metric)["q"] == pytest.approx(theirs[name], abs=1e-9)
