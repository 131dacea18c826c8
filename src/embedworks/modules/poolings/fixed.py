"""Poolings without weights: means, the last token, power means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from embedworks.errors import InputError
from embedworks.modules.poolings.base import POOLINGS, TokenPooling, masked_mean

__all__ = [
    "LastTokenPooling",
    "MaskedMeanPooling",
    "PowerMeanPooling",
    "WeightedMeanPooling",
]


@POOLINGS.register("mean", summary="Mean over tokens, instruction left out.")
class MaskedMeanPooling(TokenPooling):
    """The mean over pooled tokens: sentence-transformers' mean, for a mask of any shape.

    Example:
        >>> pooling = MaskedMeanPooling(1)
        >>> features = {"token_embeddings": torch.tensor([[[1.0], [2.0], [6.0]]]),
        ...             "attention_mask": torch.tensor([[1, 1, 1]]),
        ...             "pooling_mask": torch.tensor([[0, 1, 1]])}
        >>> pooling(features)["sentence_embedding"].tolist()
        [[4.0]]
    """

    def pool(self, tokens: Tensor, pooled: Tensor, real: Tensor) -> Tensor:
        """Return (B, D)."""
        return masked_mean(tokens, pooled)


@POOLINGS.register("weighted-mean", summary="Mean with weights 1, 2, 3, ... over the tokens.")
class WeightedMeanPooling(TokenPooling):
    """The mean over pooled tokens, the n-th with weight n: in a causal model the last know most.

    Args:
        embedding_dimension: D.

    Paper: Muennighoff 2022, arXiv 2202.08904, section 3.1.
    """

    def pool(self, tokens: Tensor, pooled: Tensor, real: Tensor) -> Tensor:
        """Return (B, D)."""
        exact = torch.promote_types(tokens.dtype, torch.float32)
        weights = (pooled.cumsum(dim=1) * pooled).to(exact)[:, :, None]
        return ((tokens * weights).sum(dim=1) / weights.sum(dim=1)).to(tokens.dtype)


@POOLINGS.register("last-token", summary="State of the last token, checked to be EOS if given.")
class LastTokenPooling(TokenPooling):
    """The state of the last real token, as decoders are pooled; padding may be on either side.

    Args:
        embedding_dimension: D.
        eos_token_id: What the last token must be; None does not check. Decoders are often trained
            to gather the text in an end token which their tokenizer does not append by itself.

    Raises:
        InputError: When a text does not end with that token; names the row.
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension", "eos_token_id"]

    def __init__(self, embedding_dimension: int, eos_token_id: int | None = None) -> None:
        super().__init__(embedding_dimension)
        self.eos_token_id = eos_token_id

    def forward(self, features: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Pool, after the check."""
        ids, mask = features.get("input_ids"), features.get("attention_mask")
        if self.eos_token_id is not None and ids is not None and mask is not None:
            last = ids.gather(1, _last_place(mask.bool())[:, None])[:, 0]
            wrong = (last != self.eos_token_id).nonzero()
            if len(wrong):
                raise InputError(
                    f"{len(wrong)} of {len(ids)} texts do not end with the token "
                    f"{self.eos_token_id}, the first is row {int(wrong[0])} with "
                    f"{int(last[wrong[0]])}: let the tokenizer append it (a post-processor, or "
                    "add_eos_token=True)."
                )
        return super().forward(features, **options)

    def pool(self, tokens: Tensor, pooled: Tensor, real: Tensor) -> Tensor:
        """Return (B, D)."""
        place = _last_place(pooled)
        return tokens.gather(1, place[:, None, None].expand(-1, 1, tokens.shape[2]))[:, 0]


def _last_place(mask: Tensor) -> Tensor:
    """Return the last True place of each row, int64 (B,)."""
    places = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, places, -1).amax(dim=1).clamp(min=0)


@POOLINGS.register("power-mean", summary="Power means side by side: minimum, mean, maximum, ...")
class PowerMeanPooling(TokenPooling):
    """Power means over tokens, concatenated: ``(mean of x^p)^(1/p)`` per coordinate.

    Args:
        embedding_dimension: D; vectors have D times as many dimensions as there are powers.
        powers: Odd whole numbers, ``"max"`` or ``"min"``. 1 is the mean; roots of odd powers keep
            the sign.

    Paper: Rueckle et al. 2018, arXiv 1803.01400. They concatenate several word vectors too.

    Example:
        >>> pooling = PowerMeanPooling(1, powers=["min", 1, 3, "max"])
        >>> features = {"token_embeddings": torch.tensor([[[1.0], [-2.0], [4.0]]])}
        >>> [round(x, 3) for x in pooling(features)["sentence_embedding"][0].tolist()]
        [-2.0, 1.0, 2.668, 4.0]
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension", "powers"]

    def __init__(
        self, embedding_dimension: int, powers: Sequence[int | str] = ("min", 1, "max")
    ) -> None:
        super().__init__(embedding_dimension)
        self.powers = list(powers)
        bad = [p for p in self.powers if p not in ("min", "max") and not _is_odd(p)]
        if bad or not self.powers or len(set(self.powers)) < len(self.powers):
            raise InputError(
                f"powers must be different odd whole numbers, 'min' or 'max', got {self.powers}."
            )

    def pool(self, tokens: Tensor, pooled: Tensor, real: Tensor) -> Tensor:
        """Return (B, D P) for P powers."""
        return torch.cat([self._of(tokens, pooled, power) for power in self.powers], dim=-1)

    def _of(self, tokens: Tensor, pooled: Tensor, power: int | str) -> Tensor:
        if power == "max":
            return tokens.masked_fill(~pooled[:, :, None], float("-inf")).amax(dim=1)
        if power == "min":
            return tokens.masked_fill(~pooled[:, :, None], float("inf")).amin(dim=1)
        if power == 1:
            return masked_mean(tokens, pooled)
        # Scaled by the largest entry: high powers of large states would overflow.
        top = tokens.masked_fill(~pooled[:, :, None], 0).abs().amax(dim=1).clamp(min=1e-6)
        mean = masked_mean((tokens / top[:, None]) ** int(power), pooled)
        # The slope of a root is infinite at 0.
        root = mean.sign() * mean.abs().clamp(min=1e-12) ** (1 / int(power))
        return root * top

    def get_embedding_dimension(self) -> int:
        """Return the dimension of the vectors."""
        return self.embedding_dimension * len(self.powers)


def _is_odd(power: object) -> bool:
    return isinstance(power, int) and not isinstance(power, bool) and power % 2 == 1 and power > 0
