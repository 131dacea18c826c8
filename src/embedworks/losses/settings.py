"""What a contrastive objective is made of, as data: one field for each letter that papers change.

Knows no tensors. `ContrastiveLoss` computes what is described here; `OBJECTIVES` names the
published combinations.
"""

from __future__ import annotations

from typing import Literal, Self

import pydantic

from embedworks._core.settings import Settings
from embedworks.losses.schedules import Schedule

__all__ = [
    "CANDIDATES",
    "GuideSettings",
    "MaskSettings",
    "NegativeWeightSettings",
    "ObjectiveSettings",
    "SampleWeightSettings",
    "TargetSettings",
    "TeacherSettings",
    "TemperatureSettings",
]

Candidate = Literal[
    "documents",
    "own_negatives",
    "other_negatives",
    "queries",
    "document_documents",
    "document_negatives",
    "document_queries",
    "queue",
]
Direction = Literal["query_to_document", "document_to_query"]

#: What can stand in the denominator beside the positive, and what it is.
CANDIDATES: dict[str, str] = {
    "documents": "the query against the positives of other rows",
    "own_negatives": "the query against its own hard negatives",
    "other_negatives": "the query against the hard negatives of other rows",
    "queries": "the query against the queries of other rows",
    "document_documents": "the positive against the positives of other rows",
    "document_negatives": "the positive against the hard negatives of other rows",
    "document_queries": "the positive against all queries, its own included",
    "queue": "the query against documents of earlier batches",
}


class TemperatureSettings(Settings):
    """What similarities are divided by. A plain number is a fixed temperature.

    Attributes:
        value: The temperature, or where learning starts. Above 0; 0.01 to 0.1 is usual for
            cosines.
        learned: Train its logarithm with the model.
        per_source: Give every data set one of its own, all starting at ``value`` unless ``sources``
            says otherwise.
        sources: Starting values of some sources, by name.
        lowest: Smallest value a learned temperature can take.
        highest: Largest value a learned temperature can take.
    """

    value: float = pydantic.Field(default=0.05, gt=0, allow_inf_nan=False)
    learned: bool = False
    per_source: bool = False
    sources: dict[str, float] = pydantic.Field(default_factory=dict)
    lowest: float = pydantic.Field(default=0.005, gt=0)
    highest: float = pydantic.Field(default=0.5, gt=0, allow_inf_nan=False)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"value": float(value)}
        return value

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.sources and not self.per_source:
            raise ValueError("temperatures of sources were given but per_source is false")
        if any(not value > 0 for value in self.sources.values()):
            raise ValueError(f"every temperature must be above 0, got {self.sources}")
        if self.learned:
            if self.lowest >= self.highest:
                raise ValueError(f"lowest {self.lowest} must be below highest {self.highest}")
            for value in (self.value, *self.sources.values()):
                if not self.lowest <= value <= self.highest:
                    raise ValueError(
                        f"a learned temperature must start between lowest {self.lowest} and "
                        f"highest {self.highest}, got {value}"
                    )
        return self


class GuideSettings(Settings):
    """Drop candidates which a frozen guide model finds closer than the positive.

    A candidate is dropped when its guide score is above ``t - margin`` (absolute) or above
    ``t - |t| * margin`` (relative), where t is the guide's score of the row's own pair.

    Attributes:
        margin: How far below the positive dropping begins; 0 is the published rule. Negative
            values keep candidates that score slightly above the positive.
        kind: ``absolute`` or ``relative``.

    Paper: Solatorio 2024, arXiv 2402.16829 (GISTEmbed); margins as in sentence-transformers.
    """

    margin: float = pydantic.Field(default=0.0, ge=-1, le=1)
    kind: Literal["absolute", "relative"] = "absolute"


