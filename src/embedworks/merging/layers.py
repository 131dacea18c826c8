"""Which part of a model a tensor belongs to, told by its name; weights by part.

Works on the names that transformers, sentence-transformers and their files use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from embedworks._core.registry import did_you_mean
from embedworks._core.validation import check_choice
from embedworks.errors import InputError, UnknownNameError

__all__ = ["PARTITIONS", "Partition", "check_parts", "part_of", "weights_of"]

Partition = Literal["all", "layer", "module"]

#: How finely a model is divided.
PARTITIONS: dict[str, str] = {
    "all": "the whole model",
    "layer": "embeddings, each layer, and what comes after them",
    "module": "as layer, with attention, feed-forward and the rest of a layer apart",
}
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
_EMBEDDINGS = re.compile(r"(?:^|[._])(?:embed|wte|wpe|shared|table)")
_ATTENTION = re.compile(r"att(?:ention|n)", re.IGNORECASE)
_FEED_FORWARD = re.compile(
    r"mlp|intermediate|output|ffn|feed_forward|(?:^|\.)fc\d|dense|lin\d", re.I
)
_REST = "*"


def part_of(name: str, by: str = "layer") -> str:
    """Return the part of a model that a tensor belongs to.

    Args:
        name: The tensor's name, as in a state dict or a file.
        by: A name among `PARTITIONS`.

    Raises:
        UnknownNameError: When there is no such partition.

    Example:
        >>> part_of("encoder.layer.3.attention.self.query.weight")
        'layer 3'
        >>> part_of("encoder.layer.3.attention.self.query.weight", by="module")
        'layer 3 attention'
        >>> part_of("embeddings.word_embeddings.weight"), part_of("pooler.dense.bias")
        ('embeddings', 'head')
    """
    check_choice(by, PARTITIONS, name="by")
    if by == "all":
        return _REST
    found = _LAYER.search(name)
    if found is None:
        return "embeddings" if _EMBEDDINGS.search(name) else "head"
    layer = f"layer {found[1]}"
    if by == "layer":
        return layer
    inside = name[found.end() :]
    if _ATTENTION.search(inside):
        return f"{layer} attention"
    return f"{layer} feed-forward" if _FEED_FORWARD.search(inside) else f"{layer} rest"


def weights_of(name: str, weights: Mapping[str, Sequence[float]]) -> tuple[float, ...]:
    """Return the weights of a tensor out of weights by part; the finest part counts.

    Args:
        name: The tensor's name.
        weights: Part -> one number per model; ``"*"`` stands for every other part.

    Raises:
        InputError: When no part fits.

    Example:
        >>> weights_of("encoder.layer.0.output.dense.bias", {"layer 0": [1, 0], "*": [0.5, 0.5]})
        (1.0, 0.0)
    """
    for by in ("module", "layer", "all"):
        if (part := part_of(name, by)) in weights:
            return tuple(float(weight) for weight in weights[part])
    raise InputError(
        f"No weights are given for {name!r}, which is in {part_of(name)!r}: add that part, or '*' "
        f"for the rest. Parts given: {', '.join(map(repr, weights))}."
    )


def check_parts(weights: Mapping[str, Sequence[float]], names: Sequence[str]) -> None:
    """Raise `UnknownNameError` when a part has no tensor among ``names``."""
    known = {part_of(name, by) for name in names for by in PARTITIONS}
    for part in weights:
        if part not in known and part != _REST:
            raise UnknownNameError(
                f"Weights are given for {part!r}, which no tensor is part of. "
                f"{did_you_mean(part, sorted(known))}"
            )
