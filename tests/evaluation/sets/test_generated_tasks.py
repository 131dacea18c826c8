"""Tasks from documents alone: nothing of the question stays in its passage, and they say so."""

from __future__ import annotations

import json

import pytest

from embedworks.data import Chunk
from embedworks.errors import DataWarning, EmptyInputError, NotFoundError, UnknownNameError
from embedworks.evaluation import LexicalSystem, Resampling
from embedworks.evaluation.sets.generated_tasks import GENERATED_CAVEAT, generate_tasks

WAYS = ("title", "docstring", "crop")


@pytest.fixture(scope="module")
def tasks(documents):
    return generate_tasks(documents, name="lib", sources=WAYS, max_queries=60)


def test_a_task_of_each_way(tasks):
    assert [task.name for task in tasks] == ["lib-title", "lib-docstring", "lib-crop"]
    for task in tasks:
        assert task.kind == "retrieval"
        assert 10 <= len(task.queries) <= 60
        assert set(task.queries) == set(task.qrels)
        for query, judged in task.qrels.items():
            assert judged
            for document in judged:
                question = " ".join(task.queries[query].casefold().split())
                assert question not in " ".join(task.corpus[document].casefold().split())


def test_results_carry_the_caveat(tasks):
    result = tasks[1].run(LexicalSystem(), Resampling(n_resamples=100))
    assert 0.2 < result.main.interval.mean <= 1.0
    assert result.details["caveat"] == GENERATED_CAVEAT
    assert result.details["generated"] == "docstring"
    assert 0 < result.details["shared_words"] < 1
    json.dumps(result.to_dict())


def test_questions_are_the_same_for_the_same_seed(documents, tasks):
    again = generate_tasks(documents, name="lib", sources=WAYS, max_queries=60)
    other = generate_tasks(documents, name="lib", sources=WAYS, max_queries=60, seed=1)
    assert again == tasks
    assert [task.queries for task in other] != [task.queries for task in tasks]


def test_passages_with_one_question_are_all_right():
    text = "There is quite a lot to be said about number"
    chunks = [Chunk(f"a#{i}", "a", f"{text} {i}.", f"How to count {i // 2}") for i in range(30)]
    (task,) = generate_tasks(chunks, sources=["title"])
    assert task.name == "documents-title"
    assert set(task.qrels["q1"]) == {"a#0", "a#1"}
    assert len(task.queries) == 15


def test_a_repeated_passage_is_there_once():
    text = "There is quite a lot to be said about number"
    chunks = [Chunk(f"a#{i}", "a", f"{text} {i % 20}.", f"How to count {i}") for i in range(30)]
    (task,) = generate_tasks(chunks, sources=["title"])
    assert list(task.corpus) == [f"a#{i}" for i in range(20)]
    assert task.facts["repeated_passages"] == 10


def test_too_little_to_ask(tmp_path):
    (tmp_path / "a.md").write_text("# Tea\n\nBoil the water first and then pour it slowly.")
    with pytest.raises(EmptyInputError, match=r"1 passages are not enough.*title 1"):
        generate_tasks(tmp_path)
    text = "There is quite a lot to be said about number"
    chunks = [Chunk(f"a#{i}", "a", f"{text} {i}.", f"How to count {i}") for i in range(12)]
    with pytest.warns(DataWarning, match="left out: docstring 0"):
        generate_tasks(chunks, sources=["title", "docstring"])
    with pytest.raises(UnknownNameError, match="'title'"):
        generate_tasks(chunks, sources=["titel"])
    with pytest.raises(NotFoundError):
        generate_tasks(tmp_path / "none")
