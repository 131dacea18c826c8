"""Memory vectors: texts come back whole, more vectors hold more, the model stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedworks.errors import EmptyInputError
from embedworks.models import (
    VectorDecoderSettings,
    capacity_curve,
    memory_vectors,
    new_language_model,
    train_tokenizer,
    train_vector_decoder,
)
from embedworks.models.inversion.decoder import target_tokens

WORDS = ["tea", "rye", "oat", "fig", "yam", "nut", "egg", "ham", "red", "old", "hot", "raw"]
TEXTS = [" ".join(np.random.default_rng(i).choice(WORDS, 14)) for i in range(8)]


class Places:
    """Which word stands at which of four places."""

    def encode(self, texts):
        rows = [[WORDS.index(word) for word in text.split()] for text in texts]
        return np.eye(len(WORDS))[rows].reshape(len(rows), -1)


@pytest.fixture(scope="module")
def parts():
    """A language model that has learned to listen to vectors; random ones hardly do."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=290)
    lm = new_language_model("llama", tokenizer, dim=48, layers=1, heads=4, max_tokens=96)
    short = [" ".join(np.random.default_rng(i).choice(WORDS, 4)) for i in range(1500)]
    settings = VectorDecoderSettings(slots=4, steps=150, batch_size=64, learning_rate=5e-3)
    train_vector_decoder(Places(), short, lm, tokenizer, settings)
    return lm, tokenizer


def test_exact_texts_are_written_back_by_greedy_decoding(parts):
    lm, tokenizer = parts
    before = {name: value.clone() for name, value in lm.state_dict().items()}
    found = memory_vectors(
        lm, tokenizer, TEXTS, slots=4, steps=150, learning_rate=0.1, max_tokens=4
    )
    assert found.exact.mean() > 0.5
    rows = target_tokens(tokenizer, TEXTS, 4, end=False)
    for i in range(len(TEXTS)):
        written = lm.generate(
            inputs_embeds=torch.from_numpy(found.vectors[i : i + 1]),
            attention_mask=torch.ones(1, 4, dtype=torch.long),
            do_sample=False, max_new_tokens=4, min_new_tokens=4, pad_token_id=0,
        )  # fmt: skip
        assert (written[0].tolist() == rows[i].tolist()) == found.exact[i]
    assert all(torch.equal(before[name], value) for name, value in lm.state_dict().items())
    assert all(weight.requires_grad for weight in lm.parameters())


def test_more_vectors_hold_more_and_longer_texts_are_harder(parts):
    lm, tokenizer = parts
    curve = capacity_curve(
        lm, tokenizer, TEXTS, slots=(1, 4, 12), lengths=(3, 12), steps=100, learning_rate=0.1
    )
    by = {(row.slots, row.length): row for row in curve}
    assert by[1, 12].accuracy < by[4, 12].accuracy < by[12, 12].accuracy
    assert by[4, 3].accuracy > 0.9
    assert by[1, 3].accuracy > by[1, 12].accuracy
    for row in curve:
        assert row.accuracy >= row.accuracy_alone
        assert row.tokens_gained == pytest.approx((row.accuracy - row.accuracy_alone) * row.length)
        assert row.to_dict()["texts"] == 8


def test_texts_do_not_touch_each_other(parts):
    lm, tokenizer = parts
    options = {"slots": 1, "steps": 20, "learning_rate": 0.05, "max_tokens": 8}
    one = memory_vectors(lm, tokenizer, TEXTS[:1], **options)
    many = memory_vectors(lm, tokenizer, TEXTS[:3], **options)
    np.testing.assert_array_equal(one.right[0], many.right[0])
    np.testing.assert_array_equal(one.right_alone[0], many.right_alone[0])


def test_too_long_lengths_are_named(parts):
    lm, tokenizer = parts
    with pytest.raises(EmptyInputError, match="no text has 900 tokens"):
        capacity_curve(lm, tokenizer, TEXTS, lengths=(900,))
    with pytest.raises(EmptyInputError, match="no texts"):
        memory_vectors(lm, tokenizer, [])
