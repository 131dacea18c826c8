"""Rows of any form become one schema."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedworks.errors import DataWarning, DuplicateIdError, InputError
from embedworks.index._rows import BASE_COLUMNS, attach_vectors, rows_table, unify


@dataclass
class Piece:
    chunk_id: str
    text: str
    attributes: dict = field(default_factory=dict)


def test_rows_of_any_form_are_one_schema():
    items = [{"chunk_id": "a", "text": "x", "attributes": {"year": 1, "tags": ["p", "q"]}}]
    pieces = [Piece("a", "x", {"year": 1, "tags": ["p", "q"]})]
    table = pa.table({"chunk_id": ["a"], "text": ["x"], "year": [1], "tags": [["p", "q"]]})
    first = rows_table(items)
    assert first.equals(rows_table(pieces))
    assert first.equals(rows_table(table))
    assert first.column_names[:8] == list(BASE_COLUMNS)
    assert first.column("doc_id").to_pylist() == ["a"]
    assert first.schema.field("tags").type == pa.list_(pa.string())
    assert first.column("tags").to_pylist() == [["p", "q"]]


def test_sets_of_one_type_stay_sets_and_other_nested_values_become_json():
    values = {
        "words": [["a"], None, []],
        "numbers": [{3, 1}, (2.5,), None],
        "empty": [[], None, []],
        "mixed": [["a", 1], ["b"], None],
        "objects": [{"k": 1}, None, {"k": 2}],
        "deep": [[["a"]], None, None],
        "some": [["a"], "a", None],
    }
    items = [
        {"chunk_id": str(n), "text": "x", **{name: column[n] for name, column in values.items()}}
        for n in range(3)
    ]
    table = rows_table(items)
    assert table["words"].to_pylist() == [["a"], None, []]
    assert table["numbers"].to_pylist() == [[1.0, 3.0], [2.5], None]
    assert table["empty"].to_pylist() == [[], None, []]
    assert table["mixed"].to_pylist() == ['["a", 1]', '["b"]', None]
    assert table["objects"].to_pylist() == ['{"k": 1}', None, '{"k": 2}']
    assert table["deep"].to_pylist() == ['[["a"]]', None, None]
    assert table["some"].to_pylist() == ['["a"]', "a", None]
    left, right = unify(pa.table({"v": [[1], None]}), pa.table({"v": [[2.5]]}))
    assert left.schema == right.schema
    assert left["v"].to_pylist() == [[1.0], None]
    with pytest.warns(DataWarning, match="as text from now on"):
        left, right = unify(pa.table({"v": [["é"], None]}), pa.table({"v": ["b"]}))
    assert (left["v"].to_pylist(), right["v"].to_pylist()) == (['["é"]', None], ["b"])


def test_mixed_attributes_become_text():
    items = [
        {"chunk_id": "a", "text": "x", "v": 1, "n": 1},
        {"chunk_id": "b", "text": "x", "v": "two", "n": 2.5},
        {"chunk_id": "c", "text": "x"},
    ]
    with pytest.warns(DataWarning, match=r"'v' mixes types \(int, str\)"):
        table = rows_table(items)
    assert table.column("v").to_pylist() == ["1", "two", None]
    assert table.column("n").to_pylist() == [1.0, 2.5, None]
    with pytest.warns(DataWarning, match="stored as column 'a_b'"):
        rows_table([{"chunk_id": "a", "text": "x", "a.b": 1}])
    with pytest.warns(DataWarning, match="do not fit"):
        rows_table([{"chunk_id": "a", "text": "x", "big": 2**80}])


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([{"text": "x"}], InputError, "no column 'chunk_id'"),
        ([{"chunk_id": "a", "txet": "x"}], InputError, "Did you mean 'txet'"),
        ([{"chunk_id": "a", "text": None}], InputError, r"rows\[0\] has no text"),
        ([{"chunk_id": "a", "text": 3}], InputError, "must hold string"),
        ([{"chunk_id": "a", "text": "x"}] * 2, DuplicateIdError, "'a'"),
        ([{"chunk_id": "a", "text": "x", "vector": 1}], InputError, "reserved"),
        ([{"chunk_id": "a", "text": "x", "attributes": {"path": 1}}], InputError, "rename"),
        (["a"], InputError, "mapping or a dataclass"),
    ],
)
def test_bad_rows(rows, error, message):
    with pytest.raises(error, match=message):
        rows_table(rows)


def test_table_columns_are_cleaned():
    table = pa.table(
        {
            "chunk_id": pa.array(["a", "b"], pa.large_string()),
            "text": pa.array(["x", "y"]).dictionary_encode(),
            "doc_id": ["d", None],
            "when": pa.array([0, 1], pa.date32()),
        }
    )
    found = rows_table(table)
    assert found.column("doc_id").to_pylist() == ["d", "b"]
    assert found.schema.field("chunk_id").type == pa.string()
    assert found.schema.field("when").type == pa.date32()
    twice = pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"])
    with pytest.raises(InputError, match="unique"):
        rows_table(twice)


values = st.none() | st.integers(-5, 5) | st.booleans()


@given(st.lists(values, min_size=1, max_size=5), st.lists(values, min_size=1, max_size=5))
@pytest.mark.filterwarnings("ignore::embedworks.errors.DataWarning")
def test_unify_keeps_every_value(old_values, new_values):
    old, new = (
        rows_table([{"chunk_id": f"{name}{n}", "text": "x", "v": v} for n, v in enumerate(part)])
        for name, part in (("o", old_values), ("n", new_values))
    )
    left, right = unify(old, new)
    assert left.schema.equals(right.schema)
    together = pa.concat_tables([left, right]).column("v").to_pylist()
    for before, after in zip([*old_values, *new_values], together, strict=True):
        assert (before is None) == (after is None)
        if before is not None:
            assert after in (before, float(before), str(before), str(before).lower())


def test_vectors_are_attached_as_fixed_lists():
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    rows = rows_table([{"chunk_id": i, "text": "x"} for i in "ab"])
    table = attach_vectors(rows, vectors)
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 3)
    assert table.column("vector").to_pylist() == vectors.tolist()
