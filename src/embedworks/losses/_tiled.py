"""The contrastive loss and its gradient over ranges of rows, by hand.

One pass: as soon as a range's scores against all candidates are known, so is their share of every
gradient, and the scores are dropped. The range is as long as a fixed number of scores allows, so
memory above inputs and gradients does not grow with the batch. Three matrix products per block,
as many as the plain loss with its whole score matrix takes.

Symbols: n local rows, N rows of all devices, R rows of a range, M candidates of a block, K hard
negatives, J mixed negatives, P = 1 + K + J candidates of a row alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from embedworks.losses._composition import (
    NEGATIVE_INFINITY,
    WEIGHTED,
    Block,
    Composition,
    Vectors,
    chunks_of,
)
from embedworks.losses.functional import focal_weights, graded_targets
from embedworks.losses.settings import ObjectiveSettings

#: Scores held at a time, by kind of device: 16 MB and 512 MB in float32.
SCORES_HELD = {"cpu": 1 << 22, "cuda": 1 << 27}


@dataclass
class Job:
    """One evaluation of the objective.

    Attributes:
        settings: The objective.
        composition: Blocks and masks of this batch.
        offset: Global number of the first local row.
        rows: n.
        strength: Strength of the negative weights at this point of the training.
        exponent: Exponent of the sample weights at this point of the training.
        weights: float (n,) row weights, or None.
        grades: float (n, 1 + K), or None.
        mixed_usable: bool (n, J), or None.
        scores_held: How many scores of a block may be held at a time; None for the default.
        counts: Filled in: rows, rows without negatives, sums for the step's statistics.
    """

    settings: ObjectiveSettings
    composition: Composition
    offset: int
    rows: int
    strength: float
    exponent: float
    weights: Tensor | None = None
    grades: Tensor | None = None
    mixed_usable: Tensor | None = None
    scores_held: int | None = None
    counts: dict[str, Tensor] = field(default_factory=dict)

    def range_length(self, columns: int, device: torch.device) -> int:
        """Return how many rows are handled at a time."""
        held = self.scores_held or SCORES_HELD.get(device.type, SCORES_HELD["cuda"])
        return max(1, min(self.rows, held // max(1, columns)))

    def weighs(self, paired: bool) -> bool:
        """Return whether negative weights apply to own hard negatives, or to the batch."""
        if self.settings.negative_weights.kind == "none" or self.strength == 0:
            return False
        scope = self.settings.negative_weights.scope
        return scope == "all_negatives" or scope.startswith("hard" if paired else "in_batch")


class TiledContrast(torch.autograd.Function):
    """Sum over rows of ``weight * loss``, with its gradient computed in the forward pass.

    Arguments after the job: inverse temperature (n,), queries (N, D), documents (N, D), hard
    negatives (N * K, D) or None, mixed negatives (n, J, D) or None, queue (M, D) or None.
    Returns the sum, and the sum of sample weights without gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        job: Job,
        inverse_temperature: Tensor,
        query: Tensor,
        document: Tensor,
        negatives: Tensor | None,
        mixed: Tensor | None,
        queue: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss and keep its gradients."""
        inputs = (inverse_temperature, query, document, negatives, mixed)
        wanted = tuple(x is not None and x.requires_grad for x in inputs)
        worker = _Worker(job, inverse_temperature, query, document, negatives, mixed, queue, wanted)
        total, weight = worker.run()
        ctx.gradients = worker.gradients()
        ctx.mark_non_differentiable(weight)
        return total, weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the kept gradients, and let go of them."""
        if ctx.gradients is None:
            raise RuntimeError(
                "backward was called a second time: the objective keeps its gradients once only. "
                "Compute the loss again."
            )
        scaled = [None if g is None else g.mul_(grad_total) for g in ctx.gradients]
        ctx.gradients = None
        return (None, *scaled, None)


