"""A plan before it runs: stages, rows and shares, steps, tokens, and what it will cost here."""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedworks.data import Row, RowSet
from embedworks.errors import DataWarning, NotFoundError, UnknownNameError
from embedworks.training.budget import format_duration

if TYPE_CHECKING:
    from embedworks.training.plan import PlanSettings
    from embedworks.training.plan_stage import StageSettings

__all__ = ["PlanPreview", "SourcePreview", "StagePreview", "preview_plan"]

_TIMED_STEPS = 3


@dataclass(frozen=True)
class SourcePreview:
    """One source of a stage.

    Attributes:
        name: Its name.
        rows: Rows before mining; None when its data is not here.
        share: Share of the rows, or batches, that are its; None when not known.
        loss: Name of its own loss, or None.
        missing: Why its rows are not known.
    """

    name: str
    rows: int | None = None
    share: float | None = None
    loss: str | None = None
    missing: str | None = None


@dataclass(frozen=True)
class StagePreview:
    """One stage.

    Attributes:
        name: Its name.
        sources: What it learns from.
        batch_size: Rows of a step.
        steps: Optimiser steps; None when that depends on data that is not here.
        tokens_per_step: Tokens embedded per step, padding left out.
        seconds_per_step: Measured on a few real steps.
        prepare_seconds: Estimate for mining and for encoding with guide and teacher.
    """

    name: str
    sources: tuple[SourcePreview, ...]
    batch_size: int
    steps: int | None = None
    tokens_per_step: float | None = None
    seconds_per_step: float | None = None
    prepare_seconds: float | None = None

    @property
    def seconds(self) -> float | None:
        """Estimated wall clock of the stage."""
        if self.steps is None or self.seconds_per_step is None:
            return None
        return self.steps * self.seconds_per_step + (self.prepare_seconds or 0.0)


