"""The order of graded pairs as a loss: sentence-transformers' CoSENT, embedded in packs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from embedworks._core.validation import check_in_range
from embedworks.errors import InputError
from embedworks.losses._features import split_features
from embedworks.losses.packing import ColumnEmbedder

__all__ = ["GradedLoss"]


class GradedLoss(nn.Module):
    """Train cosines to have the order of given scores, with less spent on padding.

    Sentence-transformers' ``CoSENTLoss``; the texts of both columns are embedded in packs of
    similar length, and facts about rows that travel in the features are left out.

    Args:
        model: A sentence-transformers model.
        temperature: What differences of cosines are divided by; above 0.
        mini_batch_tokens: Tokens embedded at a time, padding included; None for no limit.
        mini_batch_size: Texts embedded at a time; None for no limit.

    Raises:
        InputError: When the temperature is not above 0.

    Paper: Su, CoSENT, 2022 (a blog post, no paper); see sentence-transformers' documentation.
    """

    def __init__(
        self,
        model: Any,
        *,
        temperature: float = 0.05,
        mini_batch_tokens: int | None = None,
        mini_batch_size: int | None = None,
    ) -> None:
        from sentence_transformers.sentence_transformer.losses import CoSENTLoss

        super().__init__()
        check_in_range(temperature, name="temperature", low=0.0, open_low=True)
        self.model = model
        self.mini_batch_tokens = mini_batch_tokens
        self.mini_batch_size = mini_batch_size
        # In a tuple, so that the model is registered once.
        self._loss = (CoSENTLoss(model, scale=1.0 / temperature),)

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch.

        Args:
            sentence_features: Features of the two texts of each pair.
            labels: Their scores (B,), on any scale.

        Raises:
            InputError: When there are no scores.
        """
        columns, _ = split_features(list(sentence_features)[:2])
        embedder = ColumnEmbedder(
            self.model,
            mini_batch_tokens=self.mini_batch_tokens,
            mini_batch_size=self.mini_batch_size,
        )
        return self.compute_loss_from_embeddings(embedder.embed(columns).vectors, labels)

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[Tensor], labels: Tensor | None = None
    ) -> Tensor:
        """Return the loss of vectors by column, each (B, D), with scores (B,)."""
        if labels is None:
            raise InputError("the order of scores is learned, but the batch has no scores.")
        loss: Tensor = self._loss[0].compute_loss_from_embeddings(list(embeddings[:2]), labels)
        return loss
