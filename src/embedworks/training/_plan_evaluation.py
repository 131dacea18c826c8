"""What a plan's models are measured on: held-out questions, and scored pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedworks._core.seeding import generator
from embedworks.data import RowSet, content_key, holdout_pairs
from embedworks.data.templates import TaskPrompts
from embedworks.evaluation import evaluate_run, evaluate_sts, paired_difference, parse_metric
from embedworks.index import ExactIndex
from embedworks.training._plan_rows import encode_inputs
from embedworks.training.sources import document_chunks, existing

if TYPE_CHECKING:
    from embedworks.training.plan import PlanSettings

__all__ = ["HeldOut", "held_out", "measure"]

_DEPTH = 100


@dataclass(frozen=True)
class HeldOut:
    """Questions with their answers among a corpus, and scored pairs; either may be empty.

    Attributes:
        questions: Q texts.
        relevant: Per question the positions of its answers in the corpus.
        corpus: M texts.
        pairs: (text, text, score).
    """

    questions: list[Any]
    relevant: list[set[int]]
    corpus: list[Any]
    pairs: list[tuple[str, str, float]]

    @property
    def texts(self) -> list[str]:
        """Texts that must not be trained on: questions, and scored pairs."""
        asked = [q for q in self.questions if isinstance(q, str)]
        return asked + [text for pair in self.pairs for text in pair[:2]]


def held_out(plan: PlanSettings, *, data_root: Path) -> HeldOut:
    """Return what a plan is measured on.

    Raises:
        NotFoundError: When a file is not there.
        EmptyInputError: When nothing can be asked.
    """
    wanted = plan.evaluation
    questions: list[Any] = []
    relevant: list[set[int]] = []
    corpus: list[Any] = []
    if wanted.documents is not None:
        chunks = document_chunks(
            wanted.documents,
            data_root=data_root,
            part="test",
            holdout=plan.holdout,
            seed=plan.seed,
            files=wanted.files,
        )
        place = {chunk.chunk_id: number for number, chunk in enumerate(chunks)}
        corpus = [chunk.embedding_text for chunk in chunks]
        for pair in holdout_pairs(chunks, seed=plan.seed):
            corpus[place[pair.chunk_id]] = pair.positive
            questions.append(pair.anchor)
            relevant.append({place[pair.chunk_id]})
    elif wanted.rows is not None:
        questions, relevant, corpus = _from_rows(RowSet.load(existing(data_root / wanted.rows)))
    return _sampled(plan, questions, relevant, corpus, _scored_pairs(plan, data_root))


def _from_rows(rows: RowSet) -> tuple[list[Any], list[set[int]], list[Any]]:
    places: dict[int, int] = {}
    corpus: list[Any] = []
    asked: dict[int, int] = {}
    questions: list[Any] = []
    relevant: list[set[int]] = []
    for row in rows:
        for value in (row.positive, *row.negatives):
            if (key := content_key(value)) not in places:
                places[key] = len(corpus)
                corpus.append(value)
        key = content_key(row.anchor)
        if key not in asked:
            asked[key] = len(questions)
            questions.append(row.anchor)
            relevant.append(set())
        relevant[asked[key]].add(places[content_key(row.positive)])
    return questions, relevant, corpus


def _scored_pairs(plan: PlanSettings, data_root: Path) -> list[tuple[str, str, float]]:
    from embedworks.data.conversion import read_records

    if plan.evaluation.sts is None:
        return []
    first, second, score = plan.evaluation.sts_columns
    records = read_records(
        existing(data_root / plan.evaluation.sts),
        columns=[first, second, score],
        where=plan.evaluation.sts_where or None,
    )
    return [(str(r[first]), str(r[second]), float(r[score])) for r in records]


def _sampled(
    plan: PlanSettings,
    questions: list[Any],
    relevant: list[set[int]],
    corpus: list[Any],
    pairs: list[tuple[str, str, float]],
) -> HeldOut:
    """Keep within the limits: a seeded sample of the questions, their answers, other texts."""
    wanted = plan.evaluation
    if len(questions) > wanted.max_queries:
        order = generator(plan.seed, "evaluation").permutation(len(questions))
        kept = sorted(int(i) for i in order[: wanted.max_queries])
        questions, relevant = [questions[i] for i in kept], [relevant[i] for i in kept]
    if len(corpus) > wanted.max_corpus:
        needed = set().union(*relevant) if relevant else set()
        rest = [i for i in range(len(corpus)) if i not in needed]
        order = generator(plan.seed, "corpus").permutation(len(rest))
        extra = [rest[int(i)] for i in order[: max(0, wanted.max_corpus - len(needed))]]
        used = sorted([*needed, *extra])
        place = {old: new for new, old in enumerate(used)}
        corpus = [corpus[i] for i in used]
        relevant = [{place[i] for i in positions} for positions in relevant]
    return HeldOut(questions, relevant, corpus, pairs)


def measure(model: Any, task: HeldOut, plan: PlanSettings) -> dict[str, Any]:
    """Return the metrics of a model: per metric mean, interval and values per question."""
    wanted = plan.evaluation
    found: dict[str, Any] = {}
    if task.questions:
        prompts = plan.model.task_prompts()
        questions, corpus = _prompted(task, prompts, wanted.source)
        index = ExactIndex(encode_inputs(model, corpus))
        ids, scores = index.search(encode_inputs(model, questions), _DEPTH, allow_zero=True)
        run = {
            str(q): {str(d): float(s) for d, s in zip(ids[q], scores[q], strict=True)}
            for q in range(len(questions))
        }
        qrels = {str(q): {str(d): 1 for d in docs} for q, docs in enumerate(task.relevant)}
        result = evaluate_run(
            run, qrels, metrics=wanted.metrics, confidence=wanted.confidence, seed=plan.seed
        )
        found["retrieval"] = {
            "questions": result.n,
            "corpus": len(task.corpus),
            "metrics": {
                name: {
                    **result.intervals[name].to_dict(),
                    "values": [round(value, 6) for value in result.values[name]],
                }
                for name in result.metrics
            },
        }
    if task.pairs:
        scored = evaluate_sts(
            _Encoder(model), task.pairs, confidence=wanted.confidence, n_resamples=500
        )
        found["sts"] = scored.spearman.to_dict()
    return found


def gains(before: dict[str, Any], after: dict[str, Any], plan: PlanSettings) -> dict[str, Any]:
    """Return the paired difference of every retrieval metric, after minus before."""
    if "retrieval" not in before:
        return {}
    old, new = (one["retrieval"]["metrics"] for one in (before, after))
    return {
        name: paired_difference(
            new[name]["values"],
            old[name]["values"],
            confidence=plan.evaluation.confidence,
            seed=plan.seed,
        ).to_dict()
        for name in (parse_metric(m).label for m in plan.evaluation.metrics)
    }


def _prompted(
    task: HeldOut, prompts: TaskPrompts | None, source: str | None
) -> tuple[Sequence[Any], Sequence[Any]]:
    if prompts is None or source is None:
        return task.questions, task.corpus
    prompt = prompts[source]

    def shown(value: Any, side: str) -> Any:
        return prompt.format(value, side).text if isinstance(value, str) else value

    return (
        [shown(q, "query") for q in task.questions],
        [shown(d, "document") for d in task.corpus],
    )


class _Encoder:
    def __init__(self, model: Any) -> None:
        self._model = model

    def encode(self, texts: Sequence[str]) -> Any:
        return encode_inputs(self._model, texts)
