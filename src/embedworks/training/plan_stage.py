"""The settings of one stage of a plan: data, losses, negatives, batches, steps and merges."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from embedworks._core.registry import did_you_mean
from embedworks._core.settings import Settings
from embedworks.data import BatchSettings
from embedworks.losses import OBJECTIVES, ObjectiveSettings
from embedworks.merging import DATA_MERGE_METHODS, check_merge
from embedworks.negatives import MinerSettings
from embedworks.training._plan_values import overlay
from embedworks.training.plan_nested import NestedSettings
from embedworks.training.plan_tokens import (
    GenerateSettings,
    PretrainSettings,
    RankSettings,
    TokenTargetSettings,
    token_problems,
)
from embedworks.training.sources import DecontaminationSettings, SourceSettings

__all__ = [
    "LossSettings",
    "MatryoshkaSettings",
    "MixerSettings",
    "StageMerge",
    "StageNegatives",
    "StageSettings",
    "unknown_models",
]

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _preset(value: Any) -> Any:
    """Read the name of an objective, or a mapping with ``preset`` and changes to it."""
    if isinstance(value, str):
        return OBJECTIVES[value].to_dict()
    if isinstance(value, Mapping) and "preset" in value:
        changes = {key: item for key, item in value.items() if key != "preset"}
        named = OBJECTIVES[str(value["preset"])].to_dict()
        if isinstance(changes.get("temperature"), int | float):
            changes["temperature"] = {"value": float(changes["temperature"])}
        return overlay(named, changes)
    return value


#: An objective: its settings, the name of a preset, or ``{preset: name, ...changes}``.
Objective = Annotated[ObjectiveSettings, pydantic.BeforeValidator(_preset)]


class LossSettings(Settings):
    """A loss of its own for some sources. Batches never mix losses."""

    sources: tuple[str, ...]
    objective: Objective | None = None
    """Contrastive settings, or None with ``cosent``."""
    cosent: Positive | None = None
    """Train on the order of the rows' scores (CoSENT) with this temperature."""
    batch_size: Count | None = None
    """Rows of a batch; None takes that of ``batches``."""

    @pydantic.model_validator(mode="after")
    def _one(self) -> Self:
        if (self.objective is None) == (self.cosent is None):
            raise ValueError("give either an objective or cosent (a temperature)")
        if not self.sources:
            raise ValueError("sources is empty: name the sources that this loss is for")
        return self


class MixerSettings(Settings):
    """New negatives mixed from a row's hard ones; see `embedworks.negatives.NegativeMixer`."""

    pairwise: Annotated[int, Field(ge=0)] = 1
    listwise: Annotated[int, Field(ge=0, le=1)] = 1
    beta: Positive = 2.0
    list_temperature: Positive = 0.05
    stop_gradient: bool = False
    cap: Literal["positive"] | None = "positive"
    cap_margin: Annotated[float, Field(ge=0.0)] = 0.0


class StageNegatives(Settings):
    """Where a stage's hard negatives come from."""

    mine: MinerSettings | None = None
    """Mine before the stage; replaces what the rows have."""
    miners: tuple[str, ...] = ("stage",)
    """Models that search: ``stage`` (the model the stage starts from), ``bm25``, or any name."""
    sources: tuple[str, ...] = ()
    """Sources that are mined; empty means every source without labels and scores."""
    consistency_rank: Count | None = None
    """Drop rows whose positive ranks below this for the first miner."""
    per_row: Count | None = None
    """Negatives per row and batch; None takes the most that any row of the loss has."""
    missing: Literal["mask", "resample"] = "mask"
    """What a row with fewer gets: places that do not count, or its own negatives again."""
    mixer: MixerSettings | None = None
    queue: Annotated[int, Field(ge=0)] = 0
    """Documents of earlier batches kept as further negatives."""


class MatryoshkaSettings(Settings):
    """Train the first dimensions to stand alone."""

    dims: tuple[Count, ...]
    weights: tuple[Positive, ...] = ()
    """One per dimension; empty means 1 each."""

    @pydantic.model_validator(mode="after")
    def _aligned(self) -> Self:
        if not self.dims or (self.weights and len(self.weights) != len(self.dims)):
            raise ValueError(f"{len(self.dims)} dims need as many weights, got {self.weights}")
        return self


