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
    graph = Graph.build(stored, similarity=similarity, links=8, ef_construction=60)
    return stored, queries, graph, InvertedLists.build(stored, similarity=similarity)


def walk_slowly(graph, lists, query, ef):
    """Best-first search with lists and sets; returns rows, best first."""
    codes = np.empty((len(lists.order), len(query)))
    codes[lists.order] = lists.codes.astype(np.float64)
    scales = np.empty(len(lists.order), dtype=np.float32)
    scales[lists.order] = lists.scales
    code = quantize(query[None])[0][0].astype(np.float64)
    scores = (codes @ code).astype(np.float32) * scales
    middles = []
    for number, centroid in enumerate(lists.centroids):
        rows = lists.order[lists.starts[number] : lists.starts[number + 1]]
        if len(rows):
            nearness = (codes[rows].astype(np.float32) @ centroid) * scales[rows]
            middles.append(rows[nearness.argmax()])
    beam = [max(middles, key=lambda row: scores[row])]
    seen, looked_at = set(beam), set()
    while waiting := [row for row in beam if row not in looked_at]:
        looked_at.add(waiting[0])
        fresh = [int(o) for o in graph.links[waiting[0]] if o >= 0 and o not in seen]
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
    graph = Graph.build(vectors, similarity="cosine")
    search = SearchGraph(graph, InvertedLists.build(vectors, similarity="cosine", lists=1))
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


def test_every_link_is_there_in_the_order_of_the_lists():
    _, _, graph, lists = world()
    search = SearchGraph(graph, lists)
    for place, row in enumerate(lists.order.tolist()):
        linked = lists.order[search.links[search.starts[place] : search.starts[place + 1]]]
        assert linked.tolist() == [int(other) for other in graph.links[row] if other >= 0]
