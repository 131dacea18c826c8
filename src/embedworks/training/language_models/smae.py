"""SMAE, the pre-training of Starbucks: masked tokens and the whole text from every size."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedworks.errors import InputError
from embedworks.modules.layers import layer_stack
from embedworks.training.language_models.masking import IGNORED

__all__ = ["SMAEObjective", "sliced_linear"]


def sliced_linear(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a linear layer to the first coordinates of what it was made for.

    Args:
        states: float tensor (..., d), d at most D.
        weight: float tensor (D', D); its first d columns are used.
        bias: float tensor (D',) or None.

    Example:
        >>> sliced_linear(torch.ones(1, 1), torch.tensor([[2.0, 9.0]]), None).item()
        2.0
    """
    return F.linear(states, weight[:, : states.shape[-1]], bias)


class SMAEObjective(nn.Module):
    """Masked tokens, and the text from its first state, at every size of a ladder.

    For each (layers n, dimensions d): the masked-token loss of the first d coordinates of block n,
    and the loss of a decoder of one block that reads a copy with more words hidden, its first
    state replaced by that of the encoder at this size. The mean over sizes of the mean of both.
    One head serves every width: its dense layer is used on the first d coordinates. The decoder
    starts as a copy of the first block and is dropped when the model is saved. The ladder of the
    full size alone is RetroMAE without its enhanced decoding.

    Args:
        model: A masked language model of BERT's architecture.
        pairs: Sizes (n, d), growing; the last is the full model.

    Raises:
        InputError: When the model has another head than BERT's, or the sizes do not grow to the
            full one.

    Paper: Zhuang et al. 2024, Starbucks, arXiv 2410.13230, section on SMAE, and its code.
    """

    def __init__(self, model: Any, pairs: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        transform = getattr(getattr(model, "cls", None), "predictions", None)
        if getattr(transform, "transform", None) is None or not hasattr(model, "bert"):
            raise InputError(
                f"SMAE slices the head of BERT; {type(model).__name__} has another. Make one with "
                'new_language_model("bert", tokenizer, masked=True).'
            )
        full = (model.config.num_hidden_layers, model.config.hidden_size)
        sizes = [tuple(pair) for pair in pairs]
        grows = all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(sizes))
        if not sizes or sizes[-1] != full or not grows or min(sizes[0]) < 1:
            raise InputError(f"sizes must grow to the full model's {full}, got {sizes}.")
        self.model = model
        self.pairs = sizes
        self.decoder = copy.deepcopy(layer_stack(model.bert).layers[0])

    def _transformed(self, states: Tensor) -> Tensor:
        """Return states (..., D) made of the first d coordinates by the head's dense layer."""
        transform = self.model.cls.predictions.transform
        made = sliced_linear(states, transform.dense.weight, transform.dense.bias)
        found: Tensor = transform.LayerNorm(transform.transform_act_fn(made))
        return found

    def _guessed(self, states: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss over labelled tokens; only these are scored. 0 when none."""
        there = labels != IGNORED
        scores = self.model.cls.predictions.decoder(self._transformed(states[there]))
        total = F.cross_entropy(scores.float(), labels[there], reduction="sum")
        return total / there.sum().clamp(min=1)

    def forward(
        self, input_ids: Tensor, labels: Tensor, decoder_input_ids: Tensor, decoder_labels: Tensor
    ) -> dict[str, Tensor]:
        """Return the loss.

        Args:
            input_ids: int64 tensor (B, T), what the encoder reads.
            labels: int64 tensor (B, T), the encoder's masked tokens.
            decoder_input_ids: int64 tensor (B, T), with more words hidden.
            decoder_labels: int64 tensor (B, T).
        """
        states = self.model.bert(input_ids=input_ids, output_hidden_states=True).hidden_states
        again = self.model.bert.embeddings(input_ids=decoder_input_ids)
        losses = []
        for layers, width in self.pairs:
            own = states[layers][..., :width]
            read = torch.cat([self._transformed(own[:, :1]).to(again.dtype), again[:, 1:]], dim=1)
            told = self._guessed(self.decoder(read), decoder_labels)
            losses += [self._guessed(own, labels), told]
        return {"loss": torch.stack(losses).mean()}
