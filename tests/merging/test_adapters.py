"""LoRA adapters: merged as peft merges them, combined exactly, refused where they are more."""

from __future__ import annotations

import json
import shutil
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import embedworks as ew
from embedworks.errors import (
    DataWarning,
    FormatError,
    InputError,
    NonFiniteError,
    NotFoundError,
)
from embedworks.merging import MERGE_METHODS, combine_adapters, merge_adapters, merge_files
from embedworks.merging._lora import AdapterFolder
from embedworks.merging._model_folders import ModelFolder
from embedworks.merging._planning import MergeCall
from embedworks.merging.adapters import adapter_plans
from embedworks.merging.models import fill
from embedworks.models import check_golden

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

#: What peft and transformers say to each other.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]

TEXTS = ["open a tar archive", "median of numbers", "wrap long lines"]


def backbone(folder):
    from transformers import AutoModel

    return AutoModel.from_pretrained(str(folder))


@pytest.fixture
def adapter(tmp_path, transformer_folder):
    """Write an adapter with random matrices for the tiny transformer."""

    def _adapter(name="adapter", seed=0, model=None, **options):
        torch.manual_seed(seed)
        settings = {"r": 4, "lora_alpha": 16, "target_modules": ["query", "value"], **options}
        model = backbone(transformer_folder) if model is None else model
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**settings))
        with torch.no_grad():
            for key, value in wrapped.named_parameters():
                if "lora_" in key:
                    value.normal_(std=0.2)
        wrapped.save_pretrained(str(tmp_path / name))
        return tmp_path / name

    return _adapter


def merged_by_peft(base, *folders):
    """Return the state after ``merge_and_unload`` of one adapter after the other."""
    model = backbone(base)
    for folder in folders:
        model = peft.PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    return {name: value.numpy() for name, value in model.state_dict().items()}


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def refuse(kind, base, adapters, out, method="task_arithmetic", **options) -> str:
    with pytest.raises(kind) as caught:
        merge_adapters(base, adapters, out, method, **options)
    assert not out.exists()
    assert not [p for p in out.parent.iterdir() if p.name.startswith(".")]
    return str(caught.value)


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"target_modules": "all-linear", "init_lora_weights": "gaussian"},
        {"target_modules": ["query", "word_embeddings"]},
        {
            "rank_pattern": {"layer.1.attention.self.query": 2},
            "alpha_pattern": {"value": 3, r"layer\.0\..*query": 5},
        },
        {"layers_to_transform": [1]},
    ],
    ids=["plain", "rslora", "all-linear", "embeddings", "patterns", "one layer"],
)
def test_one_adapter_is_merged_as_peft_does(tmp_path, transformer_folder, adapter, options):
    folder = adapter(**options)
    report = merge_adapters(transformer_folder, [folder], tmp_path / "out")
    expected = merged_by_peft(transformer_folder, folder)
    merged, base = weights_of(tmp_path / "out"), weights_of(transformer_folder)
    changed = 0
    for name, value in merged.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6, err_msg=name)
        if np.array_equal(expected[name], base[name]):
            np.testing.assert_array_equal(value, base[name])  # copied, bit for bit
        else:
            changed += 1
    assert changed == len(AdapterFolder.open(folder).updates)
    assert report.base.path == transformer_folder
    assert report.inputs[0].files.keys() == {"adapter_model.safetensors"}


