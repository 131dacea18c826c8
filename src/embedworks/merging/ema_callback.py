"""An exponential moving average of a model's weights while it is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from embedworks._core.validation import check_in_range, check_k
from embedworks.errors import InputError

__all__ = ["EmaCallback"]


class EmaCallback(TrainerCallback):
    """Keep a moving average of the weights, and put it into the model when training ends.

    ``m <- decay * m + (1 - decay) * W`` after every ``every`` optimiser steps, from the weights
    at the start. The average is kept in float32 on the parameters' device: in half precision
    steps of ``1 - decay`` would be lost. For sentence-transformers' trainer and any other of
    transformers; `ema` averages checkpoints that were saved.

    It is not written into checkpoints: a training that goes on from one begins a new average there.

    Args:
        decay: 0 or greater and below 1; about 1 - 1 / (steps to average over).
        every: Steps between updates.
        apply: Whether the average replaces the weights when training ends. If not, or to have the
            last weights back, call `swap`.

    Raises:
        InputError: When a value is out of range.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> average = EmaCallback(decay=0.5)
        >>> _ = nn.init.ones_(model.weight)
        >>> average.update(model)  # begins with what is there
        >>> _ = nn.init.zeros_(model.weight)
        >>> average.update(model)
        >>> average.swap(model)
        >>> model.weight.item()
        0.5
    """

    def __init__(self, decay: float = 0.999, *, every: int = 1, apply: bool = True) -> None:
        check_in_range(decay, name="decay", low=0.0, high=1.0)
        if decay == 1:
            raise InputError("decay must be below 1: with 1 the average never moves.")
        self.decay = decay
        self.every = check_k(every)
        self.apply = apply
        self.average: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's weights; the first time, begin with them."""
        held = _trained(model)
        if not self.average:
            self.average = {name: value.detach().float().clone() for name, value in held.items()}
            return
        for name, value in held.items():
            average = self.average[name]
            average.lerp_(value.detach().to(average), 1 - self.decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's weights and the average.

        Raises:
            InputError: When there is no average yet.
        """
        if not self.average:
            raise InputError("there is no average yet: it begins when a training begins.")
        for name, value in _trained(model).items():
            last = value.detach().float().clone()
            value.copy_(self.average[name])
            self.average[name] = last

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        """Begin the average."""
        self.average = {}
        if model is not None:
            self.update(model)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        """Move the average."""
        if model is not None and state.global_step % self.every == 0:
            self.update(model)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        """Put the average into the model."""
        if model is not None and self.apply:
            self.swap(model)


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}
