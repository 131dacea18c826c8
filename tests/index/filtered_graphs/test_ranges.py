"""Graphs over ranges: which links hold for a range, against slow loops over every range."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from embedworks.errors import InputError, UnknownNameError
from embedworks.index import AttributeTable, RangeTreeIndex, SegmentGraphIndex, evaluate
from embedworks.index.filtered._segments import choose_segments, link_segments
from embedworks.index.filtered.ranges import _build_tree, _covering, _segments


def rng_choice(points, row, near, limit):
    """The neighbours that HNSW's rule chooses, word for word, in float64."""
    gap = lambda a, b: float(((points[a].astype(float) - points[b]) ** 2).sum())  # noqa: E731
    kept = []
    for other in sorted(near, key=lambda c: gap(c, row)):
        if len(kept) < limit and all(gap(r, other) > gap(other, row) for r in kept):
            kept.append(other)
    return set(kept)


def linked(points, graph, *settings):
    """The links of all rows, made in two parts."""
    middle = len(points) // 3
    parts = [link_segments(points, graph, a, b, *settings)
             for a, b in [(0, middle), (middle, len(points))]]  # fmt: skip
    counts, *arrays = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
    return (np.concatenate([[0], np.cumsum(counts)]), *arrays)


def held(arrays, row, first, last):
    """The links of a row that hold for a range, both ends included."""
    offsets, targets, lows, highs = arrays
    found = []
    for place in range(offsets[row], offsets[row + 1]):
        end = first if targets[place] < row else last
        if lows[place] <= end <= highs[place]:
            found.append(int(targets[place]))
    assert len(found) == len(set(found))
    return set(found)


@pytest.mark.parametrize("links", [1, 3, 40])
def test_links_for_a_range_are_those_chosen_within_it(links):
    """With every row a candidate and leap 0 nothing is approximated."""
    rows = 36
    points = np.random.default_rng(links).normal(size=(rows, 3)).astype(np.float32)
    graph = np.stack([np.delete(np.arange(rows, dtype=np.int32), r) for r in range(rows)])
    arrays = linked(points, graph, links, rows, 0, 0.0)
    for first in range(rows):
        for last in range(first, rows):
            for row in range(first, last + 1):
                below = rng_choice(points, row, range(first, row), links)
                above = rng_choice(points, row, range(row + 1, last + 1), links)
                assert held(arrays, row, first, last) == below | above


@pytest.mark.parametrize("leap", [0.0, 0.3, 1.0])
def test_a_choice_serves_until_the_leap(leap):
    rng = np.random.default_rng(3)
    rows, links = 200, 5
    points = rng.normal(size=(rows, 4)).astype(np.float32)
    ranks = np.arange(rows, dtype=np.int32)
    near = rng.permutation(rows)[:90].astype(np.int32)
    row = 150
    out = [np.empty(5000, np.int32) for _ in range(3)]
    count = choose_segments(points, row, ranks, near, leap, links, *out)
    low = 0
    while any(low <= other < row for other in near):
        chosen = rng_choice(points, row, [o for o in near.tolist() if low <= o < row], links)
        bound = sorted(chosen)[int(np.float32(leap) * (len(chosen) - 1))]
        for end in range(low, bound + 1):
            valid = {int(t) for t, a, b in zip(*(o[:count] for o in out), strict=True)
                     if a <= end <= b}  # fmt: skip
            assert valid == {other for other in chosen if other >= end}
        low = bound + 1


def test_the_rows_of_any_range_are_connected():
    rng = np.random.default_rng(4)
    rows = 120
    points = rng.normal(size=(rows, 3)).astype(np.float32)
    graph = np.full((rows, 4), -1, np.int32)  # no candidates but the next ranks
    arrays = linked(points, graph, 4, 10, 1, 0.5)
    for first, last in [(0, 119), (5, 9), (60, 61), (30, 100)]:
        seen, waiting = set(), [first]
        while waiting:
            row = waiting.pop()
            if row not in seen:
                seen.add(row)
                waiting += held(arrays, row, first, last)
        assert seen == set(range(first, last + 1))


