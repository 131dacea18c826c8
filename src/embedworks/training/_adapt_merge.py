"""What validation decides: how much of the trained model to keep, and how much BM25 counts."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embedworks._core.files import atomic_directory
from embedworks._core.seeding import generator
from embedworks._core.validation import normalize_rows
from embedworks.evaluation import evaluate_run, paired_difference
from embedworks.index import SEARCH_MODES, BM25Index, ExactIndex
from embedworks.index.modes import Queries, Searchable
from embedworks.merging import linear
from embedworks.models import StaticModel, load, save

if TYPE_CHECKING:
    from embedworks.training._adapt_job import Job

__all__ = ["merge_stage", "named_rankings"]

DEPTH = 100  # how deep rankings go when they are scored
# The questions are of the kind the model was trained on, which flatters it: so the share of BM25
# moves by one step at most, and not on the word of a few questions.
_BM25_STEP = 0.15
_BM25_LEAST_QUESTIONS = 100
_BM25_QUESTIONS = 300  # enough to see a difference that matters; each costs two searches a weight


@dataclass(frozen=True)
class _Candidate:
    """The validation questions and texts as one model sees them."""

    weight: float
    queries: np.ndarray
    texts: np.ndarray


@dataclass(frozen=True)
class _Validation:
    """Questions, the texts to search for them, and which text answers which question."""

    queries: list[str]
    texts: list[str]
    ids: list[str]
    qrels: dict[str, dict[str, int]]


def merge_stage(job: Job) -> dict[str, Any]:
    """Choose the final model on validation, and its share against BM25; leaves ``final/model``.

    A weight of the adapted model is taken only when its gain over the base is above zero with
    the confidence asked for; otherwise the base is kept as it is. The share of BM25 moves from
    its default by the same rule.
    """
    adapted = load(str(job.run.work / "adapted"))
    validation = _validation(job)
    decision: dict[str, Any] = {
        "weight": 0.0,
        "metric": job.settings.merge.metric,
        "curve": [],
        "verdict": "No validation questions could be made, so the base is kept.",
        "bm25_weight": job.default_bm25_weight,
        "base_bm25_weight": job.default_bm25_weight,
    }
    if validation.queries:
        chosen, base, curve, verdict = _choose_weight(job, adapted, validation)
        decision |= {"weight": chosen.weight, "curve": curve, "verdict": verdict}
        lexical = BM25Index.build(validation.texts)
        decision["bm25_weight"] = _choose_bm25_weight(job, validation, lexical, chosen)
        decision["base_bm25_weight"] = (
            decision["bm25_weight"]
            if chosen is base
            else _choose_bm25_weight(job, validation, lexical, base)
        )
    with atomic_directory(job.run.part("model")) as folder:
        save(_interpolate(job.base, adapted, decision["weight"]), folder)
    return decision


def _choose_weight(
    job: Job, adapted: Any, validation: _Validation
) -> tuple[_Candidate, _Candidate, list[dict[str, float]], str]:
    """Return the chosen candidate, the base, the whole curve, and why."""
    settings = job.settings.merge
    values: dict[float, np.ndarray] = {}
    curve = []
    base = best = None
    for candidate in _candidates(job, adapted, validation):
        found = ExactIndex(candidate.texts).search(candidate.queries, DEPTH, allow_zero=True)
        result = evaluate_run(
            named_rankings(list(zip(*found, strict=True)), validation.ids),
            validation.qrels,
            metrics=[settings.metric],
            seed=job.settings.seed,
        )
        label = result.metrics[0]
        values[candidate.weight] = np.array(result.values[label])
        interval = result.intervals[label]
        curve.append(
            {
                "weight": candidate.weight,
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
            }
        )
        if base is None:
            base = best = candidate
        elif best and values[candidate.weight].mean() > values[best.weight].mean():
            best = candidate
    assert base is not None  # weight 0 is always a candidate
    assert best is not None
    if best is base:
        return base, base, curve, "No weight of the adapted model is better: base kept."
    gain = paired_difference(
        values[best.weight],
        values[0.0],
        confidence=settings.confidence,
        seed=job.settings.seed,
    )
    figures = (
        f"{settings.metric} {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] on {gain.n} "
        "validation questions"
    )
    if not gain.low > 0:
        return base, base, curve, f"The gain is within noise ({figures}): base kept."
    return best, base, curve, f"Weight {best.weight:g} of the adapted model: {figures}."


def _choose_bm25_weight(
    job: Job, validation: _Validation, lexical: BM25Index, candidate: _Candidate
) -> float:
    """Return the share of BM25 for hybrid search with one model."""
    default = job.default_bm25_weight
    count = len(validation.queries)
    if job.settings.search.bm25_weight is not None or count < _BM25_LEAST_QUESTIONS:
        return default
    picks = generator(job.settings.seed, "bm25 weight").permutation(count)[:_BM25_QUESTIONS]
    queries = Queries([validation.queries[i] for i in picks], candidate.queries[picks])
    qrels = {str(i): validation.qrels[str(pick)] for i, pick in enumerate(picks)}
    dense = ExactIndex(candidate.texts)
    values = {}
    for weight in (default - _BM25_STEP, default, default + _BM25_STEP):
        searchable = Searchable(dense, lexical, replace(job.hybrid, bm25_weight=weight))
        result = evaluate_run(
            named_rankings(
                SEARCH_MODES["hybrid"].run(searchable, queries, DEPTH, None), validation.ids
            ),
            qrels,
            metrics=[job.settings.merge.metric],
            n_resamples=100,
        )
        values[weight] = np.array(result.values[result.metrics[0]])
    best = max(values, key=lambda w: (values[w].mean(), -abs(w - default)))
    gain = paired_difference(
        values[best],
        values[default],
        confidence=job.settings.merge.confidence,
        seed=job.settings.seed,
    )
    return best if gain.low > 0 else default


def _validation(job: Job) -> _Validation:
    """Gather the validation questions.

    A chunk with a question shows the rest of its text, without the question. Transformers search
    a seeded sample of the other chunks, to keep within the budget.
    """
    questions = job.holdout("validation")
    limit = job.settings.merge.max_corpus
    if not job.is_static:
        order = generator(job.settings.seed, "questions").permutation(len(questions))
        questions = questions.take(np.sort(order[: max(1, limit // 3)]))
    texts = job.chunks["search_text"].to_pylist()
    names = job.chunks["chunk_id"].to_pylist()
    wanted = questions["chunk_id"].to_pylist()
    rows = np.array([job.positions[name] for name in wanted], dtype=np.int64)
    for row, positive in zip(rows, questions["positive"].to_pylist(), strict=True):
        texts[row] = positive
    if not job.is_static and len(texts) > max(limit, len(rows)):
        others = np.setdiff1d(np.arange(len(texts)), rows)
        extra = generator(job.settings.seed, "validation").choice(
            others, size=max(0, limit - len(rows)), replace=False
        )
        used = np.sort(np.concatenate([rows, extra]))
        texts, names = [texts[i] for i in used], [names[i] for i in used]
    qrels = {str(i): {name: 1} for i, name in enumerate(wanted)}
    return _Validation(questions["anchor"].to_pylist(), texts, names, qrels)


def _candidates(job: Job, adapted: Any, validation: _Validation) -> Iterator[_Candidate]:
    """Yield weight 0, the base, and then every other weight."""
    weights = sorted({0.0, *job.merge_weights})
    sides = (validation.queries, validation.texts)
    if job.is_static:
        # A static vector is linear in the table, so every weight follows from two encodings.
        encoded = [
            [model.encode(side, normalize=False) for side in sides] for model in (job.base, adapted)
        ]
        for weight in weights:
            queries, texts = (
                normalize_rows((1 - weight) * base + weight * new)
                for base, new in zip(*encoded, strict=True)
            )
            yield _Candidate(weight, queries, texts)
        return
    for weight in weights:
        model = _interpolate(job.base, adapted, weight)
        queries, texts = (job.encode(model, side) for side in sides)
        yield _Candidate(weight, queries, texts)


def _interpolate(base: Any, adapted: Any, weight: float) -> Any:
    """Return ``(1 - weight) * base + weight * adapted``, of the base's kind."""
    if weight == 0.0:
        return base
    shares = (1.0 - weight, weight)
    if isinstance(base, StaticModel):
        return base.with_table(linear([base.table, adapted.table], shares))
    import torch

    merged = copy.deepcopy(base)
    old, new = base.state_dict(), adapted.state_dict()
    merged.load_state_dict(
        {
            name: torch.from_numpy(linear([_array(tensor), _array(new[name])], shares))
            if tensor.is_floating_point()
            else tensor
            for name, tensor in old.items()
        }
    )
    return merged


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().cpu().numpy())


def named_rankings(
    rankings: Sequence[tuple[np.ndarray, np.ndarray]], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Turn rankings of row numbers into a run; query i has the id ``str(i)``."""
    return {
        str(i): {names[row]: float(score) for row, score in zip(rows, scores, strict=True)}
        for i, (rows, scores) in enumerate(rankings)
    }
