"""Files of word vectors: there and back to the last bit, and damage named by its place."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

import embedworks as ew
from embedworks.errors import (
    DataWarning,
    DuplicateIdError,
    EmptyInputError,
    FormatError,
    InputError,
    NotFoundError,
    ShapeError,
)
from embedworks.models import load_word_vectors, read_word_vectors, write_word_vectors

FORMS = ("text", "binary", "glove")
RNG = np.random.default_rng(0)
WORDS = ["the", "new_york", "naïve", "犬", "42", "don't"]
ROWS = (RNG.standard_normal((6, 7)) * 10.0 ** RNG.integers(-20, 20, (6, 7))).astype(np.float32)


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_read_back_to_the_last_bit(tmp_path, form, ending):
    path = write_word_vectors(tmp_path / f"file{ending}", WORDS, ROWS, form=form)
    for given in ("auto", form):
        found = read_word_vectors(path, form=given)
        assert found.words == WORDS
        assert found.vectors.dtype == np.float32
        assert (found.vectors == ROWS).all()
    top = read_word_vectors(path, max_words=2)
    assert top.words == WORDS[:2]
    assert (top.vectors == ROWS[:2]).all()


def test_many_rows_and_both_habits_of_binary_files(tmp_path):
    words = [f"w{i}" for i in range(9000)]
    rows = RNG.standard_normal((9000, 50)).astype(np.float32)
    rows.view(np.uint32)[:, 0] &= 0xFFFFFF00
    rows.view(np.uint32)[:, 0] |= 0x20  # bytes that look like spaces must not end a word
    path = write_word_vectors(tmp_path / "a.bin", words, rows, form="binary")
    tight = tmp_path / "b.bin"  # as some programs write: no line feed behind a vector
    tight.write_bytes(
        b"9000 50\n" + b"".join(w.encode() + b" " + r.tobytes() for w, r in zip(words, rows))
    )
    for file in (path, tight):
        found = read_word_vectors(file)
        assert found.words == words
        assert (found.vectors == rows).all()


def test_words_with_spaces_and_words_that_come_again(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_bytes(b"the 1 2\n. . . 3 4\nthe 9 9\ncaf\xe9 5 6\n")
    with pytest.warns(DataWarning, match="1 of 4 words are not valid UTF-8.* 1 came again"):
        found = read_word_vectors(path)
    assert found.words == ["the", ". . .", "caf\ufffd"]
    assert found.vectors.tolist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("content", "form", "message"),
    [
        (b"", "auto", "empty"),
        (b"3 2\na 1 2\nb 3 4\n", "text", "says 3 words, but the file ends after 2"),
        (b"1 2\na 1 2\nb 3 4\n", "text", "says 1 words, but there are more"),
        (b"2 2\na 1 2\nb 3\n", "text", "line 3 has 1 numbers"),
        (b"a 1 2\nb 3 4\nc 5 x\n", "auto", "line 3 has a field that is no number"),
        (b"a 1 2\nb 3 nan\n", "auto", "line 2 holds NaN"),
        (b"a 1 2\nb 3 1e99\n", "auto", "line 2 holds NaN, infinity"),
        (b"a 1 2\n\nb 3 4\n", "auto", "line 2 has 0 numbers"),
        (b"word\n", "auto", "line 1 is no word"),
        (b"two words\na 1 2\n", "text", "line 1 must be two numbers"),
        (b"0 3\n", "text", "says 0 words"),
        (b"2 999999999\na 1\n", "text", "999999999 dimensions"),
        (b"9999999999999 300\nword 1\n", "binary", "ends inside the vector of word 1"),
        (b"2 2\na " + b"\0" * 8 + b"b \0\0", "binary", "inside the vector of word 2"),
        (b"2 2\na " + b"\0" * 8, "binary", "file ends after 1"),
        (b"1 1\na \x00\x00\xc0\x7f", "binary", "word 1 holds NaN"),
        (b"1 1\n" + b"a" * 9000, "binary", "no end of the word in place 1"),
    ],
)
def test_damage_is_named_by_its_place(tmp_path, content, form, message):
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        read_word_vectors(path, form=form)


def test_half_a_packed_file_and_no_file(tmp_path):
    path = write_word_vectors(tmp_path / "a.txt.gz", [f"w{i}" for i in range(6)], ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(FormatError):
        read_word_vectors(path)
    (tmp_path / "b.gz").write_bytes(b"not packed at all")
    with pytest.raises(FormatError, match="unpacked"):
        read_word_vectors(tmp_path / "b.gz")
    with pytest.raises(NotFoundError, match="no file"):
        read_word_vectors(tmp_path / "nowhere.txt")
    packed = write_word_vectors(tmp_path / "c.gz", ["a"], ROWS[:1]).read_bytes()
    assert gzip.decompress(packed).startswith(b"1 7\na ")


def test_a_file_as_a_model(tmp_path):
    path = tmp_path / "toy.txt"
    path.write_text("The 1 0\nnew_york 0 1\nthe 9 9\ndon't 5 5\n")
    with pytest.warns(DataWarning, match="1 are no run of letters and digits and 1 are written"):
        model = load_word_vectors(path)
    vectors = model.encode(["THE", "New_York!", "the new_york"])
    np.testing.assert_allclose(vectors, [[1, 0], [0, 1], [0.5**0.5, 0.5**0.5]], atol=1e-6)
    with pytest.warns(DataWarning):
        named = ew.load(path)
    assert named.content_hash == model.content_hash
    path.write_text("? 1 0\n")
    with pytest.raises(EmptyInputError, match="None of the 1 words"):
        load_word_vectors(path)


def test_what_a_file_cannot_hold_is_not_written(tmp_path):
    with pytest.raises(InputError, match="white space"):
        write_word_vectors(tmp_path / "x", ["a b"], ROWS[:1])
    with pytest.raises(DuplicateIdError):
        write_word_vectors(tmp_path / "x", ["a", "a"], ROWS[:2])
    with pytest.raises(ShapeError, match="2 words"):
        write_word_vectors(tmp_path / "x", ["a", "b"], ROWS[:1])
    assert not (tmp_path / "x").exists()
