"""What is known about the rows of a batch beside their vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from embedworks.errors import InputError, NonFiniteError, ShapeError

__all__ = ["BatchInfo"]


@dataclass(frozen=True)
class BatchInfo:
    """Facts about B rows with K hard negatives each, all optional.

    Keys are int64; equal keys mean equal things, negative keys mean "not known" and equal nothing.

    Attributes:
        query_keys: (B,) content keys of the queries, for the duplicate mask.
        document_keys: (B,) content keys of the positives.
        negative_keys: (B, K) content keys of the hard negatives.
        negatives_present: bool (B, K), False where a row has fewer than K.
        positive_ids: (B,) ids of the positives.
        negative_ids: (B, K) ids of the hard negatives.
        classes: (B,) classes of the rows.
        negative_classes: (B, K) classes of the hard negatives.
        sources: (B,) index of each row's data set, for temperatures per source.
        weights: float (B,), 0 or greater, a factor on each row's loss.
        grades: float (B, 1 + K), relevance of the positive and each hard negative.
        teacher_scores: float (B, 1 + K), a teacher's scores of the same.
        teacher_query: float (B, Dt), a teacher's query vectors, for an in-batch teacher.
        teacher_document: float (B, Dt).
        teacher_negatives: float (B, K, Dt).
        guide_query: float (B, Dg), a guide model's query vectors.
        guide_document: float (B, Dg).
        guide_negatives: float (B, K, Dg).
        query_mask: bool (B, T), real tokens of token-vector queries.
        document_mask: bool (B, U).
        negatives_mask: bool (B, K, U).
    """

    query_keys: Tensor | None = None
    document_keys: Tensor | None = None
    negative_keys: Tensor | None = None
    negatives_present: Tensor | None = None
    positive_ids: Tensor | None = None
    negative_ids: Tensor | None = None
    classes: Tensor | None = None
    negative_classes: Tensor | None = None
    sources: Tensor | None = None
    weights: Tensor | None = None
    grades: Tensor | None = None
    teacher_scores: Tensor | None = None
    teacher_query: Tensor | None = None
    teacher_document: Tensor | None = None
    teacher_negatives: Tensor | None = None
    guide_query: Tensor | None = None
    guide_document: Tensor | None = None
    guide_negatives: Tensor | None = None
    query_mask: Tensor | None = None
    document_mask: Tensor | None = None
    negatives_mask: Tensor | None = None

    def check(self, rows: int, negatives: int) -> None:
        """Check shapes and values against a batch of ``rows`` with ``negatives`` each.

        Raises:
            ShapeError: When a tensor does not fit; names the field.
            NonFiniteError: When a score or vector is NaN or infinite; names the row.
            InputError: When weights are negative, or all 0.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            expected, ndim = _leading_shape(field.name, rows, negatives), _ndim(field.name)
            if value.ndim != ndim or tuple(value.shape[: len(expected)]) != expected:
                shown = ", ".join([*map(str, expected), *["D"] * (ndim - len(expected))])
                raise ShapeError(
                    f"{field.name} has shape {tuple(value.shape)}, but a batch of {rows} rows with "
                    f"{negatives} hard negatives needs ({shown})."
                )
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                bad = int((~torch.isfinite(value)).flatten().nonzero()[0]) // (value[0].numel())
                raise NonFiniteError(f"{field.name} is not finite in row {bad}.")
        if self.weights is not None:
            if bool((self.weights < 0).any()):
                raise InputError("row weights must be 0 or greater.")
            if not bool((self.weights > 0).any()):
                raise InputError("every row weight is 0: there is nothing to learn from.")

    def require(self, name: str, why: str) -> Tensor:
        """Return a field, or say what it is needed for.

        Raises:
            InputError: When it was not given.
        """
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise InputError(f"{why} needs BatchInfo.{name}, which was not given.")
        return value

    def swapped(self) -> BatchInfo:
        """Return the facts with queries and documents exchanged, without hard negatives."""
        return BatchInfo(
            query_keys=self.document_keys,
            document_keys=self.query_keys,
            positive_ids=self.positive_ids,
            classes=self.classes,
            sources=self.sources,
            weights=self.weights,
            teacher_query=self.teacher_document,
            teacher_document=self.teacher_query,
            guide_query=self.guide_document,
            guide_document=self.guide_query,
            query_mask=self.document_mask,
            document_mask=self.query_mask,
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> BatchInfo:
        """Return the facts with every tensor changed by a function."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: change(v) for k, v in given.items() if v is not None})

    def take(self, rows: Tensor | Sequence[int]) -> BatchInfo:
        """Return the facts of some rows."""
        index = torch.as_tensor(rows)
        return self.map(lambda value: value[index.to(value.device)])


_PER_NEGATIVE = {
    "negative_keys", "negatives_present", "negative_ids", "negative_classes", "teacher_negatives",
    "guide_negatives", "negatives_mask",
}  # fmt: skip
_PER_CANDIDATE = {"grades", "teacher_scores"}
_VECTORS = {"teacher_query", "teacher_document", "guide_query", "guide_document"}
_MASKS = {"query_mask", "document_mask"}


def _leading_shape(name: str, rows: int, negatives: int) -> tuple[int, ...]:
    if name in _PER_NEGATIVE:
        return (rows, negatives)
    return (rows, 1 + negatives) if name in _PER_CANDIDATE else (rows,)


def _ndim(name: str) -> int:
    if name in ("teacher_negatives", "guide_negatives", "negatives_mask"):
        return 3
    return 2 if name in _PER_NEGATIVE | _PER_CANDIDATE | _VECTORS | _MASKS else 1
