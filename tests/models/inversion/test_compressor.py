"""A trained memory: texts come back, more vectors hold more, and losses are plain loops'."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedworks.errors import EmptyInputError, FormatError, InputError, ShapeError
from embedworks.models import (
    TextCompressor,
    TextCompressorSettings,
    new_language_model,
    train_text_compressor,
    train_tokenizer,
    write_from_memory,
)
from embedworks.models.inversion.decoder import end_token, padded_rows, target_tokens

WORDS = ["tea", "rye", "oat", "fig", "yam", "nut", "egg", "ham"]


def sentences(count, words, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, words)) for _ in range(count)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(sentences(60, 6, 0), vocab_size=285)


def language_model(tokenizer, architecture="llama", **sizes):
    values = {"dim": 32, "layers": 1, "heads": 2, "max_tokens": 64, **sizes}
    return new_language_model(architecture, tokenizer, **values)


def trained(tokenizer, slots):
    settings = TextCompressorSettings(
        slots=slots, steps=300, batch_size=64, learning_rate=3e-3, max_tokens=4,
        freeze_language_model=False,
    )  # fmt: skip
    lm = language_model(tokenizer, layers=2)
    texts = sentences(1500, 3, 1)
    after = [" ".join(text.split()[:1] * 2) for text in texts]
    return train_text_compressor(texts, lm, tokenizer, settings, continuations=after)


@pytest.fixture(scope="module")
def one(tokenizer):
    return trained(tokenizer, 1)


@pytest.fixture(scope="module")
def three(tokenizer):
    return trained(tokenizer, 3)


def right(compressor, texts):
    """Share of words that come back in their place."""
    found = compressor.write(compressor.compress(texts), max_tokens=8)
    pairs = [(a.split(), b.split()) for a, b in zip(found, texts, strict=True)]
    return np.mean([np.mean([x == y for x, y in zip(a, b, strict=False)]) for a, b in pairs])


def test_texts_come_back_and_more_vectors_hold_more(one, three, tokenizer):
    held = sorted(set(sentences(80, 3, 2)) - set(sentences(1500, 3, 1)))
    assert len(held) > 5
    assert len(target_tokens(tokenizer, held[:1], 9, end=False)[0]) == 3
    assert right(three.compressor, held) > 0.9
    assert right(one.compressor, held) < right(three.compressor, held) - 0.05
    assert three.losses[-1] < 0.5 * three.losses[0]
    assert three.cut == 0


def test_what_follows_is_told_without_being_asked_for_the_text(three):
    texts = ["fig tea nut", "ham oat rye"]
    memory = three.compressor.compress(texts)
    said = write_from_memory(
        three.compressor.language_model, three.compressor.tokenizer, memory, max_tokens=8
    )
    assert said == ["fig fig", "ham ham"]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3"])
def test_losses_are_those_of_one_text_at_a_time(tokenizer, architecture):
    lm = language_model(tokenizer, architecture).eval()
    compressor = TextCompressor(lm, tokenizer, slots=2).eval()
    texts = ["tea", "rye oat fig yam", "nut egg"]
    rows = target_tokens(tokenizer, texts, 20, end=False)
    memory = compressor.memory(padded_rows(rows, left=True))
    for again in (True, False):
        ids = padded_rows([np.append(row, end_token(tokenizer)) for row in rows])
        losses = compressor(memory, ids, again=again)
        assert losses.shape == ids.shape
        for i, row in enumerate(rows):
            words = compressor.encoder.get_input_embeddings()(torch.from_numpy(row))
            read = torch.cat([words, compressor.memory_tokens])[None]
            state = compressor.encoder(inputs_embeds=read).last_hidden_state[0, -2:]
            alone = compressor.projection(state)
            torch.testing.assert_close(alone, memory[i], atol=1e-5, rtol=1e-4)
            before = [*alone, *([compressor.again] if again else [])]
            told = [*row.tolist(), end_token(tokenizer)]
            table = lm.get_input_embeddings().weight
            for place, token in enumerate(told):
                inputs = torch.stack([*before, *table[told[:place]]])[None]
                expected = -lm(inputs_embeds=inputs).logits[0, -1].log_softmax(-1)[token]
                torch.testing.assert_close(losses[i, place], expected, atol=1e-4, rtol=1e-4)
            assert losses[i, len(told) :].eq(0).all()


def test_a_frozen_language_model_stays_and_batches_do_not_matter(tokenizer):
    lm = language_model(tokenizer)
    before = {name: value.clone() for name, value in lm.state_dict().items()}
    settings = TextCompressorSettings(slots=2, steps=3, batch_size=4)
    made = train_text_compressor(sentences(20, 5, 3), lm, tokenizer, settings)
    assert all(torch.equal(before[name], value) for name, value in lm.state_dict().items())
    twin = train_text_compressor(sentences(20, 5, 3), lm, tokenizer, settings)
    texts = ["tea", "rye oat fig yam egg ham", "nut"]
    memory = made.compressor.compress(texts)
    np.testing.assert_array_equal(twin.compressor.compress(texts), memory)
    np.testing.assert_allclose(made.compressor.compress(texts, batch_size=1), memory, atol=1e-6)


def test_it_saves_and_loads(three, tmp_path):
    folder = three.compressor.save(tmp_path / "memory")
    again = TextCompressor.load(folder)
    memory = three.compressor.compress(["fig tea nut"])
    np.testing.assert_allclose(again.compress(["fig tea nut"]), memory, atol=1e-6)
    assert again.write(memory) == three.compressor.write(memory)
    (folder / "compressor.json").write_text('{"version": 1, "slots": 7}')
    with pytest.raises(FormatError, match="does not fit"):
        TextCompressor.load(folder)
    (folder / "compressor.json").write_text('{"version": 9}')
    with pytest.raises(FormatError, match="version 1"):
        TextCompressor.load(folder)


def test_bad_input_is_refused(tokenizer):
    lm = language_model(tokenizer)
    compressor = TextCompressor(lm, tokenizer, slots=2)
    with pytest.raises(ShapeError, match=r"\(N, 2, 32\)"):
        compressor.write(np.zeros((1, 3, 32)))
    with pytest.raises(ShapeError, match=r"\(N, K, 32\)"):
        write_from_memory(lm, tokenizer, np.zeros((1, 32)))
    with pytest.raises(EmptyInputError, match="no texts"):
        compressor.compress([])
    with pytest.raises(EmptyInputError, match="no texts"):
        train_text_compressor([], lm, tokenizer)
    with pytest.raises(ShapeError, match="1 texts and 2"):
        train_text_compressor(["tea"], lm, tokenizer, continuations=["a", "b"])
    with pytest.raises(InputError, match="no loss"):
        train_text_compressor(["tea"], lm, tokenizer, TextCompressorSettings(again_weight=0.0))
