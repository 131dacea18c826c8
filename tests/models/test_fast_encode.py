"""The compiled tokenizer against the library, on everything we can think of."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from embedworks.models._fast_encode import FastTokenizer, sum_rows_fast
from embedworks.models._ragged import _GATHERED_ROWS, RaggedTokenizer, sum_rows

AWKWARD = [
    "", " ", "\n\t\r ", "\x00", "a\x00b", "a\x01b\x7fc", "a\x0bb\x0cc", "a\x1cb\x1fc", "\ufffd",
    "a\u00a0b", "a\u200bb", "a\u2028b\u0085c", "[CLS]", "x[CLS]y [SEP][UNK]", "[cls] [CLS",
    "[[CLS]]", "CLS]", "don't", "don’t", "“the cat”—sat", "CAFÉ cafe\u0301 straße STRASSE",
    "東京の天気", "the東cat京", "İstanbul Kelvin\u212a ﬁne Ⅳ ǅ", "\u0301abc \u0301",
    "e\u0301\u0327 \u0327\u0301e", "unbelievable unbelieving", "q", "quit the qcat catq", "~",
    "a~b", "!!??..", "a" * 100, "a" * 101, "b" * 99 + "q", "é" * 101, "cat" * 400, "the " * 700,
    "\x01" * 200 + "cat" + "\x01" * 200, "a" * 60 + "\x02" * 60 + "a" * 41, "\U00020000\U0010ffff",
    "😀 \U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea", "مرحبا بالعالم", "한국어 각\u1100\u1161",
    "def mean(values): return sum(values)/len(values)", "##ing ##t", "42 4.2e-10", "[PAD] [pad]",
]  # fmt: skip
ALPHABET = st.sampled_from(
    [chr(c) for c in range(128)] + list("éßÉİ’“—東京\u0301\u200b\u00a0\ufffd😀\u0085ŉﬁ")
)
PARTS = st.one_of(
    st.text(ALPHABET, max_size=12),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(["[CLS]", "[SEP]", "[UNK]", "[PAD]", " ", "\n", "the", "cat", "unbelievable"]),
    st.sampled_from([*AWKWARD]),
)
TEXTS = st.lists(st.lists(PARTS, max_size=8).map("".join), max_size=6)


def assert_same(tokenizer: Tokenizer, texts: list[str]) -> None:
    fast = FastTokenizer.build(tokenizer)
    assert fast is not None
    expected = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    ids, offsets = fast(texts)
    assert ids.dtype == np.int32
    assert offsets.dtype == np.int64
    found = [ids[a:b].tolist() for a, b in pairwise(offsets)]
    for text, wanted, got in zip(texts, expected, found):
        assert got == wanted, repr(text)
    assert len(found) == len(texts)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lowercase": False},
        {"strip_accents": False},
        {"clean_text": False},
        {"handle_chinese_chars": False, "lowercase": False, "strip_accents": True},
    ],
)
def test_awkward_texts_under_every_normalizer_setting(bert_like_tokenizer, options):
    assert_same(bert_like_tokenizer(**options), AWKWARD)


@settings(max_examples=300, deadline=None)
@given(texts=TEXTS)
@example(texts=["a", "", "b é c", ""])
def test_random_texts_equal_the_library(tokenizer, texts):
    assert_same(tokenizer, texts)


def test_every_single_character_of_the_first_planes(tokenizer):
    characters = [chr(c) for c in range(0x3000) if not 0xD800 <= c < 0xE000]
    assert_same(tokenizer, [f"a{c}b {c}" for c in characters])


def test_other_splitters_and_normalizers():
    words = {"[UNK]": 0, "a": 1, "##b": 2, "b!": 3, "C": 4, "é": 5}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]", max_input_chars_per_word=4))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert_same(tokenizer, [*AWKWARD, "ab b! C\x0bc abbb abbbb", "é aé"])
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    assert_same(tokenizer, [*AWKWARD, "AB b! C\x0bc"])


def test_minilm_tokenizer(minilm_package_folder):
    tokenizer = Tokenizer.from_file(str(minilm_package_folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    assert_same(tokenizer, AWKWARD)


@pytest.mark.parametrize("kind", ["bpe", "run of punctuation", "replace", "added", "lstrip"])
def test_other_tokenizers_are_left_to_the_library(bert_like_tokenizer, kind):
    tokenizer = bert_like_tokenizer()
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    elif kind == "run of punctuation":
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    elif kind == "replace":
        tokenizer.normalizer = normalizers.Replace("cat sat", "dog")
    elif kind == "added":
        tokenizer.add_tokens(["the cat"])
    else:
        tokenizer.add_special_tokens([AddedToken("[X]", lstrip=True, normalized=False)])
    assert FastTokenizer.build(tokenizer) is None


def test_threads_do_not_change_the_result(tokenizer, model, monkeypatch):
    texts = AWKWARD * 20
    fast = FastTokenizer.build(tokenizer)
    results = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("EMBEDWORKS_THREADS", threads)
        ids, offsets = fast(texts)
        results.append((ids, offsets, sum_rows_fast(model.table, ids, offsets)))
    for other in results[1:]:
        for one, two in zip(results[0], other):
            np.testing.assert_array_equal(one, two)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(
        st.one_of(st.integers(0, 9), st.sampled_from([_GATHERED_ROWS, 2 * _GATHERED_ROWS + 1])),
        max_size=8,
    ),
    dim=st.integers(2, 9),
    seed=st.integers(0, 99),
)
def test_sums_equal_to_the_last_bit_and_to_a_slow_loop(counts, dim, seed):
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(50, dim)).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
    ids = rng.integers(0, 50, offsets[-1]).astype(np.int32)
    plain = sum_rows(table, ids, offsets)
    np.testing.assert_array_equal(plain, sum_rows_fast(table, ids, offsets))
    slow = np.zeros((len(counts), dim))
    for text in range(len(counts)):
        for token in ids[offsets[text] : offsets[text + 1]]:
            slow[text] += table[token]
    np.testing.assert_array_equal(plain, slow.astype(np.float32))


def test_the_two_ways_of_ragged_tokenizer_agree_and_cut_alike(tokenizer):
    for limit in (None, 3):
        ragged = RaggedTokenizer(tokenizer, max_tokens=limit)
        long_enough = AWKWARD * 60
        ids, offsets, cut = ragged(long_enough)
        plain_ids, plain_offsets, plain_cut = ragged._cut(*ragged.plain(long_enough))
        assert ragged._fast is not None
        np.testing.assert_array_equal(ids, plain_ids)
        np.testing.assert_array_equal(offsets, plain_offsets)
        assert cut == plain_cut
        assert (limit is None) == (cut == 0)
