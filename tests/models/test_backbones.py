"""Models from scratch: sizes are what was asked for, and they save, load and repeat."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

import embedworks as ew  # noqa: E402
from embedworks.errors import EmptyInputError, InputError, UnknownNameError  # noqa: E402
from embedworks.models import ARCHITECTURES, new_model, train_tokenizer  # noqa: E402

TEXTS = ["read a file", "a heap is a binary tree with the smallest item at its root", "gzip"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([*TEXTS, "the quick brown fox jumps"] * 4, vocab_size=300)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_the_sizes_and_repeats(architecture, tokenizer, tmp_path):
    def make(seed):
        return new_model(
            architecture, tokenizer, dim=24, layers=2, heads=3, ff_dim=40, max_tokens=32, seed=seed
        )

    model = make(0)
    config = model[0].auto_model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (24, 2, 3)
    assert config.vocab_size == len(tokenizer)
    assert any(p.shape in ((40, 24), (24, 40), (80, 24)) for p in model.parameters())
    vectors = model.encode(TEXTS)
    assert vectors.shape == (3, 24)
    np.testing.assert_array_equal(make(0).encode(TEXTS), vectors)
    assert abs(make(1).encode(TEXTS) - vectors).max() > 1e-3
    ew.models.save(model, tmp_path / "model")
    np.testing.assert_allclose(ew.load(tmp_path / "model").encode(TEXTS), vectors, atol=1e-6)


def test_making_a_model_leaves_the_random_state_alone(tokenizer):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    new_model("bert", tokenizer, dim=8, layers=1, heads=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_tokenizer_writes_any_text(tokenizer):
    for text in ("naïve 東京 😀", "tabs\tand\nlines", "ÆØÅ"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert ids[0] == tokenizer.cls_token_id
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer) == 300
    assert len(tokenizer("a " * 600, truncation=True)["input_ids"]) == 512
    lower = train_tokenizer(["A File"], vocab_size=262, lowercase=True)
    assert lower.decode(lower("A File")["input_ids"], skip_special_tokens=True) == "a file"


def test_nonsense_is_refused(tokenizer):
    with pytest.raises(InputError, match="261 or more"):
        train_tokenizer(["a"], vocab_size=200)
    with pytest.raises(EmptyInputError):
        train_tokenizer([" "], vocab_size=300)
    with pytest.raises(UnknownNameError, match="Did you mean 'llama'"):
        new_model("lama", tokenizer)
    with pytest.raises(InputError, match="heads must divide"):
        new_model("bert", tokenizer, dim=10, heads=3)
    with pytest.raises(InputError, match=r"has no \['rope_bass'\]"):
        new_model("llama", tokenizer, rope_bass=1)
