"""The maths of contrastive objectives as pure functions on tensors.

Scores, masks, weights, targets and losses, each on its own; `ContrastiveLoss` composes them
without holding a whole score matrix. Symbols: B batch, N candidates, K hard negatives per row,
T tokens, D dim. Knows nothing about models or data.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from embedworks.errors import InputError, ShapeError

__all__ = [
    "above_positive_mask",
    "contrastive_loss",
    "cosine_scores",
    "dot_scores",
    "focal_weights",
    "graded_targets",
    "guide_mask",
    "hardness_log_weights",
    "maxsim_scores",
    "normalize_teacher_scores",
    "progressive_log_weights",
    "same_key_mask",
    "softmax_entropy",
    "teacher_divergence",
]


def cosine_scores(query: Tensor, document: Tensor) -> Tensor:
    """Return cosines (B, N) of query (B, D) and document (N, D) vectors; a zero vector gives 0."""
    return F.normalize(query, dim=-1) @ F.normalize(document, dim=-1).T


def dot_scores(query: Tensor, document: Tensor) -> Tensor:
    """Return dot products (B, N) of query (B, D) and document (N, D) vectors."""
    return query @ document.T


def maxsim_scores(
    query: Tensor,
    document: Tensor,
    query_mask: Tensor | None = None,
    document_mask: Tensor | None = None,
) -> Tensor:
    """Return late-interaction scores: each query token's best cosine, averaged over its tokens.

    Args:
        query: float tensor (B, T, D), token vectors.
        document: float tensor (N, U, D).
        query_mask: bool tensor (B, T), True for real tokens; None for all.
        document_mask: bool tensor (N, U).

    Returns:
        (B, N), between -1 and 1. A query or document without a real token scores 0.

    Paper: Khattab and Zaharia 2020, arXiv 2004.12832, eq. 3. They sum where we average over the
        query's tokens, so that one temperature fits queries of every length.
    """
    scores = torch.einsum(
        "btd,nud->bntu", F.normalize(query, dim=-1), F.normalize(document, dim=-1)
    )
    if document_mask is not None:
        scores = scores.masked_fill(~document_mask[None, :, None, :], float("-inf"))
    best = scores.amax(dim=-1)
    best = torch.where(best == float("-inf"), torch.zeros_like(best), best)
    if query_mask is None:
        return best.mean(dim=-1)
    weights = query_mask[:, None, :].to(best.dtype)
    return (best * weights).sum(dim=-1) / weights.sum(dim=-1).clamp(min=1)


def same_key_mask(row_keys: Tensor, column_keys: Tensor) -> Tensor:
    """Return bool (B, N), True where keys are equal; a negative key equals nothing.

    Example:
        >>> same_key_mask(torch.tensor([1, -1]), torch.tensor([1, 2, -1])).tolist()
        [[True, False, False], [False, False, False]]
    """
    return (row_keys[:, None] == column_keys[None, :]) & (row_keys[:, None] >= 0)


def guide_mask(
    guide_scores: Tensor,
    positive_scores: Tensor,
    *,
    margin: float = 0.0,
    kind: str = "absolute",
) -> Tensor:
    """Return bool (B, N), True where a guide ranks a candidate above the row's positive.

    Args:
        guide_scores: float tensor (B, N), the guide's cosines.
        positive_scores: float tensor (B,), the guide's cosine t of each row's own pair.
        margin: Subtracted from t: itself (``absolute``) or times ``|t|`` (``relative``).
        kind: ``absolute`` or ``relative``.

    Paper: Solatorio 2024, arXiv 2402.16829. A score equal to the threshold is kept.

    Example:
        >>> guide_mask(torch.tensor([[0.9, 0.5]]), torch.tensor([0.8])).tolist()
        [[True, False]]
    """
    return guide_scores > guide_threshold(positive_scores, margin=margin, kind=kind)[:, None]


def guide_threshold(positive_scores: Tensor, *, margin: float, kind: str) -> Tensor:
    """Return the score (B,) above which a candidate counts as a positive."""
    if kind == "absolute":
        return positive_scores - margin
    if kind == "relative":
        return positive_scores - margin * positive_scores.abs()
    raise InputError(f"kind must be 'absolute' or 'relative', got {kind!r}.")


def above_positive_mask(scores: Tensor, positive_scores: Tensor, *, margin: float = 0.0) -> Tensor:
    """Return bool (B, N), True where a score is above the positive's (B,) plus ``margin``."""
    return scores > (positive_scores + margin)[:, None]


