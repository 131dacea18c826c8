"""The attribute table against the slow evaluation over Arrow."""

from __future__ import annotations

import datetime
import math

import numpy as np
import pyarrow as pa
import pytest

from embedworks.errors import QuerySyntaxError, ShapeError
from embedworks.index import AttributeTable, evaluate, parse_where
from embedworks.index._masks import rows_of
from embedworks.index.where import And, Between, Compare, Contains, In, IsNull, Like, Not, Or


def table(rows=200, seed=0):
    rng = np.random.default_rng(seed)

    def some(values):
        return [None if rng.random() < 0.15 else value for value in values]

    day = datetime.date(2020, 1, 1)
    colours = ["red", "green", "blue", "Blau", "é", ""]
    return pa.table(
        {
            "colour": pa.array(some(rng.choice(colours, rows).tolist()), pa.string()),
            "year": pa.array(some(rng.integers(-5, 6, rows).tolist()), pa.int64()),
            "price": pa.array(
                some(rng.choice([1.5, -2.0, 0.0, math.nan, math.inf], rows).tolist()), pa.float64()
            ),
            "open": pa.array(some((rng.random(rows) < 0.5).tolist()), pa.bool_()),
            "day": pa.array(
                some([day + datetime.timedelta(int(d)) for d in rng.integers(0, 5, rows)])
            ),
            "tags": pa.array(
                some([rng.choice(colours, rng.integers(0, 4)).tolist() for _ in range(rows)]),
                pa.list_(pa.string()),
            ),
            "nothing": pa.nulls(rows),
        }
    )


VALUES = {
    "colour": ["red", "blue", "é", "", "missing", "m"],
    "year": [-5, 0, 3, 2.5, -2.5, 100, 5.0, 2**62],
    "price": [1.5, 0, -1, 7.25],
    "open": [True, False],
    "day": ["2020-01-03", "2019-01-01", "2020-01-05T12:00:00"],
    "nothing": [1, "x", True],
}


def condition(rng, depth=3):
    def pick(items):
        return items[int(rng.integers(len(items)))]

    if depth and rng.random() < 0.6:
        if rng.random() < 0.35:
            return Not(condition(rng, depth - 1))
        parts = tuple(condition(rng, depth - 1) for _ in range(int(rng.integers(2, 4))))
        return pick([And, Or])(parts)
    column = pick([*VALUES, "tags"])
    if rng.random() < 0.1:
        return IsNull(column)
    if column == "tags":
        return Contains(column, pick(VALUES["colour"]))
    values = VALUES[column]
    if column == "colour" and rng.random() < 0.2:
        return Like(column, pick(["%e%", "b%", "_lau"]), bool(rng.random() < 0.5))
    if rng.random() < 0.3:
        return In(column, tuple(pick(values) for _ in range(int(rng.integers(1, 4)))))
    if column != "open" and rng.random() < 0.3:
        return Between(column, pick(values), pick(values))
    return Compare(column, pick(["=", "!="] if column == "open" else list(Compare.FUNCTIONS)),
                   pick(values))  # fmt: skip


