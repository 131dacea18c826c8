"""The contrastive loss over ranges of rows by automatic differentiation.

For the compositions whose gradient is not written out in `_tiled`: token vectors, in-batch
teachers, and weights that are not constants. A range's scores are dropped after use and computed
again in the backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from embedworks.losses import functional
from embedworks.losses._composition import NEGATIVE_INFINITY, WEIGHTED, Block
from embedworks.losses._tiled import Job
from embedworks.losses.batch_info import BatchInfo


@dataclass
class Sides:
    """Vectors of a batch by side: (N, D), or (N, T, D) for token vectors, with their masks."""

    vectors: dict[str, Tensor]
    masks: dict[str, Tensor | None]

    def tuple_of(self, side: str, rows: slice) -> tuple[Tensor, Tensor | None]:
        """Return some rows of a side and their token mask."""
        mask = self.masks.get(side)
        return self.vectors[side][rows], None if mask is None else mask[rows]


def dense_contrast(
    job: Job, inverse_temperature: Tensor, sides: Sides, mixed: Tensor | None, info: BatchInfo
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted sum of losses, the sum of weights, and the sum of divergences.

    Args:
        job: What to compute.
        inverse_temperature: float tensor (n,).
        sides: Vectors; hard negatives are (N * K, ...).
        mixed: float tensor (n, J, D), or None.
        info: Facts about all N rows.
    """
    columns = sum(len(sides.vectors[b.side]) for b in job.composition.blocks) or 1
    tokens = 1
    if sides.vectors["query"].ndim == 3:
        tokens = sides.vectors["query"].shape[1] * sides.vectors["document"].shape[1]
    step = job.range_length(columns * tokens, sides.vectors["query"].device)
    total = inverse_temperature.new_zeros(())
    weight, divergence = total, total
    zero = torch.zeros((), dtype=inverse_temperature.dtype, device=inverse_temperature.device)
    job.counts = {name: zero.clone() for name in ("alone", "probability", "loss")}
    for start in range(0, job.rows, step):
        local = slice(start, min(start + step, job.rows))
        parts = checkpoint(
            _range, job, inverse_temperature, sides, mixed, info, local, use_reentrant=False
        )
        total, weight, divergence = total + parts[0], weight + parts[1], divergence + parts[2]
        for name, value in zip(("alone", "probability", "loss"), parts[3], strict=True):
            job.counts[name] = job.counts[name] + value
    return total, weight.detach(), divergence


