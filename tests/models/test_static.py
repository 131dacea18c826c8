"""The static model: encoding, bad input, invariances."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest

from embedworks.errors import DataWarning, InputError, NonFiniteError, ShapeError
from embedworks.models import Encoder, StaticModel, _ragged

TEXTS = [
    "the cat sat",
    "How do I open a file?",
    "café — “line by line”",
    "unbelievable " * 300,
    "a",
]


def slow_encode(model: StaticModel, text: str) -> np.ndarray:
    ids = model.tokenizer.encode(text, add_special_tokens=False).ids
    mean = np.mean([model.table[i].astype(np.float64) for i in ids], axis=0)
    return mean / np.linalg.norm(mean)


def test_vector_is_the_normalised_mean_of_the_rows(model):
    vectors = model.encode(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, [slow_encode(model, t) for t in TEXTS], atol=1e-6)
    np.testing.assert_array_equal(model.encode_query(TEXTS), vectors)
    np.testing.assert_array_equal(model.encode_document(TEXTS), vectors)


def test_without_normalising_it_is_the_mean(model):
    one = model.encode(["the cat"], normalize=False)[0]
    ids, offsets = model.tokenize(["the cat"])
    np.testing.assert_allclose(one, model.table[ids].mean(axis=0), atol=1e-6)
    assert offsets.tolist() == [0, 2]
    raw = StaticModel(model.tokenizer, model.table, normalize=False)
    np.testing.assert_array_equal(raw.encode(["the cat"])[0], one)


def test_many_texts_take_the_fast_way_with_the_same_bits(model):
    many = TEXTS * 1500
    assert sum(map(len, many)) > 2 * _ragged.CHARS_BEFORE_FAST
    vectors = model.encode(many)
    assert model._ragged._fast is not None
    few = np.concatenate([_one_by_one(model, [text]) for text in TEXTS])
    np.testing.assert_array_equal(vectors, np.tile(few, (1500, 1)))


def _one_by_one(model: StaticModel, texts: list[str]) -> np.ndarray:
    ids, offsets = model._ragged.plain(texts)
    sums = _ragged.sum_rows(model.table, ids, offsets)
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def test_batch_size_and_order_do_not_matter(model):
    vectors = model.encode(TEXTS)
    for size in (1, 2, 100):
        np.testing.assert_array_equal(model.encode(TEXTS, batch_size=size), vectors)
    np.testing.assert_array_equal(model.encode(TEXTS[::-1])[::-1], vectors)


def test_ten_megabytes_in_one_line(model):
    text = "the cat sat on the mat 42 " * 400_000
    assert len(text) > 10_000_000
    vectors = model.encode([text, "the cat sat on the mat 42"])
    assert vectors[0] @ vectors[1] == pytest.approx(1, abs=1e-6)
    solid = model.encode(["x" * 10_000_000])
    np.testing.assert_array_equal(solid, model.encode(["x" * 101]))


def test_texts_without_tokens_are_zero_and_counted_once(model):
    with pytest.warns(DataWarning, match="3 of 4 texts have no token.*first is text 0") as caught:
        vectors = model.encode(["", "cat", " \n\t", "\u200b"])
    assert len(caught) == 1
    assert not vectors[[0, 2, 3]].any()
    assert np.isfinite(vectors).all()


def test_no_texts_give_no_vectors(model):
    assert model.encode([]).shape == (0, model.dim)
    ids, offsets = model.tokenize([])
    assert (len(ids), offsets.tolist()) == (0, [0])


def test_lone_surrogates_are_replaced_and_counted(model):
    with pytest.warns(DataWarning, match="1 of 2 texts hold characters that are not valid"):
        vectors = model.encode(["cat\ud800 sat", "cat"])
    np.testing.assert_array_equal(vectors[0], model.encode(["cat\ufffd sat"])[0])


@pytest.mark.parametrize(
    ("texts", "message"),
    [("one text", "list of strings, got one str"), (["a", None], r"texts\[1\] must be a string")],
)
def test_wrong_texts_are_refused(model, texts, message):
    for method in (model.encode, model.tokenize):
        with pytest.raises(InputError, match=message):
            method(texts)


def test_max_tokens_cuts_and_counts(model):
    short = StaticModel(model.tokenizer, model.table, max_tokens=3)
    with pytest.warns(DataWarning, match="1 of 2 texts are longer than this model's 3 tokens"):
        vectors = short.encode(["the cat sat on the mat", "the cat"])
    np.testing.assert_array_equal(vectors, model.encode(["the cat sat", "the cat"]))
    with pytest.warns(DataWarning, match="1 of 2"):
        assert short.tokenize(["the cat sat on", "a"])[1].tolist() == [0, 3, 4]


def test_truncation_and_padding_of_the_given_tokenizer_are_ignored(tokenizer, model):
    from tokenizers import Tokenizer

    other = Tokenizer.from_str(tokenizer.to_str())
    other.enable_truncation(2)
    other.enable_padding(length=9)
    np.testing.assert_array_equal(
        StaticModel(other, model.table).encode(TEXTS), model.encode(TEXTS)
    )
    assert other.truncation is not None


def test_bad_tables_and_settings_are_refused(tokenizer, model):
    with pytest.raises(ShapeError, match="one row per token id"):
        StaticModel(tokenizer, model.table[:-1])
    with pytest.raises(ShapeError, match="shape"):
        StaticModel(tokenizer, model.table[0])
    bad = model.table.copy()
    bad[3, 1] = np.nan
    with pytest.raises(NonFiniteError, match="first is row 3"):
        StaticModel(tokenizer, bad)
    with pytest.raises(InputError, match="max_tokens"):
        StaticModel(tokenizer, model.table, max_tokens=0)
    with pytest.raises(InputError, match="batch_size"):
        model.encode(["a"], batch_size=0)


def test_with_table_leaves_the_model_alone(tokenizer, model, table_for):
    before, content = model.encode(TEXTS), model.content_hash
    other = model.with_table(table_for(tokenizer, dim=8, seed=1))
    assert (other.dim, other.name) == (8, model.name)
    assert other.content_hash != content
    assert not np.allclose(other.encode(TEXTS)[:, 0], before[:, 0])
    np.testing.assert_array_equal(model.encode(TEXTS), before)
    assert model.content_hash == content
    with pytest.raises(ShapeError):
        model.with_table(model.table[:2])
    with pytest.raises(ValueError, match="read-only"):
        model.table[0] = 0


def test_similarity_is_the_cosine(model):
    vectors = model.encode(TEXTS)
    scores = model.similarity(3 * vectors, vectors[:2])
    np.testing.assert_allclose(scores, vectors @ vectors[:2].T, atol=1e-6)
    with pytest.raises(ShapeError):
        model.similarity(vectors, vectors[:, :3])


def test_it_is_an_encoder(model):
    assert isinstance(model, Encoder)
    assert model.get_embedding_dimension() == model.dim == 32
    assert "tiny" in repr(model)


def test_threads_give_the_same_bits(model, monkeypatch):
    results = []
    for threads in ("1", "3"):
        monkeypatch.setenv("EMBEDWORKS_THREADS", threads)
        results.append(model.encode(TEXTS * 20))
    np.testing.assert_array_equal(*results)


def test_a_cold_process_needs_neither_torch_nor_numba(tmp_path, model):
    folder = model.save_pretrained(tmp_path / "model")
    code = (
        "import sys, embedworks as ew; "
        f"ew.load({str(folder)!r}).encode(['the cat']); "
        "print(sorted({'torch', 'numba', 'sentence_transformers', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_progress_bar_is_silent_when_asked(model, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode(TEXTS, batch_size=1, show_progress_bar=False)
    assert capsys.readouterr() == ("", "")
