"""Learn which tokens a text should point at: the divergence through a vocabulary (Text2Token)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from embedworks._core.validation import check_in_range
from embedworks.errors import InputError, ShapeError
from embedworks.losses.packing import ColumnEmbedder
from embedworks.models.token_targets import TokenTargets, tokenizer_fingerprint
from embedworks.models.vocabulary import vocabulary_matrix

__all__ = ["TokenTargetLoss", "token_divergence"]


def token_divergence(logits: Tensor, ids: Tensor, shares: Tensor) -> Tensor:
    """Return KL(q || softmax(z)) for sparse q, the mean over rows that have a target.

    ``sum_v q_v (ln q_v - z_v) + logsumexp(z)``; the gradient on z is ``(softmax(z) - q) / B``.

    Args:
        logits: float tensor (B, V), z.
        ids: int64 tensor (B, K), tokens.
        shares: float tensor (B, K), q; rows sum to 1, or to 0 for rows that do not count.

    Returns:
        A scalar of at least 0; 0 when no row counts.

    Raises:
        ShapeError: When the shapes do not fit.

    Example:
        >>> z = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
        >>> abs(token_divergence(z, torch.tensor([[0, 1, 2]]), z.exp()).item()) < 1e-6
        True
    """
    if ids.shape != shares.shape or len(ids) != len(logits):
        raise ShapeError(
            f"ids {tuple(ids.shape)}, shares {tuple(shares.shape)} and logits "
            f"{tuple(logits.shape)} do not fit."
        )
    counts = shares.sum(dim=1) > 0
    picked = logits.gather(1, ids)
    entropy = torch.special.xlogy(shares, shares).sum(dim=1)
    rows = entropy - (shares * picked).sum(dim=1) + torch.logsumexp(logits, dim=1)
    return torch.where(counts, rows, 0).sum() / counts.sum().clamp(min=1)


class TokenTargetLoss(nn.Module):
    """Pull vectors toward their texts' tokens, through a fixed vocabulary matrix.

    ``KL(q || softmax(W h / tau))`` of each text's vector h. There are no negatives, so the batch
    size does not matter. Rows are told apart by the label column: the number of the text among the
    targets. Texts without a target do not count.

    Args:
        model: A ``SentenceTransformer`` over a transformer.
        targets: Of `text_token_targets` or `model_token_targets`, made with the model's tokenizer.
        head: Matrix (V, D); None takes the model's own, as it is now. It is a copy and is not
            trained: else the matrix could solve the task without the vectors.
        temperature: tau; 1 suits an output layer over states as they are, 0.05 unit vectors.
        mini_batch_tokens: Tokens embedded at a time, sorted by length; None embeds a batch whole.

    Raises:
        InputError: When targets were made with another tokenizer, or all of them are empty.
        ShapeError: When the matrix does not fit the model or the targets.

    Paper: An et al. 2025, arXiv 2510.10224. The body of the paper was not at hand: the form of the
        loss is the paper's, the frozen matrix and the temperature are ours.
    """

    head: Tensor
    ids: Tensor
    shares: Tensor

    def __init__(
        self,
        model: Any,
        targets: TokenTargets,
        *,
        head: Tensor | None = None,
        temperature: float = 0.05,
        mini_batch_tokens: int | None = None,
    ) -> None:
        super().__init__()
        check_in_range(temperature, name="temperature", low=0.0, open_low=True)
        if targets.tokenizer != tokenizer_fingerprint(model.tokenizer):
            raise InputError("the targets were made with another tokenizer than the model's.")
        if targets.empty == len(targets):
            raise InputError(f"none of the {len(targets)} texts has a target: nothing to learn.")
        matrix = torch.from_numpy(vocabulary_matrix(model)) if head is None else head.detach()
        width = model.get_embedding_dimension()
        if matrix.ndim != 2 or matrix.shape[1] != width or len(matrix) < targets.vocabulary:
            raise ShapeError(
                f"the head is {tuple(matrix.shape)}: expected at least {targets.vocabulary} tokens "
                f"of {width} dimensions, as the targets and the model have."
            )
        self.model = model
        self.temperature = temperature
        self.mini_batch_tokens = mini_batch_tokens
        device = model.device
        head_copy = matrix[: targets.vocabulary].clone().to(device)
        self.register_buffer("head", head_copy, persistent=False)
        ids = torch.from_numpy(targets.ids.astype("int64")).to(device)
        self.register_buffer("ids", ids, persistent=False)
        shares = torch.from_numpy(targets.shares.astype("float32")).to(device)
        self.register_buffer("shares", shares, persistent=False)

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch of texts.

        Args:
            sentence_features: Features of one column of texts; further columns are not read.
            labels: int tensor (B,), the place of each text among the targets.

        Raises:
            InputError: When there are no labels.
        """
        if labels is None:
            raise InputError(
                "the label column must say which text a row is: its place among the targets."
            )
        first = next(iter(sentence_features))
        # Facts about rows travel under such names; the model does not read them.
        plain = {name: value for name, value in first.items() if not name.startswith("row_")}
        embedder = ColumnEmbedder(self.model, mini_batch_tokens=self.mini_batch_tokens)
        return self.compute_loss_from_embeddings(embedder.embed([plain]).vectors, labels)

    def compute_loss_from_embeddings(
        self, embeddings: Iterable[Tensor], labels: Tensor | None = None
    ) -> Tensor:
        """Return the loss of vectors (B, D) of the first column."""
        vectors = next(iter(embeddings))
        if labels is None or len(labels) != len(vectors):
            raise InputError("one label per vector is needed: its place among the targets.")
        if int(labels.min()) < 0 or int(labels.max()) >= len(self.ids):
            raise InputError(f"labels must be 0 to {len(self.ids) - 1}, the texts of the targets.")
        places = labels.long()
        logits = vectors.float() @ self.head.T / self.temperature
        return token_divergence(logits, self.ids[places], self.shares[places])

    def get_config_dict(self) -> dict[str, Any]:
        """Return what the model card says about the loss."""
        return {"temperature": self.temperature, "targets": len(self.ids)}
