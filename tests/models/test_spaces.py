"""Maps between spaces: exact where they can be, honest where they cannot."""

from __future__ import annotations

import numpy as np
import pytest

from embedworks.errors import InputError, ShapeError
from embedworks.models import GroupCentering, fit_linear_map, map_quality


def test_a_map_is_ridge_regression_on_centred_vectors():
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(40, 5)), rng.normal(size=(40, 3))
    fitted = fit_linear_map(source, target, ridge=0.5)
    x, y = source - source.mean(axis=0), target - target.mean(axis=0)
    penalty = 0.5 * np.trace(x.T @ x) / 5
    expected = np.linalg.inv(x.T @ x + penalty * np.eye(5)) @ x.T @ y
    np.testing.assert_allclose(fitted.matrix, expected, atol=1e-10)


def test_unrelated_spaces_are_told_from_related_ones():
    rng = np.random.default_rng(1)
    source = rng.normal(size=(400, 16))
    turned = np.tanh(source @ rng.normal(size=(16, 24)) / 4)
    noise = rng.normal(size=(400, 24))
    related = map_quality(fit_linear_map(source[:300], turned[:300])(source[300:]), turned[300:])
    unrelated = map_quality(fit_linear_map(source[:300], noise[:300])(source[300:]), noise[300:])
    assert related.explained > 0.8
    assert related.retrieval > 0.95
    assert unrelated.explained < 0
    assert unrelated.retrieval < 0.1


def test_more_dimensions_than_texts_do_not_break_it():
    rng = np.random.default_rng(2)
    assert np.isfinite(fit_linear_map(rng.normal(size=(5, 9)), np.eye(5), ridge=0).matrix).all()


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [
        (np.ones((3, 2)), np.ones((4, 2)), ShapeError),
        (np.ones((1, 2)), np.ones((1, 2)), InputError),
    ],
)
def test_pairs_are_needed(source, target, error):
    with pytest.raises(error):
        fit_linear_map(source, target)


def test_quality_needs_one_shape():
    with pytest.raises(ShapeError, match="but target"):
        map_quality(np.ones((3, 2)), np.ones((3, 4)))


def test_centring_brings_planted_languages_together():
    rng = np.random.default_rng(3)
    meaning = rng.normal(size=(100, 8))
    languages = np.repeat(["en", "de"], 100)
    shift = 6 * rng.normal(size=(2, 8))
    vectors = np.concatenate([meaning + shift[0], meaning + shift[1]])
    vectors += 0.3 * rng.normal(size=vectors.shape)

    def found(rows):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        scores = unit[:100] @ unit.T
        scores[np.arange(100), np.arange(100)] = -np.inf  # not the text itself
        return float((scores.argmax(axis=1) == np.arange(100) + 100).mean())

    centring = GroupCentering.fit(vectors, languages)
    assert found(vectors) < 0.05
    assert found(centring(vectors, languages)) > 0.9


def test_unknown_groups_and_missing_ones_are_refused():
    centring = GroupCentering.fit(np.eye(2), ["en", "de"])
    with pytest.raises(InputError, match="No mean is known for 'fr'; known are 'de', 'en'"):
        centring(np.eye(2), ["en", "fr"])
    with pytest.raises(ShapeError, match="as many groups"):
        centring(np.eye(2), ["en"])
    assert centring(np.zeros((0, 2)), []).shape == (0, 2)
