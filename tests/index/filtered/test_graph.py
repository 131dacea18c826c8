"""The graph built from codes, against a slow loop over every row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import FormatError
from embedworks.index.filtered._building import add_links, choose_links
from embedworks.index.filtered.graph import Graph
from embedworks.index.filtered.lists import InvertedLists, quantize
from embedworks.index.filtered.search_graph import SearchGraph


def unit(rows, dim, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def neighbours(graph):
    """Each place's neighbours, as lists."""
    return [part.tolist() for part in np.split(graph.links, graph.starts[1:-1])]


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
    lists = InvertedLists.build(vectors, similarity=similarity)
    graph = Graph.build(lists, links=8, ef_construction=60)
    again = Graph.build(lists, links=8, ef_construction=60)
    for name in ("starts", "links"):
        np.testing.assert_array_equal(getattr(graph, name), getattr(again, name))
    graph.check()
    assert (len(graph), graph.nbytes()) == (1500, 8 * 1501 + 4 * len(graph.links))
    sizes = []
    for place, linked in enumerate(neighbours(graph)):
        assert len(set(linked)) == len(linked)
        assert place not in linked
        sizes.append(len(linked))
    assert min(sizes) >= 1
    assert max(sizes) == 16
    other = Graph.build(lists, links=8, ef_construction=60, seed=1)
    assert not np.array_equal(graph.links, other.links)


def test_threads_change_nothing(monkeypatch):
    vectors = unit(2500, 16)
    lists = InvertedLists.build(vectors, similarity="cosine")
    graphs = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("EMBEDWORKS_THREADS", threads)
        graphs.append(Graph.build(lists, ef_construction=40))
    for graph in graphs[1:]:
        np.testing.assert_array_equal(graph.links, graphs[0].links)
        np.testing.assert_array_equal(graph.starts, graphs[0].starts)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_walks_find_the_nearest_rows(similarity):
    vectors, queries = unit(3000, 24), unit(50, 24, seed=1)
    if similarity == "dot":
        vectors *= np.random.default_rng(2).uniform(0.5, 2, (3000, 1)).astype(np.float32)
    lists = InvertedLists.build(vectors, similarity=similarity)
    graph = Graph.build(lists)
    found, _, counts = SearchGraph(graph, lists).search(vectors, queries, 10, ef=200)
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    hits = [len({*one} & {*true}) for one, true in zip(found, best, strict=True)]
    assert (counts == 10).all()
    assert np.mean(hits) / 10 > 0.97


def test_many_equal_rows_do_not_cut_off_the_others():
    vectors = np.concatenate([np.repeat(unit(3, 16), 300, axis=0), unit(600, 16, seed=1)])
    lists = InvertedLists.build(vectors, similarity="cosine")
    graph = Graph.build(lists)
    rows, _ = SearchGraph(graph, lists).near(vectors[0], 1500)
    assert np.count_nonzero(rows >= 900) > 590  # of 600; faiss' graph of them reaches 427


@pytest.mark.parametrize("rows", [1, 2, 3, 9])
def test_few_rows(rows):
    vectors = unit(rows, 4)
    lists = InvertedLists.build(vectors, similarity="cosine")
    graph = Graph.build(lists, links=2)
    graph.check()
    assert len(graph) == rows
    assert ((np.diff(graph.starts) > 0) | (rows == 1)).all()
    found, _ = SearchGraph(graph, lists).near(vectors[0], 10)
    assert found[0] == 0


def kept_slowly(graph, stay):
    """The neighbours of the places that stay, place by place."""
    old = neighbours(graph)
    new = {place: number for number, place in enumerate(np.flatnonzero(stay).tolist())}
    lines = []
    for place in new:
        line = []
        for other in old[place]:
            if other not in new:
                staying = [onward for onward in old[other] if onward in new]
                if not staying or staying[0] == place:
                    continue
                other = staying[0]
            line.append(new[other])
        lines.append(line)
    return lines


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 1.0))
def test_the_graph_of_places_that_stay_equals_its_loop(seed, share):
    rng = np.random.default_rng(seed)
    lists = InvertedLists.build(unit(120, 5, seed), similarity="cosine")
    graph = Graph.build(lists, links=3)
    stay = rng.random(120) >= share
    stay[rng.integers(120)] = True
    found = graph.kept(stay)
    found.check()
    assert neighbours(found) == kept_slowly(graph, stay)


@pytest.mark.parametrize(
    "changes",
    [
        {"links": [1, 0, 3, 1]},
        {"links": [1, 0, -1, 1]},
        {"links": np.array([1, 0, 2, 1], dtype=np.int64)},
        {"links": [[1, 0, 2, 1]]},
        {"links": [1, 0, 2]},
        {"starts": [0, 1, 3, 3]},
        {"starts": [1, 1, 3, 4]},
        {"starts": [0, 3, 1, 4]},
        {"starts": [0, -1, 3, 4]},
        {"starts": np.array([0, 1, 3, 4], dtype=np.int32)},
        {"starts": [[0, 1, 3, 4]]},
        {"starts": [], "links": []},
        {"starts": [0], "links": []},
    ],
)
def test_graphs_that_would_lead_a_walk_astray_are_refused(changes):
    parts = {"starts": [0, 1, 3, 4], "links": [1, 0, 2, 1]}
    kinds = {"starts": np.int64, "links": np.int32}
    Graph(**{name: np.array(part, dtype=kinds[name]) for name, part in parts.items()}).check()
    made = {
        name: part if isinstance(part, np.ndarray) else np.array(part, dtype=kinds[name])
        for name, part in (parts | changes).items()
    }
    with pytest.raises(FormatError, match="names rows that are not there"):
        Graph(**made).check()
