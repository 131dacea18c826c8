"""The graph built from codes, against a slow loop over every row."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.index.filtered._building import add_links, choose_links
from embedworks.index.filtered.graph import Graph
from embedworks.index.filtered.lists import InvertedLists, quantize
from embedworks.index.filtered.search_graph import SearchGraph


def unit(rows, dim, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def choose_slowly(scores, near, most):
    """Keep those of ``near``, best first, that are not nearer to one kept before."""
    kept = []
    for score, place in near:
        if len(kept) < most and all(scores[place, other] <= score for _, other in kept):
            kept.append((score, place))
    return kept


def link_slowly(scores, order, most, room, width):
    """Insert one after the other; the walk is replaced by a look at everything reachable."""
    links = {order[0]: []}
    for number, here in enumerate(order[1:], 1):
        assert width >= number, "so wide a walk finds all there are"
        near = sorted(((scores[here, place], place) for place in order[:number]), reverse=True)
        links[here] = choose_slowly(scores, near, most)
        for score, other in links[here]:
            more = [*links[other], (score, here)]
            if len(more) > room:
                more = choose_slowly(scores, sorted(more, reverse=True), room)
            links[other] = more
    return links


@pytest.mark.parametrize(("most", "room"), [(4, 8), (3, 3), (1, 2)])
def test_linking_equals_its_loop(most, room):
    rows = 60
    codes, scales = quantize(unit(rows, 12))
    order = np.random.default_rng(1).permutation(rows).astype(np.int32)
    links = np.full((rows, room), -1, dtype=np.int32)
    scores = np.empty(links.shape, dtype=np.float32)
    starts = np.arange(rows) * room
    ends, stamps = starts.copy(), np.zeros(rows, dtype=np.int32)
    chosen, gains = np.empty((1, most), dtype=np.int32), np.empty((1, most), dtype=np.float32)
    for number in range(1, rows):
        one = order[number : number + 1]
        choose_links(codes, scales, one, order[:1], rows, links, starts, ends, stamps, number,
                     chosen, gains)  # fmt: skip
        add_links(codes, scales, one, chosen, gains, links, scores, starts, ends)
    products = (codes.astype(np.int32) @ codes.T.astype(np.int32)).astype(np.float32)
    products = products * scales[:, None] * scales
    slow = link_slowly(products, order.tolist(), most, room, rows)
    same = 0
    for row in range(rows):
        count = ends[row] - starts[row]
        assert 1 <= count <= room
        same += sorted(links[row, :count].tolist()) == sorted(place for _, place in slow[row])
        np.testing.assert_allclose(scores[row, :count], products[row, links[row, :count]], 1e-5)
    # With few links the walk, unlike the loop, cannot reach everything.
    assert same == rows or most < 4


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_graphs_are_sound_and_the_same_every_time(similarity):
    vectors = unit(1500, 16) * (1 if similarity == "cosine" else 3)
    graph = Graph.build(vectors, similarity=similarity, links=8, ef_construction=60)
    again = Graph.build(vectors, similarity=similarity, links=8, ef_construction=60)
    for name in ("links", "upper_place", "upper_links"):
        np.testing.assert_array_equal(getattr(graph, name), getattr(again, name))
    assert graph.entry == again.entry
    assert graph.links.shape == (1500, 16)
    for links in (graph.links, *graph.upper_links.transpose(1, 0, 2)):
        there = links >= 0
        assert (np.diff(there.astype(int), axis=1) <= 0).all()  # filled up at the end
        for row in links:
            assert len(set(row[row >= 0])) == np.count_nonzero(row >= 0)
    assert not (graph.links == np.arange(1500)[:, None]).any()
    tall = np.flatnonzero(graph.upper_place >= 0)
    assert 1500 / 8 / 2 < len(tall) < 1500 / 8 * 2
    np.testing.assert_array_equal(graph.upper_place[tall], np.arange(len(tall)))
    for level in range(graph.upper_links.shape[1]):
        links = graph.upper_links[:, level]
        assert set(links[links >= 0]) <= set(tall[(links >= 0).any(axis=1)])
    # The row to start from has links on every level but one where it is alone.
    entry = graph.upper_links[graph.upper_place[graph.entry]]
    assert ((entry >= 0).any(axis=1) | ((graph.upper_links >= 0).any(axis=2).sum(axis=0) < 2)).all()


def test_threads_change_nothing(monkeypatch):
    vectors = unit(2500, 16)
    lists = InvertedLists.build(vectors, similarity="cosine")
    graphs = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("EMBEDWORKS_THREADS", threads)
        graphs.append(Graph.build(vectors, similarity="cosine", lists=lists, ef_construction=40))
    for graph in graphs[1:]:
        np.testing.assert_array_equal(graph.links, graphs[0].links)
        np.testing.assert_array_equal(graph.upper_links, graphs[0].upper_links)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_walks_find_the_nearest_rows(similarity):
    vectors, queries = unit(3000, 24), unit(50, 24, seed=1)
    if similarity == "dot":
        vectors *= np.random.default_rng(2).uniform(0.5, 2, (3000, 1)).astype(np.float32)
    lists = InvertedLists.build(vectors, similarity=similarity)
    graph = Graph.build(vectors, similarity=similarity, lists=lists)
    found, _, counts = SearchGraph(graph, lists).search(vectors, queries, 10, ef=200)
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    hits = [len({*one} & {*true}) for one, true in zip(found, best, strict=True)]
    assert (counts == 10).all()
    assert np.mean(hits) / 10 > 0.97


def test_many_equal_rows_do_not_cut_off_the_others():
    vectors = np.concatenate([np.repeat(unit(3, 16), 300, axis=0), unit(600, 16, seed=1)])
    lists = InvertedLists.build(vectors, similarity="cosine")
    graph = Graph.build(vectors, similarity="cosine", lists=lists)
    rows, _ = SearchGraph(graph, lists).near(vectors[0], 1500)
    assert np.count_nonzero(rows >= 900) > 590  # of 600; faiss' graph of them reaches 427


@pytest.mark.parametrize("rows", [1, 2, 3, 9])
def test_few_rows(rows):
    vectors = unit(rows, 4)
    graph = Graph.build(vectors, similarity="cosine", links=2)
    assert graph.links.shape == (rows, 4)
    assert ((graph.links >= 0).any(axis=1) | (rows == 1)).all()
    lists = InvertedLists.build(vectors, similarity="cosine")
    found, _ = SearchGraph(graph, lists).near(vectors[0], 10)
    assert found[0] == 0