def test_the_result_is_a_whole_model_in_both_libraries(tmp_path, transformer_folder, adapter):
    from sentence_transformers import SentenceTransformer

    folder = adapter()
    merge_adapters(transformer_folder, [folder], tmp_path / "out")
    ours = ew.load(tmp_path / "out", device="cpu")
    check_golden(tmp_path / "out", ours)
    plain = SentenceTransformer(str(transformer_folder), device="cpu")
    before = plain.encode(TEXTS)
    plain[0].model.load_adapter(str(folder))
    np.testing.assert_allclose(plain.encode(TEXTS), ours.encode(TEXTS), atol=1e-5)
    assert np.abs(before - ours.encode(TEXTS)).max() > 0.01
    stored = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert stored["inputs"][0]["name"] == "adapter"
    assert stored["base"]["files"].keys() == {"model.safetensors"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "A merge of 1 model by" in card
    assert f"those of `{transformer_folder.name}`" in card
    assert not list((tmp_path / "out").glob("adapter*"))


def test_adapters_saved_by_sentence_transformers(tmp_path, transformer_folder):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(transformer_folder), device="cpu")
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["key"], init_lora_weights=False))
    model.save_pretrained(str(tmp_path / "trained"))
    merge_adapters(transformer_folder, [tmp_path / "trained"], tmp_path / "out")
    np.testing.assert_allclose(
        ew.load(tmp_path / "out", device="cpu").encode(TEXTS), model.encode(TEXTS), atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:model_stock")  # random updates have no common direction
def test_several_adapters_by_weight_and_by_every_method(tmp_path, transformer_folder, adapter):
    one = adapter("one", 1)
    two = adapter("two", 2, r=2, target_modules=["query", "key"])
    both = merged_by_peft(transformer_folder, one, two)
    merge_adapters(transformer_folder, [one, two], tmp_path / "sum", weights=[1, 1])
    for name, value in weights_of(tmp_path / "sum").items():
        np.testing.assert_allclose(value, both[name], atol=1e-6)
    # Every other method does what it does on the two models that the adapters make.
    for folder in (one, two):
        merge_adapters(transformer_folder, [folder], tmp_path / f"whole-{folder.name}")
    whole = [tmp_path / "whole-one", tmp_path / "whole-two"]
    base = weights_of(transformer_folder)
    for method in MERGE_METHODS:
        if method in ("linear", "task_arithmetic"):
            continue
        merge_adapters(transformer_folder, [one, two], tmp_path / method, method)
        merge_files(whole, tmp_path / f"{method}.safetensors", method, base=transformer_folder)
        expected = load_file(tmp_path / f"{method}.safetensors")
        for name, value in weights_of(tmp_path / method).items():
            np.testing.assert_allclose(value, expected[name], atol=1e-5, err_msg=f"{method} {name}")
            touched = any(part in name for part in ("query.w", "key.w", "value.w"))
            if not touched:
                np.testing.assert_array_equal(value, base[name])
            elif method != "model_stock":
                assert not np.array_equal(value, base[name]), f"{method} {name}"
    message = refuse(InputError, transformer_folder, [one], tmp_path / "x", "linear")
    assert "Use task_arithmetic" in message


@pytest.mark.parametrize("weights", [None, [2.0, -0.5]])
def test_combined_adapters_are_exactly_the_weighted_sum(
    tmp_path, transformer_folder, adapter, weights
):
    one = adapter("one", 1, target_modules=["query", "word_embeddings"])
    two = adapter("two", 2, r=2, target_modules=["query", "key"], use_rslora=True)
    folder = combine_adapters([one, two], tmp_path / "both", weights=weights)
    merge_adapters(transformer_folder, [one, two], tmp_path / "direct", weights=weights)
    merge_adapters(transformer_folder, [folder], tmp_path / "combined")
    loaded = merged_by_peft(transformer_folder, folder)  # peft reads it too
    direct, combined = weights_of(tmp_path / "direct"), weights_of(tmp_path / "combined")
    for name in direct:
        np.testing.assert_allclose(combined[name], direct[name], atol=1e-6)
        np.testing.assert_allclose(loaded[name], direct[name], atol=1e-6)
    with pytest.raises(InputError, match="exists"):
        combine_adapters([one, two], folder)
    combine_adapters([two], folder, overwrite=True)
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 2


def test_combining_adapters_of_different_bases(tmp_path, adapter):
    one, two = adapter("one"), adapter("two")
    edit(one, base_model_name_or_path="a/base")
    edit(two, base_model_name_or_path="another/base")
    with pytest.warns(DataWarning, match="different bases"):
        combine_adapters([one, two], tmp_path / "both")
    tensors = load_file(two / "adapter_model.safetensors")
    for name in list(tensors):
        if name.endswith("lora_A.weight"):
            tensors[name] = np.ascontiguousarray(tensors[name][:, :8])
    save_file(tensors, two / "adapter_model.safetensors")
    edit(two, base_model_name_or_path="a/base")
    with pytest.raises(InputError, match=r"has shape \(32, 32\) in .*one, \(32, 8\)"):
        combine_adapters([one, two], tmp_path / "x")
    with pytest.raises(InputError, match="at least 1 model"):
        combine_adapters([], tmp_path / "x")
    with pytest.raises(InputError, match="one weight per tensor"):
        combine_adapters([one], tmp_path / "x", weights=[1, 2])


def test_layers_that_are_stored_the_other_way_round(tmp_path, adapter):
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(vocab_size=40, n_positions=16, n_embd=8, n_layer=1, n_head=2)
    model = GPT2Model(config)
    model.save_pretrained(str(tmp_path / "gpt"))
    folder = adapter(model=model, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    expected = merged_by_peft(tmp_path / "gpt", folder)
    source = AdapterFolder.open(folder).on("model", ModelFolder.open(tmp_path / "gpt"))
    for name, entry in source.entries.items():
        np.testing.assert_allclose(entry.read(), expected[name], atol=1e-6, err_msg=name)
        # Pieces that begin and end inside a row are parts of the whole.
        flat = entry.read().reshape(-1)
        for start, count in ((0, 3), (5, 11), (len(flat) - 3, 3)):
            part = entry.read(4 * start, 4 * count).reshape(-1)
            np.testing.assert_allclose(part, flat[start : start + count], atol=1e-7)


@pytest.mark.parametrize(("method", "limit"), [("task_arithmetic", 1.5), ("ties", 2.5)])
def test_memory_is_about_the_largest_tensor_of_each_adapter(tmp_path, method, limit):
    """6 matrices of 4 MB and two adapters for all of them; the base is never whole in memory."""
    names = [f"layer.{n}.dense" for n in range(6)]
    (tmp_path / "base").mkdir()
    base = {f"{name}.weight": np.ones((1024, 1024), np.float32) for name in names}
    save_file(base, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text("{}")
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        config = {"peft_type": "LORA", "r": 8, "lora_alpha": 8}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(config))
        pairs = {}
        for layer in names:
            for part, shape in (("A", (8, 1024)), ("B", (1024, 8))):
                values = rng.normal(size=shape).astype(np.float32)
                pairs[f"base_model.model.{layer}.lora_{part}.weight"] = values
        save_file(pairs, tmp_path / name / "adapter_model.safetensors")
    del base, pairs
    folder = ModelFolder.open(tmp_path / "base")
    adapters = [AdapterFolder.open(tmp_path / name) for name in ("one", "two")]
    call = MergeCall(method, None, {"density": 0.5} if method == "ties" else {})
    (tmp_path / "out").mkdir()
    tracemalloc.start()
    try:
        fill(tmp_path / "out", adapter_plans(folder, adapters, call), folder, workers=2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit * 3 * 4 * 2**20


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(tmp_path, transformer_folder, adapter, dtype):
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    folder = adapter()
    half = tmp_path / "half"
    shutil.copytree(transformer_folder, half)
    tensors = {k: v.to(dtype) for k, v in load_torch(half / "model.safetensors").items()}
    save_torch(tensors, half / "model.safetensors", metadata={"format": "pt"})
    merge_adapters(half, [folder], tmp_path / "out")
    merged = load_torch(tmp_path / "out" / "model.safetensors")
    for layer, update in AdapterFolder.open(folder).updates.items():
        delta = torch.from_numpy(update.rows(0, 32, np.dtype(np.float32)))
        name = f"{layer}.weight"
        assert merged[name].dtype == dtype
        assert torch.equal(merged[name], (tensors[name].float() + delta).to(dtype))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"use_dora": True}, "use_dora: it rescales"),
        ({"modules_to_save": ["pooler"]}, "modules_to_save: it replaces whole modules"),
        ({"bias": "all"}, "bias='all'"),
        ({"lora_bias": True}, "lora_bias: it adds biases"),
        ({"init_lora_weights": "pissa"}, "'pissa': its training began"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices: it replaces rows"),
    ],
)
def test_adapters_that_are_more_than_a_sum_are_refused(
    tmp_path, transformer_folder, adapter, options, reason
):
    folder = adapter(**options)
    message = refuse(InputError, transformer_folder, [folder], tmp_path / "x")
    assert "more than a sum" in message
    assert reason in message
    assert "merge_and_unload" in message


