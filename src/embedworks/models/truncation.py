"""Cut a model to fewer layers and dimensions: the result is an ordinary, smaller model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from embedworks.errors import InputError
from embedworks.modules.layers import check_layers

__all__ = ["truncate_model"]


def truncate_model(model: Any, layers: int | None = None, dim: int | None = None) -> Any:
    """Return a copy of the model with its first layers and first dimensions only.

    The copy is a plain ``SentenceTransformer``: what it was trained for is gone from it, it saves
    smaller, and it loads without embedworks if the whole model does. A cut to ``dim`` is a fixed
    ``Dense`` in front of a closing ``Normalize``, so vectors of a normalised model are unit
    vectors again. Models trained for it keep most of their quality (`LayerDimLoss`); others lose
    it quickly.

    Vectors of different cuts share coordinates, not a space: encode queries and documents with
    the same cut.

    Args:
        model: A ``SentenceTransformer`` over a transformer; not changed.
        layers: How many layers to keep; None keeps all.
        dim: How many dimensions to keep; None keeps all.

    Raises:
        InputError: When there are fewer layers or dimensions, or the architecture's layers are
            not understood.

    Example:
        >>> from embedworks.models import load
        >>> truncate_model(load("static"), 3)
        Traceback (most recent call last):
        ...
        embedworks.errors.InputError: a StaticModel without a transformer has no layers: expected
        a SentenceTransformer whose first module is a Transformer.
    """
    stack = check_layers(model)
    width = int(model.get_embedding_dimension())
    keep = len(stack) if layers is None else layers
    wide = width if dim is None else dim
    if not 1 <= keep <= len(stack):
        raise InputError(f"layers must be 1 to {len(stack)} for this model, got {layers}.")
    if not 1 <= wide <= width:
        raise InputError(f"dim must be 1 to {width} for this model, got {dim}.")
    small = copy.deepcopy(model)
    _cut_layers(small, keep)
    if wide < width:
        _cut_dimensions(small, wide, width)
    return small


def _cut_layers(model: Any, keep: int) -> None:
    from embedworks.modules.layers import layer_stack

    body = model[0].auto_model
    stack = layer_stack(body)
    setattr(stack.owner, stack.name, stack.layers[:keep])
    config = body.config
    config.num_hidden_layers = keep
    # Kinds of attention by layer (Qwen, Gemma, ModernBERT) must have one entry per layer.
    for name in ("layer_types", "mlp_layer_types"):
        if isinstance(getattr(config, name, None), list):
            setattr(config, name, getattr(config, name)[:keep])


def _cut_dimensions(model: Any, keep: int, width: int) -> None:
    from sentence_transformers.base.modules import Dense

    cut = Dense(
        width,
        keep,
        bias=False,
        activation_function=nn.Identity(),
        init_weight=torch.eye(keep, width),
    ).to(device=model.device, dtype=next(model.parameters()).dtype)
    parts = list(model.named_children())
    closing = type(parts[-1][1]).__name__ == "Normalize"
    after = parts[len(parts) - closing :]
    for name, _ in after:
        del model._modules[name]
    model.add_module(f"first_{keep}", cut)
    for name, module in after:
        model.add_module(name, module)
    model.truncate_dim = None
