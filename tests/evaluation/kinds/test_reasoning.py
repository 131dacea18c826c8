"""Multiple choice as retrieval: both settings, chance levels, and reading the files."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import (
    DataWarning,
    DuplicateIdError,
    EmptyInputError,
    FormatError,
    InputError,
    NotFoundError,
)
from embedworks.evaluation import (
    MCR_DATASETS,
    DataFolder,
    EncoderSystem,
    MultipleChoice,
    ReasoningTask,
    Resampling,
    RetrievalTask,
    chance_levels,
    load_choice_csv,
    load_reasoning_folder,
    math_solutions,
    multiple_choice_data,
    multiple_choice_to_retrieval,
    ndcg_at_k,
    questions_to_solutions,
    reasoning_set,
)

QUICK = Resampling(n_resamples=100)


class Oracle:
    """Knows which answer each question has: both have one vector."""

    def __init__(self, examples):
        texts = list(dict.fromkeys(text for x in examples for text in (*x.options, x.question)))
        self.rows = {text: row for row, text in enumerate(texts)}
        self.answer = {x.question: x.right[0] for x in examples}

    def encode(self, texts, **options):
        vectors = np.zeros((len(texts), len(self.rows) + 1), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row, self.rows.get(self.answer.get(text, text), -1)] = 1
        return vectors


class Constant:
    def encode(self, texts, **options):
        return np.ones((len(texts), 4), dtype=np.float32)


@pytest.fixture(scope="module")
def made():
    return reasoning_set("months", train=1, test=400, seed=5)


@pytest.mark.parametrize("pool", ["all", "own"])
def test_an_oracle_is_always_right(made, pool):
    result = made.task(pool).run(EncoderSystem(Oracle(made.test), name="oracle"), QUICK)
    assert all(score.interval.mean == 1.0 for score in result.scores.values())
    assert result.failures == ()


@pytest.mark.parametrize("pool", ["all", "own"])
def test_a_constant_encoder_is_at_chance_and_stable(made, pool):
    system = EncoderSystem(Constant(), name="constant")
    result = made.task(pool).run(system, QUICK)
    again = made.task(pool).run(system, QUICK)
    assert result.main == again.main
    chance = result.details["chance"][result.metric]
    spread = 4 * math.sqrt(chance * (1 - chance) / len(made.test)) + 0.005
    assert abs(result.main.interval.mean - chance) < spread
    assert result.main.interval.mean < 0.5


def test_equal_answers_are_one_document_and_count_for_both():
    examples = [
        MultipleChoice("2 + 2", ("4", "5", "4"), (0,)),
        MultipleChoice("1 + 3", ("6", "4"), (1,)),
        MultipleChoice("1 + 3", ("four", "six"), (0,)),
    ]
    full = multiple_choice_to_retrieval(examples, distractors=["9", "6", " "])
    assert sorted(full.corpus.values()) == ["4", "5", "6", "9", "four", "six"]
    right = [{full.corpus[doc] for doc in full.qrels[query]} for query in full.queries]
    assert right == [{"4"}, {"4", "four"}, {"4", "four"}]
    own = multiple_choice_to_retrieval(examples, "own")
    assert [len(own.candidates[query]) for query in own.queries] == [2, 2, 2]
    assert [len(own.qrels[query]) for query in own.queries] == [1, 1, 1]
    assert (own.kind, own.metric, full.kind, full.metric) == (
        "reranking", "success@1", "retrieval", "ndcg@10",
    )  # fmt: skip


def test_a_question_with_one_distinct_option_is_left_out_and_counted():
    examples = [MultipleChoice("a", ("x", "x"), (0,)), MultipleChoice("b", ("x", "y"), (0,))]
    with pytest.warns(DataWarning, match="1 of 2 questions"):
        own = multiple_choice_to_retrieval(examples, "own")
    assert (list(own.queries), own.facts["left_out"]) == (["1"], 1)
    with pytest.raises(EmptyInputError, match="all the same"):
        multiple_choice_to_retrieval(examples[:1], "own")


@pytest.mark.parametrize(
    ("question", "options", "answers", "message"),
    [
        (" ", ("a", "b"), (0,), "must have text"),
        ("q", ("a",), (0,), "at least 2"),
        ("q", ("a", " "), (0,), "option 1 has no text"),
        ("q", ("a", "b"), (), "no right answer"),
        ("q", ("a", "b"), (2,), "label 2"),
        ("q", ("a", "b"), (-1,), "label -1"),
        ("q", ("a", "b"), (True,), "label True"),
        ("q", ("a", "b"), ("a",), "label 'a'"),
    ],
)
def test_unusable_examples_are_refused(question, options, answers, message):
    with pytest.raises(InputError, match=message):
        MultipleChoice(question, options, answers)


def test_unusable_lists_are_refused():
    with pytest.raises(EmptyInputError):
        multiple_choice_to_retrieval([])
    twice = [MultipleChoice("q", ("a", "b"), (0,), "1")] * 2
    with pytest.raises(DuplicateIdError):
        multiple_choice_to_retrieval(twice)
    with pytest.raises(EmptyInputError):
        questions_to_solutions("x", [])
    with pytest.raises(InputError, match="question 0"):
        questions_to_solutions("x", [("q", " ")])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.integers(1, 5))
def test_chance_is_the_mean_over_all_orders(gains, k):
    if not any(gains):
        gains = [*gains, 1]
    docs = [f"d{i}" for i in range(len(gains))]
    judged = dict(zip(docs, gains))
    metrics = (f"ndcg@{k}", f"recall@{k}", f"success@{k}", f"precision@{k}")
    task = RetrievalTask("t", {"q": "?"}, dict.fromkeys(docs, "x"), {"q": judged}, metrics=metrics)
    relevant = sum(gain > 0 for gain in gains)
    sums = dict.fromkeys(metrics, 0.0)
    orders = list(itertools.permutations(docs))
    for order in orders:
        hits = sum(judged[doc] > 0 for doc in order[:k])
        sums[metrics[0]] += ndcg_at_k(list(order), judged, k)
        sums[metrics[1]] += hits / relevant
        sums[metrics[2]] += hits > 0
        sums[metrics[3]] += hits / k
    found = chance_levels(task)
    for metric in metrics:
        assert found[metric] == pytest.approx(sums[metric] / len(orders), abs=1e-12)


def test_chance_is_left_out_where_it_is_not_known():
    task = RetrievalTask("t", {"q": "?"}, {"d": "x"}, {"q": {"d": 1}}, metrics=("mrr@10",))
    assert chance_levels(task) == {}


def test_cut_texts_are_counted(static_folder):
    from embedworks.models import StaticModel

    model = StaticModel.from_pretrained(static_folder)
    short = StaticModel(model.tokenizer, model.table, max_tokens=4)
    task = questions_to_solutions("t", [("a b c d e f g h", "x"), ("y", "z")])
    with _quiet():
        result = task.run(EncoderSystem(short, name="short"), QUICK)
    assert result.details["truncated_texts"] == 1
    assert result.details["setting"] == "full"


def _quiet():
    import warnings

    return warnings.catch_warnings(action="ignore")


def test_choices_from_csv(tmp_path):
    path = tmp_path / "mcr.csv"
    path.write_text(
        'instructions,queries,documents,labels\nx,"sky?","[\'red\', ""blue""]",1\n'
        'x,"sea?","(\'red\', \'wet\')","[0, 1]"\n',
        encoding="utf-8",
    )
    first, second = load_choice_csv(path)
    assert (first.right, second.right) == (("blue",), ("red", "wet"))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("queries,documents\nq,[]\n", FormatError, "has no labels"),
        ("queries,documents,labels\n", EmptyInputError, "no questions"),
        ("queries,documents,labels\nq,__import__('os'),0\n", FormatError, "row 1: documents"),
        ("queries,documents,labels\nq,'ab',0\n", FormatError, "must be a list"),
        ("queries,documents,labels\nq,\"['a', 'b']\",\n", FormatError, "labels is empty"),
        ("queries,documents,labels\nq,\"['a', 'b']\",5\n", InputError, "label 5"),
        ("queries,documents,labels\nq," + "[" * 5000 + ",0\n", FormatError, "documents"),
        ("queries,documents,labels\nq," + "1" * 110_000 + ",0\n", FormatError, "110,000"),
        ("queries,documents,labels\nq," + "1" * 200_000 + ",0\n", FormatError, "CSV"),
    ],
)
def test_damaged_csv(tmp_path, text, error, message):
    path = tmp_path / "mcr.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(error, match=message):
        load_choice_csv(path)


def test_missing_or_binary_csv(tmp_path):
    with pytest.raises(NotFoundError):
        load_choice_csv(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"queries,documents,labels\n\xff\xfe,1,2\n")
    with pytest.raises(FormatError, match="UTF-8"):
        load_choice_csv(tmp_path / "b.csv")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "queries.jsonl").write_text(
        '{"_id": "q", "text": "why?"}\n{"_id": "other", "text": "unjudged"}\n'
    )
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d", "title": "T", "text": "because"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    (tmp_path / "instruction.txt").write_text("Find the reason.\n")
    return tmp_path


def test_folders(folder):
    task = load_reasoning_folder(folder)
    assert isinstance(task, ReasoningTask)
    assert (task.name, task.instruction) == (folder.name, "Find the reason.")
    assert (dict(task.queries), dict(task.corpus)) == ({"q": "why?"}, {"d": "T because"})
    (folder / "instruction.txt").unlink()
    assert load_reasoning_folder(folder, name="x").instruction is None
    with pytest.raises(NotFoundError):
        load_reasoning_folder(folder, split="dev")
    with pytest.raises(NotFoundError):
        load_reasoning_folder(folder / "nothing")


@pytest.mark.parametrize("dataset", MCR_DATASETS)
def test_the_public_data(data_root, dataset):
    data = DataFolder(data_root)
    task = multiple_choice_data(data, dataset, limit=30)
    own = multiple_choice_data(data, dataset, "own", limit=30)
    assert task.facts["sampled"][0] == len(task.queries) == 30
    assert task.instruction
    assert own.candidates
    assert own.name == f"{dataset}-choice"


def test_the_public_word_problems(data_root):
    task = math_solutions(DataFolder(data_root), limit=20)
    assert len(task.corpus) == 20
