"""Second and third stage: the plan with measured speeds, then filtered pairs with negatives."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedworks._core.seeding import generator
from embedworks.index import BM25Index
from embedworks.negatives import mine_hard_negatives
from embedworks.training._adapt_job import save_vectors
from embedworks.training._adapt_read import write_table
from embedworks.training.budget import Plan, PlanStep, parse_duration, plan_training_steps

if TYPE_CHECKING:
    from embedworks.training._adapt_job import Job

__all__ = ["plan_stage", "prepare_stage"]

_TIMED_PAIRS = 20_000  # pairs whose tokens are in the table while a step is timed
_SAMPLE = 96  # texts encoded to measure a transformer's speed
_STATIC_SAMPLE = 5_000  # a static model is so fast that fewer would measure the start
# What the stages cost beside encoding and training, as a share of the seconds that reading took:
# both grow with the documents and with the machine's load. Measured on 1,800 to 22,000 chunks.
_MINE, _MERGE, _EVALUATE, _FINISH = 1.0, 0.2, 0.7, 0.6


def plan_stage(job: Job) -> dict[str, Any]:
    """Measure encoding and training speed, and fit the training into the budget."""
    start = time.perf_counter()
    settings = job.settings
    reading = job.run.stage_seconds
    texts = job.chunks["search_text"].to_pylist()
    pairs = pq.read_table(job.run.work / "pairs.parquet", columns=["anchor", "positive"])
    tokens = np.minimum(job.count_tokens(texts), job.token_limit)
    speed = _encoding_speed(job, texts, tokens)
    questions = job.run.info("read")["questions"]

    corpus = float(tokens.sum())
    per_chunk = corpus / len(texts)
    encode = corpus / speed
    validation = min(len(texts), settings.merge.max_corpus if not job.is_static else len(texts))
    weights = len(job.merge_weights)
    passes = 1 if job.is_static else weights + 1  # static vectors are mixed, not encoded again
    merge = passes * (validation * per_chunk) / speed + _MERGE * reading
    evaluate = encode + 2 * questions["test"] * per_chunk / speed + _EVALUATE * reading
    finish = _FINISH * reading

    seconds_per_step, batch = _step_seconds(job, pairs)
    epochs = settings.static.epochs if job.is_static else settings.transformer.epochs
    wanted = max(1, round(epochs * len(pairs) / batch))
    anchors = float(np.mean(job.count_tokens(pairs["anchor"].to_pylist()[:500])))
    mine = encode + min(len(pairs), wanted * batch) * anchors / speed + _MINE * reading
    spent = reading + time.perf_counter() - start
    budget = parse_duration(settings.budget)
    available = budget - spent - mine - merge - evaluate - finish
    steps = plan_training_steps(
        available=available,
        seconds_per_step=seconds_per_step,
        wanted=wanted,
        least=min(wanted, 10),
    )
    plan = Plan(
        budget_seconds=budget,
        spent_seconds=spent,
        steps=[
            PlanStep("encode and mine", f"{len(texts)} chunks, {int(corpus)} tokens", mine),
            PlanStep(
                "train",
                f"{steps} steps of {batch} pairs ({steps * batch / len(pairs):.1f} epochs of "
                f"{len(pairs)} pairs)",
                steps * seconds_per_step,
            ),
            PlanStep("merge", f"{weights} weights on {validation} chunks", merge),
            PlanStep("evaluate", f"{questions['test']} held-out questions", evaluate),
            PlanStep("index and report", f"{len(texts)} chunks", finish),
        ],
    )
    return {
        "plan": plan.to_dict(),
        "steps": steps,
        "batch": batch,
        "tokens_per_second": round(speed),
        "seconds_per_step": seconds_per_step,
        "tokens": int(corpus),
    }


def _encoding_speed(job: Job, texts: list[str], tokens: np.ndarray) -> float:
    """Return tokens per second, measured after a warm-up that brings every kernel in."""
    if job.is_static:
        job.base.encode(texts[:_STATIC_SAMPLE])
        size = _STATIC_SAMPLE
    else:
        size = _SAMPLE
        job.encode(job.base, texts[:8])
    rows = generator(job.settings.seed, "speed").permutation(len(texts))[:size]
    sample = [texts[row] for row in rows]
    start = time.perf_counter()
    job.encode(job.base, sample)
    return float(tokens[rows].sum()) / max(time.perf_counter() - start, 1e-6)


def _step_seconds(job: Job, pairs: pa.Table) -> tuple[float, int]:
    """Time a training step on real pairs with random negatives: the work is the same."""
    settings = job.settings
    if job.is_static:
        from embedworks.training._adapt_train import static_trainer

        batch = min(settings.static.batch_size, len(pairs))
        # Many pairs, although few are used: a step's cost grows with the tokens that occur.
        rows = generator(settings.seed, "steps").permutation(len(pairs))[:_TIMED_PAIRS]
        texts = job.chunks["search_text"].take(rows % len(job.chunks)).to_pylist()
        chosen = pairs.take(rows)
        times: list[float] = []
        trainer, data = static_trainer(
            job,
            chosen["anchor"].to_pylist(),
            chosen["positive"].to_pylist(),
            [texts] * settings.negatives.count,
            np.ones(len(rows), dtype=np.float32),
        )
        trainer.fit_contrastive(
            **data, steps=6, on_step=lambda *_: times.append(time.perf_counter())
        )
        return max(float(np.median(np.diff(times))), 1e-4), batch
    from embedworks.training.transformer import measure_step_seconds

    batch = min(settings.transformer.batch_size, len(pairs))
    chosen = pairs.take(generator(settings.seed, "steps").permutation(len(pairs))[:batch])
    positives = chosen["positive"].to_pylist()
    return (
        measure_step_seconds(
            job.base,
            chosen["anchor"].to_pylist(),
            positives,
            positives,
            settings=settings.transformer,
        ),
        batch,
    )


def prepare_stage(job: Job) -> dict[str, Any]:
    """Encode the chunks, drop pairs nobody can retrieve, and mine hard negatives.

    Leaves ``base_vectors.npy`` (M, D) and ``training.parquet``: anchor, positive, weight and the
    chunk positions of the negatives of each kept pair.
    """
    settings = job.settings
    texts = job.chunks["search_text"].to_pylist()
    pairs = _as_many_as_needed(job, pq.read_table(job.run.work / "pairs.parquet"))
    vectors = job.encode(job.base, texts)
    anchors = pairs["anchor"].to_pylist()
    positives = np.array([job.positions[name] for name in pairs["chunk_id"].to_pylist()])
    groups = pa.compute.dictionary_encode(job.chunks["doc_id"]).combine_chunks().indices
    mined = mine_hard_negatives(
        job.encode(job.base, anchors),
        vectors,
        positives,
        groups=_groups(groups.to_numpy(), texts),
        count=settings.negatives.count if job.is_static else 1,
        depth=settings.negatives.depth,
        margin=settings.negatives.margin,
    )
    limit = settings.pairs.round_trip_rank
    kept = mined.positive_ranks <= limit
    doubtful = np.flatnonzero(~kept)
    if len(doubtful):
        lexical = BM25Index.build(texts)
        for row, (found, _) in zip(
            doubtful, lexical.search([anchors[i] for i in doubtful], limit), strict=True
        ):
            kept[row] = positives[row] in found
    dropped = pa.compute.value_counts(pairs["source"].filter(pa.array(~kept)))
    save_vectors(job.run.work / "base_vectors.npy", vectors)
    training = pairs.select(["anchor", "positive", "source", "weight"]).append_column(
        "negatives", pa.array(list(mined.positions), pa.list_(pa.int64()))
    )
    write_table(training.filter(pa.array(kept)), job.run.work / "training.parquet")
    return {
        "mining": mined.to_dict(),
        "pairs_considered": len(pairs),
        "pairs_kept": int(kept.sum()),
        "dropped_by_source": {row["values"]: row["counts"] for row in dropped.to_pylist()},
    }


def _as_many_as_needed(job: Job, pairs: pa.Table) -> pa.Table:
    """Sample by weight, without replacement, the pairs the planned steps can use.

    Static models use every pair: encoding them costs next to nothing.
    """
    plan = job.run.info("plan")
    needed = plan["steps"] * plan["batch"]
    if job.is_static or needed >= len(pairs):
        return pairs
    weights = pairs["weight"].to_numpy().astype(np.float64)
    keys = generator(job.settings.seed, "subset").random(len(pairs)) ** (1 / weights)
    # A tenth more than needed, for what the round trip is going to drop.
    chosen = np.sort(np.argsort(-keys)[: round(1.1 * needed)])
    return pairs.take(chosen)


def _groups(documents: np.ndarray, texts: list[str]) -> np.ndarray:
    """Give chunks of one document the same group, and so documents that share a text."""
    first: dict[str, int] = {}
    parent = np.arange(int(documents.max()) + 1)

    def root(group: int) -> int:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    for group, text in zip(documents.tolist(), texts, strict=True):
        other = first.setdefault(text, group)
        if other != group:
            parent[root(group)] = root(other)
    return np.array([root(group) for group in documents.tolist()])
