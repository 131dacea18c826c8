"""The queries a system answers worst: what was asked, what was expected, what came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from embedworks._core.validation import check_k
from embedworks.evaluation._records import check_keys, flat_from_dict
from embedworks.evaluation.kinds.retrieval import Qrels, Run, evaluate_run
from embedworks.evaluation.statistics.metrics import rank_documents

__all__ = ["ExpectedDocument", "FailedQuery", "FoundDocument", "worst_queries"]


@dataclass(frozen=True)
class ExpectedDocument:
    """A document that is judged relevant."""

    doc_id: str
    relevance: int
    rank: int | None
    """Where the system ranked it, from 1; None when it did not return it."""
    title: str
    """Title to show; the id when no titles were given."""


@dataclass(frozen=True)
class FoundDocument:
    """A document the system returned."""

    doc_id: str
    rank: int
    score: float
    relevance: int
    """Its judged relevance, 0 without a judgement."""
    title: str
    """Title to show; the id when no titles were given."""


@dataclass(frozen=True)
class FailedQuery:
    """A query with a low score, and why."""

    query_id: str
    text: str
    score: float
    """The system's value of the metric."""
    baseline_score: float | None
    """The baseline's value, or None without a baseline."""
    expected: tuple[ExpectedDocument, ...]
    """Relevant documents, most relevant first."""
    found: tuple[FoundDocument, ...]
    """What the system returned, best first."""

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold; `from_dict` restores it exactly."""
        record = asdict(self)
        record["expected"] = list(record["expected"])
        record["found"] = list(record["found"])
        return record

    @classmethod
    def from_dict(cls, value: object) -> FailedQuery:
        """Restore what `to_dict` returned.

        Raises:
            FormatError: When keys are unknown or missing.
        """
        names = ["query_id", "text", "score", "baseline_score", "expected", "found"]
        record = check_keys(value, names, kind="FailedQuery")
        return cls(
            query_id=record["query_id"],
            text=record["text"],
            score=record["score"],
            baseline_score=record["baseline_score"],
            expected=tuple(flat_from_dict(ExpectedDocument, x) for x in record["expected"]),
            found=tuple(flat_from_dict(FoundDocument, x) for x in record["found"]),
        )


def worst_queries(
    run: Run,
    qrels: Qrels,
    queries: Mapping[str, str],
    *,
    baseline: Run | None = None,
    metric: str = "ndcg@10",
    k: int = 10,
    depth: int = 3,
    titles: Mapping[str, str] | None = None,
) -> list[FailedQuery]:
    """List the ``k`` queries a system answers worst; queries with a full score are no failures.

    With a baseline, the largest losses against it come first, then the lowest scores; without
    one, the lowest scores. Equal queries are ordered by id.

    Args:
        run: Scores of the system under study.
        qrels: Judgements; queries without a relevant document are left out.
        queries: Query id -> text.
        baseline: Scores of the system to compare with.
        metric: What "worst" means.
        k: How many queries to list at most.
        depth: How many expected and found documents to list for each query.
        titles: Document id -> title to show.

    Raises:
        InputError: As `embedworks.evaluation.evaluate_run`.

    Example:
        >>> run, qrels = {"q": {"a": 0.9, "b": 0.1}}, {"q": {"b": 1}}
        >>> failure = worst_queries(run, qrels, {"q": "what is b?"}, metric="mrr@10")[0]
        >>> failure.score, failure.expected[0].rank, failure.found[0].doc_id
        (0.5, 2, 'a')
    """
    check_k(k)
    check_k(depth)
    scores = evaluate_run(run, qrels, metrics=[metric], n_resamples=100).per_query(metric)
    before: dict[str, float] = {}
    if baseline is not None:
        before = evaluate_run(baseline, qrels, metrics=[metric], n_resamples=100).per_query(metric)
    names = titles or {}

    def badness(query: str) -> tuple[float, float, str]:
        return scores[query] - before.get(query, scores[query]), scores[query], query

    failed = sorted((query for query, score in scores.items() if score < 1.0), key=badness)[:k]
    listing = []
    for query in failed:
        ranked = rank_documents(run.get(query, {}))
        ranks = {doc: rank for rank, doc in enumerate(ranked, 1)}
        judged = qrels[query]
        relevant = sorted(
            (doc for doc, relevance in judged.items() if relevance > 0),
            key=lambda doc: (-judged[doc], ranks.get(doc, len(ranks) + 1), doc),
        )
        listing.append(
            FailedQuery(
                query_id=query,
                text=queries.get(query, query),
                score=scores[query],
                baseline_score=before.get(query),
                expected=tuple(
                    ExpectedDocument(doc, judged[doc], ranks.get(doc), names.get(doc, doc))
                    for doc in relevant[:depth]
                ),
                found=tuple(
                    FoundDocument(
                        doc, rank, float(run[query][doc]), judged.get(doc, 0), names.get(doc, doc)
                    )
                    for rank, doc in enumerate(ranked[:depth], 1)
                ),
            )
        )
    return listing
