"""The durable collection: searching, changing, and every way it can be damaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from embedworks.errors import (
    DataWarning,
    DuplicateIdError,
    EmptyInputError,
    FormatError,
    InputError,
    NonFiniteError,
    NotFoundError,
    QuerySyntaxError,
    SettingsError,
    ShapeError,
    StorageError,
    UnknownNameError,
)
from embedworks.index.collection import Collection
from embedworks.index.modes import SEARCH_MODES, HybridSettings

lancedb = pytest.importorskip("lancedb")
DIM = 6
WORDS = ["file", "open", "socket", "close", "path", "read", "write", "line"]


def make_rows(count, *, start=0, seed=0):
    rng = np.random.default_rng(seed)
    rows = [
        {
            "chunk_id": f"c{start + n:03}",
            "doc_id": f"d{(start + n) // 2}",
            "title": "Guide > Files",
            "text": " ".join(rng.choice(WORDS, 6)),
            "path": f"{'http' if n % 3 else 'os'}.py",
            "start_line": n,
            "end_line": n + 1,
            "kind": "text",
            "attributes": {"year": 2000 + n % 10},
        }
        for n in range(count)
    ]
    return rows, rng.standard_normal((count, DIM)).astype(np.float32)


class Encoder:
    """Turns a text into one direction per letter, as a stand-in for a model."""

    def encode(self, texts):
        vectors = np.zeros((len(texts), DIM), dtype=np.float32)
        for row, text in enumerate(texts):
            for letter in text:
                vectors[row, ord(letter) % DIM] += 1
        return vectors


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("collection") / "c"
    rows, vectors = make_rows(40)
    Collection.create(path, rows, vectors, metadata={"model": "m"})
    return path


@pytest.fixture
def path(built, tmp_path):
    """A private copy of the built collection."""
    shutil.copytree(built, tmp_path / "c")
    return tmp_path / "c"


def ids(collection):
    return collection.rows.column("chunk_id").to_pylist()


# Searching.


@pytest.mark.parametrize("mode", SEARCH_MODES.names())
@pytest.mark.parametrize("where", [None, "year > 2005 AND path LIKE 'http%'", "year = 1"])
@pytest.mark.parametrize("k", [1, 5, 1000])
def test_search_invariants(built, mode, where, k):
    collection = Collection.open(built)
    hits = collection.search("open the files", k=k, where=where, mode=mode, encoder=Encoder())
    matching = collection.count(where)
    assert len(hits) <= min(k, matching) if mode == "bm25" else len(hits) == min(k, matching)
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    order = ids(collection)
    pairs = [(-hit.score, order.index(hit.chunk_id)) for hit in hits]
    assert pairs == sorted(pairs)
    if where and hits:
        assert all(h.attributes["year"] > 2005 and h.path == "http.py" for h in hits)


def test_hits_show_everything(built):
    hit = Collection.open(built).search("files", mode="bm25", k=1)[0]
    assert hit.title == "Guide > Files"
    assert hit.doc_id.startswith("d")
    assert hit.end_line == hit.start_line + 1
    assert {hit.passage[a:b] for a, b in hit.highlights} == {"file"}
    assert hit.attributes["kind"] == "text"
    assert json.loads(json.dumps(hit.to_dict()))["chunk_id"] == hit.chunk_id


@pytest.mark.parametrize("mode", SEARCH_MODES.names())
def test_search_many_equals_search(built, mode):
    collection = Collection.open(built)
    questions = ["open file", "close", "read the line"]
    batch = collection.search_many(questions, k=7, mode=mode, encoder=Encoder())
    assert len(batch) == 3
    for number, question in enumerate(questions):
        hits = collection.search(question, k=7, mode=mode, encoder=Encoder())
        assert [hit.chunk_id for hit in hits] == batch.chunk_ids[number]
        assert [hit.doc_id for hit in hits] == batch.doc_ids[number]
        assert [hit.score for hit in hits] == batch.scores[number].tolist()
        assert [ids(collection)[row] for row in batch.rows[number]] == batch.chunk_ids[number]


def test_search_by_vector(built):
    collection = Collection.open(built)
    hits = collection.search(vector=collection.vectors[7], k=1, mode="dense")
    assert hits[0].chunk_id == ids(collection)[7]
    assert hits[0].score == pytest.approx(1.0)
    assert collection.search_many(vectors=collection.vectors[:2], mode="dense", k=1).rows[1] == [1]


def test_encode_query_is_preferred(built):
    class Both(Encoder):
        def encode_query(self, texts):
            return np.ones((len(texts), DIM))

    collection = Collection.open(built)
    hits = collection.search("x", mode="dense", encoder=Both())
    direct = collection.search(vector=np.ones(DIM), mode="dense")
    assert [h.chunk_id for h in hits] == [h.chunk_id for h in direct]


def test_explain(built):
    collection = Collection.open(built)
    told = collection.explain("file", where="year>2008", mode="hybrid", encoder=Encoder())
    assert (told.rows, told.matching, told.version) == (40, 4, 1)
    assert told.selectivity == pytest.approx(0.1)
    assert set(told.seconds) == {"filter", "encode", "rank", "highlight"}
    assert "filter: year > 2008" in str(told)
    assert "4 of 40 rows match (10.0%)" in str(told)


def test_facts(built):
    collection = Collection.open(built)
    assert len(collection) == 40
    assert (collection.version, collection.dim) == (1, DIM)
    assert collection.metadata == {"model": "m"}
    assert collection.columns["year"] == "int64"
    assert "vector" not in collection.columns
    assert collection.count("year IS NULL") == 0
    memory = collection.memory()
    assert memory["vectors"] == 40 * DIM * 4
    assert memory["total"] == sum(size for part, size in memory.items() if part != "total")
    assert collection.verify() == {"rows": 40, "dim": DIM, "version": 1}


def test_stored_hybrid_settings_are_used(tmp_path):
    rows, vectors = make_rows(20)
    chosen = HybridSettings(bm25_weight=1.0, feedback_rows=0)
    collection = Collection.create(
        tmp_path / "c", rows, vectors, metadata={"hybrid": chosen.to_dict()}
    )
    plan = collection.explain("file", encoder=Encoder()).plan
    assert any("1.00 BM25" in step for step in plan)
    plan = collection.explain("file", encoder=Encoder(), hybrid=HybridSettings()).plan
    assert any("0.50 BM25" in step for step in plan)
    with pytest.raises(SettingsError, match="bm25_weight"):
        Collection.create(tmp_path / "x", rows, vectors, metadata={"hybrid": {"bm25": 1}})


def test_with_vectors_compares_models(built):
    collection = Collection.open(built)
    other = np.random.default_rng(9).standard_normal((40, 3))
    compared = collection.with_vectors(other)
    assert compared.dim == 3
    assert compared.search(vector=other[5], mode="dense", k=1)[0].chunk_id == ids(collection)[5]
    assert compared.search("file", vector=other[5], k=50, where="year < 2003")
    assert compared.search("file", mode="bm25") == collection.search("file", mode="bm25")
    for change in (
        lambda: compared.remove(["c001"]),
        lambda: compared.add([{"chunk_id": "x", "text": "x"}], np.ones((1, 3))),
        compared.verify,
    ):
        with pytest.raises(InputError, match="in memory"):
            change()
    with pytest.raises(ShapeError, match="40 rows"):
        collection.with_vectors(other[:3])
    assert collection.dim == DIM


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"query": "  ", "mode": "bm25"}, EmptyInputError, "empty"),
        ({}, EmptyInputError, "text or a vector"),
        ({"query": "x"}, InputError, "encoder="),
        ({"query": ["x"], "mode": "bm25"}, InputError, "must be a string"),
        ({"vector": np.ones(DIM)}, InputError, "needs the query's text"),
        ({"vector": np.ones(3), "mode": "dense"}, ShapeError, "another model"),
        ({"vector": np.ones((2, DIM)), "mode": "dense"}, ShapeError, r"shape \(D,\)"),
        ({"vector": np.full(DIM, np.nan), "mode": "dense"}, NonFiniteError, "NaN"),
        ({"query": "x", "mode": "bm52"}, UnknownNameError, "bm25"),
        ({"query": "x", "mode": "bm25", "k": 0}, InputError, "k must be"),
        ({"query": "x", "mode": "bm25", "where": "yaer = 1"}, QuerySyntaxError, "'year'"),
        ({"query": "x", "mode": "bm25", "where": "year ="}, QuerySyntaxError, "position"),
    ],
)
def test_bad_searches(built, arguments, error, message):
    with pytest.raises(error, match=message):
        Collection.open(built).search(**arguments)


def test_zero_query_vectors_are_counted(built):
    collection = Collection.open(built)
    with pytest.warns(DataWarning, match="1 of 1 queries"):
        hits = collection.search("file", vector=np.zeros(DIM), k=3)
    assert len(hits) == 3
    with pytest.raises(ShapeError, match="2 queries come with 1"):
        collection.search_many(["a", "b"], vectors=np.ones((1, DIM)))


# Rows.


def test_bad_vectors(tmp_path):
    rows, vectors = make_rows(3)
    for bad, error, message in [
        (vectors[:2], ShapeError, "3 rows need 3 vectors"),
        (vectors[0], ShapeError, r"\(N, D\)"),
        (np.full((3, 2), np.inf), NonFiniteError, "infinity"),
        (np.ones((3, 0)), ShapeError, "one dimension"),
    ]:
        with pytest.raises(error, match=message):
            Collection.create(tmp_path / "c", rows, bad)
    vectors[1] = 0
    with pytest.warns(DataWarning, match="1 of 3 vectors are zero"):
        Collection.create(tmp_path / "c", rows, vectors)
    with pytest.raises(InputError, match="JSON"):
        Collection.create(tmp_path / "d", rows, np.ones((3, 2)), metadata={"x": float("nan")})


def test_zero_rows(tmp_path):
    collection = Collection.create(tmp_path / "c", [], np.empty((0, 3)))
    for opened in (collection, Collection.open(tmp_path / "c")):
        assert len(opened) == 0
        assert opened.search("x", mode="bm25") == []
        assert opened.search("x", vector=np.ones(3)) == []
        assert opened.search_many(["x"], vectors=np.ones((1, 3))).chunk_ids == [[]]
        assert opened.count("path = 'x'") == 0
    collection.add([{"chunk_id": "a", "text": "x", "n": 1}], np.ones((1, 3)))
    assert collection.search("x", mode="bm25")[0].chunk_id == "a"


# Changing.


def test_add_remove_upsert_follow_a_dictionary(path):
    collection = Collection.open(path)
    expected = {i: collection.vectors[n] for n, i in enumerate(ids(collection))}
    rows, vectors = make_rows(5, start=100, seed=1)
    collection.add(rows, vectors)
    expected |= {row["chunk_id"]: v for row, v in zip(rows, vectors, strict=True)}
    assert collection.remove(["c003", "c101", "c003"]) == 2
    assert collection.remove(where="year = 2007") == 4
    assert collection.remove(where="year = 2007") == 0
    gone = {"c003", "c101", "c007", "c017", "c027", "c037"}
    expected = {i: v for i, v in expected.items() if i not in gone}
    changed = [{"chunk_id": "c001", "text": "zebra"}, {"chunk_id": "new", "text": "zebra"}]
    collection.upsert(changed, np.eye(2, DIM))
    expected |= {"c001": np.eye(2, DIM)[0], "new": np.eye(2, DIM)[1]}
    for opened in (collection, Collection.open(path)):
        assert sorted(ids(opened)) == sorted(expected)
        for number, chunk_id in enumerate(ids(opened)):
            np.testing.assert_array_equal(opened.vectors[number], expected[chunk_id])
        found = opened.search("zebra", mode="bm25")
        assert {hit.chunk_id for hit in found} == {"c001", "new"}
        everything = opened.search(vector=np.ones(DIM), mode="dense", k=1000)
        assert not gone & {hit.chunk_id for hit in everything}
        assert opened.metadata == {"model": "m"}
        opened.verify()


def test_added_columns_may_be_new_missing_or_of_another_type(path):
    collection = Collection.open(path)
    with pytest.warns(DataWarning, match="'year' held int64"):
        collection.add(
            [{"chunk_id": "n1", "text": "x", "year": "soon", "color": "red"}], np.ones((1, DIM))
        )
    assert collection.count("year = 'soon' AND color = 'red'") == 1
    assert collection.count("color IS NULL") == 40
    assert collection.count("year = '2003'") == 4


def test_refused_changes_change_nothing(path):
    collection = Collection.open(path)
    rows, vectors = make_rows(2)
    with pytest.raises(DuplicateIdError, match="2 of 2 chunk ids"):
        collection.add(rows, vectors)
    with pytest.raises(ShapeError, match="another model"):
        collection.add(make_rows(1, start=90)[0], np.ones((1, DIM + 1)))
    with pytest.raises(InputError, match="1 of 2 chunk ids are not"):
        collection.remove(["c001", "nope"])
    with pytest.raises(InputError, match="either"):
        collection.remove()
    with pytest.raises(InputError, match="either"):
        collection.remove(["c001"], where="year = 1")
    with pytest.raises(QuerySyntaxError):
        collection.remove(where="nope = 1")
    collection.add([], np.empty((0, DIM)))
    assert collection.version == Collection.open(path).version == 1


def test_ids_with_quotes_can_be_removed(tmp_path):
    rows = [{"chunk_id": i, "text": "x"} for i in ["it's", 'a"b', "c\\d", "e;--"]]
    collection = Collection.create(tmp_path / "c", rows, np.ones((4, 2)))
    assert collection.remove(["it's", "c\\d"]) == 2
    assert ids(collection) == ['a"b', "e;--"]


def test_create_twice_needs_overwrite(path):
    rows, vectors = make_rows(3, seed=5)
    with pytest.raises(InputError, match="overwrite=True"):
        Collection.create(path, rows, vectors)
    Collection.create(path, rows, np.ones((3, 2)), overwrite=True, metadata={"model": "n"})
    opened = Collection.open(path)
    assert (len(opened), opened.dim, opened.version) == (3, 2, 2)
    assert opened.metadata == {"model": "n"}


def test_a_reader_keeps_its_version(path):
    reader = Collection.open(path)
    before = [hit.chunk_id for hit in reader.search(vector=np.ones(DIM), mode="dense")]
    writer = Collection.open(path)
    writer.remove(where="year < 2009")
    writer.prepare()
    assert len(writer) == 4
    assert [h.chunk_id for h in reader.search(vector=np.ones(DIM), mode="dense")] == before
    assert reader.search("file", mode="bm25", k=40)
    assert len(reader) == 40
    assert len(list((path / "cache").iterdir())) == 1
    # Writing from the old object builds on the newest version.
    reader.add([{"chunk_id": "late", "text": "x"}], np.ones((1, DIM)))
    assert len(reader) == 5


def test_many_changes_do_not_pile_up(path):
    collection = Collection.open(path)
    for number in range(20):
        collection.add([{"chunk_id": f"n{number}", "text": "x"}], np.ones((1, DIM)))
    assert len(collection) == 60
    assert ids(Collection.open(path)) == [f"c{n:03}" for n in range(40)] + [
        f"n{n}" for n in range(20)
    ]
    # Between eight kept versions and twice as many, and a few more as they came in one instant.
    assert 8 <= len(collection.versions()) <= 24
    assert len(list((path / "rows.lance" / "data").iterdir())) <= 24
    collection.compact(keep=1)
    assert [v.rows for v in collection.versions()] == [60]
    assert len(list((path / "rows.lance" / "data").iterdir())) == 1
    collection.verify()


def test_caches_are_made_when_they_are_needed(path):
    collection = Collection.open(path)
    before = list((path / "cache").iterdir())
    for number in range(3):
        collection.add([{"chunk_id": f"n{number}", "text": "zebra"}], np.ones((1, DIM)))
    assert (len(collection), collection.dim, collection.version) == (43, DIM, 4)
    assert collection.columns["year"] == "int64"
    assert collection.metadata == {"model": "m"}
    assert list((path / "cache").iterdir()) == before
    assert len(collection.search("zebra", mode="bm25")) == 3
    assert [entry.name[:3] for entry in (path / "cache").iterdir()] == ["v4-"]
    collection.remove(["n0"])
    collection.prepare()
    assert [entry.name[:3] for entry in (path / "cache").iterdir()] == ["v5-"]


def test_caches_made_from_older_ones_are_the_same(path):
    collection = Collection.open(path)
    collection.upsert(
        [{"chunk_id": "c003", "text": "an altogether new text"}, {"chunk_id": "x", "text": "file"}],
        np.ones((2, DIM)),
    )
    collection.remove(["c004", "c020"])
    collection.update({"year": None}, where="year = 2005")
    collection.prepare()
    assert collection.verify()["rows"] == 39  # compares with a snapshot made from nothing


def test_older_versions_can_be_opened_and_restored(path):
    collection = Collection.open(path)
    collection.remove(where="year < 2009")
    collection.add([{"chunk_id": "new", "text": "zebra"}], np.ones((1, DIM)))
    versions = collection.versions()
    assert [(v.number, v.rows) for v in versions] == [(1, 40), (2, 4), (3, 5)]
    assert versions[0].time.tzinfo is not None
    first = Collection.open(path, version=1)
    assert (len(first), first.version) == (40, 1)
    assert len(first.search(vector=np.ones(DIM), mode="dense", k=99)) == 40
    assert first.search("zebra", mode="bm25") == []
    assert first.verify()["version"] == 1
    for change in (
        lambda: first.remove(["c001"]),
        lambda: first.add([{"chunk_id": "y", "text": "y"}], np.ones((1, DIM))),
        lambda: first.update({"year": 1}, where="year = 2000"),
        first.compact,
    ):
        with pytest.raises(InputError, match="is an old one"):
            change()
    first.restore(1)
    assert (len(first), first.version, len(collection)) == (40, 4, 5)
    first.remove(["c001"])
    assert len(Collection.open(path)) == 39
    assert len(Collection.open(path, version=3)) == 5
    for wrong in (99, 0):
        with pytest.raises(NotFoundError, match=f"no version {wrong}.*Kept are: 1, 2, 3, 4, 5"):
            Collection.open(path, version=wrong)
        with pytest.raises(NotFoundError, match=f"no version {wrong}"):
            collection.restore(wrong)


def test_a_version_removed_by_others_is_followed_by_the_newest(path):
    writer, other = Collection.open(path), Collection.open(path)
    old = Collection.open(path, version=1)
    writer.add([{"chunk_id": "mine", "text": "zebra"}], np.ones((1, DIM)))
    other.remove(where="year < 2009")
    other.compact(keep=1)
    assert {h.chunk_id for h in writer.search("zebra", mode="bm25")} == {"mine"}
    assert (len(writer), writer.version) == (5, other.version)
    assert len(old.search(vector=np.ones(DIM), mode="dense", k=99)) == 40  # mapped when opened
    with pytest.raises(NotFoundError, match="no version 1"):
        Collection.open(path, version=1)


def test_update_sets_attributes(path):
    collection = Collection.open(path)
    vectors = {i: collection.vectors[n].copy() for n, i in enumerate(ids(collection))}
    assert collection.update({"year": 1999, "kind": None}, where="year = 2003") == 4
    assert collection.count("year = 1999 AND kind IS NULL") == 4
    assert collection.count("year = 2003") == 0
    assert collection.update({"color": "red", "score": 1.5}, chunk_ids=["c001", "c002"]) == 2
    assert collection.columns["color"] == "string"
    assert collection.count("color = 'red' AND score > 1") == 2
    assert collection.count("color IS NULL") == 38
    assert collection.update({"year": 1}, where="year = 5") == 0
    assert collection.update({}, where="year = 1999") == 4
    assert collection.metadata == {"model": "m"}
    assert len(collection) == 40
    for number, chunk_id in enumerate(ids(collection)):
        np.testing.assert_array_equal(collection.vectors[number], vectors[chunk_id])
    collection.verify()
    before = collection.version
    for values, message in [
        ({"text": "x"}, "upsert"),
        ({"vector": [1]}, "upsert"),
        ({"_score": 1}, "reserved"),
        ({"start_line": "x"}, "int64"),
    ]:
        with pytest.raises(InputError, match=message):
            collection.update(values, where="year = 1999")
    with pytest.raises(InputError, match="either"):
        collection.update({"year": 1})
    with pytest.raises(InputError, match="1 of 1 chunk ids"):
        collection.update({"year": 1}, chunk_ids=["nope"])
    assert collection.version == before


def test_sets_can_be_filtered_and_changed(tmp_path):
    rows = [
        {"chunk_id": "a", "text": "x", "tags": ["red", "blue"]},
        {"chunk_id": "b", "text": "x", "tags": []},
        {"chunk_id": "c", "text": "x"},
    ]
    collection = Collection.create(tmp_path / "c", rows, np.eye(3))
    collection.upsert([{"chunk_id": "d", "text": "x", "tags": {"red"}}], np.ones((1, 3)))
    assert collection.count("tags CONTAINS 'red'") == 2
    assert collection.count("NOT tags CONTAINS 'red'") == 1
    hits = collection.search(vector=np.eye(3)[0], mode="dense", where="tags CONTAINS 'blue'")
    assert [hit.attributes["tags"] for hit in hits] == [["red", "blue"]]
    assert json.loads(json.dumps(hits[0].to_dict()))["attributes"]["tags"] == ["red", "blue"]
    assert collection.update({"tags": ["green"]}, where="tags IS NULL") == 1
    assert collection.count("tags CONTAINS 'green'") == 1
    with pytest.raises(QuerySyntaxError, match="CONTAINS"):
        collection.count("tags = 'red'")
    collection.verify()


@pytest.mark.parametrize("column", [{}, {"color": "red"}])
def test_whole_documents_are_replaced(path, column):
    """In place, and where a new column makes the whole table new."""
    collection = Collection.open(path)
    assert collection.count("doc_id IN ('d3', 'd4')") == 4
    rows = [
        {"chunk_id": "c006", "doc_id": "d3", "text": "shorter", **column},
        {"chunk_id": "n", "doc_id": "d'9", "text": "new", **column},
    ]
    collection.upsert(rows, np.ones((2, DIM)), whole_documents=True)
    assert collection.version == 2
    assert collection.count("doc_id = 'd3'") == 1
    assert set(ids(collection)) == {f"c{n:03}" for n in range(40)} - {"c007"} | {"n"}
    assert collection.search("shorter", mode="bm25")[0].chunk_id == "c006"
    collection.verify()


def test_ids_of_large_tables_are_indexed(path, monkeypatch):
    """Every change gives the same rows with the index as without."""
    monkeypatch.setattr("embedworks.index._store.INDEXED_ROWS", 20)
    rows, vectors = make_rows(40, seed=3)
    collection = Collection.create(path, rows, vectors, overwrite=True)
    table = lancedb.connect(str(path)).open_table("rows")
    assert [index.columns for index in table.list_indices()] == [["chunk_id"]]
    expected = {row["chunk_id"] for row in rows}
    for number in range(20):
        new = {"chunk_id": f"n{number}", "text": "zebra"}
        old = {"chunk_id": f"c{number:03}", "text": "zebra"}
        collection.upsert([new, old], np.ones((2, DIM)))
        with pytest.raises(DuplicateIdError):
            collection.add([new], np.ones((1, DIM)))
        collection.remove([f"c{39 - number:03}"])
        expected.add(f"n{number}")
        expected.discard(f"c{39 - number:03}")
    assert set(ids(collection)) == expected
    assert len(collection.search("zebra", mode="bm25", k=99)) == 40
    collection.update({"year": 7}, chunk_ids=sorted(expected))
    assert collection.count("year = 7") == len(expected)
    collection.compact(keep=1)
    assert set(ids(collection)) == expected
    collection.verify()


def test_changes_of_many_rows_by_id(tmp_path):
    """More ids than are listed in one condition."""
    count = 5000
    rows = [{"chunk_id": f"c{n}", "text": "x", "n": n} for n in range(count)]
    collection = Collection.create(tmp_path / "c", rows, np.ones((count, 2)))
    with pytest.raises(DuplicateIdError, match="5000 of 5000"):
        collection.add(rows, np.ones((count, 2)))
    assert collection.update({"n": -1}, where="n >= 1000") == 4000
    assert collection.count("n = -1") == 4000
    assert collection.remove([f"c{n}" for n in range(3000)]) == 3000
    collection.upsert(rows, np.full((count, 2), 2.0))
    assert sorted(ids(collection)) == sorted(row["chunk_id"] for row in rows)
    assert (collection.vectors == 2).all()
    assert collection.count("n = -1") == 0


# Damage.


def test_opening_needs_no_storage_library(built):
    code = (
        "import sys; from embedworks.index import Collection\n"
        f"c = Collection.open({str(built)!r})\n"
        "found = c.search('file', mode='bm25', where=\"year > 2001 AND path LIKE 'http%'\")\n"
        "print(len(found), 'lancedb' in sys.modules, 'torch' in sys.modules, "
        "'numba' in sys.modules, 'pandas' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["10", "False", "False", "False", "False"]


def test_missing_or_damaged_cache_is_made_again(path):
    expected = ids(Collection.open(path))
    (folder,) = (path / "cache").iterdir()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole = file.read_bytes()
        for damage in (whole[: len(whole) // 2], None):
            if damage is None:
                file.unlink()
            else:
                file.write_bytes(damage)
            collection = Collection.open(path)
            assert ids(collection) == expected
            assert collection.search("file", mode="bm25")
            assert file.stat().st_size == len(whole)
    shutil.rmtree(path / "cache")
    assert ids(Collection.open(path)) == expected


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("snapshot.json", {"cache_version": 99}),
        ("snapshot.json", {"rows": 3}),
        ("snapshot.json", {"commit": "v7-0123456789ab"}),
        ("bm25/bm25.json", {"format_version": 99}),
        ("bm25/bm25.json", {"analyzer": {"stemmer": "klingon"}}),
    ],
)
def test_caches_of_other_versions_are_made_again(path, file, change):
    (folder,) = (path / "cache").iterdir()
    about = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**about, **change}))
    collection = Collection.open(path)
    assert len(collection.search("file", mode="bm25", k=40)) > 5
    assert json.loads((folder / file).read_text()) == about


def test_a_cache_older_than_its_collection_is_not_used(path):
    (folder,) = (path / "cache").iterdir()
    collection = Collection.open(path)
    collection.remove(where="year < 2009")
    newest = next(v for v in collection.versions() if v.number == 2)
    opened = Collection.open(path)
    assert len(opened) == newest.rows == 4
    assert not folder.exists()
    # Not even under the newest version's name.
    (old,) = (path / "cache").iterdir()
    opened.remove(["c009"])
    old.rename(path / "cache" / opened._commit.name)
    assert len(Collection.open(path).search(vector=np.ones(DIM), mode="dense")) == 3


def test_leftovers_are_removed(path):
    (path / "cache" / ".v9.abc.tmp").mkdir()
    orphan = path / "rows.lance" / "data" / "0123456789abcdef01234567.lance"
    orphan.write_bytes(b"x")  # what a killed writer left
    collection = Collection.open(path)
    collection.remove(["c001"])
    collection.prepare()
    assert orphan.exists()
    collection.compact()
    assert not orphan.exists()
    collection = Collection.open(path)
    collection.remove(["c002"])
    collection.prepare()
    assert len([entry.name for entry in (path / "cache").iterdir()]) == 1


def test_changed_bytes_are_found_by_verify(path):
    (folder,) = (path / "cache").iterdir()
    file = folder / "vectors.npy"
    data = bytearray(file.read_bytes())
    data[-2] ^= 1
    file.write_bytes(data)
    collection = Collection.open(path)
    with pytest.raises(FormatError, match=r"checksum.*Delete"):
        collection.verify()


def test_table_made_again_does_not_meet_the_old_cache(path):
    shutil.rmtree(path / "rows.lance")
    rows, vectors = make_rows(2, seed=9)
    with pytest.raises(NotFoundError, match="no version yet"):
        Collection.open(path)
    Collection.create(path, rows, vectors)
    assert len(Collection.open(path)) == 2


def test_what_a_killed_first_creation_leaves_can_be_used(tmp_path):
    path = tmp_path / "c"
    path.mkdir()
    (path / ".lock").touch()
    (path / ".collection.json.1234.tmp").write_text("{")
    rows, vectors = make_rows(2)
    assert len(Collection.create(path, rows, vectors)) == 2


def test_damaged_table_is_a_clear_error(path):
    shutil.rmtree(path / "cache")
    for file in (path / "rows.lance" / "data").iterdir():
        file.unlink()
    with pytest.raises(FormatError, match="missing or damaged"):
        Collection.open(path)


def test_other_folders_and_versions(path, tmp_path):
    with pytest.raises(NotFoundError, match="does not exist"):
        Collection.open(tmp_path / "nowhere")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("x")
    with pytest.raises(NotFoundError, match=r"no collection\.json"):
        Collection.open(tmp_path / "docs")
    with pytest.raises(InputError, match="not empty and not a collection"):
        Collection.create(tmp_path / "docs", [], np.empty((0, 2)))
    about = path / "collection.json"
    about.write_text('{"format_version": 99}')
    with pytest.raises(FormatError, match="format version 99"):
        Collection.open(path)
    with pytest.raises(FormatError, match="format version 99"):
        Collection.create(path, [], np.empty((0, 2)), overwrite=True)
    about.write_text('{"format_')
    with pytest.raises(FormatError, match="half written"):
        Collection.open(path)


def test_cache_that_cannot_be_written_is_not_needed(path):
    shutil.rmtree(path / "cache")
    (path / "cache").write_text("a file is in the way")
    with pytest.warns(DataWarning, match="cache could not be written"):
        collection = Collection.open(path)
    assert len(collection.search("file", mode="bm25", k=40)) > 5


def test_a_second_writer_waits_and_says_so(path):
    from embedworks.index._store import TableStore

    store = TableStore(path)
    second = Collection.open(path, lock_timeout=0.1)
    with store.lock():
        start = time.monotonic()
        with pytest.raises(StorageError, match=rf"\(id {os.getpid()}\) has been writing .* 0.1 s"):
            second.remove(["c001"])
        assert time.monotonic() - start >= 0.1
        assert len(second.search("file", mode="bm25")) == 10  # readers need no lock
    assert second.remove(["c001"]) == 1
    with store.lock("cache"), pytest.warns(DataWarning, match="making the caches"):
        assert len(second.search("file", mode="bm25")) == 10
    with pytest.raises(InputError, match="lock_timeout"):
        Collection.open(path, lock_timeout=-1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_can_be_searched(path):  # pragma: no cover - depends on the user
    shutil.rmtree(path / "cache")
    path.chmod(0o500)
    try:
        with pytest.warns(DataWarning):
            assert Collection.open(path).search("file", mode="bm25")
    finally:
        path.chmod(0o700)
