"""Strangers among words: against a slow loop, ties to their harm, unknown words counted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from embedworks.errors import DuplicateIdError, EmptyInputError, InputError
from embedworks.evaluation import EncoderSystem, OutlierTask, Resampling, outlier_groups
from embedworks.models import word_model

RNG = np.random.default_rng(0)
WORDS = [f"w{i}" for i in range(60)]
TABLE = RNG.standard_normal((60, 5)) + np.repeat(RNG.standard_normal((6, 5)), 10, axis=0)


def run(groups, table=TABLE, words=WORDS):
    system = EncoderSystem(word_model(words, table, name="toy"), name="toy")
    return OutlierTask("toy", groups).run(system, Resampling())


def test_figures_are_those_of_a_slow_loop():
    groups = [
        ([f"w{10 * (k % 6) + j}" for j in RNG.permutation(10)[:4]], f"w{(10 * (k % 6) + 13) % 60}")
        for k in range(40)
    ]
    unit = {w: v / np.linalg.norm(v) for w, v in zip(WORDS, TABLE, strict=True)}
    hits, positions = [], []
    for words, stranger in groups:
        everyone = [*words, stranger]
        compact = {
            w: np.mean(
                [
                    unit[a] @ unit[b]
                    for a, b in itertools.combinations(everyone, 2)
                    if w not in (a, b)
                ]
            )
            for w in everyone
        }
        order = sorted(everyone, key=compact.__getitem__)
        positions.append((order.index(stranger) + 1) / len(everyone))
        hits.append(order[-1] == stranger)
    found = run(groups)
    assert 0 < sum(hits) < len(hits)
    assert found.scores["accuracy"].interval.mean == pytest.approx(np.mean(hits))
    assert found.scores["position"].interval.mean == pytest.approx(np.mean(positions))
    assert found.details["chance"] == pytest.approx(0.2)


def test_equal_words_harm_and_unknown_words_are_counted():
    same = run([(["w1", "w2"], "w3")], table=np.ones((60, 5)))
    assert same.scores["accuracy"].interval.mean == 0
    assert same.failures[0].expected == ("w3",)
    planted = np.zeros((60, 5))
    planted[:, 0] = 1
    planted[3] = [0, 1, 0, 0, 0]
    groups = [(["w1", "no", "w2", "w4"], "w3"), (["w1", "w2"], "nothing"), (["w1", "no"], "w3")]
    found = run(groups, table=planted)
    assert found.scores["accuracy"].interval.mean == 1
    assert found.scores["accuracy-all"].interval.mean == pytest.approx(1 / 3)
    assert found.excluded == {"groups with too few known words": 2}
    assert found.details["chance"] == pytest.approx(1 / 4)
    with pytest.raises(InputError, match="none of the 1 groups"):
        run([(["w1", "w2"], "nothing")])


def test_bad_groups_are_refused():
    with pytest.raises(EmptyInputError, match="no groups"):
        OutlierTask("toy", [])
    with pytest.raises(InputError, match="two words"):
        OutlierTask("toy", [(["a"], "b")])
    with pytest.raises(DuplicateIdError):
        OutlierTask("toy", [(["a", "b"], "a")])


def test_drawn_groups_have_one_stranger_and_repeat():
    members = {"a": ["x", "y", "z", "u"], "b": ["z", "p", "q"], "small": ["r"]}
    drawn = outlier_groups(members, size=3, groups=50, seed=4)
    assert drawn == outlier_groups(members, size=3, groups=50, seed=4)
    assert {stranger for _, stranger in drawn} == {"p", "q", "r", "x", "y", "u"}
    for inside, stranger in drawn:
        home = [set(words) for words in members.values() if {*inside} <= {*words}]
        assert len(set(inside)) == 3
        assert len(home) == 1
        assert stranger not in home[0]
    with pytest.raises(InputError, match="None of the 3 categories has 9 words"):
        outlier_groups(members, size=9)
    with pytest.raises(InputError, match="words outside"):
        outlier_groups({"a": ["x", "y"]}, size=2)
