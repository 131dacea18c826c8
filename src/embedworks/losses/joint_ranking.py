"""Train vectors and scores of pairs together, on the same rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from embedworks._core.validation import check_in_range
from embedworks.errors import InputError
from embedworks.models.joint import JointReranker

__all__ = ["JointRankingLoss"]


class JointRankingLoss(nn.Module):
    """Add the loss of a ranking of pairs to a loss of vectors, on one transformer.

    ``(1 - weight) * base + weight * ranking``. The ranking of a query is over its document, its
    own negatives and some other documents of the batch: cross-entropy of the scores that
    `RankingHead` gives to the pairs. Documents with the same tokens as the right one do not count
    as wrong.

    Args:
        model: Of `embedworks.models.joint_model`.
        base: The loss of vectors, such as `ContrastiveLoss`; called with the same features.
        weight: Share of the ranking, 0 to 1.
        others: Documents of other queries that each is ranked with; as many as there are in small
            batches. Each is one more pair that the model reads.

    Attributes:
        last: The two parts of the last batch, ``{"base": ..., "ranking": ...}``.

    Raises:
        InputError: When the model has no head, or a number is out of range.
    """

    def __init__(
        self, model: Any, base: nn.Module, *, weight: float = 0.5, others: int = 3
    ) -> None:
        super().__init__()
        check_in_range(weight, name="weight", low=0.0, high=1.0)
        check_in_range(others, name="others", low=0)
        self.model = model
        self.base = base
        self.weight = weight
        self.others = others
        self._reranker = JointReranker(model)
        self.last: dict[str, float] = {}

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch: columns of queries, documents, and perhaps negatives.

        Raises:
            InputError: When there is no column of documents, or nothing to rank a document with.
        """
        columns = list(sentence_features)
        if len(columns) < 2:
            raise InputError("a batch needs queries and documents: two columns at least.")
        kept = [dict(column) for column in columns]
        first: Tensor = self.base(columns, labels)
        second = self.ranking(kept)
        self.last = {"base": float(first.detach()), "ranking": float(second.detach())}
        return (1 - self.weight) * first + self.weight * second

    def ranking(self, columns: list[dict[str, Any]]) -> Tensor:
        """Return the loss of the pairs' scores."""
        query, document, *negatives = columns
        size = len(document["input_ids"])
        there = [torch.ones(size, dtype=torch.bool, device=document["input_ids"].device)]
        read = [document]
        for negative in negatives:
            present = negative.get("row_present")
            there.append(there[0] if present is None else present.to(there[0].device).bool())
            read.append(negative)
        for shift in range(1, min(self.others, size - 1) + 1):
            other = {
                name: torch.roll(document[name], -shift, dims=0) for name in _READ & {*document}
            }
            there.append(~_same(document, other))
            read.append(other)
        if len(read) < 2:
            raise InputError(
                "a document is ranked among others: give rows negatives, larger batches, or "
                "others above 0."
            )
        # All pairs in one pass: a pass for each column would leave an accelerator waiting.
        flat = self._reranker.score(_below([query] * len(read)), _below(read))
        scores = flat.view(len(read), size).T.float()
        table = scores.masked_fill(~torch.stack(there, dim=1).to(scores.device), -torch.inf)
        return cross_entropy(table, torch.zeros(size, dtype=torch.long, device=table.device))

    def get_config_dict(self) -> dict[str, Any]:
        """Return what the model card says about the loss."""
        told: dict[str, Any] = getattr(self.base, "get_config_dict", dict)()
        return {**told, "ranking_weight": self.weight, "ranking_others": self.others}


def _same(first: dict[str, Any], second: dict[str, Any]) -> Tensor:
    """Say which rows have the same tokens, bool (B,); both have one padding."""
    masks = [features["attention_mask"].bool() for features in (first, second)]
    ids = [
        features["input_ids"].masked_fill(~mask, -1)
        for features, mask in zip((first, second), masks, strict=True)
    ]
    found: Tensor = (ids[0] == ids[1]).all(dim=1)
    return found


_READ = {"input_ids", "attention_mask", "token_type_ids"}


def _below(columns: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Put the rows of columns one below another, padded to one width."""
    width = max(column["input_ids"].shape[1] for column in columns)
    names = [name for name in _READ if all(name in column for column in columns)]
    return {
        name: torch.cat(
            [pad(column[name], (0, width - column[name].shape[1])) for column in columns]
        )
        for name in names
    }
