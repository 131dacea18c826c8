"""A model cut to n layers must say what its n-th layer says inside the whole."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from sentence_transformers import SentenceTransformer  # noqa: E402
from sentence_transformers.sentence_transformer.modules import (  # noqa: E402
    Normalize,
    Pooling,
    Transformer,
    WeightedLayerPooling,
)

from embedworks.errors import InputError  # noqa: E402
from embedworks.models import load, truncate_model  # noqa: E402
from embedworks.modules import check_layers, pooled_layers  # noqa: E402

TEXTS = ["How do I read a file line by line?", "gzip", "A heap is a binary tree."]


def of_type(transformer_folder, kind, tmp_path, *, layers=3):
    """A model of another architecture with the tokenizer of the test model."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(transformer_folder)
    small = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": layers,
        "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 80,
        "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }  # fmt: skip
    if kind in ("qwen3", "gemma"):
        small["head_dim"] = 8
    if kind in ("llama", "qwen2", "qwen3", "mistral", "gemma"):
        small["num_key_value_heads"] = 2
    if kind == "modernbert":
        small |= {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    torch.manual_seed(0)
    body = AutoModel.from_config(AutoConfig.for_model(kind, **small))
    for parameter in body.parameters():  # norms of ones would hide a norm that is left out
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    body.save_pretrained(tmp_path / kind)
    tokenizer.save_pretrained(tmp_path / kind)
    modules = [Transformer(str(tmp_path / kind), max_seq_length=64), Pooling(32, "mean")]
    return SentenceTransformer(modules=[*modules, Normalize()], device="cpu").eval()


KINDS = ("bert", "mpnet", "modernbert", "llama", "qwen2", "qwen3", "mistral", "gemma", "gpt2")


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_model_equals_its_layer_inside_the_whole(transformer_folder, kind, tmp_path):
    model = of_type(transformer_folder, kind, tmp_path)
    assert len(check_layers(model)) == 3
    features = model.preprocess(TEXTS)
    with torch.no_grad():
        inside = pooled_layers(model, features, [1, 2, 3], normalize=True)
    for layer, expected in zip((1, 2, 3), inside):
        small = truncate_model(model, layer)
        np.testing.assert_allclose(small.encode(TEXTS), expected.numpy(), atol=2e-6)
    small = truncate_model(model, 2, 8)
    small.save_pretrained(str(tmp_path / "small"))
    plain = SentenceTransformer(str(tmp_path / "small"), device="cpu")  # without embedworks
    cut = inside[1][:, :8].numpy()
    cut /= np.linalg.norm(cut, axis=1, keepdims=True)
    np.testing.assert_allclose(plain.encode(TEXTS), cut, atol=2e-6)
    assert plain.get_embedding_dimension() == 8
    assert plain[0].auto_model.config.num_hidden_layers == 2


def test_the_whole_model_is_unchanged_and_a_cut_can_be_cut_again(transformer_folder):
    model = load(transformer_folder)
    before = model.encode(TEXTS)
    names = [name for name, _ in model.named_parameters()]
    once = truncate_model(model, 2, 16)
    twice = truncate_model(once, 1, 4)
    np.testing.assert_array_equal(model.encode(TEXTS), before)
    assert [name for name, _ in model.named_parameters()] == names
    np.testing.assert_allclose(
        twice.encode(TEXTS), truncate_model(model, 1, 4).encode(TEXTS), atol=1e-6
    )
    np.testing.assert_allclose(np.linalg.norm(twice.encode(TEXTS), axis=1), 1, atol=1e-6)


def test_layers_that_do_not_exist_are_refused(transformer_folder):
    model = load(transformer_folder)
    with pytest.raises(InputError, match=r"layers must be 1 to 2 .* got 3"):
        truncate_model(model, 3)
    with pytest.raises(InputError, match=r"dim must be 1 to 32 .* got 64"):
        truncate_model(model, 1, 64)
    with pytest.raises(InputError, match="layers 1 to 2"):
        pooled_layers(model, model.preprocess(TEXTS), [0])


def test_a_model_that_mixes_layers_is_refused(transformer_folder):
    model = load(transformer_folder)
    mixing = WeightedLayerPooling(32, num_hidden_layers=2, layer_start=0)
    mixed = SentenceTransformer(modules=[model[0], mixing, model[1]], device="cpu")
    with pytest.raises(InputError, match="reads all layers"):
        check_layers(mixed)


def test_a_model_that_is_not_what_its_last_layer_says_is_refused(transformer_folder):
    class Shifted(torch.nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.layer = encoder.layer
            self.inner = (encoder,)

        def forward(self, *args, **kwargs):
            found = self.inner[0](*args, **kwargs)
            found.last_hidden_state = found.last_hidden_state + 1
            return found

    model = copy.deepcopy(load(transformer_folder))
    body = model[0].auto_model
    body.encoder = Shifted(body.encoder)
    with pytest.raises(InputError, match="are not understood"):
        check_layers(model)