def hardness_log_weights(scores: Tensor, strength: float, *, detach: bool = True) -> Tensor:
    """Return ``strength * similarity``, the logarithm of RzenEmbed's negative weight.

    Paper: arXiv 2510.27350 (alpha = 9); whether they detach it is not stated.
    """
    return strength * (scores.detach() if detach else scores)


def progressive_log_weights(
    scores: Tensor, strength: float, allowed: Tensor, *, detach: bool = True
) -> Tensor:
    """Return ``log( N_i * softmax_j(strength * similarity) )`` over each row's allowed negatives.

    The mean weight of a row is 1, so strength 0 is plain InfoNCE.

    Args:
        scores: float tensor (B, N), similarities.
        strength: 0 for equal weights, above for more weight on hard negatives.
        allowed: bool tensor (B, N), the negatives that share the weight.
        detach: Take the weights as constants in the gradient.

    Returns:
        (B, N); 0 where not allowed.

    Paper: our reading of PEG (arXiv 2311.11691), which publishes no formula.

    Example:
        >>> s = torch.tensor([[0.5, 0.1, 0.9]])
        >>> w = progressive_log_weights(s, 3.0, torch.ones(1, 3, dtype=torch.bool)).exp()
        >>> round(float(w.mean()), 4), bool(w[0, 2] > w[0, 0])
        (1.0, True)
    """
    x = strength * (scores.detach() if detach else scores)
    x = x.masked_fill(~allowed, float("-inf"))
    count = allowed.sum(dim=1, keepdim=True).clamp(min=1).to(x.dtype)
    total = torch.logsumexp(x, dim=1, keepdim=True)
    total = torch.where(total == float("-inf"), torch.zeros_like(total), total)
    weights = x + count.log() - total
    return torch.where(allowed, weights, torch.zeros_like(weights))


def graded_targets(grades: Tensor) -> Tensor:
    """Return targets (B, N) in proportion to grades (B, N), 0 or greater; rows sum to 1.

    Raises:
        InputError: When a grade is negative or not finite, or a row has no grade above 0.

    Example:
        >>> graded_targets(torch.tensor([[3.0, 1.0, 0.0]])).tolist()
        [[0.75, 0.25, 0.0]]
    """
    if not bool(torch.isfinite(grades).all()) or bool((grades < 0).any()):
        raise InputError("grades must be finite and 0 or greater.")
    totals = grades.sum(dim=1, keepdim=True)
    if bool((totals == 0).any()):
        row = int((totals[:, 0] == 0).nonzero()[0])
        raise InputError(f"row {row} has no grade above 0: it has nothing to be drawn to.")
    return grades / totals


def focal_weights(positive_probability: Tensor, exponent: float) -> Tensor:
    """Return ``(1 - p) ** exponent`` for probabilities p (B,) of the positive.

    Paper: KaLM-Embedding-V2, arXiv 2506.20923; 0.5 is reported for its 12B sibling.
    """
    floor = torch.finfo(positive_probability.dtype).tiny
    return (1 - positive_probability).clamp(min=floor).pow(exponent)


