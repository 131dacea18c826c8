"""Every plan of `FilteredIndex` against NumPy, under random filters over columns of every type.

Vectors are whole numbers, so scores are exact in float32: there are many ties, and an exact plan
must return the very rows that NumPy does.
"""

from __future__ import annotations

import datetime
import operator
import re

import numpy as np
import pyarrow as pa
import pytest

from embedworks.index import FilteredIndex
from embedworks.index.filtered.planned import PLANS
from embedworks.index.filtered.planner import WALKS, Calibration, Planner, WalkPoint
from embedworks.index.where import And, Between, Compare, Contains, In, IsNull, Like, Not, Or

ROWS, DIM = 2200, 8
FORCED = tuple(plan for plan in PLANS if plan != "auto")
WORDS = ["ant", "Ant", "bee", "it's", "é", "50%", "", "zebra finch"]
FIRST_DAY = datetime.date(2020, 1, 1)
COMPARE = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le,
    ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def make(rows, seed):
    """Whole-number vectors in clusters, and their attributes as plain lists."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(3).integers(-20, 21, (12, DIM))
    vectors = centres[rng.integers(0, 12, rows)] + rng.integers(-6, 7, (rows, DIM))

    def gaps(values, share=0.1):
        return [None if rng.random() < share else value for value in values]

    columns = {
        "year": gaps(rng.integers(0, 500, rows).tolist()),
        "price": gaps((rng.integers(-40, 41, rows) / 4).tolist()),
        "kind": gaps([WORDS[i] for i in rng.integers(0, len(WORDS), rows)]),
        "day": gaps([FIRST_DAY + datetime.timedelta(int(d)) for d in rng.integers(0, 900, rows)]),
        "open": gaps((rng.random(rows) < 0.3).tolist()),
        "tags": gaps([[t for t in "xyz" if rng.random() < 0.4] for _ in range(rows)], 0.05),
        "sizes": gaps([rng.integers(0, 5, rng.integers(0, 3)).tolist() for _ in range(rows)], 0.05),
        "nothing": [None] * rows,
    }
    return vectors.astype(np.float32), columns


TYPES = {
    "year": pa.int64(), "price": pa.float64(), "kind": pa.string(), "day": pa.date32(),
    "open": pa.bool_(), "tags": pa.list_(pa.string()), "sizes": pa.list_(pa.int64()),
    "nothing": pa.null(),
}  # fmt: skip


def table_of(columns):
    return pa.table({name: pa.array(columns[name], kind) for name, kind in TYPES.items()})


def literal(name, rng):
    """A value to compare a column with; sometimes one that is nowhere in it."""
    if name in ("year", "nothing"):
        return int(rng.integers(-20, 520))
    if name == "price":
        return float(rng.integers(-44, 45) / 4)
    if name == "kind":
        return str(rng.choice([*WORDS, "nowhere"]))
    if name == "day":
        return str(FIRST_DAY + datetime.timedelta(int(rng.integers(-20, 920))))
    if name == "tags":
        return str(rng.choice(list("xyzw")))
    return int(rng.integers(0, 6))


def random_tree(rng, depth=3):
    """A random filter as a tree of conditions."""
    if depth and rng.random() < 0.6:
        if rng.random() < 0.3:
            return Not(random_tree(rng, depth - 1))
        parts = tuple(random_tree(rng, depth - 1) for _ in range(rng.integers(2, 4)))
        return And(parts) if rng.random() < 0.5 else Or(parts)
    name = str(rng.choice(list(TYPES)))
    if rng.random() < 0.12:
        return IsNull(name)
    if name in ("tags", "sizes"):
        return Contains(name, literal(name, rng))
    if name == "open":
        return Compare(name, str(rng.choice(["=", "!="])), bool(rng.random() < 0.5))
    roll = rng.random()
    if name == "kind" and roll < 0.3:
        return Like(name, str(rng.choice(["%e%", "a__", "%", "_", "50\\%", "b%"])), roll < 0.15)
    if roll < 0.5:
        return In(name, tuple(literal(name, rng) for _ in range(rng.integers(1, 5))))
    if roll < 0.7:
        low, high = literal(name, rng), literal(name, rng)
        return Between(name, *(sorted((low, high)) if rng.random() < 0.9 else (low, high)))
    return Compare(name, str(rng.choice(list(COMPARE))), literal(name, rng))


def truth_of(tree, columns):
    """Return for every row True, False or None, by SQL's rules and plain loops."""
    if isinstance(tree, Not):
        return [None if one is None else not one for one in truth_of(tree.part, columns)]
    if isinstance(tree, And | Or):
        decides = isinstance(tree, Or)
        return [
            decides if decides in row else None if None in row else not decides
            for row in zip(*(truth_of(part, columns) for part in tree.parts), strict=True)
        ]
    values = columns[tree.column]
    if isinstance(tree, IsNull):
        return [value is None for value in values]
    plain = [str(v) if isinstance(v, datetime.date) else v for v in values]
    if isinstance(tree, Compare):
        holds = lambda v: COMPARE[tree.operator](v, tree.value)  # noqa: E731
    elif isinstance(tree, In):
        holds = lambda v: v in tree.values  # noqa: E731
    elif isinstance(tree, Between):
        holds = lambda v: tree.low <= v <= tree.high  # noqa: E731
    elif isinstance(tree, Contains):
        holds = lambda v: tree.value in v  # noqa: E731
    else:
        pieces = re.findall(r"\\.|.", tree.pattern)
        shape = "".join({"%": ".*", "_": "."}.get(piece, re.escape(piece[-1])) for piece in pieces)
        pattern = re.compile(shape, re.DOTALL | (re.IGNORECASE if tree.ignore_case else 0))
        holds = lambda v: pattern.fullmatch(v) is not None  # noqa: E731
    return [None if value is None else holds(value) for value in plain]


