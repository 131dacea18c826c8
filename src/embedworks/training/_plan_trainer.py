"""One stage in sentence-transformers' trainer: batches of the plan, checkpoints that resume.

Knows a model, rows and a stage's settings; nothing of run folders or recipes' scales.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sentence_transformers import (
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from torch import nn
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from embedworks._core.seeding import derive_seed
from embedworks.data import BatchPlan, BatchSettings, RowCollator, RowSet
from embedworks.errors import FormatError, InputError
from embedworks.training._plan_losses import (
    DEFAULT_LOSS,
    build_loss,
    default_mini_batch_tokens,
)
from embedworks.training.callbacks import (
    JournalCallback,
    ObjectiveCallback,
    is_complete,
    load_objective,
)
from embedworks.training.plan_tokens import target_loss

if TYPE_CHECKING:
    from embedworks.training.plan_model import ModelSettings
    from embedworks.training.plan_stage import StageSettings

__all__ = ["StageParts", "last_checkpoint", "make_parts", "train_stage"]

WEIGHTS_FILE = "weights.safetensors"
OPTIMIZER_FILE = "optimizer.pt"

_OPTIMIZERS = {"adamw": "adamw_torch", "adafactor": "adafactor", "sgd": "sgd"}
_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


@dataclass
class StageParts:
    """What a stage trains with, made from its settings and rows.

    Attributes:
        model: The model, adapters added and parts frozen.
        loss: The loss.
        collator: Rows to features.
        batches: Which rows meet in which batch.
        steps: Optimiser steps.
    """

    model: Any
    loss: nn.Module
    collator: RowCollator
    batches: BatchPlan
    steps: int


def make_parts(
    model: Any,
    rows: RowSet,
    stage: StageSettings,
    *,
    settings: ModelSettings,
    seed: int,
    world_size: int = 1,
    guide: Any = None,
    teacher: Any = None,
) -> StageParts:
    """Make everything a stage trains with. The model is changed: adapters, frozen parts.

    Raises:
        InputError: When rows, objective and batches do not fit together.
    """
    batches = stage_batches(model, rows, stage, seed=seed, world_size=world_size)
    steps = stage.steps
    if steps is None:
        assert stage.epochs is not None
        steps = max(1, round(stage.epochs * len(batches)))
    groups = {s: stage.loss_of_source.get(s, "") for s in rows.sources}
    prompts = settings.task_prompts()
    drawn = {
        source: (settings.prompts.get(source) or settings.prompts["*"]).drawn_examples
        for source in rows.sources
        if source in settings.prompts or "*" in settings.prompts
    }
    per_row = stage.negatives.per_row
    wanted = None
    if per_row is not None:
        has = {groups[row.source] for row in rows if row.negatives}
        wanted = {group: per_row if group in has else 0 for group in set(groups.values())}
        if not has:
            raise InputError(
                f"stage {stage.name!r} wants {per_row} negatives per row, but no row has any: "
                "mine some (negatives.mine), or leave per_row out."
            )
    query_tokens = settings.max_query_tokens
    limit = model.max_seq_length
    if query_tokens is not None and limit is not None and math.isfinite(limit):
        query_tokens = min(query_tokens, int(limit))
    collator = RowCollator(
        rows,
        model.preprocess,
        prompts=prompts,
        negatives=wanted,
        groups=groups,
        missing=stage.negatives.missing,
        max_query_tokens=query_tokens,
        count_tokens=_token_counter(model),
        drawn_examples={source: most for source, most in drawn.items() if most},
        seed=seed,
    )
    _add_adapters(model, settings, seed)
    _freeze(model, stage)
    if stage.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if stage.token_targets is not None:
        tokens = stage.mini_batch_tokens or default_mini_batch_tokens(model)
        loss = target_loss(model, rows, stage, tokens)
    else:
        loss = build_loss(
            model, stage, sources=collator.sources, guide=guide, teacher=teacher, seed=seed
        )
    return StageParts(model, loss, collator, batches, steps)


def _token_counter(model: Any) -> Callable[[str], int] | None:
    """Return what counts a text's tokens beyond the model's limit, where its tokenizer can."""
    tokenizer = getattr(model, "tokenizer", None)
    if not callable(tokenizer):
        return None

    def count(text: str) -> int:
        encoded = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)
        return len(encoded["input_ids"])

    return count


def stage_batches(
    model: Any, rows: RowSet, stage: StageSettings, *, seed: int, world_size: int = 1
) -> BatchPlan:
    """Return the batches of a stage; ``model`` is used for clusters only."""
    settings: BatchSettings = stage.batches
    if stage.losses:
        of_source = {s: stage.loss_of_source.get(s, DEFAULT_LOSS) for s in rows.sources}
        sizes = {n: loss.batch_size for n, loss in stage.losses.items() if loss.batch_size}
        settings = settings.replace(losses=of_source, batch_sizes={**settings.batch_sizes, **sizes})
    clusters = None
    if stage.clusters is not None:
        from embedworks._core.validation import normalize_rows
        from embedworks.data import balanced_kmeans
        from embedworks.training._plan_rows import encode_inputs

        vectors = normalize_rows(encode_inputs(model, [row.anchor for row in rows]))
        clusters = balanced_kmeans(vectors, stage.clusters, seed=seed).of_row
    return BatchPlan(
        rows,
        settings,
        seed=derive_seed(seed, "batches", stage.name),
        world_size=world_size,
        clusters=clusters,
    )


def _add_adapters(model: Any, settings: ModelSettings, seed: int) -> None:
    if settings.lora is None:
        return
    import peft

    torch.manual_seed(derive_seed(seed, "adapters") % 2**31)
    targets = settings.lora.targets
    model.add_adapter(
        peft.LoraConfig(
            task_type=peft.TaskType.FEATURE_EXTRACTION,
            r=settings.lora.rank,
            lora_alpha=settings.lora.alpha,
            lora_dropout=settings.lora.dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
        )
    )


def _freeze(model: Any, stage: StageSettings) -> None:
    """Freeze parameters by name.

    Raises:
        InputError: When a pattern fits no parameter, or nothing is left to train.
    """
    for pattern in stage.frozen:
        found = [p for name, p in model.named_parameters() if re.search(pattern, name)]
        if not found:
            names = [name for name, _ in model.named_parameters()]
            raise InputError(
                f"frozen: {pattern!r} fits no parameter; there are {len(names)}, such as "
                f"{names[:: max(1, len(names) // 5)]}."
            )
        for parameter in found:
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError(f"stage {stage.name!r} freezes every parameter: nothing is left to train.")


class _StepSampler:
    """The batches of all steps as one epoch, so that a step is the same at any resumption."""

    drop_last = False

    def __init__(self, plan: BatchPlan, steps: int) -> None:
        self.plan, self.steps = plan, steps

    def __len__(self) -> int:
        return self.steps * self.plan.world_size

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.steps):
            number, index = divmod(step, len(self.plan))
            batches = self.plan.epoch(number)
            for rank in range(self.plan.world_size):
                yield batches.part(index, rank).tolist()

    def __call__(self, dataset: Sized, **_: Any) -> _StepSampler:
        return self


class _PlanTrainer(SentenceTransformerTrainer):
    """The trainer, with small checkpoints of tensors alone, and an optimiser that may go on."""

    def __init__(self, *arguments: Any, previous_optimizer: Path | None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._previous_optimizer = previous_optimizer

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Leave the card to the end of the plan."""

    def create_optimizer(self, *arguments: Any, **options: Any) -> Any:
        """Make the optimiser, with the state of the stage before where that is wanted."""
        optimizer = super().create_optimizer(*arguments, **options)
        if self._previous_optimizer is not None:
            _load_optimizer(optimizer, self._previous_optimizer)
            self._previous_optimizer = None
        return optimizer

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(str(output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained_tensors(self.model), folder / WEIGHTS_FILE)

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
        load_weights(self.model, Path(checkpoint_path))


def trained_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return what training changes: parameters that are not frozen, and buffers that are saved."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    seen: dict[int, str] = {}
    found: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name in frozen:
            continue
        place = tensor.data_ptr()
        if tensor.numel() and place in seen and found[seen[place]].shape == tensor.shape:
            continue  # tied to one that is there already
        found[name] = tensor.detach().cpu().contiguous().clone()
        seen[place] = name
    return found


def load_weights(model: nn.Module, checkpoint: Path) -> None:
    """Put a checkpoint's weights into the model that it was made from.

    Raises:
        FormatError: When they cannot be read or are of another model.
    """
    path = checkpoint / WEIGHTS_FILE
    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise FormatError(f"{path} cannot be read ({error}): is it half written?") from error
    own = model.state_dict()
    wrong = [n for n, t in saved.items() if n not in own or own[n].shape != t.shape]
    if wrong:
        raise FormatError(f"{path} is of another model: {wrong[0]!r} has no place in this one.")
    model.load_state_dict(saved, strict=False)


def _load_optimizer(optimizer: Any, path: Path) -> None:
    """Give the optimiser the state of an earlier one over the same parameters."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FormatError(f"{path} cannot be read ({error}).") from error
    fresh = optimizer.state_dict()
    old, new = ([len(group["params"]) for group in one["param_groups"]] for one in (state, fresh))
    if old != new:
        raise InputError(
            f"reset_optimizer is false, but the stage before trained {sum(old)} parameters and "
            f"this one trains {sum(new)}: freeze the same parts, or reset the optimiser."
        )
    optimizer.load_state_dict({"state": state["state"], "param_groups": fresh["param_groups"]})


def last_checkpoint(folder: Path, *, clean: bool = True) -> Path | None:
    """Return the newest checkpoint that was written to its end; remove those that were not."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path in reversed(found):
        if is_complete(path):
            return path
        if clean:
            shutil.rmtree(path)
    return None


def train_stage(
    parts: StageParts,
    stage: StageSettings,
    *,
    folder: Path,
    journal: Path,
    seed: int,
    max_tokens: int | None = None,
    previous_optimizer: Path | None = None,
    report_to: tuple[str, ...] = (),
    show_progress: bool | None = None,
    callbacks: tuple[Any, ...] = (),
) -> dict[str, Any]:
    """Train the model of a stage in place, from its last whole checkpoint if there is one.

    Returns:
        ``losses`` (step and loss), ``seconds`` of this sitting, ``steps``.
    """
    model = parts.model
    folder.mkdir(parents=True, exist_ok=True)
    steps, world = parts.steps, parts.batches.world_size
    arguments = training_arguments(parts, stage, folder=folder, seed=seed, report_to=report_to)
    objective = ObjectiveCallback(parts.loss)
    begin = time.perf_counter()
    with shortened(model, max_tokens):
        trainer = _PlanTrainer(
            model=model,
            args=arguments,
            train_dataset=datasets.Dataset.from_dict({"row": range(len(parts.collator.rows))}),
            data_collator=parts.collator,
            loss=parts.loss,
            callbacks=[objective],
            previous_optimizer=previous_optimizer,
        )
        trainer.remove_callback(PrinterCallback)
        if show_progress is False or (show_progress is None and not sys.stderr.isatty()):
            trainer.remove_callback(ProgressCallback)
        trainer.add_callback(JournalCallback(journal, stage=stage.name))
        for callback in callbacks:
            trainer.add_callback(callback)
        if world > 1:
            trainer.accelerator.wait_for_everyone()
        last = last_checkpoint(folder, clean=trainer.is_world_process_zero())
        if last is not None and int(last.name.split("-")[1]) >= steps:
            load_weights(model, last)
            load_objective(parts.loss, last)
            history = json.loads((last / "trainer_state.json").read_text())["log_history"]
        else:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
            history = trainer.state.log_history
    return {
        "steps": steps,
        "seconds": round(time.perf_counter() - begin, 3),
        "losses": [
            {"step": int(entry["step"]), "loss": float(entry["loss"])}
            for entry in history
            if "loss" in entry
        ],
    }


@contextmanager
def shortened(model: Any, max_tokens: int | None) -> Iterator[None]:
    """Cut texts at ``max_tokens`` inside the block, where the model has a limit at all."""
    if max_tokens is None or "attention_mask" not in model.preprocess(["a"]):
        yield
        return
    limit = model.max_seq_length
    model.max_seq_length = min(max_tokens, limit or max_tokens)
    try:
        yield
    finally:
        model.max_seq_length = limit


def training_arguments(
    parts: StageParts,
    stage: StageSettings,
    *,
    folder: Path,
    seed: int,
    report_to: tuple[str, ...] = (),
) -> SentenceTransformerTrainingArguments:
    """Return the trainer's arguments for a stage."""
    steps = parts.steps
    warmup = int(stage.warmup) if stage.warmup >= 1 else round(stage.warmup * steps)
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=max(1, stage.batches.batch_size // parts.batches.world_size),
        learning_rate=stage.learning_rate,
        lr_scheduler_type=_SCHEDULES[stage.schedule],
        warmup_steps=min(warmup, steps),
        weight_decay=stage.weight_decay,
        optim=_OPTIMIZERS[stage.optimizer],
        max_grad_norm=stage.max_grad_norm,
        bf16=stage.precision == "bf16",
        fp16=stage.precision == "fp16",
        batch_sampler=_StepSampler(parts.batches, steps),
        logging_steps=max(1, steps // 50),
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=stage.save_every or max(1, steps // 5),
        save_total_limit=2,
        seed=derive_seed(seed, "stage", stage.name) % 2**31,
        report_to=list(report_to),
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        use_cpu=parts.model.device.type == "cpu",
    )
