"""Every command through the real program entry, with text and JSON output."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("lancedb")

from embedworks.errors import EmbedworksError

COMMANDS = (
    "adapt", "compare", "demo", "encode", "evaluate", "index", "info", "limits", "list",
    "merge", "reproduce", "search", "synthesize", "train",
)  # fmt: skip
INDEX_COMMANDS = (
    "add", "build", "check", "compact", "explain", "remove", "update", "versions",
)  # fmt: skip


@pytest.fixture(scope="module")
def indexed(documents, static_folder, tmp_path_factory):
    from embedworks.training import index_documents

    out = tmp_path_factory.mktemp("cli") / "run"
    index_documents(documents, out=out, model=str(static_folder))
    return out


@pytest.mark.parametrize(
    "command",
    [(name,) for name in COMMANDS if name != "index"]
    + [("index", name) for name in INDEX_COMMANDS],
)
def test_every_command_has_help_and_json(call, command):
    code, out, _ = call(*command, "--help")
    assert code == 0
    assert "--json" in out
    assert "TODO" not in out


def test_help_and_version(call):
    code, out, _ = call("--help")
    assert code == 0
    for command in COMMANDS:
        assert command in out
    assert call("--version")[1].startswith("embedworks 0.")


def test_search_shows_places_and_json(call, indexed):
    code, out, _ = call("search", indexed, "extract a member of a tar archive", "-k", "5")
    assert code == 0
    assert "tarfile.py:" in out
    code, out, _ = call("search", indexed, "extract a member of a tar archive", "-k", "2", "--json")
    hits = json.loads(out)["hits"]
    assert len(hits) == 2
    assert {"chunk_id", "title", "path", "start_line", "score", "passage"} <= hits[0].keys()
    code, out, _ = call("search", indexed, "zip", "--where", "path LIKE 'nothing%'")
    assert (code, out.strip()) == (0, "Nothing matches the filter.")
    code, out, _ = call("search", indexed, "zip", "--explain", "--mode", "bm25", "-k", "1")
    assert "bm25 search" in out


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("search", "{run}", " "), "EmptyInputError"),
        (("search", "{run}", "x", "--where", "path ="), "QuerySyntaxError"),
        (("search", "{run}", "x", "--mode", "dens"), "UnknownNameError"),
        (("search", "/no/such/run", "x"), "NotFoundError"),
        (("list", "modles"), "UnknownNameError"),
        (("encode", "x", "--model", "statik"), "UnknownNameError"),
        (("adapt", "/no/such/folder", "--out", "{tmp}/a"), "NotFoundError"),
        (("adapt", "{tmp}", "--out", "{tmp}/b", "--budget", "soon"), "SettingsError"),
        (("train", "adapt", "--out", "{tmp}/c", "--data-root", "{tmp}"), "SettingsError"),
    ],
)
def test_mistakes_end_with_2_and_one_message(call, indexed, tmp_path, arguments, kind):
    filled = [a.format(run=indexed, tmp=tmp_path) for a in arguments]
    code, out, err = call(*filled)
    assert (code, out) == (2, "")
    assert kind in err
    assert "Traceback" not in err
    code, out, _ = call(*filled, "--json")
    assert code == 2
    assert json.loads(out)["error"]["kind"] == kind


def test_list_info_and_encode(call, indexed, static_folder, tmp_path):
    code, out, _ = call("list")
    assert "models" in out.split()
    names = [item["name"] for item in json.loads(call("list", "models", "--json")[1])]
    assert names == ["minilm", "static"]
    assert "fusion" in call("list", "search-modes")[1] or "BM25" in call("list", "search-modes")[1]
    about = json.loads(call("info", indexed, "--json")[1])
    assert about["kind"] == "run"
    assert about["rows"] > 100
    assert json.loads(call("info", static_folder, "--json")[1])["dimensions"] == 48
    assert "rows" in call("info", indexed / "collection")[1]
    value = json.loads(call("encode", "a b", "c", "--model", static_folder, "--json")[1])
    assert value["shape"] == [2, 48]
    target = tmp_path / "v.npy"
    code, _, _ = call("encode", "a b", "--model", static_folder, "--out", target)
    assert np.load(target).shape == (1, 48)
    code, _, err = call("encode", "a b", "--model", static_folder, "--out", tmp_path / "v.pkl")
    assert code == 2
    assert ".npy" in err


def test_index_and_evaluate(call, documents, static_folder, tmp_path):
    code, out, _ = call(
        "index", "build", documents, "--out", tmp_path / "run", "--model", static_folder, "--json"
    )
    assert code == 0
    assert json.loads(out)["documents"] == 17
    (tmp_path / "q.csv").write_text("query_id,text\n1,extract a tar archive\n2,median\n")
    qrels = "query_id,doc_id,relevance\n1,first/tarfile.py,1\n1,second/tarfile.py,1\n"
    (tmp_path / "r.csv").write_text(qrels + "2,first/statistics.py,1\n2,second/statistics.py,1\n")
    arguments = ["evaluate", tmp_path / "run", "--queries", tmp_path / "q.csv"]
    arguments += ["--qrels", tmp_path / "r.csv"]
    code, out, _ = call(*arguments, "--no-base")
    assert code == 0
    assert "BM25" in out
    value = json.loads(call(*arguments, "--json")[1])
    assert value["comparison"]["results"]["bm25"]["intervals"]["recall@10"]["mean"] == 0.5


def test_errors_reach_the_program_as_one_class():
    assert issubclass(EmbedworksError, Exception)


def test_the_installed_program_runs():
    code = (
        "import sys; sys.argv = ['embedworks', '--version']; import embedworks.cli as c; c.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("embedworks ")
