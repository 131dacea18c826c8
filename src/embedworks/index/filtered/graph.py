"""A hierarchical graph for walks under a filter, built from int8 codes, kept as plain arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from embedworks._core.devices import cpu_count
from embedworks._core.progress import progress
from embedworks.index.filtered.lists import InvertedLists

__all__ = ["Graph"]

_TOGETHER = 1024  # rows, at most, that choose their links in the same graph
_SHARE = 32  # and at most one such row for so many that are in it
_THREADS = 8  # each needs four bytes a row


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
        """Build the graph of at least one float32 vector (M, D).

        The same arguments give the same graph, however many threads there are: as many as
        `embedworks._core.devices.cpu_count` says, at most eight.

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
        phases = [(first, np.full_like(first, first[0])), (rest, own[rest])]
        found = _link(lists.codes, lists.scales, phases, links, 2 * links, ef_construction)
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
            phases = [(order, np.full_like(order, order[0]))]
            found = _link(lists.codes[places[there]], lists.scales[places[there]], phases, links,
                          links, ef_construction)  # fmt: skip
            upper[there, level] = np.where(found >= 0, tall[there][found], -1)
        return cls(low, upper_place, upper, int(levels.argmax()))

    def nbytes(self) -> int:
        """Return the bytes of the links."""
        return int(self.links.nbytes + self.upper_place.nbytes + self.upper_links.nbytes)


def _link(
    codes: np.ndarray,
    scales: np.ndarray,
    phases: Sequence[tuple[np.ndarray, np.ndarray]],
    links: int,
    room: int,
    ef: int,
) -> np.ndarray:
    """Return one level's neighbours, int32 (M, room), filled with -1.

    Args:
        codes: int8 vectors (M, D).
        scales: Their scales, float32 (M,).
        phases: Places to insert with the places to walk to them from, which are of an earlier
            phase, or the first place of all.
        links: Links of a new place.
        room: Links of any place.
        ef: Width of the walks.
    """
    found = np.full((len(codes), room), -1, dtype=np.int32)
    scores = np.empty_like(found, dtype=np.float32)
    starts = np.arange(len(codes), dtype=np.int64) * room
    ends = starts.copy()
    # Compiled code takes about a second to import: collections that only scan do without it.
    from embedworks.index.filtered._beam import Scratch
    from embedworks.index.filtered._building import add_links, choose_links

    spaces = [Scratch(len(codes)) for _ in range(min(cpu_count(), _THREADS))]
    chosen = np.empty((_TOGETHER, links), dtype=np.int32)
    gains = np.empty(chosen.shape, dtype=np.float32)

    def choose(space: Scratch, share: slice, places: np.ndarray, origins: np.ndarray) -> None:
        choose_links(codes, scales, places[share], origins[share], ef, found, starts, ends,
                     *space.take(len(places)), chosen[share], gains[share])  # fmt: skip

    inserted = 1
    with (
        ThreadPoolExecutor(len(spaces)) as pool,
        progress("Linking", total=len(codes)) as bar,
    ):
        for phase, (order, origins) in enumerate(phases):
            begin = int(phase == 0)  # the first place of all waits for the others
            while begin < len(order):
                size = min(max(1, inserted // _SHARE), _TOGETHER, len(order) - begin)
                part = order[begin : begin + size], origins[begin : begin + size]
                cuts = [size * number // len(spaces) for number in range(len(spaces) + 1)]
                shares = [slice(one, end) for one, end in pairwise(cuts) if one < end]
                if len(shares) == 1:
                    choose(spaces[0], shares[0], *part)
                else:
                    tasks = [pool.submit(choose, space, share, *part)
                             for space, share in zip(spaces, shares, strict=False)]  # fmt: skip
                    for task in tasks:
                        task.result()
                add_links(codes, scales, part[0], chosen[:size], gains[:size], found, scores,
                          starts, ends)  # fmt: skip
                begin, inserted = begin + size, inserted + size
                bar.advance(size)
    found[np.arange(room) >= (ends - starts)[:, None]] = -1
    return found
