"""From a stage's settings to the loss that is trained with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from embedworks.data import RowSet
from embedworks.errors import InputError
from embedworks.losses import (
    BatchInfo,
    ContrastiveLoss,
    GenerationLoss,
    GradedLoss,
    GuideVectors,
    JointRankingLoss,
    ObjectiveSettings,
    SourceLosses,
)
from embedworks.negatives import EmbeddingQueue, NegativeMixer
from embedworks.training.plan_nested import build_nested

if TYPE_CHECKING:
    from embedworks.training.plan_stage import StageSettings

__all__ = ["DEFAULT_LOSS", "build_loss", "check_rows", "default_mini_batch_tokens"]

#: Name of the loss of sources that have none of their own.
DEFAULT_LOSS = "objective"

_CPU_TOKENS = 2_048


def default_mini_batch_tokens(model: Any) -> int | None:
    """Return how many tokens are best embedded at a time: packs by length on a CPU.

    On a CPU a batch of mixed lengths is otherwise mostly padding. Models whose inputs have no
    attention mask, such as static ones, have no padding to save.
    """
    has_padding = "attention_mask" in model.preprocess(["a"])
    return _CPU_TOKENS if has_padding and model.device.type == "cpu" else None


def build_loss(
    model: Any,
    stage: StageSettings,
    *,
    sources: Sequence[str],
    guide: GuideVectors | None = None,
    teacher: GuideVectors | None = None,
    seed: int = 0,
) -> nn.Module:
    """Return the loss of a stage.

    Args:
        model: The model to train.
        stage: Its settings.
        sources: Names of the sources, in the order of the rows' source numbers.
        guide: Vectors of the guide, if the stage has one.
        teacher: Vectors of the teacher, for soft targets over the whole batch.
        seed: Of the mixer's draws.

    Raises:
        InputError: When parts do not fit together.
    """
    tokens = stage.mini_batch_tokens
    if tokens is None and stage.mini_batch_size is None:
        tokens = default_mini_batch_tokens(model)
    queue = None
    if stage.negatives.queue:
        queue = EmbeddingQueue(stage.negatives.queue, model.get_embedding_dimension())

    def contrastive(objective: ObjectiveSettings) -> nn.Module:
        mixer = stage.negatives.mixer
        loss = _TaughtLoss(
            model,
            objective,
            mini_batch_tokens=tokens,
            mini_batch_size=stage.mini_batch_size,
            cache_gradients=stage.cache_gradients,
            gather_across_devices=stage.gather_across_devices,
            sources=sources,
            guide=guide if objective.masks.guide is not None else None,
            mixer=None if mixer is None else NegativeMixer(**mixer.to_dict()),
            seed=seed,
            queue=queue if "queue" in objective.candidates else None,
        )
        loss.teacher = teacher if _teaches_batch(objective) else None
        return loss

    losses: dict[str, nn.Module] = {}
    if "" in stage.objectives():
        losses[DEFAULT_LOSS] = contrastive(stage.objective)
    for name, wanted in stage.losses.items():
        if wanted.cosent is not None:
            losses[name] = GradedLoss(
                model,
                temperature=wanted.cosent,
                mini_batch_tokens=tokens,
                mini_batch_size=stage.mini_batch_size,
            )
        elif wanted.objective is not None:
            losses[name] = contrastive(wanted.objective)
    if stage.matryoshka is not None:
        losses = {name: _matryoshka(model, loss, stage) for name, loss in losses.items()}
    if stage.nested is not None:
        wanted_sizes = stage.nested
        losses = {
            name: build_nested(model, loss, wanted_sizes, seed=seed)
            for name, loss in losses.items()
        }
    if stage.generate is not None:
        weight = stage.generate.weight
        losses = {name: GenerationLoss(model, loss, weight=weight) for name, loss in losses.items()}
    if stage.rank is not None:
        rank = stage.rank
        losses = {
            name: JointRankingLoss(model, loss, weight=rank.weight, others=rank.others)
            for name, loss in losses.items()
        }
    if len(losses) == 1:
        return next(iter(losses.values()))
    return SourceLosses(losses, stage.loss_of_source, sources=sources, default=next(iter(losses)))


def _matryoshka(model: Any, loss: nn.Module, stage: StageSettings) -> nn.Module:
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss

    wanted = stage.matryoshka
    assert wanted is not None
    dim = model.get_embedding_dimension()
    if max(wanted.dims) > dim:
        raise InputError(f"matryoshka dims {list(wanted.dims)} exceed the model's {dim}.")
    return MatryoshkaLoss(model, loss, list(wanted.dims), list(wanted.weights) or None)


def _teaches_batch(objective: ObjectiveSettings) -> bool:
    return objective.teacher.weight > 0 and objective.teacher.scope == "in_batch"


def check_rows(stage: StageSettings, rows: RowSet) -> None:
    """Check that the rows have what the stage's objectives ask about.

    Raises:
        InputError: Naming the source and what it lacks.
    """
    for name, objective in stage.objectives().items():
        own = [row for row in rows if stage.loss_of_source.get(row.source, "") == name]
        where = f"the objective of {sorted({row.source for row in own})}"
        bare = sorted({row.source for row in own if not row.negatives})
        only_own = set(objective.candidates) == {"own_negatives"}
        if only_own and bare:
            count = sum(not row.negatives for row in own)
            raise InputError(
                f"{where} contrasts with a row's own hard negatives alone, but {count} rows of "
                f"{bare} have none: mine some (negatives.mine), drop these rows, or add "
                "'documents' to its candidates."
            )
        wants_scores = objective.teacher.weight > 0 and objective.teacher.scope == "own"
        lacking = sorted({row.source for row in own if row.teacher_scores is None})
        if wants_scores and lacking:
            raise InputError(
                f"{where} learns from teacher scores, but rows of {lacking} have none: name a "
                "teacher for the stage, or a teacher for the miner."
            )
        if _teaches_batch(objective) and stage.teacher is None:
            raise InputError(
                f"{where} has a teacher over the whole batch: name its model (teacher)."
            )
        if objective.masks.same_class or (
            objective.targets.by == "class" and (objective.targets.kind == "several")
        ):
            unlabelled = sorted({row.source for row in own if row.label is None})
            if unlabelled:
                raise InputError(
                    f"{where} tells rows apart by class, but rows of {unlabelled} have no label."
                )
    for name, loss in stage.losses.items():
        if loss.cosent is not None:
            bad = sorted({r.source for r in rows if r.source in loss.sources and r.score is None})
            if bad:
                raise InputError(
                    f"the loss {name!r} learns the order of scores, but rows of {bad} have none: "
                    "read them with the converter graded_pairs or nli (form: scores)."
                )


class _TaughtLoss(ContrastiveLoss):
    """A contrastive loss that looks up a teacher's vectors of the whole batch."""

    teacher: GuideVectors | None = None

    def contrast(
        self,
        query: Tensor,
        document: Tensor,
        negatives: Tensor | None = None,
        info: BatchInfo | None = None,
    ) -> Tensor:
        """Return the loss of vectors."""
        if self.teacher is not None and info is not None:
            keys = [info.require("query_keys", "a teacher"), info.require("document_keys", "it")]
            hard = None
            if negatives is not None:
                hard = self.teacher.lookup(info.require("negative_keys", "a teacher")).to(query)
            info = replace(
                info,
                teacher_query=self.teacher.lookup(keys[0]).to(query),
                teacher_document=self.teacher.lookup(keys[1]).to(query),
                teacher_negatives=hard,
            )
        return super().contrast(query, document, negatives, info)
