"""Merging model folders: loaded by both libraries, checked before anything is written."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import embedworks as ew
from embedworks.errors import FormatError, InputError, NonFiniteError, NotFoundError
from embedworks.merging import MERGE_METHODS
from embedworks.models import StaticModel, check_golden, model_fingerprint

TEXTS = ["open a tar archive", "median of numbers", "wrap long lines", ""]


def vary(source, target, seed: int):
    """Copy a model and move all its weights a little."""
    shutil.copytree(source, target)
    rng = np.random.default_rng(seed)
    for path in target.rglob("model.safetensors"):
        tensors = {
            name: t + 0.02 * rng.normal(size=t.shape).astype(t.dtype)
            for name, t in load_file(path).items()
        }
        save_file(tensors, path, metadata={"format": "pt"})
    return target


@pytest.fixture
def statics(tmp_path, static_folder):
    return [vary(static_folder, tmp_path / f"static{n}", n) for n in range(3)]


@pytest.fixture
def transformers(tmp_path, transformer_folder):
    return [vary(transformer_folder, tmp_path / f"model{n}", n) for n in range(3)]


def edit(folder, file, **changes):
    """Change keys of a JSON file of a model; None removes one."""
    value = json.loads((folder / file).read_text())
    for key, new in changes.items():
        value[key] = new
        if new is None:
            del value[key]
    (folder / file).write_text(json.dumps(value))


def refuse(kind, models, out, method="linear", **options) -> str:
    with pytest.raises(kind) as caught:
        ew.merge(models, out, method, **options)
    assert not out.exists()
    assert not [p for p in out.parent.iterdir() if p.name.startswith(".")]
    return str(caught.value)


def test_the_name_at_the_top():
    assert ew.merge is ew.merging.merge


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_transformers_load_in_both_libraries(tmp_path, transformers, method):
    pytest.importorskip("torch")
    from sentence_transformers import SentenceTransformer

    one, two, base = transformers
    report = ew.merge(
        [one, two],
        tmp_path / "out",
        method,
        base=base if MERGE_METHODS[method].needs_base else None,
    )
    ours = ew.load(tmp_path / "out", device="cpu")  # checks the golden vectors
    assert (tmp_path / "out" / "golden.json").is_file()
    cosine, _ = check_golden(tmp_path / "out", ours)
    assert cosine > 0.9999
    plain = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(plain.encode(TEXTS), ours.encode(TEXTS), atol=1e-5)
    held = [load_file(folder / "model.safetensors") for folder in transformers]
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name in held[0]:
        expected = MERGE_METHODS[method](
            [held[0][name], held[1][name]],
            base=held[2][name] if report.base else None,
            key=name,
        )
        np.testing.assert_array_equal(merged[name], expected)
    assert {p.name for p in one.iterdir()} <= {p.name for p in (tmp_path / "out").iterdir()}


def test_dense_heads_and_prompts_are_merged_too(tmp_path, transformer_folder):
    pytest.importorskip("torch")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    model = SentenceTransformer(str(transformer_folder), device="cpu")
    model.insert(2, Dense(32, 8))
    model.prompts = {"query": "find: ", "document": ""}
    model.save_pretrained(str(tmp_path / "dense"))
    folders = [vary(tmp_path / "dense", tmp_path / f"d{n}", n) for n in range(2)]
    report = ew.merge(folders, tmp_path / "out")
    assert sorted(report.files) == ["2_Dense/model.safetensors", "model.safetensors"]
    merged = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert merged.encode(TEXTS).shape == (4, 8)
    assert merged.prompts["query"] == "find: "
    head = folders[1] / "2_Dense" / "model.safetensors"
    head.rename(head.with_name("pytorch_model.bin"))
    message = refuse(InputError, folders, tmp_path / "x")
    assert "has weights in 2_Dense/pytorch_model.bin" in message
    head.with_name("pytorch_model.bin").rename(head)
    heads = [load_file(f / "2_Dense" / "model.safetensors") for f in (*folders, tmp_path / "out")]
    np.testing.assert_allclose(
        heads[2]["linear.weight"], (heads[0]["linear.weight"] + heads[1]["linear.weight"]) / 2,
        rtol=1e-5, atol=1e-7,
    )  # fmt: skip
    edit(folders[1], "config_sentence_transformers.json", prompts={"query": "search: "})
    message = refuse(InputError, folders, tmp_path / "x")
    assert "prompts is {'query': 'find: '} in model 1, {'query': 'search: '} in model 2" in message
    with_head = refuse(InputError, [folders[0], transformer_folder], tmp_path / "x")
    assert "Transformer > Pooling > Dense > Normalize in model 1" in with_head
    shutil.rmtree(folders[1] / "2_Dense")
    edit(folders[1], "config_sentence_transformers.json", prompts={"query": "find: "})
    assert "'2_Dense/model' are in model 1" in refuse(InputError, folders, tmp_path / "x")


def test_static_models_load_in_both_libraries(tmp_path, statics):
    report = ew.merge(statics, tmp_path / "out", weights=[2, 1, 1])
    model = ew.load(tmp_path / "out")
    check_golden(tmp_path / "out", model)
    tables = [StaticModel.from_pretrained(folder).table for folder in statics]
    expected = (2 * tables[0] + tables[1] + tables[2]) / 4
    np.testing.assert_allclose(model.table, expected, atol=1e-6)
    assert model.name == "out"
    assert model.metadata["merge"]["method"] == "linear"
    assert [item["weight"] for item in model.metadata["merge"]["inputs"]] == [2, 1, 1]
    assert report.parameters == expected.size
    library = pytest.importorskip("sentence_transformers")
    plain = library.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(plain.encode(TEXTS[:3]), model.encode(TEXTS[:3]), atol=1e-5)


def test_the_result_does_not_depend_on_place_or_workers(tmp_path, statics):
    for name, workers in (("a/out", 1), ("b/out", 3)):
        ew.merge(statics[:2], tmp_path / name, "dare", base=statics[2], workers=workers)
    files = sorted(p.name for p in (tmp_path / "a" / "out").iterdir() if p.is_file())
    for name in files:
        both = [(tmp_path / place / "out" / name).read_bytes() for place in "ab"]
        assert both[0] == both[1], name
    assert str(tmp_path) not in (tmp_path / "a" / "out" / "merge.json").read_text()


def test_the_card_tells_models_weights_and_checksums(tmp_path, statics):
    for folder in statics:
        (folder / "README.md").write_text("---\nlicense: mit\n---\n# Scores 99.9 on everything\n")
    report = ew.merge(statics[:2], tmp_path / "out", "slerp", weights=[3, 1])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit" in card
    assert "99.9" not in card  # that was the first model's
    checksum = report.inputs[0].files["model.safetensors"]
    assert f"| static0 | 3 | mit | `{checksum[:16]}` |" in card
    stored = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert stored["inputs"][0]["files"]["model.safetensors"] == checksum
    assert stored["files"] == report.files
    (statics[1] / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    ew.merge(statics[:2], tmp_path / "mixed")
    card = (tmp_path / "mixed" / "README.md").read_text()
    assert "license: " not in card
    assert "cc-by-nc-4.0" in card


def test_stale_forms_of_the_first_model_are_left_out(tmp_path, statics):
    first = statics[0]
    for name in ("onnx/model.onnx", "eval/scores.csv", "checkpoint-5/model.safetensors", ".git/x"):
        (first / name).parent.mkdir()
        (first / name).write_text("x")
    (first / "pytorch_model.bin").write_text("x")
    (first / "LICENSE").write_text("terms")
    (first / "data_config.json").write_text('[{"name": "what it was trained on"}]')
    report = ew.merge(statics[:2], tmp_path / "out")
    assert report.left_out == (
        ".git/", "checkpoint-5/", "data_config.json", "eval/", "onnx/", "pytorch_model.bin",
    )  # fmt: skip
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert "LICENSE" in names
    assert not names & {"onnx", "eval", "checkpoint-5", ".git", "pytorch_model.bin"}


def test_another_tokenizer_is_refused_with_the_reason(tmp_path, statics):
    tokenizer = json.loads((statics[1] / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, two = list(vocabulary)[500:502]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (statics[1] / "tokenizer.json").write_text(json.dumps(tokenizer))
    message = refuse(InputError, statics[:2], tmp_path / "x")
    assert "2 of them elsewhere" in message
    assert repr(one) in message
    assert "(the base)" in refuse(InputError, statics[:1], tmp_path / "x", "ties", base=statics[1])
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    tokenizer["normalizer"]["lowercase"] = False
    (statics[1] / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "another 'normalizer'" in refuse(InputError, statics[:2], tmp_path / "x")


def test_cutting_and_padding_of_a_transformers_tokenizer_do_not_matter(tmp_path, transformers):
    length = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    edit(transformers[1], "tokenizer.json", truncation=length)
    ew.merge(transformers[:2], tmp_path / "out")
    edit(transformers[1], "config.json", layer_norm_eps=0.1, transformers_version="4.0.0",
         hidden_dropout_prob=0.5)  # fmt: skip
    message = refuse(InputError, transformers[:2], tmp_path / "x")
    assert "config.json: layer_norm_eps is 1e-12 in model 1, 0.1 in model 2" in message
    assert message.count("\n- ") == 1
    # A base may lack what is not computed with its weights.
    (transformers[2] / "modules.json").unlink()
    edit(transformers[2], "config_sentence_transformers.json", prompts={"query": "x"})
    ew.merge(transformers[:1], tmp_path / "based", "ties", base=transformers[2])


def test_adapters_quantised_and_pickled_models_are_refused(tmp_path, statics, static_folder):
    other = statics[1]
    (other / "adapter_config.json").write_text("{}")
    assert "merge_and_unload" in refuse(InputError, statics[:2], tmp_path / "x")
    (other / "adapter_config.json").unlink()
    small = StaticModel.from_pretrained(static_folder).save_pretrained(
        tmp_path / "i8", dtype="int8"
    )
    assert "quantised" in refuse(InputError, [small, small], tmp_path / "x")
    (other / "model.safetensors").rename(other / "pytorch_model.bin")
    assert "run code" in refuse(InputError, statics[:2], tmp_path / "x")
    (other / "pytorch_model.bin").unlink()
    refuse(NotFoundError, statics[:2], tmp_path / "x")
    refuse(NotFoundError, [tmp_path / "none", statics[0]], tmp_path / "x")
    assert "embedworks.models.save" in refuse(
        InputError, [StaticModel.from_pretrained(static_folder)], tmp_path / "x"
    )


def test_damaged_folders_are_refused(tmp_path, statics):
    broken = statics[1]
    weights = broken / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert str(weights) in refuse(FormatError, statics[:2], tmp_path / "x")
    tensors = load_file(statics[2] / "model.safetensors")
    tensors["embedding.weight"][4, 4] = np.nan
    save_file(tensors, weights)
    message = refuse(NonFiniteError, statics[:2], tmp_path / "x")
    assert "'embedding.weight' of" in message
    assert broken.name in message
    save_file({"embedding.weight": tensors["embedding.weight"][:, :8].copy()}, weights)
    assert "has shape" in refuse(InputError, statics[:2], tmp_path / "x")
    weights.write_bytes(whole)
    modules = json.loads((broken / "modules.json").read_text())
    modules[1]["path"] = "../static0/1_Normalize"
    (broken / "modules.json").write_text(json.dumps(modules))
    assert "Do not trust" in refuse(FormatError, statics[:2], tmp_path / "x")
    (broken / "modules.json").write_text("[{}]")
    refuse(FormatError, statics[:2], tmp_path / "x")


def test_out_is_refused_when_it_exists_or_is_an_input(tmp_path, statics):
    out = tmp_path / "out"
    ew.merge(statics[:2], out)
    before = model_fingerprint(ew.load(out))
    with pytest.raises(InputError, match="exists"):
        ew.merge(statics[1:], out)
    for place in (statics[0], statics[0] / "new", tmp_path):
        with pytest.raises(InputError, match="lie in one another"):
            ew.merge(statics[:2], place, overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        ew.merge(statics[:2], statics[0] / "model.safetensors", overwrite=True)
    assert model_fingerprint(ew.load(out)) == before
    ew.merge(statics[1:], out, overwrite=True)
    assert model_fingerprint(ew.load(out)) != before
    check_golden(out, ew.load(out))


def test_short_names_lead_to_their_folders(tmp_path, statics):
    message = refuse(InputError, ["static", statics[0]], tmp_path / "x")
    assert "quantised" in message  # the bundled model holds codes
    assert "static-en" in message
    assert "no model folder statik" in refuse(NotFoundError, ["statik"], tmp_path / "x")
