"""``embedworks compare`` through the real program entry."""

from __future__ import annotations

import json

import numpy as np
import pytest

from embedworks.evaluation import (
    EncoderSystem,
    LexicalSystem,
    Resampling,
    RetrievalTask,
    SystemComparison,
    evaluate_systems,
    quantisation_sweep,
)

WORDS = ["archive", "median", "socket", "parser", "thread", "colour", "market", "garden"]


class Letters:
    def encode(self, texts):
        rows = np.zeros((len(texts), 8), dtype=np.float32)
        for row, text in enumerate(texts):
            for place, letter in enumerate(text):
                rows[row, ord(letter) % 8] += (-1) ** place
        return rows


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    docs = {f"d{i}": f"about {word} {i}" for i, word in enumerate(WORDS)}
    queries = {f"q{i}": word for i, word in enumerate(WORDS)}
    task = RetrievalTask("search", queries, docs, {f"q{i}": {f"d{i}": 1} for i in range(8)})
    letters = EncoderSystem(Letters(), name="letters")
    systems = [letters, *quantisation_sweep(letters, ["binary"]), LexicalSystem()]
    evaluate_systems(systems, [task], resampling=Resampling(n_resamples=100), out=folder)
    return folder


def test_names_in_one_folder(call, out):
    code, text, _ = call("compare", "letters", "letters[binary]", "--results", out)
    assert code == 0
    first = text.splitlines()[0]
    assert "letters" in first
    assert first.endswith(".")
    assert "letters[binary]" in text
    assert "corrected" in text
    assert "p = " in text


def test_files_and_folders_give_the_same(call, out):
    files = [out / "results" / name for name in ("bm25.json", "letters.json")]
    code, text, _ = call("compare", *files, "--json")
    assert code == 0
    value = json.loads(text)
    found = SystemComparison.from_dict(value["comparison"])
    assert found.systems == ("bm25", "letters")
    assert value["sentence"] == found.sentence()
    _, by_name, _ = call("compare", "bm25", "letters", "--results", out, "--json")
    assert json.loads(by_name) == value
    _, folder, _ = call("compare", out, "--json")
    assert len(json.loads(folder)["comparison"]["systems"]) == 3
    assert json.loads(call("compare", out / "results", "--json")[1]) == json.loads(folder)


def test_baseline_and_correction(call, out):
    _, text, _ = call(
        "compare", out, "--baseline", "bm25", "--correction", "benjamini-hochberg", "--json"
    )
    comparison = json.loads(text)["comparison"]
    assert {gap["other"] for gap in comparison["gaps"]} == {"bm25"}
    assert comparison["correction"] == "benjamini-hochberg"


def test_report(call, out, tmp_path):
    code, text, _ = call("compare", out, "--report", tmp_path / "page.html")
    assert code == 0
    assert "page.html" in text
    assert "Comparison of" in (tmp_path / "page.html").read_text()
    assert (tmp_path / "page.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["nothing", "here"], "NotFoundError"),
        (["letters", "letterz", "--results", "OUT"], "UnknownNameError"),
        (["letters", "letters", "--results", "OUT"], "InputError"),
        (["letters", "--results", "OUT"], "InputError"),
        (["letters", "bm25", "--results", "OUT/nothing"], "NotFoundError"),
        (["OUT", "OUT"], "DuplicateIdError"),
        (["OUT", "--baseline", "bm26"], "UnknownNameError"),
        (["OUT", "--correction", "bonferroni"], "UnknownNameError"),
    ],
)
def test_errors_are_plain(call, out, arguments, kind):
    arguments = [argument.replace("OUT", str(out)) for argument in arguments]
    code, text, _ = call("compare", *arguments, "--json")
    assert code == 2
    assert json.loads(text)["error"]["kind"] == kind


def test_damaged_results_are_refused(call, out, tmp_path):
    half = tmp_path / "half.json"
    half.write_text((out / "results" / "bm25.json").read_text()[:100])
    code, text, _ = call("compare", half, out / "results" / "letters.json", "--json")
    assert code == 2
    assert json.loads(text)["error"]["kind"] == "FormatError"


def test_other_json_is_named(call, out, tmp_path):
    other = tmp_path / "other.json"
    other.write_text("{}")
    code, text, _ = call("compare", other, out / "results" / "letters.json", "--json")
    assert code == 2
    assert "other.json is no result of an evaluation" in json.loads(text)["error"]["message"]


def test_one_task_has_no_mean_beside_it(call, out):
    _, text, _ = call("compare", "letters", "bm25", "--results", out)
    assert "mean over tasks" not in text
    assert "% interval" in text.splitlines()[0]


def test_help(call):
    code, text, _ = call("compare", "--help")
    assert code == 0
    for option in ("--results", "--baseline", "--correction", "--report", "--json"):
        assert option in text
