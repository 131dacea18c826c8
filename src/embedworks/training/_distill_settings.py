"""The settings of the recipe that makes a bundled static model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from embedworks._core.settings import Settings

__all__ = [
    "ContrastiveSettings",
    "DistillSettings",
    "SimilaritySettings",
    "StudentSettings",
    "TeacherSettings",
]

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0)]


class TeacherSettings(Settings):
    """How the teacher's sentence vectors are made."""

    max_texts: Count
    """Most texts to encode, beside the vocabulary; chosen by a hash of the text."""
    max_words: Count
    """Texts are cut to so many words, for teacher and student alike."""
    max_chars: Count
    """And to so many characters."""
    token_budget: Count
    """Padded tokens per batch."""


class StudentSettings(Settings):
    """The table's shape and its start."""

    dim: Annotated[int, Field(ge=2, le=384)]
    """Dimensions; the teacher's space is cut to them by PCA."""
    added_words: Annotated[int, Field(ge=0)]
    """Frequent whole words added to the teacher's word pieces."""
    frequency_smoothing: Positive
    """`a` in the starting weight a / (a + p) of a token with relative frequency p."""


class SimilaritySettings(Settings):
    """Learning from the teacher's vectors; see `similarity_loss`."""

    batch_size: Count
    cluster_size: Count
    """Batches are filled with blocks of related texts from clusters of about this size."""
    cosine: Weight
    matrix: Weight
    ranking: Weight
    tau: Positive


class ContrastiveSettings(Settings):
    """Learning from natural pairs."""

    temperature: Positive
    batch_size: Count
    """Pairs per batch; a batch holds one kind only, so that its negatives are of that kind too."""
    cluster_size: Count
    """As above, for pairs, by their positives: the negatives in a batch become harder."""
    per_step: Count
    """Batches per step, their kinds drawn by weight."""
    scale: Positive
    """Weight of the contrastive loss beside the similarity loss."""
    max_words: Count
    """Texts are cut to so many words."""
    groups: dict[str, Positive]
    """``source.kind`` of `SOURCES` -> how often it is drawn."""


class DistillSettings(Settings):
    """Everything that decides the model, apart from the data."""

    kind: Literal["distill-static"]
    name: str
    texts: dict[str, Count]
    """``source.kind`` of `SOURCES` -> most texts to take."""
    decontaminate: dict[str, tuple[str, ...]]
    """Evaluation file -> text columns; training texts equal to one of them are dropped."""
    teacher: TeacherSettings
    student: StudentSettings
    similarity: SimilaritySettings
    contrastive: ContrastiveSettings
    steps: Count
    learning_rate: Positive
    warmup_fraction: Annotated[float, Field(ge=0.0, le=1.0)]
    checkpoint_every: Count

    @field_validator("texts")
    @classmethod
    def _dotted(cls, value: dict[str, int]) -> dict[str, int]:
        for key in value:
            if key.count(".") != 1:
                raise ValueError(f"{key!r} must be written source.kind, such as acl.title")
        return value
