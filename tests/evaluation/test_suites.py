"""Suites: every one registered, something to run anywhere, reasons for what is missing."""

from __future__ import annotations

import pytest

from embedworks.errors import NotFoundError, UnknownNameError
from embedworks.evaluation import (
    SUITES,
    TASK_KINDS,
    DataFolder,
    RetrievalTask,
    Suite,
    TaskSource,
)


def toy(data):
    return RetrievalTask("toy", {"q": "x"}, {"d": "x"}, {"q": {"d": 1}})


@pytest.fixture
def empty(tmp_path):
    return DataFolder(tmp_path)


def test_missing_files_are_a_reason_and_not_an_error(empty, tmp_path):
    suite = Suite(
        "s",
        (TaskSource("toy", toy), TaskSource("far", toy, ("here.parquet", "gone.parquet"))),
    )
    (tmp_path / "here.parquet").write_bytes(b"")
    tasks, skipped = suite.tasks(empty)
    assert [task.name for task in tasks] == ["toy"]
    assert skipped == {"far": f"gone.parquet not in {tmp_path}"}


def test_only_builds_what_is_wanted(empty):
    built = []

    def build(data):
        built.append(data)
        return toy(data)

    suite = Suite("s", (TaskSource("toy", build), TaskSource("other", build)))
    tasks, skipped = suite.tasks(empty, only=["toy"])
    assert len(tasks) == len(built) == 1
    assert built == [empty]
    assert skipped == {}
    with pytest.raises(UnknownNameError, match="Did you mean 'toy'"):
        suite.tasks(empty, only=["toys"])


def test_registered_suites():
    assert "core" in SUITES
    for name in SUITES:
        suite = SUITES[name]
        assert suite.name == name
        assert suite.sources
        assert SUITES.summary(name).endswith(".")
        names = [source.name for source in suite.sources]
        assert len(set(names)) == len(names)
        for source in suite.sources:
            assert all("/" not in file for file in source.files)


def test_every_suite_says_what_it_cannot_run(empty):
    for name in SUITES:
        files = [source for source in SUITES[name].sources if source.files]
        suite = Suite(name, tuple(files))
        tasks, skipped = suite.tasks(empty)
        assert tasks == []
        assert set(skipped) == {source.name for source in files}


def test_core_on_the_public_data(data_root):
    folder = DataFolder(data_root)
    source = next(s for s in SUITES["core"].sources if s.name == "stsb-en-dev")
    if not folder.has(*source.files):
        pytest.skip("the STS benchmark is not in the data folder")
    tasks, skipped = SUITES["core"].tasks(folder, only=["stsb-en-dev"])
    assert skipped == {}
    assert tasks[0].kind in TASK_KINDS
    assert len(tasks[0].pairs) == 1500


def test_data_folder(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"lang": ["en", "de", "en"], "score": [1.0, 2.0, 3.0], "text": list("abc")})
    pq.write_table(table, tmp_path / "rows.parquet")
    monkeypatch.setenv("EMBEDWORKS_DATA", str(tmp_path))
    folder = DataFolder()
    assert folder.root == tmp_path
    assert folder.has("rows.parquet")
    assert not folder.has("rows.parquet", "other.parquet")
    assert folder.path("rows.parquet") == tmp_path / "rows.parquet"
    rows = folder.records("rows.parquet", ["score"], where={"lang": "en"})
    assert [row["score"] for row in rows] == [1.0, 3.0]
    with pytest.raises(NotFoundError, match="EMBEDWORKS_DATA"):
        folder.records("other.parquet", ["score"])
    assert DataFolder(tmp_path / "elsewhere").root == tmp_path / "elsewhere"
    monkeypatch.delenv("EMBEDWORKS_DATA")
    assert DataFolder().root.parts == ("..", "shared", "data")
