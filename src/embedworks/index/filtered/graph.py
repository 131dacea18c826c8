"""A graph over the places of inverted lists, built from their int8 codes, kept as plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from embedworks._core.devices import cpu_count
from embedworks._core.progress import progress
from embedworks.errors import FormatError
from embedworks.index.filtered.lists import InvertedLists

__all__ = ["Graph"]

_TOGETHER = 1024  # places, at most, that choose their links in the same graph
_SHARE = 32  # and at most one such place for so many that are in it
_THREADS = 8  # each needs four bytes a row


@dataclass(frozen=True, eq=False)
class Graph:
    """Links between M rows, chosen as HNSW does (Malkov and Yashunin, arXiv 1603.09320).

    Rows are numbered by their place in the order of inverted lists, whose codes a walk compares:
    so near rows lie near in memory, and which row a place holds does not matter here. There is
    one level; walks start at the middle of a list (`SearchGraph`) in place of the levels above.

    Attributes:
        starts: Where the neighbours of each place begin in ``links``, int64 (M + 1,).
        links: Places of neighbours, int32.
    """

    starts: np.ndarray
    links: np.ndarray

    @classmethod
    def build(
        cls,
        lists: InvertedLists,
        *,
        links: int = 16,
        ef_construction: int = 100,
        seed: int = 0,
    ) -> Graph:
        """Build the graph of the rows in some lists.

        The same arguments give the same graph, however many threads there are: as many as
        `embedworks._core.devices.cpu_count` says, at most eight.

        The rows in the middle of the lists are inserted first and the others in random order,
        each by a walk from the middle of its own list.

        Args:
            lists: Lists over at least one row.
            links: Links of a new row; any row has room for twice as many.
            ef_construction: Width of the walks.
            seed: Of the order.

        Example:
            >>> rng = np.random.default_rng(0)
            >>> vectors = rng.normal(size=(500, 16)).astype(np.float32)
            >>> graph = Graph.build(InvertedLists.build(vectors, similarity="dot"), links=8)
            >>> len(graph), int(np.diff(graph.starts).max())
            (500, 16)
        """
        rng, sizes = np.random.default_rng(seed), np.diff(lists.starts)
        middles = lists.middles()
        own = np.repeat(middles, sizes[sizes > 0])
        first = rng.permutation(middles)
        others = np.ones(len(lists.order), dtype=bool)
        others[middles] = False
        rest = rng.permutation(np.flatnonzero(others)).astype(np.int32)
        phases = [(first, np.full_like(first, first[0])), (rest, own[rest])]
        return cls(*_link(lists.codes, lists.scales, phases, links, 2 * links, ef_construction))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def kept(self, stay: np.ndarray) -> Graph:
        """Return the graph of the places that stay, in the same order under new numbers.

        A link to a place that is gone leads to the first of that place's own neighbours that
        stays, so that what was reached through it still is; links that lead nowhere, or back to
        where they came from, are left out.

        Args:
            stay: True for the places that stay, bool (M,); at least one.

        Example:
            >>> links = np.array([1, 0, 2, 1], dtype=np.int32)
            >>> chain = Graph(np.array([0, 1, 3, 4]), links)
            >>> fewer = chain.kept(np.array([True, False, True]))
            >>> fewer.starts.tolist(), fewer.links.tolist()
            ([0, 0, 1], [0])
        """
        number = np.where(stay, np.cumsum(stay) - 1, -1).astype(np.int32)
        owners = np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.starts))
        targets = number[self.links]
        # For each place that is gone: the first of its neighbours that stays.
        instead = np.full(len(self), -1, dtype=np.int32)
        onward = np.flatnonzero(~stay[owners] & (targets >= 0))
        gone, first = np.unique(owners[onward], return_index=True)
        instead[gone] = targets[onward[first]]
        targets = np.where(targets < 0, instead[self.links], targets)
        owners = number[owners]
        good = (owners >= 0) & (targets >= 0) & (targets != owners)
        starts = np.zeros(np.count_nonzero(stay) + 1, dtype=np.int64)
        np.cumsum(np.bincount(owners[good], minlength=len(starts) - 1), out=starts[1:])
        return Graph(starts, targets[good])

    def check(self) -> None:
        """Raise `FormatError` unless every number in the graph names one of its places.

        A walk follows the numbers without looking, so those that came from a file are checked.
        """
        starts, links = self.starts, self.links
        sound = (
            (starts.ndim, links.ndim) == (1, 1)
            and starts.dtype == np.int64
            and links.dtype == np.int32
            and len(starts) > 1
            and (int(starts[0]), int(starts[-1])) == (0, len(links))
            and bool((starts[1:] >= starts[:-1]).all())
            and int(links.min(initial=0)) >= 0
            and int(links.max(initial=0)) < len(starts) - 1
        )
        if not sound:
            raise FormatError("The graph names rows that are not there, or has another shape.")

    def nbytes(self) -> int:
        """Return the bytes of the links."""
        return int(self.starts.nbytes + self.links.nbytes)


def _link(
    codes: np.ndarray,
    scales: np.ndarray,
    phases: Sequence[tuple[np.ndarray, np.ndarray]],
    links: int,
    room: int,
    ef: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the neighbours of all places as ``(starts, links)`` of a graph.

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
    counts = ends - starts
    return np.concatenate([[0], np.cumsum(counts)]), found[np.arange(room) < counts[:, None]]
