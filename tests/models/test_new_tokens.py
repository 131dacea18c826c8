"""New tokens: texts without them keep their vectors, rows start as the mean of pieces."""

from __future__ import annotations

import numpy as np
import pytest

import embedworks as ew
from embedworks.errors import EmptyInputError, InputError
from embedworks.models import add_tokens, frequent_split_words, new_model, train_tokenizer

PLAIN = ["a file in a folder", "the folder of files", "zebras and zebr"]
DOMAIN = ["a zebra in a folder", "Zebra and okapi", "the zebra, the okapi"]


@pytest.fixture(params=["bert", "qwen3"])
def model(request):
    tokenizer = train_tokenizer(PLAIN[:2] * 3, 300, max_tokens=64)
    return new_model(request.param, tokenizer, dim=16, layers=2, heads=2, max_tokens=64)


def test_words_are_read_whole_and_other_texts_keep_their_vectors(model, tmp_path):
    before, pieces = model.encode(PLAIN), model.tokenizer.tokenize("a zebra")
    table = model[0].auto_model.get_input_embeddings().weight.detach().clone()
    ids = model.tokenizer("a zebra", add_special_tokens=False)["input_ids"][1:]
    assert len(pieces) > 3
    assert add_tokens(model, ["zebra", "okapi", "a"]) == ("zebra", "okapi")
    np.testing.assert_array_equal(model.encode(PLAIN), before)
    new = range(len(table), len(table) + 2)
    ids_of = model.tokenizer("a zebra, an okapi", add_special_tokens=False)["input_ids"]
    assert ids_of[1] == new[0]
    assert ids_of[-1] == new[1]
    assert not set(model.tokenizer("zebras zebraic")["input_ids"]) & set(new)
    grown = model[0].auto_model.get_input_embeddings().weight.detach()
    assert grown.shape[0] == len(table) + 2 == model[0].auto_model.config.vocab_size
    np.testing.assert_allclose(grown[len(table)], table[ids].mean(dim=0), rtol=1e-6)
    model.save_pretrained(str(tmp_path / "m"))
    again = ew.load(tmp_path / "m", device="cpu")
    np.testing.assert_array_equal(again.encode(PLAIN), before)
    np.testing.assert_array_equal(again.encode(DOMAIN), model.encode(DOMAIN))
    assert again.tokenizer.tokenize("the zebra") == model.tokenizer.tokenize("the zebra")


def test_an_output_layer_grows_with_the_table(tmp_path):
    from embedworks.models import new_language_model, prompted_model

    tokenizer = train_tokenizer(PLAIN[:2] * 3, 300, max_tokens=64)
    causal = new_language_model(
        "llama", tokenizer, dim=16, layers=1, heads=2, tie_word_embeddings=False
    )
    causal.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = prompted_model(tmp_path, "prompteol")
    head = model[0].auto_model.get_output_embeddings()
    if head is None:
        pytest.skip("the prompted model keeps its output layer elsewhere")
    old = head.weight.detach().clone()
    ids = model.tokenizer("a zebra", add_special_tokens=False)["input_ids"][1:]
    add_tokens(model, ["zebra"])
    grown = model[0].auto_model.get_output_embeddings().weight.detach()
    np.testing.assert_allclose(grown[len(old)], old[ids].mean(dim=0), rtol=1e-6)
    np.testing.assert_array_equal(grown[: len(old)], old)


def test_uncased_word_pieces_match_any_case(transformer_folder):
    model = ew.load(transformer_folder, device="cpu")
    add_tokens(model, ["zyxxq"])
    assert model.tokenizer.tokenize("The ZYXXQ is") == model.tokenizer.tokenize("the zyxxq is")
    assert "zyxxq" in model.tokenizer.tokenize("the zyxxq is")


def test_the_words_that_save_most_come_first():
    tokenizer = train_tokenizer(PLAIN[:2] * 3, 300)
    texts = ["zebra", "a zebra", "xy", "an xy", "a xy", "okapi 12345 12345 12345", "a file"] * 2
    found = frequent_split_words(texts, tokenizer, 2, min_count=3)
    assert found == ["zebra", "xy"]
    assert set(frequent_split_words(texts, tokenizer, 9, min_count=2)) == {*found, "okapi", "an"}
    assert frequent_split_words(texts, tokenizer, 9, min_count=99) == []


def test_pieces_of_the_vocabulary_are_left_alone():
    # "zebra" is a piece here, but " zebra" is none: adding it would take the piece away.
    tokenizer = train_tokenizer(["zebra"] * 9, 270)
    assert "zebra" in tokenizer.get_vocab()
    assert len(tokenizer.tokenize(" zebra")) > 1
    assert frequent_split_words(["a zebra"] * 9, tokenizer, 3) == []
    body = new_model("bert", tokenizer, dim=16, layers=1, heads=2)
    assert add_tokens(body, ["zebra"]) == ()


def test_what_is_refused(model):
    with pytest.raises(EmptyInputError, match="no words"):
        add_tokens(model, [])
    with pytest.raises(InputError, match="white space"):
        add_tokens(model, ["two words"])
    with pytest.raises(InputError, match="twice"):
        add_tokens(model, ["zebra", "zebra"])
    with pytest.raises(InputError, match="no table of tokens"):
        add_tokens(ew.load("static"), ["zebra"])
    with pytest.raises(InputError, match="min_pieces"):
        frequent_split_words(["a"], model.tokenizer, 1, min_pieces=1)