class StageMerge(Settings):
    """What a stage hands on in place of the model it trained: a merge of it with others.

    Models are ``stage`` (what was trained), ``start`` (what training started from), ``base`` (the
    plan's model), or the name of an earlier stage.
    """

    models: tuple[str, ...] = ("start", "stage")
    method: str = "linear"
    """Any that `embedworks.merging.merge` knows; those with data look at the stage's rows."""
    weights: tuple[float, ...] | None = None
    """One per model; None for the method's own."""
    base: str | None = None
    """What the models were trained from, for methods that look at the change."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The method's options."""

    @pydantic.model_validator(mode="after")
    def _usable(self) -> Self:
        check_merge(
            self.method,
            len(self.models),
            self.weights,
            self.base is not None,
            self.method in DATA_MERGE_METHODS,
            self.options,
        )
        return self


class StageSettings(Settings):
    """One stage: what is learned from, by which objective, for how long."""

    name: Annotated[str, Field(pattern=r"^[\w-]+$")]
    data: tuple[SourceSettings, ...] = ()
    decontaminate: DecontaminationSettings | None = None
    """Drop rows too close to test texts; the plan's own held-out questions always count."""
    objective: Objective = ObjectiveSettings()
    losses: dict[str, LossSettings] = Field(default_factory=dict)
    """Other losses for some sources, by a name of your choice."""
    guide: str | None = None
    """Model that tells false negatives; needed when the objective masks by a guide."""
    teacher: str | None = None
    """Model whose similarities are soft targets; needed when the objective has a teacher and the
    rows bring no scores."""
    negatives: StageNegatives = StageNegatives()
    batches: BatchSettings = BatchSettings()
    clusters: Count | None = None
    """Number of clusters of anchors, for the batch strategy ``clustered``."""
    steps: Annotated[int, Field(ge=0)] | None = None
    """0 trains nothing: the stage merges earlier ones, and its rows are the probe."""
    epochs: Positive | None = None
    learning_rate: Positive = 2e-5
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """What the learning rate does after the warm-up."""
    warmup: Annotated[float, Field(ge=0.0)] = 0.1
    """Share of the steps when below 1, else a number of steps."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    optimizer: Literal["adamw", "adafactor", "sgd"] = "adamw"
    max_grad_norm: Annotated[float, Field(ge=0.0)] = 1.0
    """Gradients are scaled down to this length; 0 leaves them."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    frozen: tuple[str, ...] = ()
    """Regular expressions; parameters whose name contains one are not trained."""
    cache_gradients: bool = False
    """Embed in packs with only one pack's activations in memory (GradCache)."""
    mini_batch_tokens: Count | None = None
    """Tokens embedded at a time; None is 2,048 for transformers on a CPU, else no limit."""
    mini_batch_size: Count | None = None
    gradient_checkpointing: bool = False
    gather_across_devices: bool = True
    reset_optimizer: bool = True
    """Start with a fresh optimiser; False goes on with the state of the stage before."""
    matryoshka: MatryoshkaSettings | None = None
    nested: NestedSettings | None = None
    """Train for fewer layers as well as fewer dimensions; in place of ``matryoshka``."""
    pretrain: PretrainSettings | None = None
    """Train as a language model on the rows' texts, in place of the objective."""
    generate: GenerateSettings | None = None
    """Keep a decoder a language model: add the next-token loss of the documents (GRIT)."""
    rank: RankSettings | None = None
    """Train a head that scores pairs beside the vectors; see `JointRankingLoss`."""
    token_targets: TokenTargetSettings | None = None
    """Learn which tokens each text should point at, in place of the objective."""
    start: str | None = None
    """What training starts from: ``base``, or the name of an earlier stage; None for the stage
    before."""
    merge: StageMerge | None = None
    """Hand on a merge with other models, such as the start."""
    save_every: Count | None = None
    """Steps between checkpoints; None writes about five."""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        if problems := list(_stage_problems(self)):
            raise ValueError("; ".join(problems))
        return self

    @property
    def source_names(self) -> tuple[str, ...]:
        """Names of the sources, in order."""
        return tuple(source.name for source in self.data)

    @property
    def loss_of_source(self) -> dict[str, str]:
        """Source -> name of its own loss."""
        return {s: name for name, loss in self.losses.items() for s in loss.sources}

    def objectives(self) -> dict[str, ObjectiveSettings]:
        """Return the contrastive objectives by loss name; that of the rest is ``""``."""
        found = {n: loss.objective for n, loss in self.losses.items() if loss.objective}
        rest = set(self.source_names) - set(self.loss_of_source)
        return {**({"": self.objective} if rest else {}), **found}


