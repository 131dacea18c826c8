"""Token ids of many texts, and the order in which training sees them.

Knows integers only; `static_table` re-exports what it needs from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedworks._core.seeding import generator
from embedworks.errors import ShapeError

__all__ = ["BatchOrder", "RaggedIds"]


@dataclass(frozen=True)
class RaggedIds:
    """Token ids of many texts in two flat arrays.

    Attributes:
        ids: int32 array, all tokens of all texts.
        offsets: int64 array (N + 1,): text i has ``ids[offsets[i]:offsets[i + 1]]``.

    Example:
        >>> texts = RaggedIds.from_lists([[1, 2], [], [3]])
        >>> len(texts), texts.take(np.array([2, 0])).ids.tolist()
        (3, [3, 1, 2])
    """

    ids: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", np.ascontiguousarray(self.ids, dtype=np.int32))
        object.__setattr__(self, "offsets", np.ascontiguousarray(self.offsets, dtype=np.int64))
        off = self.offsets
        if off.ndim != 1 or not len(off) or off[0] != 0 or off[-1] != len(self.ids):
            raise ShapeError(
                f"offsets must be (N + 1,), start at 0 and end at {len(self.ids)}, the number of "
                f"ids; got shape {off.shape}."
            )
        if (np.diff(off) < 0).any():
            raise ShapeError("offsets must not decrease.")

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[int]]) -> RaggedIds:
        """Build from one list of token ids per text."""
        offsets = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(item) for item in lists], out=offsets[1:])
        flat = [token for item in lists for token in item]
        return cls(np.array(flat, dtype=np.int32), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per text, shape (N,)."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> RaggedIds:
        """Return the texts at ``rows``, in that order."""
        lengths = self.lengths[rows]
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        return RaggedIds(self.ids[places], offsets)

    def text_keys(self) -> np.ndarray:
        """Return an integer per text, equal for equal token sequences. Shape (N,) int64."""
        seen: dict[bytes, int] = {}
        data, off = self.ids, self.offsets
        return np.array(
            [
                seen.setdefault(data[off[i] : off[i + 1]].tobytes(), len(seen))
                for i in range(len(self))
            ],
            dtype=np.int64,
        )

    @staticmethod
    def concatenate(parts: Sequence[RaggedIds]) -> RaggedIds:
        """Join several ragged arrays, in order."""
        lengths = np.concatenate([part.lengths for part in parts])
        return RaggedIds(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)]),
        )


class BatchOrder:
    """Which rows each step sees: a pure function of (seed, step), so any step can be resumed.

    Every epoch is a new permutation cut into equal batches; the rows that do not fill the last
    batch are left out of that epoch. With ``clusters``, the permutation is made of shuffled blocks
    of rows from one cluster: a batch then holds several close relatives of each row, which makes
    its negatives harder than random ones.

    Args:
        count: Number of rows N.
        batch_size: Rows per batch; at most N are given.
        name: Names the random stream.
        clusters: (N,) cluster of each row, or None for a plain permutation.
        block: Rows per block.

    Example:
        >>> order = BatchOrder(4, 2, name="pairs")
        >>> sorted(order.rows(0, seed=0).tolist() + order.rows(1, seed=0).tolist())
        [0, 1, 2, 3]
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        name: str,
        clusters: np.ndarray | None = None,
        block: int = 64,
    ) -> None:
        if clusters is not None and clusters.shape != (count,):
            raise ShapeError(f"clusters must be ({count},), got {clusters.shape}.")
        self._count = count
        self._size = min(batch_size, count)
        self._name = name
        self._clusters = clusters
        self._block = block
        self._kept: tuple[int, int, np.ndarray] | None = None

    def rows(self, step: int, *, seed: int) -> np.ndarray:
        """Return the rows of a step's batch, int64 (min(batch_size, N),)."""
        epoch, place = divmod(step, self._count // self._size)
        if self._kept is None or self._kept[:2] != (seed, epoch):
            self._kept = (seed, epoch, self._epoch(generator(seed, "order", self._name, epoch)))
        return self._kept[2][place * self._size : (place + 1) * self._size]

    def _epoch(self, random: np.random.Generator) -> np.ndarray:
        order = random.permutation(self._count)
        if self._clusters is None:
            return order
        order = order[np.argsort(self._clusters[order], kind="stable")]
        sizes = np.bincount(self._clusters)
        cuts = [
            np.arange(start, end, self._block)
            for start, end in zip(np.cumsum(sizes) - sizes, np.cumsum(sizes))
        ]
        blocks = np.split(order, np.concatenate(cuts)[1:])
        return np.concatenate([blocks[i] for i in random.permutation(len(blocks))])
