"""Train a model so that its first layers and first dimensions stand alone.

One wrapper around any loss: each step the loss is taken of several cuts of the model, from one
pass. Which cuts is a sampler's business (2DMSE, ESE, Starbucks), and how the small ones follow the
large one an aligner's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embedworks._core.seeding import derive_seed
from embedworks._core.validation import check_in_range
from embedworks.errors import EmptyInputError, InputError
from embedworks.losses._features import split_features
from embedworks.losses.alignment import Aligner
from embedworks.losses.packing import ColumnEmbedder
from embedworks.losses.views import View, ViewSampler, layer_weight
from embedworks.modules.layers import check_layers, pooled_layers

__all__ = ["LayerDimLoss"]


class LayerDimLoss(nn.Module):
    """The sum of a loss over cuts of a model: layer n, first d dimensions.

    ``sum over views of w * (loss(view) + align(view))``. 2DMSE is ``RandomLayerDim()`` with
    ``VectorKL()``, ESE ``AllLayers()`` with ``PCACompress()``, Starbucks ``FixedPairs(...)`` with
    ``ScoreKL()``. Nothing is patched: all layers' states come out of one pass, and each is pooled
    as a model cut there would pool it (`truncate_model` gives that model).

    Packing by length and cached gradients are those of the wrapped `ContrastiveLoss`.

    Args:
        model: A ``SentenceTransformer`` over a transformer.
        loss: A `ContrastiveLoss`, or any loss with ``compute_loss_from_embeddings``.
        sampler: Draws the views of a step.
        align: Ties smaller views to the last layer; None adds nothing.
        layer_weighting: ``uniform``, ``log`` or ``linear``, for layers before the last.
        last_weight: Of the last layer's views.
        prior_weight: Of the other layers' views.
        detach_teacher: Whether the last layer only teaches. False lets the alignment pull it
            toward the small views too, as the first published code did.
        teacher: A frozen ``SentenceTransformer`` that tokenises like ``model``, such as a copy of
            it before the training. All views, the whole model's too, are aligned to its vectors
            in place of the last layer's, which move while they teach.
        seed: Of the sampler's draws. All devices must have the same.

    Attributes:
        views: Those of the last step.
        statistics: Loss of each view of the last step, as ``"3x128"``, and ``align``.

    Raises:
        InputError: When the model has no layers to cut, or the loss cannot be taken of cuts: it
            caches gradients on its own, keeps a queue, compares token vectors, or nests sizes
            itself.

    Papers: Li et al. 2024, arXiv 2402.14776 (2DMSE in v1 and v3, ESE in v2); Zhuang et al. 2024,
        arXiv 2410.13230 (Starbucks). The teacher is detached by default, where their code mostly
        does not.
    """

    views_drawn: Tensor

    def __init__(
        self,
        model: Any,
        loss: nn.Module,
        *,
        sampler: ViewSampler,
        align: Aligner | None = None,
        layer_weighting: str = "uniform",
        last_weight: float = 1.0,
        prior_weight: float = 1.0,
        detach_teacher: bool = True,
        teacher: nn.Module | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_loss(loss)
        _check_teacher(model, align, teacher)
        check_in_range(last_weight, name="last_weight", low=0.0)
        check_in_range(prior_weight, name="prior_weight", low=0.0)
        layer_weight(1, layer_weighting)
        self.model = model
        self.loss = loss
        self.sampler = sampler
        self.align = align
        self.layer_weighting = layer_weighting
        self.last_weight = last_weight
        self.prior_weight = prior_weight
        self.detach_teacher = detach_teacher
        # Held in a tuple so that it is not trained or saved with the loss.
        self._teacher = (teacher.eval() if teacher is not None else None,)
        self.seed = seed
        self.layers = len(check_layers(model))
        self.width = int(model.get_embedding_dimension())
        self.normalizes = type(list(model)[-1]).__name__ == "Normalize"
        self.register_buffer("views_drawn", torch.zeros((), dtype=torch.int64))
        self.views: list[View] = []
        self.statistics: dict[str, float] = {}
        sampler.draw(self.layers, self.width, random.Random(0))  # noqa: S311

    @property
    def uses_gradient_cache(self) -> bool:
        """Whether the wrapped loss caches gradients."""
        return bool(getattr(self.loss, "cache_gradients", False))

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch.

        Args:
            sentence_features: Features by column, as a trainer's collator makes them.
            labels: The label column, if any.

        Raises:
            EmptyInputError: When there is no column.
        """
        columns = list(sentence_features)
        if not columns:
            raise EmptyInputError("the batch has no columns.")
        read = getattr(self.loss, "read_batch", None)
        plain = read(columns, labels) if read is not None else split_features(columns)[0]
        self.views = self._draw()
        layers = sorted({view.layer for view in self.views} | {self.layers})

        def forward(features: dict[str, Any]) -> dict[str, Any]:
            found = pooled_layers(self.model, features, layers)
            return {"sentence_embedding": torch.cat(found, dim=-1)}

        embedder = ColumnEmbedder(
            forward,
            mini_batch_size=getattr(self.loss, "mini_batch_size", None),
            mini_batch_tokens=getattr(self.loss, "mini_batch_tokens", None),
        )
        taught = self._taught(plain)
        if not (self.uses_gradient_cache and torch.is_grad_enabled()):
            return self._total(embedder.embed(plain).vectors, layers, labels, taught)
        cached, replay = embedder.embed_detached(plain)
        loss = self._total(cached.vectors, layers, labels, taught)
        loss.backward()  # type: ignore[no-untyped-call]
        loss = loss.detach().requires_grad_()
        no_sync: Callable[[], Any] | None = getattr(self.model, "no_sync", None)
        loss.register_hook(lambda gradient: replay(gradient, no_sync))  # type: ignore[no-untyped-call]
        return loss

    def _taught(self, columns: Sequence[dict[str, Any]]) -> list[Tensor] | None:
        """Return the frozen teacher's vectors per column, (B, D), or None without one."""
        (teacher,) = self._teacher
        if teacher is None:
            return None
        teacher.to(next(iter(columns[0].values())).device)
        with torch.no_grad():
            return [teacher(dict(column))["sentence_embedding"] for column in columns]

    def _draw(self) -> list[View]:
        number = int(self.views_drawn)
        rng = random.Random(derive_seed(self.seed, "views", number))  # noqa: S311
        if self.training and torch.is_grad_enabled():
            self.views_drawn += 1
        # The whole model last, so that what the wrapped loss reports is about it.
        return sorted(self.sampler.draw(self.layers, self.width, rng))

    def _total(
        self,
        joined: Sequence[Tensor],
        layers: Sequence[int],
        labels: Tensor | None,
        taught: list[Tensor] | None,
    ) -> Tensor:
        """Return the sum over views.

        Args:
            joined: Per column, (B, L D): the chosen layers side by side.
            layers: Their numbers.
            labels: The label column.
            taught: Per column, (B, D) of the frozen teacher.
        """
        width = joined[0].shape[1] // len(layers)
        own = {
            layer: [column[:, place * width : (place + 1) * width] for column in joined]
            for place, layer in enumerate(layers)
        }
        last = own[self.layers]
        if taught is not None:
            last = taught
        teacher = [column.detach() for column in last] if self.detach_teacher else last
        total = joined[0].new_zeros(())
        aligned = 0.0
        self.statistics = {}
        for view in self.views:
            columns = [column[:, : view.dim] for column in own[view.layer]]
            loss = self._loss_of(columns, labels)
            self.statistics[f"{view.layer}x{view.dim}"] = float(loss.detach())
            whole = view.layer == self.layers and view.dim == width
            if self.align is not None and self._is_aligned(view, width, whole=whole):
                term = self.align(columns, own[view.layer], teacher)
                aligned += float(term.detach())
                loss = loss + term
            total = total + self._weight(view) * loss
        self.statistics["align"] = aligned
        return total

    def _is_aligned(self, view: View, width: int, *, whole: bool) -> bool:
        assert self.align is not None
        if self.align.full_view:
            # What packs directions into few coordinates has nothing to do at full width.
            return view.dim < width
        return not whole or self._teacher[0] is not None

    def _loss_of(self, columns: list[Tensor], labels: Tensor | None) -> Tensor:
        if self.normalizes:
            columns = [F.normalize(column, dim=-1) for column in columns]
        calculate = getattr(self.loss, "calculate_loss", None)
        if calculate is not None:
            loss: Tensor = calculate([[column] for column in columns], labels)
        else:
            loss = self.loss.compute_loss_from_embeddings(columns, labels)  # type: ignore[operator]
        return loss

    def _weight(self, view: View) -> float:
        if view.layer == self.layers:
            return view.weight * self.last_weight
        return view.weight * self.prior_weight * layer_weight(view.layer, self.layer_weighting)

    def get_config_dict(self) -> dict[str, Any]:
        """Return what the model card says about the loss."""
        return {
            "loss": type(self.loss).__name__,
            "sampler": repr(self.sampler),
            "align": repr(self.align),
            "layer_weighting": self.layer_weighting,
            "last_weight": self.last_weight,
            "prior_weight": self.prior_weight,
            "detach_teacher": self.detach_teacher,
            "teacher": "last layer" if self._teacher[0] is None else "frozen model",
        }


