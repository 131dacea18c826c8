"""Every pair of a batch as a question of its own, yes or no: the sigmoid objective (SigLIP)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from embedworks._core.validation import check_in_range
from embedworks.errors import InputError, ShapeError
from embedworks.losses._features import split_features
from embedworks.losses.packing import ColumnEmbedder

__all__ = ["SigmoidLoss", "sigmoid_contrast"]


def sigmoid_contrast(logits: Tensor, positives: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Return ``-1/B sum_ij ln sigmoid(z_ij)`` for pairs that match, of ``-z_ij`` for others.

    Args:
        logits: float tensor (B, N), ``z = scale * cosine + bias``.
        positives: bool tensor (B, N), which pairs match.
        allowed: bool tensor (B, N), which pairs count; None for all.

    Returns:
        A scalar: the sum over pairs that count, divided by the rows B.

    Raises:
        ShapeError: When the shapes differ.

    Example:
        >>> round(sigmoid_contrast(torch.zeros(2, 2), torch.eye(2).bool()).item(), 4)
        1.3863
    """
    if logits.shape != positives.shape or (allowed is not None and allowed.shape != logits.shape):
        raise ShapeError(
            f"logits {tuple(logits.shape)}, positives {tuple(positives.shape)} and allowed "
            f"{None if allowed is None else tuple(allowed.shape)} must have one shape (B, N)."
        )
    losses = nn.functional.softplus(torch.where(positives, -logits, logits))
    if allowed is not None:
        losses = torch.where(allowed, losses, 0)
    return losses.sum() / len(logits)


class SigmoidLoss(nn.Module):
    """Ask of every query and document of a batch whether they match, each on its own.

    ``softplus(-y (scale * cosine + bias))`` summed over the pairs of a batch and divided by its
    rows, y = 1 for a row's own document and -1 for others. A softmax (`ContrastiveLoss`) ranks a
    row's candidates against each other; here scores have an absolute meaning (a threshold of 0 on
    the logit), both directions are in one sum, and small batches are less of a handicap. Scale and
    bias are learned with the model, the scale as its logarithm; the bias starts so low because
    nearly all pairs are negative.

    Columns are anchor, positive, then any number of negatives, which are candidates for all rows.
    Candidates whose content equals a row's positive are neither match nor mismatch: they do not
    count.

    Paper: Zhai et al. 2023, arXiv 2303.15343, algorithm 1. Left out on purpose: the chunked pass
        over devices; each device contrasts its own batch.

    Args:
        model: The model, or None to work on vectors through `contrast` alone.
        scale: exp(t'), at the start.
        bias: b, at the start.
        mini_batch_size: Texts embedded at a time.
        mini_batch_tokens: Tokens embedded at a time, padding included.

    Raises:
        InputError: When the scale is not above 0, or the bias not finite.

    Example:
        >>> vectors = torch.eye(3)
        >>> loss = SigmoidLoss(scale=20.0, bias=-10.0)
        >>> round(loss.contrast(vectors, vectors).item(), 3)
        0.0
    """

    def __init__(
        self,
        model: Any = None,
        *,
        scale: float = 10.0,
        bias: float = -10.0,
        mini_batch_size: int | None = None,
        mini_batch_tokens: int | None = None,
    ) -> None:
        super().__init__()
        check_in_range(scale, name="scale", low=0.0, open_low=True)
        check_in_range(bias, name="bias")
        self.model = model
        self.mini_batch_size = mini_batch_size
        self.mini_batch_tokens = mini_batch_tokens
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch; a label column is not read.

        Raises:
            InputError: When there are fewer than two columns, or no model.
        """
        if self.model is None:
            raise InputError("this loss was made without a model: use contrast on vectors.")
        plain, info = split_features(_at_least_two(list(sentence_features)))
        embedder = ColumnEmbedder(
            self.model,
            mini_batch_size=self.mini_batch_size,
            mini_batch_tokens=self.mini_batch_tokens,
        )
        keys = None
        if info.document_keys is not None:
            others = () if info.negative_keys is None else info.negative_keys.T
            keys = torch.cat([info.document_keys, *others])
        query, *documents = embedder.embed(plain).vectors
        candidates = torch.cat(documents)
        whole = keys is not None and len(keys) == len(candidates)
        return self.contrast(query, candidates, keys=keys if whole else None)

    def compute_loss_from_embeddings(
        self, embeddings: Sequence[Tensor], labels: Tensor | None = None
    ) -> Tensor:
        """Return the loss of vectors by column: anchor, positive, negatives; each (B, D)."""
        query, *documents = _at_least_two(list(embeddings))
        return self.contrast(query, torch.cat(documents))

    def contrast(self, query: Tensor, candidates: Tensor, *, keys: Tensor | None = None) -> Tensor:
        """Return the loss of vectors.

        Args:
            query: float tensor (B, D).
            candidates: float tensor (N, D), N at least B; candidate i is row i's own document.
            keys: int64 tensor (N,), equal for equal content; None when it cannot be told.

        Raises:
            ShapeError: When there are fewer candidates than rows, or keys do not fit.
        """
        rows, count = len(query), len(candidates)
        if count < rows or (keys is not None and len(keys) != count):
            raise ShapeError(
                f"{rows} queries need at least as many candidates, and one key each; got {count} "
                f"candidates and {'no' if keys is None else len(keys)} keys."
            )
        left, right = (nn.functional.normalize(x.float(), dim=-1) for x in (query, candidates))
        logits = self.log_scale.exp() * left @ right.T + self.bias
        own = torch.eye(rows, count, dtype=torch.bool, device=logits.device)
        if keys is None:
            return sigmoid_contrast(logits, own)
        return sigmoid_contrast(logits, own, own | (keys[:rows, None] != keys[None]))

    def get_config_dict(self) -> dict[str, Any]:
        """Return what the model card says about the loss."""
        return {"scale": self.log_scale.exp().item(), "bias": self.bias.item()}


def _at_least_two(columns: list[Any]) -> list[Any]:
    if len(columns) < 2:
        raise InputError(
            f"the batch has {len(columns)} columns: an anchor and a positive are needed."
        )
    return columns
