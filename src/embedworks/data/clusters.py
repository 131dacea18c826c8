"""Clusters of vectors for batches and sampling: balanced k-means, its size, even draws.

Takes vectors from the caller; knows nothing of models. Plain numpy, the same on every machine up
to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_in_range, check_vectors
from embedworks.errors import EmptyInputError, InputError, ShapeError

__all__ = [
    "ClusterCount",
    "Clusters",
    "balanced_kmeans",
    "choose_cluster_count",
    "draw_per_cluster",
    "kmeans",
]

_MAX_DISTANCES = 20_000_000
_LEAST_GAIN = 1e-3


@dataclass(frozen=True)
class Clusters:
    """A partition of N vectors into K clusters.

    Attributes:
        of_row: int64 array (N,): the cluster of each row.
        centers: float32 array (K, D): means of the clusters.
        inertia: Sum of squared distances to the centres.
    """

    of_row: np.ndarray
    centers: np.ndarray
    inertia: float

    @property
    def sizes(self) -> np.ndarray:
        """Rows per cluster, shape (K,)."""
        return np.bincount(self.of_row, minlength=len(self.centers))


@dataclass(frozen=True)
class ClusterCount:
    """The gap statistic of several numbers of clusters.

    Attributes:
        k: The chosen number: the smallest whose gap is at least the next gap less its error.
        tried: Numbers of clusters, ascending.
        gaps: How much tighter the clusters are than those of structureless data, per number.
        errors: Standard error of each gap.
        found: False when no number met the rule, so that ``k`` has merely the largest gap.
    """

    k: int
    tried: tuple[int, ...]
    gaps: tuple[float, ...]
    errors: tuple[float, ...]
    found: bool


def _check(vectors: np.ndarray, k: int) -> np.ndarray:
    vectors = check_vectors(vectors)
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= len(vectors):
        raise InputError(
            f"the number of clusters must be between 1 and the {len(vectors)} vectors, got {k!r}."
        )
    return vectors


def _distances(vectors: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return squared distances, shape (N, K)."""
    out: np.ndarray = vectors @ (-2.0 * centers.T)
    out += (vectors**2).sum(axis=1)[:, None]
    out += (centers**2).sum(axis=1)
    return np.maximum(out, 0.0, out=out)


