"""What a stage hands on: adapters merged in, and the stage's model merged with others."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedworks.data import RowSet
from embedworks.merging import DATA_MERGE_METHODS, MergeReport, merge
from embedworks.models import load, save

if TYPE_CHECKING:
    from embedworks.training.plan_stage import StageMerge

__all__ = ["merge_adapters", "merge_stage_models"]


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


def merge_stage_models(
    settings: StageMerge,
    find: Callable[[str], str],
    rows: RowSet,
    out: Path,
    *,
    show_progress: bool | None = None,
) -> MergeReport:
    """Merge a stage's model with others as the stage says.

    Args:
        settings: Which models, and how.
        find: From a name in the settings to a model's folder or name.
        rows: The stage's rows: the probe, for methods that look at data.
        out: Folder for the result.
        show_progress: True or False to force bars.
    """
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:

        def folder_of(name: str) -> Path:
            found = Path(find(name))
            if (found / "modules.json").is_file() and (found / "golden.json").is_file():
                return found  # written by this library
            copied = Path(scratch) / name.replace("/", "-")
            if not copied.is_dir():
                # A model from elsewhere may be of an older form: saved anew, forms agree.
                save(load(find(name), device="cpu"), copied)
            return copied

        return merge(
            [folder_of(name) for name in settings.models],
            out,
            settings.method,
            weights=settings.weights,
            base=None if settings.base is None else folder_of(settings.base),
            rows=rows if settings.method in DATA_MERGE_METHODS else None,
            options=settings.options,
            overwrite=True,
            show_progress=show_progress,
        )
