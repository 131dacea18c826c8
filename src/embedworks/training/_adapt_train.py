"""Training and merging: the stages that make the adapted model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from embedworks._core.devices import cpu_count
from embedworks._core.files import atomic_directory
from embedworks._core.progress import progress
from embedworks._core.seeding import generator
from embedworks._core.validation import normalize_rows
from embedworks.errors import NotFoundError
from embedworks.evaluation import evaluate_run, paired_difference
from embedworks.index import topk
from embedworks.merging import linear
from embedworks.models import StaticModel, load, save

if TYPE_CHECKING:
    from embedworks.training._adapt_job import Job
    from embedworks.training.static_table import StaticTableTrainer

__all__ = ["dense_run", "merge_stage", "static_trainer", "train_stage"]

#: How deep rankings go when they are scored.
DEPTH = 100


# -- training ---------------------------------------------------------------------------------


def train_stage(job: Job) -> dict[str, Any]:
    """Train the base on the prepared pairs; leaves the model in ``work/adapted``."""
    table = pq.read_table(job.run.work / "training.parquet")
    texts = job.chunks["search_text"].to_pylist()
    anchors, positives = table["anchor"].to_pylist(), table["positive"].to_pylist()
    negatives = np.stack(table["negatives"].to_numpy(zero_copy_only=False))
    steps = job.run.info("plan")["steps"]
    if job.is_static:
        adapted, losses = _train_static(
            job,
            anchors,
            positives,
            [[texts[i] if i >= 0 else "" for i in column] for column in negatives.T],
            table["weight"].to_numpy(),
            steps,
        )
    else:
        adapted, losses = _train_transformer(job, anchors, positives, negatives, texts, steps)
    with atomic_directory(job.run.work / "adapted") as folder:
        save(adapted, folder)
    return {"steps": steps, "losses": losses}


def static_trainer(
    job: Job,
    anchors: Sequence[str],
    positives: Sequence[str],
    negatives: Sequence[Sequence[str]],
    weights: np.ndarray,
) -> tuple[StaticTableTrainer, dict[str, Any]]:
    """Build the trainer of a static base, and its data as token ids.

    Args:
        job: The adaptation.
        anchors: N texts.
        positives: N texts.
        negatives: K columns of N texts; an empty text stands for none.
        weights: (N,) weights of the pairs.
    """
    from embedworks.training.static_table import (
        RaggedIds,
        StaticTableTrainer,
        StaticTrainingSettings,
    )

    settings = job.settings.static
    trainer = StaticTableTrainer(
        job.base.table,
        StaticTrainingSettings(
            learning_rate=settings.learning_rate,
            batch_size=settings.batch_size,
            temperature=settings.temperature,
            anchor_strength=settings.anchor_strength,
            seed=job.settings.seed,
            threads=min(2, cpu_count()),
        ),
    )

    def ids(texts: Sequence[str]) -> RaggedIds:
        return RaggedIds(*job.base.tokenize(list(texts)))

    sides = [ids(anchors), ids(positives)]
    usable = np.flatnonzero((sides[0].lengths > 0) & (sides[1].lengths > 0))
    interleaved = [column[row] for row in usable.tolist() for column in negatives]
    return trainer, {
        "anchors": sides[0].take(usable),
        "positives": sides[1].take(usable),
        "negatives": ids(interleaved) if interleaved else None,
        "weights": weights[usable],
    }


def _train_static(
    job: Job,
    anchors: list[str],
    positives: list[str],
    negatives: list[list[str]],
    weights: np.ndarray,
    steps: int,
) -> tuple[StaticModel, list[dict[str, float]]]:
    trainer, data = static_trainer(job, anchors, positives, negatives, weights)
    checkpoints = job.run.work / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    try:
        start = trainer.resume(checkpoints)
    except NotFoundError:
        start = 0
    losses: list[dict[str, float]] = []
    every = max(1, steps // 50)
    with progress("Training", steps, enabled=job.show_progress) as bar:
        bar.advance(start)

        def on_step(step: int, loss: float) -> None:
            bar.advance()
            if step % every == 0 or step == steps - 1:
                losses.append({"step": step + 1, "loss": round(loss, 5)})

        trainer.fit_contrastive(
            **data,
            steps=steps,
            start_step=start,
            on_step=on_step,
            checkpoint_every=max(10, steps // 5),
            checkpoint_dir=checkpoints,
        )
    return job.base.with_table(trainer.table), losses


def _train_transformer(
    job: Job,
    anchors: list[str],
    positives: list[str],
    negatives: np.ndarray,
    texts: list[str],
    steps: int,
) -> tuple[Any, list[dict[str, float]]]:
    from embedworks.training.transformer import train_transformer

    # A pair for which no negative was found gets a random chunk: the trainer needs one each.
    random = generator(job.settings.seed, "fallback").integers(len(texts), size=len(anchors))
    chosen = np.where(negatives[:, 0] >= 0, negatives[:, 0], random)
    model = copy.deepcopy(job.base)
    losses = train_transformer(
        model,
        anchors,
        positives,
        [texts[i] for i in chosen],
        steps=steps,
        settings=job.settings.transformer,
        checkpoints=job.run.work / "checkpoints",
        seed=job.settings.seed,
        show_progress=job.show_progress,
    )
    return model, losses


# -- merging ----------------------------------------------------------------------------------


def merge_stage(job: Job) -> dict[str, Any]:
    """Choose how much of the adapted model to keep, on validation; leaves ``final/model``.

    The best weight is taken only when its gain over the base is above zero with the confidence
    asked for. Otherwise the base is kept as it is.
    """
    settings = job.settings
    adapted = load(str(job.run.work / "adapted"))
    weight, curve, verdict = _choose_weight(job, adapted)
    with atomic_directory(job.run.part("model")) as folder:
        save(_interpolate(job.base, adapted, weight), folder)
    return {"weight": weight, "metric": settings.merge.metric, "curve": curve, "verdict": verdict}


def _choose_weight(job: Job, adapted: Any) -> tuple[float, list[dict[str, float]], str]:
    settings = job.settings.merge
    questions = job.holdout("validation")
    if not len(questions):
        return 0.0, [], "No validation questions could be made, so the base is kept."
    queries = questions["anchor"].to_pylist()
    texts, ids, qrels = validation_corpus(job)
    values: dict[float, tuple[float, ...]] = {}
    curve = []
    encoders = _candidate_vectors(job, adapted, queries, texts)
    for weight, query_vectors, vectors in encoders:
        run = dense_run(query_vectors, vectors, ids)
        result = evaluate_run(run, qrels, metrics=[settings.metric], seed=job.settings.seed)
        interval = next(iter(result.intervals.values()))
        values[weight] = next(iter(result.values.values()))
        curve.append(
            {"weight": weight, "mean": interval.mean, "low": interval.low, "high": interval.high}
        )
    best = max(values, key=lambda w: (np.mean(values[w]), -w))
    if best == 0.0:
        return 0.0, curve, "No weight of the adapted model is better on validation: base kept."
    gain = paired_difference(
        values[best], values[0.0], confidence=settings.confidence, seed=job.settings.seed
    )
    figures = (
        f"{settings.metric} {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] on {gain.n} "
        "validation questions"
    )
    if not gain.low > 0:
        return 0.0, curve, f"The gain is within noise ({figures}): base kept."
    return best, curve, f"Weight {best:g} of the adapted model: {figures}."


def validation_corpus(job: Job) -> tuple[list[str], list[str], dict[str, dict[str, int]]]:
    """Return the texts to search, their ids, and the judgements of the validation questions.

    A chunk with a question shows the rest of its text, without the question. Transformers search
    a seeded sample of the other chunks, to keep within the budget.
    """
    questions = job.holdout("validation")
    texts = job.chunks["search_text"].to_pylist()
    names = job.chunks["chunk_id"].to_pylist()
    wanted = questions["chunk_id"].to_pylist()
    rows = np.array([job.positions[name] for name in wanted])
    for row, positive in zip(rows, questions["positive"].to_pylist(), strict=True):
        texts[row] = positive
    limit = job.settings.merge.max_corpus
    if not job.is_static and len(texts) > max(limit, len(rows)):
        others = np.setdiff1d(np.arange(len(texts)), rows)
        extra = generator(job.settings.seed, "validation").choice(
            others, size=max(0, limit - len(rows)), replace=False
        )
        used = np.sort(np.concatenate([rows, extra]))
        texts, names = [texts[i] for i in used], [names[i] for i in used]
    return texts, names, {str(i): {name: 1} for i, name in enumerate(wanted)}


def _candidate_vectors(job: Job, adapted: Any, queries: list[str], texts: list[str]) -> Any:
    """Yield (weight, query vectors, text vectors) for weight 0 and every candidate."""
    weights = sorted({0.0, *job.settings.merge.weights})
    if job.is_static:
        # A static vector is linear in the table, so every weight follows from two encodings.
        sides = [
            [model.encode(side, normalize=False) for side in (queries, texts)]
            for model in (job.base, adapted)
        ]
        for weight in weights:
            mixed = [
                normalize_rows((1 - weight) * base + weight * new)
                for base, new in zip(*sides, strict=True)
            ]
            yield weight, *mixed
        return
    for weight in weights:
        model = _interpolate(job.base, adapted, weight)
        yield weight, job.encode(model, queries), job.encode(model, texts)


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


def dense_run(
    queries: np.ndarray, vectors: np.ndarray, ids: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Search exactly and return the ranking; query i has the id ``str(i)``."""
    found, scores = topk(queries, vectors, DEPTH)
    return {
        str(i): {ids[row]: float(score) for row, score in zip(rows, values, strict=True)}
        for i, (rows, values) in enumerate(zip(found, scores, strict=True))
    }
