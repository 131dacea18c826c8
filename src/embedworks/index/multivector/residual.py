"""Token vectors as a centroid and a few bits per dimension for what is left.

Knows nothing of documents or search; see `PlaidIndex` for both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedworks._core.validation import check_in_range
from embedworks.errors import InputError, ShapeError

__all__ = ["BITS", "MOST_CENTROIDS", "SCALE_UNIT", "ResidualCodec", "principal_axes"]

BITS = (1, 2, 4, 8)
MOST_CENTROIDS = 2**16  # a token's centroid is kept in two bytes
SCALE_UNIT = 2.0**-14

_BLOCK = 65_536  # tokens encoded at a time


def principal_axes(vectors: np.ndarray, dims: int) -> np.ndarray:
    """Return the directions that keep most of the vectors' length, orthonormal (D, dims).

    The axes are those of the second moment, without taking the mean away, so inner products
    between vectors turned into them are the best that ``dims`` numbers can keep on average.

    Args:
        vectors: Float array (N, D).
        dims: Number of axes, from 1 to D.

    Raises:
        InputError: When ``dims`` is out of range.

    Example:
        >>> principal_axes(np.array([[3.0, 0.0], [0.0, 1.0]]), 1).round(6).tolist()
        [[1.0], [0.0]]
    """
    if isinstance(dims, bool) or not isinstance(dims, int) or not 1 <= dims <= vectors.shape[1]:
        raise InputError(f"dims must be an integer from 1 to {vectors.shape[1]}, got {dims!r}.")
    wide = vectors.astype(np.float64)
    axes = np.linalg.eigh(wide.T @ wide)[1][:, ::-1][:, :dims]
    # An axis and its opposite are the same: let the largest value of each be positive.
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
    return np.ascontiguousarray(axes * np.where(largest < 0, -1, 1), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class ResidualCodec:
    """Centroids, and buckets of what is left per dimension.

    A vector becomes the number of its nearest centroid, ``bits`` per dimension of the rest, and
    a scale that gives the decoded vector the length the vector had (in the axes that are kept).

    Args:
        axes: Orthonormal (D, d); vectors are turned into these first.
        centroids: Float32 (C, d).
        cutoffs: Float32 (d, 2**bits - 1), rising: where one bucket ends and the next begins.
        values: Float32 (d, 2**bits): what stands for each bucket.

    Paper: Santhanam et al. 2022 (ColBERTv2), arXiv 2112.01488, section 3.3. Differences: the
    axes; a scale per token in place of unit length, which needs no arithmetic at search time.
    """

    axes: np.ndarray
    centroids: np.ndarray
    cutoffs: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        dims = self.axes.shape[1] if self.axes.ndim == 2 else -1
        levels = self.values.shape[1] if self.values.ndim == 2 else -1
        if (
            levels not in [2**bits for bits in BITS]
            or self.centroids.ndim != 2
            or self.centroids.shape[1] != dims
            or not len(self.centroids)
            or self.values.shape != (dims, levels)
            or self.cutoffs.shape != (dims, levels - 1)
            or dims % (8 // (levels.bit_length() - 1))
        ):
            raise ShapeError(
                f"axes {self.axes.shape}, centroids {self.centroids.shape}, cutoffs "
                f"{self.cutoffs.shape} and values {self.values.shape} do not fit together."
            )

    @property
    def bits(self) -> int:
        """Bits per dimension."""
        return self.values.shape[1].bit_length() - 1

    @property
    def code_bytes(self) -> int:
        """Bytes of one token's code, without its centroid and scale."""
        return self.axes.shape[1] * self.bits // 8

    @classmethod
    def fit(
        cls,
        vectors: np.ndarray,
        *,
        centroids: int,
        bits: int = 2,
        dims: int | None = None,
        iterations: int = 6,
        seed: int = 0,
    ) -> ResidualCodec:
        """Learn a codec from a sample of vectors.

        Args:
            vectors: Float32 (N, D).
            centroids: Number of centroids C, at most N and 65,536.
            bits: Bits per dimension of what the centroid leaves: 1, 2, 4 or 8.
            dims: Principal axes to keep, a multiple of 8 / bits; None keeps all D.
            iterations: Rounds of k-means.
            seed: Seed of k-means.

        Raises:
            InputError: When an argument is out of range.
        """
        import faiss

        if bits not in BITS:
            raise InputError(f"bits must be one of {BITS}, got {bits!r}.")
        check_in_range(centroids, name="centroids", low=1, high=min(len(vectors), MOST_CENTROIDS))
        kept = vectors.shape[1] if dims is None else dims
        if kept % (8 // bits):
            raise InputError(f"dims must be a multiple of {8 // bits} for {bits} bits, got {kept}.")
        axes = principal_axes(vectors, kept)
        turned = np.ascontiguousarray(vectors @ axes)
        means = faiss.Kmeans(
            kept, centroids, niter=iterations, seed=seed, min_points_per_centroid=1,
            max_points_per_centroid=max(32, len(vectors) // centroids + 1),
        )  # fmt: skip
        means.train(turned)
        found = np.array(means.centroids, dtype=np.float32)
        rest = turned - found[_nearest(turned, found)]
        levels = 2**bits
        edges = np.arange(1, levels) / levels
        middles = (np.arange(levels) + 0.5) / levels
        return cls(
            axes,
            found,
            np.ascontiguousarray(np.quantile(rest, edges, axis=0).T, dtype=np.float32),
            np.ascontiguousarray(np.quantile(rest, middles, axis=0).T, dtype=np.float32),
        )

    def encode(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ``(centroid numbers, codes, scales)`` of vectors (N, D).

        The numbers are uint16 (N,); codes uint8 (N, code_bytes), the first dimension in the
        lowest bits; scales uint16 (N,), in units of `SCALE_UNIT` and so below 4.
        """
        nearest = np.empty(len(vectors), dtype=np.uint16)
        codes = np.empty((len(vectors), self.code_bytes), dtype=np.uint8)
        scales = np.empty(len(vectors), dtype=np.uint16)
        for start in range(0, len(vectors), _BLOCK):
            part = slice(start, start + _BLOCK)
            turned = np.ascontiguousarray(vectors[part].astype(np.float32) @ self.axes)
            nearest[part] = found = _nearest(turned, self.centroids)
            codes[part] = self._pack(turned - self.centroids[found])
            rough = self.centroids[found] + self._unpack(codes[part])
            lengths = np.linalg.norm(rough, axis=1)
            wanted = np.linalg.norm(turned, axis=1)
            ratios = np.where(lengths > 0, wanted / np.where(lengths > 0, lengths, 1), 1)
            scales[part] = np.minimum(np.rint(ratios / SCALE_UNIT), 2**16 - 1)
        return nearest, codes, scales

    def decode(self, nearest: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Return the vectors as the codes have them, in the axes that are kept: float32 (N, d)."""
        rough = self.centroids[nearest] + self._unpack(codes)
        return np.asarray(rough * (scales.astype(np.float32) * np.float32(SCALE_UNIT))[:, None])

    def turn(self, vectors: np.ndarray) -> np.ndarray:
        """Turn queries' vectors (U, D) into the axes that are kept, float32 (U, d)."""
        return np.asarray(vectors @ self.axes, dtype=np.float32)

    def _pack(self, rest: np.ndarray) -> np.ndarray:
        dims = self.values.shape[0]
        buckets = np.empty(rest.shape, dtype=np.uint8)
        for dim in range(dims):
            buckets[:, dim] = np.searchsorted(self.cutoffs[dim], rest[:, dim], side="right")
        per_byte = 8 // self.bits
        shifts = (np.arange(per_byte) * self.bits).astype(np.uint8)
        grouped = buckets.reshape(len(rest), -1, per_byte) << shifts
        return np.bitwise_or.reduce(grouped, axis=2)

    def _unpack(self, codes: np.ndarray) -> np.ndarray:
        per_byte = 8 // self.bits
        shifts = (np.arange(per_byte) * self.bits).astype(np.uint8)
        buckets = (codes[:, :, None] >> shifts) & np.uint8(2**self.bits - 1)
        buckets = buckets.reshape(len(codes), -1)
        return np.asarray(self.values[np.arange(self.values.shape[0]), buckets])


def _nearest(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the number of the nearest centroid of every vector, int64 (N,)."""
    import faiss

    _, found = faiss.knn(vectors, centroids, 1)
    return np.asarray(found[:, 0])
