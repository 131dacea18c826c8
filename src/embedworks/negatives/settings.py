"""Settings of a miner, as recipes hold them."""

from __future__ import annotations

from typing import Literal

import pydantic

from embedworks._core.settings import Settings
from embedworks.negatives.rules import NegativeRule

__all__ = ["MinerSettings"]


class MinerSettings(Settings):
    """How negatives are chosen among the candidates.

    Attributes:
        count: Negatives per row.
        window: First and last rank of the candidates looked at, counted from 1, both included;
            documents that can never be negatives of the query are not counted.
        sampling: ``"top"`` takes the highest ranked candidates that are left, ``"random"`` draws
            among them.
        rules: A candidate that any rule turns down is not used. Every retriever that can score a
            given pair judges all candidates, also those another retriever found.
        min_keep: A row with fewer negatives than this gets what ``on_empty`` says.
        on_empty: ``"drop_row"`` drops it, with a count; ``"relax"`` takes the candidates that
            were turned down, lowest score first; ``"random"`` draws documents from the corpus,
            never a positive or one that was turned down. Both fill up to ``min_keep``; a row that
            still has fewer is dropped.
        teacher: Name of the retriever or rescorer whose scores are kept as teacher scores.
        seed: Seed of everything random.

    Example:
        >>> settings = MinerSettings.from_dict({"rules": [{"kind": "adaptive", "value": 0.5}]})
        >>> settings.rules[0].label
        'adaptive 0.5'
        >>> MinerSettings.from_dict({"window": [50, 10]})
        Traceback (most recent call last):
        ...
        embedworks.errors.SettingsError: MinerSettings is not valid:
        - window: Value error, the first rank must be at least 1 and at most the last, got [50, 10]
    """

    count: int = pydantic.Field(default=7, ge=1)
    window: tuple[int, int] = (1, 100)
    sampling: Literal["top", "random"] = "top"
    rules: tuple[NegativeRule, ...] = (NegativeRule("relative", 0.05),)
    min_keep: int = pydantic.Field(default=1, ge=1)
    on_empty: Literal["drop_row", "relax", "random"] = "drop_row"
    teacher: str | None = None
    seed: int = pydantic.Field(default=0, ge=0)

    @pydantic.field_validator("window")
    @classmethod
    def _window_is_a_range(cls, window: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= window[0] <= window[1]:
            raise ValueError("the first rank must be at least 1 and at most the last")
        return window

    @pydantic.model_validator(mode="after")
    def _min_keep_can_be_met(self) -> MinerSettings:
        if self.min_keep > self.count:
            raise ValueError(f"min_keep {self.min_keep} is more than the count {self.count}")
        return self
