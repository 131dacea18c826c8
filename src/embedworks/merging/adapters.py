"""Merging LoRA adapters: into the model they were trained on, and with each other.

Works on peft's files tensor by tensor; neither the model nor torch is loaded for it, only, at the
end, the result for its golden vectors.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from embedworks import __version__
from embedworks._core.files import atomic_directory, sha256_of_file, write_json
from embedworks.errors import DataWarning, InputError, NonFiniteError
from embedworks.merging._lora import (
    ADAPTER_WEIGHTS,
    PREFIX,
    AdapterFolder,
    changed_names,
)
from embedworks.merging._model_folders import ModelFolder
from embedworks.merging._planning import MergeCall, Plan, make_plan
from embedworks.merging._tensor_files import ADAPTER
from embedworks.merging.functional import task_arithmetic
from embedworks.merging.methods import MERGE_METHODS
from embedworks.merging.models import folder_of, model_count, write_merged
from embedworks.merging.streaming import MergeReport, check_target

__all__ = ["combine_adapters", "merge_adapters"]


@dataclass(frozen=True)
class AdapterCall(MergeCall):
    """A merge that copies what no adapter changes."""

    changed: frozenset[str] = frozenset()

    def __call__(
        self, tensors: Sequence[np.ndarray], base: np.ndarray | None, key: str
    ) -> np.ndarray:
        """Merge one tensor."""
        assert base is not None
        return super().__call__(tensors, base, key) if key in self.changed else base


def merge_adapters(
    base: str | Path,
    adapters: Sequence[str | Path],
    out: str | Path,
    method: str = "task_arithmetic",
    *,
    weights: Sequence[float] | None = None,
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    show_progress: bool | None = None,
) -> MergeReport:
    """Merge one or several LoRA adapters into the model they were trained on.

    Each adapter stands for the model it makes of the base, ``W_i = W + alpha / r * B_i A_i``
    (``alpha / sqrt(r)`` with rank-stabilised scaling), and these are merged by ``method``. With
    one adapter and the default that is peft's ``merge_and_unload``; with several it is the base
    and the weighted sum of the updates. Sums are formed in float32 and rounded once to the base's
    type. What no adapter changes is copied.

    Args:
        base: Folder of the model the adapters were trained on, or a short name that has one.
        adapters: Folders with ``adapter_config.json`` and ``adapter_model.safetensors``.
        out: Folder for the result, a whole model without an adapter.
        method: A name among `MERGE_METHODS` that looks at what a model changed.
        weights: One number per adapter; by default the method's own, ``1 / n`` each for
            ``task_arithmetic``: give ones to add the updates up.
        options: The method's options by name.
        overwrite: Whether a model in ``out`` is replaced; it stays whole until then.
        workers: Threads; by default up to 4. The result does not depend on it.
        show_progress: True or False to force a bar; by default on a terminal.

    Raises:
        InputError: When an adapter is more than a sum of low-rank updates (DoRA, saved modules,
            biases, weights of PiSSA and its like; each told), does not fit the base, or the
            method cannot merge these.
        NonFiniteError: When a tensor has NaN or infinity; names tensor and adapter.
        FormatError: When a file is damaged.
        NotFoundError: When a folder does not exist or holds no adapter.
        UnknownNameError: When no method has this name.
        StorageError: When ``out`` cannot be written.

    Paper: Hu et al. 2021, LoRA, arXiv 2106.09685, section 4.1; scaling by the square root,
    Kalajdzievski 2023, arXiv 2312.03732.
    """
    started = time.perf_counter()
    out = Path(out)
    call = MergeCall.of(method, weights, options)
    if not MERGE_METHODS[method].takes_base:
        raise InputError(
            f"{method} does not look at what an adapter changed. Use task_arithmetic: with weights "
            "that sum to 1 it is the same."
        )
    call.check(model_count(adapters), has_base=True)
    if out.is_file():
        raise InputError(f"{out} is a file: choose a folder for the merged model.")
    root = folder_of(base)
    roots = [Path(adapter).expanduser() for adapter in adapters]
    check_target(out, [*roots, root], overwrite=overwrite)
    folder = ModelFolder.open(root)
    opened = [AdapterFolder.open(adapter) for adapter in roots]
    for adapter in opened:
        adapter.check_other_weights(folder)
    report = write_merged(
        adapter_plans(folder, opened, call), folder, [*roots, root], out,
        workers=workers, show_progress=show_progress, licensed=[None] * len(roots),
    )  # fmt: skip
    return replace(report, seconds=time.perf_counter() - started)


def adapter_plans(
    base: ModelFolder, adapters: Sequence[AdapterFolder], call: MergeCall
) -> dict[str, Plan]:
    """Return a plan for each set of weights of the base, by the stem of its file."""
    plans = {}
    for stem, source in base.weights.items():
        sources = [adapter.on(stem, base) for adapter in adapters]
        changed = frozenset().union(*(changed_names(adapted) for adapted in sources))
        one = AdapterCall(call.method, call.weights, call.options, changed=changed)
        plans[stem] = make_plan(sources, source, one)
    return plans


def combine_adapters(
    adapters: Sequence[str | Path],
    out: str | Path,
    *,
    weights: Sequence[float] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one LoRA adapter whose update is exactly the weighted sum of several.

    ``sum_i w_i s_i B_i A_i = [w_1 s_1 B_1, ...] [A_1; ...]``: the matrices are concatenated, so
    that the rank is the sum of the ranks. A layer that some adapters do not change is filled up
    with zeros.

    Args:
        adapters: Folders with ``adapter_config.json`` and ``adapter_model.safetensors``.
        out: Folder for the adapter. Its configuration is that of the first, with rank, scale and
            target modules of its own.
        weights: One finite number per adapter; None for ``1 / n`` each.
        overwrite: Whether an adapter in ``out`` is replaced.

    Returns:
        The folder.

    Raises:
        InputError: When an adapter is more than a sum of low-rank updates, or shapes differ.
        NonFiniteError: When a matrix or a weight is NaN or infinite.
        FormatError: When a file is damaged.
        NotFoundError: When a folder does not exist or holds no adapter.
        StorageError: When ``out`` cannot be written.
    """
    out = Path(out)
    count = model_count(adapters)
    task_arithmetic([np.ones(1)] * count, weights, base=np.ones(1))  # checks the weights
    shares = [1 / count] * count if weights is None else [float(w) for w in weights]
    roots = [Path(adapter).expanduser() for adapter in adapters]
    check_target(out, roots, overwrite=overwrite)
    opened = [AdapterFolder.open(root) for root in roots]
    _check_alike(opened)
    tensors, rank = _concatenated(opened, shares)
    first = opened[0].config
    layers = list(dict.fromkeys(layer for adapter in opened for layer in adapter.updates))
    config = {
        **first, "r": rank, "lora_alpha": rank, "use_rslora": False, "rank_pattern": {},
        "alpha_pattern": {}, "target_modules": sorted(layers), "exclude_modules": None,
        "layers_to_transform": None, "layers_pattern": None, "init_lora_weights": True,
        "inference_mode": True,
    }  # fmt: skip
    with atomic_directory(out) as target:
        save_file(tensors, target / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        write_json(target / ADAPTER, config)
        inputs = [
            {"name": root.name, "weight": share, "files": {ADAPTER_WEIGHTS: sha256_of_file(file)}}
            for root, share in zip(roots, shares)
            for file in [root / ADAPTER_WEIGHTS]
        ]
        made = {"method": "concatenation", "inputs": inputs}
        write_json(target / "merge.json", {"embedworks": __version__, **made})
    return out


def _check_alike(adapters: Sequence[AdapterFolder]) -> None:
    """Check that adapters can be one adapter; different names of the base are a warning."""
    shapes: dict[str, tuple[Path, tuple[int, int], bool]] = {}
    for adapter in adapters:
        for layer, update in adapter.updates.items():
            root, shape, turned = shapes.setdefault(
                layer, (adapter.root, update.shape, update.turned)
            )
            if (shape, turned) != (update.shape, update.turned):
                raise InputError(
                    f"the layer {layer!r} has shape {shape} in {root}, {update.shape} in "
                    f"{adapter.root}: are they adapters of one base?"
                )
    names = {adapter.config.get("base_model_name_or_path") for adapter in adapters} - {None}
    if len(names) > 1:
        warnings.warn(
            f"The adapters name different bases ({', '.join(sorted(map(str, names)))}): their sum "
            "is of use only if these are the same model.",
            DataWarning,
            stacklevel=3,
        )


def _concatenated(
    adapters: Sequence[AdapterFolder], shares: Sequence[float]
) -> tuple[dict[str, np.ndarray], int]:
    """Return the tensors of the sum by name, float32, and their rank."""
    held: dict[tuple[str, str], list[np.ndarray]] = {}
    for adapter, share in zip(adapters, shares):
        for layer, update in adapter.updates.items():
            for entry in (update.a, update.b):
                if damage := entry.damage(adapter.root):
                    raise NonFiniteError(damage)
            a, b = (entry.read().astype(np.float64) for entry in (update.a, update.b))
            held.setdefault((layer, update.ends[0]), []).append(a)
            held.setdefault((layer, update.ends[1]), []).append(share * update.scale * b.T)
    joined = {name: np.concatenate(parts) for name, parts in held.items()}  # (rank, width) each
    rank = max(len(array) for array in joined.values())
    tensors = {}
    for (layer, end), array in joined.items():
        full = np.zeros((rank, array.shape[1]), np.float32)
        full[: len(array)] = array
        tensors[f"{PREFIX}{layer}{end}"] = full if "_A" in end else np.ascontiguousarray(full.T)
    return tensors, rank
