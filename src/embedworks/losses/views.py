"""Which cuts of a model are trained in a step: pairs of a layer and a width.

Random pairs (2DMSE), every layer (ESE) or a fixed ladder (Starbucks). Knows no tensors.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from embedworks.errors import EmptyInputError, InputError

__all__ = [
    "AllLayers",
    "FixedPairs",
    "RandomLayerDim",
    "View",
    "ViewSampler",
    "halved_dims",
    "layer_weight",
    "starbucks_pairs",
]


class View(NamedTuple):
    """A cut of a model, and what its loss counts."""

    layer: int
    """1 for the first layer."""
    dim: int
    """How many of the first dimensions."""
    weight: float = 1.0


class ViewSampler(Protocol):
    """Draws a step's views; the whole model is among them."""

    def draw(self, layers: int, width: int, rng: random.Random) -> list[View]:
        """Return the views of a step.

        Args:
            layers: How many layers the model has.
            width: Its dimension.
            rng: Source of chance, the same on all devices.

        Raises:
            InputError: When a view asks for layers or dimensions that do not exist.
        """
        ...


def layer_weight(layer: int, kind: str = "uniform") -> float:
    """Return what a shallow layer's loss counts: 1, 1 / (1 + ln n), or 1 / n.

    Args:
        layer: n, 1 for the first layer.
        kind: ``uniform``, ``log`` (ESE) or ``linear`` (the first published 2DMSE code).

    Raises:
        InputError: For other kinds.

    Example:
        >>> [round(layer_weight(n, "log"), 3) for n in (1, 2, 3)]
        [1.0, 0.591, 0.477]
    """
    kinds = {"uniform": 1.0, "log": 1 / (1 + math.log(layer)), "linear": 1 / layer}
    if kind not in kinds:
        raise InputError(f"layer_weighting must be one of {sorted(kinds)}, got {kind!r}.")
    return kinds[kind]


def halved_dims(width: int, lowest: int = 8) -> list[int]:
    """Return the widths below ``width`` that 2DMSE draws from: 8, 16, 32, ...

    Example:
        >>> halved_dims(384)
        [8, 16, 32, 64, 128, 256]
    """
    return [lowest * 2**n for n in range(40) if lowest * 2**n < width]


def starbucks_pairs(layers: int, width: int, sizes: int = 6) -> list[tuple[int, int]]:
    """Return a ladder of sizes: layers evenly, widths two thirds of the whole, then halves.

    Args:
        layers: The model's layers.
        width: Its dimension.
        sizes: How many rungs; at most one per layer.

    Raises:
        InputError: When there are more rungs than layers, or the smallest has no dimension.

    Example:
        >>> starbucks_pairs(12, 768)  # the paper's
        [(2, 32), (4, 64), (6, 128), (8, 256), (10, 512), (12, 768)]
        >>> starbucks_pairs(6, 384)
        [(1, 16), (2, 32), (3, 64), (4, 128), (5, 256), (6, 384)]
    """
    if not 1 <= sizes <= layers:
        raise InputError(f"a ladder over {layers} layers has 1 to {layers} rungs, got {sizes}.")
    pairs = []
    for rung in range(1, sizes + 1):
        share = 1.0 if rung == sizes else 2 / 3 / 2 ** (sizes - 1 - rung)
        pairs.append((round(layers * rung / sizes), round(width * share)))
    if pairs[0][1] < 1:
        raise InputError(f"{width} dimensions cannot be halved for {sizes} rungs.")
    return pairs


