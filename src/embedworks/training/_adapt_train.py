"""The stage that trains: static tables in our own loop, transformers in ST's trainer."""

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
from embedworks.errors import NotFoundError
from embedworks.models import StaticModel, save

if TYPE_CHECKING:
    from embedworks.training._adapt_job import Job
    from embedworks.training.static_table import StaticTableTrainer

__all__ = ["static_trainer", "train_stage"]


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
