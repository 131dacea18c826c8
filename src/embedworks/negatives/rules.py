"""Rules that decide whether a candidate may be a negative: pure functions on score arrays.

A rule sees scores and nothing else. It answers True where a candidate may be used and False where
it may be an unmarked positive (or is too far away to teach anything).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from embedworks._core.registry import Registry, did_you_mean
from embedworks._core.validation import check_in_range
from embedworks.errors import InputError, ShapeError, UnknownNameError

__all__ = [
    "NEGATIVE_RULES",
    "Candidates",
    "NegativeRule",
    "RuleKind",
    "absolute_limit",
    "adaptive_limit",
    "relative_limit",
]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidates of B queries as one scorer sees them.

    Attributes:
        scores: float array (B, C), score of each candidate for its query.
        positive: float array (B,), the lowest score of the query's positives; -inf where the
            scorer did not find one, so that nothing is below it.
        known: bool array (B, C), True where the scorer has a score. Nothing else is judged.
        similarity: float array (B, C), the candidate's highest similarity to a positive of the
            query, or None when the scorer has none.
    """

    scores: np.ndarray
    positive: np.ndarray
    known: np.ndarray
    similarity: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape = self.scores.shape
        shapes = [self.known.shape, shape if self.similarity is None else self.similarity.shape]
        if len(shape) != 2 or self.positive.shape != shape[:1] or any(s != shape for s in shapes):
            raise ShapeError(
                f"scores (B, C), positive (B,), known and similarity (B, C) are expected, got "
                f"{shape}, {self.positive.shape} and {shapes}."
            )


def absolute_limit(positive: np.ndarray, margin: float | np.ndarray) -> np.ndarray:
    """Return ``t - margin``, which a negative's score must stay below.

    Args:
        positive: Scores t of the positives, any shape.
        margin: 0 or greater, on the scale of the scores.

    Example:
        >>> float(absolute_limit(np.array(0.5), 0.125))
        0.375
    """
    return np.asarray(positive - margin)


def relative_limit(positive: np.ndarray, margin: float | np.ndarray) -> np.ndarray:
    """Return ``t - |t| * margin``, which a negative's score must stay below.

    ``t * (1 - margin)`` would lie ABOVE a negative ``t``; this form lies below any.

    Args:
        positive: Scores t of the positives, any shape.
        margin: Share of the score's size, 0 or greater; 0.05 is the "95 % of the positive" rule.

    Example:
        >>> relative_limit(np.array([0.5, -0.5]), 0.5)
        array([ 0.25, -0.75])
    """
    with np.errstate(invalid="ignore"):
        limit = positive - np.abs(positive) * margin
    # The margin of a positive that was not found (-inf) does not matter, even where it is 0.
    return np.asarray(np.where(np.isneginf(positive), -np.inf, limit))


def adaptive_limit(
    positive: np.ndarray, scores: np.ndarray, known: np.ndarray, kappa: float | np.ndarray
) -> np.ndarray:
    """Return ``t - kappa * std`` of each query's candidate scores, which negatives stay below.

    The margin follows how far a query's candidates are spread: an absolute number that suits a
    query of scattered candidates would turn down everything for one of close candidates.

    Args:
        positive: float array (B,).
        scores: float array (B, C).
        known: bool array (B, C), which scores count.
        kappa: 0 or greater; a number, or one per query (B,).

    Example:
        >>> scores = np.array([[0.25, 0.75]])
        >>> adaptive_limit(np.array([1.0]), scores, scores > 0, 2.0)
        array([0.5])
    """
    count = np.maximum(known.sum(axis=1), 1)
    values = np.where(known, scores, 0.0).astype(np.float64)
    mean = values.sum(axis=1) / count
    spread = np.where(known, values - mean[:, None], 0.0)
    return np.asarray(positive - kappa * np.sqrt((spread**2).sum(axis=1) / count))


@dataclass(frozen=True)
class RuleKind:
    """How one kind of rule works.

    Attributes:
        keep: Called with `Candidates` and float values (B,), one per query; returns bool (B, C),
            True where the candidate may be used.
        low: Smallest value allowed.
        high: Largest value allowed.
        needs_similarity: Whether ``Candidates.similarity`` is read.
    """

    keep: Callable[[Candidates, np.ndarray], np.ndarray]
    low: float | None = None
    high: float | None = None
    needs_similarity: bool = False


