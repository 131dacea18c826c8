"""Which parameter of a loaded model a tensor of its folder became.

Libraries add and drop prefixes between a file and a module, so names are matched by their ends
and the match is confirmed by the values.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import numpy as np

from embedworks.merging._model_folders import ModelFolder
from embedworks.merging._tensor_files import INTEGERS, Entry

__all__ = ["tensor_parameters"]


def tensor_parameters(model: Any, folder: ModelFolder) -> dict[str, dict[str, str]]:
    """Match the tensors of a folder to the parameters of the model loaded from it.

    Args:
        model: A ``SentenceTransformer``, whose modules are in the order of ``modules.json``.
        folder: Where it was loaded from.

    Returns:
        For each stem of a weight file: name of the tensor -> name of the parameter. Tensors that
        became no parameter, such as those of a head the model does not use, are left out.
    """
    places = [PurePosixPath(path) for _, path in folder.modules()] or [PurePosixPath()]
    found: dict[str, dict[str, str]] = {}
    for stem, source in folder.weights.items():
        here = PurePosixPath(stem).parent
        modules = [module for place, module in zip(places, model) if place == here]
        if len(places) == 1 and not modules:
            modules = [model[0]]
        names = {id(p): name for name, p in model.named_parameters()}
        owned = [
            (names[id(parameter)], name, parameter)
            for module in modules
            for name, parameter in module.named_parameters(remove_duplicate=False)
            if id(parameter) in names
        ]
        found[stem] = {}
        for tensor, entry in source.entries.items():
            if entry.dtype in INTEGERS:
                continue
            ends = [_common_end(name, tensor) for _, name, _ in owned]
            longest = max(ends, default=0)
            for (full, _, parameter), end in zip(owned, ends):
                if end == longest > 0 and _same(parameter, entry):
                    found[stem][tensor] = full
                    break
    return found


def _common_end(one: str, two: str) -> int:
    """Return how many parts two dotted names share at their ends."""
    count = 0
    for a, b in zip(reversed(one.split(".")), reversed(two.split("."))):
        if a != b:
            break
        count += 1
    return count


def _same(parameter: Any, entry: Entry) -> bool:
    if tuple(parameter.shape) != entry.shape:
        return False
    held = parameter.detach().float().cpu().numpy()
    return bool(np.array_equal(held, entry.read().astype(np.float32), equal_nan=True))
