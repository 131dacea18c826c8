"""What the static student learns from its teacher's sentence vectors.

Knows tensors and token ids; knows nothing about text or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from embedworks._core.seeding import generator
from embedworks.errors import ShapeError
from embedworks.training.static_table import (
    BatchOrder,
    Objective,
    RaggedIds,
    StaticTrainingSettings,
    TableView,
)

__all__ = ["DrawnObjectives", "SimilarityObjective", "cluster_rows", "similarity_loss"]


def similarity_loss(
    student: Tensor, teacher: Tensor, *, cosine: float, matrix: float, ranking: float, tau: float
) -> Tensor:
    """Compare a batch of student vectors with the teacher's, in three ways.

    ``cosine * mean(1 - cos(s_i, t_i)) + matrix * B * mean((s_i s_j - t_i t_j)^2)
    + ranking * KL(softmax(t_i t_j / tau) || softmax(s_i s_j / tau))`` over j != i.

    The first term gives the student the teacher's directions, the second the teacher's
    similarities, the third the order of each text's nearest neighbours.

    Args:
        student: float tensor (B, D).
        teacher: float tensor (B, D), normalised rows.
        cosine: Weight of the first term.
        matrix: Weight of the second.
        ranking: Weight of the third.
        tau: Temperature of the third.

    Returns:
        A scalar tensor, 0 when the student equals the teacher.

    Example:
        >>> x = F.normalize(torch.randn(8, 4), dim=1)
        >>> options = {"cosine": 1.0, "matrix": 1.0, "ranking": 1.0, "tau": 0.05}
        >>> bool(similarity_loss(2 * x, x, **options).abs() < 1e-5)
        True
    """
    if student.shape != teacher.shape:
        raise ShapeError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must agree."
        )
    unit = F.normalize(student, dim=1)
    loss = cosine * (1.0 - (unit * teacher).sum(1)).mean()
    if not matrix and not ranking:
        return loss
    ours, theirs = unit @ unit.T, teacher @ teacher.T
    if matrix:
        loss = loss + matrix * len(unit) * F.mse_loss(ours, theirs)
    if ranking:
        own = torch.eye(len(unit), dtype=torch.bool)
        ours = F.log_softmax((ours / tau).masked_fill(own, -1e4), dim=1)
        theirs = F.log_softmax((theirs / tau).masked_fill(own, -1e4), dim=1)
        divergence = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        loss = loss + ranking * divergence
    return loss


def cluster_rows(vectors: np.ndarray, *, size: int, seed: int) -> np.ndarray | None:
    """Group vectors by k-means into clusters of about ``size`` rows.

    Args:
        vectors: float32 array (N, D).
        size: Wanted rows per cluster.
        seed: Fixes the start and the sample the centres are learned from.

    Returns:
        int64 array (N,) of cluster numbers, or None when the rows make fewer than 8 clusters.
    """
    import faiss

    count = len(vectors) // size
    if count < 8:
        return None
    learned_from = generator(seed, "clusters").permutation(len(vectors))[: 40 * count]
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        means = faiss.Kmeans(vectors.shape[1], count, niter=6, seed=seed % 2**31)
        means.train(np.ascontiguousarray(vectors[learned_from]))
        _, nearest = means.index.search(np.ascontiguousarray(vectors), 1)
    finally:
        faiss.omp_set_num_threads(threads)
    return np.asarray(nearest[:, 0], dtype=np.int64)


@dataclass
class SimilarityObjective:
    """Match the teacher's vectors and similarities on random batches of texts.

    Attributes:
        texts: N texts.
        targets: (N, D) teacher vectors, any float type, rows of unit length.
        batch_size: Texts per step.
        cosine: See `similarity_loss`.
        matrix: See `similarity_loss`.
        ranking: See `similarity_loss`.
        tau: See `similarity_loss`.
        scale: Factor on the loss when several objectives are summed.
        name: Names the random stream.
        clusters: (N,) cluster of each text, to fill batches with related texts; see `BatchOrder`.
    """

    texts: RaggedIds
    targets: np.ndarray
    batch_size: int
    cosine: float = 1.0
    matrix: float = 1.0
    ranking: float = 0.0
    tau: float = 0.05
    scale: float = 1.0
    name: str = "teacher"
    clusters: np.ndarray | None = None

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.targets):
            raise ShapeError(f"{len(self.texts)} texts but {len(self.targets)} targets.")
        self._order = BatchOrder(
            len(self.texts), self.batch_size, name=self.name, clusters=self.clusters
        )

    def tokens(self) -> np.ndarray:
        """Return the distinct token ids the texts use."""
        return np.unique(self.texts.ids)

    def loss(self, view: TableView, step: int, settings: StaticTrainingSettings) -> Tensor:
        """Return the scalar loss of this step's batch."""
        rows = self._order.rows(step, seed=settings.seed)
        student = view.pool(self.texts.take(rows))
        teacher = torch.from_numpy(self.targets[rows].astype(np.float32))
        terms = {"cosine": self.cosine, "matrix": self.matrix, "ranking": self.ranking}
        return self.scale * similarity_loss(student, teacher, tau=self.tau, **terms)


@dataclass
class DrawnObjectives:
    """A few of many objectives per step, drawn by weight; their mean loss.

    Attributes:
        objectives: What to draw from.
        weights: How often each is drawn, above 0.
        per_step: How many are drawn in a step.
        scale: Factor on the loss when several objectives are summed.
    """

    objectives: Sequence[Objective]
    weights: Sequence[float]
    per_step: int = 1
    scale: float = 1.0

    def __post_init__(self) -> None:
        if len(self.objectives) != len(self.weights):
            raise ShapeError(f"{len(self.objectives)} objectives, {len(self.weights)} weights.")

    def tokens(self) -> np.ndarray:
        """Return the distinct token ids of all objectives."""
        return np.unique(np.concatenate([objective.tokens() for objective in self.objectives]))

    def loss(self, view: TableView, step: int, settings: StaticTrainingSettings) -> Tensor:
        """Return the mean loss of the objectives drawn for this step."""
        share = np.asarray(self.weights, dtype=np.float64)
        drawn = generator(settings.seed, "draw", step).choice(
            len(share), self.per_step, p=share / share.sum()
        )
        losses = [self.objectives[i].loss(view, step, settings) for i in drawn]
        return self.scale * torch.stack(losses).mean()
