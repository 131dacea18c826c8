"""Trained word vectors: kernels against float64 loops, planted structure, models that load."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

import embedworks as ew
from embedworks.errors import (
    DataWarning,
    EmptyInputError,
    FormatError,
    InputError,
    UnknownNameError,
)
from embedworks.models import (
    PPMI,
    Cooccurrences,
    Doc2Vec,
    FastText,
    GloVe,
    SkipGram,
    StaticModel,
    SubwordModel,
    WordCorpus,
    count_cooccurrences,
    load,
    model_fingerprint,
    ppmi_values,
    save,
    train_word_vectors,
)
from embedworks.models.words._prediction import alias_table, negative_step, skipgram_texts
from embedworks.models.words.corpus import split_words, word_tokenizer
from embedworks.models.words.glove import _descend, fit_glove, glove_loss
from embedworks.models.words.methods import WordRun
from embedworks.models.words.prediction import own_rows, start_rows, walk_texts
from embedworks.models.words.subwords import Subwords

THEMES = 6
WORDS = 12
METHODS = ["skipgram", "cbow", "fasttext", "glove", "ppmi"]
UNICODE = [
    "Straße ÉCOLE_1 x² ½",
    "naïve café—noir",
    "日本語 テスト",
    "ΣΊΣΥΦΟΣ",
    "a\tb\n c",
    "İx",
    "e\u0301",
]


def planted_texts(count: int = 1200, *, length: int = 10, seed: int = 0) -> list[str]:
    """Texts of one theme each; words ``t0w0a`` and ``t0w0b`` are used alike, and never together.

    Each word of a theme is mostly next to the words with a number near its own.
    """
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        theme, side = rng.integers(THEMES), "ab"[rng.integers(2)]
        walk = np.cumsum(rng.choice([-1, 1], length)) + rng.integers(WORDS)
        texts.append(" ".join(f"t{theme}w{step % WORDS}{side}" for step in walk))
    return texts


def theme_accuracy(model, words: list[str]) -> float:
    """Share of words whose nearest word is of their own theme."""
    vectors = model.encode(words)
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -2)
    nearest = scores.argmax(axis=1)
    return float(np.mean([words[i][:2] == words[j][:2] for i, j in enumerate(nearest)]))


def all_words() -> list[str]:
    """Every word of the language."""
    return [f"t{t}w{w}{side}" for t in range(THEMES) for w in range(WORDS) for side in "ab"]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return planted_texts()


def test_the_tokenizer_reads_the_words_that_were_counted():
    for text in UNICODE:
        words = sorted(set(split_words(text)))
        assert word_tokenizer(words).encode(text).tokens == split_words(text)


def test_a_corpus_counts_as_a_loop_does_and_reads_a_generator_once(texts):
    few = [*texts[:50], "", "rare"]
    corpus = WordCorpus((text for text in few), min_count=3)
    counts = Counter(word for text in few for word in text.split())
    expected = sorted((-n, word) for word, n in counts.items() if n >= 3)
    assert [(-int(n), w) for w, n in zip(corpus.words, corpus.counts)] == expected
    for place, text in enumerate(few):
        ids = corpus.ids[corpus.offsets[place] : corpus.offsets[place + 1]]
        assert [corpus.words[i] for i in ids] == [w for w in text.split() if counts[w] >= 3]
    assert len(WordCorpus(few, min_count=1, max_words=7).words) == 7


def test_draws_follow_the_weights_exactly():
    weights = np.array([5.0, 1.0, 0.25, 3.0, 0.75])
    share, other = alias_table(weights)
    mass = np.zeros(5)
    for place in range(5):
        mass[place] += share[place] / 5
        mass[other[place]] += (1 - share[place]) / 5
    np.testing.assert_allclose(mass, weights / weights.sum(), atol=1e-7)


def slow_step(inputs, outputs, rows, target, drawn, rate):
    """One step in float64, by the formula, all changes from the vectors before."""
    hidden = inputs[rows].mean(axis=0)
    change = np.zeros_like(hidden)
    for word, label in [(target, 1.0), *((word, 0.0) for word in drawn if word != target)]:
        error = label - 1 / (1 + math.exp(-float(hidden @ outputs[word])))
        change += rate * error * outputs[word]
        outputs[word] += rate * error * hidden
    for row in rows:
        inputs[row] += change


@pytest.mark.parametrize("rows", [[1], [0, 2, 3]])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_step_equals_the_formula(rows, frozen):
    rng = np.random.default_rng(1)
    inputs, outputs = rng.normal(size=(4, 7)), rng.normal(size=(3, 7))
    got_in, got_out = inputs.astype(np.float32), outputs.astype(np.float32)
    share, other = np.zeros(3, np.float32), np.full(3, 2, np.int32)  # every draw is word 2
    negative_step(
        got_in, got_out, np.array([*rows, 0], np.int32), len(rows), 0, 1, share, other, 0.1,
        np.zeros(1, np.uint64), np.zeros(7, np.float32), np.zeros(7, np.float32),
        2 if frozen else 0, not frozen,
    )  # fmt: skip
    before = outputs.copy(), inputs.copy()
    slow_step(inputs, outputs, rows, 0, [2], 0.1)
    if frozen:
        outputs[:], inputs[:2] = before[0], before[1][:2]
    np.testing.assert_allclose(got_in, inputs, atol=1e-6)
    np.testing.assert_allclose(got_out, outputs, atol=1e-6)


def test_one_row_moves_along_the_gradient_of_the_objective():
    rng = np.random.default_rng(2)
    inputs, outputs = rng.normal(size=(1, 5)), rng.normal(size=(2, 5))

    def objective(row: np.ndarray) -> float:
        scores = outputs @ row
        return -math.log1p(math.exp(-scores[0])) - math.log1p(math.exp(scores[1]))

    eye = np.eye(5) * 1e-6
    slope = [(objective(inputs[0] + e) - objective(inputs[0] - e)) / 2e-6 for e in eye]
    got = inputs.astype(np.float32)
    negative_step(
        got, outputs.astype(np.float32), np.zeros(1, np.int32), 1, 0, 1, np.zeros(2, np.float32),
        np.ones(2, np.int32), 1.0, np.zeros(1, np.uint64), np.zeros(5, np.float32),
        np.zeros(5, np.float32), 0, True,
    )  # fmt: skip
    np.testing.assert_allclose(got[0] - inputs[0], slope, atol=1e-5)


@pytest.mark.parametrize("pieces", [[[0], [1], [2]], [[0, 3], [1, 3, 4, 3], [2, 4]]])
@pytest.mark.parametrize("frozen", [False, True])
def test_skipgram_equals_a_step_for_each_neighbour(pieces, frozen):
    rng = np.random.default_rng(3)
    inputs, outputs = rng.normal(size=(5, 7)), rng.normal(size=(3, 7))
    got_in, got_out = inputs.astype(np.float32), outputs.astype(np.float32)
    texts = [[0, 1, 2, 1], [2], [1, 0, 0]]
    share, other = np.zeros(3, np.float32), np.full(3, 2, np.int32)  # every draw is word 2
    skipgram_texts(
        np.concatenate(texts).astype(np.int32), np.array([0, 4, 5, 8]), 0, 3, got_in, got_out,
        np.concatenate(pieces).astype(np.int32), np.cumsum([0, *map(len, pieces)]), -1,
        np.ones(3, np.float32), 1, 1, share, other, 0.1, 0.1, np.zeros(1, np.uint64),
        3 if frozen else 0, True,
    )  # fmt: skip
    for text in texts:
        for place, word in enumerate(text):
            for near in (place - 1, place + 1):
                if 0 <= near < len(text):
                    kept = inputs[:3].copy()
                    slow_step(inputs, outputs, pieces[word], text[near], [2], 0.1)
                    if frozen:
                        inputs[:3] = kept
    np.testing.assert_allclose(got_in, inputs, atol=1e-5)
    np.testing.assert_allclose(got_out, outputs, atol=1e-5)


def slow_pairs(corpus: WordCorpus, window: int, weight) -> dict[tuple[int, int], float]:
    pairs: Counter = Counter()
    for low, high in zip(corpus.offsets, corpus.offsets[1:]):
        ids = corpus.ids[low:high].tolist()
        for i, left in enumerate(ids):
            for j, right in enumerate(ids):
                if i != j and abs(i - j) <= window:
                    pairs[left, right] += weight(abs(i - j))
    return dict(pairs)


@pytest.mark.parametrize("harmonic", [False, True])
def test_pairs_are_counted_as_a_loop_does(texts, harmonic):
    corpus = WordCorpus([*texts[:80], "", "t0w0a"], min_count=1)
    found = count_cooccurrences(corpus, 3, harmonic=harmonic)
    got = dict(zip(zip(found.rows.tolist(), found.columns.tolist()), found.values))
    weight = (lambda d: 1 / d) if harmonic else (lambda d: (4 - d) / 3)
    assert got == pytest.approx(slow_pairs(corpus, 3, weight))


def test_a_table_of_pairs_grows():
    rng = np.random.default_rng(0)
    corpus = WordCorpus([" ".join(f"w{i}" for i in rng.integers(0, 3000, 40_000))], min_count=1)
    found = count_cooccurrences(corpus, 4)
    assert len(found.values) > 200_000
    total = sum((5 - d) / 4 * 2 * (40_000 - d) for d in range(1, 5))
    assert found.values.sum() == pytest.approx(total)
    assert len(set(zip(found.rows.tolist(), found.columns.tolist()))) == len(found.values)


@pytest.mark.parametrize(("smoothing", "negatives"), [(1.0, 1.0), (0.75, 1.0), (0.75, 4.0)])
def test_ppmi_equals_the_formula(texts, smoothing, negatives):
    counts = count_cooccurrences(WordCorpus(texts[:100], min_count=1), 2)
    size = counts.rows.max() + 1
    dense = np.zeros((size, size))
    dense[counts.rows, counts.columns] = counts.values
    got = ppmi_values(counts, smoothing=smoothing, negatives=negatives)
    for place in range(0, len(got), 97):
        i, j = counts.rows[place], counts.columns[place]
        context = dense[:, j].sum() ** smoothing / (dense.sum(axis=0) ** smoothing).sum()
        ratio = dense[i, j] / dense.sum() / (dense[i].sum() / dense.sum() * context)
        assert got[place] == pytest.approx(max(0.0, math.log(ratio / negatives)), abs=1e-9)


def test_skipgram_with_k_negatives_approaches_shifted_pmi():
    """Levy and Goldberg 2014: at the best vectors, u . v = PMI - ln k, where dim allows it."""
    rng = np.random.default_rng(0)
    odds = rng.dirichlet(np.full(6, 0.6), size=6)
    words = [f"w{i}" for i in range(6)]
    texts = [f"{words[i]} {words[rng.choice(6, p=odds[i])]}" for i in rng.integers(0, 6, 30_000)]
    corpus = WordCorpus(texts, min_count=1)
    counts = count_cooccurrences(corpus, 1)
    method = SkipGram(epochs=20, negatives=3, sample=0, smoothing=1.0, rate=0.05)
    inputs, outputs = start_rows(6, 12, 0), np.zeros((6, 12), np.float32)
    walk_texts(skipgram_texts, method, corpus, WordRun(12, 1), inputs, outputs, *own_rows(6))
    dense = np.zeros((6, 6))
    dense[counts.rows, counts.columns] = counts.values
    share = dense.sum(axis=1) / dense.sum()
    frequent = dense > 100
    pmi = np.log(dense[frequent] / dense.sum() / np.outer(share, share)[frequent])
    products = (inputs @ outputs.T)[frequent]
    # A drawn word that is the target is passed over, so its own share of draws is missing.
    assert np.corrcoef(products, pmi)[0, 1] > 0.98
    assert np.median(products - (pmi - math.log(3))) == pytest.approx(0.0, abs=0.25)


def slow_glove(counts, left, right, squares, rate, x_max, alpha):
    for i, j, value in zip(counts.rows, counts.columns, counts.values):
        weight = min(1.0, (value / x_max) ** alpha)
        error = left[i, :-1] @ right[j, :-1] + left[i, -1] + right[j, -1] - math.log(value)
        down = np.append(weight * error * right[j, :-1], weight * error)
        other = np.append(weight * error * left[i, :-1], weight * error)
        for own, moved, slope, row in ((left, squares[0], down, i), (right, squares[1], other, j)):
            moved[row] += slope**2
            own[row] -= rate * slope / np.sqrt(moved[row])


def test_glove_steps_equal_the_formula(texts):
    counts = count_cooccurrences(WordCorpus(texts[:20], min_count=1), 3, harmonic=True)
    size = counts.rows.max() + 1
    rng = np.random.default_rng(0)
    slow = rng.normal(size=(size, 5)), rng.normal(size=(size, 5))
    fast = tuple(part.astype(np.float32) for part in slow)
    squares = tuple(np.ones((size, 5), np.float32) for _ in range(2))
    weights = np.minimum(1, (counts.values / 4.0) ** 0.75).astype(np.float32)
    logs = np.log(counts.values).astype(np.float32)
    expected = glove_loss(counts, *slow, x_max=4.0)
    assert glove_loss(counts, *fast, x_max=4.0) == pytest.approx(expected, rel=1e-5)
    _descend(counts.rows, counts.columns, logs, weights, 0, len(logs), *fast, *squares, 0.05)
    slow_glove(counts, *slow, (np.ones((size, 5)), np.ones((size, 5))), 0.05, 4.0, 0.75)
    for a, b in zip(fast, slow):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_glove_finds_a_planted_matrix_of_its_rank():
    rng = np.random.default_rng(0)
    logs = rng.normal(size=(30, 3)) @ rng.normal(size=(3, 30)) / 2 + 2
    rows, columns = (part.ravel().astype(np.int32) for part in np.indices((30, 30)))
    counts = Cooccurrences(rows, columns, np.exp(logs).ravel())
    start = glove_loss(counts, *fit_glove(counts, 30, 4, epochs=1), x_max=1.0)
    end = glove_loss(counts, *fit_glove(counts, 30, 4, epochs=800, rate=0.1), x_max=1.0)
    assert end < 0.01 < 1 < start


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_themes_repeats_and_loads(method, texts, tmp_path):
    options = {"dim": 16, "min_count": 1, "window": 3}
    model = train_word_vectors(iter(texts), method, **options)
    again = train_word_vectors(texts, method, **options)
    np.testing.assert_array_equal(model.encode(texts[:20]), again.encode(texts[:20]))
    assert theme_accuracy(model, all_words()) > 0.9
    loaded = load(save(model, tmp_path / "model"))
    assert type(loaded) is type(model)
    np.testing.assert_allclose(loaded.encode(texts[:20]), model.encode(texts[:20]), atol=1e-6)
    assert model_fingerprint(loaded) == model_fingerprint(model)
    assert loaded.metadata["method"] == method
    assert loaded.metadata["words"] == 12_000


def test_other_settings_give_other_vectors(texts):
    few = texts[:200]
    options = {"dim": 8, "min_count": 1}
    base = train_word_vectors(few, SkipGram(), **options).encode(few)
    for method in (SkipGram(negatives=2), SkipGram(sample=1e-2), SkipGram(smoothing=0.2)):
        assert not np.allclose(train_word_vectors(few, method, **options).encode(few), base)
    assert not np.allclose(train_word_vectors(few, SkipGram(), seed=1, **options).encode(few), base)
    plain = train_word_vectors(few, PPMI(), **options).encode(few)
    assert not np.allclose(train_word_vectors(few, PPMI(negatives=3), **options).encode(few), plain)


def test_two_threads_learn_the_same_themes():
    texts = planted_texts(12_000)  # enough words for several parts
    model = train_word_vectors(texts, dim=16, min_count=1, window=3, epochs=2, threads=2)
    assert theme_accuracy(model, all_words()) > 0.9


def test_plain_sentence_transformers_reads_the_vectors(texts, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    model = train_word_vectors(texts[:200], "cbow", dim=8, min_count=1, epochs=1)
    folder = model.save_pretrained(tmp_path / "model")
    plain = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    np.testing.assert_allclose(plain.encode(texts[:9]), model.encode(texts[:9]), atol=1e-5)


def test_unknown_words_add_nothing_and_alone_are_counted_aloud(texts):
    model = train_word_vectors(texts[:100], dim=8, min_count=1)
    np.testing.assert_allclose(model.encode(["t0w1a nowhere"]), model.encode(["t0w1a"]), atol=1e-6)
    with pytest.warns(DataWarning, match="1 of 2 texts have no token this model knows"):
        assert not model.encode(["nowhere else", "t0w1a"])[0].any()


def test_a_misspelling_is_nearer_its_source_than_another_word():
    rng = np.random.default_rng(3)
    letters = list("abcdefghijklmnoprstuvwz")
    words = ["".join(rng.choice(letters, 9)) for _ in range(80)]
    texts = [" ".join(rng.choice(words[g * 8 : g * 8 + 8], 8)) for g in rng.integers(0, 10, 900)]
    model = train_word_vectors(texts, FastText(epochs=3), dim=24, min_count=1)
    wrong = [word[:4] + word[5] + word[4] + word[6:] for word in words]
    known, guessed = model.encode(words), model.encode(wrong)
    scores = guessed @ known.T
    strangers = scores[np.arange(80), (np.arange(80) + rng.integers(8, 72, 80)) % 80]
    assert (np.diag(scores) > strangers).mean() > 0.9
    assert guessed.any(axis=1).all()
    np.testing.assert_allclose(model.as_static().encode(words), known, atol=1e-6)


def test_letter_groups_are_those_of_the_paper():
    assert Subwords(3, 6).groups("where")[:5] == ["<wh", "whe", "her", "ere", "re>"]
    assert Subwords(3, 6).groups("a") == []
    assert "<where>" not in Subwords(3, 9).groups("where")
    with pytest.warns(DataWarning, match="no token this model knows"):
        empty = SubwordModel(
            ["a"], np.ones((1, 2)), np.zeros(0), np.zeros((0, 2)), Subwords()
        ).encode(["zebra"])
    assert not empty.any()


@pytest.mark.parametrize("method", ["dbow", "dm"])
def test_an_inferred_text_finds_itself(method, tmp_path):
    rng = np.random.default_rng(0)
    topics = [[f"p{t}w{w}" for w in range(30)] for t in range(20)]
    texts = []
    for text in range(200):
        own = rng.choice(topics[text % 20], 12, replace=False)
        texts.append(" ".join(rng.choice(own, 30)))
    model = Doc2Vec.fit(texts, method=method, dim=32, min_count=1, epochs=40, inference_epochs=60)
    inferred = model.encode(texts)
    ranks = (inferred @ model.text_vectors.T > (inferred * model.text_vectors).sum(1)[:, None]).sum(
        1
    )
    assert (ranks < 10).mean() > 0.9
    np.testing.assert_array_equal(model.encode(texts[5:6])[0], inferred[5])
    loaded = load(save(model, tmp_path / "model"))
    np.testing.assert_array_equal(loaded.encode(texts[:3]), inferred[:3])
    with pytest.warns(DataWarning, match="1 of 1 texts"):
        assert not model.encode(["nothing known"]).any()


def test_damaged_folders_are_told_apart(texts, tmp_path):
    import json

    for name, model in {
        "subwords": train_word_vectors(texts[:50], "fasttext", dim=4, min_count=1, epochs=1),
        "texts": Doc2Vec.fit(texts[:50], dim=4, min_count=1, epochs=1),
    }.items():
        folder = model.save_pretrained(tmp_path / name)
        described = json.loads((folder / "embedworks.json").read_text())
        last = described["settings"]["words"].pop()
        for words in ([], [described["settings"]["words"][0]]):  # one too few; one twice
            described["settings"]["words"] += words
            (folder / "embedworks.json").write_text(json.dumps(described))
            with pytest.raises(FormatError, match="is not a whole"):
                ew.load(folder)
        described["settings"]["words"][-1] = last
        (folder / "embedworks.json").write_text(json.dumps(described))
        assert ew.load(folder).dim == 4


def test_bad_input_is_refused(texts):
    with pytest.raises(EmptyInputError, match="No word was found in 2 texts"):
        train_word_vectors(["", "!?"])
    with pytest.raises(EmptyInputError, match="None of 2 different words occurs 5 times"):
        train_word_vectors(["one two"])
    with pytest.raises(EmptyInputError, match="no two words side by side"):
        train_word_vectors(["one", "two"], min_count=1)
    with pytest.raises(InputError, match="got one str"):
        train_word_vectors("one text")
    with pytest.raises(InputError, match=r"texts\[1\] must be a string, got int"):
        train_word_vectors(["a", 3])
    with pytest.raises(UnknownNameError, match="Did you mean 'skipgram'"):
        train_word_vectors(texts, "skipgrams")
    with pytest.raises(InputError, match="has no epochs"):
        train_word_vectors(texts, "ppmi", epochs=3)
    with pytest.raises(InputError, match="below the number of words"):
        train_word_vectors(texts, "ppmi", dim=5000)
    with pytest.raises(InputError, match="leaves no pair"):
        train_word_vectors(texts, PPMI(negatives=1e9), dim=4)
    for make in (
        lambda: SkipGram(negatives=0), lambda: SkipGram(sample=2), lambda: GloVe(x_max=0),
        lambda: FastText(shortest=4, longest=3), lambda: PPMI(smoothing=-1),
        lambda: train_word_vectors(texts, dim=0), lambda: train_word_vectors(texts, window=0),
        lambda: train_word_vectors(texts, min_count=0), lambda: train_word_vectors(texts, seed=-1),
    ):  # fmt: skip
        with pytest.raises(InputError, match="must be in"):
            make()


def test_a_trained_model_is_evaluated_and_searched(texts):
    from embedworks.evaluation import EncoderSystem, Resampling, WordSimilarityTask
    from embedworks.index import ExactIndex

    model = train_word_vectors(texts, "ppmi", dim=48, min_count=1)
    assert isinstance(model, StaticModel)
    pairs = [(f"t0w{i}a", f"t{t}w{i + 1}a", 5.0 - 4 * (t > 0)) for t in (0, 1) for i in range(8)]
    result = WordSimilarityTask("toy", [*pairs, ("t0w1a", "unknown", 3.0)]).run(
        EncoderSystem(model, name="ppmi"), Resampling(n_resamples=100)
    )
    assert result.main.interval.mean > 0.8
    assert result.excluded == {"pairs with an unknown word": 1}
    words = all_words()
    rows, _ = ExactIndex(model.encode(words)).search(model.encode(["t3w4a"]), 3)
    assert words[rows[0][0]] == "t3w4a"
