"""Coherence against a slow loop over windows; planted topics are coherent and found again."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from embedworks.errors import DuplicateIdError, EmptyInputError, InputError
from embedworks.evaluation import topic_coherence
from embedworks.models import CountModel

RNG = np.random.default_rng(0)
TEXTS = [" ".join(RNG.choice(list("abcdefgh"), RNG.integers(0, 30))) for _ in range(40)]


def slow_coherence(topic, texts, window):
    windows = []
    for text in texts:
        words = text.split()
        size = len(words) if window is None else min(window, len(words))
        windows += [set(words[i : i + size]) for i in range(len(words) - size + 1) if words]
    values = []
    for a, b in itertools.combinations(topic, 2):
        p_a, p_b, p_ab = (
            sum(needed <= w for w in windows) / len(windows) for needed in ({a}, {b}, {a, b})
        )
        values.append(-1.0 if not p_ab else math.log(p_ab / p_a / p_b) / -math.log(p_ab))
    return sum(values) / len(values)


@pytest.mark.parametrize("window", [2, 5, 10, None])
def test_coherence_is_that_of_a_slow_loop(window):
    topics = [["a", "b", "c"], ["d", "h"], ["a", "nowhere", "g", "e"]]
    expected = [slow_coherence(topic, TEXTS, window) for topic in topics]
    np.testing.assert_allclose(topic_coherence(topics, TEXTS, window=window), expected, atol=1e-12)


def test_ends_of_the_range_and_bad_topics():
    assert topic_coherence([["a", "b"]], ["a b", "a b"]).tolist() == [0.0]  # in every window
    assert topic_coherence([["A-b", "c"]], ["A-b c", "d"], split=str.split).tolist() == [1.0]
    with pytest.raises(EmptyInputError, match="no topics"):
        topic_coherence([], ["a"])
    with pytest.raises(EmptyInputError, match="nothing to count"):
        topic_coherence([["a", "b"]], ["", "..."])
    with pytest.raises(InputError, match=r"topics\[1\] has 1"):
        topic_coherence([["a", "b"], ["a"]], ["a"])
    with pytest.raises(DuplicateIdError):
        topic_coherence([["a", "a"]], ["a"])


@pytest.mark.parametrize("method", ["lda", "nmf"])
def test_planted_topics_are_found_and_more_coherent_than_mixed_ones(method):
    pools = [[f"{name}{i}" for i in range(12)] for name in ("sea", "law", "food")]
    truth = RNG.integers(0, 3, 150)
    texts = [" ".join(RNG.choice(pools[k], 25)) for k in truth]
    model = CountModel.fit(texts[:100], weighting="count", topics=method, dim=3)
    found = model.encode(texts[100:]).argmax(axis=1)
    hits = sum(np.bincount(truth[100:][found == topic]).max() for topic in set(found.tolist()))
    assert hits / 50 > 0.9  # purity on texts not fitted on
    topics = model.topic_words(6)
    mixed = [[topic[i] for topic in topics for i in (0, k)] for k in (1, 2)]
    held_out = texts[100:]
    assert topic_coherence(topics, held_out).min() > topic_coherence(mixed, held_out).max() + 0.3
