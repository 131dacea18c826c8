"""`encode_batched` and `model_fingerprint` over static, transformer and foreign models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import embedworks as ew
from embedworks.errors import DataWarning, InputError, NonFiniteError
from embedworks.models import StaticModel, encode_batched, model_fingerprint
from embedworks.models.encoding import _budget_batches

TEXTS = ["the file", "a", "open and read the file " * 5, "return the sum of values", "x y z"] * 4


class Lengths:
    """A model of another library: only the three methods."""

    def encode(self, texts):
        return np.array([[len(text), 1] for text in texts], dtype=np.float64)

    encode_query = encode_document = encode


@pytest.fixture(scope="module")
def transformer(transformer_folder):
    return ew.load(transformer_folder, device="cpu")


def test_static_models_are_simply_called(model):
    vectors, stats = encode_batched(model, TEXTS)
    np.testing.assert_array_equal(vectors, model.encode(TEXTS))
    assert (stats.texts, stats.truncated) == (20, 0)
    assert stats.tokens == len(model.tokenize(TEXTS)[0])
    assert stats.tokens_per_second > stats.texts_per_second > 0


def test_warnings_of_static_models_come_through(model):
    short = StaticModel(model.tokenizer, model.table, max_tokens=3)
    with pytest.warns(DataWarning, match="8 of 20 texts are longer") as caught:
        _, stats = encode_batched(short, TEXTS)
    assert len(caught) == 1
    assert stats.truncated == 8
    with pytest.warns(DataWarning, match="1 of 2 texts have no token"):
        encode_batched(model, ["", "cat"])


@pytest.mark.parametrize("budget", [1, 30, 1024])
@pytest.mark.parametrize("role", [None, "query", "document"])
def test_vectors_equal_the_plain_way_and_keep_their_order(transformer, budget, role):
    vectors, stats = encode_batched(transformer, TEXTS, role=role, tokens_per_batch=budget)
    plain = transformer.encode(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, plain, atol=1e-5)
    assert ((vectors * plain).sum(axis=1) > 0.99999).all()
    ids = transformer.tokenizer(TEXTS)["input_ids"]
    assert stats.tokens == sum(map(len, ids))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_are_larger_on_a_gpu(transformer, device):
    sizes = []

    class Elsewhere:
        """Says that it is on a device, and computes where it really is."""

        tokenizer, max_seq_length = transformer.tokenizer, transformer.max_seq_length

        def __init__(self):
            self.device = type("Device", (), {"type": device})()

        def encode(self, texts, **options):
            sizes.append(len(texts))
            return transformer.encode(texts, **options)

    texts = ["read a file"] * 500
    tokens = len(transformer.tokenizer(texts[0])["input_ids"])
    vectors, stats = encode_batched(Elsewhere(), texts)
    assert stats.tokens == 500 * tokens
    assert vectors.shape[0] == sum(sizes) == 500
    assert len(sizes) == (-(-500 // (1024 // tokens)) if device == "cpu" else 1)


def test_texts_the_model_cuts_are_counted_once(transformer):
    texts = ["read the file " * 40, "a", "open " * 70]
    with pytest.warns(DataWarning, match="2 of 3 texts are longer than the 64 tokens") as caught:
        vectors, stats = encode_batched(transformer, texts)
    assert len(caught) == 1
    assert stats.truncated == 2
    np.testing.assert_allclose(vectors, transformer.encode(texts), atol=1e-5)


def test_empty_texts_are_counted(transformer):
    with pytest.warns(DataWarning, match="1 of 2 texts are empty"):
        vectors, _ = encode_batched(transformer, [" ", "a"])
    assert np.isfinite(vectors).all()


def test_other_models_get_nothing_but_the_texts():
    vectors, stats = encode_batched(Lengths(), ["abc", "d"], role="query")
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[3, 1], [1, 1]]
    assert stats.tokens == 0


def test_no_texts(model, transformer):
    assert encode_batched(model, [])[0].shape == (0, 32)
    vectors, stats = encode_batched(transformer, [])
    assert vectors.shape == (0, 32)
    assert stats.texts == 0


def test_bad_input(model):
    with pytest.raises(InputError, match="list of strings"):
        encode_batched(model, "text")
    with pytest.raises(InputError, match="tokens_per_batch"):
        encode_batched(model, ["text"], tokens_per_batch=0)

    class Broken(Lengths):
        def encode(self, texts):
            return np.full((len(texts), 2), np.nan)

    with pytest.raises(NonFiniteError):
        encode_batched(Broken(), ["text"])


@given(st.lists(st.integers(1, 600), max_size=60), st.integers(1, 2000))
def test_batches_cover_everything_and_keep_the_budget(counts, budget):
    ordered = np.sort(np.array(counts, dtype=np.int64))[::-1]
    batches = _budget_batches(ordered, budget)
    covered = [place for low, high in batches for place in range(low, high)]
    assert covered == list(range(len(counts)))
    for low, high in batches:
        assert high - low == 1 or (high - low) * ordered[low] <= budget


def test_fingerprints_follow_the_content(model, tmp_path, transformer_folder):
    again = ew.load(model.save_pretrained(tmp_path / "m"))
    assert model_fingerprint(again) == model_fingerprint(model)
    prints = {model_fingerprint(model), model_fingerprint(model.with_table(model.table * 2))}
    one, two = (ew.load(transformer_folder, device="cpu") for _ in range(2))
    assert model_fingerprint(one) == model_fingerprint(two)
    prints.add(model_fingerprint(one))
    next(two.parameters()).data[0, 0] += 1e-3
    prints.add(model_fingerprint(two))
    one.max_seq_length = 7
    prints.add(model_fingerprint(one))
    prints.add(model_fingerprint(Lengths()))
    assert len(prints) == 6
    assert all(len(value) == 16 for value in prints)
