"""Margin scores and matching against slow loops, and planted translations."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedworks.errors import (
    EmptyInputError,
    InputError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
)
from embedworks.evaluation import (
    MARGINS,
    BitextTask,
    EncoderSystem,
    Resampling,
    TaskResult,
    best_matches,
    margin_scores,
)
from embedworks.evaluation.kinds import bitext

FEW = Resampling(n_resamples=100)


def slow_margins(sources, targets, k, margin):
    """Straight from the definitions, in plain loops."""

    def cosine(a, b):
        norms = (sum(x * x for x in a) * sum(x * x for x in b)) ** 0.5
        return sum(x * y for x, y in zip(a, b)) / norms if norms else 0.0

    grid = [[cosine(x, y) for y in targets] for x in sources]
    around_source = [np.mean(sorted(row)[-k:]) for row in grid]
    around_target = [np.mean(sorted(column)[-k:]) for column in zip(*grid)]
    scores = np.empty((len(sources), len(targets)))
    for i, row in enumerate(grid):
        for j, value in enumerate(row):
            r, q = around_source[i], around_target[j]
            scores[i, j] = {
                "cosine": value,
                "ratio": value / ((r + q) / 2) if r + q > 0 else -np.inf,
                "distance": value - (r + q) / 2,
                "csls": 2 * value - r - q,
            }[margin]
    return scores


shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))


@pytest.mark.parametrize("margin", MARGINS.names())
@given(shapes, st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_margins_equal_slow_loops(margin, shape, k):
    n, m, dim, seed = shape
    rng = np.random.default_rng(seed)
    sources = rng.normal(size=(n, dim)).astype(np.float32)
    targets = rng.normal(size=(m, dim)).astype(np.float32)
    expected = slow_margins(sources.tolist(), targets.tolist(), k, margin)
    found = margin_scores(sources, targets, k=k, margin=margin)
    clear = np.abs(expected) < 1e3  # a ratio to almost nothing magnifies rounding
    assert found[clear] == pytest.approx(expected[clear], abs=1e-3, rel=1e-3)


@pytest.mark.parametrize("margin", MARGINS.names())
@pytest.mark.parametrize("block", [1, 37, 4_000_000])
def test_blocks_change_nothing(monkeypatch, margin, block):
    rng = np.random.default_rng(0)
    sources, targets = rng.normal(size=(23, 6)), rng.normal(size=(31, 6))
    scores = margin_scores(sources, targets, margin=margin)
    monkeypatch.setattr(bitext, "_BLOCK", block)
    found = best_matches(sources, targets, margin=margin)
    assert found.forward.tolist() == scores.argmax(axis=1).tolist()
    assert found.backward.tolist() == scores.argmax(axis=0).tolist()
    assert found.forward_scores == pytest.approx(scores.max(axis=1), abs=1e-12)
    assert found.backward_scores == pytest.approx(scores.max(axis=0), abs=1e-12)
    mutual = [found.backward[j] == i for i, j in enumerate(found.forward)]
    assert found.mutual.tolist() == mutual


def test_memory_does_not_grow_with_the_product_of_the_sides(monkeypatch):
    import tracemalloc

    monkeypatch.setattr(bitext, "_BLOCK", 100_000)
    rng = np.random.default_rng(0)
    sources, targets = rng.normal(size=(3000, 8)), rng.normal(size=(3000, 8))
    tracemalloc.start()
    best_matches(sources, targets)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6  # all scores would be 72 MB


def test_first_of_equal_scores_wins():
    found = best_matches(np.ones((2, 2)), np.ones((3, 2)))
    assert found.forward.tolist() == [0, 0]
    assert found.backward.tolist() == [0, 0, 0]
    assert found.mutual.tolist() == [True, False]


def test_nothing_similar_gives_no_match_by_ratio():
    sources, targets = np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[-1.0, 0.0]])
    found = best_matches(sources, targets, k=1)
    assert found.forward.tolist() == [-1, -1]
    assert found.backward.tolist() == [-1]
    assert not found.mutual.any()
    assert best_matches(sources, targets, k=1, margin="csls").forward.tolist() == [0, 0]


def test_bad_vectors():
    with pytest.raises(ShapeError, match="dimensions"):
        margin_scores(np.eye(2), np.eye(3))
    with pytest.raises(UnknownNameError, match="ratio"):
        best_matches(np.eye(2), np.eye(2), margin="ration")
    with pytest.raises(InputError, match="k must be"):
        margin_scores(np.eye(2), np.eye(2), k=0)
    with pytest.raises(EmptyInputError):
        best_matches(np.zeros((0, 2)), np.eye(2))


def planted(n, *, hub, noise=0.9, seed=0):
    """Sources, and targets that are sources with noise; some targets lean to a common hub."""
    rng = np.random.default_rng(seed)
    sources = rng.normal(size=(n, 24)) + 1.0
    targets = sources + noise * rng.normal(size=sources.shape)
    targets[: n // 10] += hub
    return sources, targets


def test_margins_see_through_hubs():
    """On vectors with hubs the margins find more translations, and one target attracts fewer."""
    sources, targets = planted(300, hub=3.0)
    right, most = {}, {}
    for margin in ("cosine", "ratio", "csls"):
        found = best_matches(sources, targets, margin=margin)
        right[margin] = (found.forward == np.arange(300)).mean()
        most[margin] = np.bincount(found.forward).max()
    assert right["ratio"] > right["cosine"] + 0.02
    assert right["csls"] > right["cosine"] + 0.02
    assert most["ratio"] < most["cosine"]


def test_mutual_matches_above_a_score_mine_parallel_lines():
    rng = np.random.default_rng(1)
    sources, targets = planted(400, hub=0.0, noise=0.4)
    targets[200:] = rng.normal(size=(200, 24)) + 1.0  # half are no translations
    found = best_matches(sources, targets)
    chosen = found.mutual & (found.forward_scores > 1.05)
    hits = (chosen & (found.forward == np.arange(400)))[:200].sum()
    precision, recall = hits / chosen.sum(), hits / 200
    assert 2 * precision * recall / (precision + recall) > 0.95


class Table:
    """Texts are names of rows: ``"s7"`` of the sources and ``"t7"`` of the targets."""

    def __init__(self, sources, targets):
        self.rows = {"s": sources, "t": targets}

    def encode(self, texts):
        return np.array([self.rows[text[0]][int(text[1:])] for text in texts])


def system(sources, targets):
    return EncoderSystem(Table(sources, targets), name="table", fingerprint="table")


PAIRS = [(f"s{i}", f"t{i}") for i in range(200)]


def test_task_equals_slow_counting():
    sources, targets = planted(200, hub=3.0)
    result = BitextTask("toy", PAIRS).run(system(sources, targets), FEW)
    for margin, ending in (("ratio", ""), ("cosine", "-cosine")):
        scores = margin_scores(sources, targets, margin=margin)
        forward, backward = scores.argmax(axis=1), scores.argmax(axis=0)
        hits = [int(forward[i] == i) + int(backward[i] == i) for i in range(200)]
        assert result.scores[f"p@1{ending}"].interval.mean == pytest.approx(np.mean(hits) / 2)
        chosen = [i for i in range(200) if backward[forward[i]] == i]
        right = sum(forward[i] == i for i in chosen)
        precision, recall = right / len(chosen), right / 200
        assert result.scores[f"f1{ending}"].interval.mean == pytest.approx(
            2 * precision * recall / (precision + recall)
        )
        assert result.details[f"p@1{ending}_forward"] == pytest.approx(
            np.mean(forward == np.arange(200))
        )
    gain = result.scores["p@1"].minus(result.scores["p@1-cosine"], FEW)
    assert gain.is_clear
    assert gain.mean > 0
    assert len(result.items) == 200
    assert TaskResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_failures_show_what_was_found():
    sources, targets = np.eye(4), np.eye(4)[[0, 1, 3, 2]]
    result = BitextTask("toy", PAIRS[:4]).run(system(sources, targets), FEW)
    assert result.main.values == (1.0, 1.0, 0.0, 0.0)
    assert result.failures[0].text == "s2"
    assert result.failures[0].expected == ("t2",)
    assert result.failures[0].found[0].startswith("t3 (")
    assert len(result.failures) == 2


def test_several_translations_are_all_right():
    sources, targets = np.eye(3), np.eye(3)
    pairs = [("s0", "t0"), ("s0", "t1"), ("s2", "t2")]
    result = BitextTask("toy", pairs).run(system(sources, targets), FEW)
    assert result.details["p@1_forward"] == 1.0


def test_repeated_and_equal_pairs_are_left_out():
    pairs = [*PAIRS[:5], PAIRS[0], ("s9", "s9")]
    task = BitextTask("toy", pairs)
    result = task.run(system(*planted(10, hub=0.0, noise=0.01)), FEW)
    assert result.excluded == {"repeated pairs": 1, "pairs of one and the same text": 1}
    assert result.details["pairs"] == 5


def test_bad_pairs_and_systems():
    with pytest.raises(EmptyInputError, match="no pairs"):
        BitextTask("toy", [])
    with pytest.raises(InputError, match="1 pairs of different texts"):
        BitextTask("toy", [PAIRS[0], PAIRS[0]])
    with pytest.raises(InputError, match="string"):
        BitextTask("toy", [("a", None), ("b", "c")])
    task = BitextTask("toy", PAIRS[:5])
    with pytest.raises(InputError, match="table gives all 5 texts of one side"):
        task.run(system(np.eye(5), np.ones((5, 5))), FEW)
    with pytest.raises(NonFiniteError):
        task.run(system(np.eye(5), np.full((5, 5), np.nan)), FEW)
