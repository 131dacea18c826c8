"""The command, through the program's own error handling."""

from __future__ import annotations

import json

import pytest
import typer

from embedworks.cli import _reproduce
from embedworks.cli._output import fail
from embedworks.errors import EmbedworksError, NotFoundError
from embedworks.reproductions import REPRODUCTIONS


@pytest.fixture
def call(capsys, monkeypatch, make):
    """Run the command with one entry more; return (exit code, standard output, error)."""
    before = dict(REPRODUCTIONS._items), dict(REPRODUCTIONS._summaries)
    REPRODUCTIONS.add("toy", make(), summary="A toy.")

    def missing(arm, seed, settings, context):
        raise NotFoundError("acl.parquet is needed. Set EMBEDWORKS_DATA to its folder.")

    REPRODUCTIONS.add("toy-data", make(slug="toy-data", run=missing), summary="Needs data.")
    app = typer.Typer()
    app.callback()(lambda: None)
    _reproduce.register(app)

    def _call(*arguments):
        code = 0
        try:
            app(["reproduce", *map(str, arguments)], standalone_mode=True)
        except SystemExit as ended:
            code = ended.code or 0
        except EmbedworksError as error:
            code = fail(error, as_json="--json" in arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    yield _call
    REPRODUCTIONS._items, REPRODUCTIONS._summaries = before


def test_listing(call):
    code, out, _ = call("--list")
    assert code == 0
    assert "toy" in out
    listed = json.loads(call("--list", "--json")[1])
    entry = next(one for one in listed if one["slug"] == "toy")
    assert entry["scales"] == ["mini"]
    assert entry["arms"] == ["treatment", "control", "placebo"]


def test_running_prints_the_verdict_and_writes_the_page(call, tmp_path):
    code, out, _ = call("toy", "--out", tmp_path, "--seeds", "2")
    assert code == 0
    for text in ("treatment", "placebo is nothing", "holds: the decisive comparison", "toy.md"):
        assert text in out, text
    assert (tmp_path / "toy.md").is_file()
    code, out, _ = call("toy", "--out", tmp_path, "--seeds", "2", "--fresh", "--json")
    assert code == 0
    record = json.loads(out)
    assert record["verdict"] == "holds"
    assert record["seeds"] == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        (("toyy",), "UnknownNameError", "Did you mean 'toy'"),
        (("toy", "--scale", "gpu"), "UnknownNameError", "no scale 'gpu'"),
        (("toy", "--seeds", "0"), "InputError", "seeds"),
        (("toy-data",), "NotFoundError", "EMBEDWORKS_DATA"),
        ((), "InputError", "--list"),
    ],
)
def test_mistakes_end_with_2_and_one_message(call, tmp_path, arguments, kind, text):
    code, out, err = call(*arguments, "--out", tmp_path)
    assert (code, out) == (2, "")
    assert kind in err
    assert text in " ".join(err.split())
    code, out, _ = call(*arguments, "--out", tmp_path, "--json")
    assert json.loads(out)["error"]["kind"] == kind
