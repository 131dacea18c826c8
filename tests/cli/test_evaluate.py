"""``embedworks evaluate`` on own data, suites and generated tasks, through the real program."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from embedworks.cli._evaluate import default_cache
from embedworks.evaluation import VectorTable, load_results


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    """Keep away from the user's cache and data."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("EMBEDWORKS_DATA", str(tmp_path / "nothing"))


@pytest.fixture
def faq(tmp_path):
    path = tmp_path / "faq.csv"
    subjects = ("zip archive", "median of numbers", "text wrapping", "temporary folder")
    rows = [f"where is the {name},Look here for a {name} and more.\n" for name in subjects]
    path.write_text("query,document\n" + "".join(rows))
    return path


def test_own_data_in_one_line(call, faq, static_folder, tmp_path):
    code, out, _ = call(
        "evaluate", static_folder, "bm25", "--data", faq, "--out", tmp_path / "out",
        "--resamples", "100",
    )  # fmt: skip
    assert code == 0
    assert "faq" in out
    assert "ndcg@10" in out
    assert "1.000 [1.00, 1.00]" in out
    assert (tmp_path / "out" / "report.html").is_file()
    assert (tmp_path / "out" / "report.md").is_file()
    results = load_results(tmp_path / "out")
    assert len(results) == 2
    assert results[0].resampling.n_resamples == 100
    assert {path.name[:8] for path in default_cache().iterdir()} == {"vectors-"}


def test_json_has_the_figures(call, faq):
    code, out, _ = call("evaluate", "bm25", "--data", faq, "--json", "--no-cache", "--seed", "3")
    assert code == 0
    value = json.loads(out)
    task = value["systems"]["bm25"]["tasks"]["faq"]
    assert task["scores"]["ndcg@10"]["mean"] == 1.0
    assert task["cost"]["texts"] == 8
    assert value["report"] is None
    assert not default_cache().exists()


def test_what_is_skipped_is_said(call, tmp_path):
    pairs = tmp_path / "similar.csv"
    pairs.write_text("sentence1,sentence2,score\na cat,one cat,3\nmoon,rat,1\nzip,zip,5\n")
    code, out, _ = call("evaluate", "bm25", "static", "--data", pairs, "--no-cache")
    assert code == 0
    assert "Not run: bm25 ranks documents and gives no vectors" in out
    assert "which sts tasks need: similar." in out


@pytest.mark.filterwarnings("default")
def test_a_failed_task_ends_with_1(call, faq, tmp_path):
    table = VectorTable(["where is the moon"], np.ones((1, 2))).save(tmp_path / "mine.parquet")
    code, out, err = call("evaluate", table, "bm25", "--data", faq, "--no-cache")
    assert code == 1
    assert "failed" in out
    assert "1.000" in out
    assert "have no vector in mine.parquet" in err
    code, out, _ = call("evaluate", table, "--data", faq, "--json")
    assert code == 1
    assert "faq" in json.loads(out)["systems"]["mine"]["errors"]


@pytest.mark.filterwarnings("default")
def test_documents_without_labels(call, documents):
    code, out, err = call(
        "evaluate", "bm25", "--data", documents / "first", "--generate", "--task", "first-title"
    )
    assert code == 0
    assert "first-title" in out
    assert "first-crop" not in out
    assert "not asked by people" in out
    assert "Traceback" not in err