@pytest.mark.parametrize("total", [1, 2, 5, 64, 100])
def test_the_tree_covers_every_range(total):
    for depth in (1, 2, 4):
        lowest = _segments(total, depth - 1)
        assert [a for a, _ in lowest] == [0, *(b for _, b in lowest[:-1])]
        assert lowest[-1][1] == total
        for start in range(0, total, 3):
            for end in range(start + 1, total + 1, 2):
                seeds = _covering(total, depth, start, end)
                assert len(seeds) == len(set(seeds))
                assert all(start <= seed < end for seed in seeds)
                for a, b in lowest:  # a segment that is cut gives all its ranks in range
                    if not (start <= a and b <= end):
                        assert set(range(max(a, start), min(b, end))) <= set(seeds)


def test_links_of_a_level_stay_in_their_segment():
    points = np.random.default_rng(5).normal(size=(300, 6)).astype(np.float32)
    levels = _build_tree(points, 8, 40, 0)
    assert levels.shape == (6, 300, 8)
    for level, links in enumerate(levels):
        for start, end in _segments(300, level):
            inside = links[start:end]
            assert ((inside == -1) | ((inside >= start) & (inside < end))).all()
            seen, waiting = set(), [start]
            while waiting:
                row = waiting.pop()
                if row not in seen:
                    seen.add(row)
                    waiting += [int(other) for other in links[row] if other >= 0]
            assert len(seen) >= 0.95 * (end - start)


def test_ranges_are_found_in_conditions():
    table = AttributeTable.from_columns({"year": [5, 1, None, 3, 3, 9], "kind": list("aabbab")})
    for where, run in [
        ("year >= 3 AND year < 9", ("year", 1, 4)),
        ("year > 1 AND (year < 9 AND year != 5 OR year = 4)", None),
        ("year > 5 AND year < 3", ("year", 4, 4)),
        ("NOT (year < 3 OR year > 5)", ("year", 1, 4)),
        ("year > 1 AND kind = 'a'", None),
        ("year > 1 OR year < 9", None),
    ]:
        ready = table.compile(where)
        assert ready.run == run, where
        if run is not None:
            assert ready.cardinality().exact
            assert ready.cardinality().minimum == ready.mask().sum() == run[2] - run[1]


@pytest.mark.parametrize("kind", [SegmentGraphIndex, RangeTreeIndex])
def test_rows_added_later_do_not_shift_the_ranges(kind):
    rng = np.random.default_rng(6)
    vectors = rng.normal(size=(400, 8))
    year = rng.integers(0, 50, 400).tolist()
    index = kind.build(vectors, pa.table({"year": year}), column="year", exact_below=0)
    more = rng.normal(size=(60, 8))
    others = [None if y > 55 else int(y) for y in rng.integers(-20, 60, 60)]
    index.add(more, pa.table({"year": others}))
    table = pa.table({"year": [*year, *others]})
    for where in ["year BETWEEN 10 AND 20", "year < 5", "year > 45", "year = 7"]:
        mask = evaluate(where, table)
        start, end = index._ready(where).route
        built = {int(row) for row in index._order[start:end]}
        assert built == {row for row in range(400) if mask[row]}
        found = index.search(vectors[:3], 20, where=where)
        assert all(mask[rows].all() for rows in found.rows)


@pytest.mark.parametrize("kind", [SegmentGraphIndex, RangeTreeIndex])
def test_columns_without_an_order_are_refused(kind):
    rows = pa.table({"tags": [["a"], ["b"]], "year": [1, 2]})
    with pytest.raises(InputError, match="no order"):
        kind.build(np.eye(2), rows, column="tags")
    with pytest.raises(UnknownNameError, match="Did you mean 'year'"):
        kind.build(np.eye(2), rows, column="yeer")
    with pytest.raises(InputError, match="links"):
        kind.build(np.eye(2), rows, column="year", links=0)
