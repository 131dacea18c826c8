"""What poolings share: the mask, its checks, saving and loading, and their registry."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self

import torch
from sentence_transformers.base.modules import Module
from torch import Tensor

from embedworks._core.registry import Registry
from embedworks.errors import EmptyInputError, InputError, ShapeError

__all__ = ["POOLINGS", "TokenPooling", "masked_mean"]


class TokenPooling(Module):
    """The base of poolings: finds the mask, checks it, saves and loads.

    Subclasses name their options in ``config_keys`` and define `pool`.
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension"]

    def __init__(self, embedding_dimension: int) -> None:
        super().__init__()
        if embedding_dimension < 1:
            raise InputError(f"embedding_dimension must be 1 or more, got {embedding_dimension}.")
        self.embedding_dimension = embedding_dimension

    @abstractmethod
    def pool(self, tokens: Tensor, pooled: Tensor, real: Tensor) -> Tensor:
        """Return one vector per row.

        Args:
            tokens: float tensor (B, T, D).
            pooled: bool tensor (B, T), True for tokens that make up the vector; at least one per
                row.
            real: bool tensor (B, T), True for all but padding.

        Returns:
            float tensor (B, D').
        """

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Pool ``token_embeddings`` into ``sentence_embedding``.

        Raises:
            ShapeError: When the states or the mask have other shapes than expected.
            EmptyInputError: When nothing of a row is left to pool; names the first such row.
        """
        tokens: Tensor = features["token_embeddings"]
        if tokens.ndim != 3 or tokens.shape[2] != self.embedding_dimension:
            raise ShapeError(
                f"{type(self).__name__} expects states (B, T, {self.embedding_dimension}), got "
                f"{tuple(tokens.shape)}."
            )
        real = features.get("attention_mask")
        real = torch.ones(tokens.shape[:2], device=tokens.device) if real is None else real
        pooled = features.get("pooling_mask")
        pooled = real if pooled is None else pooled
        for name, mask in (("attention_mask", real), ("pooling_mask", pooled)):
            if mask.shape != tokens.shape[:2]:
                raise ShapeError(
                    f"{name} has shape {tuple(mask.shape)} for states {tuple(tokens.shape)}."
                )
        real, pooled = real.bool(), pooled.bool()
        pooled = pooled & real
        empty = (~pooled.any(dim=1)).nonzero()
        if len(empty):
            raise EmptyInputError(
                f"nothing is left to pool in {len(empty)} of {len(tokens)} texts, the first is row "
                f"{int(empty[0])}: it is empty, or an instruction fills all of its tokens. Leave "
                "it out, shorten the instruction, or allow longer texts."
            )
        features["sentence_embedding"] = self.pool(tokens, pooled, real)
        return features

    def get_embedding_dimension(self) -> int:
        """Return the dimension of the vectors."""
        return self.embedding_dimension

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **_: Any) -> None:
        """Write configuration and weights."""
        self.save_config(output_path)
        if any(True for _ in self.parameters()):
            self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options: Any) -> Self:
        """Read what `save` wrote."""
        hub = {
            name: options[name]
            for name in ("token", "cache_folder", "revision", "local_files_only")
            if name in options
        }
        made = cls(**cls.load_config(model_name_or_path, subfolder=subfolder, **hub))
        if any(True for _ in made.parameters()):
            cls.load_torch_weights(model_name_or_path, subfolder=subfolder, model=made, **hub)
        return made


#: Poolings by name.
POOLINGS: Registry[type[TokenPooling]] = Registry("poolings")


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over True places; sums are kept in float32 at least."""
    exact = torch.promote_types(tokens.dtype, torch.float32)
    weights = mask.to(exact)[:, :, None]
    return ((tokens * weights).sum(dim=1) / weights.sum(dim=1)).to(tokens.dtype)
