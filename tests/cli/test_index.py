"""``embedworks index``: every command on a real run, as text and as JSON."""

from __future__ import annotations

import json
import shutil

import pytest

pytest.importorskip("lancedb")


@pytest.fixture(scope="module")
def built(documents, static_folder, tmp_path_factory):
    from embedworks.training import index_documents

    out = tmp_path_factory.mktemp("index") / "run"
    index_documents(documents / "first", out=out, model=str(static_folder))
    return out


@pytest.fixture
def run(built, tmp_path):
    shutil.copytree(built, tmp_path / "run")
    return tmp_path / "run"


def facts(call, *arguments):
    code, out, err = call("index", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_documents_are_added_replaced_and_removed(call, run, documents, tmp_path):
    before = facts(call, "versions", run)["versions"][-1]
    new = tmp_path / "new"
    shutil.copytree(documents / "second", new)
    added = facts(call, "add", run, new, "--exclude", "gzip.py")
    assert added["rows"] == before["rows"] + added["chunks"]
    assert added["version"] == 2
    code, _, err = call("index", "add", run, new)
    assert code == 2
    assert "--replace" in err
    (new / "tarfile.py").write_text('"""A zebra reads an archive."""\n')
    replaced = facts(call, "add", run, new, "--replace")
    assert replaced["rows"] < added["rows"]
    hits = json.loads(call("search", run, "zebra", "--mode", "bm25", "--json")[1])["hits"]
    assert [hit["doc_id"] for hit in hits] == ["tarfile.py"]
    removed = facts(call, "remove", run, "--doc", "tarfile.py", "--dry-run")
    assert removed == {"changed": 1, "rows": replaced["rows"], "version": 3}
    assert facts(call, "remove", run, "--doc", "tarfile.py")["rows"] == replaced["rows"] - 1
    code, out, _ = call("index", "remove", run, "--where", "path LIKE 'g%'")
    assert (code, "rows removed" in out) == (0, True)
    hits = json.loads(call("search", run, "zebra", "--version", "3", "--json")[1])["hits"]
    assert hits[0]["doc_id"] == "tarfile.py"
    restored = facts(call, "versions", run, "--restore", "1")
    assert restored["versions"][-1]["rows"] == before["rows"]
    _, out, _ = call("index", "versions", run, "--restore", "3")
    assert "has the content of version 3" in out


def test_attributes_are_updated(call, run):
    where = ("--where", "path LIKE 'b%'")
    told = facts(call, "update", run, "--set", "year=2024", "--set", "kind=null", *where)
    assert told["changed"] > 0
    assert told["version"] == 2
    _, out, _ = call("index", "update", run, "--set", "year=1", *where, "--dry-run")
    assert f"{told['changed']:,} rows would be updated" in out
    found = json.loads(
        call("index", "explain", run, "encode", "--where", "year = 2024", "--json")[1]
    )
    assert found["matching"] == told["changed"]
    first = json.loads(call("search", run, "encode", "-k", "1", "--json")[1])["hits"][0]["chunk_id"]
    assert facts(call, "remove", run, "--id", first, "--dry-run")["changed"] == 1


def test_explain_tells_plan_and_times(call, run):
    code, out, _ = call("index", "explain", run, "encode bytes", "--where", "path LIKE 'b%'")
    assert code == 0
    assert "rows match" in out
    assert "time: filter" in out


def test_compact(call, run):
    for number in range(3):
        facts(call, "update", run, "--set", f"n={number}", "--where", "path LIKE 'b%'")
    done = facts(call, "compact", run, "--keep", "1")
    assert done["bytes"] < done["bytes_before"]
    assert len(facts(call, "versions", run)["versions"]) == 1
    assert "MB now" in call("index", "compact", run)[1]


def test_check_and_repair(call, run):
    report = facts(call, "check", run)
    assert [finding["state"] for finding in report["findings"]] == ["ok", "ok"]
    (folder,) = (run / "collection" / "cache").iterdir()
    (folder / "vectors.npy").write_bytes(b"x")
    code, out, _ = call("index", "check", run)
    assert code == 1
    assert "--repair" in out
    code, out, _ = call("index", "check", run / "collection", "--json")
    assert code == 1
    assert json.loads(out)["findings"][1]["state"] == "damaged"
    assert facts(call, "check", run, "--repair")["is_sound"]
    assert facts(call, "check", run)["is_sound"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("remove", "{run}"), "--where"),
        (("remove", "{run}", "--id", "a", "--where", "x = 1"), "one of them"),
        (("remove", "{run}", "--id", "nope"), "are not in the collection"),
        (("remove", "{run}", "--doc", "nope"), "No row belongs"),
        (("remove", "{run}", "--where", "yaer = 1"), "no column 'yaer'"),
        (("update", "{run}", "--set", "year", "--where", "path = 'x'"), "name=value"),
        (("update", "{run}", "--set", "a=[", "--where", "path = 'x'"), "YAML"),
        (("update", "{run}", "--set", "text=x", "--where", "path = 'x'"), "upsert"),
        (("versions", "{run}", "--restore", "9"), "no version 9"),
        (("explain", "{run}", "x", "--version", "9"), "no version 9"),
        (("explain", "{run}", "x", "--rerank", "./nothing"), "no cross-encoder"),
        (("compact", "{run}", "--keep", "0"), "keep must be"),
        (("check", "{tmp}"), "neither a run nor a collection"),
        (("add", "{tmp}", "{run}"), "holds no run"),
    ],
)
def test_mistakes(call, built, tmp_path, arguments, message):
    filled = [a.format(run=built, tmp=tmp_path) for a in arguments]
    code, out, err = call("index", *filled)
    assert (code, out) == (2, "")
    assert message in err
    value = json.loads(call("index", *filled, "--json")[1])
    assert message in value["error"]["message"]


def test_a_folder_in_the_place_of_a_command_gets_a_hint(call, documents):
    code, _, err = call("index", str(documents), "--out", "x")
    assert code == 2
    assert "index build" in err
    value = json.loads(call("index", "docs", "--json")[1])
    assert "embedworks index build docs --out RUN" in value["error"]["message"]
    assert call("index", "remov")[2].count("Did you mean 'remove'") == 1


def test_the_kind_of_index_is_kept_and_checked(call, documents, static_folder, tmp_path):
    out = tmp_path / "run"
    build = ("build", documents / "second", "-o", out, "--model", static_folder)
    assert facts(call, *build, "--index", "planned")["chunks"] > 1
    from embedworks.index import Collection

    assert Collection.open(out / "collection").index == "planned"
    code, _, err = call("index", *build, "--overwrite", "--index", "plan")
    assert code == 2
    assert "Did you mean 'planned'" in err