class World:
    """An index beside what NumPy needs to answer for it."""

    def __init__(self, index, vectors, columns, removed=()):
        self.index, self.vectors, self.columns = index, vectors, columns
        self.alive = np.ones(len(vectors), dtype=bool)
        self.alive[list(removed)] = False

    def mask(self, tree):
        passing = [one is True for one in truth_of(tree, self.columns)] if tree else True
        return self.alive & np.array(passing)

    def check(self, queries, k, tree, mask=None, **options):
        """Compare one search with NumPy; returns the recall, by score, and the plans used."""
        mask = self.mask(tree) if mask is None else mask
        found = self.index.search(queries, k, where=tree, **options)
        scores = queries.astype(np.int64) @ self.vectors.astype(np.int64).T
        passing = np.flatnonzero(mask)
        hits = total = 0
        for number, (got, given) in enumerate(zip(found.rows, found.scores, strict=True)):
            order = passing[np.lexsort((passing, -scores[number, passing]))][:k]
            assert len(got) == len(order) == len(set(got.tolist())), tree
            assert mask[got].all(), tree
            np.testing.assert_array_equal(given, scores[number, got])
            assert np.array_equal(got, got[np.lexsort((got, -given))]), tree
            if found.plans[number].rpartition(" ")[2] in ("exact", "run", "empty"):
                np.testing.assert_array_equal(got, order, err_msg=str(tree))
            if len(order):
                hits += int((scores[number, got] >= scores[number, order[-1]]).sum())
                total += len(order)
        return hits, total, found.plans


def queries_for(count, seed):
    return make(count, 1000 + seed)[0]


@pytest.fixture(scope="module")
def fresh():
    vectors, columns = make(ROWS, 0)
    index = FilteredIndex.build(
        vectors, table_of(columns), similarity="dot", ordered=("year", "day"), graph_from=1000
    )
    return World(index, vectors, columns)


@pytest.fixture(scope="module")
def changed(fresh):
    """The same after rows were added and others removed."""
    more, others = make(300, 7)
    index = FilteredIndex.build(
        fresh.vectors, table_of(fresh.columns), similarity="dot", ordered=("year",),
        graph_from=1000,
    )  # fmt: skip
    index.add(more, table_of(others))
    gone = np.random.default_rng(5).choice(ROWS + 300, 500, replace=False)
    index.remove(gone)
    columns = {name: values + others[name] for name, values in fresh.columns.items()}
    return World(index, np.concatenate([fresh.vectors, more]), columns, gone)


