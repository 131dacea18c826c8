"""The contrastive objective on vectors: one pure function over settings and facts.

`ContrastiveLoss` wraps it for trainers. Knows nothing of models or texts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from embedworks.errors import InputError, NonFiniteError, ShapeError
from embedworks.losses import functional
from embedworks.losses._composition import Composition, Vectors
from embedworks.losses._dense import Sides, dense_contrast
from embedworks.losses._tiled import Job, TiledContrast
from embedworks.losses.batch_info import BatchInfo
from embedworks.losses.settings import ObjectiveSettings

__all__ = ["ContrastInputs", "contrast"]


@dataclass
class ContrastInputs:
    """Beside queries, documents and hard negatives: what some objectives also use.

    Attributes:
        mixed: float tensor (n, J, D), further negatives of each local row.
        mixed_usable: bool tensor (n, J), False for those to leave out; None uses all.
        queue: float tensor (M, D), documents of earlier batches, without gradient.
        queue_keys: int64 tensor (M,), their content keys.
        inverse_temperature: float tensor (n,), 1 / temperature of each local row, through which
            gradients flow; None takes the settings' temperature.
        offset: Global number of the first local row, when vectors of other devices follow or
            precede.
        rows: Number of local rows; None for all.
        progress: Share of the training that is done, 0 to 1, for schedules.
        scores_held: How many scores of a block are held at a time; None chooses by device.
        statistics: Filled in: means over rows of the loss, of the positive's probability, and of
            rows left without any negative.
    """

    mixed: Tensor | None = None
    mixed_usable: Tensor | None = None
    queue: Tensor | None = None
    queue_keys: Tensor | None = None
    inverse_temperature: Tensor | None = None
    offset: int = 0
    rows: int | None = None
    progress: float = 0.0
    scores_held: int | None = None
    statistics: dict[str, Tensor] = field(default_factory=dict)


def contrast(
    query: Tensor,
    document: Tensor,
    negatives: Tensor | None = None,
    *,
    settings: ObjectiveSettings | None = None,
    info: BatchInfo | None = None,
    inputs: ContrastInputs | None = None,
) -> Tensor:
    """Return the mean contrastive loss of a batch.

    Exact, and without a score matrix: memory beside the inputs and their gradients does not grow
    with the batch.

    Args:
        query: float tensor (N, D), or (N, T, D) token vectors for ``maxsim``.
        document: float tensor (N, D) or (N, U, D); row i is the positive of query i.
        negatives: float tensor (N, K, D) or (N, K, U, D), hard negatives of each row, or None.
        settings: What to compute; None for InfoNCE with in-batch and hard negatives.
        info: Facts about the rows; needed by masks and targets that are not about vectors.
        inputs: Mixed negatives, a queue, temperatures, the place in the training.

    Returns:
        A scalar tensor.

    Raises:
        ShapeError: When shapes do not agree.
        NonFiniteError: When a vector is NaN or infinite; names the side and the row.
        InputError: When the objective needs something that was not given, or nothing is left to
            contrast with.

    Papers: InfoNCE, arXiv 1807.03748; what each part is taken from stands in its settings.

    Example:
        >>> x = torch.eye(4)
        >>> bool(contrast(x, x) < 1e-6)
        True
        >>> round(float(contrast(x, torch.ones(4, 4))), 4)  # nothing to tell documents apart
        1.3863
    """
    settings = settings or ObjectiveSettings()
    info = info or BatchInfo()
    inputs = inputs or ContrastInputs()
    many = _check(query, document, negatives, settings, info, inputs)
    rows = len(query) if inputs.rows is None else inputs.rows
    tau = inputs.inverse_temperature
    if tau is None:
        dtype = torch.promote_types(query.dtype, torch.float32)
        tau = torch.full((rows,), 1 / settings.temperature.value, dtype=dtype, device=query.device)
    loss = torch.zeros((), dtype=tau.dtype, device=tau.device)
    for direction in settings.directions:
        if direction == "query_to_document":
            part, taught = _one_way(
                query, document, negatives, many, settings, info, inputs, tau, rows
            )
            loss = loss + settings.teacher.weight * taught
        else:
            turned = settings.replace(
                candidates=("documents",),
                targets=_turned(settings),
                directions=(direction,),
                teacher={},
                contrastive_weight=1.0,
            )
            alone = ContrastInputs(
                offset=inputs.offset, progress=inputs.progress, scores_held=inputs.scores_held
            )
            part, _ = _one_way(document, query, None, 0, turned, info.swapped(), alone, tau, rows)
        loss = loss + settings.contrastive_weight * part / len(settings.directions)
    return loss


def _turned(settings: ObjectiveSettings) -> dict[str, str]:
    kind = "one" if settings.targets.kind == "graded" else settings.targets.kind
    return {"kind": kind, "by": settings.targets.by}


def _one_way(
    query: Tensor,
    document: Tensor,
    negatives: Tensor | None,
    many: int,
    settings: ObjectiveSettings,
    info: BatchInfo,
    inputs: ContrastInputs,
    tau: Tensor,
    rows: int,
) -> tuple[Tensor, Tensor]:
    """Return the contrastive loss of one direction, and the divergence from the teacher."""
    flat = None if negatives is None else negatives.flatten(0, 1)
    similar = None
    if settings.masks.similar_to_positive is not None:
        named = {"document": document, "negatives": flat, "queue": inputs.queue}
        similar = {k: Vectors(v.detach(), unit=True) for k, v in named.items() if v is not None}
    queue = inputs.queue if "queue" in settings.candidates else None
    queue_keys = inputs.queue_keys
    if queue is not None and queue_keys is None:
        queue_keys = torch.full((len(queue),), -1, dtype=torch.int64, device=queue.device)
    composition = Composition(
        settings,
        info,
        negatives=many,
        queue_keys=queue_keys if queue is not None and len(queue) else None,
        similar=similar,
    )
    local = slice(inputs.offset, inputs.offset + rows)
    weights = None if info.weights is None else info.weights[local]
    grades = None
    if settings.targets.kind == "graded":
        grades = info.require("grades", "graded targets")[local]
    job = Job(
        settings=settings,
        composition=composition,
        offset=inputs.offset,
        rows=rows,
        strength=settings.negative_weights.strength.at(inputs.progress),
        exponent=settings.sample_weights.exponent.at(inputs.progress),
        weights=weights,
        grades=grades,
        mixed_usable=inputs.mixed_usable,
        scores_held=inputs.scores_held,
    )
    if not composition.blocks and not composition.has_paired and inputs.mixed is None:
        raise InputError(
            f"nothing to contrast with: candidates are {list(settings.candidates)}, the batch has "
            f"{many} hard negatives per row. Mine hard negatives, or add 'documents'."
        )
    divergence = tau.new_zeros(())
    if _needs_autograd(settings):
        sides = Sides(
            {"query": query, "document": document},
            {"query": info.query_mask, "document": info.document_mask},
        )
        if flat is not None:
            sides.vectors["negatives"] = flat
            mask = info.negatives_mask
            sides.masks["negatives"] = None if mask is None else mask.flatten(0, 1)
        if queue is not None and len(queue):
            sides.vectors["queue"] = queue
        total, weight, divergence = dense_contrast(job, tau, sides, inputs.mixed, info)
    else:
        used = queue if queue is not None and len(queue) else None
        total, weight = TiledContrast.apply(  # type: ignore[no-untyped-call]
            job, tau, query, document, flat, inputs.mixed, used
        )
    inputs.statistics.update({name: value / rows for name, value in job.counts.items()})
    given = total.new_tensor(float(rows)) if weights is None else weights.sum().to(total.dtype)
    given = _mean_over_devices(given)
    by = _mean_over_devices(weight) if settings.sample_weights.normalize else given
    loss = total / by.clamp(min=torch.finfo(total.dtype).tiny)
    if settings.teacher.weight and settings.teacher.scope == "own":
        divergence = _own_divergence(
            query[local], document[local],
            None if negatives is None else negatives[local],
            settings, info, local, tau,
        )  # fmt: skip
    return loss, divergence / given


def _needs_autograd(settings: ObjectiveSettings) -> bool:
    """Return whether the gradient of a composition is not written out in `_tiled`."""
    weights = settings.negative_weights
    return (
        settings.similarity == "maxsim"
        or (settings.teacher.weight > 0 and settings.teacher.scope == "in_batch")
        or (weights.kind == "progressive" and not weights.detach)
        or (
            weights.kind == "hardness" and not weights.detach and settings.targets.kind == "several"
        )
    )


def _own_divergence(
    query: Tensor,
    document: Tensor,
    negatives: Tensor | None,
    settings: ObjectiveSettings,
    info: BatchInfo,
    local: slice,
    tau: Tensor,
) -> Tensor:
    """Return the sum over rows of the divergence over positive and own hard negatives."""
    teacher = info.require("teacher_scores", "a teacher of scope 'own'")[local].to(tau.dtype)
    if negatives is None:
        raise InputError(
            "a teacher of scope 'own' orders the positive and the hard negatives, but the batch "
            "has no hard negatives: mine some, or use scope 'in_batch'."
        )
    scores = []
    for vectors in (document[:, None], negatives):
        if settings.similarity == "maxsim":
            lines = [
                functional.maxsim_scores(
                    query[i : i + 1], vectors[i],
                    None if info.query_mask is None else info.query_mask[local][i : i + 1],
                    _token_mask(info, local, i, negative=vectors is negatives),
                )
                for i in range(len(query))
            ]  # fmt: skip
            scores.append(torch.cat(lines))
            continue
        wide = [x.to(tau.dtype) for x in (query, vectors)]
        if settings.similarity == "cosine":
            wide = [torch.nn.functional.normalize(x, dim=-1) for x in wide]
        scores.append(torch.einsum("rd,rkd->rk", *wide))
    usable = torch.ones_like(teacher, dtype=torch.bool)
    if info.negatives_present is not None:
        usable[:, 1:] = info.negatives_present[local]
    options = settings.teacher
    target = functional.normalize_teacher_scores(teacher, options.normalize, usable)
    heat = tau[:, None]
    if options.student_temperature is not None:
        heat = torch.full_like(heat, 1 / options.student_temperature)
    rows = functional.teacher_divergence(
        torch.cat(scores, dim=1) * heat, target / options.temperature, usable
    )
    return (rows if info.weights is None else rows * info.weights[local].to(rows.dtype)).sum()


def _token_mask(info: BatchInfo, local: slice, row: int, *, negative: bool) -> Tensor | None:
    mask = info.negatives_mask if negative else info.document_mask
    if mask is None:
        return None
    return mask[local][row] if negative else mask[local][row : row + 1]


def _mean_over_devices(value: Tensor) -> Tensor:
    """Average a scalar over devices, so that every device divides by the same number."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    total = value.detach().clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def _check(
    query: Tensor,
    document: Tensor,
    negatives: Tensor | None,
    settings: ObjectiveSettings,
    info: BatchInfo,
    inputs: ContrastInputs,
) -> int:
    """Check what was given; return the number of hard negatives per row."""
    ndim = 3 if settings.similarity == "maxsim" else 2
    shape = "(N, T, D)" if ndim == 3 else "(N, D)"
    for name, x in (("query", query), ("document", document)):
        if x.ndim != ndim:
            raise ShapeError(f"{name} must be {shape}, got {tuple(x.shape)}.")
    if len(query) != len(document) or query.shape[-1] != document.shape[-1]:
        raise ShapeError(
            f"query and document need one row per pair and equal dimensions, got "
            f"{tuple(query.shape)} and {tuple(document.shape)}."
        )
    if len(query) == 0:
        raise ShapeError("the batch is empty: at least one pair is needed.")
    many = 0
    if negatives is not None:
        if (
            negatives.ndim != ndim + 1
            or len(negatives) != len(query)
            or (negatives.shape[-1] != query.shape[-1])
        ):
            inner = "(N, K, U, D)" if ndim == 3 else "(N, K, D)"
            raise ShapeError(
                f"negatives must be {inner} with N = {len(query)} and D = {query.shape[-1]}, got "
                f"{tuple(negatives.shape)}."
            )
        many = negatives.shape[1]
    if inputs.queue is not None and inputs.queue.shape[-1] != query.shape[-1]:
        raise ShapeError(
            f"the queue holds {inputs.queue.shape[-1]}-d vectors, the batch {query.shape[-1]}-d."
        )
    for name, side in (("query", query), ("document", document), ("negatives", negatives)):
        if side is not None and not bool(torch.isfinite(side.detach().sum())):
            finite = torch.isfinite(side.detach()).flatten(1).all(dim=1)
            if not bool(finite.all()):
                row = int((~finite).nonzero()[0])
                raise NonFiniteError(
                    f"{name} vectors are NaN or infinite, first in row {row}: lower the learning "
                    "rate, or look at this row's text."
                )
    info.check(len(query), many)
    return many
