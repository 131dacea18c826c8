"""Students that start alike without reading the texts again for every arm."""

from __future__ import annotations

import copy
from collections.abc import Hashable

from embedworks.reproductions import Context, RetrievalWorld, StaticStudent


def fresh_student(
    context: Context, world: RetrievalWorld, name: Hashable, *, dim: int, seed: int
) -> StaticStudent:
    """Return an untrained static student of a world; arms of a seed share its tokenised texts.

    Args:
        context: Remembers the first student.
        world: Gives the texts.
        name: Tells this world from others under the same seed.
        dim: Dimensions of the student.
        seed: Seed of the student.
    """
    import torch

    first = context.once(
        ("student", seed, name),
        lambda: StaticStudent(world.texts(), dim=dim, seed=seed, device=context.device),
    )
    student = copy.copy(first)
    student.table = torch.nn.Parameter(first.table.detach().clone())
    return student
