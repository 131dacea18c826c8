"""The suites `core`, `multilingual` and `words`: what they are made of, with and without data."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from embedworks.evaluation import (
    SUITES,
    TASK_KINDS,
    DataFolder,
    EncoderSystem,
    Resampling,
    StsTask,
    evaluate_systems,
)
from embedworks.evaluation._suites import core, multilingual, words
from embedworks.models import load

SUITE_NAMES = ("core", "multilingual", "words")
FEW = Resampling(n_resamples=100)


@pytest.fixture(scope="module")
def data(data_root):
    return DataFolder(data_root)


@pytest.mark.parametrize("name", SUITE_NAMES)
def test_without_data_the_generated_tasks_are_left(name, tmp_path):
    made, skipped = SUITES[name].tasks(DataFolder(tmp_path))
    sources = {source.name for source in SUITES[name].sources}
    assert {task.name for task in made} | set(skipped) == sources
    generated = {
        "core": {"library-docstrings", "library-packages"},
        "multilingual": {"unicode-scripts"},
        "words": {"library-names"},
    }
    assert {task.name for task in made} == generated[name]
    assert all(f"not in {tmp_path}" in reason for reason in skipped.values())


def test_generated_tasks_run_with_a_small_model(static_folder, tmp_path):
    tasks = [task for name in SUITE_NAMES for task in SUITES[name].tasks(DataFolder(tmp_path))[0]]
    system = EncoderSystem(load(static_folder), name="tiny")
    with warnings.catch_warnings():
        # The tiny tokenizer knows hardly any letter that is not Latin.
        warnings.filterwarnings("ignore", message=".*no token this model knows")
        warnings.filterwarnings("ignore", message="tiny failed on unicode-scripts")
        result = evaluate_systems([system], tasks, resampling=FEW)[0]
    assert set(result.errors) <= {"unicode-scripts"}
    found = {name: task.main.interval.mean for name, task in result.tasks.items()}
    assert 0.05 < found["library-docstrings"] < 1
    assert 0.05 < found["library-packages"] < 1
    assert 0.05 < found["library-names"] < 1


def test_generated_tasks_are_the_same_each_time():
    again = core.library_search(DataFolder("none"))
    task = core.library_search(DataFolder("none"))
    assert (task.queries, task.corpus, task.qrels) == (again.queries, again.corpus, again.qrels)
    assert len(task.queries) == 500
    first = multilingual.script_clusters(DataFolder("none"))
    assert first.texts() == multilingual.script_clusters(DataFolder("none")).texts()
    assert len(first.labels) == 14


def test_docstrings_do_not_name_their_function():
    task = core.library_search(DataFolder("none"))
    for query, text in task.queries.items():
        code = task.corpus[query.replace("q", "f")]
        assert text not in code
        assert code.split("def ")[1].split("(")[0] not in text


def test_samples_are_fixed_and_ordered():
    rows = list(range(100))
    assert core.sample(rows, 10, "a") == core.sample(rows, 10, "a")
    assert core.sample(rows, 10, "a") != core.sample(rows, 10, "b")
    assert core.sample(rows, 10, "a") == sorted(core.sample(rows, 10, "a"))
    assert core.sample(rows, 200, "a") == rows


def test_questions_of_an_article_are_ranked_among_its_passages(data):
    task = core.questions(data, within_article=True)
    assert task.kind == "reranking"
    assert task.name == "xquad-en-article"
    assert len(task.queries) == 1190
    assert len(task.corpus) == 240
    for query, relevant in task.qrels.items():
        own = task.candidates[query]
        assert set(relevant) <= set(own)
        assert 2 <= len(own) < 10


def test_questions_in_another_language_want_the_same_passages(data):
    english = core.questions(data, count=50)
    german = core.questions(data, "de", passages="en", count=50)
    assert german.name == "xquad-de-en"
    assert german.corpus == english.corpus
    assert german.qrels == english.qrels
    assert german.queries != english.queries


def test_languages_have_the_same_pairs(data):
    english = core.sts_benchmark(data, "en", pairs=100)
    german = core.sts_benchmark(data, "de", pairs=100)
    assert isinstance(english, StsTask)
    assert [pair[2] for pair in english.pairs] == [pair[2] for pair in german.pairs]
    assert len(core.sts_benchmark(data).pairs) == 1500


def test_sampled_code_search_keeps_all_wanted_functions(data):
    task = core.code_search(data, functions=600)
    assert len(task.queries) == 500
    assert len(task.corpus) == 600
    assert all(doc in task.corpus for wanted in task.qrels.values() for doc in wanted)


def test_training_and_test_texts_do_not_meet(data):
    task = core.few_shot(data, "trec_qc", label="label_group")
    assert task.labels == ["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"]
    shared = {text for text, _ in task.train} & {text for text, _ in task.test}
    assert not shared


def test_reverse_dictionary_has_every_answer(data):
    task = words.definitions(data, synsets=300, asked=50)
    assert len(task.queries) == 50
    assert all(lemma in task.corpus for of in task.qrels.values() for lemma in of)


@pytest.mark.slow
@pytest.mark.parametrize("name", SUITE_NAMES)
def test_every_task_of_a_suite_can_be_made_and_run(name, data):
    """With the bundled model; a figure at an end of its range would be a task that is none."""
    made, skipped = SUITES[name].tasks(data)
    assert not skipped
    assert [task.name for task in made] == [source.name for source in SUITES[name].sources]
    assert {task.kind for task in made} <= set(TASK_KINDS)
    system = EncoderSystem(load("static"), name="static")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no token this model knows")
        result = evaluate_systems([system], made, resampling=FEW)[0]
    assert not result.errors
    seen = {"xquad-en", "xquad-en-article"}  # the bundled model was distilled on these questions
    for task, outcome in result.tasks.items():
        assert task in seen or 0 < outcome.main.interval.mean < 1, task
        assert task in seen or outcome.failures


def test_suites_are_small_enough_for_minutes(data):
    """Texts to encode, as a guard: the sizes were chosen for some 1.6 million tokens in `core`."""
    collection = core.acl_titles(data)
    assert len(collection.corpus) == 1500
    assert len(core.code_search(data).corpus) == 1500
    assert all(Path(file).suffix == ".parquet" for s in SUITES["core"].sources for file in s.files)