def _check_teacher(model: Any, align: Aligner | None, teacher: nn.Module | None) -> None:
    if teacher is None:
        return
    if align is None or align.full_view:
        raise InputError("a teacher teaches through align: use ScoreKL or VectorKL.")
    if teacher is model:
        raise InputError("the teacher is the model being trained: give it a copy, frozen.")
    mine, theirs = (getattr(which, "tokenizer", None) for which in (model, teacher))
    if mine is None or theirs is None or mine.get_vocab() != theirs.get_vocab():
        raise InputError("the teacher tokenises unlike the model: it cannot read its batches.")


def _check_loss(loss: nn.Module) -> None:
    """Refuse losses that cannot be taken of several cuts from one pass."""
    name = type(loss).__name__
    ours = hasattr(loss, "read_batch")
    if hasattr(loss, "matryoshka_dims") or hasattr(loss, "n_layers_per_step"):
        raise InputError(f"{name} nests sizes itself: give LayerDimLoss the loss inside it.")
    if not ours and (getattr(loss, "uses_gradient_cache", False) or "Cached" in name):
        raise InputError(
            f"{name} caches gradients of whole vectors on its own, so it cannot be taken of cuts: "
            "use ContrastiveLoss(cache_gradients=True, mini_batch_size=...) instead."
        )
    if not ours and not hasattr(loss, "compute_loss_from_embeddings"):
        raise InputError(
            f"{name} has no compute_loss_from_embeddings: it cannot be taken of vectors of cuts."
        )
    if getattr(loss, "queue", None) is not None:
        raise InputError("a queue keeps vectors of one size: not with LayerDimLoss.")
    settings = getattr(loss, "settings", None)
    if settings is not None and settings.similarity == "maxsim":
        raise InputError("maxsim compares token vectors: LayerDimLoss has pooled ones alone.")
