"""`check_collection` finds each kind of damage and says what to do."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pytest

from embedworks.errors import FormatError, NotFoundError
from embedworks.index import Collection, check_collection
from embedworks.index._store import TableStore

lancedb = pytest.importorskip("lancedb")


@pytest.fixture
def path(tmp_path):
    rows = [{"chunk_id": f"c{n}", "text": f"file {n}"} for n in range(20)]
    Collection.create(tmp_path / "c", rows, np.random.default_rng(0).standard_normal((20, 4)))
    return tmp_path / "c"


def states(report):
    return {finding.part.split("-")[0]: finding.state for finding in report.findings}


def test_sound(path):
    report = check_collection(path)
    assert report.is_sound
    assert (report.version, report.rows) == (1, 20)
    assert states(report) == {"table": "ok", "cache/v1": "ok"}
    assert report.to_dict()["is_sound"] is True


def test_caches_that_are_missing_old_or_half_written(path):
    (path / "cache" / ".v1.1234.tmp").mkdir()
    Collection.open(path).remove(["c1"])
    report = check_collection(path)
    assert report.is_sound
    assert states(report) == {
        "table": "ok", "cache/.v1.1234.tmp": "leftover", "cache/v1": "old", "cache/v2": "missing",
    }  # fmt: skip
    assert all(f.remedy for f in report.findings if f.state != "ok")
    report = check_collection(path, repair=True)
    assert states(report) == {"table": "ok", "cache/v2": "ok"}


@pytest.mark.parametrize("file", ["rows.arrow", "vectors.npy", "norms.npy", "bm25/impacts.npy"])
def test_changed_caches(path, file):
    (folder,) = (path / "cache").iterdir()
    data = bytearray((folder / file).read_bytes())
    data[-2] ^= 1
    (folder / file).write_bytes(data)
    report = check_collection(path)
    assert not report.is_sound
    assert states(report)["cache/v1"] == "damaged"
    assert check_collection(path, repair=True).is_sound
    assert Collection.open(path).verify()["rows"] == 20


def test_caches_that_are_whole_and_of_other_rows(path, tmp_path):
    """Files with right checksums and the right name, made of another collection's rows."""
    rows = [{"chunk_id": f"c{n}", "text": f"file {n}"} for n in range(20)]
    Collection.create(tmp_path / "d", rows, np.random.default_rng(1).standard_normal((20, 4)))
    (ours,) = (path / "cache").iterdir()
    (theirs,) = (tmp_path / "d" / "cache").iterdir()
    shutil.rmtree(ours)
    shutil.copytree(theirs, ours)
    about = (ours / "snapshot.json").read_text()
    (ours / "snapshot.json").write_text(about.replace(theirs.name, ours.name))
    (finding,) = (f for f in check_collection(path).findings if f.state == "damaged")
    assert "vectors differ" in finding.message
    with pytest.raises(FormatError, match="vectors differ"):
        Collection.open(path).verify()


def test_damaged_tables_and_the_way_back(path):
    collection = Collection.open(path)
    before = set((path / "rows.lance" / "data").iterdir())
    collection.add([{"chunk_id": "n", "text": "new"}], np.ones((1, 4)))
    for file in set((path / "rows.lance" / "data").iterdir()) - before:
        file.unlink()
    report = check_collection(path, repair=True)
    assert not report.is_sound
    (finding,) = report.findings
    assert finding.part == "table"
    assert "can still be read: 1." in finding.remedy
    Collection.open(path, version=1).restore(1)
    assert check_collection(path).rows == 20
    for file in (path / "rows.lance" / "data").iterdir():
        file.unlink()
    (finding,) = check_collection(path).findings
    assert "No kept version can be read" in finding.remedy


def test_rows_another_program_wrote(path):
    """Duplicate ids and infinite numbers, which `Collection` refuses, are found."""
    table = lancedb.connect(str(path)).open_table("rows")
    table.add(table.to_arrow().slice(0, 2))
    (finding,) = check_collection(path).findings
    assert "2 rows repeat a chunk id" in finding.message
    table.delete("chunk_id IN ('c0', 'c1')")
    changed = table.to_arrow().slice(0, 1)
    wrong = pa.FixedSizeListArray.from_arrays(pa.array([np.inf] * 4, pa.float32()), 4)
    changed = changed.set_column(changed.schema.get_field_index("vector"), "vector", wrong)
    TableStore(path).upsert(changed)
    (finding,) = check_collection(path).findings
    assert "infinity" in finding.message


def test_what_is_no_collection(path, tmp_path):
    with pytest.raises(NotFoundError, match="does not exist"):
        check_collection(tmp_path / "nothing")
    (path / "collection.json").write_text('{"format_version": 99}')
    with pytest.raises(FormatError, match="format version 99"):
        check_collection(path)
