"""Partitions by vector and then by attribute: small, quick to build, for every filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa

from embedworks._core.validation import check_in_range
from embedworks.errors import InputError
from embedworks.index.attributes import AttributeTable
from embedworks.index.filtered._beam import on_sphere
from embedworks.index.filtered._labels import Labels
from embedworks.index.filtered._ready import Ready
from embedworks.index.filtered._scans import scan_partitions
from embedworks.index.filtered._walked import WalkedIndex, check_numbers
from embedworks.index.where import And

__all__ = ["PartitionIndex"]

_SPARE = 16


@dataclass(frozen=True, eq=False)
class Buckets:
    """Rows by cluster and, inside a cluster, by their most frequent values.

    Attributes:
        centers: Centres of the clusters, float32 (clusters, D).
        order: See `scan_partitions`, as are ``ends`` and ``splits``.
        samples: Value -> a row that has it, int32.
        columns: Value -> number of its column, int32.
    """

    centers: np.ndarray
    order: np.ndarray
    ends: np.ndarray
    splits: np.ndarray
    samples: np.ndarray
    columns: np.ndarray


def _values(table: AttributeTable, columns: Sequence[str]) -> tuple[np.ndarray, ...]:
    """Number the values of all columns: ``(of each row (M, columns), samples, columns)``."""
    of_rows = np.full((len(table), len(columns)), -1, dtype=np.int32)
    samples, owners = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    for number, name in enumerate(columns):
        labels, first = Labels.of(table, name), sum(map(len, samples))
        if len(labels.labels) and np.diff(labels.offsets).max() > 1:
            raise InputError(f"Column {name!r} holds sets: give columns of single values.")
        rows = np.flatnonzero(np.diff(labels.offsets))
        of_rows[rows, number] = labels.labels + first
        samples.append(rows[np.unique(labels.labels, return_index=True)[1]].astype(np.int32))
        owners.append(np.full(labels.count, number, dtype=np.int32))
    return of_rows, np.concatenate(samples), np.concatenate(owners)


def _split(values: np.ndarray, buckets: int) -> tuple[np.ndarray, list[int], list[int]]:
    """Split off the rows with the most frequent value, again and again.

    Args:
        values: Values of each row (N, columns), -1 for none.
        buckets: How often.

    Returns:
        ``(places, chosen, sizes)``: the rows by bucket, the value of each bucket, and how many
        rows each has, the rest last.
    """
    left, parts = np.arange(len(values)), []
    chosen: list[int] = []
    while len(left) and len(chosen) < buckets:
        there = values[left]
        found, counts = np.unique(there[there >= 0], return_counts=True)
        fresh = ~np.isin(found, chosen)
        if not fresh.any():
            break
        best = int(found[fresh][np.argmax(counts[fresh])])
        has = (there == best).any(axis=1)
        parts.append(left[has])
        chosen.append(best)
        left = left[~has]
    parts.append(left)
    return np.concatenate(parts), chosen, [len(part) for part in parts]


class PartitionIndex(WalkedIndex):
    """Clusters of vectors, each split by its most frequent attribute values.

    After CAPS (Gupta et al. 2023, arXiv 2308.15014). A search goes through the clusters, the
    nearest first, scores the rows that pass and stops when it has scored ``ef`` of them. Values
    that the filter rules out, by parts that read one column and are joined by AND, let it skip
    buckets unread. Every filter is served; those are fast.

    Differs from the paper: every filter is served, k-means takes the place of learned
    partitions, and rows are scored where they lie rather than in a copy ordered by bucket.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> vectors = rng.normal(size=(500, 16)).astype(np.float32)
        >>> rows = pa.table({"kind": rng.choice(["a", "b", "c"], 500)})
        >>> index = PartitionIndex.build(vectors, rows, columns=["kind"], exact_below=50, ef=80)
        >>> index.search(vectors[:1], 3, where="kind = 'a'").plans
        ['partitions']
    """

    FORMAT = "partitions"
    WALK = "partitions"
    serves = "every filter"

    def __init__(self, buckets: Buckets, *, columns: Sequence[str], **common: Any) -> None:
        self._buckets, self.columns = buckets, tuple(columns)
        super().__init__(**common)

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        attributes: pa.Table,
        *,
        columns: Sequence[str] = (),
        similarity: str = "cosine",
        clusters: int | None = None,
        buckets: int = 20,
        exact_below: int = 1000,
        ef: int = 2000,
        seed: int = 0,
    ) -> Self:
        """Build an index.

        Args:
            vectors: Array of shape (M, D).
            attributes: Arrow table of M rows.
            columns: Columns of single values to split clusters by.
            similarity: ``"cosine"`` or ``"dot"``.
            clusters: B of the paper; the square root of M by default.
            buckets: How many values are split off in each cluster, h of the paper.
            exact_below: Up to so many matching rows are scanned instead.
            ef: After how many scored rows a search that gives none stops.
            seed: Seed of k-means.

        Raises:
            UnknownNameError: When there is no such column.
            ShapeError: When vectors and attributes differ in number.
            NonFiniteError: When a vector contains NaN or infinity.
            InputError: When a number is out of range, or a column holds sets.
        """
        stored, table = cls._prepare(vectors, attributes, similarity)
        check_in_range(buckets, name="buckets", low=0)
        wanted = check_in_range(clusters or max(1, round(len(stored) ** 0.5)),
                                name="clusters", low=1)  # fmt: skip
        values, samples, owners = _values(table, columns)
        points = on_sphere(stored, similarity)
        centers, cluster = _clusters(points, min(int(wanted), len(stored)), seed)
        by_cluster = np.argsort(cluster, kind="stable")
        edges = np.searchsorted(cluster[by_cluster], np.arange(len(centers) + 1))
        ends = np.zeros((len(centers), buckets + 2), dtype=np.int32)
        splits = np.full((len(centers), buckets), -1, dtype=np.int32)
        order = [np.empty(0, dtype=np.int64)]
        for number in range(len(centers)):
            rows = by_cluster[edges[number] : edges[number + 1]]
            places, chosen, sizes = _split(values[rows], buckets)
            order.append(rows[places])
            splits[number, : len(chosen)] = chosen
            sizes = [*sizes[:-1], *[0] * (buckets - len(chosen)), sizes[-1]]
            ends[number] = edges[number] + np.concatenate([[0], np.cumsum(sizes)])
        made = Buckets(centers, np.concatenate(order).astype(np.int32), ends, splits,
                       samples, owners)  # fmt: skip
        return cls(made, columns=columns, vectors=stored, table=table, similarity=similarity,
                   inside=np.ones(len(stored), dtype=np.uint8), exact_below=exact_below,
                   ef=ef)  # fmt: skip

    def _route(self, ready: Ready) -> tuple[np.ndarray, np.ndarray]:
        """Return, for each value, whether rows with it may pass, and whether only they do."""
        buckets, condition = self._buckets, ready.condition
        allowed = np.ones(len(buckets.samples), dtype=np.uint8)
        only = np.zeros_like(allowed)
        parts = condition.parts if isinstance(condition, And) else (condition,)
        for part in parts:
            if part is None or len(part.columns()) != 1:
                continue
            (name,) = part.columns()
            if name not in self.columns:
                continue
            own = np.flatnonzero(buckets.columns == self.columns.index(name))
            compiled = self.table.compile(part)
            passing = compiled.test(buckets.samples[own])
            allowed[own] &= passing
            if passing.sum() == 1 and not self._without_value_pass(name, compiled.rows()):
                only[own[passing.argmax()]] = 1
        return allowed, only

    def _without_value_pass(self, name: str, rows: np.ndarray) -> bool:
        """Say whether rows that have no value in a column are among ``rows``."""
        column: Any = self.table.column(name)
        return bool((column.rank[rows] >= column.offsets[-1]).any())

    def _walk(self, point: np.ndarray, k: int, ef: int, ready: Ready) -> np.ndarray:
        buckets = self._buckets
        far = np.einsum("cd,cd->c", buckets.centers, buckets.centers)
        near = np.argsort(far - 2 * (buckets.centers @ point), kind="stable")
        rows = np.empty(k + _SPARE, dtype=np.int32)
        count, _ = scan_partitions(
            self._points, point, near, buckets.order, buckets.ends, buckets.splits, *ready.route,
            ready.mask, self.alive, ef, rows, np.empty(len(rows), dtype=np.float32),
        )  # fmt: skip
        return rows[:count]

    def _parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        names = ("centers", "order", "ends", "splits", "samples", "columns")
        arrays = {name: getattr(self._buckets, name) for name in names}
        return {"columns": list(self.columns)}, arrays

    @classmethod
    def _from_parts(
        cls, settings: dict[str, Any], arrays: dict[str, np.ndarray], common: dict[str, Any]
    ) -> Self:
        found, built = Buckets(**arrays), common["built"]
        clusters, values = len(found.centers), len(found.samples)
        check_numbers("order", found.order, below=built, rows=built)
        check_numbers("ends", found.ends, below=built + 1, dim=2, rows=clusters)
        check_numbers("splits", found.splits, below=values, least=-1, dim=2, rows=clusters)
        check_numbers("samples", found.samples, below=built)
        check_numbers("columns", found.columns, below=len(settings["columns"]), rows=values)
        if found.ends.shape[1] != found.splits.shape[1] + 2:
            raise ValueError(f"ends have shape {found.ends.shape}, splits {found.splits.shape}")
        return cls(found, **settings, **common)


def _clusters(points: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return centres (count, D) and the cluster of each point (M,)."""
    if not count:
        return np.empty((0, points.shape[1]), np.float32), np.empty(0, np.int64)
    import faiss

    means = faiss.Kmeans(points.shape[1], count, niter=10, seed=seed + 1, min_points_per_centroid=1)
    means.train(points)
    centers = np.asarray(means.centroids, dtype=np.float32)
    return centers, means.index.search(points, 1)[1][:, 0]
