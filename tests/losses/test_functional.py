"""The pure functions against hand-computed values and slow loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references.slow_objective import maxsim

from embedworks.errors import InputError, SettingsError, ShapeError
from embedworks.losses import Schedule, functional


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 4), columns=st.integers(1, 4))
def test_maxsim_equals_loops(seed, rows, columns):
    g = torch.Generator().manual_seed(seed)
    query = torch.randn(rows, 3, 2, generator=g, dtype=torch.float64)
    document = torch.randn(columns, 2, 2, generator=g, dtype=torch.float64)
    query_mask = torch.rand(rows, 3, generator=g) < 0.7
    document_mask = torch.rand(columns, 2, generator=g) < 0.7
    fast = functional.maxsim_scores(query, document, query_mask, document_mask)
    for i in range(rows):
        for j in range(columns):
            slow = maxsim(query[i], document[j], query_mask[i], document_mask[j])
            assert float(fast[i, j]) == pytest.approx(slow, abs=1e-12)


def test_scores():
    a, b = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    assert functional.cosine_scores(a, b).tolist() == [[pytest.approx(0.6)], [0.0]]
    assert functional.dot_scores(a, b).tolist() == [[3.0], [0.0]]


def test_contrastive_loss_by_hand():
    logits = torch.tensor([[2.0, 1.0, 0.0, 5.0]], dtype=torch.float64)
    targets = torch.tensor([[0.75, 0.25, 0.0, 0.0]], dtype=torch.float64)
    allowed = torch.tensor([[False, False, True, False]])
    weights = torch.tensor([[9.0, 9.0, math.log(3.0), 9.0]], dtype=torch.float64)
    expected = math.log(math.exp(2) + math.exp(1) + 3) - (0.75 * 2 + 0.25 * 1)
    loss = functional.contrastive_loss(logits, targets, allowed, log_weights=weights)
    assert float(loss) == pytest.approx(expected)
    nothing = torch.zeros_like(allowed)
    alone = functional.contrastive_loss(logits, torch.eye(1, 4).double(), nothing)
    assert float(alone) == 0.0
    with pytest.raises(ShapeError, match=r"\(1, 4\)"):
        functional.contrastive_loss(logits, targets[:, :2], allowed)


def test_progressive_weights_have_mean_one_and_order():
    g = torch.Generator().manual_seed(0)
    scores = torch.rand(5, 7, generator=g, dtype=torch.float64)
    allowed = torch.rand(5, 7, generator=g) < 0.6
    allowed[0] = False
    for strength in (-3.0, 0.0, 5.0):
        weights = functional.progressive_log_weights(scores, strength, allowed).exp()
        for row in range(1, 5):
            mine = weights[row][allowed[row]]
            assert float(mine.mean()) == pytest.approx(1.0)
            order = torch.argsort(scores[row][allowed[row]])
            steps = mine[order].diff()
            assert (steps * strength >= -1e-12).all()
        assert (weights[0] == 1).all()


def test_hardness_weights_match_the_paper_s_figures():
    s = torch.tensor([[0.0, 0.5, 0.9, -0.3]])
    weights = functional.hardness_log_weights(s, 9.0).exp()[0].tolist()
    assert weights == pytest.approx([1.0, math.exp(4.5), 3294.468, 0.0672], rel=1e-3)


def test_guide_threshold_is_right_for_negative_scores():
    """A relative margin lowers the bar also when the positive's score is negative."""
    positive = torch.tensor([-0.4])
    scores = torch.tensor([[-0.43, -0.5]])
    relative = functional.guide_mask(scores, positive, margin=0.1, kind="relative")
    assert relative.tolist() == [[True, False]]
    with pytest.raises(InputError, match="absolute"):
        functional.guide_mask(scores, positive, kind="other")


def test_graded_targets_refuse_rows_without_a_grade():
    with pytest.raises(InputError, match="row 1 has no grade"):
        functional.graded_targets(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(InputError, match="0 or greater"):
        functional.graded_targets(torch.tensor([[-1.0, 2.0]]))


def test_focal_weights():
    p = torch.tensor([0.0, 0.75, 1.0])
    assert functional.focal_weights(p, 0.5).tolist() == pytest.approx([1.0, 0.5, 0.0], abs=1e-6)
    assert torch.isfinite(functional.focal_weights(p, -1.0)).all()


def test_teacher_divergence_is_zero_only_for_equals():
    g = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(4, 5, generator=g), torch.randn(4, 5, generator=g)
    divergence = functional.teacher_divergence(student, teacher)
    assert (divergence > 0).all()
    assert functional.teacher_divergence(teacher, teacher).abs().max() < 1e-6
    lone = torch.zeros(4, 5, dtype=torch.bool)
    lone[:, 0] = True
    assert functional.teacher_divergence(student, teacher, lone).abs().max() < 1e-6


@pytest.mark.parametrize("how", ["minmax", "zscore"])
def test_teacher_scores_that_are_all_equal_become_zero(how):
    scores = torch.full((2, 3), 7.0)
    assert not functional.normalize_teacher_scores(scores, how).any()
    with pytest.raises(InputError, match="must be none"):
        functional.normalize_teacher_scores(scores, "other")


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule.of(3), [3, 3, 3]),
        (Schedule(kind="linear", start=0, end=4, since=0.5), [0, 0, 4]),
        (Schedule(kind="linear", start=0, end=4, to=0.5), [0, 4, 4]),
        (Schedule(kind="cosine", start=1, end=3), [1, 2, 3]),
        (Schedule(kind="step", start=1, end=3, to=0.5), [1, 3, 3]),
        (Schedule(kind="linear", start=5, end=1), [5, 3, 1]),
        (Schedule(kind="linear", start=5, end=1, since=0.5, to=0.5), [5, 1, 1]),
    ],
)
def test_schedules(schedule, expected):
    assert [schedule.at(p) for p in (0.0, 0.5, 1.0)] == pytest.approx(expected)
    assert Schedule.from_dict(schedule.to_dict()) == schedule


def test_schedules_that_make_no_sense_say_why():
    with pytest.raises(SettingsError, match="ends .* before it begins"):
        Schedule.from_dict({"kind": "linear", "end": 1, "since": 0.5, "to": 0.2})
    with pytest.raises(SettingsError, match="needs 'end'"):
        Schedule.from_dict({"kind": "linear"})