#: What ``NegativeRule(kind)`` and the rules of a recipe may name.
NEGATIVE_RULES: Registry[RuleKind] = Registry("negative rules")

NEGATIVE_RULES.add(
    "absolute",
    RuleKind(lambda c, v: c.scores < absolute_limit(c.positive, v)[:, None], low=0.0),
    summary="Score below the positive's by a fixed margin.",
)
NEGATIVE_RULES.add(
    "relative",
    RuleKind(lambda c, v: c.scores < relative_limit(c.positive, v)[:, None], low=0.0),
    summary="Score below the positive's by a share of it; 0.05 keeps what is under 95 %.",
)
NEGATIVE_RULES.add(
    "adaptive",
    RuleKind(
        lambda c, v: c.scores < adaptive_limit(c.positive, c.scores, c.known, v)[:, None], low=0.0
    ),
    summary="Score below the positive's by a multiple of the query's candidate spread.",
)
NEGATIVE_RULES.add(
    "document",
    RuleKind(lambda c, v: np.asarray(c.similarity) < v[:, None], needs_similarity=True),
    summary="Similarity to every positive document below a limit: no near-copies of a positive.",
)
NEGATIVE_RULES.add(
    "max-score",
    RuleKind(lambda c, v: c.scores <= v[:, None]),
    summary="Score at most this, whatever the positive's.",
)
NEGATIVE_RULES.add(
    "min-score",
    RuleKind(lambda c, v: c.scores >= v[:, None]),
    summary="Score at least this: nothing too easy to learn from.",
)


@dataclass(frozen=True)
class NegativeRule:
    """One rule with its threshold, and other thresholds for some sources.

    Args:
        kind: A name among `NEGATIVE_RULES`.
        value: The margin, limit or multiple.
        sources: Other values by source name.
        scorer: Name of the one retriever or rescorer whose scores are judged; None means each.

    Raises:
        UnknownNameError: When there is no such kind.
        InputError: When a value is out of range.

    Example:
        >>> rule = NegativeRule("relative", 0.5, sources={"quora": 0.0})
        >>> scores = np.array([[0.45, 0.3]] * 2)
        >>> found = Candidates(scores, np.array([0.8, 0.4]), known=scores > 0)
        >>> rule.keep(found, ["msmarco", "quora"])
        array([[False,  True],
               [False,  True]])
    """

    kind: str
    value: float
    sources: Mapping[str, float] = field(default_factory=dict)
    scorer: str | None = None

    def __post_init__(self) -> None:
        kind = NEGATIVE_RULES[self.kind]
        for where, value in (("", self.value), *self.sources.items()):
            name = f"the value of rule {self.kind!r}" + (f" for source {where!r}" if where else "")
            check_in_range(value, name=name, low=kind.low, high=kind.high)

    @property
    def label(self) -> str:
        """Short text for reports, such as ``"relative 0.05 (dense)"``."""
        return f"{self.kind} {self.value:g}" + (f" ({self.scorer})" if self.scorer else "")

    @property
    def needs_similarity(self) -> bool:
        """Whether candidates must carry their similarity to the positives."""
        return NEGATIVE_RULES[self.kind].needs_similarity

    def check_sources(self, known: Sequence[str]) -> None:
        """Raise `UnknownNameError` when a source with its own value is not among ``known``."""
        for source in self.sources:
            if source not in known:
                raise UnknownNameError(
                    f"rule {self.label!r} has a value for source {source!r}, but no row is of it. "
                    f"{did_you_mean(source, list(known))}"
                )

    def keep(self, candidates: Candidates, sources: Sequence[str]) -> np.ndarray:
        """Return bool (B, C): True where a candidate passes, or is not known to the scorer.

        Args:
            candidates: What to judge.
            sources: The B queries' source names.

        Raises:
            InputError: When the rule needs similarities between documents and there are none.
        """
        if self.needs_similarity and candidates.similarity is None:
            raise InputError(
                f"rule {self.kind!r} compares documents with the positive, which needs a dense "
                "retriever: name it with scorer=, or use another rule."
            )
        values = np.array([self.sources.get(s, self.value) for s in sources], dtype=np.float64)
        passed = NEGATIVE_RULES[self.kind].keep(candidates, values)
        return np.asarray(passed | ~candidates.known)
