"""Records and tables as text."""

from __future__ import annotations

import pytest

from embedworks.data import linearize_record, linearize_row, linearize_table
from embedworks.errors import EmptyInputError, ShapeError


def test_nested_records_keep_paths_and_drop_what_is_empty():
    record = {
        "title": "A  b\nc",
        "none": None,
        "empty": "",
        "ok": False,
        "people": [{"name": "Ada"}, {"name": "Bob", "tags": []}],
        "sizes": [1, None, 2.5],
    }
    assert linearize_record(record).splitlines() == [
        "title: A b c",
        "ok: no",
        "people.1.name: Ada",
        "people.2.name: Bob",
        "sizes: 1, 2.5",
    ]


def test_sorted_keys_make_the_order_of_the_input_irrelevant():
    one, two = {"a": 1, "b": {"d": 2, "c": 3}}, {"b": {"c": 3, "d": 2}, "a": 1}
    assert linearize_record(one) != linearize_record(two)
    assert linearize_record(one, sort=True) == linearize_record(two, sort=True)


def test_records_and_rows_without_a_value_are_refused():
    with pytest.raises(EmptyInputError):
        linearize_record({"a": None, "b": []})
    with pytest.raises(EmptyInputError):
        linearize_row(["a"], [""])


def test_ragged_tables_are_refused_with_the_row():
    with pytest.raises(ShapeError, match="Row 1 has 1 values for 2 columns"):
        linearize_table(["a", "b"], [[1, 2], [3]])
    with pytest.raises(ShapeError, match="2 values for 1 columns"):
        linearize_row(["a"], [1, 2])


def test_titles_come_first():
    assert linearize_table(["a"], [[1]], title="T").splitlines() == ["T", "a", "1"]
    assert linearize_row(["a", "b"], [None, True]) == "b is yes"
