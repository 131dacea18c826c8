"""Reading queries and judgements, good and bad files."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedworks.errors import (
    DataWarning,
    DuplicateIdError,
    EmptyInputError,
    FormatError,
    InputError,
    NotFoundError,
)
from embedworks.evaluation import load_qrels, load_queries

QUERIES = [{"query_id": "01", "text": "how, exactly?"}, {"query_id": "2", "text": "naïve 漢字"}]
QRELS = [
    {"query_id": "01", "doc_id": "a", "relevance": 2},
    {"query_id": "01", "doc_id": "b", "relevance": 0},
    {"query_id": "2", "doc_id": "a", "relevance": 1},
]


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        header = list(rows[0])
        lines = [",".join(header)]
        lines += [",".join('"' + str(row[c]) + '"' for c in header) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_all_formats_read_the_same(tmp_path, suffix):
    queries = write(tmp_path / f"queries{suffix}", [{**row, "extra": 1} for row in QUERIES])
    assert load_queries(queries) == {"01": "how, exactly?", "2": "naïve 漢字"}
    qrels = write(tmp_path / f"qrels{suffix}", QRELS)
    assert load_qrels(qrels) == {"01": {"a": 2, "b": 0}, "2": {"a": 1}}


def test_integer_ids_and_whole_floats(tmp_path):
    path = write(tmp_path / "q.parquet", [{"query_id": 7, "doc_id": 8, "relevance": 1.0}])
    assert load_qrels(path) == {"7": {"8": 1}}


def test_csv_with_byte_order_mark(tmp_path):
    path = tmp_path / "q.csv"
    path.write_bytes(b"\xef\xbb\xbfquery_id,text\n1,hello\n")
    assert load_queries(path) == {"1": "hello"}


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_missing_column_has_a_hint(tmp_path, suffix):
    path = write(tmp_path / f"q{suffix}", [{"queryid": "1", "text": "x"}])
    with pytest.raises(InputError, match=r"no 'query_id'.*Did you mean 'queryid'\?"):
        load_queries(path)


def test_duplicates_are_refused(tmp_path):
    path = write(tmp_path / "q.jsonl", [QUERIES[0], QUERIES[0]])
    with pytest.raises(DuplicateIdError, match="'01' occurs again in row 2"):
        load_queries(path)
    path = write(tmp_path / "r.jsonl", [QRELS[0], QRELS[0]])
    with pytest.raises(DuplicateIdError, match=r"'a'.*'01'.*row 2"):
        load_qrels(path)


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 0.5, "many", None, [1]])
def test_bad_relevance(tmp_path, value):
    path = write(tmp_path / "r.jsonl", [QRELS[0], {**QRELS[1], "relevance": value}])
    with pytest.raises(InputError, match="relevance in row 2"):
        load_qrels(path)


@pytest.mark.parametrize("value", [None, "", 1.5, True])
def test_bad_ids(tmp_path, value):
    path = write(tmp_path / "q.jsonl", [{"query_id": value, "text": "x"}])
    with pytest.raises(InputError, match="query_id in row 1"):
        load_queries(path)


def test_queries_without_text_are_counted(tmp_path):
    rows = [*QUERIES, {"query_id": "3", "text": " "}, {"query_id": "4", "text": None}]
    with pytest.warns(DataWarning, match="2 of 4 queries"):
        assert set(load_queries(write(tmp_path / "q.jsonl", rows))) == {"01", "2"}
    with pytest.raises(EmptyInputError):
        load_queries(write(tmp_path / "e.jsonl", rows[2:]))
    with pytest.raises(InputError, match="text in row 1"):
        load_queries(write(tmp_path / "n.jsonl", [{"query_id": "3", "text": 5}]))


def test_damaged_files(tmp_path):
    half = write(tmp_path / "q.parquet", QUERIES)
    half.write_bytes(half.read_bytes()[:60])
    with pytest.raises(FormatError, match="Parquet"):
        load_queries(half)
    line = tmp_path / "q.jsonl"
    line.write_text('{"query_id": "1", "text": "x"}\n\n{"query_id"\n')
    with pytest.raises(FormatError, match="line 3"):
        load_queries(line)
    line.write_text("[1]\n")
    with pytest.raises(FormatError, match="not a JSON object"):
        load_queries(line)
    for name in ("b.jsonl", "b.csv"):
        (tmp_path / name).write_bytes(b"query_id,text\n1,\xff\xfe\n")
        with pytest.raises(FormatError, match="UTF-8"):
            load_queries(tmp_path / name)
    table = tmp_path / "q.csv"
    table.write_text("query_id,text\n1,one, two\n")
    with pytest.raises(FormatError, match="row 1"):
        load_queries(table)
    table.write_text("query_id,text\n1\n")
    with pytest.raises(FormatError, match="row 1"):
        load_queries(table)


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(NotFoundError):
        load_queries(tmp_path / "absent.csv")
    with pytest.raises(NotFoundError):
        load_qrels(tmp_path / "absent.parquet")
    with pytest.raises(InputError, match=r"\.parquet"):
        load_queries(tmp_path / "q.parquett")
    with pytest.raises(InputError, match="no suffix"):
        load_queries(tmp_path / "queries")


def test_empty_files(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text("")
    with pytest.raises(InputError, match="no 'query_id'"):
        load_queries(path)
    path.write_text("query_id,text\n")
    with pytest.raises(EmptyInputError):
        load_queries(path)
    path.write_text("query_id,doc_id,relevance\n")
    with pytest.raises(EmptyInputError):
        load_qrels(path)
