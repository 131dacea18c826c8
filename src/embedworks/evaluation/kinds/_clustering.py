"""Clusters of vectors and how well they agree with labels; shared by texts and words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.seeding import derive_seed
from embedworks._core.validation import normalize_rows
from embedworks.errors import EmptyInputError, InputError, ShapeError
from embedworks.evaluation.outcomes import Failure, Resampling, Score, shorten

if TYPE_CHECKING:
    from embedworks.evaluation.systems import System

__all__ = [
    "adjusted_rand",
    "agreement_scores",
    "cluster_failures",
    "cluster_seeds",
    "clusters_of",
    "purity",
    "recentred",
    "v_measure",
]


def v_measure(labels: np.ndarray, clusters: np.ndarray) -> float:
    """Return the V-measure: harmonic mean of homogeneity and completeness.

    Equal to the normalised mutual information with the arithmetic mean, and to scikit-learn's
    ``v_measure_score``. It rises with the number of clusters: compare systems at the same number,
    or look at `adjusted_rand`, which is 0 at chance.

    Args:
        labels: Label numbers, int (N,), 0 or greater.
        clusters: Cluster numbers, int (N,), 0 or greater.

    Example:
        >>> v_measure(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]))
        1.0
    """
    joint = _joint(labels, clusters)
    of_label, of_cluster = _entropy(joint.sum(axis=1)), _entropy(joint.sum(axis=0))
    shared = of_label + of_cluster - _entropy(joint.ravel())
    total = of_label + of_cluster
    return 1.0 if total == 0 else float(min(1.0, max(0.0, 2 * shared / total)))


def adjusted_rand(labels: np.ndarray, clusters: np.ndarray) -> float:
    """Return the Rand index adjusted for chance: 1 when clusters are the labels, 0 at chance.

    Args:
        labels: Label numbers, int (N,), 0 or greater.
        clusters: Cluster numbers, int (N,), 0 or greater.

    Example:
        >>> adjusted_rand(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]))
        1.0
    """
    joint = _joint(labels, clusters).astype(np.float64)
    pairs, by_label, by_cluster = (
        float((counts * (counts - 1) / 2).sum())
        for counts in (joint, joint.sum(axis=1), joint.sum(axis=0))
    )
    n = len(labels)
    expected = by_label * by_cluster / max(1.0, n * (n - 1) / 2)
    most = (by_label + by_cluster) / 2
    return 1.0 if most == expected else (pairs - expected) / (most - expected)


def purity(labels: np.ndarray, clusters: np.ndarray) -> float:
    """Return the share of items that have the most frequent label of their cluster.

    Args:
        labels: Label numbers, int (N,), 0 or greater.
        clusters: Cluster numbers, int (N,), 0 or greater.

    Example:
        >>> purity(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]))
        0.75
    """
    return float(_joint(labels, clusters).max(axis=0).sum() / len(labels))


def _joint(labels: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    if len(labels) != len(clusters):
        raise ShapeError(f"{len(labels)} labels and {len(clusters)} clusters: one each is needed.")
    if not len(labels):
        raise EmptyInputError("There are no items to compare clusters with labels.")
    width = int(clusters.max()) + 1
    codes = labels * width + clusters
    height = int(labels.max()) + 1
    return np.bincount(codes, minlength=height * width).reshape(height, width)


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum()) + 0.0


def cluster_seeds(vectors: np.ndarray, k: int, seeds: Sequence[int]) -> np.ndarray:
    """Cluster vectors by mini-batch k-means, once for each seed.

    Args:
        vectors: (N, D), brought to length 1 first, so that distance follows cosine.
        k: Number of clusters, at most N.
        seeds: S seeds.

    Returns:
        Cluster numbers, int64 (S, N).

    Example:
        >>> found = cluster_seeds(np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]]), 2, [0, 1])
        >>> found.shape, bool(found[0, 0] == found[0, 1] != found[0, 2])
        ((2, 4), True)
    """
    require_extra("sklearn", extra="train", purpose="cluster vectors")
    from sklearn.cluster import MiniBatchKMeans

    unit = normalize_rows(vectors)
    found = np.empty((len(seeds), len(unit)), dtype=np.int64)
    for row, seed in enumerate(seeds):
        state = derive_seed(seed, "mini-batch k-means") % 2**32
        model = MiniBatchKMeans(n_clusters=k, batch_size=1024, n_init=3, random_state=state)
        found[row] = model.fit_predict(unit)
    return found


def recentred(score: Score) -> Score:
    """Shift a score's resamples so that their mean is the figure itself.

    Agreement of clusters and labels is higher in resamples than in the data, because repeated
    items agree with themselves; the shift takes this out of the interval.

    Example:
        >>> labels = np.arange(40) % 8
        >>> drawn = Score.of_statistic(40, lambda rows: v_measure(labels[rows], rows % 5))
        >>> drawn.interval.low > drawn.interval.mean
        True
        >>> moved = recentred(drawn).interval
        >>> moved.low < moved.mean < moved.high
        True
    """
    values = np.array(score.replicates)
    defined = values[np.isfinite(values)]
    if not len(defined):
        return score
    interval = score.interval
    values = np.minimum(values + interval.mean - defined.mean(), 1.0)
    tail = (1 - interval.confidence) / 2
    low, high = np.quantile(values[np.isfinite(values)], [tail, 1 - tail])
    moved = replace(
        interval, low=min(float(low), interval.mean), high=max(float(high), interval.mean)
    )
    return Score(moved, replicates=tuple(values.tolist()))


def clusters_of(
    system: System, vectors: np.ndarray, k: int, seeds: Sequence[int], *, name: str
) -> np.ndarray:
    """Cluster a system's vectors with `cluster_seeds`, int64 (S, N).

    Raises:
        InputError: When there are fewer different vectors than clusters.
    """
    different = len(np.unique(normalize_rows(vectors), axis=0))
    if different < k:
        raise InputError(
            f"{system.name} gives the {len(vectors)} texts of {name!r} {different} different "
            f"vectors, which cannot make {k} clusters."
        )
    return cluster_seeds(vectors, k, seeds)


def agreement_scores(
    truth: np.ndarray, found: np.ndarray, resampling: Resampling
) -> dict[str, Score]:
    """Return V-measure, adjusted Rand index and purity, means over clusterings (S, N)."""
    measures = {"v-measure": v_measure, "adjusted-rand": adjusted_rand, "purity": purity}
    return {
        name: recentred(
            Score.of_statistic(
                len(truth),
                lambda rows, measure=measure: float(  # type: ignore[misc]
                    np.mean([measure(truth[rows], row[rows]) for row in found])
                ),
                resampling,
            )
        )
        for name, measure in measures.items()
    }


def cluster_failures(
    texts: Sequence[str], labels: Sequence[str], clusters: np.ndarray, count: int = 10
) -> tuple[Failure, ...]:
    """Return the texts whose cluster has the smallest share of their label.

    One for each label and cluster, so that one bad cluster does not hide the others.
    """
    members: dict[int, list[int]] = {}
    for row, cluster in enumerate(clusters.tolist()):
        members.setdefault(cluster, []).append(row)
    inside = {cluster: Counter(labels[row] for row in rows) for cluster, rows in members.items()}
    share = [
        inside[cluster][labels[row]] / len(members[cluster])
        for row, cluster in enumerate(clusters.tolist())
    ]
    worst = sorted(range(len(texts)), key=lambda row: (share[row], row))
    failures: list[Failure] = []
    shown: set[tuple[str, int]] = set()
    for row in worst:
        cluster = int(clusters[row])
        main, times = inside[cluster].most_common(1)[0]
        if main == labels[row] or len(failures) == count or (labels[row], cluster) in shown:
            continue
        shown.add((labels[row], cluster))
        others = [i for i in members[cluster] if labels[i] == main][:2]
        failures.append(
            Failure(
                item=str(row),
                text=shorten(texts[row], 400),
                score=share[row],
                expected=(labels[row],),
                found=(
                    f"a cluster of {main} ({times} of {len(members[cluster])})",
                    *(shorten(texts[other]) for other in others),
                ),
            )
        )
    return tuple(failures)
