"""Objectives of published systems, by name.

Where a paper does not state a value, the summary says so and the value is ours.
"""

from __future__ import annotations

from typing import Any

from embedworks._core.registry import Registry
from embedworks.losses.settings import ObjectiveSettings

__all__ = ["OBJECTIVES", "objective"]

#: Objectives by name.
OBJECTIVES: Registry[ObjectiveSettings] = Registry("objectives")

_BATCH = ("documents", "own_negatives", "other_negatives")
_SAME_SIDE = (*_BATCH, "queries", "document_documents", "document_queries")


def objective(name: str, **changes: Any) -> ObjectiveSettings:
    """Return a named objective, with some settings changed.

    Args:
        name: One of `OBJECTIVES`.
        changes: Fields of `ObjectiveSettings`.

    Raises:
        UnknownNameError: When there is no such objective.
        SettingsError: When a change is not valid.

    Example:
        >>> objective("gist", temperature=0.02).temperature.value
        0.02
    """
    settings = OBJECTIVES[name]
    return settings.replace(**changes) if changes else settings


def _add(name: str, summary: str, **values: Any) -> None:
    OBJECTIVES.add(name, ObjectiveSettings.from_dict(values), summary=summary)


_add(
    "infonce",
    "Own document against the batch's documents and hard negatives (arXiv 1807.03748)",
    temperature=0.05,
)
_add(
    "infonce-symmetric",
    "InfoNCE in both directions, averaged",
    temperature=0.05,
    directions=["query_to_document", "document_to_query"],
)
_add(
    "gte",
    "One softmax over documents, queries and both same-side blocks (arXiv 2308.03281)",
    temperature=0.01,
    candidates=_SAME_SIDE,
)
_add(
    "gist",
    "Same-side blocks, filtered by a guide model (arXiv 2402.16829)",
    temperature=0.01,
    candidates=("documents", "own_negatives", "other_negatives", "queries", "document_documents"),
    masks={"guide": {"margin": 0.0}},
)
_add(
    "nv-embed/1",
    "Stage 1: in-batch and hard negatives (arXiv 2405.17428; temperature not stated, 0.02 ours)",
    temperature=0.02,
)
_add(
    "nv-embed/2",
    "Stage 2: the row's own hard negatives alone (arXiv 2405.17428; temperature ours)",
    temperature=0.02,
    candidates=("own_negatives",),
)
_add(
    "nemotron",
    "The row's own mined hard negatives alone (arXiv 2511.07025)",
    temperature=0.02,
    candidates=("own_negatives",),
)
_add(
    "gecko",
    "Hard negatives, other documents and other queries, as compared in arXiv 2511.07025",
    temperature=0.02,
    candidates=("documents", "own_negatives", "queries"),
)
_add(
    "gemini",
    "Hard negatives and other documents, no same side, as compared in arXiv 2511.07025",
    temperature=0.02,
    candidates=("documents", "own_negatives"),
)
_add(
    "qwen3",
    "All blocks; drops what scores 0.1 above the positive, as compared in arXiv 2511.07025",
    temperature=0.02,
    candidates=(
        "documents", "own_negatives", "other_negatives", "queries", "document_documents",
        "document_negatives",
    ),
    masks={"above_positive": 0.1},
)  # fmt: skip
_add(
    "kalm",
    "Focal weights over in-batch and all hard negatives (arXiv 2506.20923)",
    temperature=0.01,
    sample_weights={"kind": "focal", "exponent": 0.5},
)
_add(
    "kalm/distill",
    "Focal InfoNCE plus divergence from a teacher, 1 : 1 (arXiv 2506.20923; the ratio is ours)",
    temperature=0.01,
    sample_weights={"kind": "focal", "exponent": 0.5},
    teacher={
        "weight": 1.0, "temperature": 0.05, "student_temperature": 0.05, "scope": "in_batch",
    },
)  # fmt: skip
_add(
    "qzhou/retrieval",
    "In-batch documents and hard negatives, plus other queries (arXiv 2508.21632)",
    temperature=0.02,
    candidates=("documents", "own_negatives", "other_negatives", "queries"),
)
_add(
    "qzhou/class",
    "Other anchors and all negatives, rows of the same class left out (arXiv 2508.21632)",
    temperature=0.02,
    candidates=("own_negatives", "other_negatives", "queries"),
    masks={"same_class": True},
)
_add(
    "lg-anna",
    "InfoNCE and soft labels of a retrieval pipeline, half each (arXiv 2506.07438; mix is ours)",
    temperature=0.02,
    contrastive_weight=0.5,
    teacher={"weight": 0.5, "temperature": 1.0, "scope": "own"},
)
_add(
    "peg",
    "Hardness of negatives counts more as training goes on (our reading of arXiv 2311.11691)",
    temperature=0.02,
    negative_weights={
        "kind": "progressive",
        "strength": {"kind": "linear", "start": 0.0, "end": 5.0, "to": 0.8},
    },
)
_add(
    "rzen",
    "Hardness weights, no near-copies of the positive, learned temperatures (arXiv 2510.27350)",
    temperature={"value": 0.02, "learned": True, "per_source": True},
    masks={"similar_to_positive": 0.95},
    negative_weights={"kind": "hardness", "strength": 9.0},
)
_add(
    "supcon",
    "All documents of a row's class are positives (arXiv 2004.11362)",
    temperature=0.05,
    candidates=("documents",),
    targets={"kind": "several", "by": "class"},
)
_add(
    "colbert",
    "Late interaction against the batch (arXiv 2004.12832; softmax over the batch)",
    similarity="maxsim",
    temperature=0.02,
)
