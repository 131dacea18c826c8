"""Translations: which of many sentences is the translation of this one?

Some vectors are near to everything (hubs), so the nearest sentence by cosine is too often one of
them. Margin scores compare a cosine with those of both sentences' nearest neighbours. Nothing here
holds the scores of all pairs at once but `margin_scores`: the rest goes block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedworks._core.registry import Registry
from embedworks._core.validation import check_k, check_texts, check_vectors, normalize_rows
from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation.outcomes import Failure, Resampling, Score, TaskResult, shorten

if TYPE_CHECKING:
    from embedworks.evaluation.systems import System

__all__ = ["MARGINS", "BitextTask", "Matches", "best_matches", "margin_scores"]

#: Scores computed at a time: bounds memory to some 100 MB.
_BLOCK = 4_000_000

#: Called with cosines (n, m) and the mean cosines of sources (n, 1) and targets (1, m) to their
#: nearest neighbours on the other side; returns scores (n, m).
Margin = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

#: How a cosine is compared with those of the neighbours.
MARGINS: Registry[Margin] = Registry("margins")


@MARGINS.register("cosine", summary="The cosine itself.")
def _cosine(cosines: np.ndarray, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return cosines


@MARGINS.register("ratio", summary="Cosine over the mean of both neighbourhoods' means.")
def _ratio(cosines: np.ndarray, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    around = (sources + targets) / 2
    return np.where(around > 0, cosines / np.where(around > 0, around, 1.0), -np.inf)


@MARGINS.register("distance", summary="Cosine less the mean of both neighbourhoods' means.")
def _distance(cosines: np.ndarray, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return cosines - (sources + targets) / 2


@MARGINS.register("csls", summary="Twice the cosine less both neighbourhoods' means.")
def _csls(cosines: np.ndarray, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return 2 * cosines - sources - targets


def margin_scores(
    sources: np.ndarray, targets: np.ndarray, *, k: int = 4, margin: str = "ratio"
) -> np.ndarray:
    """Return the margin scores of all pairs, float64 (N, M).

    With ``r(x)`` the mean cosine of x to its ``k`` nearest vectors on the other side::

        cosine    cos(x, y)
        ratio     cos(x, y) / ((r(x) + r(y)) / 2)
        distance  cos(x, y) - (r(x) + r(y)) / 2
        csls      2 cos(x, y) - r(x) - r(y)

    A ratio needs neighbourhoods that are similar on average: where ``r(x) + r(y)`` is not
    positive, the pair's ratio is minus infinity. ``distance`` is half of ``csls`` and orders
    alike. For many vectors use `best_matches`, which does not hold all scores.

    Paper: Artetxe and Schwenk, 2019 (arXiv 1811.01136; ratio, k = 4); Conneau et al., 2018
    (arXiv 1710.04087; CSLS, k = 10).

    Args:
        sources: Vectors (N, D).
        targets: Vectors (M, D).
        k: Neighbours; where there are fewer, all.
        margin: A name in `MARGINS`.

    Raises:
        ShapeError: When the dimensions differ.
        UnknownNameError: When the margin is not known.

    Example:
        >>> margin_scores(np.eye(2), np.eye(2), k=2, margin="csls")
        array([[ 1., -1.],
               [-1.,  1.]])
    """
    formula = MARGINS[margin]
    left, right = _unit(sources, targets)
    around_left, around_right = _neighbourhoods(left, right, check_k(k))
    cosines = np.concatenate([part for _, part in _blocks(left, right)])
    return formula(cosines, around_left[:, None], around_right[None, :])


@dataclass(frozen=True)
class Matches:
    """The best partner of each vector, in both directions; -1 where there is none."""

    forward: np.ndarray
    """Row of the best target of each source, int64 (N,)."""
    forward_scores: np.ndarray
    """Its score, float64 (N,)."""
    backward: np.ndarray
    """Row of the best source of each target, int64 (M,)."""
    backward_scores: np.ndarray
    """Its score, float64 (M,)."""

    @property
    def mutual(self) -> np.ndarray:
        """Which sources and their best targets choose each other, bool (N,)."""
        rows = np.arange(len(self.forward))
        there = self.forward >= 0
        back = self.backward[np.where(there, self.forward, 0)]
        return np.asarray(there & (back == rows))


def best_matches(
    sources: np.ndarray,
    targets: np.ndarray,
    *,
    k: int = 4,
    margin: str = "ratio",
) -> Matches:
    """Find the best target of each source and the best source of each target.

    Exact, in two passes over blocks of pairs, so memory grows with N + M only. Of equal scores
    the first row wins. The pairs that choose each other (`Matches.mutual`) are what to mine from
    two lists of sentences that are only partly translations of each other: keep those above a
    score.

    Args:
        sources: Vectors (N, D).
        targets: Vectors (M, D).
        k: Neighbours for the margin; where there are fewer, all.
        margin: A name in `MARGINS`.

    Raises:
        ShapeError: When the dimensions differ.
        UnknownNameError: When the margin is not known.

    Example:
        >>> found = best_matches(np.eye(3), np.eye(3)[[2, 0, 1]])
        >>> found.forward, found.mutual
        (array([1, 2, 0]), array([ True,  True,  True]))
    """
    formula = MARGINS[margin]
    left, right = _unit(sources, targets)
    around_left, around_right = _neighbourhoods(left, right, check_k(k))
    forward = np.full(len(left), -1, dtype=np.int64)
    forward_scores = np.full(len(left), -np.inf)
    backward = np.full(len(right), -1, dtype=np.int64)
    backward_scores = np.full(len(right), -np.inf)
    for rows, cosines in _blocks(left, right):
        scores = formula(cosines, around_left[rows, None], around_right[None, :])
        best = scores.argmax(axis=1)
        forward_scores[rows] = scores[np.arange(len(best)), best]
        forward[rows] = np.where(np.isfinite(forward_scores[rows]), best, -1)
        top = scores.argmax(axis=0)
        top_scores = scores[top, np.arange(len(right))]
        better = top_scores > backward_scores
        backward[better] = top[better] + rows.start
        backward_scores[better] = top_scores[better]
    return Matches(forward, forward_scores, backward, backward_scores)


def _unit(sources: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    left = check_vectors(sources, name="sources")
    right = check_vectors(targets, name="targets", dim=left.shape[1])
    return normalize_rows(left), normalize_rows(right)


def _blocks(left: np.ndarray, right: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows of ``left`` and their cosines to all of ``right``, float64."""
    step = max(1, _BLOCK // len(right))
    columns = right.astype(np.float64).T
    for start in range(0, len(left), step):
        rows = slice(start, min(start + step, len(left)))
        yield rows, left[rows].astype(np.float64) @ columns


def _neighbourhoods(left: np.ndarray, right: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean cosine of each vector to its k nearest on the other side."""
    of_left, of_right = min(k, len(right)), min(k, len(left))
    around_left = np.empty(len(left))
    nearest = np.empty((0, len(right)))
    for rows, cosines in _blocks(left, right):
        around_left[rows] = _largest(cosines, of_left, axis=1).mean(axis=1)
        nearest = _largest(np.concatenate([nearest, cosines]), of_right, axis=0)
    return around_left, nearest.mean(axis=0)


def _largest(values: np.ndarray, k: int, *, axis: int) -> np.ndarray:
    if values.shape[axis] <= k:
        return values
    parted = np.partition(values, values.shape[axis] - k, axis=axis)
    return parted[:, -k:] if axis else parted[-k:]


class BitextTask:
    """Pairs of translations: each sentence must find its partner among all of the other side.

    Both directions count: a pair's value is the mean of the two hits. ``p@1`` ranks by the ratio
    margin, ``p@1-cosine`` by cosine. ``f1`` and ``f1-cosine`` look at the pairs whose sides choose
    each other, as when translations are mined: precision is their share that is right, recall the
    share of all pairs found. A partner is right when the two texts are a pair of the task, so a
    sentence with two translations may find either.

    Pairs that are given twice count once; repeated pairs, and pairs of one and the same text
    (which need no translation), are left out and counted.

    Args:
        name: Name for tables.
        pairs: (text, its translation).
        k: Neighbours for the margin.
        instruction: What the task is, for systems that read instructions.

    Raises:
        EmptyInputError: When there are no pairs.
        InputError: When fewer than two different pairs are left.

    Example:
        >>> from embedworks.evaluation import EncoderSystem, Resampling
        >>> class Vowels:
        ...     def encode(self, texts):
        ...         return np.array([[t.count("a"), t.count("o"), 0.1] for t in texts])
        >>> task = BitextTask("toy", [("casa", "maan"), ("forro", "boom")])
        >>> task.run(EncoderSystem(Vowels(), name="vowels"), Resampling()).main.interval.mean
        1.0
    """

    kind = "bitext"
    metric = "p@1"

    def __init__(
        self,
        name: str,
        pairs: Sequence[tuple[str, str]],
        *,
        k: int = 4,
        instruction: str | None = None,
    ) -> None:
        if not pairs:
            raise EmptyInputError(f"Task {name!r} has no pairs.")
        check_texts([text for pair in pairs for text in pair], name=f"texts of {name!r}")
        different = list(dict.fromkeys((source, target) for source, target in pairs))
        self.pairs = [(source, target) for source, target in different if source != target]
        if len(self.pairs) < 2:
            raise InputError(
                f"Task {name!r} has {len(self.pairs)} pairs of different texts; at least two are "
                "needed, or there is nothing to choose from."
            )
        self.name = name
        self.k = check_k(k)
        self.instruction = instruction
        counts = {
            "repeated pairs": len(pairs) - len(different),
            "pairs of one and the same text": len(different) - len(self.pairs),
        }
        self.excluded = {reason: count for reason, count in counts.items() if count}

    def texts(self) -> list[str]:
        """Return the texts the task uses."""
        return [text for pair in self.pairs for text in pair]

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Match the two sides.

        Raises:
            InputError: When all vectors of a side are equal: every match would be chance.
        """
        sides = []
        for side in (0, 1):
            texts = [pair[side] for pair in self.pairs]
            vectors = system.encode(texts, instruction=self.instruction)
            if (vectors == vectors[0]).all():
                raise InputError(
                    f"{system.name} gives all {len(texts)} texts of one side of {self.name!r} the "
                    "same vector: every match would be chance."
                )
            sides.append(vectors)
        scores: dict[str, Score] = {}
        details: dict[str, float] = {}
        failures: tuple[Failure, ...] = ()
        for margin, ending in (("ratio", ""), ("cosine", "-cosine")):
            found = best_matches(*sides, k=self.k, margin=margin)
            forward, backward = self._hits(found)
            scores[f"p@1{ending}"] = Score.of_values((forward + backward) / 2, resampling)
            scores[f"f1{ending}"] = _mutual_f1(found.mutual, forward, resampling)
            details[f"p@1{ending}_forward"] = float(forward.mean())
            details[f"p@1{ending}_backward"] = float(backward.mean())
            if margin == "ratio":
                failures = self._failures(found, forward, backward)
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores=scores,
            items=tuple(str(row) for row in range(len(self.pairs))),
            excluded=self.excluded,
            failures=failures,
            details={
                "pairs": len(self.pairs),
                "chance": 1 / len(self.pairs),
                "neighbours": self.k,
                **details,
                "instruction": self.instruction,
            },
        )

    def _hits(self, found: Matches) -> tuple[np.ndarray, np.ndarray]:
        """Return for each pair whether its source and its target find a right partner."""
        right = set(self.pairs)
        forward = [
            target >= 0 and (source, self.pairs[target][1]) in right
            for (source, _), target in zip(self.pairs, found.forward.tolist())
        ]
        backward = [
            source >= 0 and (self.pairs[source][0], target) in right
            for (_, target), source in zip(self.pairs, found.backward.tolist())
        ]
        return np.array(forward, dtype=np.float64), np.array(backward, dtype=np.float64)

    def _failures(
        self, found: Matches, forward: np.ndarray, backward: np.ndarray, count: int = 10
    ) -> tuple[Failure, ...]:
        failures = []
        values = (forward + backward) / 2
        for row in np.argsort(values, kind="stable")[:count].tolist():
            if values[row] == 1:
                break
            source, target = self.pairs[row]
            asked, expected = (target, source) if forward[row] else (source, target)
            best = int((found.backward if forward[row] else found.forward)[row])
            score = float((found.backward_scores if forward[row] else found.forward_scores)[row])
            partner = self.pairs[best][0 if forward[row] else 1] if best >= 0 else "nothing"
            failures.append(
                Failure(
                    item=str(row),
                    text=shorten(asked, 400),
                    score=float(values[row]),
                    expected=(shorten(expected),),
                    found=(f"{shorten(partner)} ({score:.3f})",),
                )
            )
        return tuple(failures)


def _mutual_f1(mutual: np.ndarray, forward: np.ndarray, resampling: Resampling) -> Score:
    """Score the pairs that choose each other; 2PR / (P + R) is 2 right / (chosen + all)."""
    chosen = mutual.astype(np.float64)
    right = chosen * forward
    return Score.of_statistic(
        len(chosen),
        lambda rows: float(2 * right[rows].sum() / (chosen[rows].sum() + len(rows))),
        resampling,
    )
