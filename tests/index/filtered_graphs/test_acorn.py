"""ACORN: how lists are shortened, and what its density buys."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from embedworks.index import AcornIndex
from embedworks.index.filtered._acorn import compress
from embedworks.index.filtered.acorn import DenseGraph


def slow_compress(lists, near, direct, limit, room):
    """Section 5.2 of the paper, with sets."""
    kept, hidden = list(near[: min(direct, room)]), set()
    for other in near[len(kept) :]:
        if len(kept) == room or len(hidden) + len(kept) > limit:
            break
        if other not in hidden:
            kept.append(other)
            hidden |= set(lists[other])
    return kept


@pytest.mark.parametrize("direct", [0, 1, 6, 50])
def test_lists_are_shortened_as_in_the_paper(direct):
    rng = np.random.default_rng(direct)
    for _ in range(50):
        rows = int(rng.integers(2, 60))
        lists = [rng.permutation(rows)[: rng.integers(0, 12)].tolist() for _ in range(rows)]
        links = np.full((rows, 12), -1, np.int32)
        for row, others in enumerate(lists):
            links[row, : len(others)] = others
        near = rng.permutation(rows).astype(np.int32)
        limit, out = int(rng.integers(1, 80)), np.full(int(rng.integers(1, 40)), 5, np.int32)
        kept = compress(links, near, direct, limit, out)
        assert out[:kept].tolist() == slow_compress(lists, near.tolist(), direct, limit, len(out))
        assert (out[kept:] == -1).all()


def clusters(rows, seed, dim=32, count=60):
    centres = np.random.default_rng(0).normal(size=(count, dim))
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(0, count, rows)] + 0.5 * rng.normal(size=(rows, dim))).astype("f4")


def test_lists_are_sorted_and_everything_is_reached():
    points = clusters(3000, 1)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    graph = DenseGraph.build(points, links=16, gamma=12, direct=32, ef_construction=40, seed=0)
    assert (len(graph.links), [len(level) for level in graph.upper], graph.top) == (3000, [187], 11)
    for level, where in ((graph.links, None), (graph.upper[0], graph.order[:187])):
        there = points if where is None else points[where]
        for row, others in enumerate(level):
            others = others[others >= 0]
            assert row not in others
            assert len(set(others.tolist())) == len(others)
            near = there[others] @ there[row]
            assert (np.diff(near) <= 1e-6).all()
    seen, waiting = set(), graph.order[:187].tolist()  # walks enter at these
    while waiting:
        row = waiting.pop()
        if row not in seen:
            seen.add(row)
            waiting += [int(other) for other in graph.links[row] if other >= 0]
    assert len(seen) >= 2997


def test_density_pays_under_a_filter_and_stops_paying_below_its_share():
    vectors, queries = clusters(4000, 1), clusters(100, 2)
    place = np.random.default_rng(3).permutation(4000)
    rows = pa.table({"place": place})
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def recall(gamma, share, width=16):
        index = AcornIndex.build(vectors, rows, links=16, gamma=gamma)
        index.exact_below = 0
        passing = np.flatnonzero(place < share * 4000)
        truth = passing[np.argsort(-(queries @ unit[passing].T), axis=1)[:, :10]]
        found = index.search(queries, 10, where=f"place < {int(share * 4000)}", ef=width)
        hits = [len(np.intersect1d(a, b)) for a, b in zip(found.rows, truth, strict=True)]
        return np.mean(hits) / 10, set(found.plans)

    (thin, _), (dense, plans) = recall(1, 1 / 8), recall(8, 1 / 8)
    assert plans == {"acorn"}
    assert dense > thin + 0.1
    assert dense >= 0.85
    assert recall(8, 1 / 8)[0] > recall(8, 1 / 40)[0] + 0.1
