"""``embedworks train``: which recipe is run by what, plans shown and compared."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

pytest.importorskip("torch")

from training.plan_recipes import two_stages


def test_a_dry_run_lists_what_is_missing(call, tmp_path):
    code, out, _ = call("train", "nv-embed", "--dry-run", "--data-root", tmp_path)
    assert code == 0
    assert "1. retrieval: 20,000 steps, batches of 128" in out
    assert "retrieval.parquet does not exist" in out
    code, out, _ = call("train", "nv-embed", "--dry-run", "--data-root", tmp_path, "--json")
    assert json.loads(out)["stages"][1]["name"] == "blend"


def test_two_recipes_are_compared(call):
    code, out, _ = call("train", "peg", "--scale", "mini", "--set", "seed=3", "--diff", "peg")
    assert (code, out.strip()) == (0, "seed: 0 -> 3")
    code, out, _ = call("train", "peg", "--diff", "peg")
    assert "No difference" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gistembed",), "--out is needed"),
        (("gistembed", "--set", "stages.guided.stepps=1", "--out", "{tmp}"), "'steps'"),
        (("gistembed", "--scale", "tiny", "--out", "{tmp}"), "no scale 'tiny'"),
        (("static-en", "--scale", "mini", "--out", "{tmp}"), "--scale: not for recipes"),
        (("static-en",), "needs --out and --data-root"),
        (("{tmp}/none.yaml", "--out", "{tmp}/o"), "does not exist"),
        (("{tmp}/plain.yaml", "--out", "{tmp}/o"), "does not say what it is"),
    ],
)
def test_mistakes(call, tmp_path, arguments, message):
    (tmp_path / "plain.yaml").write_text("name: x\n")
    code, _, err = call("train", *(a.format(tmp=tmp_path) for a in arguments))
    assert code == 2
    assert message in err.replace("\n", " ")


@pytest.mark.filterwarnings("ignore:.*are longer than the 64 tokens")
def test_a_recipe_is_trained_and_not_overwritten(call, tmp_path, documents, transformer_folder):
    shutil.copytree(documents, tmp_path / "docs")
    values = two_stages(str(transformer_folder))
    del values["stages"][1], values["model"]["prompts"]
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(values))
    where = ("--out", tmp_path / "run", "--data-root", tmp_path)
    changes = ("--set", "stages.first.steps=2", "--json")
    code, out, _ = call("train", recipe, *where, *changes)
    assert code == 0
    assert [line["model"] for line in json.loads(out)["table"]] == ["base", "first"]
    code, out, _ = call("train", recipe, *where, *changes)
    assert json.loads(out)["error"]["kind"] == "InputError"
    code, out, _ = call("train", recipe, *where, "--resume", "--json")
    assert "stages.first.steps: 2 -> 6" in json.loads(out)["error"]["message"]
