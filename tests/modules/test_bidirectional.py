"""The bidirectional switch, on every family it is said to work for."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from sentence_transformers import SentenceTransformer  # noqa: E402
from transformers import AutoConfig, AutoModel  # noqa: E402

import embedworks as ew  # noqa: E402
from embedworks.errors import InputError  # noqa: E402
from embedworks.models import new_model  # noqa: E402
from embedworks.modules import (  # noqa: E402
    BIDIRECTIONAL_FAMILIES,
    attends_both_ways,
    check_bidirectional,
    make_bidirectional,
)

TEXTS = ["read a file", "a heap is a binary tree with the smallest item at its root", "gzip"]


def body(kind, attention):
    small = {
        "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    if kind.startswith(("gemma", "qwen3")):
        small["head_dim"] = 8
    if kind.startswith(("gemma", "qwen", "llama", "mistral", "smollm")):
        small["num_key_value_heads"] = 2
    if kind == "opt":
        small |= {"ffn_dim": 48, "word_embed_proj_dim": 32}
    torch.manual_seed(0)
    return AutoModel.from_config(
        AutoConfig.for_model(kind, **small), attn_implementation=attention
    ).eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", BIDIRECTIONAL_FAMILIES)
def test_a_decoder_looks_both_ways_after_saving_too(kind, attention, tmp_path):
    if kind == "gemma2" and attention == "sdpa":
        pytest.skip("transformers has no SDPA for Gemma 2")
    model = body(kind, attention)
    assert not attends_both_ways(model)
    with pytest.raises(InputError, match="stays causal"):
        check_bidirectional(model)
    make_bidirectional(model)
    assert attends_both_ways(model)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path, attn_implementation=attention)
    assert attends_both_ways(again)


def test_an_encoder_is_left_as_it_is():
    model = body("bert", "sdpa")
    ids = torch.tensor([[5, 6, 7]])
    before = model(ids).last_hidden_state
    torch.testing.assert_close(make_bidirectional(model)(ids).last_hidden_state, before)


def test_a_family_that_does_not_obey_is_refused_and_unchanged():
    config = AutoConfig.for_model(
        "gpt_neo", vocab_size=60, hidden_size=32, num_layers=2, num_heads=4,
        attention_types=[[["global"], 2]], max_position_embeddings=64,
    )  # fmt: skip
    model = AutoModel.from_config(config)
    with pytest.raises(InputError, match=r"GPTNeoModel \(gpt_neo\) stays causal.*llama"):
        make_bidirectional(model)
    assert not hasattr(model.config, "is_causal")
    with pytest.raises(InputError, match="has no transformer"):
        make_bidirectional(ew.load("static"))


@pytest.fixture(scope="module")
def tokenizer():
    from embedworks.models import train_tokenizer

    return train_tokenizer([*TEXTS, "the quick brown fox"] * 4, vocab_size=300)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gemma"])
def test_padding_on_either_side_and_saving(kind, side, tokenizer, tmp_path):
    model = new_model(kind, tokenizer, dim=32, layers=2, heads=4, bidirectional=True, seed=1)
    model.tokenizer.padding_side = side
    check_bidirectional(model)
    together = model.encode(TEXTS)
    alone = np.concatenate([model.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=2e-6)
    model.save_pretrained(str(tmp_path))
    for again in (ew.load(tmp_path), SentenceTransformer(str(tmp_path), device="cpu")):
        assert attends_both_ways(again)
        np.testing.assert_allclose(again.encode(TEXTS), together, atol=2e-6)


def test_left_padding_with_absolute_positions_is_refused(tokenizer):
    model = new_model("gpt2", tokenizer, dim=32, layers=2, heads=4, seed=1)
    model.tokenizer.padding_side = "left"
    with pytest.raises(InputError, match="padding_side = 'right'"):
        make_bidirectional(model)
    assert getattr(model[0].auto_model.config, "is_causal", True)
    model.tokenizer.padding_side = "right"
    assert attends_both_ways(make_bidirectional(model))


def test_loading_proves_the_switch(tokenizer, tmp_path, monkeypatch):
    new_model(
        "llama", tokenizer, dim=32, layers=1, heads=4, bidirectional=True, seed=1
    ).save_pretrained(str(tmp_path))
    ew.load(tmp_path)
    import transformers.models.llama.modeling_llama as llama
    from transformers.masking_utils import create_causal_mask

    def deaf(config, **options):  # a version that does not read the switch
        twin = type(config).from_dict({**config.to_dict(), "is_causal": True})
        twin._attn_implementation = "eager"
        return create_causal_mask(config=twin, **options)

    monkeypatch.setattr(llama, "create_causal_mask", deaf)
    with pytest.raises(InputError, match="stays causal"):
        ew.load(tmp_path)
