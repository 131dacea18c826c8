"""The settings of training for many sizes: which cuts, and how small ones follow the large one."""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from embedworks._core.settings import Settings

__all__ = ["NestedSettings", "build_nested"]

Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class NestedSettings(Settings):
    """Train the first layers and the first dimensions to stand alone; see `LayerDimLoss`.

    Example:
        >>> NestedSettings(sampler="random").align
        'scores'
    """

    sampler: Literal["random", "ladder", "all_layers"] = "ladder"
    """Cuts of a step: ``random`` (2DMSE), a ``ladder`` (Starbucks) or ``all_layers`` (ESE)."""
    pairs: tuple[tuple[Count, Count], ...] = ()
    """Of the ladder: (layers, dimensions), smallest first; empty takes `starbucks_pairs`."""
    dims: tuple[Count, ...] = ()
    """Dimensions that ``random`` draws from; empty takes 8, 16, 32, ..."""
    dim: Count = 128
    """Dimensions of ``all_layers``."""
    layers_per_step: Count = 1
    """Layers that ``random`` draws."""
    dims_per_step: Count = 1
    """Dimensions that ``random`` draws."""
    align: Literal["none", "vectors", "scores", "pca"] = "scores"
    """What follows the last layer: ``vectors`` and ``scores`` by divergence; ``pca`` packs main
    directions into the first dimensions."""
    align_weight: Weight = 1.0
    align_temperature: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    """None takes 1 for ``vectors`` and ``pca``, 0.05 for ``scores``."""
    layer_weighting: Literal["uniform", "log", "linear"] = "uniform"
    """How the losses of earlier layers fall off."""
    last_weight: Weight = 1.0
    prior_weight: Weight = 1.0
    detach_teacher: bool = True
    """Whether the last layer only teaches."""
    teacher: Literal["last_layer", "start"] = "last_layer"
    """What views follow: the ``last_layer`` as it is trained, or the whole model as it was at the
    ``start`` of the stage, frozen."""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        usual = NestedSettings.model_fields
        own = {
            "random": ("dims", "layers_per_step", "dims_per_step"),
            "ladder": ("pairs",),
            "all_layers": ("dim",),
        }
        for sampler, names in own.items():
            for name in names:
                if sampler != self.sampler and getattr(self, name) != usual[name].default:
                    raise ValueError(f"{name} goes with the sampler {sampler!r}, and only with it")
        if self.teacher == "start" and self.align not in ("vectors", "scores"):
            raise ValueError("teacher: start teaches through align: vectors or scores")
        return self


def build_nested(model: Any, loss: Any, wanted: NestedSettings, *, seed: int) -> Any:
    """Return a loss over cuts of the model.

    Raises:
        InputError: When the model does not have the layers or dimensions.
    """
    from embedworks.losses import (
        AllLayers,
        FixedPairs,
        LayerDimLoss,
        PCACompress,
        RandomLayerDim,
        ScoreKL,
        VectorKL,
        starbucks_pairs,
    )
    from embedworks.modules import check_layers

    layers, width = len(check_layers(model)), int(model.get_embedding_dimension())
    sampler: Any
    if wanted.sampler == "random":
        sampler = RandomLayerDim(wanted.dims, wanted.layers_per_step, wanted.dims_per_step)
    elif wanted.sampler == "ladder":
        sampler = FixedPairs(wanted.pairs or starbucks_pairs(layers, width, min(layers, 6)))
    else:
        sampler = AllLayers(wanted.dim)
    align: Any = None
    if wanted.align != "none":
        kinds = {"vectors": (VectorKL, 1.0), "scores": (ScoreKL, 0.05), "pca": (PCACompress, 1.0)}
        kind, usual = kinds[wanted.align]
        align = kind(wanted.align_weight, temperature=wanted.align_temperature or usual)
    return LayerDimLoss(
        model,
        loss,
        sampler=sampler,
        align=align,
        layer_weighting=wanted.layer_weighting,
        last_weight=wanted.last_weight,
        prior_weight=wanted.prior_weight,
        detach_teacher=wanted.detach_teacher,
        teacher=copy.deepcopy(model).requires_grad_(False) if wanted.teacher == "start" else None,
        seed=seed,
    )
