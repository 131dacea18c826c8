"""The filtered index against brute force, whatever the planner believes."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from embedworks._core.validation import normalize_rows
from embedworks.errors import (
    FormatError,
    InputError,
    NonFiniteError,
    QuerySyntaxError,
    ShapeError,
    UnknownNameError,
)
from embedworks.index import ExactIndex, FilteredIndex, VectorIndex, evaluate
from embedworks.index.filtered.planner import Calibration, Planner, WalkPoint
from embedworks.index.filtered.scan_cost import ScanPoint
from embedworks.index.protocol import read_index, write_index

ROWS, DIM = 3000, 16
FILTERS = [
    None,
    "group = 'a'",
    "year BETWEEN 10 AND 14",
    "year = 3",
    "group = 'a' AND year < 50",
    "tags CONTAINS 'x' OR year > 90",
    "NOT (group = 'b') AND year IS NOT NULL",
    "year > 1000",
]


def rows_and_vectors(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, DIM)).astype(np.float32)
    vectors[rows - rows // 50 :] = vectors[: rows // 50]  # ties
    year = [None if y == 99 else int(y) for y in rng.integers(0, 100, rows)]
    group = rng.choice(["a", "b", "c"], rows).tolist()
    tags = [["x"] if t else [] for t in rng.random(rows) < 0.1]
    return vectors, pa.table({"year": year, "group": group, "tags": tags})


@pytest.fixture(scope="module")
def index():
    vectors, table = rows_and_vectors()
    return FilteredIndex.build(vectors, table, ordered=["year"], ef_construction=40)


def check(index, attributes, queries, k, where, plan="auto", removed=()):
    """Compare with brute force; returns the recall."""
    found = index.search(queries, k, where=where, plan=plan)
    mask = np.ones(len(index.vectors), bool) if where is None else evaluate(where, attributes)
    mask[list(removed)] = False
    wide = queries.astype(np.float64)
    unit = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    expected, scores = ExactIndex(index.vectors, similarity="dot").search(unit, k, mask=mask)
    hits = 0
    for number, (rows, values) in enumerate(zip(found.rows, found.scores, strict=True)):
        assert len(rows) == len(set(rows.tolist())) == min(k, mask.sum())
        assert mask[rows].all()
        assert (np.diff(values) <= 0).all()
        same = np.flatnonzero(np.diff(values) == 0)
        assert (rows[same] < rows[same + 1]).all()
        if found.plans[number] in ("exact", "run", "empty") or "then" in found.plans[number]:
            np.testing.assert_array_equal(rows, expected[number])
            np.testing.assert_allclose(values, scores[number], rtol=1e-5, atol=1e-6)
        hits += len(set(rows.tolist()) & set(expected[number].tolist()))
    return hits / expected.size if expected.size else 1.0


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_vectors_that_are_ready_are_kept_and_others_copied(similarity):
    given = rows_and_vectors(50)[0]
    ready = normalize_rows(given) if similarity == "cosine" else given
    ready[3] = 0
    assert FilteredIndex.build(ready, similarity=similarity).vectors is ready
    for other in (ready.astype(np.float64), np.asfortranarray(ready)):
        before = other.copy()
        built = FilteredIndex.build(other, similarity=similarity)
        assert not np.shares_memory(built.vectors, other)
        np.testing.assert_array_equal(other, before)
        np.testing.assert_allclose(built.vectors, ready, atol=1e-6)
    if similarity == "cosine":
        longer = np.float32(1.001) * ready
        built = FilteredIndex.build(longer)
        assert not np.shares_memory(built.vectors, longer)
        np.testing.assert_allclose(built.vectors, ready, atol=1e-6)


@pytest.mark.parametrize("where", FILTERS)
@pytest.mark.parametrize(
    "plan", ["auto", "exact", "codes", "lists", "post-filter", "graph", "two-hop"]
)
def test_results_pass_the_filter_and_are_all_there(index, where, plan):
    attributes = index.table.table
    queries = np.random.default_rng(1).normal(size=(4, DIM)).astype(np.float32)
    for k in (1, 10, 5000):
        recall = check(index, attributes, queries, k, where, plan)
        assert recall > 0.7 or (plan == "two-hop" and recall > 0.3) or k == 1


def test_walks_find_nearly_all_under_a_filter_that_many_pass(index):
    queries = np.random.default_rng(2).normal(size=(50, DIM)).astype(np.float32)
    for where in (None, "group != 'b'"):
        assert check(index, index.table.table, queries, 10, where, "graph") >= 0.93


def test_batches_and_single_queries_agree(index):
    queries = np.random.default_rng(3).normal(size=(12, DIM)).astype(np.float32)
    together = index.search(queries, 7, where="year = 3")
    apart = index.search(queries, 7, where=["year = 3"] * 12)
    for one, other in zip(together.rows, apart.rows, strict=True):
        np.testing.assert_array_equal(one, other)
    mixed = index.search(queries[:2], 3, where=["year > 1000", None])
    assert [len(rows) for rows in mixed.rows] == [0, 3]
    assert mixed.plans[0] == "empty"


@pytest.mark.parametrize("removed", [0, 40])
@pytest.mark.parametrize("added", [0, 30])
@pytest.mark.parametrize("k", [1, 10, 600])
def test_batches_that_nothing_is_filtered_out_of(monkeypatch, removed, added, k):
    vectors, table = rows_and_vectors(1500)
    index = FilteredIndex.build(vectors, table, graph_from=1000, ef_construction=40)
    walks = tuple(WalkPoint("post-filter", share, 64, 1.0, 1e-3) for share in (0.5, 1.0))
    index.planner = Planner(Calibration(1e3, 1e3, 1e3, 1e3, walks), learn=False)
    gone = np.arange(0, 10 * removed, 10)
    if added:
        index.add(*rows_and_vectors(added, seed=6))
    index.remove(gone)
    asked = []
    walk_each = index._plans.walk_each
    monkeypatch.setattr(
        index._plans,
        "walk_each",
        lambda queries, *rest: asked.append(len(queries)) or walk_each(queries, *rest),
    )
    queries = np.concatenate([vectors[:6], np.eye(6, DIM, dtype=np.float32)])  # some were removed
    attributes = index.table.table
    for where in (None, "year > 1000 OR NOT (year > 1000)", "group != 'no such group'"):
        together = index.search(queries, k, where=where)
        apart = [index.search(query[None], k, where=where) for query in queries]
        for number, one in enumerate(apart):
            np.testing.assert_array_equal(together.rows[number], one.rows[0])
            np.testing.assert_array_equal(together.scores[number], one.scores[0])
            assert together.plans[number] == one.plans[0]
        assert check(index, attributes, queries, k, where, removed=gone) > 0.9
    plans = set(index.search(queries, k).plans)
    assert plans == {"post-filter, then lists" if k == 600 else "post-filter"}
    assert (12 in asked) == (added == 0)


def test_what_the_planner_believes_changes_only_speed(index):
    rng = np.random.default_rng(4)
    queries = rng.normal(size=(3, DIM)).astype(np.float32)
    believed = index.planner
    try:
        for _ in range(25):
            walks = tuple(
                WalkPoint(plan, share, int(rng.integers(1, 40)), 1.0, 10 ** rng.uniform(-2, 4), 1.0)
                for plan in ("lists", "post-filter", "graph", "two-hop")
                for share in (10 ** rng.uniform(-4, 0, 3)).tolist()
            )
            costs = (10 ** rng.uniform(-3, 3, 4)).tolist()
            index.planner = Planner(Calibration(*costs, walks))
            for where in FILTERS:
                check(index, index.table.table, queries, int(rng.integers(1, 30)), where)
    finally:
        index.planner = believed


def test_rows_are_added_and_removed(tmp_path):
    vectors, table = rows_and_vectors()
    index = FilteredIndex.build(vectors, table, ordered=["year"], ef_construction=40)
    more, others = rows_and_vectors(300, seed=5)
    assert index.add(more, others).tolist() == list(range(ROWS, ROWS + 300))
    gone = np.arange(0, ROWS + 300, 7)
    assert index.remove(gone) == len(gone)
    assert index.remove(gone[:3]) == 0
    assert len(index) == ROWS + 300 - len(gone)
    attributes = pa.concat_tables([table, others])
    queries = more[:4]
    for where in FILTERS:
        for plan in ("auto", "graph"):
            check(index, attributes, queries, 10, where, plan, removed=gone)
    index.save(tmp_path / "index")
    again = FilteredIndex.load(tmp_path / "index")
    for plan in ("exact", "graph", "two-hop"):
        before = index.search(queries, 5, where="group = 'a'", plan=plan)
        after = again.search(queries, 5, where="group = 'a'", plan=plan)
        np.testing.assert_array_equal(before.rows, after.rows)
    assert again.planner.calibration == index.planner.calibration
    assert isinstance(again, VectorIndex)
    assert all(size > 0 for size in again.memory().values())
    settings, arrays = read_index(tmp_path / "index", "filtered", version=2)
    for name, wrong in (("links", 10**9), ("link_starts", 10**12), ("list_order", 3)):
        bad = arrays | {name: np.full_like(arrays[name], wrong)}
        write_index(tmp_path / "bad", "filtered", settings, bad, version=2)
        with pytest.raises(FormatError, match="graph names|lists do not hold every row"):
            FilteredIndex.load(tmp_path / "bad")
    write_index(tmp_path / "old", "filtered", settings, arrays, version=1)
    with pytest.raises(FormatError, match="version 1; .* reads 2"):
        FilteredIndex.load(tmp_path / "old")
    (tmp_path / "index" / "links.npy").write_bytes(b"x")
    with pytest.raises(FormatError, match="damaged"):
        FilteredIndex.load(tmp_path / "index")


def test_of_equal_rows_any_counts_as_found():
    vectors = np.repeat(rows_and_vectors(120)[0], 25, axis=0)
    index = FilteredIndex.build(vectors, ef_construction=40)
    walks = [p for p in index.planner.calibration.walks if p.selectivity == 1]
    for plan in ("lists", "post-filter"):
        assert max(point.recall for point in walks if point.plan == plan) > 0.99


def test_small_and_empty_indexes_work():
    vectors, table = rows_and_vectors(5)
    index = FilteredIndex.build(np.empty((0, DIM)), table.slice(0, 0))
    assert index.search(vectors, 3, where="year = 1").rows[0].tolist() == []
    index.add(vectors, table)
    check(index, table, vectors[:2], 9, None)
    plain = FilteredIndex.build(vectors, similarity="dot")
    assert plain.search(vectors[:1], 1).rows[0].tolist() == [int(np.argmax(vectors @ vectors[0]))]


def test_mistakes_are_explained(index):
    vectors, table = rows_and_vectors(20)
    query = vectors[:1]
    with pytest.raises(QuerySyntaxError, match="Did you mean 'year'"):
        index.search(query, 3, where="yeer = 1")
    with pytest.raises(InputError, match="k must be"):
        index.search(query, 0)
    with pytest.raises(ShapeError, match="dimensions"):
        index.search(query[:, :3], 3)
    with pytest.raises(InputError, match="zero vector"):
        index.search(np.zeros((1, DIM)), 3)
    with pytest.raises(ShapeError, match="as many filters"):
        index.search(query, 3, where=[None, None])
    with pytest.raises(UnknownNameError, match="plan"):
        index.search(query, 3, plan="graf")
    with pytest.raises(ShapeError, match="as many rows"):
        FilteredIndex.build(vectors, table.slice(0, 3))
    with pytest.raises(NonFiniteError):
        FilteredIndex.build(vectors * np.nan, table)
    with pytest.raises(UnknownNameError, match="ordered column"):
        FilteredIndex.build(vectors, table, ordered=["yeer"])
    with pytest.raises(InputError, match="no order"):
        FilteredIndex.build(vectors, table, ordered=["tags"])
    with pytest.raises(InputError, match="target_recall"):
        FilteredIndex.build(vectors, table, target_recall=0)
    with pytest.raises(InputError, match="rows must be in"):
        index.remove([ROWS])
    with pytest.raises(InputError, match="give those of the new rows"):
        index.add(vectors)


def test_the_explanation_shows_every_plan(index):
    told = index.explain(10, where="year BETWEEN 10 AND 14")
    assert told.chosen in told.choices
    assert {"exact", "run"} <= {choice.plan for choice in told.choices}
    assert "-> " in str(told)
    assert "rows match" in str(told)


def test_the_planner_learns_from_what_it_saw():
    walks = (
        WalkPoint("graph", 0.5, 16, 1.0, 50.0, 1.0),
        WalkPoint("graph", 0.01, 16, 1.0, 50.0, 1.0),
    )
    planner = Planner(Calibration(10, 0.1, 0.05, 0.05, walks))
    first = planner.choose(100_000, 5000, k=10)
    assert (first.plan, first.ef, round(first.microseconds, 6)) == ("graph", 16, 50.0)
    for _ in range(100):
        choice = planner.choose(100_000, 5000, k=10)
        planner.observe(choice, 5000.0 if choice.plan == "graph" else choice.microseconds)
    assert planner.choose(100_000, 5000, k=10).plan == "exact"
    assert planner.choose(100_000, 40_000, k=10).plan == "graph"  # not seen there
    tried = 0
    for _ in range(1000):  # but now and then: other filters may suit it
        choice = planner.choose(100_000, 5000, k=10)
        tried += choice.plan == "graph"
        planner.observe(choice, 5000.0 if choice.plan == "graph" else choice.microseconds)
    assert 1 <= tried <= 1000 // 32
    for _ in range(1000):
        choice = planner.choose(100_000, 5000, k=10)
        planner.observe(choice, 50.0 if choice.plan == "graph" else choice.microseconds)
    assert planner.choose(100_000, 5000, k=10).plan == "graph"
    assert planner.choose(100_000, 0, k=10).plan == "empty"


def test_the_exact_plan_of_a_batch_is_priced_as_the_product_it_is():
    walks = tuple(WalkPoint("graph", share, 16, 1.0, 300.0, 1.0) for share in (0.005, 1.0))
    scans = tuple(
        ScanPoint(queries, rows, copied, cost * rows / queries**0.5)
        for queries in (1, 8, 64)
        for rows, copied, cost in ((1_000, True, 1.0), (20_000, True, 1.0), (100_000, False, 0.5))
    )
    calibration = Calibration(per_row=1.0, walks=walks, scans=scans)
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration
    planner = Planner(calibration)
    alone, batch = (planner.choose(100_000, 2_000, k=10, queries=n) for n in (1, 64))
    assert (alone.plan, batch.plan) == ("graph", "exact")
    assert batch.microseconds == pytest.approx(2_000 / 8)
    planner.ratios["exact", alone.octave] = 16.0  # learned from queries alone
    planner._kept.clear()
    assert planner.choose(100_000, 2_000, k=10, queries=64) == batch
    # From a quarter of the rows on all are scored, however many pass.
    half, most = (calibration.exact(100_000, share * 1e5, queries=200) for share in (0.5, 0.9))
    assert half == most == pytest.approx(0.5 * 100_000 / 8)
    older = calibration.to_dict()
    del older["scans"]
    assert Calibration.from_dict(older).exact(100_000, 500) == pytest.approx(510.0)


def test_scans_are_measured_where_there_is_something_else_to_choose(index):
    scans = index.planner.calibration.scans
    assert {point.queries for point in scans} == {1, 8, 64}
    assert all(point.microseconds > 0 for point in scans)
    assert {(point.rows, point.copied) for point in scans} == {
        (ROWS // 100, True), (ROWS // 5, True), (ROWS, False),
    }  # fmt: skip
    assert FilteredIndex.build(index.vectors[:50]).planner.calibration.scans == ()


def test_one_pause_does_not_cost_a_plan_its_place():
    walks = (
        WalkPoint("graph", 0.5, 16, 1.0, 50.0, 1.0),
        WalkPoint("graph", 0.01, 16, 1.0, 50.0, 1.0),
    )
    planner = Planner(Calibration(10, 0.02, 0.01, 1.0, walks))  # exact: 110 microseconds
    for _ in range(3):
        planner.observe(planner.choose(100_000, 5000, k=10), 1e6)
        assert planner.choose(100_000, 5000, k=10).plan == "graph"
    (ratio,) = planner.ratios.values()
    assert 1.2 < ratio < 1.4


def test_what_a_walk_may_miss_depends_on_what_the_filter_can_do_to_it():
    def chosen(plan, recall, selectivity, matching, away=None):
        points = tuple(
            WalkPoint(plan, share, 64, *((recall, 1.0, recall if away is None else away)
                                         if share == selectivity else (1.0, 1.0, 1.0)))
            for share in (0.5, 1.0)
        )  # fmt: skip
        return Planner(Calibration(1e3, 1e3, 1e3, 1e3, points)).choose(1000, matching, k=10).plan

    for plan in ("post-filter", "graph"):
        assert chosen(plan, 0.981, 1.0, 1000) == plan  # misses less than two fifths of .05
        assert chosen(plan, 0.979, 1.0, 1000) == "exact"
    assert chosen("post-filter", 0.981, 0.5, 500, away=0.0) == "post-filter"
    assert chosen("lists", 0.991, 0.5, 500) == "lists"  # a fifth
    assert chosen("lists", 0.989, 0.5, 500) == "exact"
    assert chosen("graph", 0.998, 0.5, 500) == "graph"  # a twentieth
    assert chosen("graph", 0.997, 0.5, 500) == "exact"
    for plan in ("lists", "graph", "two-hop"):
        assert chosen(plan, 1.0, 0.5, 500, away=0.5) == "exact"