def _range(
    job: Job,
    inverse_temperature: Tensor,
    sides: Sides,
    mixed: Tensor | None,
    info: BatchInfo,
    local: slice,
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    rows = slice(local.start + job.offset, local.stop + job.offset)
    tau = inverse_temperature[local]
    paired, struck, targets = _paired(job, sides, mixed, info, local, rows)
    groups, allowed, positives = [paired], [~struck & (targets == 0)], [targets]
    weighted = [torch.full_like(struck, fill_value=job.weighs(paired=True))]
    weighted[0][:, 0] = False
    anchors = torch.arange(rows.start, rows.stop, device=paired.device)
    for block in job.composition.blocks:
        scores = _scores(job, sides, block.anchor, rows, block.side)
        free, further = _strike(job, block, scores, rows, anchors, paired[:, 0])
        groups.append(scores)
        allowed.append(free)
        positives.append(further)
        in_scope = block.name in WEIGHTED and job.weighs(paired=False)
        weighted.append(torch.full_like(free, fill_value=in_scope))
    scores = torch.cat(groups, dim=1)
    is_allowed, weighs = torch.cat(allowed, dim=1), torch.cat(weighted, dim=1)
    y = torch.cat(positives, dim=1)
    y = y / y.sum(dim=1, keepdim=True)
    losses = functional.contrastive_loss(
        scores * tau[:, None],
        y,
        is_allowed,
        log_weights=_log_weights(job, scores, is_allowed & weighs),
    )
    is_positive = y > 0
    drawn = torch.where(is_positive, y * scores, torch.zeros_like(scores)).sum(dim=1) * tau
    # For one positive this is its probability; for several, their geometric mean's.
    probability = (-losses).exp() if job.settings.targets.kind == "one" else None
    if probability is None:
        top = torch.logsumexp(
            (scores * tau[:, None]).masked_fill(~is_positive, NEGATIVE_INFINITY), 1
        )
        probability = (top - losses - drawn).exp()
    weights = torch.ones_like(losses)
    settings = job.settings.sample_weights
    if settings.kind == "focal" and job.exponent != 0:
        weights = functional.focal_weights(probability, job.exponent)
        weights = weights.detach() if settings.detach else weights
    if job.weights is not None:
        weights = weights * job.weights[local].to(losses.dtype)
    divergence = _divergence(job, scores, is_allowed, targets.shape[1], info, rows, tau)
    if job.weights is not None:
        divergence = divergence * job.weights[local].to(losses.dtype)
    alone = (~is_allowed.any(dim=1)).sum().to(losses.dtype)
    counts = (alone, probability.detach().sum(), losses.detach().sum())
    return (losses * weights).sum(), weights.sum(), divergence.sum(), counts


def _scores(job: Job, sides: Sides, anchor: str, rows: slice, side: str) -> Tensor:
    """Return similarities (R, M) of anchors and the candidates of a side."""
    first, first_mask = sides.tuple_of(anchor, rows)
    second, second_mask = sides.tuple_of(side, slice(None))
    if anchor == "document":  # a query's tokens look for a document's, whichever is the anchor
        return _similarity(job, second, first, second_mask, first_mask).T
    return _similarity(job, first, second, first_mask, second_mask)


def _similarity(
    job: Job, query: Tensor, document: Tensor, query_mask: Tensor | None, mask: Tensor | None
) -> Tensor:
    """Return similarities (B, N) of queries and documents."""
    query, document = _widen(query), _widen(document)
    if job.settings.similarity == "dot":
        return functional.dot_scores(query, document)
    if job.settings.similarity == "cosine":
        return functional.cosine_scores(query, document)
    return functional.maxsim_scores(query, document, query_mask, mask)


def _with_own(
    job: Job, query: Tensor, query_mask: Tensor | None, own: Tensor, mask: Tensor | None
) -> Tensor:
    """Return similarities (R, P) of R queries, each with the P candidates of its own row.

    ``own`` is (R * P, ...), a row's candidates one after another; masks are as in `Sides`.
    """

    def of_one_row(q: Tensor, o: Tensor, q_mask: Tensor | None, o_mask: Tensor | None) -> Tensor:
        return _similarity(job, q[None], o, None if q_mask is None else q_mask[None], o_mask)[0]

    rows = len(query)
    return torch.vmap(
        of_one_row, in_dims=(0, 0, None if query_mask is None else 0, None if mask is None else 0)
    )(
        query,
        own.reshape(rows, -1, *own.shape[1:]),
        query_mask,
        None if mask is None else mask.reshape(rows, -1, *mask.shape[1:]),
    )


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _paired(
    job: Job, sides: Sides, mixed: Tensor | None, info: BatchInfo, local: slice, rows: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """Return similarities (R, P), which are struck and targets, for candidates of a row alone."""
    many = job.composition.negatives if job.composition.has_paired else 0
    query, query_mask = sides.tuple_of("query", rows)
    groups = [_with_own(job, query, query_mask, *sides.tuple_of("document", rows))]
    if many:
        mine = slice(rows.start * many, rows.stop * many)
        groups.append(_with_own(job, query, query_mask, *sides.tuple_of("negatives", mine)))
    if mixed is not None:
        groups.append(_with_own(job, query, query_mask, mixed[local].flatten(0, 1), None))
    paired = torch.cat(groups, dim=1)
    struck = torch.zeros_like(paired, dtype=torch.bool)
    if many:
        with torch.no_grad():
            struck[:, 1 : 1 + many] = job.composition.struck_pairs(
                rows, paired[:, 1 : 1 + many].detach(), paired[:, 0].detach()
            )
    if mixed is not None and job.mixed_usable is not None:
        struck[:, 1 + many :] = ~job.mixed_usable[local]
    targets = torch.zeros_like(paired)
    if job.settings.targets.kind == "graded" and job.grades is not None:
        given = functional.graded_targets(job.grades[local].to(paired.dtype))
        targets[:, : given.shape[1]] = given
        struck = struck & ~(targets > 0)
    else:
        targets[:, 0] = 1.0
    return paired, struck, targets


@torch.no_grad()
def _strike(
    job: Job, block: Block, scores: Tensor, rows: slice, anchors: Tensor, positive: Tensor
) -> tuple[Tensor, Tensor]:
    """Return which entries (R, M) are negatives, and further positives as ones."""
    x = scores.detach().clone()
    further = torch.zeros_like(x)
    if block.positives is not None:
        row, column = block.positives.pairs(rows)
        other = column != anchors[row]
        further[row[other], column[other]] = 1.0
    limit = job.settings.masks.above_positive
    bound = None if limit is None else positive.detach() + limit
    job.composition.strike_(block, x, rows, bound, anchors)
    return (x != NEGATIVE_INFINITY) & (further == 0), further


def _log_weights(job: Job, scores: Tensor, weighed: Tensor) -> Tensor | None:
    settings = job.settings.negative_weights
    if settings.kind == "none" or job.strength == 0:
        return None
    if settings.kind == "progressive":
        return functional.progressive_log_weights(
            scores, job.strength, weighed, detach=settings.detach
        )
    weights = functional.hardness_log_weights(scores, job.strength, detach=settings.detach)
    return torch.where(weighed, weights, torch.zeros_like(weights))


def _divergence(
    job: Job,
    scores: Tensor,
    allowed: Tensor,
    paired: int,
    info: BatchInfo,
    rows: slice,
    tau: Tensor,
) -> Tensor:
    """Return the divergence (R,) from an in-batch teacher."""
    settings = job.settings.teacher
    if settings.weight == 0 or settings.scope != "in_batch":
        return scores.new_zeros(len(scores))
    why = "an in-batch teacher"
    sides = {
        "query": info.require("teacher_query", why),
        "document": info.require("teacher_document", why),
    }
    many = job.composition.negatives if job.composition.has_paired else 0
    if job.composition.negatives:
        sides["negatives"] = info.require("teacher_negatives", why).flatten(0, 1)
    unit = {name: torch.nn.functional.normalize(_widen(x), dim=-1) for name, x in sides.items()}
    query = unit["query"][rows]
    own = [(query * unit["document"][rows]).sum(dim=1, keepdim=True)]
    if many:
        mine = unit["negatives"].view(-1, many, unit["negatives"].shape[-1])[rows]
        own.append(torch.einsum("rd,rkd->rk", query, mine))
    teacher, student, usable = [torch.cat(own, dim=1)], [scores[:, : 1 + many]], []
    usable.append(allowed[:, : 1 + many].clone())
    usable[0][:, 0] = True
    begin = paired
    for block in job.composition.blocks:
        width = len(sides[block.side]) if block.side in sides else 0
        if block.name in ("documents", "other_negatives"):
            teacher.append(query @ unit[block.side].T)
            student.append(scores[:, begin : begin + width])
            usable.append(allowed[:, begin : begin + width])
        begin += width if width else scores.shape[1] - begin
    heat = (
        tau[:, None] if settings.student_temperature is None else 1 / settings.student_temperature
    )
    return functional.teacher_divergence(
        torch.cat(student, dim=1) * heat,
        torch.cat(teacher, dim=1) / settings.temperature,
        torch.cat(usable, dim=1),
    )
