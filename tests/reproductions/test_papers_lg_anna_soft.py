"""The soft-label entry: its teacher sees other rows, its scores, and a very small run."""

from __future__ import annotations

import numpy as np
import pytest
from reproductions.tiny_entries import run_tiny

from embedworks.data import Row
from embedworks.reproductions import StaticStudent, stdlib_retrieval
from embedworks.reproductions.papers.lg_anna_soft import ENTRIES, other_rows, with_teacher_scores

pytest.importorskip("torch")


def test_the_teacher_never_sees_what_the_student_trains_on():
    world = stdlib_retrieval(150, siblings=0.9, copies=4, queries=20, seed=3)
    others = other_rows(world, seed=3)
    assert len(others) > 1000
    known = {text for row in world.train for text in (row.anchor, row.positive)}
    assert known.isdisjoint(text for row in others for text in (row.anchor, row.positive))
    families = {str(row.positive_id).split("#")[0] for row in world.train}
    assert families.isdisjoint(str(row.positive_id).split("#")[0] for row in others)


def test_scores_are_cosines_of_positive_and_negatives_in_order():
    rows = [Row("red pear", "a red pear", ("green apple", "blue sky")), Row("sky", "blue sky")]
    teacher = StaticStudent([text for row in rows for text in (row.anchor, row.positive)])
    scored = with_teacher_scores(rows, teacher)
    for row in scored:
        candidates = teacher.vectors([row.positive, *row.negatives])
        wanted = candidates @ teacher.vectors([row.anchor])[0]
        assert np.allclose(row.teacher_scores, wanted, atol=1e-5)


@pytest.mark.slow
def test_the_entry_runs(tmp_path):
    tiny = {"rows": 60, "negatives": 2, "batch": 12, "steps": 3, "teacher_steps": 3}
    assert run_tiny(ENTRIES[0], tiny, tmp_path).seeds == (0, 1)
