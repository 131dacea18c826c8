"""A hierarchical graph for walks under a filter: built by faiss, kept as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Graph", "quantize"]


@dataclass(frozen=True, eq=False)
class Graph:
    """Links of an HNSW graph over M rows (Malkov and Yashunin, arXiv 1603.09320).

    Attributes:
        links: Neighbours on the lowest level, int32 (M, 2 * links per row), filled with -1.
        upper_place: Row -> place in ``upper_links``, -1 for rows on the lowest level only.
        upper_links: Neighbours above, int32 (U, levels, links per row), filled with -1.
        entry: Row to start from.
    """

    links: np.ndarray
    upper_place: np.ndarray
    upper_links: np.ndarray
    entry: int

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        *,
        similarity: str,
        links: int = 16,
        ef_construction: int = 100,
    ) -> Graph:
        """Build the graph of at least one float32 vector (M, D) with faiss.

        The same vectors give the same graph as long as faiss uses one thread.
        """
        import faiss

        metric = faiss.METRIC_L2 if similarity == "cosine" else faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexHNSWFlat(vectors.shape[1], links, metric)
        index.hnsw.efConstruction = ef_construction
        index.add(vectors)
        hnsw: Any = index.hnsw
        levels = faiss.vector_to_array(hnsw.levels).astype(np.int64)  # 1 = lowest level only
        starts = faiss.vector_to_array(hnsw.offsets).astype(np.int64)[:-1]
        flat = faiss.vector_to_array(hnsw.neighbors)
        low = flat[starts[:, None] + np.arange(2 * links)]
        tall = np.flatnonzero(levels > 1)
        place = np.full(len(vectors), -1, dtype=np.int32)
        place[tall] = np.arange(len(tall), dtype=np.int32)
        top = max(0, int(levels.max()) - 1)
        upper = np.full((len(tall), top, links), -1, dtype=np.int32)
        for level in range(top):
            there = levels[tall] > level + 1
            begin = starts[tall[there]] + 2 * links + level * links
            upper[there, level] = flat[begin[:, None] + np.arange(links)]
        return cls(np.ascontiguousarray(low, dtype=np.int32), place, upper, int(hnsw.entry_point))

    def nbytes(self) -> int:
        """Return the bytes of the links."""
        return int(self.links.nbytes + self.upper_place.nbytes + self.upper_links.nbytes)


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
