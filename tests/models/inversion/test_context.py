"""A vector in the place of a text: worth more than nothing, less than the text."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from embedworks.errors import InputError, ShapeError
from embedworks.models import (
    VectorDecoder,
    VectorDecoderSettings,
    context_losses,
    new_language_model,
    train_tokenizer,
    train_vector_decoder,
)
from embedworks.models.inversion.decoder import end_token, padded_rows, target_tokens

NOUNS = ["tea", "rye", "oat", "fig", "yam", "nut"]
LOOKS = ["red", "old", "hot", "raw", "big", "dry"]
TEXTS = [f"the {look} {noun}" for look in LOOKS for noun in NOUNS]
NEXT = [f"{text.split()[2]} please" for text in TEXTS]


class Words:
    """One dimension per word."""

    def encode(self, texts):
        return np.array([[float(w in t.split()) for w in LOOKS + NOUNS] for t in texts]) + 0.01


@pytest.fixture(scope="module")
def parts():
    """A language model that has learned what follows a text."""
    tokenizer = train_tokenizer([*TEXTS, *NEXT], vocab_size=310)
    lm = new_language_model("llama", tokenizer, dim=48, layers=2, heads=4, max_tokens=64)
    begin, end = [tokenizer.bos_token_id], [end_token(tokenizer)]
    ids = padded_rows(
        [
            np.array([*begin, *a, *end, *begin, *b])
            for a, b in zip(
                target_tokens(tokenizer, TEXTS, 20, end=False),
                target_tokens(tokenizer, NEXT, 20),
                strict=True,
            )
        ]
    )
    optimizer = torch.optim.AdamW(lm.parameters(), lr=4e-3)
    for _ in range(200):
        out = lm(input_ids=ids.clamp(min=0), labels=ids.masked_fill(ids < 0, -100))
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return lm, tokenizer


def test_a_vector_stands_between_nothing_and_the_text(parts):
    lm, tokenizer = parts
    settings = VectorDecoderSettings(
        slots=1, steps=40, batch_size=30, learning_rate=1e-2, freeze_language_model=True
    )
    held = np.arange(len(TEXTS)) % 7 == 0
    seen = np.flatnonzero(~held)
    made = train_vector_decoder(
        Words(), [TEXTS[i] for i in seen], lm, tokenizer, settings, targets=[NEXT[i] for i in seen]
    )
    unseen = np.flatnonzero(held)
    texts, follow = [TEXTS[i] for i in unseen], [NEXT[i] for i in unseen]
    found = context_losses(made.decoder, Words().encode(texts), texts, follow)
    assert found.none > found.vector + 0.1
    assert found.vector > found.text
    wrong = context_losses(made.decoder, Words().encode(texts[::-1]), texts, follow)
    assert wrong.vector > found.vector + 0.1
    assert (wrong.none, wrong.text) == pytest.approx((found.none, found.text))
    assert set(found.to_dict()) == {"none", "vector", "text"}


def test_batches_do_not_matter_and_the_loss_is_the_language_model_s(parts):
    lm, tokenizer = parts
    decoder = VectorDecoder(lm, tokenizer, 12, slots=1)
    vectors, texts = Words().encode(TEXTS[:3]), ["a", "the red tea", "the old"]
    one = context_losses(decoder, vectors, texts, NEXT[:3], batch_size=1)
    all_of_them = context_losses(decoder, vectors, texts, NEXT[:3])
    assert one.to_dict() == pytest.approx(all_of_them.to_dict(), rel=1e-4)
    np.testing.assert_allclose(one.by_text, all_of_them.by_text, rtol=1e-4)


@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("continues", [True, False])
def test_losses_are_those_of_one_token_at_a_time(parts, begins, continues):
    lm, tokenizer = parts
    if not begins:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.bos_token = None
    decoder = VectorDecoder(lm, tokenizer, 12, slots=1)
    texts, end = ["a", "the red tea", "the old"], end_token(tokenizer)
    found = context_losses(decoder, Words().encode(TEXTS[:3]), texts, NEXT[:3], continues=continues)
    begin = tokenizer.bos_token_id if begins else end
    between = {(True, False): [end, begin], (False, False): [end]}.get((begins, continues), [])
    sums, counts = np.zeros(2), 0
    for number, (text, follow) in enumerate(zip(texts, NEXT[:3], strict=True)):
        told = target_tokens(tokenizer, [follow], 20)[0]
        read = target_tokens(tokenizer, [text], 20, end=False)[0]
        own = np.zeros(2)
        for column, before in enumerate([[begin], [begin, *read, *between]]):
            rows = torch.tensor([[*before, *told]])
            logits = lm(input_ids=rows).logits[0].double().log_softmax(-1)
            for place in range(len(before), rows.shape[1]):
                own[column] -= float(logits[place - 1, rows[0, place]])
        np.testing.assert_allclose(found.by_text[number, [0, 2]], own / len(told), rtol=1e-4)
        sums, counts = sums + own, counts + len(told)
    assert [found.none, found.text] == pytest.approx(list(sums / counts), rel=1e-4)


def test_bad_input_is_refused(parts):
    lm, tokenizer = parts
    with pytest.raises(ShapeError, match="2 texts"):
        context_losses(VectorDecoder(lm, tokenizer, 12), np.eye(12), TEXTS[:2], NEXT[:2])
    with pytest.raises(InputError, match="corrector"):
        decoder = VectorDecoder(lm, tokenizer, 12, corrects=True)
        context_losses(decoder, np.eye(12), TEXTS[:12], NEXT[:12])
