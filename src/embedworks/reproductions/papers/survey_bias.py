"""Surveys on bias in embeddings: is a planted bias found, and is it gone once a direction is?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedworks.evaluation import (
    association_scores,
    probe,
    weat_effect_size,
    weat_permutation_test,
)
from embedworks.reproductions import Arm, Comparison, Context, Outcome, Reproduction, knn_hits

__all__ = ["ENTRIES", "PlantedWords", "bias_direction", "erase_linear", "planted_words", "remove"]


@dataclass(frozen=True)
class PlantedWords:
    """Word vectors made from sentences in which a bias was planted.

    Attributes:
        definitional: Vectors of the pairs of words that define the two groups, (P, 2, D).
        jobs: Vectors of words that should be neutral, (N, D).
        leans: Which group each of these was planted with, +1 or -1, (N,).
    """

    definitional: np.ndarray
    jobs: np.ndarray
    leans: np.ndarray


def planted_words(
    strength: float,
    *,
    jobs: int = 200,
    sentences: int = 60_000,
    dim: int = 50,
    seed: int,
) -> PlantedWords:
    """Make word vectors (positive PMI, then SVD) of synthetic sentences.

    A sentence has a job, a word of its trade (one of ten), a word of one of the two groups and
    two hobbies. Half of the jobs meet each group with the probability ``0.5 + strength / 2``;
    hobbies go with the group, not with the job, whenever ``strength`` is above 0.

    Args:
        strength: Of the bias, from 0 (none) to 1 (a job meets one group only).
        jobs: Number of jobs.
        sentences: Number of sentences.
        dim: Dimensions of the vectors.
        seed: Seed of the sentences.

    Example:
        >>> planted_words(0.5, jobs=20, sentences=2000, dim=8, seed=0).jobs.shape
        (20, 8)
    """
    rng = np.random.default_rng([seed, 17])
    pairs, hobbies, trades = 10, 30, 10
    lean = np.where(rng.permutation(jobs) < jobs // 2, 1, -1)
    trade = rng.integers(0, trades, jobs)
    job = rng.integers(0, jobs, sentences)
    group = np.where(rng.random(sentences) < 0.5 + strength / 2, lean[job], -lean[job]) > 0
    side = rng.random((sentences, 2)) < 0.5 + strength / 2
    of_group = np.where(side, group[:, None], ~group[:, None])
    starts = np.cumsum([0, jobs, 2 * pairs, 2 * hobbies, trades * 5])
    words = np.column_stack(
        [
            job,
            starts[1] + 2 * rng.integers(0, pairs, sentences) + group,
            starts[2] + 2 * rng.integers(0, hobbies, (sentences, 2)) + of_group,
            starts[3] + 5 * trade[job] + rng.integers(0, 5, sentences),
        ]
    )
    counts = np.zeros((starts[-1], starts[-1]))
    for one in range(words.shape[1]):
        for other in range(words.shape[1]):
            if one != other:
                np.add.at(counts, (words[:, one], words[:, other]), 1.0)
    share = counts.sum(axis=1) / counts.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(counts / counts.sum() / np.outer(share, share))
    left, values, _ = np.linalg.svd(np.where(counts > 0, np.maximum(information, 0.0), 0.0))
    vectors = left[:, :dim] * np.sqrt(values[:dim])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    groups = vectors[starts[1] : starts[2]].reshape(pairs, 2, dim)
    return PlantedWords(groups, vectors[:jobs], lean)


def bias_direction(pairs: np.ndarray) -> np.ndarray:
    """Return the first principal axis of pairs about their own means, (D,), as hard debiasing.

    Args:
        pairs: Vectors (P, 2, D).

    Example:
        >>> pairs = np.array([[[1.0, 0.0], [-1.0, 0.0]], [[2.0, 1.0], [0.0, 1.0]]])
        >>> np.abs(bias_direction(pairs)).tolist()
        [1.0, 0.0]
    """
    centred = pairs - pairs.mean(axis=1, keepdims=True)
    flat = centred.reshape(-1, pairs.shape[2])
    return np.asarray(np.linalg.svd(flat, full_matrices=False)[2][0])


def remove(vectors: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Return vectors without their part in the space of some directions.

    Args:
        vectors: float (..., D).
        directions: float (K, D), in any basis.

    Example:
        >>> remove(np.array([[3.0, 4.0]]), np.array([[0.0, 2.0]])).tolist()
        [[3.0, 0.0]]
    """
    basis = np.linalg.qr(directions.T)[0]
    return np.asarray(vectors - (vectors @ basis) @ basis.T)


