from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedworks.errors import BudgetError, SettingsError
from embedworks.training.budget import (
    Plan,
    PlanStep,
    format_duration,
    parse_duration,
    plan_training_steps,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h", 3600),
        ("1h30m", 5400),
        (" 2 M ", 120),
        (45, 45),
        ("1.5m", 90),
    ],
)
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5m", "0", "10x", "m10", "5mm"])
def test_other_texts_are_refused(text):
    with pytest.raises(SettingsError, match="uration"):
        parse_duration(text)


@given(st.floats(0.06, 1e6))
def test_formatted_durations_are_close(seconds):
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.05, abs=0.06)


def test_steps_are_limited_by_work_and_by_time():
    assert plan_training_steps(available=60, seconds_per_step=1, wanted=20) == 20
    assert plan_training_steps(available=60, seconds_per_step=4, wanted=20) == 15
    with pytest.raises(BudgetError, match="Raise --budget by 1m51s"):
        plan_training_steps(available=-10, seconds_per_step=10, wanted=20, least=10)


def test_the_total_of_a_plan_is_its_parts():
    plan = Plan(100.0, 5.0, [PlanStep("train", "3 steps", 10.0), PlanStep("index", "", 2.0)])
    assert plan.total_seconds == 17.0
    assert plan.to_dict()["steps"][0] == {"name": "train", "work": "3 steps", "seconds": 10.0}