@dataclass(frozen=True)
class PlanPreview:
    """What a plan is going to do.

    Attributes:
        name: Name of the recipe.
        base: Model it starts from.
        stages: Its stages.
        evaluation_seconds: Estimate for measuring the base and every stage.
        missing: What is needed and not here.
    """

    name: str
    base: str
    stages: tuple[StagePreview, ...]
    evaluation_seconds: float | None = None
    missing: tuple[str, ...] = field(default=())

    @property
    def seconds(self) -> float | None:
        """Estimated wall clock of everything, or None when something could not be measured."""
        parts = [stage.seconds for stage in self.stages]
        if any(part is None for part in parts):
            return None
        return sum(part for part in parts if part) + (self.evaluation_seconds or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        stages = [{**asdict(stage), "seconds": stage.seconds} for stage in self.stages]
        return {**asdict(self), "stages": stages, "seconds": self.seconds}

    def __str__(self) -> str:
        lines = [f"{self.name}: {len(self.stages)} stage(s) from {self.base}"]
        for number, stage in enumerate(self.stages, 1):
            steps = "? steps" if stage.steps is None else f"{stage.steps:,} steps"
            parts = [steps, f"batches of {stage.batch_size:,}"]
            if stage.steps is not None and stage.tokens_per_step is not None:
                parts.append(f"{stage.steps * stage.tokens_per_step:,.0f} tokens")
            if stage.seconds is not None:
                parts.append(f"about {format_duration(stage.seconds)}")
            lines.append(f"{number}. {stage.name}: " + ", ".join(parts))
            width = max(len(source.name) for source in stage.sources)
            for source in stage.sources:
                rows = "       ?" if source.rows is None else f"{source.rows:>8,}"
                share = "" if source.share is None else f" {100 * source.share:5.1f} %"
                loss = f"  loss {source.loss}" if source.loss else ""
                lines.append(f"   {source.name:<{width}} {rows} rows{share}{loss}")
        if self.seconds is not None:
            lines.append(
                f"about {self.seconds / 60:.1f} minutes in all, "
                f"{format_duration(self.evaluation_seconds or 0.0)} of them for measuring"
            )
        lines += [f"missing: {text}" for text in self.missing]
        return "\n".join(lines)


def preview_plan(
    plan: PlanSettings, *, data_root: str | Path = ".", measure: bool = True
) -> PlanPreview:
    """Say what a plan will do, without training or writing anything.

    Rows are read and batches planned. With ``measure``, a few real steps of every stage are timed
    on a copy of the base model, which needs the ``train`` extra; mining is estimated from their
    speed. What is not here is listed instead of ending the preview.

    Args:
        plan: The plan.
        data_root: Folder that the recipe's paths are relative to.
        measure: Whether to time steps.

    Raises:
        InputError: When rows, objective and batches do not fit together.
        EmptyInputError: When a source has no rows.
        FormatError: When a file is damaged.

    Example:
        >>> from embedworks.training import load_plan
        >>> plan = load_plan("gistembed", changes=["stages.0.data.0.rows=missing.parquet"])
        >>> preview_plan(plan, measure=False).stages[0].sources[0].rows is None
        True
    """
    data_root = Path(data_root)
    missing: list[str] = []
    stages = []
    speed = None
    for place, stage in enumerate(plan.stages):
        found, rows = _read_stage(plan, stage, data_root)
        missing += [source.missing for source in found if source.missing]
        preview = StagePreview(stage.name, tuple(found), stage.batches.batch_size, stage.steps)
        if rows is not None and stage.steps != 0:
            preview, speed = _planned(plan, place, preview, rows, measure, missing, speed)
        stages.append(preview)
    evaluation = _evaluation_seconds(plan, data_root, speed, missing)
    return PlanPreview(
        plan.name, plan.model.base, tuple(stages), evaluation, tuple(dict.fromkeys(missing))
    )


def _read_stage(
    plan: PlanSettings, stage: StageSettings, data_root: Path
) -> tuple[list[SourcePreview], RowSet | None]:
    from embedworks.training.sources import read_source

    found, parts = [], []
    for source in stage.data:
        loss = stage.loss_of_source.get(source.name)
        try:
            rows = read_source(source, data_root=data_root, holdout=plan.holdout, seed=plan.seed)
        except NotFoundError as error:
            found.append(SourcePreview(source.name, loss=loss, missing=str(error)))
            continue
        parts.append(_with_negatives(rows, source.name, stage))
        found.append(SourcePreview(source.name, len(rows), loss=loss))
    if len(parts) < len(stage.data):
        return found, None
    return found, RowSet(row for part in parts for row in part)


def _with_negatives(rows: RowSet, source: str, stage: StageSettings) -> RowSet:
    """Give rows that will be mined other rows' positives, which cost as much to embed."""
    mine = stage.negatives.mine
    chosen = stage.negatives.sources
    if mine is None or (chosen and source not in chosen):
        return rows
    if not chosen and any(row.label is not None or row.score is not None for row in rows):
        return rows
    count = len(rows)

    def filled(place: int, row: Row) -> Row:
        others = [rows[(place + 1 + n) % count].positive for n in range(min(mine.count, count - 1))]
        return replace(row, negatives=tuple(others), teacher_scores=None)

    return RowSet(filled(place, row) for place, row in enumerate(rows))


def _planned(
    plan: PlanSettings,
    place: int,
    preview: StagePreview,
    rows: RowSet,
    measure: bool,
    missing: list[str],
    speed: float | None,
) -> tuple[StagePreview, float | None]:
    """Add steps, shares and, where it can be measured, the cost."""
    from embedworks.training._plan_trainer import stage_batches

    stage = plan.stages[place]
    plain = stage
    if stage.clusters is not None:
        batches = stage.batches.replace(strategy="one_source")
        plain = stage.model_copy(update={"clusters": None, "batches": batches})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DataWarning)
        plan_of_batches = stage_batches(None, rows, plain, seed=plan.seed)
    steps = stage.steps or max(1, round((stage.epochs or 1.0) * len(plan_of_batches)))
    shares = dict(zip(plan_of_batches.units.names, plan_of_batches.shares.tolist(), strict=True))
    sources = tuple(replace(s, share=shares.get(s.name)) for s in preview.sources)
    preview = replace(preview, steps=steps, sources=sources)
    if not measure or stage.pretrain is not None:
        return preview, speed
    try:
        seconds, tokens = _time_steps(plan, plain, rows)
    except (NotFoundError, UnknownNameError) as error:
        missing.append(str(error))
        return preview, speed
    speed = seconds / max(tokens, 1.0) / 3.0  # a step is a forward and a backward, twice as long
    encoded = 0.0
    if stage.negatives.mine is not None:
        encoded += len(stage.negatives.miners) - stage.negatives.miners.count("bm25")
    encoded += sum(name is not None for name in (stage.guide, stage.teacher))
    per_row = tokens / max(1, preview.batch_size)
    prepare = encoded * len(rows) * per_row * speed
    return (
        replace(
            preview,
            tokens_per_step=tokens,
            seconds_per_step=seconds,
            prepare_seconds=round(prepare, 3),
        ),
        speed,
    )