class MaskSettings(Settings):
    """Which candidates are not used as negatives because they may be positives.

    Attributes:
        duplicates: Drop candidates whose text equals the row's query or positive, or that belong
            to a row with an equal query or positive.
        same_id: Drop candidates with the row's positive id.
        same_class: Drop candidates of the row's class (QZhou-Embedding, arXiv 2508.21632).
        guide: Drop what a guide model ranks above the positive.
        similar_to_positive: Drop documents whose similarity to the row's positive is above this
            (RzenEmbed, arXiv 2510.27350, uses 0.95). The similarity is the trained model's.
        above_positive: Drop candidates whose score exceeds the positive's by more than this.
    """

    duplicates: bool = True
    same_id: bool = False
    same_class: bool = False
    guide: GuideSettings | None = None
    similar_to_positive: float | None = pydantic.Field(default=None, gt=-1, le=1)
    above_positive: float | None = pydantic.Field(default=None, ge=0, allow_inf_nan=False)


class NegativeWeightSettings(Settings):
    """Weight of each negative in the denominator.

    ``hardness`` multiplies it by ``exp(strength * similarity)`` (as in sentence-transformers and
    RzenEmbed), so the total weight grows. ``progressive`` uses ``N * softmax(strength *
    similarity)`` over a row's N negatives, whose mean is 1: our reading of PEG.

    Attributes:
        kind: ``none``, ``hardness`` or ``progressive``.
        strength: Schedule or number. 0 is no weighting; negative values play hard negatives down.
        scope: ``all_negatives``, ``in_batch_negatives`` (all but the row's own hard negatives) or
            ``hard_negatives`` (those alone). Candidates compared with the positive instead of the
            query, and queries, always keep weight 1.
        detach: Take the weights as constants in the gradient.
    """

    kind: Literal["none", "hardness", "progressive"] = "none"
    strength: Schedule = Schedule.of(0.0)
    scope: Literal["all_negatives", "in_batch_negatives", "hard_negatives"] = "all_negatives"
    detach: bool = True


class SampleWeightSettings(Settings):
    """Weight of each row in the loss.

    ``focal`` uses ``(1 - p) ** exponent`` with p the probability of the positive
    (KaLM-Embedding-V2, arXiv 2506.20923).

    Attributes:
        kind: ``none`` or ``focal``.
        exponent: Schedule or number; 0 is no weighting, negative values stress easy rows.
        normalize: Divide by the mean weight, so that the loss does not shrink as rows get easy.
        detach: Take the weights as constants in the gradient.
    """

    kind: Literal["none", "focal"] = "none"
    exponent: Schedule = Schedule.of(0.5)
    normalize: bool = False
    detach: bool = True

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.normalize and not self.detach:
            raise ValueError("normalised sample weights must be detached")
        return self


class TargetSettings(Settings):
    """Which candidates are positives.

    Attributes:
        kind: ``one`` (the row's own document), ``several`` (also in-batch documents of rows that
            share its id or class, each with equal weight) or ``graded`` (the row's own document
            and hard negatives, in proportion to given grades; grade 0 is a negative).
        by: For ``several``: what makes two rows' documents positives of each other.
    """

    kind: Literal["one", "several", "graded"] = "one"
    by: Literal["id", "class"] = "id"


class TeacherSettings(Settings):
    """Add the divergence from a teacher's distribution over candidates.

    Attributes:
        weight: Factor of the divergence. 0 for none.
        temperature: What teacher scores are divided by.
        student_temperature: What student similarities are divided by; None for the objective's.
        scope: ``own`` (the row's document and hard negatives, with given scores) or ``in_batch``
            (also other rows' documents, scored from the teacher's vectors).
        normalize: What is done to each row's teacher scores first: ``none``, ``minmax``,
            ``zscore`` or ``sigmoid``. Raw scores of rerankers span tens of units: nearly one-hot.

    Papers: LG-ANNA-Embedding (arXiv 2506.07438), KaLM-Embedding-V2 (arXiv 2506.20923).
    """

    weight: float = pydantic.Field(default=0.0, ge=0, allow_inf_nan=False)
    temperature: float = pydantic.Field(default=0.05, gt=0, allow_inf_nan=False)
    student_temperature: float | None = pydantic.Field(default=None, gt=0)
    scope: Literal["own", "in_batch"] = "own"
    normalize: Literal["none", "minmax", "zscore", "sigmoid"] = "none"


