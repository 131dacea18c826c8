"""The pruning rule against slow float64 loops, and what insertion guarantees."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.index.filtered._beam import Scratch, on_sphere
from embedworks.index.filtered._linking import insert_labelled, insert_plain, prune_rows

NO_OFFSETS, NO_LABELS = np.empty(0, np.int64), np.empty(0, np.int32)


def slow_prune(points, sets, row, near, alpha, limit):
    """Filtered RobustPrune, word for word."""
    gap = lambda a, b: float(((points[a].astype(float) - points[b]) ** 2).sum())  # noqa: E731
    waiting = sorted(set(near) - {row}, key=lambda c: (gap(c, row), near.index(c)))
    kept = []
    while waiting and len(kept) < limit:
        best = waiting.pop(0)
        kept.append(best)
        waiting = [
            c
            for c in waiting
            if alpha * gap(best, c) > gap(row, c)
            or (sets is not None and not (sets[row] & sets[c]) <= sets[best])
        ]
    return kept


def as_arrays(sets):
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sets])]).astype(np.int64)
    return offsets, np.array([x for s in sets for x in sorted(s)], dtype=np.int32)


@pytest.mark.parametrize("alpha", [1.0, 1.2, 2.0])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("limit", [1, 4, 30])
def test_robust_prune_is_the_papers(alpha, labelled, limit):
    rng = np.random.default_rng(int(10 * alpha) + limit)
    for _ in range(20):
        count = int(rng.integers(1, 40))
        points = rng.normal(size=(count, 4)).astype(np.float32)
        points[count // 2 :: 3] = points[0]  # equal points must not fill the list
        sets = None
        offsets, labels = NO_OFFSETS, NO_LABELS
        if labelled:
            sets = [set(rng.choice(5, rng.integers(1, 4), replace=False).tolist())
                    for _ in range(count)]  # fmt: skip
            offsets, labels = as_arrays(sets)
        row = int(rng.integers(count))
        near = rng.permutation(count).tolist()
        out = np.full(limit, 7, np.int32)
        kept = prune_rows(points, offsets, labels, row, np.array(near, np.int32), alpha, out)
        assert out[:kept].tolist() == slow_prune(points, sets, row, near, alpha, limit)
        assert (out[kept:] == -1).all()


def clustered(rows, dim=16, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, dim))
    made = centres[rng.integers(0, 20, rows)] + 0.6 * rng.normal(size=(rows, dim))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def reached(links, starts):
    seen, waiting = set(starts), list(starts)
    while waiting:
        for other in links[waiting.pop()]:
            if other >= 0 and int(other) not in seen:
                seen.add(int(other))
                waiting.append(int(other))
    return seen


def sound(links):
    for row, others in enumerate(links):
        count = int((others >= 0).sum())
        assert (others[count:] == -1).all()
        assert row not in others[:count]
        assert len(set(others[:count].tolist())) == count


def test_a_graph_reaches_nearly_every_row():
    points = clustered(1500)
    links = np.full((1500, 12), -1, np.int32)
    order = np.random.default_rng(1).permutation(1500).astype(np.int32)
    insert_plain(points, links, order, order[:1], 1.2, 40, *Scratch(1500).take(1500))
    sound(links)
    assert len(reached(links, order[:1].tolist())) >= 1497


def test_links_of_labelled_rows_join_rows_that_share_a_label():
    points = clustered(1000)
    rng = np.random.default_rng(2)
    sets = [set(rng.choice(6, rng.integers(1, 4), replace=False).tolist()) for _ in range(1000)]
    offsets, labels = as_arrays(sets)
    starts = np.array([next(r for r in range(1000) if x in sets[r]) for x in range(6)], np.int32)
    links = np.full((1000, 24), -1, np.int32)
    order = rng.permutation(1000).astype(np.int32)
    insert_labelled(points, offsets, labels, links, order, starts, 1.2, 40,
                    *Scratch(1000).take(1000))  # fmt: skip
    sound(links)
    for row, others in enumerate(links):
        assert all(sets[row] & sets[other] for other in others if other >= 0)
    for label, start in enumerate(starts):  # each label's rows are connected among themselves
        own = {row for row in range(1000) if label in sets[row]}
        inside = np.array([[o if o in own else -1 for o in others] for others in links])
        assert len(reached(inside, [int(start)])) >= 0.99 * len(own)


def test_points_on_a_sphere_keep_the_order_of_dot_products():
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(50, 5)).astype(np.float32)
    points = on_sphere(vectors, "dot")
    query = np.append(rng.normal(size=5), 0.0)
    near = np.argsort(((points - query) ** 2).sum(1))
    np.testing.assert_array_equal(near, np.argsort(-(vectors @ query[:5])))


def test_stamps_start_again_before_they_overflow():
    scratch = Scratch(3)
    assert (scratch.take(5)[1], scratch.take()[1]) == (1, 6)
    scratch._stamp = 2**31 - 4
    scratch.stamps[:] = 5
    assert scratch.take(3)[1] == 1
    assert not scratch.stamps.any()
