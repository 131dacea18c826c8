"""Batches of training rows, and one plain training loop for every student and objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.seeding import derive_seed, generator
from embedworks._core.validation import check_choice, check_in_range
from embedworks.data import Row, content_key
from embedworks.errors import EmptyInputError, InputError, NonFiniteError

if TYPE_CHECKING:
    import torch

    from embedworks.losses import ContrastiveLoss
    from embedworks.reproductions.students import FrozenVectors, Student

__all__ = [
    "Annotate",
    "Objective",
    "TrainingLog",
    "batch_fields",
    "frozen_fields",
    "row_batches",
    "train_student",
]

#: ``(query (B, D), document (B, D), negatives (B, K, D) or None, info) -> scalar loss``.
Objective = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor | None", Any], "torch.Tensor"]

#: Adds fields to what an objective is told about a batch: ``(rows) -> name -> tensor``.
Annotate = Callable[[Sequence[Row]], Mapping[str, "torch.Tensor"]]


@dataclass(frozen=True)
class TrainingLog:
    """What a training did.

    Attributes:
        losses: Loss of every step.
        examples: Rows seen, repeats counted.
        seconds: Wall clock.
    """

    losses: tuple[float, ...]
    examples: int
    seconds: float

    @property
    def final_loss(self) -> float:
        """Mean loss of the last tenth of the steps."""
        return float(np.mean(self.losses[-max(1, len(self.losses) // 10) :]))


def row_batches(
    rows: Sequence[Row],
    batch_size: int,
    *,
    steps: int,
    seed: int,
    together: Callable[[Row], Hashable] | None = None,
) -> Iterator[list[Row]]:
    """Yield ``steps`` full batches of rows in random order, epoch after epoch.

    Args:
        rows: The rows to draw from.
        batch_size: Rows per batch, at most the number of rows.
        steps: Number of batches.
        seed: Seed of the order.
        together: Group of a row, such as its source or its planted family; rows of one group
            stay side by side, so that they meet in one batch. None shuffles rows singly.

    Raises:
        EmptyInputError: When there are no rows.
        InputError: When there are fewer rows than one batch needs.

    Example:
        >>> rows = [Row(f"q{i}", f"d{i}") for i in range(5)]
        >>> [len(batch) for batch in row_batches(rows, 2, steps=3, seed=0)]
        [2, 2, 2]
    """
    check_in_range(batch_size, name="batch_size", low=1)
    check_in_range(steps, name="steps", low=0)
    if not rows:
        raise EmptyInputError("There are no rows to make batches of.")
    if len(rows) < batch_size:
        raise InputError(f"A batch of {batch_size} needs as many rows, there are {len(rows)}.")
    groups: dict[Hashable, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(place if together is None else together(row), []).append(place)
    members = list(groups.values())
    rng = generator(seed, "row batches")
    order: list[int] = []
    for _ in range(steps):
        while len(order) < batch_size:
            shuffled = (members[g] for g in rng.permutation(len(members)))
            order += [place for group in shuffled for place in rng.permutation(group)]
        yield [rows[place] for place in order[:batch_size]]
        del order[:batch_size]


def batch_fields(rows: Sequence[Row], *, sources: Sequence[str] = ()) -> dict[str, torch.Tensor]:
    """Return what an objective may know about a batch, by field of `embedworks.losses.BatchInfo`.

    ``query_keys``, ``document_keys`` (B,), ``negative_keys`` (B, K; -1 where there is none) and
    ``negatives_present`` (B, K) come from the texts. ``classes`` and ``positive_ids`` (B,),
    ``grades`` (B, 1 + K; a row's score and 0 for its negatives) and ``teacher_scores``
    (B, 1 + K) are there only where every row has them. Classes and ids of different sources
    never coincide.

    Args:
        rows: The rows of the batch.
        sources: Names of all data sets; with them there is ``sources`` (B,), a row's position
            among them.

    Raises:
        UnknownNameError: When a row's source is not among ``sources``.

    Example:
        >>> fields = batch_fields([Row("a", "b", ("c",)), Row("d", "e")])
        >>> sorted(fields), fields["negatives_present"].tolist()
        (['document_keys', 'negative_keys', 'negatives_present', 'query_keys'],
         [[True], [False]])
    """
    require_extra("torch", extra="train", purpose="train a student")
    import torch

    def keys(values: Iterable[Any]) -> torch.Tensor:
        return torch.tensor([content_key(value) for value in values], dtype=torch.int64)

    fields = {
        "query_keys": keys(row.anchor for row in rows),
        "document_keys": keys(row.positive for row in rows),
    }
    width = max(len(row.negatives) for row in rows)
    if width:
        place, present = _negative_places(rows, width)
        hard = keys(text for row in rows for text in row.negatives)
        flat = torch.cat([fields["document_keys"], hard])
        fields["negative_keys"] = flat[place].masked_fill(~present, -1)
        fields["negatives_present"] = present
    if sources:
        known = {name: number for number, name in enumerate(sources)}
        fields["sources"] = torch.tensor(
            [known[check_choice(row.source, known, name="source")] for row in rows]
        )
    if all(row.label is not None for row in rows):
        fields["classes"] = keys(f"{row.source}\x1f{row.label}" for row in rows)
    if all(row.positive_id is not None for row in rows):
        fields["positive_ids"] = keys(f"{row.source}\x1f{row.positive_id}" for row in rows)
    if all(row.score is not None for row in rows):
        fields["grades"] = torch.tensor([[row.score, *[0.0] * width] for row in rows])
    scores = [row.teacher_scores for row in rows if row.teacher_scores is not None]
    if len(scores) == len(rows) and len({len(line) for line in scores}) == 1:
        fields["teacher_scores"] = torch.tensor(scores, dtype=torch.float32)
    return fields


def frozen_fields(frozen: FrozenVectors, kind: Literal["guide", "teacher"] = "guide") -> Annotate:
    """Return an annotator that gives a frozen model's vectors to the objective.

    Args:
        frozen: The guide or teacher; encode all texts beforehand with one call, in one go.
        kind: Which fields to fill: ``guide_query``, ``guide_document``, ``guide_negatives``, or
            those of the teacher.

    Example:
        >>> from embedworks.reproductions import FrozenVectors
        >>> annotate = frozen_fields(FrozenVectors("static"))
        >>> {name: tuple(value.shape) for name, value in annotate([Row("a", "b", ("c",))]).items()}
        {'guide_query': (1, 256), 'guide_document': (1, 256), 'guide_negatives': (1, 1, 256)}
    """

    def annotate(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        import torch

        size, width = len(rows), max(len(row.negatives) for row in rows)
        texts = [row.anchor for row in rows] + [row.positive for row in rows]
        texts += [text for row in rows for text in row.negatives]
        vectors = torch.from_numpy(frozen(_texts(texts)))
        fields = {f"{kind}_query": vectors[:size], f"{kind}_document": vectors[size : 2 * size]}
        if width:
            fields[f"{kind}_negatives"] = vectors[size:][_negative_places(rows, width)[0]]
        return fields

    return annotate


def _negative_places(rows: Sequence[Row], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where each row's negatives stand among positives followed by all negatives.

    Short rows are padded with their own positive: a valid vector that the mask leaves out.

    Returns:
        Places and presence, both (B, width).
    """
    import torch

    counts = torch.tensor([len(row.negatives) for row in rows])
    column = torch.arange(width)[None, :]
    present = column < counts[:, None]
    starts = len(rows) + counts.cumsum(0) - counts
    own = torch.arange(len(rows))[:, None].expand(-1, width)
    return torch.where(present, starts[:, None] + column, own), present


def train_student(
    student: Student,
    batches: Iterable[Sequence[Row]],
    objective: Objective | ContrastiveLoss,
    *,
    steps: int,
    lr: float,
    seed: int,
    warmup: float = 0.1,
    weight_decay: float = 0.0,
    max_norm: float | None = 1.0,
    info: Callable[..., Any] | None = None,
    annotate: Annotate | None = None,
    parameters: Sequence[torch.nn.Parameter] = (),
    on_step: Callable[[int, float], None] | None = None,
) -> TrainingLog:
    """Train a student: AdamW, linear warm-up and decay, gradients clipped.

    The same loop for every arm, so that arms differ in the objective and the batches alone.

    Args:
        student: What is trained, in place.
        batches: Batches of rows, at least ``steps``; see `row_batches`.
        objective: A `embedworks.losses.ContrastiveLoss`, whose learned temperatures are trained
            too and whose schedules are told how far training is; or a function
            ``(query, document, negatives, info) -> scalar loss``. Negatives are (B, K, D), short
            rows padded with their own positive and marked in ``info.negatives_present``; None
            when no row has negatives.
        steps: Optimiser steps.
        lr: Peak learning rate.
        seed: Seed of dropout and of whatever the objective draws from torch's generator.
        warmup: Share of the steps in which the rate rises.
        weight_decay: AdamW's weight decay.
        max_norm: Largest norm of all gradients together; None does not clip.
        info: Makes ``info`` from the fields of `batch_fields`, given by keyword; None uses
            `embedworks.losses.BatchInfo`.
        annotate: Adds fields, such as guide vectors or weights, to those of the rows.
        parameters: More to train, such as a learned temperature.
        on_step: Called with (step from 1, loss) after every step.

    Returns:
        Losses, examples and seconds.

    Raises:
        InputError: When ``batches`` ends early, or rows hold other things than texts.
        NonFiniteError: When the loss becomes NaN or infinite; names the step.
        MissingExtraError: When torch is not installed.
    """
    require_extra("torch", extra="train", purpose="train a student")
    import torch

    check_in_range(steps, name="steps", low=0)
    check_in_range(lr, name="lr", low=0.0, open_low=True)
    make_info = _batch_info() if info is None else info
    contrast, sources, own = _unpacked(objective)
    trained = [*student.parameters(), *parameters, *own]
    # Fused: one pass over a student's whole table, three times as fast as one per operation.
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay, fused=True)
    rise = max(1, round(warmup * steps))

    def rate(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return max(0.0, (steps - step) / max(1, steps - rise))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    torch.manual_seed(derive_seed(seed, "train student"))
    losses: list[float] = []
    examples = 0
    source = iter(batches)
    started = time.perf_counter()
    threads, wanted = torch.get_num_threads(), getattr(student, "threads", None)
    torch.set_num_threads(wanted or threads)
    student.train(True)
    try:
        for step in range(1, steps + 1):
            rows = next(source, None)
            if rows is None:
                raise InputError(f"There were batches for {step - 1} steps, {steps} are needed.")
            if hasattr(objective, "set_progress"):
                objective.set_progress((step - 1) / steps)
            loss = _loss(student, rows, contrast, make_info, annotate, sources)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise NonFiniteError(f"The loss is {value} at step {step}: lower the rate {lr}.")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if max_norm is not None:
                torch.nn.utils.clip_grad_norm_(trained, max_norm)
            optimizer.step()
            schedule.step()
            losses.append(value)
            examples += len(rows)
            if on_step is not None:
                on_step(step, value)
    finally:
        student.train(False)
        torch.set_num_threads(threads)
    return TrainingLog(tuple(losses), examples, time.perf_counter() - started)


def _loss(
    student: Student,
    rows: Sequence[Row],
    objective: Objective,
    make_info: Callable[..., Any],
    annotate: Annotate | None,
    sources: Sequence[str],
) -> torch.Tensor:
    queries = _texts(row.anchor for row in rows)
    documents = _texts(row.positive for row in rows)
    hard = [_texts(row.negatives) for row in rows]
    size, width = len(rows), max(len(line) for line in hard)
    flat = [text for line in hard for text in line]
    vectors = student.encode([*queries, *documents, *flat])
    negatives = None
    if width:
        places, _ = _negative_places(rows, width)
        negatives = vectors[size:][places.to(vectors.device)]
    fields = batch_fields(rows, sources=sources)
    if annotate is not None:
        fields |= dict(annotate(rows))
    known = make_info(**{name: value.to(vectors.device) for name, value in fields.items()})
    return objective(vectors[:size], vectors[size : 2 * size], negatives, known)


def _texts(values: Iterable[Any]) -> list[str]:
    texts = list(values)
    for value in texts:
        if not isinstance(value, str):
            raise InputError(f"These students read texts, a row holds a {type(value).__name__}.")
    return texts


def _unpacked(
    objective: Any,
) -> tuple[Objective, Sequence[str], list[torch.nn.Parameter]]:
    """Return the function, the sources it tells apart, and what it learns itself."""
    if hasattr(objective, "contrast"):
        own = [p for p in objective.parameters() if p.requires_grad]
        return objective.contrast, getattr(objective, "sources", ()), own
    return objective, (), []


def _batch_info() -> Callable[..., Any]:
    from embedworks.losses import BatchInfo

    return BatchInfo
