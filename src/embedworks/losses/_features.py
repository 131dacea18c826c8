"""Facts about rows that travel inside the features of a batch, and keys made from the features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from embedworks.errors import InputError
from embedworks.losses.batch_info import BatchInfo

Features = dict[str, Any]

#: Key in a column's features -> field of `BatchInfo`, for what is known once per row.
ROW_FACTS = {
    "row_source": "sources",
    "row_class": "classes",
    "row_id": "positive_ids",
    "row_weight": "weights",
    "row_grades": "grades",
    "row_teacher_scores": "teacher_scores",
}
#: What is known for every input of every column.
INPUT_KEY, INPUT_PRESENT, INPUT_CLASS = "row_key", "row_present", "row_negative_class"
_RESERVED = {*ROW_FACTS, INPUT_KEY, INPUT_PRESENT, INPUT_CLASS}


def split_features(columns: Sequence[Features]) -> tuple[list[Features], BatchInfo]:
    """Take the facts out of the features.

    Returns:
        The features a model is called with, and the facts.
    """
    plain = [{k: v for k, v in column.items() if k not in _RESERVED} for column in columns]
    keys = [_input_keys(column, rest) for column, rest in zip(columns, plain, strict=True)]
    facts: dict[str, Tensor | None] = {
        field: columns[0].get(name) for name, field in ROW_FACTS.items()
    }
    if keys[0] is not None and keys[1] is not None:
        facts["query_keys"], facts["document_keys"] = keys[0], keys[1]
        rest = [k for k in keys[2:] if k is not None]
        if rest and len(rest) == len(columns) - 2:
            facts["negative_keys"] = torch.stack(rest, dim=1)
    for name, field in ((INPUT_PRESENT, "negatives_present"), (INPUT_CLASS, "negative_classes")):
        given = [column.get(name) for column in columns[2:]]
        if given and all(x is not None for x in given):
            facts[field] = torch.stack([x for x in given if x is not None], dim=1)
    return plain, BatchInfo(**facts)


def with_labels(info: BatchInfo, labels: Tensor | None, meaning: str) -> BatchInfo:
    """Add a trainer's label column to the facts.

    Raises:
        InputError: When labels are expected but none came.
    """
    from dataclasses import replace

    if meaning == "ignore":
        return info
    if labels is None:
        raise InputError(
            f"labels={meaning!r} was asked for, but the data set has no label column (label, "
            "labels, score or scores)."
        )
    field = {"class": "classes", "teacher_scores": "teacher_scores", "grades": "grades"}[meaning]
    value = labels.long() if meaning == "class" else labels
    return replace(info, **{field: value})


def _input_keys(column: Features, plain: Features) -> Tensor | None:
    """Return int64 (B,) keys, equal for equal inputs; None when they cannot be told."""
    given: Tensor | None = column.get(INPUT_KEY)
    if given is not None:
        return given
    ids, mask = plain.get("input_ids"), plain.get("attention_mask")
    if not isinstance(ids, Tensor) or any(
        name.startswith(("pixel_values", "input_features", "input_values")) for name in plain
    ):
        return None
    if ids.ndim == 2:
        real = torch.ones_like(ids) if mask is None else mask.long()
        # Positions are counted over real tokens, so padding on either side does not matter.
        place = real.cumsum(dim=1)
        return (_mix(ids.long() + 1, place) * real).sum(dim=1) & _POSITIVE
    offsets = plain.get("offsets")
    if ids.ndim != 1 or not isinstance(offsets, Tensor):
        return None
    bounds = torch.cat([offsets, offsets.new_tensor([len(ids)])])
    bag = torch.repeat_interleave(torch.arange(len(offsets), device=ids.device), bounds.diff())
    place = torch.arange(len(ids), device=ids.device) - offsets[bag] + 1
    keys = torch.zeros(len(offsets), dtype=torch.int64, device=ids.device)
    return keys.index_add_(0, bag, _mix(ids.long() + 1, place)) & _POSITIVE


_POSITIVE = (1 << 63) - 1


def _mix(token: Tensor, place: Tensor) -> Tensor:
    """Scramble (token, place) pairs; int64 arithmetic wraps around."""
    x = token * 6364136223846793005 + place * 1442695040888963407
    x = (x ^ (x >> 29)) * -4658895280553007687
    return x ^ (x >> 32)
