"""One decoder that embeds and generates: a contrastive loss and a causal one, added (GRIT)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from embedworks._core.validation import check_in_range
from embedworks.errors import InputError, ShapeError
from embedworks.modules.bidirectional import causal_attention, check_generates

__all__ = ["GenerationLoss", "next_token_loss"]


def next_token_loss(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Return the mean cross-entropy of each real token, told from the one before it, in nats.

    Args:
        logits: float tensor (B, T, V).
        ids: int64 tensor (B, T).
        mask: (B, T), 1 for real tokens; padding may be on either side.

    Returns:
        A scalar; 0 when no text has two tokens.

    Raises:
        ShapeError: When the shapes do not fit.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[0.0, 0.0], [9.0, 0.0]]])
        >>> next_token_loss(logits, torch.tensor([[0, 1]]), torch.ones(1, 2))
        tensor(0.6931)
    """
    if logits.shape[:2] != ids.shape or ids.shape != mask.shape:
        raise ShapeError(
            f"logits {tuple(logits.shape)}, ids {tuple(ids.shape)} and mask {tuple(mask.shape)} "
            "do not fit."
        )
    told: Tensor = mask[:, 1:].bool() & mask[:, :-1].bool()
    picked = logits[:, :-1][told].float()
    return cross_entropy(picked, ids[:, 1:][told], reduction="sum") / told.sum().clamp(min=1)


class GenerationLoss(nn.Module):
    """Add the next-token loss of a batch's documents to a loss of their vectors.

    ``base + weight * next-token loss``, on one decoder: the base reads texts both ways (or as the
    model does), the second pass reads the documents with the causal mask on. The output layer is
    the table of tokens, so nothing is added to the model: it is saved as any other, and
    `embedworks.models.causal_language_model` gives the side that generates. In recipes:
    ``generate`` in a stage.

    Args:
        model: A ``SentenceTransformer`` over a decoder whose output layer is tied.
        base: The loss of vectors, such as `ContrastiveLoss`; called with the same features.
        weight: lambda of the second loss; 0 leaves it out. A larger one keeps more of the language
            model and, in small models, takes from the vectors: see the reproduction
            ``survey-grit``.

    Attributes:
        last: The two parts of the last batch, ``{"base": ..., "generation": ...}``.

    Raises:
        InputError: When the model has no decoder, or its output layer is not tied.

    Paper: Muennighoff et al. 2024, GRIT, arXiv 2402.09906, equation 3. There the second loss is
    that of instructions with answers from data of its own; here it is that of the documents in the
    batch, which keeps a language model one but teaches it no chat.
    """

    def __init__(self, model: Any, base: nn.Module, *, weight: float = 1.0) -> None:
        super().__init__()
        check_in_range(weight, name="weight", low=0.0)
        check_generates(model)
        self.model = model
        self.base = base
        self.weight = weight
        self.last: dict[str, float] = {}

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch: columns of queries, documents, and perhaps negatives.

        Raises:
            InputError: When there is no column of documents.
        """
        columns = list(sentence_features)
        if len(columns) < 2:
            raise InputError("a batch needs queries and documents: two columns at least.")
        kept = {name: columns[1][name] for name in ("input_ids", "attention_mask")}
        first: Tensor = self.base(columns, labels)
        if self.weight == 0:
            self.last = {"base": float(first.detach())}
            return first
        second = self.generation(**kept)
        self.last = {"base": float(first.detach()), "generation": float(second.detach())}
        return first + self.weight * second

    def generation(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the next-token loss of texts, int64 (B, T), read with the causal mask on."""
        inside = self.model[0].auto_model
        with causal_attention(self.model):
            states = inside(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits = states @ inside.get_input_embeddings().weight.T
        return next_token_loss(logits, input_ids, attention_mask)

    def get_config_dict(self) -> dict[str, Any]:
        """Return what the model card says about the loss."""
        told: dict[str, Any] = getattr(self.base, "get_config_dict", dict)()
        return {**told, "generation_weight": self.weight}
