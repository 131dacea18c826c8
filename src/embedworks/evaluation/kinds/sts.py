"""Scored pairs of texts: does the model's similarity follow the human one?"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_texts, check_vectors, normalize_rows
from embedworks.errors import DataWarning, EmptyInputError, InputError, NonFiniteError, ShapeError
from embedworks.evaluation._records import check_keys
from embedworks.evaluation.outcomes import Failure, Resampling, Score, TaskResult, shorten
from embedworks.evaluation.statistics.intervals import Interval, check_resampling

if TYPE_CHECKING:
    from embedworks.evaluation.systems import System

__all__ = ["Encoder", "StsResult", "StsTask", "evaluate_sts", "spearman"]


class Encoder(Protocol):
    """Anything with ``encode(texts) -> (N, D)``."""

    def encode(self, texts: Sequence[str], /) -> np.ndarray:
        """Return one vector per text."""


@dataclass(frozen=True)
class StsResult:
    """Spearman correlation of a model's cosine similarities with the given scores."""

    spearman: Interval
    """The correlation with its bootstrap interval over pairs; `Interval.n` counts pairs."""
    zero_vectors: int
    """Texts that the model maps to the zero vector; their similarity counts as 0."""

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold; `from_dict` restores it exactly."""
        return {"spearman": self.spearman.to_dict(), "zero_vectors": self.zero_vectors}

    @classmethod
    def from_dict(cls, value: object) -> StsResult:
        """Restore what `to_dict` returned.

        Raises:
            FormatError: When keys are unknown or missing.
        """
        record = check_keys(value, ["spearman", "zero_vectors"], kind="StsResult")
        return cls(Interval.from_dict(record["spearman"]), record["zero_vectors"])


def spearman(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Compute Spearman's rank correlation; tied values share the average of their ranks.

    Args:
        a: Values of shape (N,).
        b: Values of shape (N,) for the same items.

    Returns:
        A value in ``[-1, 1]``.

    Raises:
        ShapeError: When the lengths differ or an input is not one-dimensional.
        InputError: When there are fewer than two items, or one side is constant: the
            correlation is then not defined.
        NonFiniteError: When a value is NaN or infinite.

    Example:
        >>> spearman([1, 2, 3, 4], [10, 20, 40, 30])
        0.8
    """
    codes_a, codes_b = _codes(a, name="a"), _codes(b, name="b")
    if len(codes_a) != len(codes_b):
        raise ShapeError(f"a has {len(codes_a)} values and b has {len(codes_b)}.")
    value = _rank_correlation(codes_a, codes_b)
    if value is None:
        raise InputError("spearman needs two different values on each side, one side is constant.")
    return value


