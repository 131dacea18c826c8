"""Train a language model on texts, in transformers' trainer."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
import pydantic
import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from embedworks._core.seeding import derive_seed, generator
from embedworks._core.settings import Settings
from embedworks.errors import InputError
from embedworks.modules import make_bidirectional
from embedworks.training.language_models.masking import (
    masked_rows,
    nested_masks,
    pack_tokens,
    word_starts,
)
from embedworks.training.language_models.smae import SMAEObjective

__all__ = [
    "LanguageModelSettings",
    "LanguageModelTraining",
    "TokenCollator",
    "train_language_model",
]

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]


class LanguageModelSettings(Settings):
    """How a language model is trained on texts.

    Example:
        >>> LanguageModelSettings(objective="mntp", steps=10).mask_share
        0.2
    """

    objective: Literal["causal", "mlm", "mntp", "smae"] = "causal"
    """``causal``: the next token. ``mlm``: masked tokens of an encoder. ``mntp``: masked tokens of
    a decoder whose mask is taken off, each from the state before it (LLM2Vec). ``smae``: see
    `SMAEObjective`."""
    steps: Count = 1000
    batch_size: Count = 32
    """Rows."""
    length: Annotated[int, Field(ge=8)] = 128
    """Tokens of a row."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-4
    warmup: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """Share of the steps; then the rate falls as a cosine."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    precision: Literal["fp32", "bf16"] = "fp32"
    mask_share: Share = 0.2
    """Share of the tokens that are guessed."""
    decoder_mask_share: Share = 0.4
    """The same for the decoder of SMAE."""
    whole_words: bool = False
    """Hide whole words in ``mlm`` and ``mntp`` too; SMAE always does."""
    pairs: tuple[tuple[int, int], ...] = ()
    """Sizes (layers, dimensions) of SMAE; empty is the full model alone."""
    max_seconds: Annotated[float, Field(gt=0.0)] | None = None
    """Stop after so long, whatever the steps."""
    seed: Annotated[int, Field(ge=0)] = 0

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Self:
        if self.objective == "smae" and self.decoder_mask_share < self.mask_share:
            raise ValueError("the decoder hides at least what the encoder hides")
        if self.pairs and self.objective != "smae":
            raise ValueError("pairs go with the objective smae")
        return self


@dataclass(frozen=True)
class LanguageModelTraining:
    """What the training of a language model was.

    Attributes:
        losses: Mean loss in nats since the last entry, about fifty in all.
        steps: Optimiser steps taken.
        tokens: Tokens read.
        seconds: Wall-clock time.
        rows: Rows that the texts made.
    """

    losses: tuple[float, ...]
    steps: int
    tokens: int
    seconds: float
    rows: int


class TokenCollator:
    """Rows of tokens to what an objective reads.

    Args:
        tokenizer: Its special tokens are never hidden; its mask token hides, and where it has
            none, ``_`` does (as LLM2Vec has it).
        settings: Objective and shares.

    Raises:
        InputError: When there is no token to hide others with.
    """

    def __init__(self, tokenizer: Any, settings: LanguageModelSettings) -> None:
        self.settings = settings
        self.vocabulary = len(tokenizer)
        self.special = list(tokenizer.all_special_ids)
        self.starts = word_starts(tokenizer)
        token = tokenizer.mask_token_id
        if token is None:
            found = tokenizer("_", add_special_tokens=False)["input_ids"]
            token = found[0] if len(found) == 1 else None
        if token is None and settings.objective != "causal":
            raise InputError(
                "the tokenizer has no mask token, and '_' is not one token either: add one "
                "(tokenizer.add_special_tokens({'mask_token': '[MASK]'})) and resize the model."
            )
        self.mask_token = token
        self._rng = generator(settings.seed, "masks")

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return tensors (B, T)."""
        ids = np.stack([np.asarray(row["input_ids"]) for row in rows]).astype(np.int64)
        kind = self.settings.objective
        if kind == "causal":
            return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(ids.copy())}
        small, large = self._chosen(ids)
        # MNTP and SMAE hide every chosen token, BERT leaves some for the model to see.
        plain = {"masked": 1.0, "random": 0.0} if kind == "mntp" else {}
        read, labels = self._hidden(ids, small, plain)
        found = {"input_ids": read, "labels": labels}
        if kind == "smae":
            again, told = self._hidden(ids, large, plain)
            found |= {"decoder_input_ids": again, "decoder_labels": told}
        return {name: torch.from_numpy(value) for name, value in found.items()}

    def _chosen(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wanted = self.settings
        whole = wanted.whole_words or wanted.objective == "smae"
        starts = self.starts if whole else np.ones_like(self.starts)
        large = wanted.decoder_mask_share if wanted.objective == "smae" else wanted.mask_share
        return nested_masks(
            ids,
            starts=starts,
            special=self.special,
            shares=(wanted.mask_share, large),
            rng=self._rng,
        )

    def _hidden(
        self, ids: np.ndarray, chosen: np.ndarray, options: dict[str, float]
    ) -> tuple[np.ndarray, np.ndarray]:
        return masked_rows(
            ids,
            chosen,
            mask_token=int(self.mask_token),
            vocabulary=self.vocabulary,
            rng=self._rng,
            **options,
        )


def train_language_model(
    model: Any,
    tokenizer: Any,
    texts: Iterable[str],
    settings: LanguageModelSettings | None = None,
    *,
    device: str | None = None,
    show_progress: bool | None = None,
) -> LanguageModelTraining:
    """Train a language model of transformers in place, on packed texts.

    The model stays on the device. ``mntp`` takes the causal mask off first; its labels are shifted
    by the model's own loss, so that a masked token is told from the state before it.

    Args:
        model: Causal for ``causal`` and ``mntp``, masked for ``mlm`` and ``smae``.
        tokenizer: Its tokenizer.
        texts: Training texts.
        settings: Objective and schedule.
        device: Torch device; None takes the model's.
        show_progress: True or False to force a bar; by default there is one on a terminal.

    Raises:
        InputError: When the model has not the output layer that the objective needs.
        EmptyInputError: When the texts do not fill a row.
    """
    settings = settings or LanguageModelSettings()
    name = type(model).__name__
    causal = "CausalLM" in name or "LMHeadModel" in name
    if causal != (settings.objective in ("causal", "mntp")):
        needed = "causal" if not causal else "masked"
        raise InputError(
            f"a {name} cannot be trained by {settings.objective!r}, which needs a {needed} "
            f"language model: new_language_model(..., masked={needed == 'masked'})."
        )
    if settings.objective == "mntp":
        make_bidirectional(model)
    smae = settings.objective == "smae"
    rows = pack_tokens(texts, tokenizer, settings.length, begin=smae)
    full = (model.config.num_hidden_layers, model.config.hidden_size)
    target: nn.Module = SMAEObjective(model, settings.pairs or [full]) if smae else model
    device = device or str(model.device)
    model.to(device)
    show = sys.stderr.isatty() if show_progress is None else show_progress
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=settings.steps,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            warmup_steps=round(settings.warmup * settings.steps),
            lr_scheduler_type="cosine",
            weight_decay=settings.weight_decay,
            bf16=settings.precision == "bf16",
            logging_steps=max(1, settings.steps // 50),
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,
            dataloader_drop_last=len(rows) >= settings.batch_size,
            dataloader_pin_memory=device.startswith("cuda"),
            label_names=["labels"],
            use_cpu=device == "cpu",
            disable_tqdm=not show,
            seed=derive_seed(settings.seed, "language model") % 2**31,
        )
        trainer = Trainer(
            model=target,
            args=arguments,
            train_dataset=_Rows(rows),
            data_collator=TokenCollator(tokenizer, settings),
            callbacks=[_Stop(settings.max_seconds)] if settings.max_seconds else None,
        )
        trainer.remove_callback(PrinterCallback)
        if not show:
            trainer.remove_callback(ProgressCallback)
        trainer.train()
    model.eval()
    taken = int(trainer.state.global_step)
    losses = tuple(float(e["loss"]) for e in trainer.state.log_history if "loss" in e)
    tokens = taken * min(settings.batch_size, len(rows)) * settings.length
    seconds = time.perf_counter() - start
    return LanguageModelTraining(losses, taken, tokens, seconds, len(rows))


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows of tokens as the trainer reads them."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {"input_ids": self.rows[place]}


class _Stop(TrainerCallback):
    """Stop after some seconds."""

    def __init__(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Stop when the time is over."""
        control.should_training_stop = time.monotonic() > self.until or control.should_training_stop
        return control
