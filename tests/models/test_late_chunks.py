"""Late chunks: equal to plain pooling where they must be, different where context counts."""

from __future__ import annotations

import numpy as np
import pytest

import embedworks as ew
from embedworks.errors import EmptyInputError, InputError
from embedworks.models import encode_late_chunks


@pytest.fixture(scope="module")
def model(transformer_folder):
    loaded = ew.load(str(transformer_folder))
    loaded.eval()
    return loaded


def test_one_passage_has_the_models_own_vector(model):
    text = "open the file and read the lines"
    own = model.encode([text], normalize_embeddings=True)
    np.testing.assert_allclose(encode_late_chunks(model, text, [(0, len(text))]), own, atol=1e-5)


def test_passages_are_means_over_their_tokens_in_the_whole_text(model):
    text = "open the file. read the lines. close it."
    spans = [(0, 14), (15, 30), (31, len(text))]
    tokens = model.encode([text], output_value="token_embeddings")[0].float().cpu().numpy()
    offsets = model.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    assert len(offsets) == len(tokens)
    expected = []
    for place, (start, end) in enumerate(spans):
        mine = []
        for index, (low, high) in enumerate(offsets):
            special = high == low
            leading, trailing = index == 0, index == len(offsets) - 1
            if special:
                inside = (leading and place == 0) or (trailing and place == len(spans) - 1)
            else:
                inside = start <= low and high <= end
            if inside:
                mine.append(tokens[index])
        mean = np.mean(mine, axis=0)
        expected.append(mean / np.linalg.norm(mean))
    np.testing.assert_allclose(encode_late_chunks(model, text, spans), expected, atol=1e-5)


def test_what_stands_before_changes_a_passage(model):
    tail = "it costs forty."
    seen = []
    for head in ("the red car is new. ", "an old book on birds. "):
        text = head + tail
        seen.append(
            encode_late_chunks(model, text, [(0, len(head) - 1), (len(head), len(text))])[1]
        )
    plain = model.encode([tail], normalize_embeddings=True)[0]
    assert not np.allclose(seen[0], seen[1], atol=1e-3)
    assert not np.allclose(seen[0], plain, atol=1e-3)


def test_long_documents_are_read_in_windows_of_whole_passages(model):
    sentence = "read the file and close it. "
    text = sentence * 40
    spans = [(i * len(sentence), (i + 1) * len(sentence) - 1) for i in range(40)]
    assert len(model.tokenizer(text)["input_ids"]) > model.max_seq_length
    vectors = encode_late_chunks(model, text, spans, context=1)
    assert vectors.shape == (40, model.get_embedding_dimension())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    first = encode_late_chunks(model, text[: spans[2][1]], spans[:3], context=0)
    assert first.shape == (3, vectors.shape[1])


@pytest.mark.parametrize("spans", [[(0, 3), (2, 5)], [(3, 3)], [(0, 999)], [(-1, 2)]])
def test_wrong_spans_are_refused(model, spans):
    with pytest.raises(InputError, match="overlaps"):
        encode_late_chunks(model, "some text", spans)


def test_passages_that_cannot_be_read_are_named(model):
    with pytest.raises(EmptyInputError, match="At least one passage"):
        encode_late_chunks(model, "text", [])
    long = "word " * 2000
    with pytest.raises(InputError, match="Passage 0 alone is longer"):
        encode_late_chunks(model, long, [(0, len(long))])
    with pytest.raises(EmptyInputError, match="Passage 1 has no token"):
        encode_late_chunks(model, "text   more", [(0, 4), (5, 6), (7, 11)])


def test_models_without_token_vectors_are_refused():
    with pytest.raises(InputError, match="mean pooling"):
        encode_late_chunks(ew.load("static"), "text", [(0, 4)])


def test_windows_of_tokens_are_the_whole_where_it_fits(model):
    text = "open the file. read the lines. close it."
    spans = [(0, 14), (15, 30), (31, len(text))]
    whole = encode_late_chunks(model, text, spans)
    np.testing.assert_allclose(encode_late_chunks(model, text, spans, overlap=3), whole, atol=1e-5)


def test_windows_of_tokens_read_passages_longer_than_the_model(transformer_folder):
    short = ew.load(str(transformer_folder), device="cpu")
    short.max_seq_length = 12
    text = "open the file and read the lines then close it " * 6
    spans = [(0, 150), (150, len(text))]
    with pytest.raises(InputError, match="or give overlap"):
        encode_late_chunks(short, text, spans)
    found = encode_late_chunks(short, text, spans, overlap=4)
    assert found.shape == (2, 32)
    # By hand: windows of 10 words that begin 4 words back, each word's state taken once.
    words = [
        span for span in short.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        if span[1] > span[0]
    ]  # fmt: skip
    sums, counts, begin = np.zeros((2, 32)), np.zeros(2), 0
    while begin < len(words):
        read = max(0, begin - 4)
        end = min(len(words), read + 10)
        piece = text[words[read][0] : words[end - 1][1]]
        states = short.encode([piece], output_value="token_embeddings")[0].numpy()
        for place in range(begin, end):
            owner = int(words[place][0] >= 150)
            sums[owner] += states[1 + place - read]
            counts[owner] += 1
        if begin == 0:
            sums[0] += states[0]
            counts[0] += 1
        if end == len(words):
            sums[1] += states[-1]
            counts[1] += 1
        begin = end
    expected = sums / counts[:, None]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(InputError, match="overlap must be below the 10 tokens"):
        encode_late_chunks(short, text, spans, overlap=10)
    with pytest.raises(EmptyInputError, match="Passage 1 has no token"):
        encode_late_chunks(short, "word  word", [(0, 4), (4, 5), (6, 10)], overlap=1)
