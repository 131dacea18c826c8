"""A small set of rows that says how good a merge is: losses by task, apart from what is held out.

A task is a source of the rows. Rows with scores are judged by the order of the scores, rows with
classes and all others by InfoNCE, where rows of one class are no negatives of one another.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from embedworks._core.registry import did_you_mean
from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice, check_in_range
from embedworks.data import RowCollator, RowSet
from embedworks.errors import EmptyInputError, InputError, NonFiniteError, UnknownNameError
from embedworks.losses import ContrastiveLoss, EntropyLoss, GradedLoss, objective
from embedworks.merging.search_settings import CoefficientSearch

__all__ = ["Probe"]

_LOSSES = ("rows", "entropy")


class Probe:
    """Rows as losses of a model, task by task.

    Args:
        model: A sentence-transformers model; its parameters may change between calls.
        rows: The rows, or a JSONL or Parquet file of them. Their sources are the tasks.
        loss: ``"rows"``: what the rows ask for; ``"entropy"``: how unsure the model is, without
            looking at scores, classes, or which positive belongs to an anchor.
        batch_size: Rows of one task that are contrasted with one another.
        held_out: Share of each task's rows that is kept for deciding when to stop.
        temperature: What cosines are divided by.
        max_tokens: Longest text; None for the model's limit.
        seed: Seed of the split and of the order.

    Attributes:
        tasks: Names of the tasks, in order of first appearance.
        counts: Task -> (rows used, rows held out).

    Raises:
        EmptyInputError: When there are no rows.
        InputError: When a task has too few rows, or only some of its rows have scores.
        FormatError: When the file is not one of rows.

    Example:
        >>> Probe(model, "probe.jsonl").held_out_losses()  # doctest: +SKIP
        {'retrieval': 0.41, 'sts': 4.87}
    """

    def __init__(
        self,
        model: Any,
        rows: RowSet | str | Path,
        *,
        loss: Literal["rows", "entropy"] = "rows",
        batch_size: int = 32,
        held_out: float = 0.25,
        temperature: float = 0.05,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        check_choice(loss, _LOSSES, name="loss")
        check_in_range(batch_size, name="batch_size", low=2)
        check_in_range(held_out, name="held_out", low=0.0, high=0.9)
        self.rows = rows if isinstance(rows, RowSet) else RowSet.load(rows)
        if not len(self.rows):
            raise EmptyInputError("There are no probe rows: a search needs some to look at.")
        self.model = model
        self.batch_size = batch_size
        self.tasks = tuple(self.rows.sources)
        self._collator = RowCollator(
            self.rows,
            _limited(model, max_tokens),
            groups={task: task for task in self.tasks},
            seed=seed,
        )
        self._used: dict[str, list[int]] = {}
        self._held_out: dict[str, list[int]] = {}
        self._losses = {}
        self._order: dict[str, Iterator[list[int]]] = {}
        for task in self.tasks:
            places = [n for n, row in enumerate(self.rows) if row.source == task]
            self._split(task, places, held_out, seed)
            self._losses[task] = self._loss_of(task, places, loss, temperature)
            self._order[task] = _batches(self._used[task], batch_size, seed, task)

    @classmethod
    def of(cls, model: Any, rows: RowSet | str | Path, settings: CoefficientSearch) -> Probe:
        """Return the probe that settings of a search describe."""
        return cls(
            model,
            rows,
            loss=settings.loss,
            batch_size=settings.batch_size,
            held_out=settings.held_out,
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            seed=settings.seed,
        )

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Task -> (rows used, rows held out)."""
        return {task: (len(self._used[task]), len(self._held_out[task])) for task in self.tasks}

    def loss(self, task: str) -> Tensor:
        """Return the loss of the task's next batch, with its graph.

        Raises:
            UnknownNameError: When there is no such task.
            NonFiniteError: When the loss is NaN or infinite.
        """
        if task not in self.tasks:
            raise UnknownNameError(f"No task {task!r}. {did_you_mean(task, list(self.tasks))}")
        return self._of(task, next(self._order[task]))

    def held_out_losses(self) -> dict[str, float]:
        """Return each task's mean loss over what is held out (over all rows where nothing is)."""
        return self._means(self._held_out)

    def used_losses(self) -> dict[str, float]:
        """Return each task's mean loss over what is not held out."""
        return self._means(self._used)

    def _means(self, places: Mapping[str, Sequence[int]]) -> dict[str, float]:
        """Return each task's mean loss, without dropout."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                return {task: self._mean(task, places[task]) for task in self.tasks}
        finally:
            self.model.train(was_training)

    def _mean(self, task: str, places: Sequence[int]) -> float:
        total = 0.0
        cut = [places[s : s + self.batch_size] for s in range(0, len(places), self.batch_size)]
        if len(cut) > 1 and len(cut[-1]) < self.batch_size:
            cut.pop()  # fewer candidates make an easier question
        for batch in cut:
            total += float(self._of(task, batch))
        return total / len(cut)

    def _of(self, task: str, places: Sequence[int]) -> Tensor:
        columns, scores = self._collator.columns(places)
        device = self.model.device
        features = [_moved(column, device) for column in columns.values()]
        found: Tensor = self._losses[task](features, None if scores is None else scores.to(device))
        if not bool(torch.isfinite(found)):
            raise NonFiniteError(f"The loss of the task {task!r} is {float(found)} on probe rows.")
        return found

    def _split(self, task: str, places: Sequence[int], held_out: float, seed: int) -> None:
        shuffled = [places[int(i)] for i in generator(seed, "probe", task).permutation(len(places))]
        kept = round(held_out * len(shuffled))
        self._held_out[task], self._used[task] = shuffled[:kept], shuffled[kept:]
        if held_out == 0:
            self._held_out[task] = self._used[task]
        for what, own in (("used", self._used[task]), ("held out", self._held_out[task])):
            if len(own) < 2:
                raise InputError(
                    f"The task {task!r} has {len(places)} probe rows, of which {len(own)} are "
                    f"{what}: give more rows, at least a batch ({self.batch_size}) of each."
                )

    def _loss_of(self, task: str, places: Sequence[int], kind: str, temperature: float) -> Any:
        rows = [self.rows[place] for place in places]
        scored = sum(row.score is not None for row in rows)
        if scored not in (0, len(rows)):
            raise InputError(
                f"{scored} of {len(rows)} probe rows of {task!r} have scores: give the others a "
                "source of their own."
            )
        if kind == "entropy":
            return EntropyLoss(self.model, temperature=temperature)
        if scored:
            return GradedLoss(self.model, temperature=temperature)
        labelled = any(row.label is not None for row in rows)
        settings = objective("infonce", masks={"same_class": True}) if labelled else "infonce"
        return ContrastiveLoss(self.model, settings, temperature=temperature)


def _batches(places: Sequence[int], size: int, seed: int, task: str) -> Iterator[list[int]]:
    """Yield batches for ever: every row once before any comes again."""
    size = min(size, len(places))
    for epoch in itertools.count():
        order = generator(seed, "probe order", task, epoch).permutation(len(places))
        for start in range(0, len(places) - size + 1, size):
            yield [places[int(i)] for i in order[start : start + size]]


def _limited(model: Any, max_tokens: int | None) -> Any:
    if max_tokens is None:
        return model.preprocess

    def preprocess(inputs: Any, **options: Any) -> Any:
        return model.preprocess(inputs, max_length=max_tokens, **options)

    return preprocess


def _moved(column: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in column.items()}