class ObjectiveSettings(Settings):
    """A contrastive objective.

    For row i with scores ``S = similarity / temperature``, positives P, allowed negatives A,
    negative weights W, targets y and sample weight w::

        L_i = w_i * ( -sum_p y_ip S_ip + log( sum_p e^S_ip + sum_j A_ij W_ij e^S_ij ) )

    Attributes:
        similarity: ``cosine``, ``dot`` or ``maxsim`` (late interaction; (B, T, D) inputs).
        candidates: What stands in the denominator beside the positive; see `CANDIDATES`.
        directions: ``query_to_document``, ``document_to_query`` (each document against all
            queries) or both, averaged.
        temperature: Fixed, learned, per source.
        masks: Candidates that are left out.
        negative_weights: W.
        sample_weights: w.
        targets: P and y.
        teacher: Soft targets, added.
        contrastive_weight: Factor of the contrastive part; 0 trains on the teacher alone.

    Example:
        >>> settings = ObjectiveSettings(temperature=0.02, candidates=("own_negatives",))
        >>> settings.temperature.value
        0.02
    """

    similarity: Literal["cosine", "dot", "maxsim"] = "cosine"
    candidates: tuple[Candidate, ...] = ("documents", "own_negatives", "other_negatives")
    directions: tuple[Direction, ...] = ("query_to_document",)
    temperature: TemperatureSettings = TemperatureSettings()
    masks: MaskSettings = MaskSettings()
    negative_weights: NegativeWeightSettings = NegativeWeightSettings()
    sample_weights: SampleWeightSettings = SampleWeightSettings()
    targets: TargetSettings = TargetSettings()
    teacher: TeacherSettings = TeacherSettings()
    contrastive_weight: float = pydantic.Field(default=1.0, ge=0, allow_inf_nan=False)

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = list(_conflicts(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _conflicts(s: ObjectiveSettings) -> list[str]:
    """Return why parts cannot be combined."""
    found = []
    if not s.candidates:
        found.append("candidates is empty: the loss would be 0 for any model")
    if not s.directions:
        found.append("directions is empty")
    for name, values in (("candidates", s.candidates), ("directions", s.directions)):
        if len(set(values)) != len(values):
            found.append(f"{name} names something twice: {list(values)}")
    if "document_to_query" in s.directions and "documents" not in s.candidates:
        found.append("document_to_query contrasts with the batch: add 'documents' to candidates")
    if s.similarity == "maxsim":
        if "queue" in s.candidates:
            found.append("a queue of token vectors is not supported: remove 'queue' or maxsim")
        if s.masks.similar_to_positive is not None:
            found.append("similar_to_positive compares single vectors: not with maxsim")
        if {"queries", "document_documents", "document_negatives"} & set(s.candidates):
            found.append("maxsim scores a query against a document: no same-side candidates")
    if s.similarity == "dot" and s.masks.similar_to_positive is not None:
        found.append("similar_to_positive is a threshold on cosines: not with dot")
    if s.targets.kind == "several":
        if "documents" not in s.candidates:
            found.append("several targets are documents of the batch: add 'documents'")
        if s.targets.by == "id" and s.masks.same_id:
            found.append("rows of the same id cannot be both positives and masked")
        if s.targets.by == "class" and s.masks.same_class:
            found.append("rows of the same class cannot be both positives and masked")
        if not s.sample_weights.detach:
            found.append("sample weights must be detached with several targets")
    if s.targets.kind == "graded":
        if "own_negatives" not in s.candidates:
            found.append("graded targets lie among the hard negatives: add 'own_negatives'")
        if not s.sample_weights.detach:
            found.append("sample weights must be detached with graded targets")
    if s.teacher.weight and "query_to_document" not in s.directions:
        found.append("a teacher orders documents for queries: add 'query_to_document'")
    if s.teacher.scope == "in_batch" and s.teacher.weight and s.teacher.normalize != "none":
        found.append("an in-batch teacher scores with cosines: normalize must be 'none'")
    if s.contrastive_weight == 0 and s.teacher.weight == 0:
        found.append("contrastive_weight and teacher.weight are both 0: nothing to learn from")
    weights = s.negative_weights
    if weights.kind == "hardness" and not weights.detach and min(weights.strength.values) < 0:
        found.append("a negative hardness strength must be detached")
    return found
