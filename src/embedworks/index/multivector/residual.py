"""Token vectors as a centroid and a few bytes for what is left.

Knows nothing of documents or search; see `PlaidIndex` for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from embedworks._core.validation import check_in_range
from embedworks.errors import InputError, ShapeError

__all__ = [
    "MOST_CENTROIDS",
    "SCALE_UNIT",
    "ResidualCodec",
    "principal_axes",
    "share_bytes",
]

MOST_CENTROIDS = 2**16  # a token's centroid is kept in two bytes
SCALE_UNIT = 2.0**-14

_CODEWORDS = 256  # of one byte
_WIDEST = 32  # axes that one byte may stand for
_SAMPLE = 64 * _CODEWORDS  # vectors that codewords are learned from
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


def share_bytes(variances: np.ndarray, count: int) -> np.ndarray:
    """Share ``count`` bytes among neighbouring axes so that least is lost, int64 (count + 1,).

    Byte b stands for the axes from ``edges[b]`` to ``edges[b + 1]``, at least one and at most 32
    (or four times an even share, where that is more). What it loses is taken to be what the best
    code of eight bits loses on independent Gaussian axes of these variances (reverse
    water-filling); the boundaries of least total loss are found by dynamic programming.

    Args:
        variances: Variance of every axis, (d,), not negative.
        count: Number of bytes, from 1 to d.

    Raises:
        InputError: When ``count`` is out of range.

    Source: Cover and Thomas, Elements of Information Theory, theorem 10.3.3.

    Example:
        >>> share_bytes(np.array([9.0, 8.0, 0.1, 0.1, 0.1, 0.1]), 3).tolist()
        [0, 1, 3, 6]
    """
    total = len(variances)
    check_in_range(count, name="count", low=1, high=total)
    widest = min(total, max(_WIDEST, 4 * -(-total // count)))
    losses = np.full((total, widest + 1), np.inf)  # of a byte from one axis on, by its width
    for start in range(total):
        for width in range(1, min(widest, total - start) + 1):
            losses[start, width] = _gaussian_loss(variances[start : start + width])
    least = np.full(total + 1, np.inf)
    least[0] = 0.0
    widths = np.zeros((count, total + 1), dtype=np.int64)
    for byte in range(count):
        options = np.full((widest + 1, total + 1), np.inf)
        for width in range(1, widest + 1):
            options[width, width:] = least[:-width] + losses[: total - width + 1, width]
        widths[byte] = options.argmin(axis=0)
        least = options.min(axis=0)
    edges = np.zeros(count + 1, dtype=np.int64)
    edges[-1] = total
    for byte in range(count - 1, -1, -1):
        edges[byte] = edges[byte + 1] - widths[byte, edges[byte + 1]]
    return edges


def _gaussian_loss(variances: np.ndarray) -> float:
    """Return the least mean squared error of independent Gaussians in eight bits."""
    falling = np.sort(variances)[::-1]
    logs = np.log2(np.maximum(falling, np.finfo(np.float64).tiny))
    used = np.arange(1, len(falling) + 1)
    # With the first n axes coded each loses the same, 2 ** level; more are coded while they would
    # lose more by being left out.
    levels = (np.cumsum(logs) - 16) / used
    coded = int(np.count_nonzero(logs > levels)) or 1
    return float(coded * 2.0 ** levels[coded - 1] + falling[coded:].sum())


@dataclass(frozen=True, eq=False)
class ResidualCodec:
    """Centroids, and a codeword of one byte for every few axes of what is left.

    A vector becomes the number of its nearest centroid, one byte per group of axes, and a scale
    that gives the decoded vector the length the vector had (in the axes that are kept).

    Args:
        axes: Orthonormal (D, d); vectors are turned into these first.
        centroids: Float32 (C, d).
        edges: Int64 (P + 1,), rising from 0 to d: byte b stands for the axes from ``edges[b]`` to
            ``edges[b + 1]``.
        codewords: Float32 (d, 256): what the axis is where its byte has a value.

    Paper: Santhanam et al. 2022 (ColBERTv2), arXiv 2112.01488, section 3.3. Differences: the
    axes (those of the vectors say what is kept, those of what the centroids leave how it is
    turned); codewords found by k-means for groups of axes (product quantization: Jegou et al. 2011,
    IEEE TPAMI 33(1)) in place of quantiles of each, in groups that `share_bytes` chooses; a scale
    per token in place of unit length, which needs no arithmetic at search time.
    """

    axes: np.ndarray
    centroids: np.ndarray
    edges: np.ndarray
    codewords: np.ndarray

    def __post_init__(self) -> None:
        dims = self.axes.shape[1] if self.axes.ndim == 2 else -1
        edges = self.edges
        if (
            self.centroids.ndim != 2
            or self.centroids.shape[1] != dims
            or not len(self.centroids)
            or self.codewords.shape != (dims, _CODEWORDS)
            or edges.dtype != np.int64
            or edges.ndim != 1
            or len(edges) < 2
            or edges[0] != 0
            or edges[-1] != dims
            or (np.diff(edges) < 1).any()
        ):
            raise ShapeError(
                f"axes {self.axes.shape}, centroids {self.centroids.shape}, edges {edges.shape} "
                f"and codewords {self.codewords.shape} do not fit together."
            )

    @property
    def code_bytes(self) -> int:
        """Bytes of one token's code, without its centroid and scale."""
        return len(self.edges) - 1

    @classmethod
    def fit(
        cls,
        vectors: np.ndarray,
        *,
        centroids: int,
        bits: float = 2,
        dims: int | None = None,
        iterations: int = 6,
        seed: int = 0,
    ) -> ResidualCodec:
        """Learn a codec from a sample of vectors.

        Args:
            vectors: Float32 (N, D).
            centroids: Number of centroids C, at most N and 65,536.
            bits: Bits per dimension of what the centroid leaves, on average, above 0 and at most
                8; a code has ``dims * bits / 8`` bytes, rounded, and at least one.
            dims: Principal axes to keep; None keeps all D.
            iterations: Rounds of k-means.
            seed: Seed of k-means and of the sample that codewords are learned from.

        Raises:
            InputError: When an argument is out of range.
        """
        check_in_range(bits, name="bits", low=0, high=8, open_low=True)
        check_in_range(centroids, name="centroids", low=1, high=min(len(vectors), MOST_CENTROIDS))
        kept = vectors.shape[1] if dims is None else dims
        axes = principal_axes(vectors, kept)
        turned = np.ascontiguousarray(vectors @ axes)
        found = _means(turned, centroids, iterations, seed)
        rows = np.random.default_rng(seed).permutation(len(turned))[:_SAMPLE]
        part = turned[np.sort(rows)]
        rest = part - found[_nearest(part, found)]
        # What is left varies along axes of its own; within the kept space they are free to choose.
        own = principal_axes(rest, kept)
        axes, found, rest = axes @ own, found @ own, rest @ own
        edges = share_bytes(rest.var(axis=0, dtype=np.float64), max(1, round(kept * bits / 8)))
        words = [
            _means(np.ascontiguousarray(rest[:, first:last]), _CODEWORDS, iterations, seed).T
            for first, last in pairwise(edges.tolist())
        ]
        return cls(axes, found, edges, np.ascontiguousarray(np.concatenate(words)))

    def encode(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return ``(centroid numbers, codes, scales)`` of vectors (N, D).

        The numbers are uint16 (N,); codes uint8 (N, code_bytes); scales uint16 (N,), in units of
        `SCALE_UNIT` and so below 4.
        """
        nearest = np.empty(len(vectors), dtype=np.uint16)
        codes = np.empty((len(vectors), self.code_bytes), dtype=np.uint8)
        scales = np.empty(len(vectors), dtype=np.uint16)
        for start in range(0, len(vectors), _BLOCK):
            part = slice(start, start + _BLOCK)
            turned = np.ascontiguousarray(vectors[part].astype(np.float32) @ self.axes)
            nearest[part] = found = _nearest(turned, self.centroids)
            rest = turned - self.centroids[found]
            for byte, (first, last) in enumerate(pairwise(self.edges.tolist())):
                words = np.ascontiguousarray(self.codewords[first:last].T)
                codes[part, byte] = _nearest(np.ascontiguousarray(rest[:, first:last]), words)
            rough = self.centroids[found] + self._words(codes[part])
            lengths = np.linalg.norm(rough, axis=1)
            wanted = np.linalg.norm(turned, axis=1)
            ratios = np.where(lengths > 0, wanted / np.where(lengths > 0, lengths, 1), 1)
            scales[part] = np.minimum(np.rint(ratios / SCALE_UNIT), 2**16 - 1)
        return nearest, codes, scales

    def decode(self, nearest: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Return the vectors as the codes have them, in the axes that are kept: float32 (N, d)."""
        rough = self.centroids[nearest] + self._words(codes)
        return np.asarray(rough * (scales.astype(np.float32) * np.float32(SCALE_UNIT))[:, None])

    def turn(self, vectors: np.ndarray) -> np.ndarray:
        """Turn queries' vectors (U, D) into the axes that are kept, float32 (U, d)."""
        return np.asarray(vectors @ self.axes, dtype=np.float32)

    def tables(self, columns: np.ndarray) -> np.ndarray:
        """Tabulate what every byte of a code adds to the product with some query tokens.

        Args:
            columns: Turned query tokens, one per column, float32 (d, U).

        Returns:
            Float32 (code_bytes, 256, U).
        """
        tables = np.empty((self.code_bytes, _CODEWORDS, columns.shape[1]), dtype=np.float32)
        for table, (first, last) in zip(tables, pairwise(self.edges.tolist()), strict=True):
            np.matmul(self.codewords[first:last].T, columns[first:last], out=table)
        return tables

    def _words(self, codes: np.ndarray) -> np.ndarray:
        """Return what codes stand for, without the centroids: float32 (N, d)."""
        rest = np.empty((len(codes), len(self.codewords)), dtype=np.float32)
        for byte, (first, last) in enumerate(pairwise(self.edges.tolist())):
            rest[:, first:last] = self.codewords[first:last].T[codes[:, byte]]
        return rest


def _means(vectors: np.ndarray, count: int, iterations: int, seed: int) -> np.ndarray:
    """Return the means that k-means finds, float32 (count, d); few vectors are repeated."""
    import faiss

    if len(vectors) <= count:
        return np.resize(vectors, (count, vectors.shape[1]))
    means = faiss.Kmeans(
        vectors.shape[1], count, niter=iterations, seed=seed, min_points_per_centroid=1,
        max_points_per_centroid=max(32, len(vectors) // count + 1),
    )  # fmt: skip
    means.train(vectors)
    return np.array(means.centroids, dtype=np.float32)


def _nearest(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the number of the nearest centroid of every vector, int64 (N,)."""
    import faiss

    _, found = faiss.knn(vectors, centroids, 1)
    return np.asarray(found[:, 0])
