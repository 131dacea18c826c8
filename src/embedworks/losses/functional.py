"""The contrastive objective as pure functions on tensors.

Knows nothing about models or data. Symbols: B batch, K hard negatives per row, D dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from embedworks.errors import InputError, ShapeError

__all__ = ["info_nce"]


def info_nce(
    query: Tensor,
    document: Tensor,
    negatives: Tensor | None = None,
    *,
    temperature: float,
    mask: Tensor | None = None,
    negatives_mask: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Contrast each query with its own document against the batch and its hard negatives.

    ``L_i = -s_ii + log( e^{s_ii} + sum_{j != i, mask_ij} e^{s_ij} + sum_k e^{s_ik} )`` with
    ``s = cos / temperature``; the result is the mean over rows weighted by ``weights``.

    Args:
        query: float tensor (B, D).
        document: float tensor (B, D); row i is the positive of query i.
        negatives: float tensor (B, K, D), hard negatives of each row, or None.
        temperature: Divides the cosine; above 0, typically 0.01 to 0.1.
        mask: bool tensor (B, B), True where document j may be a negative of query i. The
            diagonal (the positive) always counts. None allows all.
        negatives_mask: bool tensor (B, K), True where the hard negative is to be used.
        weights: float tensor (B,), 0 or greater, not all 0. None weighs rows equally.

    Returns:
        A scalar tensor, 0 or greater.

    Raises:
        InputError: When ``temperature`` is not above 0.
        ShapeError: When shapes do not agree.

    Paper: van den Oord et al. 2018, arXiv 1807.03748, eq. 4 (InfoNCE), with in-batch negatives.

    Example:
        >>> x = torch.eye(4)
        >>> bool(info_nce(x, x, temperature=0.05) < 1e-6)
        True
    """
    if not temperature > 0:
        raise InputError(f"temperature must be above 0, got {temperature}.")
    if query.ndim != 2 or query.shape != document.shape:
        raise ShapeError(
            f"query and document must both be (B, D), got {tuple(query.shape)} and "
            f"{tuple(document.shape)}."
        )
    batch = query.shape[0]
    query = F.normalize(query, dim=-1)
    scores = query @ F.normalize(document, dim=-1).T
    if mask is not None:
        if mask.shape != scores.shape:
            raise ShapeError(f"mask must be {tuple(scores.shape)}, got {tuple(mask.shape)}.")
        own = torch.eye(batch, dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(~(mask | own), float("-inf"))
    if negatives is not None:
        if negatives.ndim != 3 or negatives.shape[0] != batch:
            raise ShapeError(f"negatives must be ({batch}, K, D), got {tuple(negatives.shape)}.")
        hard = torch.einsum("bd,bkd->bk", query, F.normalize(negatives, dim=-1))
        if negatives_mask is not None:
            if negatives_mask.shape != hard.shape:
                raise ShapeError(
                    f"negatives_mask must be {tuple(hard.shape)}, got "
                    f"{tuple(negatives_mask.shape)}."
                )
            hard = hard.masked_fill(~negatives_mask, float("-inf"))
        scores = torch.cat([scores, hard], dim=1)
    target = torch.arange(batch, device=scores.device)
    losses = F.cross_entropy(scores / temperature, target, reduction="none")
    if weights is None:
        return losses.mean()
    if weights.shape != losses.shape:
        raise ShapeError(f"weights must be ({batch},), got {tuple(weights.shape)}.")
    return (losses * weights).sum() / weights.sum()
