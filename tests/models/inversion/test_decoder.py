"""Vector decoders: they read what the vector says, batch by batch alike, and come back whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedworks.errors import FormatError, InputError, NotFoundError, ShapeError
from embedworks.models import (
    VectorDecoder,
    VectorDecoderSettings,
    new_language_model,
    train_tokenizer,
    train_vector_decoder,
)
from embedworks.models.inversion.decoder import padded_rows, target_tokens

NOUNS = ["tea", "rye", "oat", "fig", "yam", "nut"]
LOOKS = ["red", "old", "hot", "raw", "big", "dry"]
TEXTS = [f"the {look} {noun}" for look in LOOKS for noun in NOUNS]


class Words:
    """One dimension per word, so a vector tells its two words."""

    def encode(self, texts):
        return np.array([[float(w in t.split()) for w in LOOKS + NOUNS] for t in texts]) + 0.01


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=300)


def _lm(tokenizer, architecture="llama", dim=32):
    return new_language_model(
        architecture, tokenizer, dim=dim, layers=1, heads=2, ff_dim=64, max_tokens=64
    )


@pytest.fixture(scope="module")
def trained(tokenizer):
    held = TEXTS[::7]
    seen = [text for text in TEXTS if text not in held]
    settings = VectorDecoderSettings(slots=2, steps=250, batch_size=30, learning_rate=5e-3)
    return held, train_vector_decoder(Words(), seen, _lm(tokenizer), tokenizer, settings)


def test_unseen_texts_are_read(trained):
    held, training = trained
    written = [best for (best,) in training.decoder.write(Words().encode(held), max_tokens=12)]
    assert np.mean([a == b for a, b in zip(written, held, strict=True)]) >= 0.5
    assert training.losses[-1] < 0.3 * training.losses[0]


def test_shuffled_vectors_give_other_texts(trained):
    held, training = trained
    written = [
        best for (best,) in training.decoder.write(Words().encode(held[::-1]), max_tokens=12)
    ]
    assert np.mean([a == b for a, b in zip(written, held, strict=True)]) < 0.5


def test_beams_give_several_answers_and_batches_do_not_matter(trained):
    held, training = trained
    vectors = Words().encode(held)
    several = training.decoder.write(vectors, beams=3, answers=3, max_tokens=12)
    assert all(len(set(row)) > 1 for row in several)
    assert several == training.decoder.write(
        vectors, beams=3, answers=3, max_tokens=12, batch_size=1
    )


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("corrects", [False, True])
def test_padding_changes_no_loss(tokenizer, architecture, corrects):
    decoder = VectorDecoder(_lm(tokenizer, architecture), tokenizer, 4, slots=2, corrects=corrects)
    rows = target_tokens(tokenizer, ["the red tea", "the old"], 20)
    vectors = torch.eye(4)[:2]
    guesses = [row[: 2 + 3 * i] for i, row in enumerate(target_tokens(tokenizer, TEXTS[:2], 9))]

    def loss(places):
        read = {}
        if corrects:
            read = {
                "guess_vectors": 0.5 * vectors[places],
                "guess_ids": padded_rows([guesses[i] for i in places], left=True),
            }
        return decoder(vectors[places], padded_rows([rows[i] for i in places]), **read)

    both = loss([0, 1])
    for place in (0, 1):
        alone = loss([place])
        torch.testing.assert_close(both[place, : alone.shape[1]], alone[0], rtol=1e-4, atol=1e-4)
        assert not both[place, alone.shape[1] :].any()


def test_the_loss_is_that_of_one_token_at_a_time(tokenizer):
    decoder = VectorDecoder(_lm(tokenizer), tokenizer, 4, slots=3)
    ids = padded_rows(target_tokens(tokenizer, ["the red tea"], 20))
    vector = torch.eye(4)[:1]
    soft, _ = decoder.prefix(vector)
    slow = []
    for place in range(ids.shape[1]):
        words = decoder.language_model.get_input_embeddings()(ids[:, :place])
        logits = decoder.language_model(inputs_embeds=torch.cat([soft, words], dim=1)).logits
        slow.append(-logits[0, -1].double().log_softmax(-1)[ids[0, place]])
    torch.testing.assert_close(
        decoder(vector, ids)[0].double(), torch.stack(slow), rtol=1e-4, atol=1e-5
    )


def test_a_frozen_language_model_stays(tokenizer):
    lm = _lm(tokenizer)
    before = {name: value.clone() for name, value in lm.state_dict().items()}
    settings = VectorDecoderSettings(slots=1, steps=3, freeze_language_model=True)
    train_vector_decoder(Words(), TEXTS, lm, tokenizer, settings)
    assert all(torch.equal(before[name], value) for name, value in lm.state_dict().items())


def test_save_and_load(trained, tmp_path):
    held, training = trained
    folder = training.decoder.save(tmp_path / "decoder")
    again = VectorDecoder.load(folder)
    vectors = Words().encode(held)
    assert again.write(vectors, max_tokens=12) == training.decoder.write(vectors, max_tokens=12)
    assert not list(folder.rglob("*.bin"))
    (folder / "decoder.json").write_text(
        '{"version": 1, "vector_dim": 5, "slots": 2, "corrects": false}'
    )
    with pytest.raises(FormatError, match="does not fit"):
        VectorDecoder.load(folder)
    (folder / "decoder.json").write_text('{"version": 9}')
    with pytest.raises(FormatError, match="version"):
        VectorDecoder.load(folder)
    with pytest.raises(NotFoundError):
        VectorDecoder.load(tmp_path / "nowhere")


def test_bad_input_is_refused(tokenizer, trained):
    decoder = trained[1].decoder
    with pytest.raises(ShapeError, match="12 dimensions"):
        decoder.write(np.eye(3))
    with pytest.raises(InputError, match="no guesses"):
        decoder.write(np.eye(12), guesses=["a"] * 12, guess_vectors=np.eye(12))
    with pytest.raises(ShapeError, match="as many"):
        decoder.write(np.eye(12), guesses=["a"], guess_vectors=np.eye(12))
    with pytest.raises(InputError, match="answers"):
        decoder.write(np.eye(12), answers=2)
    with pytest.raises(ShapeError, match="targets"):
        train_vector_decoder(Words(), TEXTS, _lm(tokenizer), tokenizer, targets=["a"])
    with pytest.raises(ShapeError, match="vectors"):
        train_vector_decoder(None, TEXTS, _lm(tokenizer), tokenizer, vectors=np.eye(3))
