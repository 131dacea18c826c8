"""Inverted lists: rows by nearest centroid, with int8 codes side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from embedworks._core.validation import normalize_rows

__all__ = ["InvertedLists", "quantize"]

_TRAIN_PER_LIST = 64
_ROUNDS = 8


@dataclass(frozen=True, eq=False)
class InvertedLists:
    """M rows divided among L lists.

    A place is the number of a row in the order of the lists: rows near each other have near
    places, so what is walked or scanned together lies together in memory.

    Attributes:
        centroids: float32 (L, D).
        starts: Where each list begins in ``order``, int64 (L + 1,).
        order: Rows by list, which is place -> row, int32 (M,).
        codes: int8 vectors in that order (M, D).
        scales: What an integer product is multiplied with, float32 (M,).
        spreads: Root mean square of the distances between a list's rows and its centroid along
            one direction of D, float32 (L,).
    """

    centroids: np.ndarray
    starts: np.ndarray
    order: np.ndarray
    codes: np.ndarray
    scales: np.ndarray
    spreads: np.ndarray

    @classmethod
    def build(
        cls, vectors: np.ndarray, *, similarity: str, lists: int | None = None, seed: int = 0
    ) -> InvertedLists:
        """Cluster at least one float32 vector (M, D) by k-means.

        Args:
            vectors: The vectors.
            similarity: ``"cosine"`` clusters directions, ``"dot"`` places.
            lists: Number of lists; about 1.6 times the root of M by default.
            seed: Of the sample and the first centroids.
        """
        import faiss

        total = len(vectors)
        wanted = lists or max(1, min(total // 8, round(1.6 * math.sqrt(total))))
        wanted = max(1, min(wanted, total))
        cosine = similarity == "cosine"
        kmeans: Any = faiss.Kmeans(
            vectors.shape[1], wanted, niter=_ROUNDS, spherical=cosine, seed=seed,
            max_points_per_centroid=_TRAIN_PER_LIST, min_points_per_centroid=1,
        )  # fmt: skip
        kmeans.train(vectors)
        centroids = np.ascontiguousarray(kmeans.centroids, dtype=np.float32)
        owners = kmeans.index.search(vectors, 1)[1][:, 0]
        order = np.argsort(owners, kind="stable").astype(np.int32)
        starts = np.zeros(wanted + 1, dtype=np.int64)
        np.cumsum(np.bincount(owners, minlength=wanted), out=starts[1:])
        if cosine:
            centroids = normalize_rows(centroids)
        return cls.of(vectors, centroids, starts, order)

    @classmethod
    def of(
        cls, vectors: np.ndarray, centroids: np.ndarray, starts: np.ndarray, order: np.ndarray
    ) -> InvertedLists:
        """Make the codes of lists that are known.

        Raises:
            ValueError: When the arrays do not divide the rows of ``vectors`` among lists.
        """
        total = len(vectors)
        sound = (
            centroids.shape == (len(starts) - 1, vectors.shape[1])
            and order.shape == (total,)
            and bool((np.diff(starts) >= 0).all())
            and (int(starts[0]), int(starts[-1])) == (0, total)
            and np.array_equal(np.sort(order), np.arange(total))
        )
        if not sound:
            raise ValueError("the inverted lists do not hold every row once")
        codes, scales = quantize(vectors[order])
        spreads = _spreads(vectors, centroids, starts, order)
        return cls(centroids, starts, order, codes, scales, spreads)

    @cached_property
    def places(self) -> np.ndarray:
        """Row -> place, int32 (M,); made when it is first asked for."""
        places = np.empty_like(self.order)
        places[self.order] = np.arange(len(places), dtype=np.int32)
        return places

    def middles(self) -> np.ndarray:
        """Return the place nearest its centroid for each list that is not empty, int32."""
        found = []
        for number, centroid in enumerate(self.centroids):
            begin, end = self.starts[number], self.starts[number + 1]
            if begin < end:
                scores = (self.codes[begin:end] @ centroid) * self.scales[begin:end]
                found.append(begin + int(scores.argmax()))
        return np.array(found, dtype=np.int32)

    def kept(self, stay: np.ndarray, number: np.ndarray) -> InvertedLists:
        """Return the lists of the rows that stay, in the same order.

        Args:
            stay: True for the places that stay, bool (M,).
            number: Row -> its new number, int32 (M,); read for rows that stay.
        """
        starts = np.concatenate([[0], np.cumsum(stay, dtype=np.int64)])[self.starts]
        return InvertedLists(self.centroids, starts, number[self.order[stay]], self.codes[stay],
                             self.scales[stay], self.spreads)  # fmt: skip

    def nbytes(self) -> int:
        """Return the bytes of everything."""
        arrays = (self.centroids, self.starts, self.order, self.codes, self.scales, self.spreads)
        made = self.__dict__.get("places")
        return sum(array.nbytes for array in arrays) + (0 if made is None else made.nbytes)


def _spreads(
    vectors: np.ndarray, centroids: np.ndarray, starts: np.ndarray, order: np.ndarray
) -> np.ndarray:
    spreads = np.zeros(len(centroids), dtype=np.float32)
    for place, centroid in enumerate(centroids):
        inside = vectors[order[starts[place] : starts[place + 1]]]
        if len(inside):
            spreads[place] = np.sqrt(np.mean((inside - centroid) ** 2))
    return spreads


def quantize(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round each vector to int8 with a scale of its own.

    Returns:
        ``(codes, scales)``, int8 (M, D) and float32 (M,): a vector is about its codes times its
        scale. Zero vectors have scale 1.

    Example:
        >>> codes, scales = quantize(np.array([[0.5, -1.0]], dtype=np.float32))
        >>> codes.tolist(), round(float(scales[0]), 4)
        ([[64, -127]], 0.0079)
    """
    largest = np.abs(vectors).max(axis=1, initial=0.0)
    scales = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
    return np.rint(vectors / scales[:, None]).astype(np.int8), scales
