"""Scaling what models changed by depth: early layers less than late ones (LiNeS)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.validation import check_in_range
from embedworks.errors import InputError
from embedworks.merging._planning import MergeCall
from embedworks.merging.functional import task_arithmetic
from embedworks.merging.methods import MERGE_METHODS
from embedworks.merging.models import OpenedModels, model_count
from embedworks.merging.streaming import MergeReport

__all__ = ["layer_depths", "lines", "scale_by_depth"]

_NUMBER = re.compile(r"(?:^|\.)(\d+)(?=\.)")


def layer_depths(names: Iterable[str]) -> dict[str, float]:
    """Return the depth of every tensor, from 0 at the input to 1 at the output, by its name.

    A name's layer is its first number, and names that agree up to it form a stack of L layers:
    layer l has depth ``l / (L - 1)``. A stack of one layer is no stack. What is in no stack has
    depth 0 if its name speaks of embeddings, and else 1: a pooler, a head, the last norm.

    Args:
        names: Names of tensors.

    Raises:
        InputError: When no name has a layer.

    Example:
        >>> layer_depths(["embeddings.weight", "layer.0.w", "layer.1.w", "layer.2.w", "pooler.w"])
        {'embeddings.weight': 0.0, 'layer.0.w': 0.0, 'layer.1.w': 0.5, 'layer.2.w': 1.0,
         'pooler.w': 1.0}
    """
    layers: dict[str, tuple[str, int]] = {}
    stacks: dict[str, set[int]] = {}
    listed = list(names)
    for name in listed:
        if match := _NUMBER.search(name):
            layers[name] = name[: match.start()], int(match[1])
            stacks.setdefault(name[: match.start()], set()).add(int(match[1]))
    last = {stack: max(found) for stack, found in stacks.items() if len(found) > 1}
    if not last:
        raise InputError(
            "no tensor's name tells a layer (such as encoder.layer.3.…): scaling by depth is for "
            "models with numbered layers."
        )
    depths = {}
    for name in listed:
        stack, layer = layers.get(name, ("", 0))
        if name in layers and stack in last:
            depths[name] = layer / last[stack]
        else:
            depths[name] = 0.0 if "embed" in name.lower() else 1.0
    return depths


def scale_by_depth(
    merged: np.ndarray, *, base: np.ndarray, depth: float, alpha: float, beta: float
) -> np.ndarray:
    """Return ``W_0 + (alpha + beta * depth) * (W - W_0)``.

    Early layers hold what all tasks share, and a change of theirs disturbs other tasks more than
    it helps its own; late layers are where tasks differ.

    Args:
        merged: Array (...), a merged or fine-tuned tensor, any float type.
        base: Array (...), where it came from.
        depth: 0 at the input, 1 at the output (`layer_depths`).
        alpha: Factor at the input, finite.
        beta: What is added to it on the way to the output, finite.

    Returns:
        Array (...) of the first one's type.

    Raises:
        ShapeError: When shapes differ.
        InputError: When a value is out of range, or a tensor is not of floats.
        NonFiniteError: When a tensor has NaN or infinity.

    Paper: Wang et al. 2024, LiNeS, arXiv 2410.17146: ``(l - 1) / (L - 1)`` for layers counted
    from 1. What is in no layer gets the factor of the end it is nearer to.

    Example:
        >>> scale_by_depth(np.array([3.0]), base=np.ones(1), depth=0.5, alpha=0.2, beta=0.6)
        array([2.])
    """
    check_in_range(depth, name="depth", low=0.0, high=1.0)
    check_in_range(alpha, name="alpha")
    check_in_range(beta, name="beta")
    return task_arithmetic([merged], [1.0], base=base, scale=alpha + beta * depth)


@dataclass(frozen=True)
class DepthCall(MergeCall):
    """A merge whose change is scaled by the depth of the tensor."""

    alpha: float = 1.0
    beta: float = 0.0
    depths: Mapping[str, float] = field(default_factory=dict)

    def __call__(
        self, tensors: Sequence[np.ndarray], base: np.ndarray | None, key: str
    ) -> np.ndarray:
        """Merge one tensor."""
        assert base is not None
        takes = MERGE_METHODS[self.method].takes_base
        merged = super().__call__(tensors, base if takes else None, key)
        return scale_by_depth(
            merged, base=base, depth=self.depths[key], alpha=self.alpha, beta=self.beta
        )


def lines(
    models: Sequence[str | Path],
    out: str | Path,
    *,
    base: str | Path,
    alpha: float,
    beta: float,
    method: str = "task_arithmetic",
    weights: Sequence[float] | None = None,
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    show_progress: bool | None = None,
) -> MergeReport:
    """Merge model folders, and scale what changed by depth: ``alpha + beta * depth``.

    With one model it brings back some of what fine-tuning forgot; with several it softens their
    conflicts in the layers that all share. Modules behind the transformer, such as dense heads,
    count as depth 1.

    Args:
        models: Folders, or short names of models that have a folder.
        out: Folder for the result.
        base: What the models were trained from.
        alpha: Factor of the change in the first layer and the embeddings; 0 keeps the base there.
        beta: What is added to it on the way to the last layer. With ``alpha + beta = 1`` the last
            layer is merged as without scaling.
        method: A name among `MERGE_METHODS`, whose result is scaled.
        weights: One number per model; by default the method's own.
        options: The method's options by name.
        overwrite: Whether a model in ``out`` is replaced; it stays whole until then.
        workers: Threads; by default up to 4.
        show_progress: True or False to force a bar; by default on a terminal.

    Raises:
        InputError: When no tensor's name tells a layer, and as in `merge_models`.

    Paper: Wang et al. 2024, arXiv 2410.17146.
    """
    started = time.perf_counter()
    call = MergeCall.of(method, weights, options)
    call.check(model_count(models), has_base=MERGE_METHODS[method].takes_base)
    check_in_range(alpha, name="alpha")
    check_in_range(beta, name="beta")
    opened = OpenedModels.open(models, base, out, overwrite=overwrite)
    names = {stem: list(source.entries) for stem, source in opened.folders[0].weights.items()}
    known = layer_depths(name for stem in names for name in names[stem])
    heads = {stem for stem in names if not any(_NUMBER.search(name) for name in names[stem])}

    def call_of(stem: str) -> MergeCall:
        depths = {name: 1.0 if stem in heads else known[name] for name in names[stem]}
        return DepthCall(
            call.method, call.weights, call.options, alpha=alpha, beta=beta, depths=depths
        )

    told = {"method": f"lines({method})", "options": {**call.options, "alpha": alpha, "beta": beta}}
    report = opened.write(call_of, workers=workers, show_progress=show_progress, told=told)
    return replace(report, seconds=time.perf_counter() - started)
