"""Fine-tune a transformer on text pairs in sentence-transformers' own trainer.

Knows nothing about documents or runs: lists of texts in, a trained model and its losses out.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedworks._core.extras import require_extra
from embedworks._core.seeding import derive_seed
from embedworks.errors import EmptyInputError, ShapeError
from embedworks.training.settings import TransformerSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from embedworks.losses import ContrastiveLoss

__all__ = ["measure_step_seconds", "train_transformer"]

#: Tokens embedded at a time in training, padding included.
_TOKENS_PER_PACK = 2048

#: Files a checkpoint needs to be resumed from; one that lacks any was cut short by a kill.
_CHECKPOINT_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def train_transformer(
    model: SentenceTransformer,
    anchors: Sequence[str],
    positives: Sequence[str],
    negatives: Sequence[str] | None = None,
    *,
    steps: int,
    settings: TransformerSettings,
    checkpoints: Path,
    seed: int = 0,
    show_progress: bool | None = None,
) -> list[dict[str, float]]:
    """Train ``model`` in place with in-batch negatives and one hard negative per pair.

    An interrupted training goes on from the last whole checkpoint in ``checkpoints`` and ends
    with the weights it would have had without the interruption.

    Args:
        model: The model to train.
        anchors: N texts.
        positives: N texts, the answers.
        negatives: N texts, one hard negative each, or None.
        steps: Optimiser steps.
        settings: Batch size, learning rate, temperature, length.
        checkpoints: Folder for checkpoints; about five are written, two are kept.
        seed: Order of the pairs and dropout.
        show_progress: None shows a bar on a terminal.

    Returns:
        ``[{"step": ..., "loss": ...}, ...]``, about fifty entries.

    Raises:
        EmptyInputError: When there are no pairs.
        ShapeError: When the lists differ in length.
        MissingExtraError: When the ``train`` extra is not installed.
    """
    st = require_extra("sentence_transformers", extra="train", purpose="train a transformer")
    datasets = require_extra("datasets", extra="train", purpose="train a transformer")
    if not anchors:
        raise EmptyInputError("There are no training pairs.")
    columns = {"anchor": list(anchors), "positive": list(positives)}
    if negatives is not None:
        columns["negative"] = list(negatives)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ShapeError(f"Every column needs one text per pair, got {lengths}.")

    checkpoints.mkdir(parents=True, exist_ok=True)
    last = _last_whole_checkpoint(checkpoints)
    arguments = st.SentenceTransformerTrainingArguments(
        output_dir=str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=min(settings.batch_size, len(anchors)),
        learning_rate=settings.learning_rate,
        warmup_steps=round(settings.warmup_share * steps),
        batch_sampler="no_duplicates",
        logging_steps=max(1, steps // 50),
        logging_first_step=True,
        save_strategy="steps",
        save_steps=max(1, steps // 5),
        save_total_limit=2,
        seed=derive_seed(seed, "transformer") % 2**31,
        report_to=[],
        disable_tqdm=show_progress is False,
        dataloader_pin_memory=False,
    )
    limit = model.max_seq_length
    model.max_seq_length = min(settings.max_tokens, limit or settings.max_tokens)
    try:
        trainer = st.SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=datasets.Dataset.from_dict(columns),
            loss=_loss(model, settings),
            callbacks=[],
        )
        _quiet(trainer, show=show_progress)
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    finally:
        model.max_seq_length = limit
    return [
        {"step": int(entry["step"]), "loss": float(entry["loss"])}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


def measure_step_seconds(
    model: SentenceTransformer,
    anchors: Sequence[str],
    positives: Sequence[str],
    negatives: Sequence[str] | None = None,
    *,
    settings: TransformerSettings,
    repeats: int = 2,
) -> float:
    """Time forward and backward of one training batch, leaving the model as it was.

    Args:
        model: The model to time; its weights are not changed.
        anchors: Texts of one batch; more than a batch are cut off, fewer are repeated.
        positives: As ``anchors``.
        negatives: As ``anchors``, or None.
        settings: Batch size and length.
        repeats: Batches timed after one that warms up.

    Returns:
        Mean seconds per step, with a tenth added for the optimiser.
    """
    require_extra("sentence_transformers", extra="train", purpose="train a transformer")
    columns = [list(c) for c in (anchors, positives, negatives) if c is not None]
    size = settings.batch_size
    batch = [(column * (size // len(column) + 1))[:size] for column in columns]
    loss = _loss(model, settings)
    limit = model.max_seq_length
    model.max_seq_length = min(settings.max_tokens, limit or settings.max_tokens)
    model.train()
    try:
        features = [
            {
                key: value.to(model.device) if hasattr(value, "to") else value
                for key, value in model.preprocess(texts).items()
            }
            for texts in batch
        ]
        seconds = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            loss([dict(feature) for feature in features], None).backward()
            model.zero_grad(set_to_none=True)
            seconds.append(time.perf_counter() - start)
    finally:
        model.max_seq_length = limit
        model.eval()
    return 1.1 * sum(seconds[1:]) / repeats


def _loss(model: SentenceTransformer, settings: TransformerSettings) -> ContrastiveLoss:
    """Return the objective; texts of similar length are embedded together."""
    from embedworks.losses import ContrastiveLoss

    return ContrastiveLoss(
        model, temperature=settings.temperature, mini_batch_tokens=_TOKENS_PER_PACK
    )


def _last_whole_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end; remove those that were not."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path in reversed(found):
        if all((path / name).is_file() for name in _CHECKPOINT_FILES):
            return path
        shutil.rmtree(path)
    return None


def _quiet(trainer: Any, *, show: bool | None) -> None:
    """Keep the trainer from printing its log lines; the bar stays on a terminal."""
    import sys

    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    trainer.remove_callback(PrinterCallback)
    if show is False or (show is None and not sys.stderr.isatty()):
        trainer.remove_callback(ProgressCallback)
