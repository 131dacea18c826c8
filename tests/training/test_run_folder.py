from __future__ import annotations

import json

import pytest

from embedworks.errors import FormatError, InputError, NotFoundError, SettingsError
from embedworks.training import RunFolder

SETTINGS = {"seed": 0, "base": "static"}


def start(path, **options):
    return RunFolder.create(path, settings=SETTINGS, source="docs", **options)


def finish(run, text):
    (run.part("model")).mkdir()
    (run.part("model") / "weights").write_text(text)
    run.part("report.html").write_text(text)
    run.finish_stage("read", 1.0, {"n": 1})
    run.finish()


def test_a_run_is_readable_only_when_complete(tmp_path):
    run = start(tmp_path / "run")
    run.finish_stage("read", 2.5, {"documents": 3})
    with pytest.raises(FormatError, match="--resume"):
        RunFolder.open(tmp_path / "run")
    again = RunFolder.resume(tmp_path / "run", settings=SETTINGS, source="docs")
    assert again.is_done("read")
    assert again.info("read") == {"documents": 3}
    assert again.stage_seconds == 2.5
    finish(again, "x")
    opened = RunFolder.open(tmp_path / "run")
    assert (opened.part("model") / "weights").read_text() == "x"
    assert not opened.work.exists()
    lines = (tmp_path / "run/run.jsonl").read_text().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events == ["created", "stage", "resumed", "stage", "complete"]


def test_an_overwritten_run_stays_readable_until_the_new_one_is_complete(tmp_path):
    finish(start(tmp_path / "run"), "old")
    new = start(tmp_path / "run", overwrite=True)
    assert (RunFolder.open(tmp_path / "run").part("model") / "weights").read_text() == "old"
    finish(new, "new")
    assert (RunFolder.open(tmp_path / "run").part("model") / "weights").read_text() == "new"


def test_a_kill_while_parts_are_moved_is_mended_by_resume(tmp_path):
    run = start(tmp_path / "run")
    run.part("model").mkdir()
    (run.part("model") / "weights").write_text("x")
    run.part("report.html").write_text("x")
    run.finish_stage("read", 1.0, {})
    (run.part("model")).rename(tmp_path / "run" / "model")
    again = RunFolder.resume(tmp_path / "run", settings=SETTINGS, source="docs")
    again.finish()
    opened = RunFolder.open(tmp_path / "run")
    assert (opened.part("model") / "weights").read_text() == "x"
    assert opened.part("report.html").read_text() == "x"


def test_what_is_there_is_not_touched_by_accident(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        start(tmp_path / "file")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="not empty and is not a run"):
            start(tmp_path / "other", overwrite=overwrite)
    finish(start(tmp_path / "run"), "x")
    with pytest.raises(InputError, match="a finished run.*--overwrite"):
        start(tmp_path / "run")
    start(tmp_path / "half")
    with pytest.raises(InputError, match="an unfinished run.*--resume"):
        start(tmp_path / "half")


def test_resuming_needs_the_same_settings_and_source(tmp_path):
    start(tmp_path / "run")
    with pytest.raises(SettingsError, match="other values of base"):
        RunFolder.resume(tmp_path / "run", settings={**SETTINGS, "base": "b"}, source="docs")
    with pytest.raises(SettingsError, match="other values of source"):
        RunFolder.resume(tmp_path / "run", settings=SETTINGS, source="elsewhere")
    with pytest.raises(NotFoundError, match="holds no run"):
        RunFolder.resume(tmp_path / "nothing", settings=SETTINGS, source="docs")


def test_other_versions_and_damaged_states_are_refused(tmp_path):
    finish(start(tmp_path / "run"), "x")
    state = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps({**state, "format": 99}))
    with pytest.raises(FormatError, match="format 99; this version reads format 1"):
        RunFolder.open(tmp_path / "run")
    (tmp_path / "run/run.json").write_text('{"format": 1')
    with pytest.raises(FormatError, match="not valid JSON"):
        RunFolder.open(tmp_path / "run")


def test_a_discarded_run_leaves_nothing_but_an_older_one(tmp_path):
    start(tmp_path / "new").discard()
    assert not (tmp_path / "new").exists()
    finish(start(tmp_path / "run"), "old")
    start(tmp_path / "run", overwrite=True).discard()
    assert (RunFolder.open(tmp_path / "run").part("model") / "weights").read_text() == "old"