def test_damaged_and_unknown_adapters_are_refused(tmp_path, transformer_folder, adapter):
    def message(kind=InputError, **options):
        return refuse(kind, transformer_folder, [folder], tmp_path / "x", **options)

    folder = adapter()
    whole = (folder / "adapter_model.safetensors").read_bytes()
    config = (folder / "adapter_config.json").read_bytes()
    tensors = load_file(folder / "adapter_model.safetensors")

    def save(changes):
        kept = {**tensors, **changes}
        save_file({k: v for k, v in kept.items() if v is not None},
                  folder / "adapter_model.safetensors")  # fmt: skip

    first = next(name for name in tensors if name.endswith("lora_A.weight"))
    save({first: np.full_like(tensors[first], np.nan)})
    text = message(NonFiniteError)
    assert "query.weight" in text or "value.weight" in text
    assert str(folder) in text
    with pytest.raises(NonFiniteError, match="lora_A"):
        combine_adapters([folder], tmp_path / "x")
    save({first: None})
    assert "is it damaged" in message(FormatError)
    save({first: tensors[first][:2].copy()})
    assert "not the rank 4" in message(FormatError)
    save({"base_model.model.pooler.dense.bias": np.zeros(32, np.float32)})
    assert "no low-rank updates of matrices" in message()
    stray = {
        f"base_model.model.nowhere.lora_{x}.weight": np.zeros((4, 4), np.float32) for x in "AB"
    }
    save(stray)
    assert "'nowhere' is not in the base" in message()
    narrow = np.ascontiguousarray(tensors[first][:, :16])
    save({first: narrow})
    assert "the update (32, 16)" in message()
    (folder / "adapter_model.safetensors").write_bytes(whole[:-9])
    assert "half written" in message(FormatError)
    (folder / "adapter_model.safetensors").write_bytes(whole)
    for changes, expected in (
        ({"peft_type": "IA3"}, "is a IA3 adapter"),
        ({"new_setting": {"x": 1}}, "new_setting={'x': 1}: a setting not known"),
    ):
        edit(folder, **changes)
        assert expected in message()
        (folder / "adapter_config.json").write_bytes(config)
    for changes in ({"alpha_pattern": {"(": 2}}, {"lora_alpha": "many"}, {"rank_pattern": [1]}):
        edit(folder, **changes)
        assert "is not usable" in message(FormatError)
        (folder / "adapter_config.json").write_bytes(config)
    (folder / "adapter_config.json").write_text("[]")
    assert "JSON object" in message(FormatError)
    (folder / "adapter_config.json").write_bytes(config)
    (folder / "2_Dense").mkdir()
    save_file({"linear.weight": np.ones((2, 2))}, folder / "2_Dense" / "model.safetensors")
    assert "would be lost" in message()
    shutil.rmtree(folder / "2_Dense")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "run code" in message()
    (folder / "adapter_model.bin").unlink()
    assert "half copied" in message()
    (folder / "adapter_config.json").unlink()
    assert "adapter_config.json" in message(NotFoundError)
    assert "at least one model" in refuse(InputError, transformer_folder, [], tmp_path / "x")
    assert "must be a list" in refuse(InputError, transformer_folder, str(folder), tmp_path / "x")


def test_an_adapter_is_no_model_for_the_plain_merge(tmp_path, transformer_folder, adapter):
    folder = adapter()
    with pytest.raises(InputError, match="merge_adapters"):
        ew.merge([transformer_folder, folder], tmp_path / "x")
    with pytest.raises(InputError, match="merge_adapters"):
        merge_files([transformer_folder, folder], tmp_path / "x.safetensors")
