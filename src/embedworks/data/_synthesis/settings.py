"""A synthesis pipeline as settings: source, generators, steps."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from embedworks._core.registry import did_you_mean
from embedworks._core.settings import Settings
from embedworks.data._synthesis.rule_generator import RuleBasedGenerator
from embedworks.data.generators import Generator, OpenAIGenerator
from embedworks.data.synthesis_tasks import NEGATIVE_STRATEGIES, QUERY_STYLES, TASK_TYPES
from embedworks.errors import SettingsError

__all__ = ["STEPS", "GeneratorSettings", "StepSettings", "SynthesisSettings"]


class GeneratorSettings(Settings):
    """Who writes.

    Attributes:
        kind: ``rule-based``, offline, or ``openai``, any OpenAI-compatible endpoint.
        base_url: Address of the endpoint, up to the version.
        model: Model to run there.
        api_key_env: Environment variable that holds the key.
        timeout: Seconds one try may take.
        max_retries: Tries after the first.
        json_mode: How JSON is asked for: ``schema``, ``object`` or ``off``.
        extra_body: Fields added to every request; null removes one.
        prompt_price: Price per million tokens read.
        completion_price: Price per million tokens written.
    """

    kind: Literal["rule-based", "openai"] = "rule-based"
    base_url: str | None = None
    model: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    timeout: float = Field(default=120.0, gt=0)
    max_retries: int = Field(default=5, ge=0)
    json_mode: Literal["schema", "object", "off"] = "schema"
    extra_body: dict[str, Any] = Field(default_factory=dict)
    prompt_price: float = Field(default=0.0, ge=0)
    completion_price: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _complete(self) -> GeneratorSettings:
        given = self.base_url is not None, self.model is not None
        if self.kind == "openai" and not all(given):
            raise ValueError("a generator of kind openai needs base_url and model")
        if self.kind == "rule-based" and any(given):
            raise ValueError("base_url and model belong to kind openai")
        return self

    def build(self) -> Generator:
        """Return the generator.

        Raises:
            InputError: When the address is not http(s).

        Example:
            >>> GeneratorSettings().build().identity
            'rule-based-1'
        """
        if self.kind == "rule-based":
            return RuleBasedGenerator()
        assert self.base_url is not None
        assert self.model is not None
        return OpenAIGenerator(
            self.base_url,
            self.model,
            api_key_env=self.api_key_env,
            timeout=self.timeout,
            max_retries=self.max_retries,
            json_mode=self.json_mode,
            extra_body=self.extra_body,
        )


class StepSettings(Settings):
    """What every step has: its name, and who works on it (None: every generator)."""

    step: str
    generators: tuple[str, ...] | None = Field(default=None, min_length=1)


class TasksStep(StepSettings):
    """Tasks from nothing, then rows for them; ``generators`` write the rows."""

    step: Literal["tasks"] = "tasks"
    task_types: tuple[str, ...] = ("short-long", "long-short", "short-short")
    tasks_per_type: int = Field(default=20, ge=1)
    rows_per_task: int = Field(default=2, ge=1)
    topics: tuple[str, ...] = ()
    languages: tuple[str, str] | None = None
    task_generators: tuple[str, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _known(self) -> TasksStep:
        _check_names("task_types", self.task_types, TASK_TYPES)
        if "bitext" in self.task_types and len(set(self.languages or ())) != 2:
            raise ValueError("task type bitext needs two different languages")
        return self


class QueriesStep(StepSettings):
    """Queries for the passages of the documents, or for the positives of the rows."""

    step: Literal["queries"] = "queries"
    styles: tuple[str, ...] = tuple(QUERY_STYLES)
    per_passage: int = Field(default=1, ge=1)
    count: int | None = Field(default=None, ge=1)
    min_words: int = Field(default=8, ge=1)

    @field_validator("styles")
    @classmethod
    def _known(cls, styles: tuple[str, ...]) -> tuple[str, ...]:
        return _check_names("styles", styles, QUERY_STYLES)


class ParaphraseStep(StepSettings):
    """All rows so far in other words."""

    step: Literal["paraphrase"] = "paraphrase"
    per_row: int = Field(default=1, ge=1)
    max_overlap: float = Field(default=0.8, ge=0, le=1)


class AugmentStep(StepSettings):
    """New pairs on other aspects of all rows so far."""

    step: Literal["augment"] = "augment"
    per_row: int = Field(default=1, ge=1)


class HardNegativesStep(StepSettings):
    """Hard negatives for rows that have too few."""

    step: Literal["hard-negatives"] = "hard-negatives"
    count: int = Field(default=1, ge=1)
    share: float = Field(default=1.0, ge=0, le=1)
    strategies: tuple[str, ...] = tuple(NEGATIVE_STRATEGIES)

    @field_validator("strategies")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _check_names("strategies", names, NEGATIVE_STRATEGIES)


class RelabelStep(StepSettings):
    """Negatives that answer the query after all are dropped or become positives."""

    step: Literal["relabel"] = "relabel"
    action: Literal["drop", "convert"] = "drop"


#: Step -> its settings.
STEPS: dict[str, type[StepSettings]] = {
    "tasks": TasksStep,
    "queries": QueriesStep,
    "paraphrase": ParaphraseStep,
    "augment": AugmentStep,
    "hard-negatives": HardNegativesStep,
    "relabel": RelabelStep,
}


def _check_names(what: str, names: tuple[str, ...], known: dict[str, str]) -> tuple[str, ...]:
    if not names:
        raise ValueError(f"{what} is empty: name at least one of {', '.join(known)}")
    for name in names:
        if name not in known:
            raise ValueError(f"{what}: {name!r} is not known. {did_you_mean(name, list(known))}")
    return names


class SynthesisSettings(Settings):
    """A pipeline: what to start from, who writes, and the steps in their order.

    Attributes:
        documents: Folder, file or table to read passages from.
        rows: Parquet file of training rows to work on, instead of or beside documents.
        exclude: Globs of relative paths of documents to leave out.
        max_passage_tokens: Longest passage the documents are cut into, in estimated tokens.
        generators: Name -> generator; the mixture is equal.
        steps: A list of mappings with ``step`` and its settings: ``tasks``, ``queries``,
            ``paraphrase``, ``augment``, ``hard-negatives``, ``relabel``.
        seed: Seed of every random choice.
        workers: Requests on the way at the same time.
        max_attempts: Answers asked for before an item is dropped.
        max_tokens: Most tokens of one answer.
        temperature: Randomness of the answers.
        personas: In whose voices texts are written, drawn at random.

    Example:
        >>> settings = SynthesisSettings.from_dict({"documents": "docs", "steps": [
        ...     {"step": "queries", "per_passage": 2}, {"step": "hard-negatives"}]})
        >>> [step.step for step in settings.steps]
        ['queries', 'hard-negatives']
        >>> SynthesisSettings.from_dict({"documents": "docs", "steps": [{"step": "querys"}]})
        Traceback (most recent call last):
        ...
        embedworks.errors.SettingsError: SynthesisSettings is not valid:
        - steps: Value error, step 'querys' is not known. Did you mean 'queries'?, got ...
    """

    documents: str | None = None
    rows: str | None = None
    exclude: tuple[str, ...] = ()
    max_passage_tokens: int = Field(default=256, ge=16)
    generators: dict[str, GeneratorSettings] = Field(
        default={"rules": GeneratorSettings()}, min_length=1
    )
    steps: tuple[Any, ...] = Field(
        default=({"step": "queries"}, {"step": "hard-negatives"}, {"step": "relabel"}),
        min_length=1,
    )
    seed: int = Field(default=0, ge=0)
    workers: int = Field(default=4, ge=1, le=256)
    max_attempts: int = Field(default=3, ge=1)
    max_tokens: int = Field(default=2_000, ge=1)
    temperature: float = Field(default=0.8, ge=0)
    personas: tuple[str, ...] = ()

    @field_validator("steps")
    @classmethod
    def _steps(cls, steps: tuple[Any, ...]) -> tuple[StepSettings, ...]:
        return tuple(_step(value) for value in steps)

    @field_validator("generators", mode="before")
    @classmethod
    def _generators(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            k: GeneratorSettings.from_dict(v) if isinstance(v, dict) else v
            for k, v in value.items()
        }

    @model_validator(mode="after")
    def _fitting(self) -> SynthesisSettings:
        for step in self.steps:
            for name in (*(step.generators or ()), *(getattr(step, "task_generators", None) or ())):
                if name not in self.generators:
                    hint = did_you_mean(name, list(self.generators))
                    raise ValueError(f"step {step.step}: no generator {name!r}. {hint}")
        if self.documents is None and self.rows is None and self.steps[0].step != "tasks":
            raise ValueError(
                "there is no source: give documents or rows, or begin with the step 'tasks'"
            )
        if self.documents is not None and "queries" not in {s.step for s in self.steps}:
            raise ValueError("documents are only read by the step 'queries', which is missing")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values that `from_dict` reads back exactly."""
        values = super().to_dict()
        return {**values, "steps": [step.to_dict() for step in self.steps]}


def _step(value: Any) -> StepSettings:
    if isinstance(value, StepSettings):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("step"), str):
        raise ValueError(f"every step is a mapping with the key 'step', got {value!r:.60}")
    name = value["step"]
    if name not in STEPS:
        raise ValueError(f"step {name!r} is not known. {did_you_mean(name, list(STEPS))}")
    try:
        return STEPS[name].from_dict(value)
    except SettingsError as error:
        raise ValueError(f"step {name!r}: {error}") from error
