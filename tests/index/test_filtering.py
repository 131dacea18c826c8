"""Evaluating filters: three-valued logic against a slow row-by-row evaluator."""

from __future__ import annotations

import datetime
import decimal
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import QuerySyntaxError
from embedworks.index.filtering import evaluate
from embedworks.index.where import And, Between, Compare, In, IsNull, Like, Not, Or


def like(pattern, value, ignore_case):
    """Match a LIKE pattern by a regular expression made one character at a time."""
    expression, escaped = "", False
    for character in pattern:
        if escaped:
            expression, escaped = expression + re.escape(character), False
        elif character == "\\":
            escaped = True
        else:
            expression += {"%": ".*", "_": "."}.get(character, re.escape(character))
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    return re.fullmatch(expression, value, flags) is not None


def slow(condition, row):
    """Return True, False or None (unknown)."""
    if isinstance(condition, Not):
        inner = slow(condition.part, row)
        return None if inner is None else not inner
    if isinstance(condition, And | Or):
        parts = [slow(part, row) for part in condition.parts]
        decisive = isinstance(condition, Or)
        if decisive in parts:
            return decisive
        return None if None in parts else not decisive
    value = row[condition.column]
    if isinstance(condition, IsNull):
        return value is None
    if value is None:
        return None
    if isinstance(condition, Compare):
        return Compare.FUNCTIONS[condition.operator](value, condition.value)
    if isinstance(condition, In):
        return any(value == candidate for candidate in condition.values)
    if isinstance(condition, Between):
        return condition.low <= value <= condition.high
    return like(condition.pattern, value, condition.ignore_case)


small = st.integers(-3, 3)
real = st.sampled_from([-1.5, 0.0, 0.5, 1.0, 2.0])
word = st.text("ab%_\\\nÄ", max_size=3)
pattern = st.text("abA%_", max_size=4)
operators = st.sampled_from(sorted(Compare.FUNCTIONS))
number = st.one_of(small, real)
numeric_column = st.sampled_from(["i", "f"])
predicates = st.one_of(
    st.builds(Compare, numeric_column, operators, number),
    st.builds(Compare, st.just("s"), operators, word),
    st.builds(Compare, st.just("b"), st.sampled_from(["=", "!="]), st.booleans()),
    st.builds(In, numeric_column, st.lists(number, min_size=1, max_size=3).map(tuple)),
    st.builds(In, st.just("s"), st.lists(word, min_size=1, max_size=3).map(tuple)),
    st.builds(In, st.just("b"), st.lists(st.booleans(), min_size=1, max_size=2).map(tuple)),
    st.builds(Like, st.just("s"), pattern, st.booleans()),
    st.builds(Between, numeric_column, number, number),
    st.builds(IsNull, st.sampled_from(["i", "f", "s", "b"])),
)


def joined(parts):
    several = st.lists(parts, min_size=2, max_size=3).map(tuple)
    return st.one_of(st.builds(Not, parts), st.builds(And, several), st.builds(Or, several))


conditions = st.recursive(predicates, joined, max_leaves=6)
rows = st.fixed_dictionaries(
    {
        "i": st.none() | small,
        "f": st.none() | real,
        "s": st.none() | word,
        "b": st.none() | st.booleans(),
    }
)
schema = pa.schema([("i", pa.int32()), ("f", pa.float64()), ("s", pa.string()), ("b", pa.bool_())])


@given(conditions, st.lists(rows, max_size=8))
@settings(max_examples=120, deadline=None)
def test_equals_row_by_row_evaluation(condition, data):
    table = pa.Table.from_pylist(data, schema=schema)
    expected = [slow(condition, row) is True for row in data]
    found = evaluate(condition, table)
    assert found.dtype == bool
    assert found.tolist() == expected
    assert evaluate(str(condition), table).tolist() == expected


def test_backslash_escapes_in_like():
    table = pa.table({"s": ["50%", "500", "a_b", "axb", r"a\b"]})
    assert evaluate(r"s LIKE '50\%'", table).tolist() == [True, False, False, False, False]
    assert evaluate(r"s LIKE 'a\_b'", table).tolist() == [False, False, True, False, False]
    assert evaluate(r"s LIKE 'a\\b'", table).tolist() == [False, False, False, False, True]


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.uint8(), pa.int64(), pa.uint64(), pa.float32(), pa.float16()]
)
def test_number_types(kind):
    values = np.array([0, 1, 2, 100], dtype=kind.to_pandas_dtype())
    table = pa.table({"n": pa.array(values)})
    assert evaluate("n > -1", table).all()
    assert evaluate("n >= 1 AND n < 99.5", table).tolist() == [False, True, True, False]
    assert evaluate("n IN (1, -5, 100, 9000000000)", table).tolist() == [False, True, False, True]
    assert evaluate("n IN (1.0, 2.5)", table).tolist() == [False, True, False, False]
    assert not evaluate("n > 9000000000000000000", table).any()