def _time_steps(plan: PlanSettings, stage: StageSettings, rows: RowSet) -> tuple[float, float]:
    """Return mean seconds and tokens of a step, timed after one that warms up."""
    from embedworks.losses import ContrastiveLoss
    from embedworks.models import load_trainable
    from embedworks.training._plan_trainer import make_parts, shortened

    stage = _without_lookups(stage)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DataWarning)
        model = load_trainable(plan.model.base)
        parts = make_parts(model, rows, stage, settings=plan.model, seed=plan.seed)
    model.train()
    for objective in parts.loss.modules():
        if isinstance(objective, ContrastiveLoss):
            objective.set_progress(0.0)
    seconds, tokens = [], []
    batches = parts.batches.batches()
    with shortened(model, plan.model.max_tokens), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DataWarning)
        for _ in range(_TIMED_STEPS + 1):
            numbers = next(batches).tolist()
            begin = time.perf_counter()
            batch = parts.collator([{"row": number} for number in numbers])
            columns, labels = collect(batch, model.device)
            parts.loss(columns, labels).backward()
            model.zero_grad(set_to_none=True)
            seconds.append(time.perf_counter() - begin)
            tokens.append(sum(_tokens(column) for column in columns))
    # A tenth for the optimiser.
    return 1.1 * sum(seconds[1:]) / _TIMED_STEPS, sum(tokens[1:]) / _TIMED_STEPS


def collect(batch: dict[str, Any], device: Any) -> tuple[list[dict[str, Any]], Any]:
    """Split a collated batch into columns, as the trainer does."""
    names = [key.removesuffix("_row_key") for key in batch if key.endswith("_row_key")]
    columns = [
        {
            key[len(name) + 1 :]: value.to(device) if hasattr(value, "to") else value
            for key, value in batch.items()
            if key.startswith(f"{name}_")
        }
        for name in names
    ]
    labels = batch.get("label")
    return columns, None if labels is None else labels.to(device)


def _tokens(column: dict[str, Any]) -> int:
    mask = column.get("attention_mask")
    return int(column["input_ids"].numel() if mask is None else mask.sum())


def _without_lookups(stage: StageSettings) -> StageSettings:
    """Return the stage without guide and teacher, whose vectors are looked up at next to no cost.

    Checked settings are changed without checking again: what is left out is needed by what was
    said.
    """

    def plain(objective: Any) -> Any:
        return objective.model_copy(
            update={
                "masks": objective.masks.model_copy(update={"guide": None}),
                "teacher": objective.teacher.model_copy(update={"weight": 0.0}),
                "contrastive_weight": objective.contrastive_weight or 1.0,
            }
        )

    losses = {
        name: loss.model_copy(update={"objective": loss.objective and plain(loss.objective)})
        for name, loss in stage.losses.items()
    }
    return stage.model_copy(
        update={
            "objective": plain(stage.objective), "losses": losses, "guide": None, "teacher": None,
        }
    )  # fmt: skip


def _evaluation_seconds(
    plan: PlanSettings, data_root: Path, speed: float | None, missing: list[str]
) -> float | None:
    from embedworks.data import estimate_tokens
    from embedworks.training._plan_evaluation import held_out

    try:
        task = held_out(plan, data_root=data_root)
    except NotFoundError as error:
        missing.append(str(error))
        return None
    if speed is None:
        return None
    texts = [t for t in (*task.texts, *task.corpus) if isinstance(t, str)]
    return round(sum(estimate_tokens(texts)) * speed * (1 + len(plan.stages)), 3)
