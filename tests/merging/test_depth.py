"""Scaling by depth: which depth a tensor has, and what is left of its change."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import embedworks as ew
from embedworks.errors import InputError, NonFiniteError, ShapeError
from embedworks.merging import layer_depths, lines, merge_models, scale_by_depth


def test_depths_of_usual_names():
    names = ["embeddings.word_embeddings.weight"]
    names += [f"encoder.layer.{n}.attention.self.query.weight" for n in range(5)]
    names += ["pooler.dense.bias", "encoder.layer.4.output.LayerNorm.weight"]
    found = layer_depths(names)
    assert [found[name] for name in names] == [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    decoder = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    decoder += [f"model.layers.{n}.mlp.experts.{e}.w" for n in range(3) for e in range(9)]
    found = layer_depths(decoder)
    assert [found[name] for name in decoder[:3]] == [0.0, 1.0, 1.0]
    assert found["model.layers.1.mlp.experts.8.w"] == 0.5
    two = [f"{side}.block.{n}.w" for side, most in (("encoder", 3), ("decoder", 5))
           for n in range(most)]  # fmt: skip
    found = layer_depths(two)
    assert (found["encoder.block.1.w"], found["decoder.block.1.w"]) == (0.5, 0.25)
    assert layer_depths(["h.0.w", "h.1.w", "head.0.w"])["head.0.w"] == 1.0
    for none in ([], ["embedding.weight"], ["layer.0.weight"]):
        with pytest.raises(InputError, match="scaling by depth is for models with numbered layers"):
            layer_depths(none)


def test_scaling_by_hand_and_bad_values():
    one, base = np.array([3.0, -1.0], np.float32), np.ones(2, np.float32)
    for depth, expected in ((0.0, [1.4, 0.6]), (1.0, [2.6, -0.6])):
        found = scale_by_depth(one, base=base, depth=depth, alpha=0.2, beta=0.6)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert found.dtype == np.float32
    np.testing.assert_array_equal(scale_by_depth(one, base=base, depth=0.5, alpha=0, beta=0), base)
    np.testing.assert_array_equal(scale_by_depth(one, base=base, depth=0.3, alpha=1, beta=0), one)
    with pytest.raises(InputError, match="depth must be in"):
        scale_by_depth(one, base=base, depth=1.5, alpha=1, beta=0)
    with pytest.raises(InputError, match="beta must be in"):
        scale_by_depth(one, base=base, depth=1, alpha=1, beta=float("inf"))
    with pytest.raises(ShapeError):
        scale_by_depth(one, base=base[:1], depth=1, alpha=1, beta=0)
    with pytest.raises(NonFiniteError):
        scale_by_depth(one * np.nan, base=base, depth=1, alpha=1, beta=0)


@pytest.mark.parametrize("method", ["linear", "ties", "task_arithmetic"])
def test_whole_models(tmp_path, transformer_folder, varied, method):
    pytest.importorskip("torch")
    models = [varied(transformer_folder, f"m{n}", n) for n in range(2)]
    base = transformer_folder
    plain = merge_models(
        models, tmp_path / "plain", method, base=None if method == "linear" else base
    )
    report = lines(models, tmp_path / "out", base=base, alpha=0.25, beta=0.5, method=method)
    ew.load(tmp_path / "out", device="cpu")  # checks the golden vectors
    assert report.base.path == base
    assert plain.parameters == report.parameters
    stored = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert stored["method"] == f"lines({method})"
    assert stored["options"] == {"alpha": 0.25, "beta": 0.5}
    held = [
        load_file(f / "model.safetensors") for f in (base, tmp_path / "plain", tmp_path / "out")
    ]
    for name, start in held[0].items():
        factor = 0.75 if "layer.1" in name or "pooler" in name else 0.25
        expected = start + factor * (held[1][name] - start)
        np.testing.assert_allclose(held[2][name], expected, atol=1e-6, err_msg=name)


def test_dense_heads_are_at_the_end(tmp_path, transformer_folder, varied):
    pytest.importorskip("torch")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    model = SentenceTransformer(str(transformer_folder), device="cpu")
    model.insert(2, Dense(32, 8))
    model.save_pretrained(str(tmp_path / "base"))
    tuned = varied(tmp_path / "base", "tuned")
    lines([tuned], tmp_path / "out", base=tmp_path / "base", alpha=0.0, beta=1.0)
    for folder, name, same in (
        ("2_Dense", "linear.weight", tuned),
        ("", "encoder.layer.1.output.dense.weight", tuned),
        ("", "encoder.layer.0.output.dense.weight", tmp_path / "base"),
        ("", "embeddings.word_embeddings.weight", tmp_path / "base"),
    ):
        both = [load_file(f / folder / "model.safetensors")[name] for f in (tmp_path / "out", same)]
        np.testing.assert_allclose(*both, atol=1e-6)


def test_models_without_layers_are_refused(tmp_path, static_folder, varied):
    with pytest.raises(InputError, match="numbered layers"):
        lines([varied(static_folder, "m")], tmp_path / "x", base=static_folder, alpha=1, beta=1)
    with pytest.raises(InputError, match="alpha must be in"):
        lines([static_folder], tmp_path / "x", base=static_folder, alpha=float("nan"), beta=1)
    assert not (tmp_path / "x").exists()
