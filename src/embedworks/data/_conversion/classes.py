"""Drawing positives and negatives for class examples, evenly or led by vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from embedworks._core.validation import check_choice, check_in_range, check_k, check_vectors
from embedworks._core.validation import normalize_rows as _normalize
from embedworks.data.rows import RowInput
from embedworks.errors import InputError, ShapeError

__all__ = ["GuidedSampling", "Members", "draw_evenly", "draw_guided"]

_BLOCK = 512
_NEGATIVES = ("uniform", "least_similar", "softmax")


@dataclass(frozen=True, eq=False)
class GuidedSampling:
    """Class examples drawn by similarity: near positives, far negatives.

    The positive is drawn from the ``positive_topk`` most similar texts of the anchor's class
    with probability softmax(cosine / temperature). Negatives are easy on purpose; a guided
    objective finds the hard ones inside its batch.

    Args:
        vectors: Float array (N, D), one row per record in the order given, or a callable that
            encodes texts into one.
        positive_topk: How many of the most similar texts can be drawn.
        temperature: Lower keeps closer to the most similar text; above 0.
        negatives: "uniform" over other classes, uniform over the ``negative_topk``
            "least_similar" of them, or "softmax" of the negated similarity.
        negative_topk: Size of the pool of "least_similar".

    Paper: Solatorio 2024, arXiv 2402.16829 (data construction).

    Example:
        >>> vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> GuidedSampling(vectors, positive_topk=2).negatives
        'uniform'
    """

    vectors: np.ndarray | Callable[[list[RowInput]], np.ndarray]
    positive_topk: int = 100
    temperature: float = 0.05
    negatives: str = "uniform"
    negative_topk: int = 100

    def __post_init__(self) -> None:
        check_k(self.positive_topk)
        check_k(self.negative_topk)
        check_in_range(self.temperature, name="temperature", low=0.0, open_low=True)
        check_choice(self.negatives, _NEGATIVES, name="negatives")

    def vectors_of(self, texts: Sequence[RowInput], places: np.ndarray, total: int) -> np.ndarray:
        """Return normalised vectors of the texts at ``places`` of ``total`` records."""
        if callable(self.vectors):
            found = check_vectors(self.vectors(list(texts)))
            if len(found) != len(texts):
                raise ShapeError(f"{len(texts)} texts were to be encoded, got {found.shape}.")
        else:
            found = check_vectors(self.vectors)
            if len(found) != total:
                raise ShapeError(
                    f"guided sampling needs one vector per record: {total} records, "
                    f"vectors of shape {found.shape}."
                )
            found = found[places]
        zero = np.flatnonzero(~found.any(axis=1))
        if len(zero):
            raise InputError(f"{len(zero)} vectors are zero, the first of text {zero[0]}.")
        return _normalize(found)


@dataclass(frozen=True, eq=False)
class Members:
    """Distinct texts of one source, sorted by class.

    Attributes:
        start: int64 (N,), where the class of each text begins.
        stop: int64 (N,), where it ends.
    """

    start: np.ndarray
    stop: np.ndarray

    @classmethod
    def of(cls, classes: np.ndarray) -> Members:
        """Build from ascending class numbers, shape (N,)."""
        return cls(
            np.searchsorted(classes, classes, side="left"),
            np.searchsorted(classes, classes, side="right"),
        )

    def __len__(self) -> int:
        return len(self.start)


def draw_evenly(
    members: Members, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw a positive and up to ``count`` distinct negatives of every text.

    Every class has at least two members.

    Returns:
        Positives, int64 (N,), and the negatives of each text.
    """
    size = members.stop - members.start
    here = np.arange(len(members))
    drawn = members.start + rng.integers(0, size - 1)
    positives = drawn + (drawn >= here)
    return positives, _draw_negatives(members, count, rng)


def _draw_negatives(members: Members, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    size = members.stop - members.start
    others = len(members) - size
    few = others <= 2 * count
    result: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(members)
    for place in np.flatnonzero(few):
        order = rng.permutation(others[place])[:count]
        result[place] = order + size[place] * (order >= members.start[place])
    rows = np.flatnonzero(~few)
    drawn = rng.integers(0, others[rows, None], size=(len(rows), count))
    while count > 1:
        ordered = np.sort(drawn, axis=1)
        again = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
        if len(again) == 0:
            break
        drawn[again] = rng.integers(0, others[rows[again], None], size=(len(again), count))
    drawn += size[rows, None] * (drawn >= members.start[rows, None])
    for place, negatives in zip(rows, drawn, strict=True):
        result[place] = negatives
    return result


def draw_guided(
    members: Members,
    vectors: np.ndarray,
    guide: GuidedSampling,
    count: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw as `draw_evenly` does, led by the cosines of unit vectors, shape (N, D)."""
    positives = np.empty(len(members), dtype=np.int64)
    for start, stop in sorted(set(zip(members.start.tolist(), members.stop.tolist()))):
        block = vectors[start:stop]
        for low in range(start, stop, _BLOCK):
            rows = np.arange(low, min(low + _BLOCK, stop))
            near = vectors[rows] @ block.T
            near[np.arange(len(rows)), rows - start] = -np.inf
            if near.shape[1] > guide.positive_topk:
                limit = np.partition(near, -guide.positive_topk, axis=1)[:, -guide.positive_topk]
                near = np.where(near >= limit[:, None], near, -np.inf)
            noise = rng.gumbel(size=near.shape)
            positives[rows] = start + (near / guide.temperature + noise).argmax(axis=1)
    if guide.negatives == "uniform":
        return positives, _draw_negatives(members, count, rng)
    negatives: list[np.ndarray] = []
    for low in range(0, len(members), _BLOCK):
        rows = np.arange(low, min(low + _BLOCK, len(members)))
        far = -(vectors[rows] @ vectors.T)
        for row, place in enumerate(rows):
            far[row, members.start[place] : members.stop[place]] = -np.inf
        for row, place in enumerate(rows):
            others = len(members) - int(members.stop[place] - members.start[place])
            negatives.append(_draw_far(far[row], others, guide, min(count, others), rng))
    return positives, negatives


def _draw_far(
    far: np.ndarray, others: int, guide: GuidedSampling, count: int, rng: np.random.Generator
) -> np.ndarray:
    if guide.negatives == "least_similar":
        pool = np.argsort(-far, kind="stable")[: min(guide.negative_topk, others)]
        return np.asarray(rng.permutation(pool)[:count], dtype=np.int64)
    keys = far / guide.temperature + rng.gumbel(size=len(far))
    return np.asarray(np.argsort(-keys, kind="stable")[:count], dtype=np.int64)
