"""UNG: the graph of label sets, the links between groups, and which sets a walk starts from."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from embedworks.index import AttributeTable, UngIndex, evaluate
from embedworks.index.filtered._groups import Groups, link_groups, minimal_supersets
from embedworks.index.filtered._labels import Labels


def random_sets(rows, seed, most=4):
    rng = np.random.default_rng(seed)
    return [sorted(set(rng.choice(6, rng.integers(0, most)).tolist())) for _ in range(rows)]


def test_edges_lead_to_minimal_supersets():
    for seed in range(10):
        sets = list({frozenset(s) for s in random_sets(40, seed, 6)})
        expected = {
            (a, b)
            for a, small in enumerate(sets)
            for b, large in enumerate(sets)
            if small < large and not any(small < other < large for other in sets)
        }
        assert {tuple(pair) for pair in minimal_supersets(sets).tolist()} == expected
    assert minimal_supersets([]).shape == (0, 2)


@pytest.fixture(scope="module")
def grouped():
    tags = random_sets(900, 1)
    labels = Labels.of(AttributeTable.from_columns({"tags": tags}), "tags")
    return tags, Groups.of(labels, np.arange(900))


def test_groups_hold_the_rows_with_one_set(grouped):
    tags, groups = grouped
    assert sorted(groups.order.tolist()) == list(range(900))
    own = [{tuple(tags[row]) for row in groups.rows(g)} for g in range(len(groups))]
    assert all(len(sets) == 1 for sets in own)
    assert len(set.union(*own)) == len(groups)


def test_links_stay_in_the_group_or_lead_to_its_minimal_supersets(grouped):
    _, groups = grouped
    points = np.random.default_rng(2).normal(size=(900, 6)).astype(np.float32)
    links = link_groups(points, groups, links=8, cross=2, width=20, alpha=1.2)
    assert links.shape == (900, 12)
    group_of = np.empty(900, np.int64)
    for group in range(len(groups)):
        group_of[groups.rows(group)] = group
    edges = set(zip(groups.parents.tolist(), groups.children.tolist(), strict=True))
    crossed = set()
    for row, others in enumerate(links):
        others = others[: (others >= 0).sum()]
        assert (links[row, len(others) :] == -1).all()
        assert row not in others
        assert len(set(others.tolist())) == len(others)
        away = [(int(group_of[row]), int(group_of[o])) for o in others]
        away = [pair for pair in away if pair[0] != pair[1]]
        assert set(away) <= edges
        assert len(away) <= 4
        crossed |= set(away)
    assert crossed == edges  # every edge of the label graph can be walked
    for group in range(len(groups)):
        rows = groups.rows(group)
        if len(rows) <= 9:
            assert all(set(rows) - {row} <= set(links[row].tolist()) for row in rows)


def test_the_first_cross_link_is_the_nearest_row_of_a_superset(grouped):
    _, groups = grouped
    points = np.random.default_rng(2).normal(size=(900, 6)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    links = link_groups(points, groups, links=8, cross=2, width=200, alpha=1.2)
    found = total = 0
    for group in np.unique(groups.parents):
        larger = groups.children[groups.parents == group]
        there = np.concatenate([groups.rows(child) for child in larger])
        for row in groups.rows(group):
            nearest = there[np.argmax(points[there] @ points[row])]
            found, total = found + int(nearest in links[row]), total + 1
    assert found / total > 0.95


def test_entries_reach_every_group_that_passes(grouped):
    tags, groups = grouped
    table = pa.table({"tags": pa.array(tags, pa.list_(pa.int64()))})
    for where in [
        "tags CONTAINS 1",
        "tags CONTAINS 1 AND tags CONTAINS 4",
        "tags CONTAINS 0 OR tags CONTAINS 2",
        "NOT tags CONTAINS 3",
        "tags CONTAINS 5 AND NOT tags CONTAINS 3",
        "tags IS NOT NULL",
    ]:
        mask = evaluate(where, table).astype(np.uint8)
        passing = {g for g in range(len(groups)) if mask[groups.rows(g)[0]]}
        seen, waiting = set(), groups.entries(mask).tolist()
        assert set(waiting) <= passing
        while waiting:
            group = waiting.pop()
            if group not in seen:
                seen.add(group)
                larger = groups.children[groups.parents == group].tolist()
                waiting += [child for child in larger if child in passing]
        assert seen == passing
    contains = evaluate("tags CONTAINS 1", table).astype(np.uint8)
    assert [tags[groups.rows(g)[0]] for g in groups.entries(contains)] == [[1]]


def test_missing_sets_are_scanned_and_empty_ones_are_a_group():
    vectors = np.random.default_rng(3).normal(size=(300, 4))
    tags = [None if row % 3 == 0 else [] if row % 3 == 1 else ["a"] for row in range(300)]
    rows = pa.table({"tags": pa.array(tags, pa.list_(pa.string()))})
    index = UngIndex.build(vectors, rows, column="tags", exact_below=0)
    assert index.search(vectors[:2], 1).rows == [[0], [1]]
    assert index.search(vectors[:1], 5, where="tags IS NULL").plans == ["exact"]
    assert index.search(vectors[:1], 5, where="NOT tags CONTAINS 'a'").plans == ["ung"]
    assert len(index.groups) == 2
