"""How sure a model is of its ranking, as a loss that needs no labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from embedworks._core.validation import check_in_range
from embedworks.errors import InputError
from embedworks.losses._features import split_features
from embedworks.losses.functional import cosine_scores, softmax_entropy
from embedworks.losses.packing import ColumnEmbedder

__all__ = ["EntropyLoss"]


class EntropyLoss(nn.Module):
    """Entropy of each anchor's softmax over the positives of the batch.

    Which positive is its own is not used. For choosing among models that can already rank, such
    as the coefficients of a merge: trained with it alone, a model becomes sure of anything.

    Args:
        model: A sentence-transformers model.
        temperature: What cosines are divided by; above 0.
        mini_batch_tokens: Tokens embedded at a time, padding included; None for no limit.

    Raises:
        InputError: When the temperature is not above 0.

    Paper: the objective of AdaMerging (arXiv 2310.02575) carried over to retrieval; the use of the
        softmax over a batch is ours.
    """

    def __init__(
        self, model: Any, *, temperature: float = 0.05, mini_batch_tokens: int | None = None
    ) -> None:
        super().__init__()
        check_in_range(temperature, name="temperature", low=0.0, open_low=True)
        self.model = model
        self.temperature = temperature
        self.mini_batch_tokens = mini_batch_tokens

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """Return the mean entropy of a batch, in nats.

        Args:
            sentence_features: Features of the columns; the first two are used.
            labels: Not used.

        Raises:
            InputError: When there are fewer than two columns.
        """
        columns, _ = split_features(list(sentence_features)[:2])
        if len(columns) < 2:
            raise InputError("the batch has one column: an anchor and a positive are needed.")
        embedder = ColumnEmbedder(self.model, mini_batch_tokens=self.mini_batch_tokens)
        query, document = embedder.embed(columns).vectors
        return softmax_entropy(cosine_scores(query, document) / self.temperature).mean()
