"""The walk over all rows against a slow loop, and what its search promises."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest

from embedworks.index.filtered._search_graph import _key, _place, _score
from embedworks.index.filtered.graph import Graph
from embedworks.index.filtered.lists import InvertedLists, quantize
from embedworks.index.filtered.search_graph import SearchGraph


@cache
def world(similarity="cosine", rows=3000, dim=24):
    """Vectors in clusters with their graph, lists and queries."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(20, dim))
    vectors = centres[rng.integers(0, 20, rows + 40)] + rng.normal(size=(rows + 40, dim))
    if similarity == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors.astype(np.float32)
    stored, queries = vectors[:rows].copy(), vectors[rows:].copy()
    lists = InvertedLists.build(stored, similarity=similarity)
    return stored, queries, Graph.build(lists, links=8, ef_construction=60), lists


def by_row(graph, lists, query):
    """Each row's neighbours, all rows' scores by codes, and the row a walk starts from."""
    order = lists.order.tolist()
    links = np.split(lists.order[graph.links], graph.starts[1:-1])
    linked = {row: part.tolist() for row, part in zip(order, links, strict=True)}
    code = quantize(query[None])[0][0].astype(np.float64)
    scores = np.empty(len(order), dtype=np.float32)
    scores[order] = (lists.codes @ code).astype(np.float32) * lists.scales
    middles = []
    for number, centroid in enumerate(lists.centroids):
        places = slice(lists.starts[number], lists.starts[number + 1])
        if len(lists.order[places]):
            nearness = (lists.codes[places].astype(np.float32) @ centroid) * lists.scales[places]
            middles.append(order[places][nearness.argmax()])
    return linked, scores, max(middles, key=lambda row: scores[row])


def walk_slowly(graph, lists, query, ef):
    """Best-first search with lists and sets; returns rows, best first."""
    linked, scores, entry = by_row(graph, lists, query)
    beam = [entry]
    seen, looked_at = set(beam), set()
    while waiting := [row for row in beam if row not in looked_at]:
        looked_at.add(waiting[0])
        fresh = [row for row in linked[waiting[0]] if row not in seen]
        seen.update(fresh)
        beam = sorted(beam + fresh, key=lambda row: -scores[row])[:ef]
    return beam, scores


@pytest.mark.parametrize("ef", [1, 5, 40])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_near_is_best_first_search(similarity, ef):
    _, queries, graph, lists = world(similarity)
    search = SearchGraph(graph, lists)
    for query in queries[:8]:
        rows, scores = search.near(query, ef)
        slow, slow_scores = walk_slowly(graph, lists, query, ef)
        np.testing.assert_array_equal(scores, slow_scores[slow])
        assert sorted(rows) == sorted(slow)
        np.testing.assert_array_equal(scores, slow_scores[rows])


def test_keys_order_as_scores_and_give_them_back():
    values = np.array([-np.inf, -3.5, -1e-30, 0.0, 1e-30, 2.0, 3e38], dtype=np.float32)
    places = [7, 2**31 - 1, 0, 5, 2**31 - 1, 3, 1]
    keys = [_key(value, place) for value, place in zip(values, places, strict=True)]
    assert keys == sorted(keys)
    assert [_place(key | 1) for key in keys] == places
    np.testing.assert_array_equal([_score(key | 1) for key in keys], values)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_search_finds_the_best_rows_with_exact_scores(similarity):
    vectors, queries, graph, lists = world(similarity)
    rows, scores, counts = SearchGraph(graph, lists).search(vectors, queries, 10, ef=100)
    assert counts.tolist() == [10] * len(queries)
    products = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    np.testing.assert_array_equal(
        scores, np.take_along_axis(products, rows, axis=1).astype(np.float32)
    )
    assert (np.diff(scores, axis=1) <= 0).all()
    best = np.argsort(-products, axis=1)[:, :10]
    recall = np.mean([len({*found} & {*true}) for found, true in zip(rows, best, strict=True)])
    assert recall / 10 > 0.95


def test_one_query_is_as_many():
    vectors, queries, graph, lists = world()
    search = SearchGraph(graph, lists)
    together = search.search(vectors, queries, 5, ef=30)
    for number, query in enumerate(queries):
        alone = search.search(vectors, query[None], 5, ef=30)
        for one, all_of_them in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], all_of_them[number])


def test_rows_that_may_not_be_results_are_walked_through():
    vectors, queries, graph, lists = world()
    search = SearchGraph(graph, lists)
    before, _, _ = search.search(vectors, queries, 10, ef=100)
    alive = np.ones(len(vectors), dtype=np.uint8)
    alive[before[:, :5]] = 0
    rows, _, counts = search.search(vectors, queries, 10, ef=100, alive=alive)
    for number in range(len(queries)):
        found = rows[number, : counts[number]]
        assert alive[found].all()
        left = [row for row in before[number] if alive[row]]
        np.testing.assert_array_equal(found[: len(left)], left)


def test_says_when_too_few_are_left():
    vectors, queries, graph, lists = world()
    alive = np.zeros(len(vectors), dtype=np.uint8)
    alive[:3] = 1
    rows, _, counts = SearchGraph(graph, lists).search(vectors, queries, 10, ef=50, alive=alive)
    assert counts.max() <= 3
    for number in range(len(queries)):
        assert set(rows[number, : counts[number]]) <= {0, 1, 2}


