"""Weights after a stage: adapters merged in, and the stage's start mixed in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from embedworks.merging import linear

__all__ = ["interpolate", "merge_adapters"]


def merge_adapters(model: Any) -> None:
    """Add low-rank adapters to the weights they adapt, and take them out of the model."""
    if not any(getattr(module, "_hf_peft_config_loaded", False) for module in model.modules()):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(model.named_modules()):
        if not isinstance(layer, BaseTunerLayer):
            continue
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    for module in model.modules():
        if getattr(module, "_hf_peft_config_loaded", False):
            module._hf_peft_config_loaded = False
            del module.peft_config


def interpolate(model: Any, start: Mapping[str, Tensor], weight: float) -> None:
    """Make the model ``weight`` of its start and ``1 - weight`` of what it has become."""
    mixed = {}
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            parts = [t.detach().float().cpu().numpy() for t in (start[name].to(tensor), tensor)]
            merged = torch.from_numpy(linear(parts, [weight, 1.0 - weight]))
            mixed[name] = merged.to(tensor)
    model.load_state_dict(mixed, strict=False)