@pytest.fixture(params=["fresh", "changed"])
def world(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("plan", PLANS)
def test_random_filters_under_every_plan(world, plan):
    rng = np.random.default_rng(PLANS.index(plan))
    hits = total = 0
    used = set()
    for number in range(60):
        tree = random_tree(rng)
        k = int(rng.choice([1, 10, 50, 2 * ROWS]))
        queries = queries_for(int(rng.choice([1, 2, 9])), number)
        right, all_of_them, plans = world.check(queries, k, tree, plan=plan)
        hits, total, used = hits + right, total + all_of_them, used | set(plans)
    assert hits / total >= 0.95
    assert plan == "auto" or plan in used


@pytest.mark.parametrize("plan", PLANS)
def test_one_filter_for_each_query(world, plan):
    rng = np.random.default_rng(50 + PLANS.index(plan))
    trees = [random_tree(rng) for _ in range(12)]
    queries = queries_for(12, 1)
    together = world.index.search(queries, 10, where=[str(tree) for tree in trees], plan=plan)
    for number, tree in enumerate(trees):
        mask, got = world.mask(tree), together.rows[number]
        assert len(got) == min(10, mask.sum())
        assert mask[got].all()
        alone = world.index.search(queries[number : number + 1], 10, where=tree, plan=plan)
        if plan != "auto":
            np.testing.assert_array_equal(got, alone.rows[0])


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("where", [
    "kind = 'nowhere'", "year > 50 AND year < 40", "nothing = 1", "nothing IN (1, 2)",
    "NOT nothing = 1", "tags CONTAINS 'w'", "year IS NULL AND year > 3", "day < '1999-01-01'",
    "price BETWEEN 2 AND 1",
])  # fmt: skip
def test_filters_that_nothing_passes(world, plan, where):
    for count in (1, 9):
        found = world.index.search(queries_for(count, 2), 10, where=where, plan=plan)
        assert [len(rows) for rows in found.rows] == [0] * count
        assert [len(scores) for scores in found.scores] == [0] * count


@pytest.mark.parametrize("plan", PLANS)
def test_more_results_wanted_than_rows_pass(world, plan):
    for tree in (None, Compare("year", "<", 120), Contains("tags", "x"), Compare("year", "=", 7)):
        passing = int(world.mask(tree).sum())
        for k in (max(1, passing - 1), passing, passing + 1, 10 * ROWS):
            hits, total, _ = world.check(queries_for(2, k), k, tree, plan=plan)
            assert total == 2 * min(k, passing)
            assert hits >= 0.95 * total


NEVER = 1e300  # microseconds


def planned(world, calibration, learn=False):
    """The same index under a calibration of our own."""
    index = FilteredIndex.__new__(FilteredIndex)
    index.__dict__ = dict(world.index.__dict__)
    index.planner = Planner(calibration, learn=learn)
    return World(index, world.vectors, world.columns, np.flatnonzero(~world.alive))


def test_runs_of_an_ordered_copy_equal_numpy(world):
    world = planned(world, Calibration(1.0, NEVER, 1e-3, NEVER))
    rng = np.random.default_rng(9)
    used = set()
    for number in range(40):
        low, high = sorted(int(one) for one in rng.integers(-20, 520, 2))
        tree = [
            Between("year", low, high), Compare("year", "<=", high), Compare("year", ">", low),
            And((Compare("year", ">=", low), Compare("year", "<", high))),
        ][number % 4]  # fmt: skip
        k = int(rng.choice([1, 10, 50, 2 * ROWS]))
        hits, total, plans = world.check(queries_for(1 + 8 * (number % 2), number), k, tree)
        assert hits == total
        used |= set(plans)
    assert "run" in used


def points(cost, ef=16, recall=1.0, shares=(1.0, 0.5, 0.02, 0.001)):
    return tuple(WalkPoint(p, s, ef, recall, cost, recall) for p in WALKS for s in shares)


ADVERSE = {
    "all zero": Calibration(0.0, 0.0, 0.0, 0.0, points(0.0)),
    "all tiny": Calibration(5e-324, 5e-324, 5e-324, 5e-324, points(5e-324)),
    "all huge": Calibration(NEVER, NEVER, NEVER, NEVER, points(NEVER)),
    "all infinite": Calibration(np.inf, np.inf, np.inf, np.inf, points(np.inf)),
    "not a number": Calibration(np.nan, np.nan, np.nan, np.nan, points(np.nan)),
    "negative": Calibration(-1.0, -1.0, -1.0, -1.0, points(-1.0)),
    "walks for nothing": Calibration(1.0, NEVER, NEVER, NEVER, points(1e-9)),
    "walks of width one": Calibration(1.0, NEVER, NEVER, NEVER, points(1e-9, ef=1)),
    "walks of width nought": Calibration(1.0, NEVER, NEVER, NEVER, points(1e-9, ef=0)),
    "walks wider than the index": Calibration(1.0, NEVER, NEVER, NEVER, points(1e-9, ef=10**6)),
    "zero beside infinity": Calibration(1.0, 0.0, np.inf, 0.0, points(0.0) + points(np.inf, 32)),
    "walks that find nothing": Calibration(1.0, 1.0, 1.0, 1.0, points(1e-9, recall=0.0)),
    "shares of nothing": Calibration(1.0, NEVER, NEVER, NEVER, points(1.0, shares=(0.0, 1.0))),
    "shares above one": Calibration(1.0, NEVER, NEVER, NEVER, points(1.0, shares=(1e-9, 7.0))),
    "codes only": Calibration(1.0, NEVER, NEVER, 0.0),
    "nothing measured": Calibration(),
}


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("name", ADVERSE)
def test_a_wrong_calibration_costs_time_and_nothing_else(world, name, learn):
    """Rows that pass, all of them, with their scores in order; exact plans stay exact."""
    world = planned(world, ADVERSE[name], learn)
    rng = np.random.default_rng(list(ADVERSE).index(name))
    for number in range(12):
        tree = None if number == 0 else random_tree(rng, depth=2)
        k = int(rng.choice([1, 10, 2 * ROWS]))
        world.check(queries_for(1 + 8 * (number % 2), number), k, tree)
        world.index.explain(k, where=tree)
