"""A learned mixture of all layers, in place of the last one alone."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from embedworks.errors import InputError, ShapeError
from embedworks.modules.poolings import TokenPooling

__all__ = ["LayerMixing"]


class LayerMixing(TokenPooling):
    """Token states as a softmax-weighted sum of all layers; put it before a pooling.

    It tells the transformer to give all layers, also after loading.

    Args:
        embedding_dimension: D.
        num_layers: L, the transformer's layers; the embeddings before the first count too.
        last: How much more the last layer weighs at the start, in logits; 0 starts as the mean of
            all layers.

    Paper: Peters et al. 2018, arXiv 1802.05365, eq. 1, without its overall factor, which a cosine
        does not see.

    Example:
        >>> mixing = LayerMixing(1, num_layers=1, last=0.0)
        >>> states = (torch.tensor([[[1.0]]]), torch.tensor([[[3.0]]]))
        >>> mixing({"all_layer_embeddings": states})["token_embeddings"].item()
        2.0
    """

    config_keys: ClassVar[list[str]] = ["embedding_dimension", "num_layers", "last"]
    mixes_layers = True

    def __init__(self, embedding_dimension: int, num_layers: int, last: float = 4.0) -> None:
        super().__init__(embedding_dimension)
        if num_layers < 1:
            raise InputError(f"num_layers must be 1 or more, got {num_layers}.")
        self.num_layers, self.last = num_layers, last
        weights = torch.zeros(num_layers + 1)
        weights[-1] = last
        self.weights = nn.Parameter(weights)

    def on_model_ready(self, model: Any) -> None:
        """Have the transformer give all layers."""
        model[0].auto_model.config.output_hidden_states = True

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Replace ``token_embeddings``.

        Raises:
            InputError: When the transformer gives its last layer alone.
            ShapeError: When it has another number of layers.
        """
        states = features.get("all_layer_embeddings")
        if states is None:
            raise InputError(
                "LayerMixing needs all layers, but the transformer gave its last one alone: set "
                "model[0].auto_model.config.output_hidden_states = True."
            )
        if len(states) != len(self.weights):
            raise ShapeError(
                f"LayerMixing was made for {self.num_layers} layers, the transformer gave "
                f"{len(states) - 1}."
            )
        shares = self.weights.softmax(dim=0)
        mixed = torch.zeros_like(states[0])
        for share, state in zip(shares, states, strict=True):
            mixed = mixed + share * state
        features["token_embeddings"] = mixed
        return features

    def pool(self, tokens: Tensor, pooled: Tensor, real: Tensor) -> Tensor:
        """Not used: this module changes token states."""
        raise NotImplementedError
