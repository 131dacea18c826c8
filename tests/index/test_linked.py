"""Smoothing over links against a slow loop, and planted hubs."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.errors import InputError, ShapeError
from embedworks.index import query_hubs, smooth_over_links


def _slow(vectors, links, share, steps):
    rows = [v / np.linalg.norm(v) for v in np.asarray(vectors, dtype=np.float64)]
    around = {i: set() for i in range(len(rows))}
    for one, two in links:
        if one != two:
            around[int(one)].add(int(two))
            around[int(two)].add(int(one))
    now = list(rows)
    for _ in range(steps):
        new = []
        for i, own in enumerate(rows):
            if not around[i]:
                new.append(own)
                continue
            total = sum(now[j] / np.sqrt(len(around[i]) * len(around[j])) for j in around[i])
            new.append(share * total + (1 - share) * own)
        now = new
    return np.array([v / np.linalg.norm(v) for v in now])


def test_smoothing_equals_a_slow_loop():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 6))
    links = rng.integers(0, 25, size=(40, 2))  # the last five rows have no link
    for share, steps in ((0.3, 2), (0.7, 5), (0.0, 3), (0.5, 0)):
        np.testing.assert_allclose(
            smooth_over_links(vectors, links, share=share, steps=steps),
            _slow(vectors, links, share, steps),
            atol=1e-6,
        )


def test_linked_rows_come_nearer_and_shuffled_links_do_not_help():
    rng = np.random.default_rng(1)
    topic = rng.normal(size=(20, 16))
    owner = np.repeat(np.arange(20), 10)
    vectors = topic[owner] + 3 * rng.normal(size=(200, 16))
    links = np.array([(i, j) for i in range(200) for j in range(i) if owner[i] == owner[j]])

    def same_topic_first(rows):
        scores = rows @ rows.T
        np.fill_diagonal(scores, -np.inf)
        return float((owner[scores.argmax(axis=1)] == owner).mean())

    some = links[rng.random(len(links)) < 0.3]
    plain = same_topic_first(smooth_over_links(vectors, some, share=0))
    smoothed = same_topic_first(smooth_over_links(vectors, some, share=0.5))
    shuffled = np.stack([some[:, 0], rng.permutation(some[:, 1])], axis=1)
    control = same_topic_first(smooth_over_links(vectors, shuffled, share=0.5))
    assert smoothed > plain + 0.2
    assert control < plain + 0.05


def test_links_to_nowhere_are_named():
    with pytest.raises(
        InputError, match=r"1 links name rows outside 0 to 1; the first is \(0, 7\)"
    ):
        smooth_over_links(np.eye(2), np.array([[0, 1], [0, 7]]))
    with pytest.raises(ShapeError, match="whole numbers"):
        smooth_over_links(np.eye(2), np.array([0, 1, 0]))
    with pytest.raises(InputError, match="below 1"):
        smooth_over_links(np.eye(2), np.array([[0, 1]]), share=1.0)
    np.testing.assert_array_equal(smooth_over_links(np.eye(2), np.zeros((0, 2))), np.eye(2))


def test_a_planted_hub_is_found_and_ordinary_documents_are_not():
    rng = np.random.default_rng(2)
    centre = rng.normal(size=256)
    documents = centre + 2 * rng.normal(size=(500, 256))
    queries = centre + 2 * rng.normal(size=(200, 256))
    assert query_hubs(documents, queries, k=5) == []
    planted = np.concatenate([documents, centre[None]])
    found = query_hubs(planted, queries, k=5)
    assert found[0][0] == 500
    assert found[0][1] > 100


def test_hubs_need_enough_documents_of_one_space():
    with pytest.raises(InputError, match="no first 10"):
        query_hubs(np.eye(3), np.eye(3))
    with pytest.raises(ShapeError, match="another model"):
        query_hubs(np.eye(3), np.eye(4), k=1)
