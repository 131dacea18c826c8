"""The runner: results on disk, skipped and failed tasks, costs."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from embedworks.errors import DataWarning, DuplicateIdError, EmptyInputError, FormatError
from embedworks.evaluation import (
    EncoderSystem,
    LexicalSystem,
    Resampling,
    RetrievalTask,
    StsTask,
    SystemResult,
    Task,
    evaluate_systems,
    load_results,
)
from embedworks.evaluation.runner import file_name, save_result
from embedworks.evaluation.tasks import TASK_KINDS, why_not

QUICK = Resampling(n_resamples=100, seed=3)


class Letters:
    """Counts of letters; NaN for texts with a forbidden word."""

    def __init__(self, bad=""):
        self.bad = bad

    def encode(self, texts):
        rows = np.zeros((len(texts), 16), dtype=np.float32)
        for row, text in enumerate(texts):
            for letter in text:
                rows[row, ord(letter) % 16] += 1
            if self.bad and self.bad in text:
                rows[row] = np.nan
        return rows


class Same:
    def encode(self, texts):
        return np.ones((len(texts), 4), dtype=np.float32)


def letters(name="letters", **options):
    return EncoderSystem(Letters(**options), name=name, fingerprint=name)


def test_a_task_that_was_seen_in_training_is_marked_and_left_out_of_means(search):
    import embedworks as ew
    from embedworks.evaluation import compare_systems, evaluation_markdown

    seen = RetrievalTask("xquad-en", search.queries, search.corpus, search.qrels)
    systems = [EncoderSystem(ew.load("static"), name="mine"), LexicalSystem()]
    results = evaluate_systems(systems, [search, seen], resampling=QUICK)
    details = [result.tasks["xquad-en"].details for result in results]
    assert details[0]["seen_in_training"]
    assert "these very pairs" in details[0]["caveat"]
    assert "caveat" not in details[1]
    assert "caveat" not in results[0].tasks["search"].details
    comparison = compare_systems(results)
    assert comparison.tasks == ("search",)
    assert "mine met it in training" in comparison.left_out["xquad-en"]
    assert "†" in evaluation_markdown(results)


@pytest.fixture
def search():
    docs = {"d1": "red apples", "d2": "green pears", "d3": "old houses"}
    return RetrievalTask("search", {"q1": "apples", "q2": "pears"}, docs,
                         {"q1": {"d1": 1}, "q2": {"d2": 1}})  # fmt: skip


@pytest.fixture
def pairs():
    words = ["ab", "abc", "xyz", "cd", "cde", "yz"]
    return StsTask("pairs", [(a, b, len(set(a) & set(b)) + i / 9) for i, a in enumerate(words)
                             for b in words if a != b])  # fmt: skip


def test_results_survive_disk_exactly(search, pairs, tmp_path):
    systems = [letters(), LexicalSystem()]
    results = evaluate_systems(
        systems, [search, pairs], resampling=QUICK, out=tmp_path, skipped={"x": "not here"}
    )
    back = load_results(tmp_path)
    assert sorted(back, key=lambda r: r.name) == sorted(results, key=lambda r: r.name)
    assert {path.name for path in (tmp_path / "results").iterdir()} == {
        "letters.json", "bm25.json",
    }  # fmt: skip
    for result in back:
        assert result.resampling == QUICK
        assert result.skipped["x"] == "not here"
        assert SystemResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_what_a_result_says_of_its_run(search):
    (result,) = evaluate_systems([letters()], [search], resampling=QUICK)
    assert result.about["dimension"] == 16
    assert result.environment["versions"]["numpy"] == np.__version__
    assert {"python", "machine", "cores", "date"} <= result.environment.keys()
    cost = result.tasks["search"].cost
    assert cost.texts == 5  # describing the system is not counted
    assert 0 <= cost.encoding_seconds <= cost.seconds
    assert cost.peak_memory_mb >= 0


def test_bm25_on_pairs_is_skipped_with_a_reason(search, pairs):
    (result,) = evaluate_systems([LexicalSystem()], [pairs, search], resampling=QUICK)
    assert list(result.tasks) == ["search"]
    assert result.skipped == {
        "pairs": "bm25 ranks documents and gives no vectors, which sts tasks need"
    }
    assert result.errors == {}
    assert why_not(pairs, letters()) is None
    assert why_not(search, LexicalSystem()) is None


def test_nan_vectors_are_an_error_of_that_task_only(search, pairs):
    with pytest.warns(DataWarning, match=r"letters failed on search\. NonFiniteError"):
        (result,) = evaluate_systems([letters(bad="pears")], [search, pairs], resampling=QUICK)
    assert list(result.tasks) == ["pairs"]
    assert "NonFiniteError" in result.errors["search"]
    assert result.tasks["pairs"].cost.texts == 60  # what the failed task encoded is not counted


def test_constant_similarities_are_no_score(pairs):
    same = EncoderSystem(Same(), name="same", fingerprint="same")
    with pytest.warns(DataWarning, match="same"):
        (result,) = evaluate_systems([same], [pairs], resampling=QUICK)
    assert result.tasks == {}
    assert "no correlation is defined" in result.errors["pairs"]


def test_an_error_of_the_program_is_not_hidden(search):
    class Broken:
        def encode(self, texts):
            raise RuntimeError("a bug")

    system = EncoderSystem(Broken(), name="broken", fingerprint="broken")
    with pytest.raises(RuntimeError, match="a bug"):
        evaluate_systems([system], [search], resampling=QUICK)


def test_results_are_written_after_every_task(search, pairs, tmp_path):
    seen = []

    def look(system, outcome):
        seen.append((system, outcome.task, list(load_results(tmp_path)[0].tasks)))

    evaluate_systems([letters()], [search, pairs], resampling=QUICK, out=tmp_path, on_result=look)
    assert seen == [
        ("letters", "search", ["search"]),
        ("letters", "pairs", ["search", "pairs"]),
    ]


def test_the_same_seed_gives_the_same_figures(search, pairs):
    one, two = (
        evaluate_systems([letters()], [search, pairs], resampling=QUICK)[0] for _ in range(2)
    )
    for task in one.tasks:
        assert one.tasks[task].scores == two.tasks[task].scores
        assert one.tasks[task].failures == two.tasks[task].failures


def test_pairing_over_systems_of_different_runs(pairs):
    one = evaluate_systems([letters("a")], [pairs], resampling=QUICK)[0]
    two = evaluate_systems([letters("b")], [pairs], resampling=QUICK)[0]
    assert one.tasks["pairs"].main.replicates == pytest.approx(
        two.tasks["pairs"].main.replicates, nan_ok=True
    )
    gap = one.tasks["pairs"].gain_over(two.tasks["pairs"], QUICK)
    assert (gap.mean, gap.low, gap.high) == (0.0, 0.0, 0.0)


def test_bad_input(search):
    with pytest.raises(EmptyInputError):
        evaluate_systems([], [search])
    with pytest.raises(EmptyInputError):
        evaluate_systems([letters()], [])
    with pytest.raises(DuplicateIdError, match="system names"):
        evaluate_systems([letters(), letters()], [search])
    with pytest.raises(DuplicateIdError, match="task names"):
        evaluate_systems([letters()], [search, search])


def test_files_that_cannot_be_read(search, tmp_path):
    with pytest.raises(EmptyInputError, match="no results"):
        load_results(tmp_path)
    (result,) = evaluate_systems([letters()], [search], resampling=QUICK, out=tmp_path)
    path = tmp_path / "results" / "letters.json"
    whole = path.read_text()
    path.write_text(whole[:200])
    with pytest.raises(FormatError, match="half written"):
        load_results(tmp_path)
    path.write_text(whole.replace('"format": 1', '"format": 99'))
    with pytest.raises(FormatError, match="another version"):
        load_results(tmp_path)
    path.write_text(whole.replace('"name": "letters"', '"title": "letters"'))
    with pytest.raises(FormatError, match="title"):
        load_results(tmp_path)
    save_result(result, tmp_path)
    assert load_results(tmp_path) == [result]


def test_two_names_never_share_a_file(search, tmp_path):
    names = ["m[:64]", "m-64", "m/64", "..", "M-64"]
    results = evaluate_systems(
        [letters(name) for name in names], [search], resampling=QUICK, out=tmp_path
    )
    assert len(load_results(tmp_path)) == len(results)
    assert all("/" not in file_name(name) for name in names)
    assert file_name("plain_name.v2") == "plain_name.v2"


def test_tasks_follow_the_protocol(search, pairs):
    for task in (search, pairs):
        assert isinstance(task, Task)
        assert task.kind in TASK_KINDS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate_systems([letters()], [search], resampling=QUICK, show_progress=False)