@pytest.mark.parametrize(("rows", "conditions"), [(0, 400), (1, 400), (200, 400), (9000, 60)])
def test_random_conditions_give_what_arrow_gives(rows, conditions):
    arrow = table(rows)
    attributes = AttributeTable(arrow)
    rng = np.random.default_rng(1)
    everything = np.arange(rows, dtype=np.int32)
    some = rng.choice(rows, min(rows, 5), replace=False).astype(np.int32)
    said = 0
    for _ in range(conditions):
        where = condition(rng)
        expected = evaluate(where, arrow)
        ready = attributes.compile(where)
        np.testing.assert_array_equal(ready.mask().astype(bool), expected, err_msg=str(where))
        np.testing.assert_array_equal(np.sort(ready.rows()), np.flatnonzero(expected))
        np.testing.assert_array_equal(ready.test(everything), expected)
        np.testing.assert_array_equal(ready.test(some), expected[some], err_msg=str(where))
        count = ready.cardinality()
        assert count.minimum <= expected.sum() <= count.maximum, str(where)
        assert count.minimum <= count.expected <= count.maximum
        assert parse_where(str(where)) == where
        if ready.run is not None:
            name, start, end = ready.run
            order = attributes.column(name).order[start:end]
            np.testing.assert_array_equal(np.sort(order), np.flatnonzero(expected))
        groups = ready.clauses()
        said += groups is not None
        if groups is not None:
            passes = np.ones(rows, dtype=bool)
            for group in groups:
                ranks = [(attributes.rank(name), start, end) for name, start, end in group]
                among = [(start <= rank) & (rank < end) for rank, start, end in ranks]
                passes &= np.any([np.zeros(rows, dtype=bool), *among], axis=0)
            np.testing.assert_array_equal(passes, expected, err_msg=str(where))
    assert conditions / 3 < said < conditions


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_masks_give_their_rows(share):
    rng = np.random.default_rng(0)
    for total in (0, 1, 7, 8, 9, 1001):
        mask = (rng.random(total) < share).astype(np.uint8)
        np.testing.assert_array_equal(rows_of(mask), np.flatnonzero(mask))


def test_a_sample_sees_that_columns_belong_together():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 10, 5000)
    attributes = AttributeTable.from_columns({"a": values.tolist(), "b": values.tolist()})
    both = attributes.compile("a = 3 AND b = 3")
    assert both.cardinality().expected < 100  # as if they were independent
    share, half = both.sampled(attributes.sample)
    assert abs(share - (values == 3).mean()) < half


def test_sets_are_asked_with_contains():
    attributes = AttributeTable.from_columns({"tags": [["a", "b", "a"], [], None, ["b"]]})
    assert attributes.compile("tags CONTAINS 'a'").rows().tolist() == [0]
    assert attributes.compile("tags not contains 'a'").rows().tolist() == [1, 3]
    assert attributes.compile("tags IS NULL").rows().tolist() == [2]
    with pytest.raises(QuerySyntaxError, match="tags CONTAINS 'value'"):
        attributes.compile("tags = 'a'")


def test_elements_that_sets_repeat_count_once():
    rng = np.random.default_rng(0)
    sets = [rng.integers(0, 5, rng.integers(0, 9)).astype(float).tolist() for _ in range(200)]
    sets[3] = [float("nan"), float("nan"), 2.0]
    ready = AttributeTable.from_columns({"sizes": [*sets, None]})
    for value in range(6):
        rows = [row for row, elements in enumerate(sets) if value in elements]
        found = ready.compile(f"sizes CONTAINS {value}")
        assert found.rows().tolist() == rows
        assert found.cardinality().exact
        assert found.cardinality().minimum == len(rows)
    assert 3 in ready.compile("sizes CONTAINS 2").rows()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("yeer = 1", "Did you mean 'year'"),
        ("year = 'x'", "without quotes"),
        ("colour > 3", "single quotes"),
        ("open < TRUE", "by = or !="),
        ("day = 'soon'", "ISO date"),
        ("year LIKE '1%'", "LIKE needs a text column"),
        ("year CONTAINS 1", "CONTAINS needs a column of sets"),
        ("tags CONTAINS 3", "single quotes"),
    ],
)
def test_what_does_not_fit_is_refused_as_by_arrow(where, message):
    with pytest.raises(QuerySyntaxError, match=message):
        AttributeTable(table()).compile(where)
    with pytest.raises(QuerySyntaxError, match=message):
        evaluate(where, table())


def test_rows_are_appended_and_types_kept():
    attributes = AttributeTable(table(20))
    longer = attributes.append(table(30, seed=1))
    assert len(longer) == 50
    both = pa.concat_tables([table(20), table(30, seed=1)])
    expected = np.flatnonzero(evaluate("year > 0", both))
    assert np.sort(longer.compile("year > 0").rows()).tolist() == expected.tolist()
    with pytest.raises(ShapeError, match="do not fit"):
        attributes.append(pa.table({"year": ["text"]}))