def erase_linear(vectors: np.ndarray, labels: np.ndarray, *, rounds: int) -> np.ndarray:
    """Return directions of linear classifiers, each trained where those before it are removed.

    Args:
        vectors: float (N, D).
        labels: N labels of two kinds.
        rounds: Most directions; fewer when a classifier has nothing left to go by.
    """
    from sklearn.linear_model import LogisticRegression

    found: list[np.ndarray] = []
    for _ in range(rounds):
        left = remove(vectors, np.array(found)) if found else vectors
        weights = LogisticRegression(C=10.0, max_iter=1000).fit(left, labels).coef_[0]
        size = np.linalg.norm(weights)
        if size == 0:  # nothing of the labels is left
            break
        found.append(weights / size)
    return np.array(found).reshape(-1, vectors.shape[1])


def _hits(vectors: np.ndarray, labels: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Return hits of a linear, a neighbour and a small network's probe, none on texts it saw."""
    from sklearn.model_selection import StratifiedKFold
    from sklearn.neural_network import MLPClassifier

    names = np.array(labels)
    found = {
        "linear probe": np.array(probe(vectors, labels, seed=seed).predictions) == names,
        "neighbour probe": np.zeros(len(names), dtype=bool),
        "network probe": np.zeros(len(names), dtype=bool),
    }
    folds = StratifiedKFold(5, shuffle=True, random_state=seed).split(vectors, names)
    scaled = ((vectors - vectors.mean(axis=0)) / vectors.std(axis=0).clip(1e-9)).astype(np.float32)
    for train, test in folds:
        found["neighbour probe"][test] = knn_hits(
            vectors[train].astype(np.float32),
            names[train].tolist(),
            vectors[test].astype(np.float32),
            names[test].tolist(),
            k=9,
        )
        network = MLPClassifier(
            (32,), alpha=1.0, solver="lbfgs", max_iter=5000, max_fun=100_000, random_state=seed
        )
        found["network probe"][test] = (
            network.fit(scaled[train], names[train]).predict(scaled[test]) == names[test]
        )
    return found


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    strength = settings["strength"] if arm["planted"] else 0.0
    world = context.once(
        ("words", seed, strength, repr(sorted(settings.items()))),
        lambda: planted_words(
            strength,
            jobs=settings["jobs"],
            sentences=settings["sentences"],
            dim=settings["dim"],
            seed=seed,
        ),
    )
    jobs, groups, leans = world.jobs, world.definitional, world.leans
    # What is removed is learnt from the first half of the jobs and of the pairs at most; all
    # figures are of the other half.
    half, known = len(jobs) // 2, len(groups) // 2
    if arm["removal"] == "direction":
        directions = bias_direction(groups[:known])[None]
    elif arm["removal"] == "linear":
        directions = np.vstack(
            [
                bias_direction(groups[:known])[None],
                erase_linear(
                    remove(jobs[:half], bias_direction(groups[:known])[None]),
                    leans[:half],
                    rounds=settings["rounds"],
                ),
            ]
        )
    if arm["removal"] != "none":
        jobs, groups = remove(jobs, directions), remove(groups, directions)
    jobs, leans = jobs[half:], leans[half:]
    s = association_scores(jobs, groups[known:, 1], groups[known:, 0])
    test = weat_permutation_test(s[leans > 0], s[leans < 0], seed=seed)
    labels = ["one" if lean > 0 else "other" for lean in leans]
    items = {
        name: {f"{seed}:{i}": float(hit) for i, hit in enumerate(hits)}
        for name, hits in _hits(jobs, labels, seed).items()
    }
    return Outcome(
        {
            "effect size": weat_effect_size(s[leans > 0], s[leans < 0]),
            "found at p < 0.01": float(test.p_value < 0.01),
            "p-value": test.p_value,
        },
        items,
    )


_PLANTED, _HARD, _LINEAR = "planted", "direction removed", "linear part removed"

ENTRIES = (
    Reproduction(
        slug="survey-bias",
        paper="From Word Vectors to Multimodal Embeddings: Techniques, Applications, and Future "
        "Directions For Large Language Models",
        arxiv="2411.05036",
        claim="An association test finds a bias that was planted in word vectors; removing the "
        "bias direction makes the test pass and leaves the bias where neighbours show it.",
        falsifier="The test does not tell planted words from words without a bias, or a nearest-"
        "neighbour probe is at chance once the direction is removed.",
        arms=(
            Arm("no bias", "the same sentences, groups drawn evenly", {
                "planted": False, "removal": "none"}),
            Arm(_PLANTED, "half of the jobs meet each group more often",
                {"planted": True, "removal": "none"}),
            Arm(_HARD, "the first axis of the pairs that define the groups is taken out",
                {"planted": True, "removal": "direction"}),
            Arm(_LINEAR, "also the directions of linear classifiers, one after the other",
                {"planted": True, "removal": "linear"}),
        ),
        decisive=Comparison(
            "neighbours know after the direction is removed",
            "neighbour probe",
            {_HARD: 1.0},
            null=0.5,
            margin=0.1,
        ),
        conditions=(
            Comparison.between(
                _PLANTED, "no bias", "effect size", name="the planted bias is found", margin=0.5
            ),
            Comparison.between(
                _HARD, _PLANTED, "effect size", name="removal lowers the effect size",
                claim="less", margin=0.5,
            ),
        ),
        secondary=(
            Comparison(
                "no bias is at chance", "neighbour probe", {"no bias": 1.0}, "equal", null=0.5,
                margin=0.1,
            ),
            Comparison(
                "a linear probe knows after the direction is removed", "linear probe",
                {_HARD: 1.0}, null=0.5, margin=0.1,
            ),
            Comparison(
                "no linear probe knows after all linear parts are removed", "linear probe",
                {_LINEAR: 1.0}, "equal", null=0.5, margin=0.1,
            ),
            Comparison(
                "neighbours know after all linear parts are removed", "neighbour probe",
                {_LINEAR: 1.0}, null=0.5, margin=0.1,
            ),
            Comparison(
                "a network knows after all linear parts are removed", "network probe",
                {_LINEAR: 1.0}, null=0.5, margin=0.1,
            ),
        ),
        run=_run,
        seeds=5,
        scales={
            "mini": {
                "strength": 0.5, "jobs": 200, "sentences": 60_000, "dim": 50, "rounds": 10,
            }
        },
        setup="Word vectors are positive PMI and SVD of 60,000 synthetic sentences: a job, a word "
        "of its trade, a word of one of two groups, and two hobbies. Half of the 200 jobs meet "
        "each group in three of four sentences; hobbies go with the group in the same measure.\n\n"
        "The direction is the first axis of five of the ten pairs of words that define the "
        "groups; the linear parts are those of ten classifiers, each trained where the ones "
        "before are removed, on half of the jobs. Figures are of the other half of pairs and "
        "jobs: the effect size of the association test, and the accuracy of a linear probe, of "
        "nine nearest neighbours and of a network with 32 units, each on folds not trained on.",
        limits="The bias is planted by rules and shows in the company of words as well as in the "
        "words for the groups, as it does in real text; with no such company there would be less "
        "to recover. The survey reports the limit of removal from the literature and gives no "
        "figures of its own.",
    ),
)  # fmt: skip
