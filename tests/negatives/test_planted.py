"""Constructed worlds with known false negatives and known wrong pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embedworks.data import Row, RowSet
from embedworks.negatives import (
    Corpus,
    Miner,
    NegativeRule,
    positive_ranks,
    rank_consistency_filter,
)


class Named:
    """An encoder that knows the vector of every text, and counts what it is asked."""

    def __init__(self, vectors: dict[str, np.ndarray]) -> None:
        self.vectors = vectors
        self.asked: list[str] = []

    def encode(self, texts):
        self.asked.extend(texts)
        return np.array([self.vectors[text] for text in texts], dtype=np.float32)


def planted(seed, copies=2, concepts=150, dim=24, noise=0.25):
    """Every query has a marked positive and ``copies`` equally relevant, unmarked documents."""
    rng = np.random.default_rng(seed)
    vectors, rows, names, truth = {}, [], [], []
    centres = rng.normal(size=(concepts, dim))
    centres += np.repeat(rng.normal(size=(concepts // 10, dim)), 10, axis=0)  # confusable families
    for i, centre in enumerate(centres):
        vectors[f"q{i}"] = centre + noise * rng.normal(size=dim)
        for c in range(copies + 1):
            vectors[f"d{i}.{c}"] = centre + noise * rng.normal(size=dim)
            names.append(f"d{i}.{c}")
        rows.append(Row(f"q{i}", f"d{i}.0"))
        truth.append([f"d{i}.{c}" for c in range(1, copies + 1)])
    return RowSet(rows), Corpus(names, ids=names), vectors, truth


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "rule", [NegativeRule("relative", 0.05), NegativeRule("adaptive", 0.6)], ids=lambda r: r.kind
)
def test_margins_cut_planted_false_negatives_several_fold(rule, seed):
    """At this noise some copies do score below the margin, so no figure is trivially 0 or 1."""
    rows, corpus, vectors, truth = planted(seed, noise=0.5)
    mined = Miner([Named(vectors)], rules=[rule], count=5).mine(rows, corpus, truth=truth)
    figures = mined.report.truth
    assert figures["naive_share"] > 0.35
    assert 0 < figures["false_share"] < figures["naive_share"] / 4
    assert 0.8 < figures["recall"] < 1
    assert mined.report.rows_dropped == 0
    false = sum(n in t for row, t in zip(mined.rows, truth, strict=True) for n in row.negatives)
    assert figures["false_share"] == pytest.approx(false / mined.report.negatives)
    plain = Miner([Named(vectors)], rules=[], count=5).mine(rows, corpus, truth=truth)
    assert plain.report.truth["false_share"] == figures["naive_share"]
    assert plain.report.truth["recall"] == 0


def test_the_recall_of_a_margin_equals_a_count_made_without_the_miner():
    rows, corpus, vectors, truth = planted(0, noise=0.75)
    mined = Miner([Named(vectors)], window=(1, 450)).mine(rows, corpus, truth=truth)
    unit = {name: v / np.linalg.norm(v) for name, v in vectors.items()}
    down = [
        unit[row.anchor] @ unit[copy] >= 0.95 * (unit[row.anchor] @ unit[row.positive])
        for row, copies in zip(rows, truth, strict=True)
        for copy in copies
    ]
    assert mined.report.truth["relevant_candidates"] == len(down)
    assert mined.report.truth["recall"] == pytest.approx(np.mean(down))
    assert 0.5 < np.mean(down) < 0.9


def test_without_planted_copies_a_margin_costs_little():
    rows, corpus, vectors, _ = planted(0, copies=0, noise=0.5)
    mined = Miner([Named(vectors)], count=5).mine(rows, corpus)
    assert mined.report.turned_down / mined.report.candidates < 0.02


def test_ranks_feed_the_consistency_filter():
    rng = np.random.default_rng(0)
    rows, corpus, vectors, _ = planted(1, copies=0)
    wrong = rng.permutation(150)[:30]
    mixed = list(rows)
    for place, other in zip(wrong, np.roll(wrong, 1), strict=True):
        mixed[place] = replace(mixed[place], positive=rows[int(other)].positive, source="noisy")
    ranks = positive_ranks(RowSet(mixed), Named(vectors), corpus)
    kept, report = rank_consistency_filter(RowSet(mixed), ranks, k=3)
    assert report.drop_rates["default"] < 0.05
    assert report.drop_rates["noisy"] > 0.9
    assert len(kept) == len(report.kept)
    miner = Miner([Named(vectors)], rules=[])
    np.testing.assert_array_equal(miner.mine(RowSet(mixed), corpus).positive_ranks["dense"], ranks)
