"""A collection on a server, with the embedded one (milvus-lite), beside the local collection."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedworks.errors import (
    DataWarning,
    DuplicateIdError,
    EndpointError,
    FormatError,
    InputError,
    NonFiniteError,
    NotFoundError,
    QuerySyntaxError,
    ShapeError,
)
from embedworks.index._milvus import columns_of, expression, from_served, to_served
from embedworks.index.filtering import evaluate
from embedworks.index.modes import HybridSettings
from embedworks.index.where import And, Between, Compare, In, IsNull, Like, Not, Or

DIM = 6
WORDS = ["file", "open", "socket", "close", "path", "read", "write", "line"]


def make_rows(count, *, start=0):
    rng = np.random.default_rng(start)
    rows = [
        {
            "chunk_id": f"c{start + n:03}",
            "doc_id": f"d{(start + n) // 2}",
            "title": f"Guide {n % 3}",
            "text": " ".join(rng.choice(WORDS, 6)),
            "year": None if n % 7 == 0 else 2000 + n % 10,
            "score": float(n % 5) / 2,
            "good": [True, False, None][n % 3],
            "publication day": datetime.date(2020, 1, 1 + n % 20),
        }
        for n in range(count)
    ]
    return rows, rng.standard_normal((count, DIM)).astype(np.float32)


# Filters, without a server.


def test_columns_and_values_round_trip():
    table = pa.table(
        {
            "chunk_id": ["a", "b"],
            "in": [1, None],
            "day": [datetime.date(1969, 12, 31), None],
            "at": [datetime.datetime(2024, 5, 1, 3, tzinfo=datetime.UTC), None],
            "share": pa.array([0.5, None], pa.float32()),
        }
    )
    columns = columns_of(table.schema)
    assert len({column.field for column in columns}) == 5
    assert all(column.field.isidentifier() for column in columns)
    assert columns[1].field != "in"
    found = [from_served(entity, columns) for entity in to_served(table, columns)]
    expected = table.to_pylist()
    expected[0]["day"] = datetime.datetime(1969, 12, 31)
    assert found == expected
    with pytest.raises(InputError, match="cannot be stored"):
        columns_of(pa.schema({"x": pa.duration("s")}))
    with pytest.raises(InputError, match="no column 'new'"):
        list(to_served(pa.table({"new": [1]}), columns))
    with pytest.raises(InputError, match="must hold int64"):
        list(to_served(pa.table({"in": ["x"]}), columns))
    with pytest.raises(InputError, match="65,535"):
        list(to_served(pa.table({"chunk_id": ["é" * 40_000]}), columns))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("year > 3", "year > 3"),
        ("year = 3 OR name LIKE 'a%'", '(year == 3) or (name like "a%")'),
        ("NOT year IS NULL", "year is not null"),
        ("name = 'a\"b'", 'name == "a\\"b"'),
        ("day >= '1970-01-02'", "day >= 86400000000"),
        ("NOT year BETWEEN 1 AND 2", "(not ((year >= 1) and (year <= 2))) and (year is not null)"),
    ],
)
def test_filters_are_translated(where, expected):
    kinds = {"year": pa.int64(), "name": pa.string(), "day": pa.date32()}
    assert expression(where, columns_of(pa.schema(kinds))) == expected


@pytest.mark.parametrize(
    ("where", "message"),
    [("yaer = 1", "Did you mean 'year'"), ("year = 'x'", "without quotes"),
     ("name ILIKE 'x'", "no ILIKE")],
)  # fmt: skip
def test_mistakes_in_filters(where, message):
    columns = columns_of(pa.schema({"year": pa.int64(), "name": pa.string()}))
    with pytest.raises(QuerySyntaxError, match=message):
        expression(where, columns)


# With a server.


class Served:
    """One embedded server for the module, and the rows it holds."""

    def __init__(self, folder):
        from embedworks.index import Collection, ServedCollection

        self.uri = str(folder / "server.db")
        self.rows, self.vectors = make_rows(60)
        self.local = Collection.create(folder / "local", self.rows, self.vectors)
        self.collection = ServedCollection.create(
            "guide", self.rows, self.vectors, uri=self.uri, metadata={"model": "m"}
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    pytest.importorskip("pymilvus", reason="needs the extra `milvus`")
    pytest.importorskip("milvus_lite", reason="needs the embedded server, milvus-lite")
    pytest.importorskip("lancedb")
    found = Served(tmp_path_factory.mktemp("served"))
    yield found
    found.collection.close()


@pytest.fixture
def changing(served):
    """A collection of its own to change."""
    from embedworks.index import ServedCollection

    made = ServedCollection.create(
        "changing", served.rows, served.vectors, uri=served.uri, overwrite=True
    )
    yield made
    made.close()


small, word = st.integers(1998, 2011), st.sampled_from(["c001", "c03", "Guide 1", "c055", "x"])
pattern = st.sampled_from(["c0%", "c_05", "%5", "Guide_2", "%"])
predicate = st.one_of(
    st.builds(Compare, st.just("year"), st.sampled_from(list(Compare.FUNCTIONS)), small),
    st.builds(
        Compare, st.just("score"), st.sampled_from(list(Compare.FUNCTIONS)),
        st.sampled_from([0.0, 0.5, 1.25, 2.0]),
    ),
    st.builds(Compare, st.just("good"), st.sampled_from(["=", "!="]), st.booleans()),
    st.builds(
        Compare, st.just("publication day"), st.sampled_from(list(Compare.FUNCTIONS)),
        st.sampled_from(["2020-01-03", "2020-01-10T12:00"]),
    ),
    st.builds(In, st.just("year"), st.lists(small, min_size=1, max_size=4).map(tuple)),
    st.builds(
        In, st.sampled_from(["chunk_id", "title"]),
        st.lists(word, min_size=1, max_size=3).map(tuple),
    ),
    st.builds(Between, st.just("year"), small, small),
    st.builds(Like, st.sampled_from(["chunk_id", "title", "path"]), pattern),
    st.builds(IsNull, st.sampled_from(["year", "good", "path", "title"])),
)  # fmt: skip
condition = st.recursive(
    predicate,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=6,
)


@given(where=condition)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_filters_match_the_same_rows(served, where):
    mask = evaluate(where, served.local.rows)
    expected = served.local.rows["chunk_id"].filter(pa.array(mask)).to_pylist()
    assert served.collection._ids(where) == sorted(expected)
    assert served.collection.count(where) == len(expected)


@pytest.mark.parametrize("where", [None, "year > 2005 AND title LIKE 'Guide%'", "year = 1"])
@pytest.mark.parametrize("k", [1, 7, 100])
def test_dense_search_equals_the_local_one(served, where, k):
    query = np.random.default_rng(1).standard_normal(DIM)
    there = served.collection.search(vector=query, mode="dense", k=k, where=where)
    here = served.local.search(vector=query, mode="dense", k=k, where=where)
    assert len(there) == min(k, served.local.count(where))
    assert [hit.chunk_id for hit in there] == [hit.chunk_id for hit in here]
    np.testing.assert_allclose([h.score for h in there], [h.score for h in here], atol=1e-5)
    for left, right in zip(there, here, strict=True):
        assert (left.rank, left.doc_id, left.text) == (right.rank, right.doc_id, right.text)
        assert left.attributes["score"] == right.attributes["score"]


def test_words_and_fusion(served):
    hits = served.collection.search("socket", mode="bm25", k=100, where="year > 2004")
    expected = served.local.search("socket", mode="bm25", k=100, where="year > 2004")
    assert {hit.chunk_id for hit in hits} == {hit.chunk_id for hit in expected}
    assert all(hit.score > 0 for hit in hits)
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
    assert {hit.passage[a:b] for hit in hits for a, b in hit.highlights} == {"socket"}
    vector = np.ones(DIM)
    fused = served.collection.search("socket", vector=vector, k=100, where="year > 2004")
    assert len(fused) == served.local.count("year > 2004")
    dense = served.collection.search(vector=vector, mode="dense", k=100, where="year > 2004")
    words, meaning = ({h.chunk_id: h.rank for h in found} for found in (hits, dense))
    for hit in fused:
        ranks = (words.get(hit.chunk_id), meaning.get(hit.chunk_id))
        assert hit.score == pytest.approx(sum(0.5 / (60 + rank) for rank in ranks if rank))
    alone = served.collection.search(
        "socket", vector=vector, k=9, where="year > 2004", hybrid=HybridSettings(bm25_weight=0.0)
    )
    assert [h.chunk_id for h in alone] == [h.chunk_id for h in dense[:9]]


def test_batches_reranking_and_plans(served):
    class Longest:
        def predict(self, pairs):
            return [float(len(text)) for _, text in pairs]

    questions, vectors = ["socket", "open file"], np.eye(2, DIM)
    batch = served.collection.search_many(questions, vectors=vectors, k=5, rerank=Longest())
    for number, question in enumerate(questions):
        hits = served.collection.search(question, vector=vectors[number], k=5, rerank=Longest())
        assert batch.chunk_ids[number] == [hit.chunk_id for hit in hits]
        assert batch.doc_ids[number] == [hit.doc_id for hit in hits]
        assert batch.first_scores[number].tolist() == [
            pytest.approx(hit.first_score) for hit in hits
        ]
        lengths = [len(f"{hit.title}\n{hit.text}") for hit in hits]
        assert lengths == [hit.score for hit in hits] == sorted(lengths, reverse=True)
    told = served.collection.explain(
        "socket", vector=vectors[0], where="NOT year = 2003", rerank=Longest()
    )
    assert (told.rows, told.matching) == (60, served.local.count("NOT year = 2003"))
    assert "year is not null" in str(told)
    assert "Longest" in str(told)
    assert "of version" not in str(told)


def test_facts_and_opening(served):
    from embedworks.index import ServedCollection

    opened = ServedCollection.open("guide", uri=served.uri)
    assert (len(opened), opened.dim, opened.metadata) == (60, DIM, {"model": "m"})
    assert opened.columns["publication day"].startswith("timestamp")
    with pytest.raises(NotFoundError, match="It has: .*guide"):
        ServedCollection.open("gide", uri=served.uri)
    with pytest.raises(InputError, match="overwrite=True"):
        ServedCollection.create("guide", served.rows, served.vectors, uri=served.uri)
    with pytest.raises(InputError, match="letters, digits"):
        ServedCollection.create("my guide", served.rows, served.vectors, uri=served.uri)
    opened._client.create_collection("other", dimension=4)
    with pytest.raises(FormatError, match="format version None"):
        ServedCollection.open("other", uri=served.uri)
    with pytest.raises(EndpointError, match="could not be reached"):
        ServedCollection.open("guide", uri="http://127.0.0.1:9", timeout=1.0)


def test_changes_follow_the_local_collection(served, changing, tmp_path):
    from embedworks.index import Collection

    local = Collection.create(tmp_path / "c", served.rows, served.vectors)
    more, vectors = make_rows(8, start=100)
    changed = [{"chunk_id": "c001", "doc_id": "d0", "text": "zebra", "year": 1}]
    for collection in (local, changing):
        collection.add(more, vectors)
        collection.upsert(changed, np.ones((1, DIM)), whole_documents=True)
        assert collection.remove(["c010", "c103", "c010"]) == 2
        assert collection.remove(where="year = 2004") == 6
        assert collection.update({"year": 1990, "good": None}, where="title = 'Guide 1'") > 0
        assert collection.update({"score": 9.0}, chunk_ids=["c001"]) == 1
    assert len(changing) == len(local)
    for where in ("year = 1990", "good IS NULL", "score = 9", "chunk_id = 'c000'", "year = 1"):
        mask = evaluate(where, local.rows)
        expected = local.rows["chunk_id"].filter(pa.array(mask)).to_pylist()
        assert changing._ids(where) == sorted(expected), where
    here = local.search(vector=np.ones(DIM), mode="dense", k=100)
    there = changing.search(vector=np.ones(DIM), mode="dense", k=100)
    np.testing.assert_allclose([h.score for h in here], [h.score for h in there], atol=1e-5)
    assert [hit.chunk_id for hit in changing.search("zebra", mode="bm25")] == ["c001"]


def test_refusals_change_nothing(changing):
    class Scores:
        def predict(self, pairs):
            return [0.0] * len(pairs)

    row = [{"chunk_id": "new", "text": "x"}]
    for change, error, message in [
        (lambda: changing.add(make_rows(2)[0], np.ones((2, DIM))), DuplicateIdError, "2 of 2"),
        (lambda: changing.add(row, np.ones((1, DIM + 1))), ShapeError, "another model"),
        (lambda: changing.add(row, np.ones((2, DIM))), ShapeError, "1 rows need"),
        (lambda: changing.add(row, np.full((1, DIM), np.nan)), NonFiniteError, "NaN"),
        (lambda: changing.add([{**row[0], "color": 1}], np.ones((1, DIM))), InputError, "'color'"),
        (lambda: changing.add([{**row[0], "year": "x"}], np.ones((1, DIM))), InputError, "int64"),
        (lambda: changing.remove(["c001", "nope"]), InputError, "1 of 2"),
        (lambda: changing.remove(), InputError, "either"),
        (lambda: changing.update({"text": "x"}, where="year = 2001"), InputError, "upsert"),
        (lambda: changing.update({"color": 1}, where="year = 2001"), InputError, "'color'"),
        (lambda: changing.search("x", mode="dense"), InputError, "encoder="),
        (
            lambda: changing.search(vector=np.ones(DIM), mode="dense", rerank=Scores()),
            InputError,
            "query's text",
        ),
        (lambda: changing.search(vector=np.ones(DIM), mode="dense", k=0), InputError, "k must"),
        (lambda: changing.search(vector=np.ones(DIM), mode="dense", k=99_999), InputError, "most"),
        (lambda: changing.search("x", mode="bm25", where="nope = 1"), QuerySyntaxError, "nope"),
    ]:
        with pytest.raises(error, match=message):
            change()
    assert len(changing) == 60
    with pytest.warns(DataWarning, match="1 of 1 vectors are zero"):
        changing.add(row, np.zeros((1, DIM)))
    assert len(changing.search(vector=np.ones(DIM), mode="dense", k=100)) == 61
