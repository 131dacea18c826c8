"""Scores against slow, obvious computations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import InputError, ShapeError
from embedworks.evaluation import RetrievalTask
from embedworks.reproductions import (
    classification_outcome,
    graded_outcome,
    knn_hits,
    module_classes,
    retrieval_outcome,
    v_measure,
)


class Letters:
    """A student of letters: a text's vector counts them."""

    def vectors(self, texts):
        found = np.array(
            [[text.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz "] for text in texts],
            dtype=np.float32,
        )
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_retrieval_finds_what_is_nearest():
    corpus = {"1": "aaab", "2": "bbbc", "3": "cccd"}
    task = RetrievalTask("toy", {"x": "aab", "y": "ccd"}, corpus, {"x": {"1": 1}, "y": {"2": 1}})
    found = retrieval_outcome(Letters(), task, metrics=("mrr@2", "recall@1"))
    assert found.items["mrr@2"] == {"x": 1.0, "y": 0.5}
    assert found.metrics["recall@1"] == 0.5
    with pytest.raises(InputError, match="cut-off"):
        retrieval_outcome(Letters(), task, metrics=("map",))
    with pytest.raises(InputError, match="no texts"):
        retrieval_outcome(Letters(), RetrievalTask("t", {"x": "a"}, ["1"], {"x": {"1": 1}}))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(1, 8), st.integers(1, 5), st.integers(0, 10_000))
def test_votes_equal_a_slow_loop(known_count, count, k, seed):
    rng = np.random.default_rng(seed)
    known = rng.normal(size=(known_count, 6)).astype(np.float32)
    vectors = rng.normal(size=(count, 6)).astype(np.float32)
    known_labels = [str(x) for x in rng.integers(0, 3, known_count)]
    labels = [str(x) for x in rng.integers(0, 3, count)]
    found = knn_hits(known, known_labels, vectors, labels, k=k)
    for place in range(count):
        cosines = [
            float(vectors[place] @ one / np.linalg.norm(vectors[place]) / np.linalg.norm(one))
            for one in known
        ]
        order = sorted(range(known_count), key=lambda i: -cosines[i])[:k]
        votes: dict[str, int] = {}
        for rank, i in enumerate(order):
            votes[known_labels[i]] = votes.get(known_labels[i], 0) + 1_000_000 - rank
        best = max(sorted(votes), key=lambda label: votes[label])
        assert found[place] == (best == labels[place])


def test_classes_and_clusters():
    pytest.importorskip("sklearn")
    world = module_classes(3, per_class=20, seed=0)
    found = classification_outcome(Letters(), world)
    assert 0 < found.metrics["knn accuracy"] <= 1
    assert len(found.items["knn accuracy"]) == len(world.test)
    assert 0 <= found.metrics["v-measure"] <= 1
    corners = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    assert v_measure(corners, [*"aaaaabbbbbccccc"]) == pytest.approx(1.0)
    with pytest.raises(InputError, match="two classes"):
        v_measure(corners, ["a"] * 15)
    with pytest.raises(ShapeError):
        knn_hits(corners, ["a"], corners, ["a"] * 15)


def test_grades_are_correlated():
    pairs = [("aaa", "aaa", 5.0), ("aab", "abb", 3.0), ("aaa", "bbb", 0.0)]
    assert graded_outcome(Letters(), pairs).metrics == {"spearman": 1.0}