def _nearest(vectors: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return the nearest centre of each vector, a block of rows at a time."""
    step = max(1, _MAX_DISTANCES // len(centers))
    parts = [
        _distances(vectors[i : i + step], centers).argmin(axis=1)
        for i in range(0, len(vectors), step)
    ]
    return np.concatenate(parts)


def _means(vectors: np.ndarray, of_row: np.ndarray, k: int) -> np.ndarray:
    """Return the mean of each cluster; every cluster has a row. Shape (K, D)."""
    order = np.argsort(of_row, kind="stable")
    counts = np.bincount(of_row, minlength=k)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    sums = np.add.reduceat(vectors[order].astype(np.float64), starts, axis=0)
    return np.asarray(sums / counts[:, None], dtype=np.float32)


def _finish(vectors: np.ndarray, of_row: np.ndarray, k: int) -> Clusters:
    centers = _means(vectors, of_row, k)
    inertia = float(((vectors - centers[of_row]).astype(np.float64) ** 2).sum())
    return Clusters(of_row.astype(np.int64), centers, inertia)


def _seeds(vectors: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Pick k far-apart vectors: each next one with probability of its squared distance."""
    chosen = [int(rng.integers(len(vectors)))]
    best = _distances(vectors, vectors[chosen])[:, 0]
    for _ in range(k - 1):
        best[chosen] = 0.0
        total = float(best.sum(dtype=np.float64))
        if total > 0.0:
            place = np.searchsorted(
                np.cumsum(best, dtype=np.float64), rng.random() * total, "right"
            )
            pick = min(int(place), len(vectors) - 1)
        else:  # only copies of what is chosen are left
            pick = int(rng.choice(np.setdiff1d(np.arange(len(vectors)), chosen)))
        chosen.append(pick)
        best = np.minimum(best, _distances(vectors, vectors[[pick]])[:, 0])
    return vectors[chosen]


def _refill(vectors: np.ndarray, of_row: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Give each empty cluster the row that is farthest from its centre, of a cluster with more."""
    counts = np.bincount(of_row, minlength=len(centers))
    if counts.all():
        return of_row
    of_row = of_row.copy()
    far = np.argsort(-((vectors - centers[of_row]) ** 2).sum(axis=1), kind="stable")
    place = 0
    for empty in np.flatnonzero(counts == 0):
        while counts[of_row[far[place]]] < 2:
            place += 1
        counts[of_row[far[place]]] -= 1
        of_row[far[place]] = empty
        counts[empty] = 1
        place += 1
    return of_row


def kmeans(vectors: np.ndarray, k: int, *, seed: int = 0, iterations: int = 25) -> Clusters:
    """Cluster vectors by k-means; no cluster is empty.

    Args:
        vectors: (N, D) vectors.
        k: Number of clusters, at most N.
        seed: Seed of the first centres.
        iterations: Most rounds; it stops earlier when nothing changes.

    Raises:
        InputError: When there are fewer vectors than clusters.
        NonFiniteError: When a vector is not finite.

    Example:
        >>> vectors = np.array([[0.0], [0.1], [5.0], [5.1], [5.2]])
        >>> sorted(kmeans(vectors, 2).sizes.tolist())
        [2, 3]
    """
    vectors = _check(vectors, k)
    centers = _seeds(vectors, k, generator(seed, "clusters", "kmeans"))
    of_row = np.full(len(vectors), -1)
    for _ in range(max(1, iterations)):
        new = _refill(vectors, _nearest(vectors, centers), centers)
        if np.array_equal(new, of_row):
            break
        of_row = new
        centers = _means(vectors, of_row, k)
    return _finish(vectors, of_row, k)


def balanced_kmeans(
    vectors: np.ndarray, k: int, *, seed: int = 0, iterations: int = 10
) -> Clusters:
    """Cluster vectors into k clusters whose sizes differ by at most one.

    Use it for `BatchSettings` with ``strategy="clustered"``: a batch of close relatives has
    harder in-batch negatives than a random one. In every round rows go to the nearest centre
    that has room; where too many want one, those stay that would lose most elsewhere. Many
    vectors into many clusters are halved first, along the line between two centres, so time
    grows like N log K.

    Args:
        vectors: (N, D) vectors; normalise them first where cosine is meant.
        k: Number of clusters, at most N.
        seed: Seed of the first centres.
        iterations: Most rounds; the tightest one is kept.

    Raises:
        InputError: When there are fewer vectors than clusters.
        NonFiniteError: When a vector is not finite.

    Example:
        >>> vectors = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [0.3]])
        >>> balanced_kmeans(vectors, 2).sizes.tolist()
        [3, 3]
    """
    vectors = _check(vectors, k)
    of_row = np.empty(len(vectors), dtype=np.int64)
    _balance(vectors, np.arange(len(vectors)), k, 0, of_row, seed, max(1, iterations))
    return _finish(vectors, of_row, k)


def _balance(
    vectors: np.ndarray,
    rows: np.ndarray,
    k: int,
    first: int,
    of_row: np.ndarray,
    seed: int,
    iterations: int,
) -> None:
    """Write clusters ``first .. first + k - 1`` for ``rows`` into ``of_row``."""
    rng = generator(seed, "clusters", "balanced", first, k)
    if k == 1:
        of_row[rows] = first
    elif len(rows) * k <= _MAX_DISTANCES:
        of_row[rows] = first + _balanced_rounds(vectors[rows], k, rng, iterations)
    else:
        left = k // 2
        # The left part gets whole clusters of the two sizes that may occur.
        size, larger = divmod(len(rows), k)
        count = left * size + min(left, larger)
        here = vectors[rows]
        two = _two_centers(here, rng)
        order = np.argsort(here @ (two[1] - two[0]), kind="stable")
        _balance(vectors, rows[order[:count]], left, first, of_row, seed, iterations)
        _balance(vectors, rows[order[count:]], k - left, first + left, of_row, seed, iterations)


def _two_centers(vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    sample = vectors[rng.choice(len(vectors), size=min(len(vectors), 20_000), replace=False)]
    centers = _seeds(sample, 2, rng)
    for _ in range(8):
        of_row = _refill(sample, _nearest(sample, centers), centers)
        centers = _means(sample, of_row, 2)
    return centers


def _balanced_rounds(
    vectors: np.ndarray, k: int, rng: np.random.Generator, iterations: int
) -> np.ndarray:
    centers = _seeds(vectors, k, rng)
    best, best_cost = np.zeros(len(vectors), dtype=np.int64), np.inf
    for _ in range(iterations):
        distances = _distances(vectors, centers)
        of_row = _assign_evenly(distances, k)
        centers = _means(vectors, of_row, k)
        cost = float(((vectors - centers[of_row]).astype(np.float64) ** 2).sum())
        settled = cost > best_cost * (1.0 - _LEAST_GAIN)
        if cost < best_cost:
            best, best_cost = of_row, cost
        if settled:
            break
    return best


def _assign_evenly(distances: np.ndarray, k: int) -> np.ndarray:
    """Assign N rows to K centres with room for N / K rows each. ``distances`` is (N, K)."""
    count = len(distances)
    size, larger = divmod(count, k)
    wanted = np.bincount(distances.argmin(axis=1), minlength=k)
    room = np.full(k, size)
    room[np.argsort(-wanted, kind="stable")[:larger]] += 1
    of_row = np.full(count, -1)
    waiting = np.arange(count)
    open_centers = np.flatnonzero(room > 0)
    costs = distances[:, open_centers]
    while len(waiting):
        choice = costs.argmin(axis=1)
        first = costs[np.arange(len(waiting)), choice]
        second = np.partition(costs, 1, axis=1)[:, 1] if costs.shape[1] > 1 else 0.0
        regret = second - first
        order = np.lexsort((np.arange(len(waiting)), -regret, choice))
        chosen = choice[order]
        rank = np.arange(len(order)) - np.searchsorted(chosen, chosen, "left")
        taken = order[rank < room[open_centers[chosen]]]
        of_row[waiting[taken]] = open_centers[choice[taken]]
        room -= np.bincount(open_centers[choice[taken]], minlength=k)
        left = np.ones(len(waiting), dtype=bool)
        left[taken] = False
        still = room[open_centers] > 0
        waiting, costs = waiting[left], costs[left][:, still]
        open_centers = open_centers[still]
    return of_row


def choose_cluster_count(
    vectors: np.ndarray,
    counts: Sequence[int] = tuple(range(1, 21)),
    *,
    references: int = 10,
    pca_dim: int | None = 50,
    seed: int = 0,
) -> ClusterCount:
    """Choose a number of clusters by the gap statistic.

    The gap of k is the mean log dispersion of k clusters of uniform data in the same box, less
    that of the vectors; the smallest k with ``gap(k) >= gap(next) - error(next)`` is chosen.
    k-means runs ``references + 1`` times per number, so give a sample of some thousands.

    Args:
        vectors: (N, D) vectors.
        counts: Numbers of clusters to try, ascending, at most N.
        references: Uniform data sets to compare with.
        pca_dim: Principal components to keep first, or None for the vectors as they are.
        seed: Seed of k-means and of the uniform data.

    Raises:
        InputError: When there are fewer vectors than clusters, or all vectors are equal.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> blobs = np.repeat([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]], 30, axis=0)
        >>> choose_cluster_count(blobs + rng.normal(size=blobs.shape), range(1, 6)).k
        3
    """
    tried = [int(k) for k in counts]
    if not tried or tried != sorted(set(tried)):
        raise InputError(f"counts must be ascending numbers of clusters, got {tried}.")
    vectors = _check(vectors, tried[0])
    _check(vectors, tried[-1])
    check_in_range(references, name="references", low=1)
    if np.ptp(vectors, axis=0).max() == 0.0:
        raise InputError("all vectors are equal: they have no clusters to count.")
    if pca_dim is not None:
        vectors = _principal(vectors, pca_dim)
    low, high = vectors.min(axis=0), vectors.max(axis=0)
    logs = np.array([_log_dispersion(vectors, k, seed) for k in tried])
    uniform = np.empty((references, len(tried)))
    for number in range(references):
        rng = generator(seed, "clusters", "reference", number)
        data = rng.uniform(low, high, size=vectors.shape).astype(np.float32)
        uniform[number] = [_log_dispersion(data, k, seed) for k in tried]
    gaps = uniform.mean(axis=0) - logs
    errors = uniform.std(axis=0) * np.sqrt(1.0 + 1.0 / references)
    meets = np.flatnonzero(gaps[:-1] >= gaps[1:] - errors[1:])
    place = int(meets[0]) if len(meets) else int(gaps.argmax())
    return ClusterCount(
        tried[place], tuple(tried), tuple(gaps.tolist()), tuple(errors.tolist()), bool(len(meets))
    )


def _principal(vectors: np.ndarray, dim: int) -> np.ndarray:
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    values, directions = np.linalg.eigh(centred.T @ centred)
    top = directions[:, np.argsort(-values, kind="stable")[:dim]]
    return np.asarray(centred @ top, dtype=np.float32)


def _log_dispersion(vectors: np.ndarray, k: int, seed: int) -> float:
    return float(np.log(max(kmeans(vectors, k, seed=seed).inertia, 1e-30)))


def draw_per_cluster(
    clusters: np.ndarray, count: int | None = None, *, seed: int = 0
) -> np.ndarray:
    """Draw the same number of rows from every cluster, without repeats.

    It keeps a frequent kind of document from taking most of a training set.

    Args:
        clusters: (N,) cluster of each row.
        count: Rows per cluster; the smallest cluster's size by default.
        seed: Seed of the draw.

    Returns:
        Ascending int64 row positions.

    Raises:
        InputError: When a cluster has fewer rows than ``count``.

    Example:
        >>> len(draw_per_cluster(np.array([0, 0, 0, 1, 1])))
        4
    """
    clusters = np.asarray(clusters)
    if clusters.ndim != 1 or clusters.dtype.kind not in "iu":
        raise ShapeError(f"clusters must be integers of shape (N,), got {clusters.shape}.")
    if not len(clusters):
        raise EmptyInputError("there are no rows to draw from.")
    names, of_row, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    if count is None:
        count = int(sizes.min())
    check_in_range(count, name="count", low=1)
    if sizes.min() < count:
        short = names[sizes < count]
        raise InputError(
            f"{len(short)} of {len(names)} clusters have fewer than {count} rows, cluster "
            f"{short[0]} has {sizes[sizes < count][0]}: draw fewer, or merge small clusters."
        )
    rng = generator(seed, "clusters", "draw")
    order = np.lexsort((rng.random(len(clusters)), of_row))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < count]).astype(np.int64)
