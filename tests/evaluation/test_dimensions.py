"""Meanings of dimensions: correlations as numpy has them, planted factors found by name."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.errors import EmptyInputError, InputError, ShapeError
from embedworks.evaluation import describe_dimensions, dimensions_markdown

RNG = np.random.default_rng(0)
POOLS = {name: [f"{name}{i}" for i in range(6)] for name in ("sea", "law", "food", "war")}
NAMES = list(POOLS)
TRUTH = RNG.integers(0, 4, (200, 2))
TEXTS = [
    " ".join(RNG.permutation([*RNG.choice(POOLS[NAMES[a]], 4), *RNG.choice(POOLS[NAMES[b]], 4)]))
    for a, b in TRUTH
]
#: Dimension 2 + 2 k is on for topic k; the others are noise or off.
VECTORS = np.zeros((200, 12))
for _k in range(4):
    VECTORS[:, 2 + 2 * _k] = (_k == TRUTH).any(axis=1) * RNG.uniform(0.5, 1.5, 200)
VECTORS[:, 1] = np.maximum(RNG.normal(size=200), 0)


def test_planted_factors_are_named_by_their_words_and_texts():
    found = {meaning.dimension: meaning for meaning in describe_dimensions(VECTORS, TEXTS)}
    assert set(found) == {1, 2, 4, 6, 8}
    for k, name in enumerate(NAMES):
        meaning = found[2 + 2 * k]
        assert {word for word, _ in meaning.words} <= set(POOLS[name])
        assert len(meaning.words) == 5
        assert all((TRUTH[row] == k).any() for row, _ in meaning.texts)
        assert meaning.active == pytest.approx((k == TRUTH).any(axis=1).mean())
    assert found[1].words[0][1] < 0.3  # noise goes with nothing much


def test_correlations_are_numpys():
    presence = np.array([[f"sea{i}" in text.split() for i in range(6)] for text in TEXTS], float)
    (meaning,) = describe_dimensions(VECTORS, TEXTS, dimensions=[2], words=24)
    given = dict(meaning.words)
    for i in range(6):
        expected = np.corrcoef(presence[:, i], VECTORS[:, 2])[0, 1]
        assert given[f"sea{i}"] == pytest.approx(expected, abs=1e-4)
    order = np.argsort(-VECTORS[:, 2])[:3]
    assert [row for row, _ in meaning.texts] == order.tolist()


def test_rare_and_general_words_say_nothing_and_the_table_is_a_table():
    vectors = np.array([[1.0, 0], [2, 0], [0, 1], [0, 2]])
    texts = ["all red once", "all red", "all blue", "all blue"]
    first, second = describe_dimensions(vectors, texts, min_texts=2)
    assert first.words == (("red", 0.9045),)
    assert second.words == (("blue", 0.9045),)
    table = dimensions_markdown([first, second], texts)
    assert table.splitlines()[2] == "| 0 | 50.0 % | red (0.90) | all red; all red once |"
    assert describe_dimensions(-vectors, texts) == []
    (off,) = describe_dimensions(np.zeros((4, 2)), texts, dimensions=[1])
    assert off.words == off.texts == ()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match="one each"):
        describe_dimensions(VECTORS, TEXTS[1:])
    with pytest.raises(InputError, match="dimension 12 is not there"):
        describe_dimensions(VECTORS, TEXTS, dimensions=[12])
    with pytest.raises(EmptyInputError, match="Two texts"):
        describe_dimensions(VECTORS[:1], TEXTS[:1])
