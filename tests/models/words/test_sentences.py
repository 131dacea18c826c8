"""SIF, uSIF, INLP, number vectors and aligned vocabularies: each held to its acceptance check."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from embedworks.errors import EmptyInputError, InputError, NonFiniteError, ShapeError
from embedworks.evaluation import margin_scores, spearman
from embedworks.models import (
    StaticModel,
    dice_vectors,
    fit_inlp,
    fit_leace,
    fit_procrustes,
    fit_sif,
    fit_usif,
    load,
    word_model,
)
from embedworks.models.words.sentences import sif_weights, usif_weights

COMMON = ["the", "of", "and", "to", "in"]


def world(seed: int = 0) -> tuple[StaticModel, list[str]]:
    """Words with a common direction and sentences that are mostly common words."""
    rng = np.random.default_rng(seed)
    words = [*COMMON, *(f"w{i}" for i in range(200))]
    table = rng.normal(size=(len(words), 24)) + 1.5 * rng.normal(size=24)
    content = rng.integers(0, 200, size=(400, 3))
    sentences = [
        " ".join(rng.permutation([*rng.choice(COMMON, 6), *(f"w{i}" for i in row)]))
        for row in content
    ]
    return word_model(words, table, name="toy"), sentences


def graded(seed: int) -> list[tuple[str, str, float]]:
    """Pairs that share 0 to 3 content words, which is their grade."""
    rng = np.random.default_rng([seed, 1])
    pairs = []
    for _ in range(300):
        first = rng.choice(200, 3, replace=False)
        shared = int(rng.integers(4))
        second = [*first[:shared], *rng.integers(0, 200, 3 - shared)]
        texts = [
            " ".join(rng.permutation([*rng.choice(COMMON, 6), *(f"w{i}" for i in row)]))
            for row in (first, second)
        ]
        pairs.append((*texts, float(shared)))
    return pairs


def quality(model, pairs) -> float:
    first, second = (model.encode([pair[side] for pair in pairs]) for side in (0, 1))
    return spearman((first * second).sum(axis=1), [score for _, _, score in pairs])


def test_weights_equal_the_formulas():
    counts = np.array([50, 30, 1, 1, 1, 1, 1, 1, 0])
    total = counts.sum()
    got = sif_weights(counts, a=1e-2)
    assert got.tolist() == pytest.approx([1e-2 / (1e-2 + c / total) for c in counts])
    threshold = 1 - (1 - 1 / 8) ** 3
    alpha = sum(c / total > threshold for c in counts) / 8
    a = (1 - alpha) / (alpha * 8 / 2)
    assert alpha == 2 / 8
    got = usif_weights(counts, 3)
    assert got.tolist() == pytest.approx([a / (a / 2 + c / total) for c in counts])


def test_both_beat_the_plain_mean_and_load(tmp_path):
    model, sentences = world()
    sif, usif = fit_sif(model, sentences), fit_usif(model, sentences)
    scores = {name: quality(m, graded(0)) for name, m in
              {"mean": model, "sif": sif, "usif": usif}.items()}  # fmt: skip
    assert scores["sif"] > scores["mean"] + 0.05
    assert scores["usif"] > scores["mean"] + 0.05
    for name, fitted in {"sif": sif, "usif": usif}.items():
        loaded = load(fitted.save_pretrained(tmp_path / name))
        np.testing.assert_allclose(
            loaded.encode(sentences[:9]), fitted.encode(sentences[:9]), atol=1e-6
        )


def test_sif_equals_a_slow_loop():
    model, sentences = world()
    counts = Counter(word for text in sentences for word in text.split())
    total = sum(counts.values())
    rows = dict(zip(["", *COMMON, *(f"w{i}" for i in range(200))], model.table.astype(float)))

    def mean(text: str) -> np.ndarray:
        return sum(1e-3 / (1e-3 + counts[w] / total) * rows[w] for w in text.split()) / 9

    fitted = np.stack([mean(text) for text in sentences])
    axis = np.linalg.svd(fitted, full_matrices=False)[2][0]
    expected = np.stack([v - (v @ axis) * axis for v in fitted[:10]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(
        fit_sif(model, sentences).encode(sentences[:10]), expected, atol=1e-5
    )


def test_texts_that_teach_nothing_are_refused():
    model, sentences = world()
    with pytest.raises(EmptyInputError, match="None of 2 texts has a word"):
        fit_sif(model, ["nowhere", "nothing"])
    with pytest.raises(InputError, match="At least two texts"):
        fit_sif(model, sentences[:1])
    with pytest.raises(InputError, match="uSIF has no weight to give"):
        fit_usif(model, ["w1 w2", "w3 w4"])
    with pytest.raises(InputError, match="a must be in"):
        fit_sif(model, sentences, a=0)


def test_inlp_brings_a_linear_probe_to_the_majority():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b", "c"], [500, 400, 300])
    vectors = rng.normal(size=(1200, 20))
    vectors[:, :3] += 2.0 * (labels[:, None] == np.array(["a", "b", "c"]))
    vectors = vectors @ rng.normal(size=(20, 20)) + 3
    order = rng.permutation(1200)
    train, test = order[:800], order[800:]
    erase = fit_inlp(vectors[train], labels[train])
    projection = erase.matrix
    np.testing.assert_allclose(projection @ projection, projection, atol=1e-8)
    np.testing.assert_allclose(projection, projection.T, atol=1e-12)

    def accuracy(change) -> float:
        probe = LogisticRegression(max_iter=2000).fit(change(vectors[train]), labels[train])
        return float(probe.score(change(vectors[test]), labels[test]))

    majority = float((labels[test] == "a").mean())
    assert accuracy(lambda rows: rows) > 0.7
    assert accuracy(erase) < majority + 0.05
    leace = fit_leace(vectors[train], labels[train])
    moved = [np.linalg.norm(change(vectors) - vectors) for change in (leace, erase)]
    assert moved[0] < moved[1]


def test_inlp_leaves_vectors_that_tell_nothing():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4000, 3))
    erase = fit_inlp(vectors, rng.integers(0, 2, 4000), tolerance=0.05)
    np.testing.assert_allclose(erase(vectors), vectors, atol=1e-6)
    with pytest.raises(ShapeError, match="need as many labels"):
        fit_inlp(vectors, ["a"])
    with pytest.raises(InputError, match="At least two different labels"):
        fit_inlp(vectors, ["a"] * 4000)


def broken_order(form: str, dim: int) -> float:
    """Share of triples (x, y, z) with |x-y| < |x-z| whose cosines say the opposite."""
    triples = np.random.default_rng(0).uniform(0, 100, size=(1000, 3))
    gaps = np.abs(triples[:, :1] - triples[:, 1:])
    triples = np.where((gaps[:, 0] < gaps[:, 1])[:, None], triples, triples[:, [0, 2, 1]])
    x, y, z = (
        dice_vectors(part, low=0, high=100, dim=dim, form=form).astype(np.float64)
        for part in triples.T
    )
    return float(((x * y).sum(axis=1) <= (x * z).sum(axis=1) - 1e-6).mean())


def test_planar_number_vectors_keep_the_order_and_polar_ones_do_not():
    assert broken_order("planar", 2) == broken_order("planar", 64) == 0.0
    assert broken_order("polar", 64) > 0.05
    rng = np.random.default_rng(1)
    values = rng.uniform(-5, 5, 50)
    vectors = dice_vectors(values, low=-5, high=5, dim=16)
    angles = [math.pi * (value + 5) / 10 for value in values]
    expected = [[math.cos(a - b) for a in angles] for b in angles]
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-5)
    for form in ("planar", "polar"):
        norms = np.linalg.norm(dice_vectors(values, low=-5, high=5, dim=8, form=form), axis=1)
        np.testing.assert_allclose(norms, 1, atol=1e-5)


def test_numbers_outside_are_moved_and_bad_ones_refused():
    got = dice_vectors([-9, 0, 1, 9], low=0, high=1, dim=4)
    np.testing.assert_array_equal(got[0], got[1])
    np.testing.assert_array_equal(got[2], got[3])
    with pytest.raises(NonFiniteError, match=r"values\[1\] is nan"):
        dice_vectors([1, math.nan], low=0, high=1)
    with pytest.raises(InputError, match="low must be below high"):
        dice_vectors([1], low=1, high=1)
    with pytest.raises(InputError, match="even"):
        dice_vectors([1], low=0, high=1, dim=3)
    with pytest.raises(ShapeError, match=r"shape \(N,\)"):
        dice_vectors([[1]], low=0, high=1)


def test_a_turned_vocabulary_is_aligned_and_csls_fights_hubs():
    rng = np.random.default_rng(0)
    words = rng.normal(size=(800, 20)) + 0.8 * rng.normal(size=20)
    turn = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    found = fit_procrustes(words[:100], words[:100] @ turn)
    np.testing.assert_allclose(found.matrix, turn, atol=1e-6)
    noisy = words @ turn + rng.normal(size=words.shape) * 0.7
    aligned = fit_procrustes(words[:200], noisy[:200])(words[200:])
    hits, skew = {}, {}
    for margin in ("cosine", "csls"):
        scores = margin_scores(aligned, noisy[200:], k=10, margin=margin)
        hits[margin] = (scores.argmax(axis=1) == np.arange(600)).mean()
        chosen = np.bincount(np.argsort(-scores, axis=1)[:, :5].ravel(), minlength=600)
        skew[margin] = ((chosen - chosen.mean()) ** 3).mean() / chosen.std() ** 3
    assert hits["csls"] >= hits["cosine"] > 0.5
    assert skew["csls"] < skew["cosine"]