class _Worker:
    """State of one pass over the rows."""

    def __init__(
        self,
        job: Job,
        inverse_temperature: Tensor,
        query: Tensor,
        document: Tensor,
        negatives: Tensor | None,
        mixed: Tensor | None,
        queue: Tensor | None,
        wanted: tuple[bool, ...],
    ) -> None:
        unit = job.settings.similarity == "cosine"
        self.job = job
        self.inverse_temperature = inverse_temperature.detach()
        self.sides = {
            "query": Vectors(query.detach(), unit=unit),
            "document": Vectors(document.detach(), unit=unit),
        }
        if negatives is not None:
            self.sides["negatives"] = Vectors(negatives.detach(), unit=unit)
        if queue is not None:
            self.sides["queue"] = Vectors(queue.detach(), unit=unit)
        self.mixed = None
        if mixed is not None:
            self.mixed = Vectors(mixed.detach().flatten(0, 1), unit=unit)
        self.many = job.composition.negatives if job.composition.has_paired else 0
        self.per_mixed = 0 if mixed is None else mixed.shape[1]
        self._mixed_shape = None if mixed is None else mixed.shape
        dtype = self.sides["query"].dtype
        names = ("temperature", "query", "document", "negatives", "mixed")
        self.wanted = dict(zip(names, wanted, strict=True))
        self.grads: dict[str, Tensor] = {}
        for name, raw in (("query", query), ("document", document), ("negatives", negatives)):
            if raw is not None and self.wanted[name]:
                self.grads[name] = torch.zeros(raw.shape, dtype=dtype, device=raw.device)
        if self.mixed is not None and self.wanted["mixed"]:
            self.grads["mixed"] = torch.zeros(
                self.mixed.raw.shape, dtype=dtype, device=query.device
            )
        if self.wanted["temperature"]:
            self.grads["temperature"] = torch.zeros_like(self.inverse_temperature)
        self.any_gradient = any(wanted)
        self._buffers: dict[int, Tensor] = {}

    def run(self) -> tuple[Tensor, Tensor]:
        """Go over all rows; return the weighted sum of losses and the sum of sample weights."""
        job, query = self.job, self.sides["query"]
        columns = max([len(self.sides[b.side]) for b in job.composition.blocks], default=1)
        step = job.range_length(columns, query.raw.device)
        total = torch.zeros((), dtype=query.dtype, device=query.raw.device)
        weight = torch.zeros_like(total)
        counts = {name: torch.zeros_like(total) for name in ("alone", "probability", "loss")}
        job.counts = counts
        for start in range(0, job.rows, step):
            local = slice(start, min(start + step, job.rows))
            losses, weights = self._range(local, counts)
            total += (losses * weights).sum()
            weight += weights.sum()
        self._buffers.clear()
        return total, weight

    def gradients(self) -> list[Tensor | None]:
        """Return the gradients for the inputs, in order."""
        if not self.any_gradient:
            return [None] * 5
        found: list[Tensor | None] = [self.grads.get("temperature")]
        for name in ("query", "document", "negatives"):
            gradient = self.grads.pop(name, None)
            found.append(
                None if gradient is None else self.sides[name].finish_gradient_(gradient, 1.0)
            )
        mixed = self.grads.pop("mixed", None)
        if mixed is not None and self.mixed is not None and self._mixed_shape is not None:
            found.append(self.mixed.finish_gradient_(mixed, 1.0).view(self._mixed_shape))
        else:
            found.append(None)
        return found

    def _range(self, local: slice, counts: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Handle one range of rows; return its losses and weights, both (R,)."""
        job, blocks = self.job, self.job.composition.blocks
        rows = slice(local.start + job.offset, local.stop + job.offset)
        anchors = torch.arange(rows.start, rows.stop, device=self.sides["query"].raw.device)
        sides = {"query": self.sides["query"][rows], "document": self.sides["document"][rows]}
        tau = self.inverse_temperature[local]
        positive = (sides["query"] * sides["document"]).sum(dim=1)

        paired, alone, targets = self._paired(local, rows, sides, positive)
        logits, slopes = self._paired_logits(paired, alone, targets, tau)
        scores, extra = [], []
        for number, block in enumerate(blocks):
            x, hits = self._block_logits(number, block, rows, anchors, sides, tau, positive)
            scores.append(x)
            extra.append(hits)
        self._progressive_(blocks, scores, logits, paired, alone, targets, tau)
        if any(hits is not None for hits in extra):
            targets = self._share_targets_(targets, extra, scores, tau)

        rival = logits.masked_fill(targets > 0, NEGATIVE_INFINITY).amax(dim=1)
        for x in scores:
            rival = torch.maximum(rival, x.amax(dim=1))
        counts["alone"] += (rival == NEGATIVE_INFINITY).sum()
        highest = torch.maximum(rival, logits.amax(dim=1))
        drawn = torch.where(targets > 0, targets * logits, torch.zeros_like(logits)).sum(dim=1)
        for hits, x in zip(extra, scores, strict=True):
            if hits is not None:
                drawn.index_add_(0, hits[0], hits[2] * x[hits[0], hits[1]])
        sums = (logits - highest[:, None]).exp_()
        logits = sums
        total = sums.sum(dim=1)
        held = torch.where(targets > 0, sums, torch.zeros_like(sums)).sum(dim=1)
        for hits, x in zip(extra, scores, strict=True):
            x.sub_(highest[:, None]).exp_()
            total = total + x.sum(dim=1)
            if hits is not None:
                held.index_add_(0, hits[0], x[hits[0], hits[1]])
        losses = total.log() + highest - drawn
        probability = held / total
        weights, factor = self._sample_weights(local, losses, probability)
        counts["probability"] += probability.sum()
        counts["loss"] += losses.sum()
        if self.any_gradient:
            factor = factor / total
            self._paired_gradient(
                local, rows, sides, logits - targets * total[:, None], slopes, factor, tau
            )
            for number, block in enumerate(blocks):
                hits = extra[number]
                if hits is not None:
                    scores[number][hits[0], hits[1]] -= hits[2] * total[hits[0]]
                self._block_gradient(block, scores[number], local, rows, sides, factor, tau)
        return losses, weights

    # The candidates of a row alone: its positive, its hard negatives, mixtures of them.

    def _paired(
        self, local: slice, rows: slice, sides: dict[str, Tensor], positive: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return similarities (R, P), which are struck (R, P) and targets (R, P)."""
        parts, struck = [positive[:, None]], [torch.zeros_like(positive, dtype=torch.bool)[:, None]]
        for vectors in self._paired_vectors(local, rows):
            parts.append(torch.einsum("rd,rkd->rk", sides["query"], vectors))
        if self.many:
            struck.append(self.job.composition.struck_pairs(rows, parts[1], positive))
        if self.per_mixed:
            usable = self.job.mixed_usable
            struck.append(
                torch.zeros_like(parts[-1], dtype=torch.bool) if usable is None else ~usable[local]
            )
        paired, alone = torch.cat(parts, dim=1), torch.cat(struck, dim=1)
        targets = torch.zeros_like(paired)
        if self.job.settings.targets.kind == "graded" and self.job.grades is not None:
            given = graded_targets(self.job.grades[local].to(paired.dtype))
            targets[:, : given.shape[1]] = given
            alone = alone & ~(targets > 0)
        else:
            targets[:, 0] = 1.0
        return paired, alone, targets

    def _paired_vectors(self, local: slice, rows: slice) -> list[Tensor]:
        found = []
        for side, many, span in (
            (self.sides.get("negatives"), self.many, rows),
            (self.mixed, self.per_mixed, local),
        ):
            if many and side is not None:
                flat = side[slice(span.start * many, span.stop * many)]
                found.append(flat.view(span.stop - span.start, many, -1))
        return found

    def _paired_logits(
        self, paired: Tensor, struck: Tensor, targets: Tensor, tau: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return logits (R, P) and the slope of each with respect to its similarity."""
        job = self.job
        slopes = tau[:, None].expand_as(paired)
        logits = paired * tau[:, None]
        if job.settings.negative_weights.kind == "hardness" and job.weighs(paired=True):
            negative = targets == 0
            logits = torch.where(negative, logits + job.strength * paired, logits)
            if not job.settings.negative_weights.detach:
                slopes = torch.where(negative, slopes + job.strength, slopes)
        return logits.masked_fill(struck, NEGATIVE_INFINITY), slopes

    def _paired_gradient(
        self,
        local: slice,
        rows: slice,
        sides: dict[str, Tensor],
        share: Tensor,
        slopes: Tensor,
        factor: Tensor,
        tau: Tensor,
    ) -> None:
        """Add what the paired candidates give; ``share`` is (p - y) times the row's total."""
        share = share * factor[:, None]
        groups = [sides["document"][:, None, :], *self._paired_vectors(local, rows)]
        vectors = torch.cat(groups, dim=1)
        pulled = torch.einsum("rp,rpd->rd", share, vectors)
        if "temperature" in self.grads:
            self.grads["temperature"][local] += (pulled * sides["query"]).sum(dim=1)
        share = share * slopes
        if "query" in self.grads:
            self.grads["query"][rows] += torch.einsum("rp,rpd->rd", share, vectors)
        if "document" in self.grads:
            self.grads["document"][rows] += share[:, :1] * sides["query"]
        begin = 1
        for name, many, span in (
            ("negatives", self.many, rows),
            ("mixed", self.per_mixed, local),
        ):
            if many and name in self.grads:
                part = share[:, begin : begin + many, None] * sides["query"][:, None, :]
                flat = slice(span.start * many, span.stop * many)
                self.grads[name][flat] += part.reshape(-1, part.shape[-1])
            begin += many

    # The candidates that all rows share.

    def _block_logits(
        self,
        number: int,
        block: Block,
        rows: slice,
        anchors: Tensor,
        sides: dict[str, Tensor],
        tau: Tensor,
        positive: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor] | None]:
        """Return logits (R, M), and (row, column, target) of further positives."""
        job, columns = self.job, self.sides[block.side]
        kind = job.settings.negative_weights.kind
        weighed = block.name in WEIGHTED and job.weighs(paired=False)
        scale = tau
        if weighed and kind == "hardness":
            scale = tau + job.strength
        raw = weighed and (kind == "progressive" or bool((scale <= 0).any()))
        x = self._buffer(number, len(tau), len(columns), tau)
        anchor = sides[block.anchor] if raw else sides[block.anchor] * scale[:, None]
        for part in chunks_of(columns.raw):
            torch.mm(anchor, columns[part].T, out=x[:, part])
        hits: tuple[Tensor, Tensor, Tensor] | None = None
        if block.positives is not None:
            row, column = block.positives.pairs(rows)
            other = column != anchors[row]
            row, column = row[other], column[other]
            similarity = x[row, column] if raw else x[row, column] / scale[row]
            x[row, column] = NEGATIVE_INFINITY
            hits = (row, column, similarity)
        limit = job.settings.masks.above_positive
        bound = None if limit is None else (positive + limit) * (1.0 if raw else scale)
        job.composition.strike_(block, x, rows, bound, anchors)
        if raw and kind == "hardness":
            x.mul_(scale[:, None]).masked_fill_(x.isinf(), NEGATIVE_INFINITY)
        return x, hits

    def _progressive_(
        self,
        blocks: list[Block],
        scores: list[Tensor],
        logits: Tensor,
        paired: Tensor,
        struck: Tensor,
        targets: Tensor,
        tau: Tensor,
    ) -> None:
        """Turn similarities of weighed blocks into logits with weights of mean 1, in place."""
        job = self.job
        if job.settings.negative_weights.kind != "progressive":
            return
        beta = job.strength
        with_pairs, with_batch = job.weighs(paired=True), job.weighs(paired=False)
        chosen = [x for b, x in zip(blocks, scores, strict=True) if b.name in WEIGHTED]
        chosen = chosen if with_batch else []
        count = torch.zeros_like(tau)
        parts = []
        if with_pairs:
            free = ~struck & (targets == 0)
            parts.append((beta * paired).masked_fill(~free, NEGATIVE_INFINITY))
            count += free.sum(dim=1)
        for x in chosen:
            free = x != NEGATIVE_INFINITY
            count += free.sum(dim=1)
            parts.append((x * beta).masked_fill_(~free, NEGATIVE_INFINITY))
        if not parts:
            return
        spread = torch.stack([torch.logsumexp(p, dim=1) for p in parts]).logsumexp(dim=0)
        spread = torch.where(count > 0, spread, torch.zeros_like(spread))
        level = count.clamp(min=1).log() - spread
        if with_pairs:
            weight = beta * paired + level[:, None]
            logits += torch.where(targets == 0, weight, torch.zeros_like(weight))
        slope = (tau + beta)[:, None]
        for x in chosen:
            gone = x == NEGATIVE_INFINITY
            x.mul_(slope).add_(level[:, None]).masked_fill_(gone, NEGATIVE_INFINITY)

    def _share_targets_(
        self,
        targets: Tensor,
        extra: list[tuple[Tensor, Tensor, Tensor] | None],
        scores: list[Tensor],
        tau: Tensor,
    ) -> Tensor:
        """Give a row's positives equal targets and unweighted logits."""
        for number, hits in enumerate(extra):
            if hits is None:
                continue
            row, column, similarity = hits
            count = torch.bincount(row, minlength=len(tau)).to(tau.dtype) + 1
            targets = targets / count[:, None]
            scores[number][row, column] = similarity * tau[row]
            extra[number] = (row, column, 1 / count[row])
        return targets

    def _block_gradient(
        self,
        block: Block,
        share: Tensor,
        local: slice,
        rows: slice,
        sides: dict[str, Tensor],
        factor: Tensor,
        tau: Tensor,
    ) -> None:
        """Add what a block gives; ``share`` (R, M) is (p - y) times the row's total."""
        job, columns = self.job, self.sides[block.side]
        slope = tau
        weights = job.settings.negative_weights
        if (
            weights.kind == "hardness"
            and not weights.detach
            and (block.name in WEIGHTED and job.weighs(paired=False))
        ):
            slope = tau + job.strength
        anchor = sides[block.anchor]
        pulled = torch.zeros_like(anchor)
        pushed = anchor * (factor * slope)[:, None]
        for part in chunks_of(columns.raw):
            pulled.addmm_(share[:, part], columns[part])
            if block.side in self.grads:
                self.grads[block.side][part].addmm_(share[:, part].T, pushed)
        pulled *= factor[:, None]
        if "temperature" in self.grads:
            self.grads["temperature"][local] += (pulled * anchor).sum(dim=1)
        if block.anchor in self.grads:
            self.grads[block.anchor][rows] += pulled * slope[:, None]

    def _sample_weights(
        self, local: slice, losses: Tensor, probability: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the weight of each row, and the factor on its gradient."""
        job, settings = self.job, self.job.settings.sample_weights
        weights = torch.ones_like(losses)
        factor = weights
        if settings.kind == "focal" and job.exponent != 0:
            weights = focal_weights(probability, job.exponent)
            factor = weights
            if not settings.detach:
                gap = (1 - probability).clamp(min=torch.finfo(losses.dtype).tiny)
                factor = weights + losses * job.exponent * gap.pow(job.exponent - 1) * probability
        if job.weights is not None:
            given = job.weights[local].to(losses.dtype)
            weights, factor = weights * given, factor * given
        return weights, factor

    def _buffer(self, number: int, rows: int, columns: int, like: Tensor) -> Tensor:
        """Return an uninitialised (R, M) array that is used again for every range."""
        found = self._buffers.get(number)
        if found is None:
            found = torch.empty(rows * columns, dtype=like.dtype, device=like.device)
            self._buffers[number] = found
        return found[: rows * columns].view(rows, columns)
