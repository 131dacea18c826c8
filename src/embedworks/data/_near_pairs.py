"""Candidates of near duplicates: shingle sets, MinHash signatures, and a walk over bands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from embedworks.data._word_windows import WordTable, mix, window_hashes
from embedworks.errors import InputError

__all__ = ["Bands", "ShingleSets", "signatures"]

#: Buckets up to this size give all their pairs at once; larger ones are walked item by item.
_SMALL_BUCKET = 64
_PAIR_BLOCK = 50_000
#: Signatures that agree this many standard deviations too little are not compared exactly.
_DEVIATIONS = 5.0

#: Tells which pairs of positions are near duplicates.
Verify = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class ShingleSets:
    """The set of word sequences of N texts, as sorted 64-bit hashes.

    Two different sequences among ten million share a hash with a probability below 1e-5.

    Attributes:
        hashes: uint64 (S,), ascending and distinct within a text.
        start: int64 (N + 1,), where each text begins.
    """

    hashes: np.ndarray
    start: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[Sequence[str]], shingle: int, *, tag: int = 0) -> ShingleSets:
        """Hash the sequences of texts; a text shorter than ``shingle`` is one sequence."""
        table = WordTable.of(texts, {}, grow=True)
        lengths = table.lengths
        positions = table.windows(shingle)
        hashes = [window_hashes(table, shingle, positions)]
        owners = [table.owners(positions)]
        for length in range(1, shingle):
            short = np.flatnonzero(lengths == length)
            whole = window_hashes(table, length, table.start[short])
            hashes.append(mix(whole ^ np.uint64(length)))
            owners.append(short)
        tagged = mix(np.concatenate(hashes) ^ mix(np.array([tag], dtype=np.uint64)))
        return cls._sorted(tagged, np.concatenate(owners), len(texts))

    @classmethod
    def _sorted(cls, hashes: np.ndarray, owners: np.ndarray, count: int) -> ShingleSets:
        order = np.lexsort((hashes, owners))
        hashes, owners = hashes[order], owners[order]
        fresh = np.ones(len(hashes), dtype=bool)
        fresh[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
        hashes, owners = hashes[fresh], owners[fresh]
        return cls(hashes, np.searchsorted(owners, np.arange(count + 1)))

    def __len__(self) -> int:
        return len(self.start) - 1

    @cached_property
    def sizes(self) -> np.ndarray:
        """Number of sequences of each text, (N,), at least 1."""
        return np.diff(self.start)

    def joined(self, other: ShingleSets) -> ShingleSets:
        """Return the union of both sets of every text; differently tagged sets stay apart."""
        owners = [np.repeat(np.arange(len(self)), s.sizes) for s in (self, other)]
        return self._sorted(
            np.concatenate([self.hashes, other.hashes]), np.concatenate(owners), len(self)
        )

    def first_equal(self) -> np.ndarray:
        """Return the first text with the same set, for every text, int64 (N,)."""
        seen: dict[bytes, int] = {}
        edges = self.start.tolist()
        return np.array(
            [
                seen.setdefault(self.hashes[edges[i] : edges[i + 1]].tobytes(), i)
                for i in range(len(self))
            ],
            dtype=np.int64,
        )

    def jaccard(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the exact Jaccard similarity of pairs of texts, float64, shape of ``a``."""
        pairs = np.arange(len(a))
        owners, hashes = [], []
        for side in (a, b):
            sizes = self.sizes[side]
            owner = np.repeat(pairs, sizes)
            offset = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            owners.append(owner)
            hashes.append(self.hashes[self.start[side][owner] + offset])
        owner, value = np.concatenate(owners), np.concatenate(hashes)
        order = np.lexsort((value, owner))
        owner, value = owner[order], value[order]
        both = (value[1:] == value[:-1]) & (owner[1:] == owner[:-1])
        shared = np.bincount(owner[1:][both], minlength=len(a))
        return np.asarray(shared / (self.sizes[a] + self.sizes[b] - shared), dtype=np.float64)


def signatures(
    sets: ShingleSets, items: np.ndarray, permutations: int, rng: np.random.Generator
) -> np.ndarray:
    """Return MinHash signatures of some texts, uint32 (len(items), permutations).

    Two values of one column agree with the probability of the sets' Jaccard similarity.
    """
    sizes = sets.sizes[items]
    offset = np.cumsum(sizes) - sizes
    at = np.arange(sizes.sum()) - np.repeat(offset, sizes) + np.repeat(sets.start[items], sizes)
    hashes = sets.hashes[at]
    factors = rng.integers(0, 2**63, size=permutations, dtype=np.uint64) * np.uint64(2)
    shifts = rng.integers(0, 2**63, size=permutations, dtype=np.uint64)
    table = np.empty((len(items), permutations), dtype=np.uint32)
    for column in range(permutations):
        values = (hashes ^ shifts[column]) * (factors[column] + np.uint64(1))
        high = (values >> np.uint64(32)).astype(np.uint32)
        table[:, column] = np.minimum.reduceat(high, offset)
    return table


