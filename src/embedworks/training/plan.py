"""The settings of a staged plan: checked as a whole, written back exactly.

A recipe of ``kind: plan`` holds the published values; under ``scales`` it may hold changes that
make it smaller. Knows no tensors and reads no data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
import yaml
from pydantic import Field

from embedworks._core.registry import did_you_mean
from embedworks._core.settings import Settings
from embedworks.errors import SettingsError
from embedworks.losses import ObjectiveSettings
from embedworks.training._plan_values import unknown_keys
from embedworks.training.plan_model import ModelSettings
from embedworks.training.plan_stage import StageSettings, unknown_models

__all__ = ["PlanEvaluation", "PlanSettings"]

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]


class PlanEvaluation(Settings):
    """What the model is measured on before the first and after every stage."""

    documents: str | None = None
    """Folder, or ``stdlib``: questions are made from the documents that are held out."""
    files: Count | None = None
    """Most documents read; chosen by hash, as for training."""
    rows: str | None = None
    """Parquet file of rows: anchors are questions, positives the corpus."""
    source: str | None = None
    """Source whose prompt the questions get."""
    max_queries: Count = 300
    max_corpus: Count = 2_000
    metrics: tuple[str, ...] = ("ndcg@10", "recall@10")
    confidence: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.95
    sts: str | None = None
    """File of scored pairs."""
    sts_columns: tuple[str, str, str] = ("sentence1", "sentence2", "score")
    sts_where: dict[str, Any] = Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _one_corpus(self) -> Self:
        if self.documents is not None and self.rows is not None:
            raise ValueError("give documents or rows to evaluate on, not both")
        return self


class PlanSettings(Settings):
    """Everything a staged training can be told.

    Example:
        >>> source = {"name": "docs", "documents": "stdlib"}
        >>> plan = PlanSettings.from_dict(
        ...     {"name": "mine", "stages": [{"name": "one", "data": [source], "steps": 10}]}
        ... )
        >>> PlanSettings.from_dict(plan.to_dict()) == plan
        True
        >>> PlanSettings.from_dict({"name": "mine", "stages": [{"stepps": 10}]})
        Traceback (most recent call last):
        ...
        embedworks.errors.SettingsError: PlanSettings is not valid:
        - stages.0.stepps: not a setting here. Did you mean 'steps'?
    """

    kind: Literal["plan"] = "plan"
    """Which command runs a recipe."""
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    paper: str | None = None
    """Reference of the published recipe."""
    seed: Annotated[int, Field(ge=0)] = 0
    holdout: Share = 0.1
    """Share of the documents that evaluation keeps to itself."""
    model: ModelSettings = ModelSettings()
    stages: tuple[StageSettings, ...]
    evaluation: PlanEvaluation = PlanEvaluation()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Validate ``values``; every misspelt key is reported at once, then every bad value.

        Raises:
            SettingsError: Naming each field, its value and what is allowed.
            UnknownNameError: When a name such as that of a preset is not registered.
        """
        if lines := unknown_keys(cls, values, also={ObjectiveSettings: ("preset",)}):
            raise SettingsError("\n- ".join([f"{cls.__name__} is not valid:", *lines]))
        return super().from_dict(values)

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [stage.name for stage in self.stages]
        if not names:
            raise ValueError("stages is empty: a plan needs at least one")
        if len(set(names)) != len(names):
            raise ValueError(f"stage names must differ, got {names}")
        if not self.stages[0].reset_optimizer:
            raise ValueError("the first stage has no optimiser state to go on with")
        for place, stage in enumerate(self.stages):
            if not stage.reset_optimizer and self.stages[place - 1].pretrain is not None:
                raise ValueError(
                    f"stage {stage.name!r}: pretrain leaves no optimiser to go on with"
                )
            if problems := list(unknown_models(stage, names[:place])):
                raise ValueError(f"stage {stage.name!r}: {'; '.join(problems)}")
        sources = {name for stage in self.stages for name in stage.source_names}
        for name in (*self.model.prompts, *filter(None, [self.evaluation.source])):
            if name != "*" and name not in sources:
                raise ValueError(
                    f"no stage has a source {name!r}. {did_you_mean(name, [*sources])}"
                )
        return self

    def to_yaml_text(self) -> str:
        """Return the settings as YAML."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
