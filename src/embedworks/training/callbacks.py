"""What a trainer has to tell an objective, and what it has to keep of it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from embedworks._core.files import atomic_path, storage_errors, write_json
from embedworks.errors import FormatError, NonFiniteError
from embedworks.losses import ContrastiveLoss

__all__ = ["JournalCallback", "ObjectiveCallback", "is_complete"]

OBJECTIVE_FILE = "objective.safetensors"
COMPLETE_FILE = "complete.json"


def is_complete(checkpoint: Path) -> bool:
    """Return whether a checkpoint was written to its end."""
    return (checkpoint / COMPLETE_FILE).is_file()


class ObjectiveCallback(TrainerCallback):
    """Keep an objective in step with a trainer.

    Before every step the objective hears how far the training is, for its schedules. What it
    reports about batches is averaged into the trainer's log. What it learns or remembers (a
    learned temperature, a queue) is written into every checkpoint and read back on resuming:
    the trainer itself keeps only the model. With several processes the gradients of what the
    objective learns are averaged, as nothing else does it.

    The checkpoint's last file is ``complete.json``; without it, it was cut short.

    Args:
        loss: `ContrastiveLoss`, `SourceLosses`, or either inside ``MatryoshkaLoss``.

    Raises:
        FormatError: On resuming from a checkpoint without the objective's state.

    Example:
        >>> loss = ContrastiveLoss(None, "peg")
        >>> callback = ObjectiveCallback(loss)
        >>> callback.objectives == [loss]
        True
    """

    def __init__(self, loss: nn.Module) -> None:
        self.loss = loss
        self.objectives = [m for m in loss.modules() if isinstance(m, ContrastiveLoss)]
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Read the objective's state when training goes on."""
        if state.global_step:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            if not folder.is_dir() and isinstance(args.resume_from_checkpoint, str):
                folder = Path(args.resume_from_checkpoint)
            load_objective(self.loss, folder)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Tell the objectives how far the training is."""
        share = state.global_step / max(1, state.max_steps)
        for objective in self.objectives:
            objective.set_progress(min(share, 1.0))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Average the gradients of the objective's own parameters over processes."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        for name, parameter in self.loss.named_parameters():
            if _is_own(name) and parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Gather what the objectives of the last batch report.

        Raises:
            NonFiniteError: When the loss is NaN or infinite.
        """
        for objective in self.objectives:
            for name, value in objective.statistics.items():
                if name == "loss":
                    _check_finite(value, state.global_step)
                    continue
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._counts[name] = self._counts.get(name, 0) + 1
            objective.statistics = {}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Add the means since the last log."""
        if logs is None or "loss" not in logs:
            return
        _check_finite(float(logs["loss"]), state.global_step)
        for name, value in self._sums.items():
            logs[name] = round(value / self._counts[name], 6)
        self._sums, self._counts = {}, {}

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Write the objective's state, then the mark that the checkpoint is whole."""
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            with atomic_path(folder / OBJECTIVE_FILE) as temporary:
                save_file(dict(_own_tensors(self.loss)), temporary)
            write_json(folder / COMPLETE_FILE, {"step": state.global_step})


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise NonFiniteError(
            f"the loss is {loss} at step {step}: the weights are of no use any more. Lower the "
            "learning rate, raise the temperature, or train in fp32. Checkpoints before it are "
            "kept."
        )


def load_objective(loss: nn.Module, checkpoint: Path) -> None:
    """Read back what `ObjectiveCallback` wrote into a checkpoint.

    Raises:
        FormatError: When the state is missing, damaged, or of another objective.
    """
    path = checkpoint / OBJECTIVE_FILE
    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise FormatError(
            f"{path} cannot be read ({error}): the objective cannot go on where it stood. Resume "
            "from another checkpoint, or start again."
        ) from error
    own = dict(_own_tensors(loss))
    saved.pop(_EMPTY, None)
    own.pop(_EMPTY, None)
    if saved.keys() != own.keys() or any(saved[k].shape != own[k].shape for k in own):
        raise FormatError(
            f"{path} is of another objective: it has {sorted(saved)}, this one {sorted(own)}."
        )
    with torch.no_grad():
        for name, tensor in loss.state_dict(keep_vars=True).items():
            if name in saved:
                tensor.copy_(saved[name])


#: Stands in the file of an objective that learns and remembers nothing.
_EMPTY = "empty"


def _own_tensors(loss: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a loss that are not its model's."""
    found = False
    for name, tensor in loss.state_dict().items():
        if _is_own(name):
            found = True
            yield name, tensor.detach().cpu().contiguous().clone()
    if not found:
        yield _EMPTY, torch.zeros(1)


def _is_own(name: str) -> bool:
    return "model" not in name.split(".")


class JournalCallback(TrainerCallback):
    """Append what the trainer logs to a JSON-lines file: the tracker that needs no account.

    Put it after `ObjectiveCallback`, so that its figures are there.

    Args:
        path: The file.
        fields: What every line says beside the step, such as the stage.
    """

    def __init__(self, path: Path, **fields: Any) -> None:
        self.path = Path(path)
        self.fields = fields

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Append one line."""
        if not state.is_world_process_zero or not logs:
            return
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "event": "log",
            **self.fields,
            "step": state.global_step,
            **{k: v for k, v in logs.items() if isinstance(v, int | float)},
        }
        with storage_errors(self.path), open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")