@dataclass(frozen=True)
class RandomLayerDim:
    """Some random shallow layers and widths a step: 2DMSE.

    The views are all pairs of {drawn layers, last} and {drawn widths, full}.

    Args:
        dims: Widths to draw from, below the model's; empty takes `halved_dims`.
        n_layers_per_step: Layers drawn a step.
        n_dims_per_step: Widths drawn a step.

    Example:
        >>> RandomLayerDim((8,)).draw(2, 16, random.Random(0))
        [View(layer=1, dim=8, weight=1.0), View(layer=1, dim=16, weight=1.0),
         View(layer=2, dim=8, weight=1.0), View(layer=2, dim=16, weight=1.0)]
    """

    dims: Sequence[int] = ()
    n_layers_per_step: int = 1
    n_dims_per_step: int = 1

    def __post_init__(self) -> None:
        if self.n_layers_per_step < 1 or self.n_dims_per_step < 1:
            raise InputError("n_layers_per_step and n_dims_per_step must be 1 or more.")
        _check_twice(self.dims, "dims")

    def draw(self, layers: int, width: int, rng: random.Random) -> list[View]:
        """Return the views of a step."""
        dims = list(self.dims) or halved_dims(width)
        if not dims or layers < 2:
            raise InputError(f"nothing to draw from: {layers} layers, widths {dims}.")
        if bad := [dim for dim in dims if not 1 <= dim < width]:
            raise InputError(f"dims must be 1 to {width - 1} for this model, got {bad}.")
        some = rng.sample(range(1, layers), min(self.n_layers_per_step, layers - 1))
        wide = rng.sample(dims, min(self.n_dims_per_step, len(dims)))
        return [View(n, d) for n in (*sorted(some), layers) for d in (*sorted(wide), width)]


@dataclass(frozen=True)
class FixedPairs:
    """The same ladder of sizes every step: Starbucks. The whole model is added where missing.

    Args:
        pairs: (layer, dim), both growing; see `starbucks_pairs`.

    Raises:
        EmptyInputError: When there are no pairs.
        InputError: When a pair is not larger than the one before.

    Example:
        >>> FixedPairs([(1, 8), (2, 12)]).draw(3, 16, random.Random(0))
        [View(layer=1, dim=8, weight=1.0), View(layer=2, dim=12, weight=1.0),
         View(layer=3, dim=16, weight=1.0)]
    """

    pairs: Sequence[tuple[int, int]]

    def __post_init__(self) -> None:
        if not self.pairs:
            raise EmptyInputError("pairs is empty: name at least one (layer, dim).")
        for (n, d), (m, e) in zip(self.pairs, self.pairs[1:]):
            if m < n or e < d or (m, e) == (n, d):
                raise InputError(
                    f"pairs must grow: ({m}, {e}) follows ({n}, {d}). Sort them, smallest first."
                )

    def draw(self, layers: int, width: int, rng: random.Random) -> list[View]:
        """Return the views of a step."""
        bad = [p for p in self.pairs if not (1 <= p[0] <= layers and 1 <= p[1] <= width)]
        if bad:
            raise InputError(f"the model has {layers} layers and {width} dimensions, not {bad}.")
        views = [View(n, d) for n, d in self.pairs]
        full = View(layers, width)
        return views if views[-1] == full else [*views, full]


@dataclass(frozen=True)
class AllLayers:
    """Every layer at one width every step, shallow ones with less weight: ESE.

    Weights are ``1 / (1 + ln n) / (N - 1)`` for layer n < N, and 1 for the last at both widths.

    Args:
        dim: The width, below the model's.

    Example:
        >>> AllLayers(8).draw(2, 16, random.Random(0))
        [View(layer=1, dim=8, weight=1.0), View(layer=2, dim=8, weight=1.0),
         View(layer=2, dim=16, weight=1.0)]
    """

    dim: int = 128

    def draw(self, layers: int, width: int, rng: random.Random) -> list[View]:
        """Return the views of a step."""
        if not 1 <= self.dim < width:
            raise InputError(f"dim must be 1 to {width - 1} for this model, got {self.dim}.")
        shallow = [
            View(n, self.dim, layer_weight(n, "log") / (layers - 1)) for n in range(1, layers)
        ]
        return [*shallow, View(layers, self.dim), View(layers, width)]


def _check_twice(values: Sequence[int], name: str) -> None:
    if len(set(values)) != len(values):
        raise InputError(f"{name} has a value twice: {list(values)}.")