def evaluate_sts(
    model: Encoder,
    pairs: Sequence[tuple[str, str, float]],
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> StsResult:
    """Correlate a model's cosine similarities with the scores of text pairs.

    A text without a vector (all zeros, for example because no token is known) has similarity 0
    to everything; such texts are counted in the result and in a `DataWarning`. Resamples in
    which one side is constant have no correlation and are left out of the interval.

    Args:
        model: Anything with ``encode``.
        pairs: (text, text, score); a higher score means more similar.
        confidence: Level of the bootstrap interval.
        n_resamples: Resamples of the pairs.
        seed: Seed of the resampling.

    Raises:
        EmptyInputError: When there are no pairs.
        InputError: When the correlation is not defined (see `spearman`).
        NonFiniteError: When a vector or score is NaN or infinite.

    Example:
        >>> class Lengths:
        ...     def encode(self, texts):
        ...         return np.array([[1.0, len(text)] for text in texts])
        >>> pairs = [("a", "b", 5.0), ("a", "bbb", 3.0), ("a", "bbbbbbbbb", 1.0)]
        >>> evaluate_sts(Lengths(), pairs).spearman.mean
        1.0
    """
    if len(pairs) == 0:
        raise EmptyInputError("evaluate_sts needs scored pairs, got none.")
    check_resampling(confidence, n_resamples)
    left = check_texts([pair[0] for pair in pairs], name="first texts")
    right = check_texts([pair[1] for pair in pairs], name="second texts")
    vectors = normalize_rows(check_vectors(model.encode([*left, *right])))
    if len(vectors) != 2 * len(pairs):
        raise ShapeError(f"The model gave {len(vectors)} vectors for {2 * len(pairs)} texts.")
    zeros = int((~vectors.any(axis=1)).sum())
    if zeros:
        message = (
            f"{zeros} of {len(vectors)} texts have the zero vector: similarity 0 is used for them."
        )
        warnings.warn(DataWarning(message), stacklevel=2)
    half = len(pairs)
    similarities = np.einsum("nd,nd->n", vectors[:half], vectors[half:], dtype=np.float64)
    scores = [pair[2] for pair in pairs]
    correlation = spearman(similarities, scores)
    low, high, note = correlation, correlation, ""
    resampled = list(_resampled_correlations(similarities, scores, n_resamples, seed))
    if resampled:
        tail = (1 - confidence) / 2
        low, high = (float(q) for q in np.quantile(resampled, [tail, 1 - tail]))
    else:
        note = "every resample is constant: no interval"
    return StsResult(Interval(correlation, low, high, half, confidence, note), zeros)


class StsTask:
    """Scored pairs as a task: Spearman's correlation of cosine similarities and given scores.

    Args:
        name: Name for tables.
        pairs: (text, text, score); a higher score means more similar.
        instruction: What the task is, for systems that read instructions.

    Raises:
        EmptyInputError: When there are no pairs.
        InputError: When all scores are equal: no correlation is defined.
        NonFiniteError: When a score is NaN or infinite.

    Example:
        >>> StsTask("toy", [("a", "b", 1.0), ("a", "c", 0.0)]).kind
        'sts'
    """

    kind = "sts"
    metric = "spearman"

    def __init__(
        self,
        name: str,
        pairs: Sequence[tuple[str, str, float]],
        *,
        instruction: str | None = None,
    ) -> None:
        if not pairs:
            raise EmptyInputError(f"Task {name!r} has no pairs.")
        check_texts([text for a, b, _ in pairs for text in (a, b)], name=f"texts of {name!r}")
        self.name = name
        self.pairs = list(pairs)
        self.instruction = instruction
        self._scores = np.array([score for _, _, score in pairs], dtype=np.float64)
        if len(np.unique(_codes(self._scores, name="scores"))) < 2:
            raise InputError(f"Task {name!r}: all its scores are {self._scores[0]}.")

    def texts(self) -> list[str]:
        """Return the texts the task uses."""
        return [text for a, b, _ in self.pairs for text in (a, b)]

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Correlate the system's similarities with the scores.

        Raises:
            InputError: When all similarities are equal: no correlation is defined.
        """
        texts = [text for a, b, _ in self.pairs for text in (a, b)]
        vectors = normalize_rows(system.encode(texts, instruction=self.instruction))
        cosine = np.einsum("nd,nd->n", vectors[::2], vectors[1::2], dtype=np.float64)
        mine, theirs = _codes(cosine, name="similarities"), _codes(self._scores, name="scores")
        if len(np.unique(mine)) < 2:
            raise InputError(
                f"{system.name} gives all {len(mine)} pairs the similarity {cosine[0]:.4f}: "
                "no correlation is defined."
            )
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores={
                self.metric: Score.of_statistic(
                    len(mine), lambda rows: _rank_correlation(mine[rows], theirs[rows]), resampling
                )
            },
            failures=self._failures(mine, theirs, cosine),
            details={"pairs": len(mine), "instruction": self.instruction},
        )

    def _failures(
        self, mine: np.ndarray, theirs: np.ndarray, cosine: np.ndarray, count: int = 10
    ) -> tuple[Failure, ...]:
        """Return the pairs whose rank by similarity is furthest from that by score."""
        gaps = (_centred_ranks(mine) - _centred_ranks(theirs)) / len(mine)
        worst = np.argsort(-np.abs(gaps), kind="stable")[:count]
        return tuple(
            Failure(
                item=str(row),
                text=shorten(f"{self.pairs[row][0]} / {self.pairs[row][1]}", 400),
                score=float(1 - abs(gaps[row])),
                expected=(f"score {self._scores[row]:g}",),
                found=(f"similarity {cosine[row]:.3f}",),
            )
            for row in worst.tolist()
        )


def _resampled_correlations(
    a: np.ndarray, b: Sequence[float], n_resamples: int, seed: int
) -> Iterator[float]:
    codes_a, codes_b = _codes(a, name="similarities"), _codes(b, name="scores")
    rng = generator(seed, "sts bootstrap")
    for _ in range(n_resamples):
        picks = rng.integers(0, len(codes_a), size=len(codes_a))
        value = _rank_correlation(codes_a[picks], codes_b[picks])
        if value is not None:
            yield value


def _codes(values: Sequence[float] | np.ndarray, *, name: str) -> np.ndarray:
    """Return for each value the position of its equals among the sorted distinct values."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ShapeError(f"{name} must have shape (N,), got {array.shape}.")
    if len(array) < 2:
        raise InputError(f"A correlation needs at least two items, {name} has {len(array)}.")
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array))[0])
        raise NonFiniteError(f"{name}[{bad}] is {array[bad]}: every value must be a number.")
    return np.asarray(np.unique(array, return_inverse=True)[1])


def _rank_correlation(codes_a: np.ndarray, codes_b: np.ndarray) -> float | None:
    """Correlate average ranks given order codes; None when a side is constant."""
    ranks_a, ranks_b = _centred_ranks(codes_a), _centred_ranks(codes_b)
    scale = float(np.sqrt((ranks_a @ ranks_a) * (ranks_b @ ranks_b)))
    if scale == 0:
        return None
    return min(1.0, max(-1.0, float(ranks_a @ ranks_b) / scale))


def _centred_ranks(codes: np.ndarray) -> np.ndarray:
    counts = np.bincount(codes)
    average_rank = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(average_rank[codes] - (len(codes) + 1) / 2)
