"""Parts of a model by tensor names, and merges with weights by part."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import embedworks as ew
from embedworks.errors import InputError, UnknownNameError
from embedworks.merging import part_of, weights_of

NAMES = {
    "embeddings.word_embeddings.weight": ("embeddings", "embeddings"),
    "0.auto_model.encoder.layer.11.attention.output.LayerNorm.bias": (
        "layer 11", "layer 11 attention",
    ),
    "encoder.layer.0.intermediate.dense.weight": ("layer 0", "layer 0 feed-forward"),
    "model.layers.3.self_attn.q_proj.weight": ("layer 3", "layer 3 attention"),
    "model.layers.3.mlp.gate_proj.weight": ("layer 3", "layer 3 feed-forward"),
    "model.layers.3.input_layernorm.weight": ("layer 3", "layer 3 rest"),
    "model.embed_tokens.weight": ("embeddings", "embeddings"),
    "transformer.h.2.attn.c_attn.weight": ("layer 2", "layer 2 attention"),
    "encoder.block.1.layer.0.SelfAttention.q.weight": ("layer 1", "layer 1 attention"),
    "transformer.wte.weight": ("embeddings", "embeddings"),
    "pooler.dense.weight": ("head", "head"),
    "2.linear.weight": ("head", "head"),
    "model.norm.weight": ("head", "head"),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_parts(name):
    assert (part_of(name), part_of(name, "module")) == NAMES[name]
    assert part_of(name, "all") == "*"


def test_the_finest_part_counts():
    weights = {"layer 3": [2], "layer 3 attention": [3], "*": [1]}
    assert weights_of("model.layers.3.self_attn.q_proj.weight", weights) == (3,)
    assert weights_of("model.layers.3.mlp.gate_proj.weight", weights) == (2,)
    assert weights_of("model.norm.weight", weights) == (1,)
    with pytest.raises(InputError, match="'head'.*Parts given: 'layer 3'"):
        weights_of("model.norm.weight", {"layer 3": [2]})
    with pytest.raises(UnknownNameError, match="by 'layers'.*Did you mean 'layer'"):
        part_of("a", "layers")


def test_a_merge_with_weights_by_part(tmp_path, transformer_folder, varied):
    models = [varied(transformer_folder, f"model{n}", n) for n in range(2)]
    weights = {"layer 0 attention": [1, 0], "layer 0": [0, 1], "*": [0.25, 0.75]}
    report = ew.merge(models, tmp_path / "out", weights=weights)
    held = [load_file(folder / "model.safetensors") for folder in models]
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in merged.items():
        share = weights_of(name, weights)
        expected = sum(w * tensors[name] for w, tensors in zip(share, held))
        np.testing.assert_allclose(value, expected, atol=1e-6, err_msg=name)
    stored = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert stored["parts"] == {part: list(map(float, own)) for part, own in weights.items()}
    assert report.parts["layer 0"] == (0.0, 1.0)
    assert "| by part |" in (tmp_path / "out" / "README.md").read_text()
    same = ew.merge(models, tmp_path / "even", weights={"*": [1, 1]})
    assert same.files == ew.merge(models, tmp_path / "plain").files


@pytest.mark.parametrize(
    ("weights", "kind", "message"),
    [
        ({"layer 7": [1, 1], "*": [1, 1]}, UnknownNameError, "'layer 7', which no tensor"),
        ({"layer 0": [1, 1]}, InputError, "add that part, or '\\*'"),
        ({"*": [1, 1, 1]}, InputError, "one weight per tensor"),
        ({"*": [1, -1]}, InputError, "sum to zero"),
        ({"*": ["much"]}, InputError, "list of numbers"),
        ({}, InputError, "are empty"),
    ],
)
def test_unusable_weights_by_part(tmp_path, transformer_folder, varied, weights, kind, message):
    models = [varied(transformer_folder, f"model{n}", n) for n in range(2)]
    with pytest.raises(kind, match=message):
        ew.merge(models, tmp_path / "out", weights=weights)
    assert not (tmp_path / "out").exists()
