"""A hierarchical graph for walks under a filter, built from int8 codes, kept as plain arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from embedworks.index.filtered._beam import in_parts
from embedworks.index.filtered._building import link_rows
from embedworks.index.filtered.lists import InvertedLists

__all__ = ["Graph"]


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
        lists: InvertedLists | None = None,
        seed: int = 0,
    ) -> Graph:
        """Build the graph of at least one float32 vector (M, D); the same for the same arguments.

        Neighbours are compared by the int8 codes of inverted lists, in whose order near rows lie
        near in memory. The rows in the middle of the lists are inserted first and the others in
        random order, each by a walk from the middle of its own list: no level above is needed.
        Those levels, for walks that start elsewhere, are graphs of their own over a random
        1 in ``links`` rows each.

        Args:
            vectors: The vectors, of unit length under cosine.
            similarity: ``"cosine"`` or ``"dot"``: how lists are made.
            links: Links of a new row; the lowest level has room for twice as many.
            ef_construction: Width of the walks.
            lists: Lists over the same rows; made when not given.
            seed: Of the order and the levels.
        """
        if lists is None:
            lists = InvertedLists.build(vectors, similarity=similarity)
        total, rng = len(vectors), np.random.default_rng(seed)
        middles = lists.middles()
        own = middles[np.repeat(np.cumsum(np.diff(lists.starts) > 0) - 1, np.diff(lists.starts))]
        first = rng.permutation(middles)
        others = np.ones(total, dtype=bool)
        others[middles] = False
        rest = rng.permutation(np.flatnonzero(others)).astype(np.int32)
        order = np.concatenate([first, rest])
        origins = np.concatenate([np.full(len(first), first[0]), own[rest]]).astype(np.int32)
        found = _link(lists.codes, lists.scales, order, origins, links, 2 * links, ef_construction)
        low = np.empty_like(found)
        low[lists.order] = np.where(found >= 0, lists.order[found], -1)

        levels = (rng.exponential(size=total) / math.log(max(2, links))).astype(np.int64)
        tall = np.flatnonzero(levels > 0)
        places = np.argsort(lists.order)[tall]
        upper_place = np.full(total, -1, dtype=np.int32)
        upper_place[tall] = np.arange(len(tall), dtype=np.int32)
        upper = np.full((len(tall), int(levels.max()), links), -1, dtype=np.int32)
        for level in range(upper.shape[1]):
            there = np.flatnonzero(levels[tall] > level)
            order = rng.permutation(len(there)).astype(np.int32)
            found = _link(
                lists.codes[places[there]], lists.scales[places[there]], order,
                np.full_like(order, order[0]), links, links, ef_construction,
            )  # fmt: skip
            upper[there, level] = np.where(found >= 0, tall[there][found], -1)
        return cls(low, upper_place, upper, int(levels.argmax()))

    def nbytes(self) -> int:
        """Return the bytes of the links."""
        return int(self.links.nbytes + self.upper_place.nbytes + self.upper_links.nbytes)


def _link(
    codes: np.ndarray,
    scales: np.ndarray,
    order: np.ndarray,
    origins: np.ndarray,
    links: int,
    room: int,
    ef: int,
) -> np.ndarray:
    """Return one level's neighbours, int32 (M, room), filled with -1."""
    found = np.full((len(codes), room), -1, dtype=np.int32)
    scores = np.empty_like(found, dtype=np.float32)
    starts = np.arange(len(codes), dtype=np.int64) * room
    ends, stamps = starts.copy(), np.zeros(len(codes), dtype=np.int32)
    for part in in_parts(len(order), "Linking"):
        link_rows(codes, scales, order[part], origins[part], links, ef, found, scores, starts,
                  ends, stamps, 1 + part.start)  # fmt: skip
    found[np.arange(room) >= (ends - starts)[:, None]] = -1
    return found