def test_equal_scores_are_ordered_by_row_and_few_rows_are_all_found():
    vectors = np.repeat(np.eye(4, dtype=np.float32), 3, axis=0)
    lists = InvertedLists.build(vectors, similarity="cosine", lists=1)
    search = SearchGraph(Graph.build(lists), lists)
    rows, scores, counts = search.search(vectors, vectors[:1], 50, ef=1)
    assert counts.tolist() == [12]
    assert rows[0, :12].tolist() == list(range(12))
    assert scores[0, :12].tolist() == [1.0] * 3 + [0.0] * 9


def test_vectors_may_be_more_than_the_graph_has():
    vectors, queries, graph, lists = world()
    search = SearchGraph(graph, lists)
    longer = np.concatenate([vectors, queries])
    for before, after in zip(
        search.search(vectors, queries, 5, ef=30),
        search.search(longer, queries, 5, ef=30),
        strict=True,
    ):
        np.testing.assert_array_equal(before, after)


def test_threads_do_not_disturb_each_other():
    vectors, queries, graph, lists = world()
    search = SearchGraph(graph, lists)
    alone = search.search(vectors, queries, 10, ef=60)[0]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(search.search, vectors, queries, 10, ef=60) for _ in range(20)]
        for job in jobs:
            np.testing.assert_array_equal(job.result()[0], alone)


def test_no_queries_and_memory():
    vectors, queries, graph, lists = world()
    search = SearchGraph(graph, lists)
    rows, _, counts = search.search(vectors, queries[:0], 3, ef=10)
    assert (rows.shape, counts.shape, len(search)) == ((0, 3), (0,), len(vectors))
    assert 0 < search.nbytes() < graph.nbytes() + lists.nbytes()


def test_graph_and_lists_must_have_the_same_rows():
    vectors, _, graph, _ = world()
    with pytest.raises(ValueError, match="3000 rows"):
        SearchGraph(graph, InvertedLists.build(vectors[:100], similarity="cosine"))


def walk_filtered_slowly(graph, lists, query, mask, ef, seeds, two_hop, cap):
    """Best-first search that keeps what passes; returns rows, and how many were scored."""
    linked, scores, entry = by_row(graph, lists, query)
    waiting = list(dict.fromkeys([entry, *seeds]))
    seen, scored = set(waiting), len(waiting)
    found = sorted((row for row in waiting if mask[row]), key=lambda row: -scores[row])[:ef]
    while waiting:
        here = max(waiting, key=lambda row: scores[row])
        if len(found) == ef and scores[here] < scores[found[-1]]:
            break
        waiting.remove(here)
        around = []
        for row in linked[here]:
            through = two_hop and not mask[row]
            for one in linked[row] if through else [row]:
                if through and (len(around) >= cap or not mask[one]):
                    continue
                if one not in seen:
                    seen.add(one)
                    around.append(one)
        scored += len(around)
        for row in around:
            if len(found) < ef or scores[row] > scores[found[-1]]:
                waiting.append(row)
                if mask[row]:
                    found = sorted([*found, row], key=lambda row: -scores[row])[:ef]
    return found, scores, scored


@pytest.mark.parametrize("two_hop", [False, True])
@pytest.mark.parametrize("ef", [1, 5, 40])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_walk_under_a_filter_equals_its_loop(similarity, ef, two_hop):
    _, queries, graph, lists = world(similarity)
    search, rng = SearchGraph(graph, lists), np.random.default_rng(5)
    for share, query in zip((0.8, 0.5, 0.5, 0.3, 0.2, 0.1), queries, strict=False):
        mask = (rng.random(len(lists.order) + 50) < share).astype(np.uint8)
        passing = np.flatnonzero(mask[: len(lists.order)])
        seeds = rng.permutation(passing)[:4]
        found = search.passing(query, mask, ef, seeds=seeds, two_hop=two_hop, matching=10**6)
        slow, slow_scores, _ = walk_filtered_slowly(
            graph, lists, query, mask, ef, seeds.tolist(), two_hop, 3 * search.most
        )
        assert sorted(found[0]) == sorted(slow)
        np.testing.assert_array_equal(found[1], slow_scores[found[0]])


@pytest.mark.parametrize("two_hop", [False, True])
def test_the_walk_under_a_filter_gives_up_when_a_scan_is_cheaper(two_hop):
    _, queries, graph, lists = world()
    search, query = SearchGraph(graph, lists), queries[0]
    mask = np.ones(len(lists.order), dtype=np.uint8)
    none = np.empty(0, dtype=np.int32)
    ef = 60
    _, _, scored = walk_filtered_slowly(graph, lists, query, mask, ef, [], two_hop, 1000)
    least = 4 * ef * search.most  # a walk is never cut off before
    assert scored < least
    options = {"seeds": none, "two_hop": two_hop, "matching": 1}
    assert len(search.passing(query, mask, ef, **options)[0]) == ef
    few = np.zeros_like(mask)
    few[:2] = 1
    assert search.passing(query, few, 5, **options | {"two_hop": False}) is None
    found = search.passing(query, few, 5, **options | {"matching": 10**6, "two_hop": False})
    assert sorted(found[0]) == [0, 1]


def test_nothing_passes():
    _, queries, graph, lists = world()
    mask, none = np.zeros(len(lists.order), dtype=np.uint8), np.empty(0, dtype=np.int32)
    search = SearchGraph(graph, lists)
    for two_hop in (False, True):
        rows, scores = search.passing(queries[0], mask, 5, seeds=none, two_hop=two_hop,
                                      matching=10**6)  # fmt: skip
        assert len(rows) == len(scores) == 0
