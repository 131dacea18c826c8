"""The attack on sentences: it reads what is there, and stands at its baselines where nothing is."""

from __future__ import annotations

import pytest
from references.toy_systems import BagOfWords, RandomVectors, system_of

from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation import (
    Resampling,
    SentenceAttack,
    SentenceInversionTask,
    gaussian_noise,
    sentence_bleu,
    word_f1,
)

FEW = Resampling(n_resamples=100)
NOUNS = ["tea", "rye", "oat", "fig", "yam", "nut", "egg", "ham", "pea", "soy"]
LOOKS = ["red", "old", "hot", "raw", "big", "dry", "wet", "new", "odd", "shy"]
PLACES = ["inn", "bar", "pub", "den"]
TEXTS = [f"{look} {noun} {place}" for look in LOOKS for noun in NOUNS for place in PLACES]
SMALL = SentenceAttack(
    vocabulary=330, dim=48, layers=1, heads=2, slots=2, steps=200, learning_rate=5e-3,
    max_tokens=6, beams=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def task():
    return SentenceInversionTask("read", TEXTS, attack=SMALL, test_share=0.1)


@pytest.fixture(scope="module")
def found(task):
    return task.run(system_of(BagOfWords(dim=64)), FEW)


def _mean(found, name):
    return found.scores[name].interval.mean


def test_sentences_can_be_read_off_bags_of_words(found):
    assert _mean(found, "word_f1") > 0.9
    assert found.scores["over_best_baseline"].interval.low > 0.05
    assert _mean(found, "exact") > 0.5
    assert 0.5 < _mean(found, "bleu") <= 1
    assert _mean(found, "cosine") > 0.9
    assert found.failures[0].score == 1.0


def test_nothing_can_be_read_off_random_vectors(task):
    blind = task.run(system_of(RandomVectors()), FEW)
    assert blind.scores["over_best_baseline"].interval.low < 0.0
    assert _mean(blind, "exact") < 0.1
    assert _mean(blind, "cosine") < 0.7


def test_noise_hides_sentences(task, found):
    system = system_of(BagOfWords(dim=64))
    loud = task.run(gaussian_noise(4.0, dimension=64).of(system), FEW)
    assert _mean(loud, "word_f1") < _mean(found, "word_f1") - 0.2
    assert _mean(loud, "exact") < 0.3


def test_bad_input_is_refused():
    with pytest.raises(EmptyInputError, match="100 different"):
        SentenceInversionTask("few", TEXTS[:50])
    with pytest.raises(InputError, match="test_share"):
        SentenceInversionTask("all", TEXTS, test_share=0.9)

    class Flat:
        def encode(self, texts, **_):
            return [[1.0, 0.0] for _ in texts]

    with pytest.raises(InputError, match="same vector"):
        SentenceInversionTask("flat", TEXTS).run(system_of(Flat()), FEW)


def test_overlap_by_hand():
    assert word_f1("a a b", "a b b") == pytest.approx(2 * 2 / 6)
    assert word_f1("A b", "a B") == 1.0
    assert word_f1("", "") == 1.0
    assert word_f1("", "a") == 0.0
    # 3 of 4 words, 1 of 3 pairs, 0 of 2 triples, 0 of 1 quadruple, smoothed from pairs on.
    slow = (3 / 4 * 2 / 4 * 1 / 3 * 1 / 2) ** 0.25
    assert sentence_bleu("a b d x", "a b c d") == pytest.approx(slow)
    assert sentence_bleu("a", "a b c d") < sentence_bleu("a b", "a b c d") < 1
    assert sentence_bleu("", "a") == 0.0
