"""The suites bias, privacy and robustness: they run without the data folder, and with it."""

from __future__ import annotations

import pytest

from embedworks import load
from embedworks.evaluation import SUITES, DataFolder, EncoderSystem, Resampling
from embedworks.evaluation._suites.bias import crows_pairs, gender_work, weat

FEW = Resampling(n_resamples=100)
GENERATED = {
    "bias": {"weat-harmless", "seat-harmless", "weat-gender-work", "seat-gender-work",
             "exposure-gender-jobs"},
    "privacy": {"invert-docstrings", "attribute-age"},
    "robustness": {"robust-typos", "robust-negation", "robust-numbers", "robust-word-order",
                   "robust-length", "probe-length", "probe-word-content", "probe-word-order",
                   "probe-tense", "geometry-generated"},
}  # fmt: skip


@pytest.fixture(scope="module")
def static():
    return EncoderSystem(load("static"), name="static")


@pytest.mark.parametrize("name", ["bias", "robustness"])
def test_a_suite_runs_without_data(name, static, tmp_path):
    tasks, skipped = SUITES[name].tasks(DataFolder(tmp_path))
    assert {task.name for task in tasks} == GENERATED[name]
    assert set(skipped) | GENERATED[name] == {source.name for source in SUITES[name].sources}
    for task in tasks:
        found = task.run(static, FEW)
        assert found.task == task.name
        assert found.kind == task.kind
        assert len(found.failures) <= 10


def test_what_must_be_found_is_found(static, tmp_path):
    checks = SUITES["bias"].tasks(DataFolder(tmp_path), only=["weat-harmless", "seat-harmless"])[0]
    for task in checks:
        found = task.run(static, FEW)
        assert found.main.interval.low > 1
        assert found.details["p_value"] < 0.001


def test_privacy_runs_without_data(static, tmp_path):
    only = ["attribute-age"]
    (age,), skipped = SUITES["privacy"].tasks(DataFolder(tmp_path), only=only)
    assert not skipped
    assert age.run(static, FEW).main.interval.low > 0
    assert {source.name for source in SUITES["privacy"].sources} == GENERATED["privacy"]


def test_the_docstrings_can_be_inverted(static):
    from embedworks.evaluation._suites.privacy import invert_docstrings

    found = invert_docstrings(200).run(static, FEW)
    assert found.main.interval.mean > found.scores["prior_f1"].interval.mean


def test_more_men_at_work_is_positive():
    task = gender_work()
    assert "man" in task.sets["x"]
    assert "career" in task.sets["a"]


def test_published_tests_are_read(data_root, static):
    data = DataFolder(data_root)
    tasks, skipped = SUITES["bias"].tasks(data)
    assert not skipped
    assert [task.name for task in tasks] == [source.name for source in SUITES["bias"].sources]
    flowers = weat(data, "weat1").run(static, FEW)
    assert flowers.main.interval.low > 0.5
    assert flowers.details["sizes"] == {"x": 25, "y": 25, "a": 25, "b": 25}
    assert len(set(crows_pairs(data).groups)) == 9
