"""``embedworks merge`` through the real program entry."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import embedworks as ew


@pytest.fixture
def models(tmp_path, static_folder):
    folders = []
    for seed, name in enumerate(("one", "two", "base")):
        folder = tmp_path / name
        shutil.copytree(static_folder, folder)
        tensors = load_file(folder / "model.safetensors")
        noise = np.random.default_rng(seed).normal(size=tensors["embedding.weight"].shape)
        tensors["embedding.weight"] += noise.astype(np.float32) / 10
        save_file(tensors, folder / "model.safetensors")
        folders.append(folder)
    return folders


def test_merge_for_people(call, models, tmp_path):
    code, out, _ = call("merge", *models[:2], "--out", tmp_path / "out", "--weights", "0.7,0.3")
    assert code == 0
    assert "2 models merged by linear" in out
    assert "in 1 tensors" in out
    assert f"embedworks.load({str(tmp_path / 'out')!r})" in out
    tables = [load_file(f / "model.safetensors")["embedding.weight"] for f in models[:2]]
    found = ew.load(tmp_path / "out").table
    np.testing.assert_allclose(found, 0.7 * tables[0] + 0.3 * tables[1], atol=1e-6)


def test_merge_as_json_with_base_and_options(call, models, tmp_path):
    one, two, base = models
    code, out, err = call(
        "merge", one, two, "-m", "ties", "--base", base, "--set", "density=0.5",
        "--set", "scale=0.9", "-o", tmp_path / "out", "--json",
    )  # fmt: skip
    value = json.loads(out)
    assert (code, err) == (0, "")
    assert value["out"] == str(tmp_path / "out")
    assert value["options"] == {"density": 0.5, "scale": 0.9}
    assert [item["name"] for item in value["inputs"]] == ["one", "two"]
    assert value["base"]["name"] == "base"
    assert value["parameters"] == ew.load(tmp_path / "out").table.size
    assert len(value["files"]["model.safetensors"]) == 64


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("{one}", "{two}", "--method", "tie"), "UnknownNameError"),
        (("{one}", "{two}", "--method", "ties"), "InputError"),
        (("{one}", "{two}", "--base", "{base}"), "InputError"),
        (("{one}", "{two}", "--weights", "a,b"), "SettingsError"),
        (("{one}", "{two}", "--weights", "1"), "InputError"),
        (("{one}", "{two}", "--set", "normalize"), "SettingsError"),
        (("{one}", "{two}", "--set", "normalise=true"), "SettingsError"),
        (("{one}", "{two}", "--set", "normalize=[1"), "SettingsError"),
        (("{one}", "/no/such/model"), "NotFoundError"),
    ],
)
def test_mistakes_end_with_2_and_write_nothing(call, models, tmp_path, arguments, kind):
    filled = [a.format(**{folder.name: folder for folder in models}) for a in arguments]
    code, out, err = call("merge", *filled, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert kind in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
    code, out, _ = call("merge", *filled, "--out", tmp_path / "out", "--json")
    assert code == 2
    assert json.loads(out)["error"]["kind"] == kind


def test_an_existing_model_is_replaced_on_request_only(call, models, tmp_path):
    one, two, base = models
    assert call("merge", one, two, "--out", tmp_path / "out")[0] == 0
    code, _, err = call("merge", one, base, "--out", tmp_path / "out")
    assert code == 2
    assert "exists" in err
    assert call("merge", one, base, "--out", tmp_path / "out", "--overwrite")[0] == 0
    code, _, err = call("merge", one, base, "--out", one, "--overwrite")
    assert code == 2
    assert "lie in one another" in err


def test_what_is_not_taken_over_is_told(call, models, tmp_path):
    (models[0] / "onnx").mkdir()
    (models[0] / "onnx" / "model.onnx").write_text("x")
    _, out, _ = call("merge", *models[:2], "--out", tmp_path / "out")
    assert "Not taken over from the first model: onnx/" in out


def test_a_searched_merge_and_its_weights_again(call, models, tmp_path):
    pytest.importorskip("sentence_transformers")
    one, two, base = models
    probe = tmp_path / "probe.jsonl"
    rows = [{"anchor": f"open {n}", "positive": f"read {n}", "source": "qa"} for n in range(12)]
    probe.write_text("\n".join(map(json.dumps, rows)))
    common = ("merge", one, two, "--base", base)
    code, out, err = call(
        *common, "--search", probe, "-o", tmp_path / "out", "--set", "steps=2",
        "--set", "batch_size=4",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "2 models merged by searched" in out
    assert "even merge" in out
    again = (*common, "-m", "task_arithmetic", "--weights", tmp_path / "out" / "merge.json")
    assert call(*again, "-o", tmp_path / "again")[0] == 0
    tables = [ew.load(tmp_path / name).table for name in ("out", "again")]
    np.testing.assert_array_equal(*tables)
    (tmp_path / "bad.json").write_text('{"layer 0": 3}')
    code, _, err = call(*common, "--weights", tmp_path / "bad.json", "-o", tmp_path / "x")
    assert code == 2
    assert "lists of numbers by part" in err


def test_methods_by_place_and_a_union(call, models, tmp_path):
    one, two, base = models
    code, out, _ = call("merge", one, two, "-m", "ema", "--set", "decay=0.25", "-o", tmp_path / "a")
    assert code == 0
    assert "2 models merged by ema" in out
    tables = [load_file(folder / "model.safetensors")["embedding.weight"] for folder in models]
    expected = 0.25 * tables[0] + 0.75 * tables[1]
    np.testing.assert_allclose(ew.load(tmp_path / "a").table, expected, atol=1e-6)
    refused = [
        (("-m", "ema", "--base", base), "ema has no use for a base"),
        (("-m", "swa", "--weights", "1,2"), "swa finds its own weights"),
        (("-m", "lines", "--set", "alpha=1", "--set", "beta=0"), "lines needs the base"),
        (("-m", "ema", "--set", "dekay=1"), "Did you mean 'decay'"),
        (("-m", "ema", "--tokenizer", "union"), "goes with methods without data"),
        (("--tokenizer", "onion"), "onion"),
    ]
    for arguments, message in refused:
        code, _, err = call("merge", one, two, *arguments, "-o", tmp_path / "x")
        assert code == 2
        assert message in err
    assert call("merge", one, two, "--tokenizer", "union", "-o", tmp_path / "u")[0] == 0


def test_adapters_are_merged_into_their_base(call, tmp_path, transformer_folder):
    peft = pytest.importorskip("peft")
    model = ew.load(transformer_folder, device="cpu")
    model.add_adapter(peft.LoraConfig(target_modules=["query"], init_lora_weights=False))
    model.save_pretrained(str(tmp_path / "adapter"))
    code, _, err = call("merge", tmp_path / "adapter", "-o", tmp_path / "x")
    assert code == 2
    assert "base" in err
    code, _, err = call(
        "merge", tmp_path / "adapter", "--base", transformer_folder, "-o", tmp_path / "out"
    )
    assert (code, err) == (0, "")
    texts = ["open a tar archive"]
    merged = ew.load(tmp_path / "out", device="cpu").encode(texts)
    np.testing.assert_allclose(merged, model.eval().encode(texts), atol=1e-5)