def _stage_problems(stage: StageSettings) -> list[str]:
    """Return what does not fit together in a stage."""
    found = list(token_problems(stage))
    names = stage.source_names
    merges = stage.merge is not None and stage.merge.method in DATA_MERGE_METHODS
    if not names and (stage.steps != 0 or merges):
        found.append("data is empty: name at least one source")
    if stage.steps == 0:
        if stage.merge is None:
            found.append("steps: 0 goes with a merge, and this stage has none")
        elif "stage" in stage.merge.models:
            found.append("steps: 0 trains nothing, so that there is no model 'stage' to merge")
    if len(set(names)) != len(names):
        found.append(f"source names must differ, got {list(names)}")
    if (stage.steps is None) == (stage.epochs is None):
        found.append("give either steps or epochs")
    listed = [source for loss in stage.losses.values() for source in loss.sources]
    for source in {*listed, *stage.negatives.sources}:
        if source not in names:
            found.append(f"no source {source!r} in this stage. {did_you_mean(source, list(names))}")
    if len(set(listed)) != len(listed):
        found.append(f"a source has two losses: {sorted(listed)}")
    if "" in stage.losses:
        found.append("a loss needs a name")
    if stage.batches.losses:
        found.append("batches.losses follows from losses: leave it out")
    if stage.warmup >= 1 and stage.warmup != int(stage.warmup):
        found.append(f"warmup of 1 or more is a number of steps, got {stage.warmup}")
    if (stage.batches.strategy == "clustered") != (stage.clusters is not None):
        found.append("clusters goes with the batch strategy 'clustered', and only with it")
    if stage.cache_gradients and stage.mini_batch_tokens is None and stage.mini_batch_size is None:
        found.append("cache_gradients needs mini_batch_tokens or mini_batch_size")
    if stage.matryoshka and stage.negatives.queue:
        found.append("a queue keeps vectors of one dimension: not with matryoshka")
    if stage.nested and stage.negatives.queue:
        found.append("a queue keeps vectors of one dimension: not with nested")
    if stage.nested and stage.matryoshka:
        found.append("nested trains dimensions too: leave out matryoshka")
    for pattern in stage.frozen:
        try:
            re.compile(pattern)
        except re.error as error:
            found.append(f"frozen: {pattern!r} is not a regular expression ({error})")
    objectives = stage.objectives().values()
    wants_guide = any(o.masks.guide is not None for o in objectives)
    if wants_guide != (stage.guide is not None):
        found.append("a guide model goes with an objective that masks by a guide, and only with it")
    if stage.teacher is not None and not any(o.teacher.weight > 0 for o in objectives):
        found.append("a teacher was named, but no objective has a teacher weight above 0")
    for objective in objectives:
        if objective.targets.kind == "graded":
            found.append("graded targets need grades, which rows do not have: use cosent")
        if ("queue" in objective.candidates) != (stage.negatives.queue > 0):
            found.append("negatives.queue goes with the candidate 'queue', and only with it")
        if stage.negatives.mixer and "own_negatives" not in objective.candidates:
            found.append("a mixer mixes hard negatives: add 'own_negatives' to candidates")
    return found


def unknown_models(stage: StageSettings, earlier: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the names of models in a stage."""
    if stage.start is not None:
        known = ["base", *earlier]
        if stage.start not in known:
            yield f"start {stage.start!r} is no earlier stage. {did_you_mean(stage.start, known)}"
        if not stage.reset_optimizer:
            yield "an optimiser goes on from the stage before: leave start out"
    if stage.merge is not None:
        known = ["base", "start", "stage", *earlier]
        for name in (*stage.merge.models, *filter(None, [stage.merge.base])):
            if name not in known:
                yield f"merge: no model {name!r}. {did_you_mean(name, known)}"
