"""The settings of batch composition, as a recipe file has them."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from embedworks._core.settings import Settings
from embedworks.data.batch_strategies import BATCH_STRATEGIES

__all__ = ["BatchSettings", "SourceGroup"]

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)]
Weight = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]

_SHARE_TOLERANCE = 1e-6


class SourceGroup(Settings):
    """Sources that have a fixed share of the draws between them."""

    share: Share
    """Share of the group; the shares of all groups sum to 1."""
    sources: tuple[str, ...]
    """Names of its sources; ``("*",)`` takes every source that no other group names."""


class BatchSettings(Settings):
    """What goes into a batch together, and how often each source is drawn.

    Without weights (``alpha`` 1, no ``weights``, no ``groups``) an epoch sees every row exactly
    once. With them an epoch is a fixed number of batches: sources are drawn by share, each is
    gone through in a random order, and shuffled again when it is used up. A share is one of
    batches under ``one_source`` and ``clustered``, else one of rows.

    Example:
        >>> BatchSettings(strategy="one_source", batch_size=256, alpha=0.5).alpha
        0.5
        >>> BatchSettings.from_dict({"strategy": "one_sorce"})
        Traceback (most recent call last):
        ...
        embedworks.errors.UnknownNameError: No 'one_sorce' among the batch strategies. Did you
        mean 'one_source'?
    """

    strategy: str = "mixed"
    """Name in `BATCH_STRATEGIES`."""
    batch_size: Count = 64
    """Rows of one step, over all processes together."""
    batch_sizes: dict[str, Count] = Field(default_factory=dict)
    """Other sizes, by name of a source or of a loss."""
    losses: dict[str, str] = Field(default_factory=dict)
    """Source -> name of its loss; ``"*"`` stands for the rest. No batch mixes two losses."""
    merge: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """New name -> sources that count as one source."""
    alpha: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1.0
    """Sources are drawn by size^alpha: 1 by size, 0 all alike. Clusters likewise."""
    weights: dict[str, Weight] = Field(default_factory=dict)
    """Source -> relative weight, for every source; in place of ``alpha``."""
    groups: dict[str, SourceGroup] = Field(default_factory=dict)
    """Groups of sources with fixed shares; ``alpha`` or ``weights`` act inside a group."""
    batches_per_epoch: Count | None = None
    """Length of an epoch with weights; as many batches as one pass over all rows by default."""
    ratio: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """``semi_homogeneous``: share of a batch that stays with its source; 0 is fully mixed."""
    sub_batch_size: Count | None = None
    """``interleaved``: rows of one source side by side, over all processes together."""
    no_duplicates: bool = False
    """Whether rows that share an anchor, a positive or a positive's id are kept apart."""
    drop_last: bool = False
    """Whether batches that are not full are left out."""

    @field_validator("strategy")
    @classmethod
    def _known(cls, value: str) -> str:
        BATCH_STRATEGIES[value]
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        needed = BATCH_STRATEGIES[self.strategy].options
        for option in ("ratio", "sub_batch_size"):
            given = getattr(self, option) is not None
            if option in needed and not given:
                raise ValueError(f"the strategy {self.strategy!r} needs {option}")
            if given and option not in needed:
                raise ValueError(f"{option} means nothing to the strategy {self.strategy!r}")
        if self.weights and self.alpha != 1.0:
            raise ValueError("weights and alpha both say how often sources are drawn: give one")
        if self.groups:
            total = sum(group.share for group in self.groups.values())
            if abs(total - 1.0) > _SHARE_TOLERANCE:
                raise ValueError(f"the shares of the groups sum to {total:g}, not to 1")
        if self.batches_per_epoch is not None and not self.weighted:
            raise ValueError(
                "batches_per_epoch needs weights: without them an epoch is every row once "
                "(stop after a number of steps instead)"
            )
        if self.strategy == "clustered" and (self.weights or self.groups):
            raise ValueError(
                "the strategy 'clustered' draws clusters, not sources: use alpha, not weights or "
                "groups"
            )
        if self.sub_batch_size is not None:
            for size in (self.batch_size, *self.batch_sizes.values()):
                if size % self.sub_batch_size:
                    raise ValueError(
                        f"a batch of {size} rows is not made of sub-batches of "
                        f"{self.sub_batch_size}: use a divisor"
                    )
        return self

    @property
    def weighted(self) -> bool:
        """Whether sources are drawn by weight, so that an epoch is not every row once."""
        return self.alpha != 1.0 or bool(self.weights) or bool(self.groups)
