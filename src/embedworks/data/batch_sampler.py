"""A plan's batches in the form that PyTorch loaders and sentence-transformers expect.

Imports neither: a batch sampler is any object with ``__iter__``, ``__len__`` and ``set_epoch``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

from embedworks.data.batches import BatchPlan
from embedworks.errors import InputError

__all__ = ["PlanSampler"]


class PlanSampler:
    """A batch sampler over the rows of a plan, one epoch at a time.

    Give it to a ``DataLoader`` as ``batch_sampler``, or to sentence-transformers' training
    arguments as ``batch_sampler`` (they call it with the data set and receive the sampler).
    ``set_epoch`` chooses the epoch; a trainer that resumes skips the batches it has had.

    With ``world_size`` processes the parts of each batch follow one another, so that loaders
    which hand batch i to process ``i % world_size``, as accelerate's do, give every process its
    part of the same batch. Such a plan is made with the same ``world_size`` everywhere.

    Args:
        plan: The plan; its rows stand in the data set's order.

    Example:
        >>> from embedworks.data import BatchSettings
        >>> plan = BatchPlan.from_sources(["a"] * 4, BatchSettings(batch_size=2))
        >>> sampler = PlanSampler(plan)
        >>> sampler.set_epoch(1)
        >>> len(sampler), [len(batch) for batch in sampler]
        (2, [2, 2])
    """

    drop_last = False

    def __init__(self, plan: BatchPlan) -> None:
        self.plan = plan
        self.epoch = 0
        self._bound = False

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.plan) * self.plan.world_size

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.plan.epoch(self.epoch)
        for index in range(len(batches)):
            for rank in range(self.plan.world_size):
                yield batches.part(index, rank).tolist()

    def __call__(
        self,
        dataset: Sized,
        batch_size: int = 1,
        drop_last: bool = False,
        valid_label_columns: list[str] | None = None,
        generator: Any = None,
        seed: int = 0,
    ) -> Any:
        """Return the sampler of ``dataset``; the sizes and seed of the plan hold, not these.

        Once the plan's data set was seen, one of another length counts as data to evaluate on
        and is read in order, ``batch_size`` rows at a time.

        Raises:
            InputError: When the first data set does not have the plan's rows.
        """
        if len(dataset) == len(self.plan.units.of_row):
            self._bound = True
            return self
        if not self._bound:
            raise InputError(
                f"the plan is for {len(self.plan.units.of_row)} rows, but the data set has "
                f"{len(dataset)}: make the plan from the rows that are trained on. (Data to "
                "evaluate on may follow once training has begun.)"
            )
        count = len(dataset)
        return [list(range(i, min(i + batch_size, count))) for i in range(0, count, batch_size)]
