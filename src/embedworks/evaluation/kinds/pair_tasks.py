"""Pairs of texts that belong together or not: does similarity tell the two kinds apart?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedworks._core.validation import check_texts, normalize_rows
from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation.outcomes import Failure, Resampling, Score, TaskResult, shorten

if TYPE_CHECKING:
    from embedworks.evaluation.systems import System

__all__ = ["PairClassificationTask"]


class PairClassificationTask:
    """Pairs of texts with the label 1 (they belong together) or 0, told apart by cosine.

    The main metric is the average precision: the mean precision over the pairs that belong
    together, taken from the most similar pair down. It needs no threshold. The best F1 and the
    best accuracy over all thresholds are given too; they are optimistic, because the threshold
    is chosen on the pairs it is judged on, and are chosen anew in each resample.

    Equal similarities are passed together, as scikit-learn's ``average_precision_score`` does.
    A text with the zero vector has the similarity 0.

    Args:
        name: Name for tables.
        pairs: (text, text, label), labels 0 and 1, both present.
        instruction: What the task is, for systems that read instructions.

    Raises:
        EmptyInputError: When there are no pairs.
        InputError: When a label is neither 0 nor 1, or all labels are equal.

    Example:
        >>> from embedworks.evaluation import EncoderSystem, Resampling
        >>> class Lengths:
        ...     def encode(self, texts):
        ...         return np.array([[len(text), 1.0] for text in texts])
        >>> task = PairClassificationTask("toy", [("aa", "bb", 1), ("a", "bbbb", 0)])
        >>> task.run(EncoderSystem(Lengths(), name="lengths"), Resampling()).main.interval.mean
        1.0
    """

    kind = "pair-classification"
    metric = "ap"

    def __init__(
        self,
        name: str,
        pairs: Sequence[tuple[str, str, int]],
        *,
        instruction: str | None = None,
    ) -> None:
        if not pairs:
            raise EmptyInputError(f"Task {name!r} has no pairs.")
        check_texts([text for a, b, _ in pairs for text in (a, b)], name=f"texts of {name!r}")
        for place, (_, _, label) in enumerate(pairs):
            if label not in (0, 1):
                raise InputError(
                    f"Task {name!r}: the label of pair {place} is {label!r}; 1 is expected where "
                    "the texts belong together and 0 where they do not."
                )
        self.name = name
        self.pairs = list(pairs)
        self.instruction = instruction
        self._labels = np.array([int(label) for _, _, label in pairs])
        if self._labels.min() == self._labels.max():
            raise InputError(
                f"Task {name!r}: all {len(pairs)} pairs have the label {self._labels[0]}; both "
                "labels are needed to tell them apart."
            )

    def texts(self) -> list[str]:
        """Return the texts the task uses."""
        return [text for a, b, _ in self.pairs for text in (a, b)]

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Rank the pairs by the system's similarity.

        Raises:
            InputError: When all similarities are equal: nothing is told apart.
        """
        texts = [text for a, b, _ in self.pairs for text in (a, b)]
        vectors = normalize_rows(system.encode(texts, instruction=self.instruction))
        cosine = np.einsum("nd,nd->n", vectors[::2], vectors[1::2], dtype=np.float64)
        levels, codes = np.unique(cosine, return_inverse=True)
        if len(levels) < 2:
            raise InputError(
                f"{system.name} gives all {len(cosine)} pairs the similarity {cosine[0]:.4f}: "
                "it tells nothing apart."
            )
        labels, n = self._labels, len(cosine)
        curve = _curve(codes, labels, len(levels))
        f1_row, accuracy_row = int(curve.f1().argmax()), int(curve.accuracy().argmax())

        def score(what: str) -> Score:
            def statistic(rows: np.ndarray) -> float | None:
                drawn = _curve(codes[rows], labels[rows], len(levels))
                return drawn.figure(what) if drawn.hits[-1] else None

            return Score.of_statistic(n, statistic, resampling)

        threshold = float(levels[::-1][f1_row])
        accuracy = curve.accuracy()
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores={what: score(what) for what in ("ap", "best-f1", "best-accuracy")},
            failures=self._failures(cosine, threshold),
            details={
                "pairs": n,
                "chance": float(labels.mean()),
                "share_of_larger_label": float(max(labels.mean(), 1 - labels.mean())),
                "f1_threshold": threshold,
                "accuracy_threshold": (
                    float(levels[::-1][accuracy_row])
                    if accuracy[accuracy_row] > 1 - labels.mean()
                    else None
                ),
                "instruction": self.instruction,
            },
        )

    def _failures(
        self, cosine: np.ndarray, threshold: float, count: int = 10
    ) -> tuple[Failure, ...]:
        """Return the pairs that are furthest on the wrong side of the threshold of best F1."""
        towards = np.where(self._labels == 1, cosine - threshold, threshold - cosine)
        wrong = np.where(self._labels == 1, cosine < threshold, cosine >= threshold)
        order = [row for row in np.argsort(towards, kind="stable").tolist() if wrong[row]]
        say = ("not together", "together")
        return tuple(
            Failure(
                item=str(row),
                text=shorten(f"{self.pairs[row][0]} / {self.pairs[row][1]}", 400),
                score=float(towards[row]),
                expected=(say[self._labels[row]],),
                found=(f"similarity {cosine[row]:.3f}, {say[int(cosine[row] >= threshold)]}",),
            )
            for row in order[:count]
        )


@dataclass(frozen=True)
class _Curve:
    """What is above each threshold, from the highest threshold down."""

    hits: np.ndarray
    """Pairs above it that belong together."""
    above: np.ndarray
    """Pairs above it."""

    def figure(self, what: str) -> float:
        if what == "ap":
            steps = np.diff(self.hits, prepend=0)
            return float((steps * self.hits / np.maximum(self.above, 1)).sum() / self.hits[-1])
        if what == "best-f1":
            return float(self.f1().max())
        none_together = 1 - self.hits[-1] / self.above[-1]
        return float(max(self.accuracy().max(), none_together))

    def f1(self) -> np.ndarray:
        return np.asarray(2 * self.hits / (self.above + self.hits[-1]))

    def accuracy(self) -> np.ndarray:
        false_alarms, missed = self.above - self.hits, self.hits[-1] - self.hits
        return np.asarray(1 - (false_alarms + missed) / self.above[-1])


def _curve(codes: np.ndarray, labels: np.ndarray, levels: int) -> _Curve:
    """Count pairs from the highest similarity level down; ``codes`` are level numbers."""
    above = np.bincount(codes, minlength=levels)[::-1].cumsum()
    hits = np.bincount(codes[labels == 1], minlength=levels)[::-1].cumsum()
    return _Curve(hits, above)
