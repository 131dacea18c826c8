"""Count models: against hand-made counts, saved and loaded, evaluated and indexed as any model."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest

import embedworks as ew
from embedworks.errors import DataWarning, EmptyInputError, FormatError, InputError
from embedworks.models import CountModel, load, model_fingerprint, save

FOOD = ["bread and butter", "butter and cheese", "cheese with bread", "soup with bread"]
CARS = ["engine and wheel", "wheel with brake", "brake and engine", "engine oil"]
SKY = ["moon and stars", "stars with planets", "planets and moon", "moon light"]
TEXTS = [*FOOD, *CARS, *SKY]
KINDS = [
    {"weighting": "one-hot"},
    {"weighting": "count"},
    {"weighting": "tf-idf"},
    {"topics": "lsa", "dim": 4},
    {"topics": "nmf", "dim": 3},
    {"weighting": "count", "topics": "lda", "dim": 3},
]


def slow_tfidf(texts: list[str], text: str) -> dict[str, float]:
    words = text.split()
    weights = {}
    for word in set(words):
        having = sum(word in other.split() for other in texts)
        weights[word] = words.count(word) * (math.log((1 + len(texts)) / (1 + having)) + 1)
    norm = math.sqrt(sum(weight**2 for weight in weights.values()))
    return {word: weight / norm for word, weight in weights.items()}


def test_tfidf_equals_the_formula_by_hand():
    model = CountModel.fit(TEXTS)
    for text in ["bread and bread", "moon wheel"]:
        expected = slow_tfidf(TEXTS, text)
        vector = dict(zip(model.words, model.encode([text])[0], strict=True))
        for word, weight in vector.items():
            assert weight == pytest.approx(expected.get(word, 0.0), abs=1e-6)


def test_disjoint_texts_have_cosine_zero_and_equal_ones_one():
    model = CountModel.fit(TEXTS, weighting="one-hot")
    a, b, c = model.encode(["bread butter", "moon stars", "butter bread"])
    assert a @ b == 0.0
    assert a @ c == pytest.approx(1.0)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_saved_model_is_the_same_model(kind, tmp_path):
    model = CountModel.fit(TEXTS, **kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the golden texts have other words
        folder = save(model, tmp_path / "model")
        again = load(folder)
        assert {p.suffix for p in folder.iterdir()} == {".json", ".safetensors"}
    vectors = model.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), model.dim)
    np.testing.assert_allclose(again.encode(TEXTS), vectors, atol=1e-6)
    np.testing.assert_allclose(
        np.concatenate([again.encode([text]) for text in TEXTS]), vectors, atol=1e-5
    )
    assert model_fingerprint(again) == model_fingerprint(model)
    assert model_fingerprint(model) != model_fingerprint(CountModel.fit(TEXTS[:-1], **kind))


def planted(count: int = 60) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(0)
    themes = [sorted({w for text in part for w in text.split()} - {"and", "with"})
              for part in (FOOD, CARS, SKY)]  # fmt: skip
    labels = np.arange(count) % 3
    return [" ".join(rng.choice(themes[label], 8)) for label in labels], labels


@pytest.mark.parametrize("topics", ["lda", "nmf"])
def test_planted_topics_are_found(topics):
    texts, labels = planted()
    model = CountModel.fit(texts, weighting="count", topics=topics, dim=3)
    found = model.encode(texts).argmax(axis=1)
    purity = sum(np.bincount(labels[found == topic]).max() for topic in set(found)) / len(texts)
    assert purity > 0.9
    assert len(model.topic_words(4)) == 3


def test_lsa_sees_through_words_that_keep_the_same_company():
    texts = ["car road wheel", "automobile road wheel", "car wheel", "automobile road"] * 3
    texts += ["fish sea boat", "salmon sea boat", "fish boat", "salmon sea"] * 3
    counts = CountModel.fit(texts)
    lsa = CountModel.fit(texts, topics="lsa", dim=2)
    words = ["car", "automobile", "salmon"]
    assert counts.encode(words)[0] @ counts.encode(words)[1] == 0.0
    car, automobile, salmon = lsa.encode(words)
    assert car @ automobile > 0.9 > 0.3 > car @ salmon


def test_unknown_words_are_counted_aloud():
    model = CountModel.fit(TEXTS, weighting="count", topics="lda", dim=3)
    with pytest.warns(DataWarning, match="2 of 3 texts have no token this model knows"):
        vectors = model.encode(["zzz", "bread", ""])
    assert vectors.any(axis=1).tolist() == [False, True, False]
    assert model.encode([]).shape == (0, 3)


def test_it_is_evaluated_and_searched_like_any_model():
    from embedworks.evaluation import EncoderSystem

    system = EncoderSystem(CountModel.fit(TEXTS), name="tf-idf")
    corpus = {str(place): text for place, text in enumerate(TEXTS)}
    found = system.search({"q": "planets with stars"}, corpus, k=1)
    assert list(found["q"]) == ["9"]


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(EmptyInputError, match="No word is left"):
        CountModel.fit(["", " "])
    with pytest.raises(InputError, match="LDA is a model of counts"):
        CountModel.fit(TEXTS, topics="lda", dim=2)
    with pytest.raises(InputError, match="below the number of words"):
        CountModel.fit(TEXTS, topics="lsa", dim=500)
    with pytest.raises(InputError, match="no topics"):
        CountModel.fit(TEXTS).topic_words()
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match="holds no model"):
        CountModel.fit(TEXTS).save_pretrained(tmp_path)


def test_damaged_folders_are_told_apart(tmp_path):
    folder = CountModel.fit(TEXTS).save_pretrained(tmp_path / "model")
    described = json.loads((folder / "embedworks.json").read_text())
    (folder / "embedworks.json").write_text(json.dumps({**described, "kind": "cuonts"}))
    with pytest.raises(FormatError, match="Did you mean 'counts'"):
        ew.load(folder)
    described["settings"]["words"].pop()
    (folder / "embedworks.json").write_text(json.dumps(described))
    with pytest.raises(FormatError, match="shapes"):
        ew.load(folder)
    (folder / "model.safetensors").write_bytes(b"half")
    with pytest.raises(FormatError, match="half written"):
        ew.load(folder)
