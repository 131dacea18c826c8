"""Token ids of many texts, the order in which training sees them, and the settings of training.

Knows numbers only; `static_table` re-exports what it needs from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_in_range
from embedworks.errors import ShapeError

__all__ = ["BatchOrder", "RaggedIds", "StaticTrainingSettings"]


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


@dataclass(frozen=True)
class StaticTrainingSettings:
    """How a static table is trained.

    Attributes:
        learning_rate: Peak rate of Adam. Every row is trained at its own length (see
            `StaticTableTrainer`), so the useful range is 1e-4 to 2e-2 whatever the table.
        batch_size: Pairs per step; also the number of in-batch candidates.
        temperature: Divides cosines in the contrastive loss.
        anchor_strength: Pull towards the starting table, 0 or greater: each step moves a row
            ``learning_rate * anchor_strength`` of the way back.
        warmup_fraction: Part of the steps in which the rate rises; it then falls linearly to 0.
        symmetric: Whether positives also have to find their anchors.
        seed: Fixes the order of the data.
        threads: Torch threads. One is the fastest unless two cores are really free. The same
            number must be used to repeat a result bit by bit.

    Raises:
        InputError: When a value is out of its range.
    """

    learning_rate: float = 2e-3
    batch_size: int = 256
    temperature: float = 0.05
    anchor_strength: float = 0.0
    warmup_fraction: float = 0.1
    symmetric: bool = True
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        check_in_range(self.learning_rate, name="learning_rate", low=0, high=10, open_low=True)
        check_in_range(self.temperature, name="temperature", low=0, high=10, open_low=True)
        check_in_range(self.anchor_strength, name="anchor_strength", low=0)
        check_in_range(self.warmup_fraction, name="warmup_fraction", low=0, high=1)
        check_in_range(self.batch_size, name="batch_size", low=2)
        check_in_range(self.seed, name="seed", low=0)
        check_in_range(self.threads, name="threads", low=1)

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step: linear rise, then linear fall.

        Example:
            >>> settings = StaticTrainingSettings(learning_rate=1.0, warmup_fraction=0.5)
            >>> [round(settings.rate(i, 4), 2) for i in range(4)]
            [0.5, 1.0, 1.0, 0.5]
        """
        warmup = round(self.warmup_fraction * steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * (steps - step) / max(steps - warmup, 1)
