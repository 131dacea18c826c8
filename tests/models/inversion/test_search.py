"""Correction and guided writing: nearer texts with every step, and found without training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedworks.errors import InputError
from embedworks.models import (
    VectorDecoder,
    VectorDecoderSettings,
    guided_inversion,
    invert_vectors,
    new_language_model,
    train_tokenizer,
    train_vector_corrector,
    train_vector_decoder,
)

NOUNS = ["tea", "rye", "oat", "fig", "yam", "nut", "egg", "ham"]
LOOKS = ["red", "old", "hot", "raw", "big", "dry", "wet", "new"]
PLACES = ["inn", "bar", "pub", "den"]
TEXTS = [f"the {a} {b} in the {c}" for a in LOOKS for b in NOUNS for c in PLACES]


class Words:
    """One dimension per word."""

    def encode(self, texts):
        words = LOOKS + NOUNS + PLACES
        return np.array([[float(w in t.split()) for w in words] for t in texts]) + 0.01


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=320)


def _lm(tokenizer):
    return new_language_model(
        "llama", tokenizer, dim=32, layers=1, heads=2, ff_dim=64, max_tokens=64
    )


@pytest.fixture(scope="module")
def pair(tokenizer):
    """A decoder that is half trained, so there is something to correct, and its corrector."""
    held, seen = TEXTS[::5], [t for i, t in enumerate(TEXTS) if i % 5]
    settings = VectorDecoderSettings(
        slots=2, steps=120, batch_size=64, learning_rate=3e-3, max_tokens=12
    )
    decoder = train_vector_decoder(Words(), seen, _lm(tokenizer), tokenizer, settings).decoder
    corrector = train_vector_corrector(decoder, Words(), seen, settings).decoder
    return held, decoder, corrector


def _exact(found, held):
    return np.mean([a == b for a, b in zip(found.texts, held, strict=True)])


def test_steps_never_go_away_from_the_vector_and_find_more(pair):
    held, decoder, corrector = pair
    vectors = Words().encode(held)
    first = invert_vectors(vectors, decoder, Words(), beams=2, max_tokens=12)
    more = invert_vectors(
        vectors, decoder, Words(), corrector=corrector, steps=3, beams=2, width=2, max_tokens=12
    )
    assert more.cosines.shape == (4, len(held))
    assert (np.diff(more.cosines, axis=0) >= 0).all()
    np.testing.assert_allclose(more.cosines[0], first.cosines[0], atol=1e-5)
    assert _exact(more, held) > _exact(first, held)
    own = Words().encode(more.texts)
    cosines = (own * vectors).sum(1) / np.linalg.norm(own, axis=1) / np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(more.cosines[-1], cosines, atol=1e-5)


def test_a_corrector_comes_back_whole(pair, tmp_path):
    held, decoder, corrector = pair
    again = VectorDecoder.load(corrector.save(tmp_path / "corrector"))
    vectors = Words().encode(held[:4])
    options = {"steps": 1, "beams": 2, "max_tokens": 12}
    one = invert_vectors(vectors, decoder, Words(), corrector=corrector, **options)
    assert one.texts == invert_vectors(vectors, decoder, Words(), corrector=again, **options).texts


def test_guidance_needs_no_training(tokenizer):
    held = [TEXTS[3], TEXTS[100], TEXTS[-1]]
    vectors = Words().encode(held)
    lm = _lm(tokenizer)
    options = {"beams": 4, "branch": len(tokenizer), "max_tokens": 6}
    led = guided_inversion(vectors, Words(), lm, tokenizer, weight=50.0, **options)
    alone = guided_inversion(vectors, Words(), lm, tokenizer, weight=0.0, **options)
    assert (np.diff(led.cosines, axis=0) >= 0).all()
    assert led.cosines[-1].mean() > alone.cosines[-1].mean() + 0.1
    for text, wanted in zip(led.texts, held, strict=True):
        assert set(wanted.split()) - {"the", "in"} <= set(text.split())


def test_log_likelihoods_lead_where_the_cosine_does_not(pair):
    _, decoder, _ = pair
    vectors = Words().encode(TEXTS[:2])
    found = guided_inversion(vectors, Words(), decoder, weight=0.0, beams=1, branch=1, max_tokens=5)
    greedy = [best for (best,) in decoder.write(vectors, max_tokens=5)]
    for text, whole in zip(found.texts, greedy, strict=True):
        assert whole.startswith(text)


def test_bad_input_is_refused(pair, tokenizer):
    _, decoder, corrector = pair
    vectors = Words().encode(TEXTS[:2])
    with pytest.raises(InputError, match="need a corrector"):
        invert_vectors(vectors, decoder, Words(), steps=1)
    with pytest.raises(InputError, match="not both"):
        invert_vectors(vectors, corrector, Words())
    with pytest.raises(InputError, match="reads no guesses"):
        train_vector_corrector(corrector, Words(), TEXTS)
    with pytest.raises(InputError, match="tokenizer"):
        guided_inversion(vectors, Words(), decoder.language_model)
    with pytest.raises(InputError, match="weight"):
        guided_inversion(vectors, Words(), decoder, weight=-1.0)


def test_empty_guesses_are_no_error(pair):
    _, _, corrector = pair
    with torch.no_grad():
        written = corrector.write(
            Words().encode(TEXTS[:2]), guesses=["", "the"], guess_vectors=np.zeros((2, 20)),
            max_tokens=4,
        )  # fmt: skip
    assert len(written) == 2
