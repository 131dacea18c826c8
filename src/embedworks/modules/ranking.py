"""`RankingHead`: a score for pairs read together, beside the vectors of an embedding model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from sentence_transformers.base.modules import Module
from torch import Tensor, nn

from embedworks.errors import InputError, ShapeError

__all__ = ["RankingHead", "join_pairs", "ranking_head"]


class RankingHead(Module):
    """Score pairs from the mean of their states; vectors pass through as they are.

    The last module of a model, which embeds as before. `embedworks.models.JointReranker` scores
    pairs with it, and `embedworks.losses.JointRankingLoss` trains it.

    Args:
        embedding_dimension: Width of the transformer's states, D.

    Example:
        >>> head = RankingHead(4)
        >>> head({"sentence_embedding": torch.ones(1, 4)})["sentence_embedding"]
        tensor([[1., 1., 1., 1.]])
        >>> head.score(torch.ones(2, 3, 4), torch.ones(2, 3)).shape
        torch.Size([2])
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension"]

    def __init__(self, embedding_dimension: int) -> None:
        super().__init__()
        if embedding_dimension < 1:
            raise InputError(f"embedding_dimension must be 1 or more, got {embedding_dimension}.")
        self.embedding_dimension = embedding_dimension
        self.dense = nn.Linear(embedding_dimension, embedding_dimension)
        self.out = nn.Linear(embedding_dimension, 1)

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return the features as they are."""
        return features

    def score(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return a score per pair, float (B,), from states (B, T, D) and mask (B, T).

        Raises:
            ShapeError: When the states have another width.
        """
        if states.ndim != 3 or states.shape[2] != self.embedding_dimension:
            raise ShapeError(
                f"expected states (B, T, {self.embedding_dimension}), got {tuple(states.shape)}."
            )
        real = mask.to(states)[..., None]
        mean = (states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
        found: Tensor = self.out(torch.tanh(self.dense(mean)))[:, 0]
        return found

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **_: Any) -> None:
        """Write configuration and weights."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options: Any) -> Self:
        """Read what `save` wrote."""
        names = ("token", "cache_folder", "revision", "local_files_only")
        hub = {name: options[name] for name in names if name in options}
        made = cls(**cls.load_config(model_name_or_path, subfolder=subfolder, **hub))
        cls.load_torch_weights(model_name_or_path, subfolder=subfolder, model=made, **hub)
        return made


def ranking_head(model: Any) -> RankingHead:
    """Return the head of a model.

    Raises:
        InputError: When it has none.
    """
    parts = model if hasattr(model, "__iter__") else ()
    head = next((part for part in parts if isinstance(part, RankingHead)), None)
    if head is None:
        raise InputError("the model has no RankingHead: make one with joint_model(model).")
    return head


def join_pairs(
    queries: Mapping[str, Tensor],
    documents: Mapping[str, Tensor],
    *,
    limit: int | None = None,
    start: int | None = None,
    pad: int = 0,
) -> dict[str, Tensor]:
    """Return the features of pairs: a query's tokens with a document's behind them.

    The token that texts begin with, such as ``[CLS]``, is not repeated. Pairs that are too long
    lose the end of the document, and the end of a query that fills more than half.

    Args:
        queries: ``input_ids`` and ``attention_mask`` (B, T), perhaps ``token_type_ids``.
        documents: The same, (B, T').
        limit: Most tokens of a pair.
        start: Id of the token that texts begin with, if any.
        pad: Token id of padding, which goes to the right.

    Returns:
        ``input_ids`` and ``attention_mask``, and ``token_type_ids`` where the queries have them:
        0 in the query, 1 in the document.

    Raises:
        ShapeError: When there are not as many queries as documents.

    Example:
        >>> query = {"input_ids": torch.tensor([[1, 5, 2]]), "attention_mask": torch.ones(1, 3)}
        >>> document = {"input_ids": torch.tensor([[1, 7, 8, 2]]),
        ...             "attention_mask": torch.ones(1, 4)}
        >>> join_pairs(query, document, start=1)["input_ids"].tolist()
        [[1, 5, 2, 7, 8, 2]]
    """
    if len(queries["input_ids"]) != len(documents["input_ids"]):
        raise ShapeError(
            f"{len(queries['input_ids'])} queries and {len(documents['input_ids'])} documents: "
            "give one document for each query."
        )
    first, lengths = _to_the_left(queries)
    second, rest = _to_the_left(documents)
    skipped = torch.zeros_like(rest)
    if start is not None and second.shape[1]:
        skipped = ((second[:, 0] == start) & (rest > 0)).long()
        rest = rest - skipped
    if limit is not None:
        room = (limit - rest).clamp(min=limit // 2)
        lengths = torch.where(lengths + rest > limit, lengths.minimum(room), lengths)
        rest = rest.minimum(limit - lengths)
    places = torch.arange(int((lengths + rest).max()) if len(rest) else 0, device=rest.device)
    behind = places >= lengths[:, None]
    mask = places < (lengths + rest)[:, None]
    ids = torch.where(
        behind, _at(second, places - (lengths - skipped)[:, None]), _at(first, places[None])
    )
    found = {"input_ids": ids.masked_fill(~mask, pad), "attention_mask": mask.long()}
    if "token_type_ids" in queries:
        found["token_type_ids"] = (behind & mask).long()
    return found


def _to_the_left(features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the ids (B, T) with padding, wherever it was, on the right, and lengths (B,)."""
    real = features["attention_mask"].bool()
    order = torch.argsort((~real).long(), dim=1, stable=True)
    return features["input_ids"].gather(1, order), real.sum(dim=1)


def _at(ids: Tensor, places: Tensor) -> Tensor:
    """Return the ids at places (B, W); what lies outside them gives any id of the row."""
    if not ids.shape[1]:
        return ids.new_zeros(len(ids), places.shape[1])
    inside = places.clamp(0, ids.shape[1] - 1).expand(len(ids), -1)
    return ids.gather(1, inside)