@dataclass(frozen=True)
class Bands:
    """How signatures are cut: ``count`` bands of ``rows`` values each."""

    count: int
    rows: int
    threshold: float

    @classmethod
    def choose(cls, threshold: float, permutations: int, recall: float) -> Bands:
        """Return the cut with the fewest candidates that reaches ``recall`` at the threshold.

        Raises:
            InputError: When no cut of so few permutations does.
        """
        for rows in range(permutations, 0, -1):
            bands = cls(permutations // rows, rows, threshold)
            if bands.detection(threshold) >= recall:
                return bands
        raise InputError(
            f"{permutations} permutations find a pair of similarity {threshold} with probability "
            f"{cls(permutations, 1, threshold).detection(threshold):.4f} at most, less than "
            f"recall={recall}: raise permutations or lower recall."
        )

    def detection(self, similarity: float) -> float:
        """Return the probability that a pair of that similarity shares a band."""
        return float(1.0 - (1.0 - similarity**self.rows) ** self.count)

    def walk(self, table: np.ndarray, verify: Verify) -> Iterator[tuple[int, int]]:
        """Yield ``(later, kept)`` for every item that is a near duplicate of a kept one.

        Items are taken in order, so that each is compared with those kept before it.
        """
        small, large = self._buckets(table)
        pairs = np.array([], dtype=np.int64) if not small else np.unique(np.concatenate(small))
        count = np.int64(len(table))
        first, second = pairs // count, pairs % count
        low = table.astype(np.uint8)  # a byte tells two values apart well enough to count by
        first, second = self._verified(low, first, second, verify)
        edges = np.searchsorted(first, np.arange(len(table) + 1)) if len(first) else None
        of_item: dict[int, list[np.ndarray]] = {}
        for bucket in large:
            for item in bucket:
                of_item.setdefault(int(item), []).append(bucket)
        gone = np.zeros(len(table), dtype=bool)
        for item in sorted({*np.unique(first).tolist(), *of_item}):
            if gone[item]:
                continue
            later = [] if edges is None else [second[edges[item] : edges[item + 1]]]
            for bucket in of_item.get(item, ()):
                others = bucket[(bucket > item) & ~gone[bucket]]
                same = np.full(len(others), item)
                later.append(self._verified(low, same, others, verify)[1])
            for other in np.unique(np.concatenate(later)) if later else ():
                if not gone[other]:
                    gone[other] = True
                    yield int(other), int(item)

    def _verified(
        self, table: np.ndarray, a: np.ndarray, b: np.ndarray, verify: Verify
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs that are near duplicates; far ones are known by their signatures.

        ``table`` has one byte of every value. Signatures of P values agree in about s * P of them,
        with a deviation of sqrt(s (1 - s) P), so a pair at the threshold is taken for a far one
        with a probability below 1e-6.
        """
        size = table.shape[1]
        spread = np.sqrt(self.threshold * (1.0 - self.threshold) / size)
        least = (self.threshold - _DEVIATIONS * spread) * size
        found = [(a[:0], b[:0])]
        for low in range(0, len(a), _PAIR_BLOCK):
            left, right = a[low : low + _PAIR_BLOCK], b[low : low + _PAIR_BLOCK]
            close = np.count_nonzero(table[left] == table[right], axis=1) >= least
            if not close.any():
                continue
            left, right = left[close], right[close]
            near = verify(left, right)
            found.append((left[near], right[near]))
        return np.concatenate([x for x, _ in found]), np.concatenate([y for _, y in found])

    def _buckets(self, table: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the pairs of small buckets as ``first * N + second``, and the large buckets."""
        small: list[np.ndarray] = []
        large: dict[bytes, np.ndarray] = {}
        count = np.int64(len(table))
        for band in range(self.count):
            values = table[:, band * self.rows : (band + 1) * self.rows].astype(np.uint64)
            keys = np.zeros(len(table), dtype=np.uint64)
            for column in range(self.rows):
                keys = mix(keys ^ values[:, column])
            order = np.argsort(keys, kind="stable")
            ordered = keys[order]
            starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
            sizes = np.diff(np.r_[starts, len(ordered)])
            for size in np.unique(sizes[sizes > 1]):
                groups = order[starts[sizes == size][:, None] + np.arange(size)]
                if size <= _SMALL_BUCKET:
                    a, b = np.triu_indices(int(size), k=1)
                    small.append((groups[:, a].astype(np.int64) * count + groups[:, b]).ravel())
                else:
                    large.update({group.tobytes(): group for group in groups})
        return small, list(large.values())
