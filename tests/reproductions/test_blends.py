"""The blend of real tasks: parts that do not overlap, negatives that are negatives, scores."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.data import BatchSettings, Row
from embedworks.errors import UnknownNameError
from embedworks.reproductions import (
    Blend,
    ClassWorld,
    StaticStudent,
    class_rows,
    pair_retrieval,
    planned_batches,
    two_classes,
)

COLOURS = ClassWorld(
    "colours",
    tuple((f"{word} {n}", word) for word in ("red", "blue", "green") for n in range(6)),
    tuple((f"{word} {n}", word) for word in ("red", "blue", "green") for n in range(6, 8)),
    tuple((f"{word} {n}", word) for word in ("red", "blue", "green") for n in range(8, 10)),
    {"red": "red", "blue": "blue", "green": "green"},
)


def test_class_rows_have_a_positive_of_the_class_and_negatives_of_others():
    label = dict(COLOURS.train)
    rows = class_rows(COLOURS, 10, negatives=2, seed=1)
    assert len(rows) == 10
    for row in rows:
        assert label[row.positive] == label[row.anchor] == row.label
        assert row.positive != row.anchor
        assert all(label[text] != row.label for text in row.negatives)


def test_classes_of_negatives_are_told_and_other_rows_are_unknown():
    blend = Blend((), (COLOURS,), ())
    rows = [*class_rows(COLOURS, 6, negatives=2, seed=0), Row("q", "d", source="pairs")]
    fields = blend.negative_classes(rows)
    label = dict(COLOURS.train)
    number = {row.label: int(fields["classes"][n]) for n, row in enumerate(rows[:6])}
    for n, row in enumerate(rows[:6]):
        for column, text in enumerate(row.negatives):
            if label[text] in number:
                assert int(fields["negative_classes"][n, column]) == number[label[text]]
    assert fields["classes"][6] == -1
    assert fields["negative_classes"][6].tolist() == [-1, -1]
    assert "negative_classes" not in blend.negative_classes([Row("q", "d")])


def test_planned_batches_of_one_source_are_pure_and_repeat():
    rows = [Row(f"{s}{n}", f"{s}d{n}", source=s) for s in "ab" for n in range(6)]
    settings = BatchSettings(strategy="one_source", batch_size=3)
    batches = planned_batches(rows, settings, seed=0)
    taken = [next(batches) for _ in range(6)]
    assert all(len({row.source for row in batch}) == 1 for batch in taken)
    again = planned_batches(rows, settings, seed=0)
    assert [next(again) for _ in range(6)] == taken


def test_a_blend_averages_over_groups_not_over_tasks():
    blend = Blend((), (COLOURS,), (COLOURS,))
    student = StaticStudent(blend.texts(), dim=16)
    found = blend.outcome(student, "test")
    assert found.metrics["colours"] == found.metrics["few classes"]
    assert found.metrics["average"] == pytest.approx(
        np.mean([found.metrics["few classes"], found.metrics["many classes"]])
    )
    assert len(found.items["few classes"]) == 6


def test_pairs_are_split_without_overlap_and_the_test_does_not_depend_on_the_seed(data_root):
    one = pair_retrieval("concode", 60, documents=40, queries=20, seed=0)
    two = pair_retrieval("concode", 60, documents=40, queries=20, seed=1)
    assert one.test == two.test
    assert list(one.train) != list(two.train)
    trained = {row.positive for row in one.train}
    assert not trained & set(one.test.corpus.values())
    assert not trained & set(one.validation.corpus.values())
    assert len(one.test.queries) == 20
    with pytest.raises(UnknownNameError, match="concode"):
        pair_retrieval("concod", seed=0)


def test_mined_and_random_negatives_are_not_the_positive(data_root):
    import embedworks

    world = pair_retrieval("concode", 60, documents=40, queries=20, seed=0)
    blend = Blend((world,), (), (COLOURS,))
    mined = blend.rows(50, negatives=2, mined_with=embedworks.load("static"), seed=0)
    drawn = blend.rows(50, negatives=2, seed=0)
    assert set(mined) == set(drawn) == {"concode", "colours"}
    for rows in (mined["concode"], drawn["concode"]):
        assert len(rows) == 50
        assert all(len(row.negatives) == 2 for row in rows)
        assert all(row.positive not in row.negatives for row in rows)
    assert mined["concode"] != drawn["concode"]


def test_two_classes_are_balanced(data_root):
    world = two_classes("subjectivity", 20, seed=0)
    labels = [label for _, label in world.train]
    assert sorted(labels) == ["objective"] * 10 + ["subjective"] * 10
    assert len(world.test) == 1000