def test_suites_without_their_data_say_so(call, tmp_path):
    code, _, err = call("evaluate", "bm25", "--task", "cranfield")
    assert code == 2
    assert "cranfield: ir_cranfield_corpus.parquet" in err
    assert "--data-root" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bm25", "--data", "{faq}", "--kind", "stss"), "Did you mean 'sts'?"),
        (("bm25", "--data", "{faq}", "--column", "query"), "must be like query=title"),
        (("bm25", "--kind", "sts"), "need --data"),
        (("bm25", "--data", "{faq}", "--generate", "--kind", "sts"), "makes its own tasks"),
        (("bm25", "--suite", "cor"), "Did you mean 'core'?"),
        (("bm25", "--data", "{faq}", "--task", "fak"), "Did you mean 'faq'?"),
        (("bm25", "bm25", "--data", "{faq}"), "must be unique"),
        (("minilmm", "--data", "{faq}"), "minilm"),
        (("bm25", "--data", "{faq}", "--no-cache", "--cache", "x"), "not both"),
        (("bm25", "--data", "{faq}", "--template", "e5"), "templates"),
        (("bm25", "--data", "{faq}", "--confidence", "2"), "confidence must be in"),
        (("bm25", "--queries", "q.csv"), "both --queries and --qrels"),
        (("{run}",), "is a run: judge it with --queries and --qrels"),
    ],
)
def test_mistakes(call, faq, tmp_path, arguments, said):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    filled = [a.format(faq=faq, run=tmp_path / "run") for a in arguments]
    code, out, err = call("evaluate", *filled)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "caches/embedworks/vectors"),
        ("win32", "LOCALAPPDATA", "caches/embedworks/vectors"),
        ("darwin", "HOME", "caches/Library/Caches/embedworks/vectors"),
    ],
)
def test_where_vectors_stay(monkeypatch, tmp_path, platform, variable, expected):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv(variable, str(tmp_path / "caches"))
    assert default_cache() == Path(tmp_path / expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing argument"),
        (["bm25", "--nonsense"], "No such option"),
        (["bm25", "--resamples", "many"], "--resamples"),
        (["bm25", "--data", "FAQ", "--metric", "ndcg@10"], "--metric and --no-base are for a run"),
        (["bm25", "--data", "FAQ", "--no-base"], "--metric and --no-base are for a run"),
        (["bm25", "--data", "FAQ", "--cache", "FAQ"], "--cache must be a folder"),
        (["bm25", "--data", "FAQ", "--out", "FAQ"], "--out must be a folder"),
        (["hybrid:", "--data", "FAQ"], "such as hybrid:static"),
        (["static", "--data", "FAQ", "--suite", "cor"], "Did you mean 'core'"),
    ],
)
def test_every_mistake_is_json_on_request(call, faq, arguments, words):
    arguments = [str(faq) if argument == "FAQ" else argument for argument in arguments]
    code, out, _ = call("evaluate", *arguments, "--json")
    assert code == 2
    assert words in json.loads(out)["error"]["message"]


def test_columns_of_a_collection_are_not_silently_ignored(call, tmp_path):
    (tmp_path / "corpus.csv").write_text("doc_id,text\nd,cats\n")
    (tmp_path / "queries.csv").write_text("query_id,text\nq,cats\n")
    (tmp_path / "qrels.csv").write_text("query_id,doc_id,relevance\nq,d,1\n")
    code, out, _ = call("evaluate", "bm25", "--data", tmp_path, "--column", "query=t", "--json")
    assert code == 2
    assert "no columns can be named" in json.loads(out)["error"]["message"]


def test_tasks_that_share_texts_with_training_rows_are_marked(call, faq, tmp_path):
    from embedworks.data import Row, RowSet

    RowSet([Row("where is the zip archive", "In the cellar.")]).save(tmp_path / "rows.parquet")
    arguments = ("--data", faq, "--no-cache", "--trained-on", tmp_path / "rows.parquet")
    code, out, _ = call("evaluate", "static", "bm25", *arguments)
    assert code == 0
    assert "† 1 of its 8 texts are in the training data. (faq)" in out
    value = json.loads(call("evaluate", "static", "bm25", *arguments, "--json")[1])["systems"]
    details = value["static"]["tasks"]["faq"]["details"]
    assert details["seen_in_training"]
    assert details["contamination"]["found"] == 1
    assert "caveat" not in value["bm25"]["tasks"]["faq"]["details"]
