"""Pull a smaller view of a model toward a larger one: divergences of vectors and scores, and PCA.

Pure functions first, then one small class for each, as `LayerDimLoss` takes them. Knows nothing
of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from embedworks._core.validation import check_in_range
from embedworks.errors import ShapeError

__all__ = [
    "Aligner",
    "PCACompress",
    "ScoreKL",
    "VectorKL",
    "principal_targets",
    "score_divergence",
    "vector_divergence",
]


def vector_divergence(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return tau^2 KL(softmax(t / tau) || softmax(s / tau)) over a vector's own coordinates.

    Args:
        student: float tensor (B, D).
        teacher: float tensor (B, D).
        temperature: tau.

    Returns:
        The mean over rows, a scalar of at least 0.

    Raises:
        ShapeError: When the shapes differ.

    Paper: Li et al. 2024, arXiv 2402.14776 v1, section 2; their tau is 1.

    Example:
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> vector_divergence(x, x).item()
        0.0
    """
    if student.shape != teacher.shape:
        raise ShapeError(f"student is {tuple(student.shape)}, teacher {tuple(teacher.shape)}.")
    mine = F.log_softmax(student / temperature, dim=-1)
    theirs = F.log_softmax(teacher / temperature, dim=-1)
    return temperature**2 * F.kl_div(mine, theirs, reduction="batchmean", log_target=True)


def score_divergence(student: Tensor, teacher: Tensor, *, temperature: float = 0.05) -> Tensor:
    """Return KL(softmax(t / tau) || softmax(s / tau)) over each query's candidates.

    Args:
        student: float tensor (B, N) of scores.
        teacher: float tensor (B, N).
        temperature: tau; that of the base loss is a good choice.

    Returns:
        The mean over rows, a scalar of at least 0.

    Raises:
        ShapeError: When the shapes differ.

    Paper: Zhuang et al. 2024, arXiv 2410.13230; as their retrieval code has it.
    """
    if student.shape != teacher.shape:
        raise ShapeError(f"student is {tuple(student.shape)}, teacher {tuple(teacher.shape)}.")
    mine = F.log_softmax(student / temperature, dim=-1)
    theirs = F.log_softmax(teacher / temperature, dim=-1)
    return F.kl_div(mine, theirs, reduction="batchmean", log_target=True)


def principal_targets(vectors: Tensor, keep: int) -> Tensor:
    """Return where the first coordinates should go to hold a batch's main directions.

    ``A = softmax_rows(M^T M / sqrt(D))``, its rank-k factors ``U_k S_k``, target ``M U_k S_k``.
    Signs of singular vectors are fixed: the largest entry of each column of U is positive, so
    that equal batches have equal targets.

    Args:
        vectors: float tensor (B, D), M.
        keep: k, at most D.

    Returns:
        (B, k), without gradient.

    Raises:
        ShapeError: When ``keep`` is not 1 to D.

    Paper: Li et al., arXiv 2402.14776 v2 (ESE); formulas from the published trainer. Fixing the
        signs is ours: without it a target jumps between batches.
    """
    width = vectors.shape[1]
    if not 1 <= keep <= width:
        raise ShapeError(f"keep must be 1 to {width}, the vectors' dimension, got {keep}.")
    with torch.no_grad():
        exact = vectors.float()
        mixed = torch.softmax(exact.T @ exact / width**0.5, dim=-1)
        left, sizes, _ = torch.linalg.svd(mixed, full_matrices=False)
        left = left[:, :keep]
        signs = left.gather(0, left.abs().argmax(dim=0, keepdim=True)).sign()
        target: Tensor = exact @ (left * signs * sizes[:keep])
        return target.to(vectors.dtype)


class Aligner(Protocol):
    """Ties one view of a model (some layer, some width) to a larger one."""

    @property
    def full_view(self) -> bool:
        """Whether the whole model is aligned too, as PCA does."""
        ...

    def __call__(
        self, view: Sequence[Tensor], own_layer: Sequence[Tensor], last_layer: Sequence[Tensor]
    ) -> Tensor:
        """Return the term of a view.

        Args:
            view: Per column, float (B, d).
            own_layer: Per column, the same layer at full width, float (B, D).
            last_layer: Per column, the last layer at full width, float (B, D).
        """
        ...


@dataclass(frozen=True)
class VectorKL:
    """Align a view's vectors with the last layer's first coordinates; see `vector_divergence`.

    Args:
        weight: Of the term.
        temperature: tau.
    """

    weight: float = 1.0
    temperature: float = 1.0
    full_view: bool = False

    def __post_init__(self) -> None:
        _check(self.weight, self.temperature)

    def __call__(
        self, view: Sequence[Tensor], own_layer: Sequence[Tensor], last_layer: Sequence[Tensor]
    ) -> Tensor:
        """Return the weighted divergence over all columns."""
        mine = torch.cat(list(view))
        theirs = torch.cat([column[:, : mine.shape[1]] for column in last_layer])
        return self.weight * vector_divergence(mine, theirs, temperature=self.temperature)


@dataclass(frozen=True)
class ScoreKL:
    """Align what a view finds similar with what the whole model does; see `score_divergence`.

    Scores are cosines of the first column with all others. Vectors are those of this device.

    Args:
        weight: Of the term.
        temperature: tau of both.
    """

    weight: float = 1.0
    temperature: float = 0.05
    full_view: bool = False

    def __post_init__(self) -> None:
        _check(self.weight, self.temperature)

    def __call__(
        self, view: Sequence[Tensor], own_layer: Sequence[Tensor], last_layer: Sequence[Tensor]
    ) -> Tensor:
        """Return the weighted divergence over the batch's documents."""
        mine, theirs = (
            F.normalize(columns[0], dim=-1) @ F.normalize(torch.cat(list(columns[1:])), dim=-1).T
            for columns in (view, last_layer)
        )
        return self.weight * score_divergence(mine, theirs, temperature=self.temperature)


@dataclass(frozen=True)
class PCACompress:
    """Pack a layer's main directions into its first coordinates; see `principal_targets`.

    ``mse * MSE(v, P) + weight * tau * KL(softmax(P / tau) || softmax(v / tau))``.

    Args:
        weight: Of the divergence.
        mse: Of the squared distance.
        temperature: tau.
    """

    weight: float = 1.0
    mse: float = 1.0
    temperature: float = 1.0
    full_view: bool = True

    def __post_init__(self) -> None:
        _check(self.weight, self.temperature)
        check_in_range(self.mse, name="mse", low=0.0)

    def __call__(
        self, view: Sequence[Tensor], own_layer: Sequence[Tensor], last_layer: Sequence[Tensor]
    ) -> Tensor:
        """Return the weighted terms over all columns."""
        mine = torch.cat(list(view))
        target = principal_targets(torch.cat(list(own_layer)), mine.shape[1])
        # vector_divergence has tau^2, this form tau.
        divergence = vector_divergence(mine, target, temperature=self.temperature)
        return self.mse * F.mse_loss(mine, target) + self.weight * divergence / self.temperature


def _check(weight: float, temperature: float) -> None:
    check_in_range(weight, name="weight", low=0.0)
    check_in_range(temperature, name="temperature", low=0.0, open_low=True)
