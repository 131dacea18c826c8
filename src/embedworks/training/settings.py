"""The settings of an adaptation, as one frozen object that YAML reads and writes exactly."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from embedworks._core.settings import Settings
from embedworks.training.budget import parse_duration

__all__ = [
    "AdaptSettings",
    "ChunkingSettings",
    "EvaluationSettings",
    "MergeSettings",
    "NegativeSettings",
    "PairSettings",
    "ReadingSettings",
    "SearchSettings",
    "SplitSettings",
    "StaticSettings",
    "TransformerSettings",
]

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class ReadingSettings(Settings):
    """What is read from the source."""

    text_column: str = "text"
    """Column of a table that holds the text."""
    title_column: str = "title"
    """Column of a table that holds the title; may be absent."""
    id_column: str | None = None
    """Column of unique ids; None looks for `doc_id`, then `id`."""
    exclude: tuple[str, ...] = ()
    """Glob patterns of relative paths to leave out."""
    keep_duplicates: bool = False
    """Keep documents with the same text, because judgements name them by id."""


class ChunkingSettings(Settings):
    """How documents are cut."""

    max_tokens: Count = 256
    """Longest chunk, in tokens of the base model; never more than the base reads."""


class PairSettings(Settings):
    """How training pairs are made without labels."""

    sources: dict[str, float] | None = None
    """Pair source -> weight; None takes every source with its default weight."""
    per_chunk: Count = 4
    """Most pairs one chunk may give."""
    round_trip_rank: Count = 100
    """A pair is dropped when the base model and BM25 both rank its positive below this."""
    max_pairs: Count = 200_000
    """Most training pairs in all; a seeded sample is taken beyond it."""


class SplitSettings(Settings):
    """Shares of documents, not of pairs."""

    validation: Share = 0.1
    test: Share = 0.1


class NegativeSettings(Settings):
    """How hard negatives are mined."""

    count: Count = 2
    """Hard negatives per pair, for static bases (transformers use one)."""
    depth: Count = 50
    """How many of the best-ranked candidates are looked at."""
    margin: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    """A negative must score below this share of the positive's score."""


class StaticSettings(Settings):
    """How the table of a static model is trained."""

    epochs: Positive = 8.0
    batch_size: Count = 256
    learning_rate: Positive = 0.003
    temperature: Positive = 0.05
    anchor_strength: Annotated[float, Field(ge=0.0)] = 0.0
    """Pull of each row towards its value in the base table."""


class TransformerSettings(Settings):
    """How a transformer is fine-tuned."""

    epochs: Positive = 1.0
    batch_size: Count = 32
    learning_rate: Positive = 2e-5
    temperature: Positive = 0.05
    max_tokens: Count = 64
    """Longest text while training; searching uses the model's own limit."""
    warmup_share: Share = 0.1


class MergeSettings(Settings):
    """How much of the adapted model goes into the final one."""

    weights: tuple[Share, ...] = (0.25, 0.5, 0.75, 1.0)
    """Candidate weights of the adapted model; 0, the base itself, is always a candidate."""
    transformer_weights: tuple[Share, ...] = (0.5, 1.0)
    """The same for transformers, where every candidate costs an encoding of the texts."""
    confidence: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.8
    """The gain on validation must be above zero with this two-sided confidence."""
    metric: str = "ndcg@10"
    max_corpus: Count = 600
    """Chunks searched on validation when the base is a transformer; a third of them at most
    have a question."""


class SearchSettings(Settings):
    """How hybrid search combines BM25 and the model; the values are stored with the collection."""

    bm25_weight: Share | None = None
    """Share of BM25; None starts from 0.5 for static models and 0.35 for transformers, and moves
    away from it only when validation shows a gain."""
    feedback_rows: Annotated[int, Field(ge=0)] = 5
    """How many first results refine the query; 0 leaves that step out."""


class EvaluationSettings(Settings):
    """How the result is measured."""

    metrics: tuple[str, ...] = ("ndcg@10", "recall@10", "mrr@10")
    max_queries: Count = 1_000
    """Most held-out queries per split; a seeded sample is taken beyond it."""
    confidence: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.95
    resamples: Count = 2_000
    failures: Count = 10
    """How many failed queries the report shows."""


class AdaptSettings(Settings):
    """Everything `adapt` can be told.

    Example:
        >>> AdaptSettings(budget="5m").static.batch_size
        256
        >>> AdaptSettings.from_dict({"bugdet": "5m"})
        Traceback (most recent call last):
        ...
        embedworks.errors.SettingsError: AdaptSettings is not valid:
        - bugdet: not a setting here. Did you mean 'budget'?
    """

    kind: Literal["adapt"] = "adapt"
    """Which command runs a recipe."""
    base: str = "static"
    """Model to start from: `static`, `minilm`, a folder, or a hub name."""
    budget: str = "10m"
    """Wall clock for the whole job."""
    seed: Annotated[int, Field(ge=0)] = 0
    reading: ReadingSettings = ReadingSettings()
    chunking: ChunkingSettings = ChunkingSettings()
    pairs: PairSettings = PairSettings()
    split: SplitSettings = SplitSettings()
    negatives: NegativeSettings = NegativeSettings()
    static: StaticSettings = StaticSettings()
    transformer: TransformerSettings = TransformerSettings()
    merge: MergeSettings = MergeSettings()
    search: SearchSettings = SearchSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @field_validator("budget")
    @classmethod
    def _is_duration(cls, value: str) -> str:
        parse_duration(value)
        return value
