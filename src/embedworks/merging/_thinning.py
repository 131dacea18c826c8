"""Dropping entries of task vectors, and putting together what is left.

A thinning takes a block of a model's task vector and gives what is kept of it and zeros. A pass
over a tensor starts a new one for each model and shows it the blocks in order, so that random
ones draw the same numbers in every pass and none holds more than a block.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice, check_in_range
from embedworks.merging._inputs import Inputs

__all__ = [
    "COMBINE",
    "MAJORITY",
    "RESCALE",
    "Start",
    "Thinning",
    "agree",
    "drop_at_random",
    "drop_by_rank",
    "keep_between",
    "merge_thinned",
    "same_length",
    "smallest_kept",
]

Thinning = Callable[[np.ndarray], np.ndarray]
#: Starts the thinning of a model by its number.
Start = Callable[[int], Thinning]

#: What the names of options may be.
COMBINE = ("linear", "ties")
MAJORITY = ("sum", "count")
RESCALE = ("expected", "l1", "none")


def keep_between(given: Inputs, lowest: int, highest: int) -> Start:
    """Keep the entries of each task vector between two ranks of magnitude.

    Args:
        given: The checked input.
        lowest: Rank of the smallest entry to keep; the smallest of all has rank 0.
        highest: Rank of the largest entry to keep, at most ``given.size - 1``. Entries as large
            as one of the two are kept as well.
    """
    if given.size == 0 or (lowest == 0 and highest == given.size - 1):
        return lambda index: lambda delta: delta
    limits = []
    for index in range(len(given.tensors)):
        found = np.empty(given.size, given.work)
        for block in given.blocks():
            np.abs(given.delta(index, block), out=found[block])
        found.partition(sorted({lowest, highest}))
        limits.append((found[lowest], found[highest]))

    def start(index: int) -> Thinning:
        low, high = limits[index]

        def thin(delta: np.ndarray) -> np.ndarray:
            size = np.abs(delta)
            return delta * ((size >= low) & (size <= high))

        return thin

    return start


def smallest_kept(density: float, size: int) -> int:
    """Return the rank of the smallest entry to keep of ``size``; at least one is kept."""
    return size - max(1, int(density * size + 0.5))


def drop_at_random(seed: int, key: str, density: float, *, rescale: bool) -> Start:
    """Keep each entry with probability ``density``, divided by it if they are rescaled."""

    def start(index: int) -> Thinning:
        rng = generator(seed, key, index)
        factor = 1 / density if rescale else 1.0

        def thin(delta: np.ndarray) -> np.ndarray:
            kept = delta * (rng.random(delta.shape, np.float32) < density)
            kept *= factor
            return kept

        return thin

    return start


def drop_by_rank(
    given: Inputs, seed: int, key: str, density: float, epsilon: float, *, rescale: bool
) -> Start:
    """Keep each entry with a probability that rises with its rank by magnitude in its row."""
    width = given.row
    ranks = np.linspace(-1.0, 1.0, width) if width > 1 else np.zeros(1)
    chances = (density + epsilon * ranks).astype(given.work)

    def start(index: int) -> Thinning:
        rng = generator(seed, key, index)

        def thin(delta: np.ndarray) -> np.ndarray:
            lines = delta.reshape(-1, width)
            order = np.argsort(np.abs(lines), axis=1, kind="stable")
            chance = np.empty_like(lines)
            np.put_along_axis(chance, order, np.broadcast_to(chances, lines.shape), axis=1)
            kept = lines * (rng.random(lines.shape, np.float32) < chance)
            if rescale:
                kept /= chance
            return kept.reshape(-1)

        return thin

    return start


def same_length(given: Inputs, start: Start, *, rows: bool) -> Start:
    """Rescale what ``start`` keeps of each task vector to the L1 norm the vector had."""
    factors = []
    for index in range(len(given.tensors)):
        thin = start(index)
        before = after = 0.0
        for block in given.blocks(rows=rows):
            delta = given.delta(index, block)
            before += float(np.abs(delta).sum(dtype=np.float64))
            after += float(np.abs(thin(delta)).sum(dtype=np.float64))
        factors.append(before / after if after > 0 else 1.0)

    def scaled(index: int) -> Thinning:
        thin = start(index)
        return lambda delta: thin(delta) * factors[index]

    return scaled


def merge_thinned(
    given: Inputs,
    start: Start,
    *,
    combine: str,
    scale: float,
    majority: str = "sum",
    rows: bool = False,
) -> np.ndarray:
    """Add what is kept of each task vector to the base.

    Args:
        given: The checked input.
        start: Starts the thinnings.
        combine: ``"linear"`` adds the weighted vectors, ``"ties"`` elects a sign for each entry
            and averages the models that have it.
        scale: Factor of the whole step.
        majority: Whether signs are elected by their ``"sum"`` or their ``"count"``.
        rows: Whether thinnings must see whole rows.
    """
    check_choice(combine, COMBINE, name="combine")
    check_choice(majority, MAJORITY, name="majority")
    check_in_range(scale, name="scale")
    thinnings = [start(index) for index in range(len(given.tensors))]
    weights = np.array(given.weights, given.work)[:, None]

    def make(block: slice) -> np.ndarray:
        parts = np.stack([thin(given.delta(i, block)) for i, thin in enumerate(thinnings)])
        if combine == "linear":
            total = (parts * weights).sum(axis=0)
        else:
            votes = parts * weights if majority == "sum" else np.sign(parts * weights)
            total = agree(parts, weights, votes)
        total *= scale
        total += given.origin(block)
        return np.asarray(total)

    return given.result(make, rows=rows)


def agree(parts: np.ndarray, weights: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """Average, entry by entry, the models that have the sign of the sum of the votes.

    Args:
        parts: Array (n, L), what was kept of each task vector; zeros have no sign.
        weights: Array (n, 1).
        votes: Array (n, L); a sum of 0 counts as positive.

    Returns:
        Array (L,), 0 where no model has the sign.
    """
    positive = votes.sum(axis=0) >= 0
    agrees = np.where(positive, parts > 0, parts < 0)
    share = (weights * agrees).sum(axis=0)
    return np.asarray((parts * weights * agrees).sum(axis=0) / np.where(share > 0, share, 1))
