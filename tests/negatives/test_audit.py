from __future__ import annotations

import json

import numpy as np
import pytest

from embedworks.data import Row, RowSet
from embedworks.errors import InputError, ShapeError
from embedworks.negatives import Corpus, Miner, NegativeRule, rank_consistency_filter


class Angles:
    """A text is its angle in degrees."""

    def encode(self, texts):
        radians = np.deg2rad([float(text.split()[0]) for text in texts])
        return np.stack([np.cos(radians), np.sin(radians)], axis=1)


@pytest.fixture
def mined():
    rows = RowSet([Row("0", "20", source="a"), Row("1", "21", source="b", negatives=("60",))])
    corpus = Corpus([str(i) for i in (20, 21, 24, 40, 80)], ids=list("ABCDE"))
    rules = [NegativeRule("relative", 0.05, sources={"b": 0.0}), NegativeRule("max-score", 0.8)]
    return Miner([Angles()], rules=rules, count=2).mine(rows, corpus, truth=[["C"], ["D"]])


def test_counts_are_those_of_a_hand_count(mined):
    report = mined.report
    assert [row.negatives for row in mined.rows] == [("40", "80"), ("40", "80")]
    assert (report.rows, report.rows_kept, report.negatives, report.replaced) == (2, 2, 4, 1)
    # Candidates: B C D E for the first row, A C D E for the second.
    assert (report.candidates, report.turned_down) == (8, 4)
    relative, cap = report.rules
    assert (relative.rule, relative.judged, relative.kept) == ("relative 0.05", 8, 5)
    assert relative.by_source == {"a": (4, 2), "b": (4, 3)}
    assert (cap.rule, cap.keep_rate) == ("max-score 0.8", 0.5)
    histogram = report.histograms["dense"]
    assert (sum(histogram.positives), sum(histogram.kept), sum(histogram.dropped)) == (2, 4, 4)
    first = report.suspects[0]
    assert (first.negative, first.negative_id, first.source, first.row) == ("40", "D", "b", 1)
    assert first.score == pytest.approx(np.cos(np.deg2rad(39)), abs=1e-6)
    assert report.truth == {
        "relevant_candidates": 2.0,
        "precision": 1 / 4,
        "recall": 1 / 2,
        "false_share": 1 / 4,
        "naive_share": 1 / 4,
    }


def test_the_report_is_json_and_text(mined, tmp_path):
    mined.report.save(tmp_path / "report.json")
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored == json.loads(json.dumps(mined.report.to_dict()))
    assert stored["rules"][0]["keep_rate"] == 5 / 8
    assert stored["positive_ranks"]["dense"]["median"] == 1.5
    text = mined.report.to_text(suspects=1)
    assert "2 of 2 rows kept with 4 negatives" in text
    assert "62.5%" in text
    assert text.count("negative  ") == 1
    assert "[" not in text.split("negative  ")[1]
    assert max(map(len, text.splitlines())) <= 100


def test_consistency_keeps_rank_k_and_drops_the_next():
    rows = RowSet(Row(str(i), "x", source="ab"[i % 2]) for i in range(6))
    ranks = np.array([1, 50, 51, 2, 52, 50])
    kept, report = rank_consistency_filter(rows, ranks, k=50)
    assert [row.anchor for row in kept] == ["0", "1", "3", "5"]
    assert report.drop_rates == {"a": 2 / 3, "b": 0.0}
    assert report.to_dict()["dropped"] == {"a": 2, "b": 0}
    # What indexes the sorted scores with k, counted from 0, keeps one rank more.
    assert len(rank_consistency_filter(rows, ranks, k=51)[0]) == 5


def test_bad_ranks_are_explained():
    rows = RowSet([Row("a", "b")])
    with pytest.raises(ShapeError, match="one per row"):
        rank_consistency_filter(rows, np.array([1, 2]))
    with pytest.raises(ShapeError, match="integers"):
        rank_consistency_filter(rows, np.array([1.0]))
    with pytest.raises(InputError, match="counted from 1"):
        rank_consistency_filter(rows, np.array([0]))
    with pytest.raises(InputError, match="no row's positive"):
        rank_consistency_filter(rows, np.array([9]), k=2)
