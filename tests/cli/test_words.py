"""The command `words`, through the real program entry."""

from __future__ import annotations

import json

import pytest

import embedworks as ew


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(8):
        lines = ["the cat sat on the mat", "the dog sat on the rug", "a bird sang on the roof"]
        (folder / f"{number}.txt").write_text("\n".join(lines) + f"\nnote {number}\n")
    return folder


@pytest.mark.parametrize("method", ["skipgram", "fasttext"])
def test_a_folder_becomes_a_model(call, texts, tmp_path, method):
    out = tmp_path / "model"
    code, text, _ = call("words", texts, "--out", out, "--method", method, "--dim", "8")
    assert code == 0
    assert "nearest" in text
    assert ew.load(out).encode(["the cat on the roof"]).any()
    about = json.loads(call("info", out, "--json")[1])
    kind = {"skipgram": "static model", "fasttext": "SubwordModel"}[method]
    assert (about["kind"], about["dimensions"], about["longest text"]) == (kind, 8, "any")
    code, _, err = call("words", texts, "--out", out)
    assert code == 2
    assert "--overwrite" in err


def test_letter_groups_can_be_indexed_and_are_not_adapted(call, texts, tmp_path):
    model = tmp_path / "model"
    assert call("words", texts, "--out", model, "--method", "fasttext", "--dim", "8")[0] == 0
    run = tmp_path / "run"
    assert call("index", "build", texts, "--out", run, "--model", model)[0] == 0
    hits = json.loads(call("search", run, "the dogs sat", "-k", "2", "--json")[1])["hits"]
    assert len(hits) == 2
    code, _, err = call("adapt", texts, "--out", tmp_path / "adapted", "--base", model)
    assert code == 2
    assert "is a SubwordModel, which cannot be adapted" in " ".join(err.split())


def test_json_has_the_settings(call, texts, tmp_path):
    code, text, _ = call(
        "words", texts, "--out", tmp_path / "model", "--method", "ppmi", "--dim", "4",
        "--set", "negatives=2", "--json",
    )  # fmt: skip
    assert code == 0
    found = json.loads(text)
    assert found["training"]["settings"]["negatives"] == 2
    assert found["training"]["texts"] == 8
    assert found["different_words"] >= 12


def test_mistakes_are_named(call, texts, tmp_path):
    for arguments, message in (
        (["--method", "skipgrams"], "Did you mean 'skipgram'"),
        (["--set", "negative=2"], "Did you mean 'negatives'"),
        (["--set", "negatives"], "--set needs name=value"),
        (["--min-count", "5000"], "occurs 5000 times"),
    ):
        code, _, err = call("words", texts, "--out", tmp_path / "model", *arguments)
        assert code == 2
        assert message in " ".join(err.split())
        assert not (tmp_path / "model").exists()