def contrastive_loss(
    logits: Tensor,
    positives: Tensor,
    allowed: Tensor,
    *,
    log_weights: Tensor | None = None,
) -> Tensor:
    """Return each row's contrastive loss.

    ``L_i = -sum_p y_ip S_ip + log( sum_p e^S_ip + sum_j A_ij W_ij e^S_ij )``.

    Args:
        logits: float tensor (B, N), similarities over temperature.
        positives: float tensor (B, N), the targets y: 0 for what is not a positive; rows sum to 1.
        allowed: bool tensor (B, N), A, True for negatives. Positives need not be marked.
        log_weights: float tensor (B, N), log W; None for 0.

    Returns:
        (B,). A row without any negative has loss 0 when it has one positive.

    Raises:
        ShapeError: When the shapes differ.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0]])
        >>> y = torch.tensor([[1.0, 0.0]])
        >>> round(float(contrastive_loss(logits, y, torch.tensor([[False, True]]))), 4)
        0.6931
    """
    given = [positives, allowed] if log_weights is None else [positives, allowed, log_weights]
    if any(x.shape != logits.shape for x in given):
        raise ShapeError(
            f"logits, positives, allowed and log_weights must all be (B, N), got "
            f"{tuple(logits.shape)} and {[tuple(x.shape) for x in given]}."
        )
    is_positive = positives > 0
    weighted = logits if log_weights is None else logits + log_weights
    weighted = torch.where(is_positive, logits, weighted)
    weighted = weighted.masked_fill(~(allowed | is_positive), float("-inf"))
    drawn = torch.where(is_positive, positives * logits, torch.zeros_like(logits)).sum(dim=1)
    return torch.logsumexp(weighted, dim=1) - drawn


def normalize_teacher_scores(scores: Tensor, how: str, usable: Tensor | None = None) -> Tensor:
    """Bring each row of teacher scores (B, N) to a common range.

    Args:
        scores: float tensor (B, N).
        how: ``none``, ``minmax`` (to 0..1), ``zscore`` (mean 0, deviation 1) or ``sigmoid``.
        usable: bool tensor (B, N): entries that count for a row's range; None for all.

    Returns:
        (B, N). A row whose scores are all equal becomes all 0 under ``minmax`` and ``zscore``.
    """
    if how == "none":
        return scores
    if how == "sigmoid":
        return torch.sigmoid(scores)
    keep = torch.ones_like(scores, dtype=torch.bool) if usable is None else usable
    if how == "minmax":
        low = scores.masked_fill(~keep, float("inf")).amin(dim=1, keepdim=True)
        high = scores.masked_fill(~keep, float("-inf")).amax(dim=1, keepdim=True)
        span = high - low
        return torch.where(span > 0, (scores - low) / span, torch.zeros_like(scores))
    if how == "zscore":
        count = keep.sum(dim=1, keepdim=True).clamp(min=1)
        mean = (scores * keep).sum(dim=1, keepdim=True) / count
        variance = ((scores - mean).square() * keep).sum(dim=1, keepdim=True) / count
        return torch.where(
            variance > 0, (scores - mean) / variance.sqrt(), torch.zeros_like(scores)
        )
    raise InputError(f"normalize must be none, minmax, zscore or sigmoid, got {how!r}.")


def teacher_divergence(student: Tensor, teacher: Tensor, usable: Tensor | None = None) -> Tensor:
    """Return each row's KL divergence from the teacher's to the student's softmax.

    Args:
        student: float tensor (B, N), student logits (similarities over temperature).
        teacher: float tensor (B, N), teacher logits.
        usable: bool tensor (B, N): candidates both distributions are over; None for all. A row
            with fewer than two has divergence 0.

    Returns:
        (B,), 0 or greater, 0 where the two distributions agree.

    Paper: Hinton et al. 2015, arXiv 1503.02531, without the squared-temperature factor.

    Example:
        >>> x = torch.tensor([[2.0, 1.0, 0.0]])
        >>> float(teacher_divergence(x, x + 5))
        0.0
    """
    if usable is not None:
        low = torch.finfo(student.dtype).min / 4
        student = student.masked_fill(~usable, low)
        teacher = teacher.masked_fill(~usable, low)
    student = F.log_softmax(student, dim=1)
    teacher = F.log_softmax(teacher, dim=1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True)
    if usable is not None:
        divergence = divergence.masked_fill(~usable, 0.0)
    return divergence.sum(dim=1).clamp(min=0)


def softmax_entropy(logits: Tensor) -> Tensor:
    """Return the entropy (B,) of each row's softmax over logits (B, N), in nats.

    It asks how sure a model is, not whether it is right: no targets are needed.

    Paper: Yang et al. 2023, AdaMerging, arXiv 2310.02575, who minimise it for classifiers' outputs.

    Example:
        >>> softmax_entropy(torch.zeros(1, 2)).exp().tolist()
        [2.0]
    """
    logs = F.log_softmax(logits, dim=1)
    return -(logs.exp() * logs).sum(dim=1)
