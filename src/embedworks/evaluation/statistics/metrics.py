"""Ranking metrics as pure functions, with trec_eval's conventions.

A ranking is a sequence of document ids, best first. Judgements map a document id to its
relevance; a document without a judgement is not relevant, and relevance 1 or more counts as
relevant for the metrics without grades. `rank_documents` makes the ranking from scores the way
trec_eval does: score descending, equal scores by document id descending.

A query without a relevant judgement has no defined score: the functions refuse it, and
`embedworks.evaluation.evaluate_run` leaves such queries out and counts them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from embedworks._core.registry import Registry, did_you_mean
from embedworks._core.validation import check_k
from embedworks.errors import DuplicateIdError, InputError, NonFiniteError, UnknownNameError

__all__ = [
    "METRICS",
    "Metric",
    "average_precision",
    "mrr_at_k",
    "ndcg_at_k",
    "parse_metric",
    "precision_at_k",
    "rank_documents",
    "recall_at_k",
    "success_at_k",
]

MetricFunction = Callable[[Sequence[str], Mapping[str, int], int | None], float]

#: Metrics by the name that stands before the ``@``; each takes (ranked, judgements, k).
METRICS: Registry[MetricFunction] = Registry("metrics")


def rank_documents(scores: Mapping[str, float]) -> list[str]:
    """Return document ids by score descending, equal scores by id descending.

    Raises:
        NonFiniteError: When a score is NaN, which has no place in a ranking.

    Example:
        >>> rank_documents({"a": 1.0, "b": 1.0, "c": 2.0})
        ['c', 'b', 'a']
    """
    for doc_id, score in scores.items():
        if score != score:
            raise NonFiniteError(f"The score of document {doc_id!r} is NaN: it cannot be ranked.")
    pairs = sorted(zip(scores.values(), scores), reverse=True)
    return [doc_id for _, doc_id in pairs]


@METRICS.register("ndcg", summary="Graded gain of the ranking over that of the ideal ranking.")
def ndcg_at_k(ranked: Sequence[str], judgements: Mapping[str, int], k: int | None = None) -> float:
    """Compute the normalised discounted cumulative gain.

    ``sum over ranks r <= k of relevance(r) / log2(r + 1)``, divided by the same sum for the
    judged documents in their best order. The gain is linear, as in trec_eval's ``ndcg_cut``
    (not ``2 ** relevance - 1``).

    Args:
        ranked: Document ids, best first.
        judgements: Document id -> relevance; below 1 is not relevant.
        k: Cut-off rank; None uses the whole ranking.

    Returns:
        A value in ``[0, 1]``.

    Raises:
        InputError: When no document is relevant, or ``k`` is below 1.
        DuplicateIdError: When an id occurs twice within the cut-off.

    Example:
        >>> round(ndcg_at_k(["x", "a"], {"a": 1}, 10), 4)
        0.6309
    """
    top, relevant = _checked(ranked, judgements, k)
    gain = sum(relevant.get(doc, 0) / math.log2(rank + 1) for rank, doc in enumerate(top, 1))
    best = sorted(relevant.values(), reverse=True)[:k]
    ideal = sum(relevance / math.log2(rank + 1) for rank, relevance in enumerate(best, 1))
    return min(gain / ideal, 1.0)


@METRICS.register("recall", summary="Share of the relevant documents that were found.")
def recall_at_k(
    ranked: Sequence[str], judgements: Mapping[str, int], k: int | None = None
) -> float:
    """Compute the share of the relevant documents within the first ``k``.

    Arguments and errors as in `ndcg_at_k`.

    Example:
        >>> recall_at_k(["a", "x"], {"a": 1, "b": 2}, 10)
        0.5
    """
    top, relevant = _checked(ranked, judgements, k)
    return sum(doc in relevant for doc in top) / len(relevant)


@METRICS.register("precision", summary="Share of the first k places held by relevant documents.")
def precision_at_k(
    ranked: Sequence[str], judgements: Mapping[str, int], k: int | None = None
) -> float:
    """Compute the share of the first ``k`` places that hold a relevant document.

    The divisor is ``k`` even when fewer documents were returned, as in trec_eval; without ``k``
    it is the length of the ranking. Arguments and errors as in `ndcg_at_k`.

    Example:
        >>> precision_at_k(["a", "x"], {"a": 1}, 10)
        0.1
    """
    top, relevant = _checked(ranked, judgements, k)
    places = len(top) if k is None else k
    return sum(doc in relevant for doc in top) / places if places else 0.0


@METRICS.register("mrr", summary="One over the rank of the first relevant document.")
def mrr_at_k(ranked: Sequence[str], judgements: Mapping[str, int], k: int | None = None) -> float:
    """Compute the reciprocal rank of the first relevant document, 0 if none is within ``k``.

    Averaged over queries this is the mean reciprocal rank. Arguments and errors as in
    `ndcg_at_k`.

    Example:
        >>> mrr_at_k(["x", "a"], {"a": 1}, 10)
        0.5
    """
    top, relevant = _checked(ranked, judgements, k)
    return next((1 / rank for rank, doc in enumerate(top, 1) if doc in relevant), 0.0)


@METRICS.register("map", summary="Mean of the precision at each relevant document.")
def average_precision(
    ranked: Sequence[str], judgements: Mapping[str, int], k: int | None = None
) -> float:
    """Compute the average precision: the precision at each relevant document, averaged.

    Relevant documents that were not found within ``k`` count as 0; the divisor is the number of
    relevant documents, as in trec_eval's ``map_cut``. Averaged over queries this is MAP.
    Arguments and errors as in `ndcg_at_k`.

    Example:
        >>> average_precision(["a", "x", "b"], {"a": 1, "b": 1})
        0.8333333333333333
    """
    top, relevant = _checked(ranked, judgements, k)
    hits = 0
    total = 0.0
    for rank, doc in enumerate(top, 1):
        if doc in relevant:
            hits += 1
            total += hits / rank
    return total / len(relevant)


@METRICS.register("success", summary="1 if a relevant document is within the first k, else 0.")
def success_at_k(
    ranked: Sequence[str], judgements: Mapping[str, int], k: int | None = None
) -> float:
    """Return 1.0 if any relevant document is within the first ``k``, else 0.0.

    ``success@1`` averaged over queries is the share of questions answered by the first result.
    Arguments and errors as in `ndcg_at_k`.

    Example:
        >>> success_at_k(["x", "a"], {"a": 1}, 1)
        0.0
    """
    top, relevant = _checked(ranked, judgements, k)
    return float(any(doc in relevant for doc in top))


@dataclass(frozen=True)
class Metric:
    """A registered metric with its cut-off, made by `parse_metric`.

    Calling it with (ranked, judgements) returns the value for one query.
    """

    name: str
    """Name in `METRICS`, such as ``"ndcg"``."""
    k: int | None
    """Cut-off rank; None uses the whole ranking."""

    @property
    def label(self) -> str:
        """The string that `parse_metric` reads: ``"ndcg@10"``."""
        return self.name if self.k is None else f"{self.name}@{self.k}"

    def __call__(self, ranked: Sequence[str], judgements: Mapping[str, int]) -> float:
        """Return the value for one query."""
        return METRICS[self.name](ranked, judgements, self.k)


def parse_metric(text: str) -> Metric:
    """Read a metric such as ``"ndcg@10"``, or ``"map"`` for the whole ranking.

    Raises:
        UnknownNameError: When the part before ``@`` is not in `METRICS`.
        InputError: When the part after ``@`` is not a positive integer.

    Example:
        >>> parse_metric("ndcg@10")
        Metric(name='ndcg', k=10)
        >>> parse_metric("ndgc@10")
        Traceback (most recent call last):
        ...
        embedworks.errors.UnknownNameError: No metric 'ndgc@10'. Did you mean 'ndcg@10'?
    """
    if not isinstance(text, str):
        raise InputError(f"A metric is a string such as 'ndcg@10', got {type(text).__name__}.")
    name, at, cutoff = text.strip().partition("@")
    if name not in METRICS:
        suffix = at + (cutoff if cutoff.isdecimal() else "10" if at else "")
        known = [known_name + suffix for known_name in METRICS.names()]
        raise UnknownNameError(f"No metric {text!r}. {did_you_mean(name + suffix, known)}")
    if not at:
        return Metric(name, None)
    if not (cutoff.isascii() and cutoff.isdecimal()) or int(cutoff) < 1:
        raise InputError(
            f"Metric {text!r}: after '@' a rank of at least 1 is expected, as in '{name}@10'."
        )
    return Metric(name, int(cutoff))


def _checked(
    ranked: Sequence[str], judgements: Mapping[str, int], k: int | None
) -> tuple[list[str], dict[str, int]]:
    """Return the first ``k`` ids and the relevant judgements; refuse what has no answer."""
    if isinstance(ranked, str):
        raise InputError("ranked must be a sequence of document ids, got one string.")
    top = list(ranked if k is None else islice(ranked, check_k(k)))
    if len(set(top)) != len(top):
        twice = next(doc for place, doc in enumerate(top) if doc in top[:place])
        raise DuplicateIdError(f"Document {twice!r} occurs twice in one ranking.")
    relevant = {doc: relevance for doc, relevance in judgements.items() if relevance > 0}
    if not relevant:
        raise InputError(
            "No document is judged relevant, so the metric is not defined for this query: "
            "leave the query out."
        )
    return top, relevant