def test_unsigned_above_int64():
    table = pa.table({"n": pa.array([1, 2**63 + 5, None], pa.uint64())})
    assert evaluate("n > 9223372036854775807", table).tolist() == [False, True, False]
    assert evaluate("n > -1", table).tolist() == [True, True, False]
    assert evaluate("n = -1", table).tolist() == [False, False, False]


def test_nan_is_like_no_number():
    table = pa.table({"x": [float("nan"), 1.0]})
    assert evaluate("x > 0 OR x <= 0 OR x = 1", table).tolist() == [False, True]
    assert evaluate("x != 1", table).tolist() == [True, False]


def test_dates_and_timestamps():
    days = [datetime.date(2024, 1, 1), datetime.date(2024, 5, 1), None]
    stamps = [datetime.datetime(2024, 5, 1, 12), None, datetime.datetime(2020, 1, 1)]
    table = pa.table(
        {
            "day": pa.array(days, pa.date32()),
            "stamp": pa.array(stamps, pa.timestamp("ms")),
            "zoned": pa.array(stamps, pa.timestamp("us", tz="Europe/Berlin")),
        }
    )
    assert evaluate("day >= '2024-05-01'", table).tolist() == [False, True, False]
    assert evaluate("day IN ('2024-01-01')", table).tolist() == [True, False, False]
    assert evaluate("stamp > '2024-05-01T11:59'", table).tolist() == [True, False, False]
    assert evaluate("zoned = '2024-05-01T14:00+02:00'", table).tolist() == [True, False, False]
    assert evaluate("stamp BETWEEN '2020-01-01' AND '2021-01-01'", table).tolist()[2]
    with pytest.raises(QuerySyntaxError, match="ISO date"):
        evaluate("day = 'soon'", table)


def test_other_text_encodings():
    texts = ["x", None, "y"]
    table = pa.table(
        {
            "large": pa.array(texts, pa.large_string()),
            "view": pa.array(texts, pa.string_view()),
            "coded": pa.array(texts).dictionary_encode(),
        }
    )
    for name in table.column_names:
        assert evaluate(f"{name} = 'x'", table).tolist() == [True, False, False]
        assert evaluate(f"{name} LIKE '_'", table).tolist() == [True, False, True]
        assert evaluate(f"{name} IN ('y', 'z')", table).tolist() == [False, False, True]
        assert evaluate(f"{name} IS NULL", table).tolist() == [False, True, False]


def test_decimals_and_all_null_columns():
    table = pa.table(
        {"d": pa.array([decimal.Decimal("1.50"), None]), "none": pa.nulls(2)},
    )
    assert evaluate("d = 1.5", table).tolist() == [True, False]
    for text in ["none = 1", "none LIKE 'x'", "none IN ('a')", "none BETWEEN 1 AND 2"]:
        assert not evaluate(text, table).any()
        assert not evaluate(f"NOT ({text})", table).any()
    assert evaluate("none IS NULL", table).all()


def test_chunked_sliced_and_empty_tables():
    table = pa.concat_tables([pa.table({"a": [1, 2]}), pa.table({"a": [3, None]})])
    assert evaluate("a >= 2", table).tolist() == [False, True, True, False]
    assert evaluate("a >= 2", table.slice(1, 2)).tolist() == [True, True]
    assert evaluate("a >= 2", table.slice(0, 0)).tolist() == []
    assert evaluate("a IN (2)", table.schema.empty_table()).tolist() == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("yaer = 1", "Did you mean 'year'"),
        ("yaer = 1", "The columns are: year, name, ok, tags"),
        ("name = 3", "single quotes: '3'"),
        ("year = '3'", "without quotes"),
        ("year = TRUE", "without quotes"),
        ("ok = 1", "TRUE or FALSE"),
        ("ok < TRUE", "TRUE or FALSE"),
        ("year LIKE '3%'", "LIKE needs a text column"),
        ("name IN ('a', 3)", "single quotes"),
        ("year BETWEEN 1 AND 'x'", "without quotes"),
        ("tags = 'a'", "tags CONTAINS 'value'"),
    ],
)
def test_mistakes_are_explained(text, problem):
    table = pa.table({"year": [1], "name": ["x"], "ok": [True], "tags": [["a"]]})
    with pytest.raises(QuerySyntaxError, match=re.escape(problem)):
        evaluate(text, table)
