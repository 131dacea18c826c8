"""Score rankings against judgements, with intervals, and compare systems query by query."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from embedworks._core.validation import check_k
from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation._records import check_keys
from embedworks.evaluation.kinds._judged import check_told_apart, usable_judgements
from embedworks.evaluation.outcomes import Failure, Resampling, Score, TaskResult, shorten
from embedworks.evaluation.statistics.intervals import (
    Difference,
    Interval,
    bootstrap_interval,
    paired_difference,
)
from embedworks.evaluation.statistics.metrics import Metric, parse_metric, rank_documents

if TYPE_CHECKING:
    from embedworks.evaluation.systems import Ranks

__all__ = [
    "DEFAULT_METRICS",
    "Comparison",
    "Qrels",
    "RetrievalResult",
    "RetrievalTask",
    "Run",
    "chunk_run_to_doc_run",
    "compare_runs",
    "evaluate_run",
]

#: Judgements: query id -> document id -> relevance (0 is not relevant).
Qrels = Mapping[str, Mapping[str, int]]
#: Scores of one system: query id -> document id -> score, higher is better.
Run = Mapping[str, Mapping[str, float]]

DEFAULT_METRICS = ("ndcg@10", "recall@10", "mrr@10")


@dataclass(frozen=True)
class RetrievalTask:
    """A judged collection: queries, the documents to search, and which are relevant.

    Judgements of queries that are not in ``queries`` are left out of `qrels`; judged documents
    that are not in ``corpus`` stay, because nothing can find them and the scores should say so.
    Both are counted in a `DataWarning`.

    Args:
        name: Name for tables, such as ``"cranfield"``.
        queries: Query id -> text.
        corpus: Document id -> text, or only the ids.
        qrels: Query id -> document id -> relevance.
        metrics: What `run` computes, the main metric first.
        instruction: What the task is, for systems that read instructions.
        candidates: Query id -> the only documents to rank for it; the task is then a reranking.
        depth: Documents ranked for each query.

    Raises:
        EmptyInputError: When there are no queries, documents, or judgements of known queries.
        InputError: When none of the judged documents is in the corpus.

    Example:
        >>> task = RetrievalTask("toy", {"q": "cats"}, {"d": "About cats."}, {"q": {"d": 1}})
        >>> task.judged_queries
        ('q',)
    """

    refuses_flat: ClassVar[bool] = True
    """Whether rankings in which nothing is above anything else are an error."""

    name: str
    queries: Mapping[str, str]
    corpus: Mapping[str, str] | Collection[str]
    qrels: Qrels
    metrics: tuple[str, ...] = DEFAULT_METRICS
    instruction: str | None = None
    candidates: Mapping[str, Sequence[str]] | None = None
    depth: int = 100

    def __post_init__(self) -> None:
        _parse_metrics(self.metrics)
        check_k(self.depth)
        for what, value in (("queries", self.queries), ("documents", self.corpus)):
            if not value:
                raise EmptyInputError(f"Task {self.name!r} has no {what}.")
        known = usable_judgements(self.name, self.queries, self.corpus, self.qrels)
        object.__setattr__(self, "qrels", known)

    @property
    def judged_queries(self) -> tuple[str, ...]:
        """Ids of the queries that have a relevant document, in the order of ``queries``."""
        return tuple(query for query in self.queries if _has_relevant(self.qrels.get(query, {})))

    @property
    def kind(self) -> str:
        """``"retrieval"``, or ``"reranking"`` when queries have candidates of their own."""
        return "retrieval" if self.candidates is None else "reranking"

    @property
    def metric(self) -> str:
        """The main metric."""
        return parse_metric(self.metrics[0]).label

    def texts(self) -> list[str]:
        """Return the texts the task uses."""
        return [
            *self.queries.values(),
            *(self.corpus.values() if isinstance(self.corpus, Mapping) else ()),
        ]

    def run(self, system: Ranks, resampling: Resampling) -> TaskResult:
        """Rank the corpus, or each query's candidates, and score the rankings.

        Raises:
            InputError: When the task has only the ids of its documents, or the system has the
                same similarity for all of them: any order would be as good as its own.
        """
        if not isinstance(self.corpus, Mapping):
            raise InputError(f"Task {self.name!r} has no texts of its documents, only their ids.")
        asked = {query: self.queries[query] for query in self.judged_queries}
        run = system.search(
            asked,
            self.corpus,
            k=min(self.depth, len(self.corpus)),
            instruction=self.instruction,
            candidates=self.candidates,
        )
        if self.refuses_flat:
            check_told_apart(run, self.corpus, self.candidates, self.depth, system=system.name)
        return self.score(run, resampling)

    def score(self, run: Run, resampling: Resampling) -> TaskResult:
        """Score rankings that were made elsewhere, as `run` does."""
        result = evaluate_run(run, self.qrels, metrics=self.metrics, **resampling.options())
        excluded = {
            "queries without a relevant document": result.skipped,
            "queries without judgements": sum(query not in self.qrels for query in self.queries),
        }
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores={
                label: Score(result.intervals[label], result.values[label])
                for label in result.metrics
            },
            items=result.query_ids,
            excluded={reason: count for reason, count in excluded.items() if count},
            failures=self._failures(run),
            details={
                "documents": len(self.corpus),
                "instruction": self.instruction,
                "queries_without_results": result.without_results,
            },
        )

    def _failures(self, run: Run) -> tuple[Failure, ...]:
        from embedworks.evaluation.kinds.failures import worst_queries

        texts = self.corpus if isinstance(self.corpus, Mapping) else {}
        titles = {doc: shorten(text) for doc, text in texts.items()}
        worst = worst_queries(run, self.qrels, self.queries, metric=self.metric, titles=titles)
        return tuple(
            Failure(
                item=query.query_id,
                text=shorten(query.text, 400),
                score=query.score,
                expected=tuple(f"{d.title} (rank {d.rank or 'none'})" for d in query.expected),
                found=tuple(f"{d.title} ({d.score:.3f})" for d in query.found),
            )
            for query in worst
        )


@dataclass(frozen=True)
class RetrievalResult:
    """One system's scores on one set of judged queries.

    A query of the judgements for which the system returned nothing scores 0 and counts in
    `without_results`.
    """

    query_ids: tuple[str, ...]
    """The scored queries, sorted."""
    values: Mapping[str, tuple[float, ...]]
    """Metric label -> one value per query, in the order of `query_ids`."""
    intervals: Mapping[str, Interval]
    """Metric label -> mean over the queries with its interval."""
    skipped: int
    """Queries left out because no document is judged relevant for them."""
    without_results: int
    """Scored queries for which the system returned no document."""
    unjudged: int
    """Queries of the run that have no judgements at all; left out."""

    @property
    def n(self) -> int:
        """Number of scored queries."""
        return len(self.query_ids)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metric labels, in the order they were asked for."""
        return tuple(self.values)

    def per_query(self, metric: str) -> dict[str, float]:
        """Return query id -> value of ``metric``.

        Raises:
            InputError: When the metric was not computed.
        """
        label = _known_metric(metric, self.metrics)
        return dict(zip(self.query_ids, self.values[label], strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold; `from_dict` restores it exactly."""
        return {
            "query_ids": list(self.query_ids),
            "values": {metric: list(values) for metric, values in self.values.items()},
            "intervals": {metric: value.to_dict() for metric, value in self.intervals.items()},
            "skipped": self.skipped,
            "without_results": self.without_results,
            "unjudged": self.unjudged,
        }

    @classmethod
    def from_dict(cls, value: object) -> RetrievalResult:
        """Restore what `to_dict` returned.

        Raises:
            FormatError: When keys are unknown or missing.
        """
        names = ["query_ids", "values", "intervals", "skipped", "without_results", "unjudged"]
        record = check_keys(value, names, kind="RetrievalResult")
        return cls(
            query_ids=tuple(record["query_ids"]),
            values={metric: tuple(values) for metric, values in record["values"].items()},
            intervals={k: Interval.from_dict(v) for k, v in record["intervals"].items()},
            skipped=record["skipped"],
            without_results=record["without_results"],
            unjudged=record["unjudged"],
        )


@dataclass(frozen=True)
class Comparison:
    """Several systems on the same queries, with paired differences to the baselines."""

    results: Mapping[str, RetrievalResult]
    """System -> its scores, in the order given."""
    differences: Mapping[str, Mapping[str, Mapping[str, Difference]]]
    """Baseline -> system -> metric label -> system minus baseline."""

    @property
    def systems(self) -> tuple[str, ...]:
        """Names of the systems, in the order given."""
        return tuple(self.results)

    @property
    def baselines(self) -> tuple[str, ...]:
        """Names of the baselines."""
        return tuple(self.differences)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metric labels."""
        return next(iter(self.results.values())).metrics

    @property
    def n(self) -> int:
        """Number of scored queries, the same for every system."""
        return next(iter(self.results.values())).n

    @property
    def confidence(self) -> float:
        """Share of resampled means inside the intervals."""
        first = next(iter(self.results.values()))
        return next(iter(first.intervals.values())).confidence

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold; `from_dict` restores it exactly."""
        return {
            "results": {name: result.to_dict() for name, result in self.results.items()},
            "differences": {
                baseline: {
                    system: {metric: value.to_dict() for metric, value in row.items()}
                    for system, row in rows.items()
                }
                for baseline, rows in self.differences.items()
            },
        }

    @classmethod
    def from_dict(cls, value: object) -> Comparison:
        """Restore what `to_dict` returned.

        Raises:
            FormatError: When keys are unknown or missing.
        """
        record = check_keys(value, ["results", "differences"], kind="Comparison")
        return cls(
            results={k: RetrievalResult.from_dict(v) for k, v in record["results"].items()},
            differences={
                baseline: {
                    system: {metric: Difference.from_dict(item) for metric, item in row.items()}
                    for system, row in rows.items()
                }
                for baseline, rows in record["differences"].items()
            },
        )


def evaluate_run(
    run: Run,
    qrels: Qrels,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> RetrievalResult:
    """Score one system's ranking of documents.

    Args:
        run: Query id -> document id -> score.
        qrels: Query id -> document id -> relevance.
        metrics: Labels for `embedworks.evaluation.parse_metric`.
        confidence: Level of the bootstrap intervals.
        n_resamples: Resamples of the bootstrap.
        seed: Seed of the bootstrap.

    Returns:
        Means with intervals, per-query values, and counts of what was left out.

    Raises:
        EmptyInputError: When no query has a relevant judgement, or no metric is asked for.
        InputError: When run and judgements share no query, or a metric cannot be read.
        NonFiniteError: When a score is NaN.

    Example:
        >>> result = evaluate_run({"q1": {"a": 2.0, "b": 1.0}}, {"q1": {"b": 1}, "q2": {"a": 0}})
        >>> result.intervals["mrr@10"].mean, result.n, result.skipped
        (0.5, 1, 1)
    """
    parsed = _parse_metrics(metrics)
    query_ids = sorted(query for query, docs in qrels.items() if _has_relevant(docs))
    if not query_ids:
        raise EmptyInputError(
            f"None of the {len(qrels)} judged queries has a relevant document: nothing to score."
        )
    if not any(query in run for query in query_ids):
        raise InputError(
            f"The run has results for {len(run)} queries, none of them among the "
            f"{len(query_ids)} judged ones: do both use the same query ids?"
        )
    values: dict[str, list[float]] = {metric.label: [] for metric in parsed}
    for query in query_ids:
        ranked = rank_documents(run.get(query, {}))
        for metric in parsed:
            values[metric.label].append(metric(ranked, qrels[query]))
    return RetrievalResult(
        query_ids=tuple(query_ids),
        values={label: tuple(column) for label, column in values.items()},
        intervals={
            label: bootstrap_interval(
                column, confidence=confidence, n_resamples=n_resamples, seed=seed
            )
            for label, column in values.items()
        },
        skipped=len(qrels) - len(query_ids),
        without_results=sum(not run.get(query) for query in query_ids),
        unjudged=sum(query not in qrels for query in run),
    )


def compare_runs(
    runs: Mapping[str, Run],
    qrels: Qrels,
    *,
    baseline: str | Sequence[str],
    metrics: Sequence[str] = DEFAULT_METRICS,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Score several systems and compare each with the baselines, query by query.

    Args:
        runs: System name -> run.
        qrels: Query id -> document id -> relevance.
        baseline: One or more names from ``runs``.
        metrics: Labels for `embedworks.evaluation.parse_metric`.
        confidence: Level of all intervals.
        n_resamples: Resamples of the bootstrap and of the randomisation test.
        seed: Seed of the resampling.

    Raises:
        InputError: When a baseline is not among the runs; otherwise as `evaluate_run`.

    Example:
        >>> qrels = {"q1": {"a": 1}, "q2": {"b": 1}}
        >>> good = {"q1": {"a": 1.0}, "q2": {"b": 1.0}}
        >>> weak = {"q1": {"a": 1.0}, "q2": {"c": 1.0}}
        >>> table = compare_runs({"good": good, "weak": weak}, qrels, baseline="weak")
        >>> table.differences["weak"]["good"]["mrr@10"].mean
        0.5
    """
    baselines = (baseline,) if isinstance(baseline, str) else tuple(baseline)
    for name in baselines:
        if name not in runs:
            raise InputError(f"Baseline {name!r} is not among the runs: {', '.join(runs)}.")
    settings: dict[str, Any] = {
        "confidence": confidence,
        "n_resamples": n_resamples,
        "seed": seed,
    }
    results = {
        name: evaluate_run(run, qrels, metrics=metrics, **settings) for name, run in runs.items()
    }
    differences = {
        base: {
            name: {
                label: paired_difference(
                    result.values[label], results[base].values[label], **settings
                )
                for label in result.metrics
            }
            for name, result in results.items()
            if name != base
        }
        for base in baselines
    }
    return Comparison(results, differences)


def chunk_run_to_doc_run(run: Run, chunk_to_doc: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Turn scores of chunks into scores of documents: a document has its best chunk's score.

    Args:
        run: Query id -> chunk id -> score.
        chunk_to_doc: Chunk id -> document id.

    Raises:
        InputError: When a chunk has no document.

    Example:
        >>> chunk_run_to_doc_run({"q": {"d1#0": 0.2, "d1#1": 0.9}}, {"d1#0": "d1", "d1#1": "d1"})
        {'q': {'d1': 0.9}}
    """
    documents: dict[str, dict[str, float]] = {}
    for query, chunks in run.items():
        best: dict[str, float] = {}
        for chunk, score in chunks.items():
            doc = chunk_to_doc.get(chunk)
            if doc is None:
                raise InputError(f"Chunk {chunk!r} of query {query!r} is not in chunk_to_doc.")
            # A NaN must reach the ranking, which refuses it, and not lose the comparison here.
            if doc not in best or score > best[doc] or score != score:
                best[doc] = score
        documents[query] = best
    return documents


def _has_relevant(docs: Mapping[str, int]) -> bool:
    return any(relevance > 0 for relevance in docs.values())


def _parse_metrics(metrics: Sequence[str]) -> list[Metric]:
    if isinstance(metrics, str):
        raise InputError(f"metrics must be a list such as ['ndcg@10'], got the string {metrics!r}.")
    parsed = list(dict.fromkeys(parse_metric(text) for text in metrics))
    if not parsed:
        raise EmptyInputError("metrics is empty: name at least one, such as 'ndcg@10'.")
    return parsed


def _known_metric(metric: str, computed: Sequence[str]) -> str:
    label = parse_metric(metric).label
    if label not in computed:
        raise InputError(f"Metric {label!r} was not computed; computed: {', '.join(computed)}.")
    return label
