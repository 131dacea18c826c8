"""Texts of tasks in training data: found by the right rule, counted on the task's side."""

from __future__ import annotations

import pytest

from embedworks.data import Row, RowSet
from embedworks.errors import DataWarning, DuplicateIdError, EmptyInputError, UnknownNameError
from embedworks.evaluation import RetrievalTask, StsTask, generated_probe, task_texts
from embedworks.evaluation.contamination import check_contamination

LONG = "the small boat that came in from the north carried nothing but salt and two old sails"
ROWS = RowSet(
    [
        Row("What is tea?", "A hot drink.", negatives=("A kind of grain.",)),
        Row("A question on boats", f"It is said that {LONG} on that day."),
        Row("The committee met on Monday to talk about the new harbour wall", "Yes."),
    ]
)


def _task(name="toy", *texts):
    given = texts or ("what is TEA", LONG, "something else altogether")
    return StsTask(name, [(text, f"other text {i}", float(i)) for i, text in enumerate(given)])


def test_each_method_finds_its_own():
    near = "The committee met on Monday to talk about the new harbour walls"
    task = _task("toy", "what is TEA", LONG, near, "a kind of grain")
    wanted = {
        "exact": {"what is TEA", "a kind of grain"},
        "ngram": {"what is TEA", "a kind of grain", LONG},
        "near": {"what is TEA", "a kind of grain", near},
    }
    for method, texts in wanted.items():
        (report,), unchecked = check_contamination(ROWS, [task], method=method, ngram=13)
        assert {text for text, _ in report.examples} == texts, method
        assert report.found == len(texts)
        assert report.texts == 8
        assert report.share == len(texts) / 8
        assert sum(report.rules.values()) == report.found
        assert unchecked == []
        assert report.to_dict()["share"] == report.share


def test_every_kind_of_task_is_looked_at():
    search = RetrievalTask("search", {"q": "What is tea?"}, {"d": "On rye."}, {"q": {"d": 1}})
    tasks = [search, _task(), generated_probe("tense", count=60)]
    reports, _ = check_contamination(ROWS, tasks)
    assert [(r.task, r.found) for r in reports] == [("search", 1), ("toy", 2), ("probe-tense", 0)]
    assert task_texts(search) == ["What is tea?", "On rye."]


def test_tasks_that_do_not_tell_are_named():
    class Silent:
        name, kind, metric = "silent", "sts", "spearman"

        def run(self, system, resampling):
            raise AssertionError

    with pytest.warns(DataWarning, match="1 tasks do not say which texts they use: silent"):
        reports, unchecked = check_contamination(ROWS, [Silent(), _task()])
    assert unchecked == ["silent"]
    assert len(reports) == 1


def test_of_documents_without_text_the_queries_are_looked_at():
    ids = RetrievalTask("ids only", {"q": "What is tea?"}, ["d"], {"q": {"d": 1}})
    (report,), _ = check_contamination(ROWS, [ids])
    assert (report.found, report.texts) == (1, 1)


def test_the_tasks_of_all_kinds_tell_their_texts():
    from embedworks.evaluation import (
        AnalogyTask,
        BitextTask,
        ClassificationTask,
        ClusteringTask,
        PairClassificationTask,
        WordCategoryTask,
    )

    labelled = [("a", "x"), ("b", "x"), ("c", "y"), ("d", "y")]
    tasks = {
        "a b": PairClassificationTask("p", [("a", "b", 1), ("a", "c", 0)]),
        "e": ClassificationTask("c", labelled, [("e", "x"), ("f", "y")]),
        "a": ClusteringTask("k", [text for text, _ in labelled], [label for _, label in labelled]),
        "un": BitextTask("b", [("un", "one"), ("deux", "two"), ("trois", "three")]),
        "king": AnalogyTask("w", [("man", "king", "woman", "queen")], vocabulary=["boy"]),
        "pear": WordCategoryTask("g", {"fruit": ["pear", "fig"], "tree": ["oak", "elm"]}),
    }
    for word, task in tasks.items():
        assert set(word.split()) <= set(task_texts(task))


def test_inputs_that_are_no_text_are_passed_over():
    rows = RowSet([Row({"text": "What is tea?", "image": "tea.png"}, {"image": "b.png"})])
    (report,), _ = check_contamination(rows, [_task()], method="exact")
    assert report.found == 1


def test_bad_input_is_refused():
    with pytest.raises(UnknownNameError, match="exact"):
        check_contamination(ROWS, [_task()], method="exakt")
    with pytest.raises(EmptyInputError, match="no tasks"):
        check_contamination(ROWS, [])
    with pytest.raises(EmptyInputError, match="no training texts"):
        check_contamination(RowSet([Row({"image": "a"}, {"image": "b"})]), [_task()])
    with pytest.raises(DuplicateIdError):
        check_contamination(ROWS, [_task(), _task()])
