"""Tasks, evaluation of runs, comparisons."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedworks.errors import (
    DataWarning,
    EmptyInputError,
    FormatError,
    InputError,
    NonFiniteError,
    UnknownNameError,
)
from embedworks.evaluation import (
    Comparison,
    EncoderSystem,
    Resampling,
    RetrievalResult,
    RetrievalTask,
    chunk_run_to_doc_run,
    compare_runs,
    evaluate_run,
    ndcg_at_k,
    rank_documents,
)

QRELS = {
    "q1": {"a": 1},
    "q2": {"b": 2, "c": 1},
    "q3": {"d": 0},  # judged, nothing relevant
    "q4": {"a": 1},
}
RUN = {
    "q1": {"a": 0.9, "b": 0.5},
    "q2": {"a": 0.9, "b": 0.8},
    "q3": {"d": 1.0},
    "q9": {"a": 1.0},  # not judged
}


def test_counts_and_values():
    result = evaluate_run(RUN, QRELS)
    assert result.query_ids == ("q1", "q2", "q4")
    assert (result.n, result.skipped, result.without_results, result.unjudged) == (3, 1, 1, 1)
    assert result.metrics == ("ndcg@10", "recall@10", "mrr@10")
    assert result.per_query("mrr@10") == {"q1": 1.0, "q2": 0.5, "q4": 0.0}
    assert result.per_query("recall@10") == {"q1": 1.0, "q2": 0.5, "q4": 0.0}
    assert result.intervals["mrr@10"].mean == pytest.approx(0.5)
    assert result.intervals["mrr@10"].n == 3


@given(
    st.dictionaries(
        st.sampled_from(["q1", "q2", "q4"]),
        st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([0.1, 0.5, 0.9])),
        min_size=1,
    )
)
def test_values_are_those_of_the_pure_functions(run):
    result = evaluate_run(run, QRELS, metrics=["ndcg@3"], n_resamples=100)
    for query, value in result.per_query("ndcg@3").items():
        assert value == ndcg_at_k(rank_documents(run.get(query, {})), QRELS[query], 3)


def test_bad_runs():
    with pytest.raises(InputError, match="same query ids"):
        evaluate_run({"1": {"a": 1.0}}, QRELS)
    with pytest.raises(EmptyInputError, match="relevant"):
        evaluate_run(RUN, {"q3": {"d": 0}})
    with pytest.raises(NonFiniteError):
        evaluate_run({"q1": {"a": math.nan}}, QRELS)
    with pytest.raises(InputError, match="list"):
        evaluate_run(RUN, QRELS, metrics="ndcg@10")
    with pytest.raises(EmptyInputError):
        evaluate_run(RUN, QRELS, metrics=[])
    with pytest.raises(InputError, match="not computed"):
        evaluate_run(RUN, QRELS).per_query("map")


def test_repeated_metrics_count_once():
    assert evaluate_run(RUN, QRELS, metrics=["mrr@10", "mrr@10"]).metrics == ("mrr@10",)


def test_compare_runs():
    better = {"q1": {"a": 1.0}, "q2": {"b": 1.0, "c": 0.5}, "q4": {"a": 1.0}}
    table = compare_runs({"base": RUN, "new": better}, QRELS, baseline="base")
    assert table.systems == ("base", "new")
    assert table.baselines == ("base",)
    assert (table.n, table.confidence) == (3, 0.95)
    gap = table.differences["base"]["new"]["mrr@10"]
    assert gap.mean == pytest.approx(0.5)
    assert "base" not in table.differences["base"]
    with pytest.raises(InputError, match="bas"):
        compare_runs({"base": RUN}, QRELS, baseline="bas")


def test_round_trip_through_json():
    table = compare_runs({"a": RUN, "b": RUN}, QRELS, baseline=["a", "b"])
    again = Comparison.from_dict(json.loads(json.dumps(table.to_dict(), allow_nan=False)))
    assert again == table
    result = table.results["a"]
    assert RetrievalResult.from_dict(result.to_dict()) == result
    with pytest.raises(FormatError, match="lacks"):
        Comparison.from_dict({"results": {}})


def test_task_keeps_what_it_can_and_counts_the_rest():
    queries, corpus = {"q1": "one", "q2": "two"}, {"a": "A", "b": "B"}
    with pytest.warns(DataWarning, match="2 unknown queries.*1 of 3 judgements.*'c'"):
        task = RetrievalTask("toy", queries, corpus, QRELS)
    assert set(task.qrels) == {"q1", "q2"}
    assert task.judged_queries == ("q1", "q2")
    assert RetrievalTask("ids", queries, ["a", "b", "c"], {"q2": {"a": 1}}).judged_queries == (
        "q2",
    )


def test_empty_tasks_are_refused():
    with pytest.raises(EmptyInputError, match="no queries"):
        RetrievalTask("toy", {}, {"a": "A"}, QRELS)
    with pytest.raises(EmptyInputError, match="no documents"):
        RetrievalTask("toy", {"q1": "x"}, [], QRELS)
    with pytest.raises(EmptyInputError, match="same query ids"):
        RetrievalTask("toy", {"1": "x"}, {"a": "A"}, QRELS)


def test_chunks_become_documents_by_their_best_score():
    run = {"q": {"a1": 0.1, "a2": 0.7, "b1": 0.3}, "r": {}}
    owner = {"a1": "a", "a2": "a", "b1": "b"}
    assert chunk_run_to_doc_run(run, owner) == {"q": {"a": 0.7, "b": 0.3}, "r": {}}
    with pytest.raises(InputError, match="'z1'"):
        chunk_run_to_doc_run({"q": {"z1": 1.0}}, owner)


def test_a_nan_chunk_score_is_not_lost():
    for order in (("a1", "a2"), ("a2", "a1")):
        scores = {"a1": math.nan, "a2": 0.7}
        run = chunk_run_to_doc_run({"q1": {c: scores[c] for c in order}}, {"a1": "a", "a2": "a"})
        with pytest.raises(NonFiniteError):
            evaluate_run(run, QRELS)


def test_unknown_metric_has_a_hint():
    with pytest.raises(UnknownNameError, match="ndcg@10"):
        evaluate_run(RUN, QRELS, metrics=["ndgc@10"])


class OneVector:
    def __init__(self, value):
        self.value = value

    def encode(self, texts):
        return np.full((len(texts), 4), self.value, dtype=np.float32)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_vectors_that_are_all_the_same_are_an_error(value):
    corpus = {f"d{i}": f"text {i}" for i in range(5)}
    task = RetrievalTask("toy", {"q": "text", "r": "3"}, corpus, {"q": {"d1": 1}, "r": {"d3": 1}})
    system = EncoderSystem(OneVector(value), name="flat", fingerprint="flat")
    with pytest.raises(InputError, match="flat gives all documents the same similarity"):
        task.run(system, Resampling(n_resamples=100))
    own = replace(task, candidates={"q": ["d1", "d2"], "r": ["d3", "d4"]})
    with pytest.raises(InputError, match="flat gives all documents the same similarity"):
        own.run(system, Resampling(n_resamples=100))
    same = RetrievalTask("toy", {"q": "a"}, {"d1": "a", "d2": "a"}, {"q": {"d1": 1}})
    assert same.run(system, Resampling(n_resamples=100)).main.interval.n == 1


def test_judgements_that_cannot_be_met_are_an_error():
    with pytest.raises(EmptyInputError, match="none of its 1 judged queries has a relevant"):
        RetrievalTask("toy", {"q": "a"}, {"d": "a"}, {"q": {"d": 0}})
    with pytest.raises(InputError, match="none of the 1 judged documents is in the corpus"):
        RetrievalTask("toy", {"q": "a"}, {"d": "a"}, {"q": {"x": 1}})
