"""Parsing the filter language."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedworks.errors import QuerySyntaxError
from embedworks.index.where import (
    And,
    Between,
    Compare,
    In,
    IsNull,
    Like,
    Not,
    Or,
    parse_where,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1", Compare("a", "=", 1)),
        ("a == -1.5e2", Compare("a", "=", -150.0)),
        ("a <> 'it''s'", Compare("a", "!=", "it's")),
        ("a>=.5", Compare("a", ">=", 0.5)),
        ("a = TRUE", Compare("a", "=", True)),
        ('"select me" < 3', Compare("select me", "<", 3)),
        ('"a""b" = 1', Compare('a"b', "=", 1)),
        ("größe = 1", Compare("größe", "=", 1)),
        ("a in (1, 'x',false)", In("a", (1, "x", False))),
        ("a NOT IN (1)", Not(In("a", (1,)))),
        ("a like 'x%'", Like("a", "x%")),
        ("a not ilike 'x%'", Not(Like("a", "x%", ignore_case=True))),
        ("a between 1 and 2", Between("a", 1, 2)),
        ("a is not null", Not(IsNull("a"))),
        (
            "a=1 or b=2 and not c=3",
            Or((Compare("a", "=", 1), And((Compare("b", "=", 2), Not(Compare("c", "=", 3)))))),
        ),
        (
            "(a=1 or b=2) and c=3",
            And((Or((Compare("a", "=", 1), Compare("b", "=", 2))), Compare("c", "=", 3))),
        ),
        (
            "a between 1 and 2 and b = 1",
            And((Between("a", 1, 2), Compare("b", "=", 1))),
        ),
    ],
)
def test_parses(text, expected):
    assert parse_where(text) == expected
    assert parse_where(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "problem", "caret_at"),
    [
        ("", "empty", 0),
        ("   ", "empty", 3),
        ("a >", "Expected a value, found the end", 3),
        ("a = 'x", "never closed by '", 4),
        ('"a = 1', 'never closed by "', 0),
        ("a = abc", "single quotes: 'abc'", 4),
        ("'a' = b", "column comes first", 0),
        ("a = NULL", "IS NULL", 4),
        ("a", "Expected an operator", 1),
        ("(a=1", "close the parenthesis", 4),
        ("a=1)", "Expected AND, OR or the end", 3),
        ("a=1 b=2", "Expected AND, OR or the end", 4),
        ("a @ 1", "Unexpected character '@'", 2),
        ("a = 3abc", "Unexpected character '3'", 4),
        ("a in ()", "Expected a value", 6),
        ("a in (1 2)", "close the list", 8),
        ("a between 1", "BETWEEN needs AND", 11),
        ("a like 3", "pattern in single quotes", 7),
        ("a is 3", "Expected NULL", 5),
        ("a = 99999999999999999999", "too large", 4),
        ("a = 1e999", "too large", 4),
        ("and a = 1", "Expected a column name", 0),
    ],
)
def test_errors_show_the_place(text, problem, caret_at):
    with pytest.raises(QuerySyntaxError) as caught:
        parse_where(text)
    message, line, caret = str(caught.value).split("\n")
    assert problem in message
    assert f"position {caret_at}" in message
    assert line[2:].rstrip() == text.rstrip()
    assert caret.index("^") - 2 == caret_at


def test_long_lines_are_cut_around_the_caret():
    text = "a = 1 AND " * 50 + "b = ?"
    with pytest.raises(QuerySyntaxError) as caught:
        parse_where(text)
    _, line, caret = str(caught.value).split("\n")
    assert len(line) < 120
    assert line[caret.index("^")] == "?"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("(" * 100_000, "nested more than"),
        ("NOT " * 100_000 + "a = 1", "nested more than"),
        (" AND ".join(["a = 1"] * 5_000), "more than 1,000 comparisons"),
        ("a = '" + "x" * 1_000_001 + "'", "at most 1,000,000"),
        ("a = '" + "''" * 100_000, "never closed"),
    ],
)
def test_hostile_filters_are_refused(text, problem):
    with pytest.raises(QuerySyntaxError, match=problem):
        parse_where(text)


def test_long_lists_are_fine():
    condition = parse_where("a IN (" + ", ".join(map(str, range(20_000))) + ")")
    assert len(condition.values) == 20_000


def test_only_text_is_parsed():
    with pytest.raises(QuerySyntaxError, match="must be a string"):
        parse_where(7)


names = st.one_of(
    st.text(string.ascii_letters + "_é 1\"'", min_size=1, max_size=6),
    st.sampled_from(["and", "NULL", "a"]),
)
values = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.text(max_size=8),
)
predicates = st.one_of(
    st.builds(Compare, names, st.sampled_from(sorted(Compare.FUNCTIONS)), values),
    st.builds(In, names, st.lists(values, min_size=1, max_size=3).map(tuple)),
    st.builds(Like, names, st.text(max_size=6), st.booleans()),
    st.builds(Between, names, values, values),
    st.builds(IsNull, names),
)


def joined(parts):
    several = st.lists(parts, min_size=2, max_size=3).map(tuple)
    return st.one_of(st.builds(Not, parts), st.builds(And, several), st.builds(Or, several))


@given(st.recursive(predicates, joined, max_leaves=8))
def test_text_form_parses_back(condition):
    assert parse_where(str(condition)) == condition


@given(st.text(alphabet="ab=<>!()'\"%,. \n\tANDORTI10-", max_size=40))
def test_any_text_parses_or_raises_the_one_error(text):
    try:
        condition = parse_where(text)
    except QuerySyntaxError:
        return
    assert parse_where(str(condition)) == condition
