"""Merges that look at the place of models in a row, or of tensors in depth, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from embedworks._core.registry import Registry
from embedworks._core.settings import Settings
from embedworks.errors import InputError
from embedworks.merging.averaging import ema, swa
from embedworks.merging.depth import lines
from embedworks.merging.streaming import MergeReport

__all__ = ["PLACE_MERGE_METHODS", "PlaceMergeMethod"]

Finite = Annotated[float, Field(allow_inf_nan=False)]


class EmaOptions(Settings):
    """Options of `embedworks.merging.ema`."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9


class SwaOptions(Settings):
    """Options of `embedworks.merging.swa`."""

    window: Annotated[int, Field(ge=1)] | None = None


class LinesOptions(Settings):
    """Options of `embedworks.merging.lines`."""

    alpha: Finite
    beta: Finite
    method: str = "task_arithmetic"
    options: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class PlaceMergeMethod:
    """How one such method is called.

    Attributes:
        name: Its name in recipes and on the command line.
        function: Called with models, result, weights and base where it takes them, and options.
        settings: The options.
        needs_base: Whether it works on what each model changed of a base.
        takes_weights: Whether weights of the models may be given.
    """

    name: str
    function: Callable[..., MergeReport] = field(repr=False)
    settings: type[Settings]
    needs_base: bool = False
    takes_weights: bool = False

    def check(
        self, *, has_base: bool, has_weights: bool, options: Mapping[str, Any] | None = None
    ) -> Settings:
        """Return the options; raise what the method has against them."""
        if has_base != self.needs_base:
            what = (
                "needs the base the models were trained from"
                if self.needs_base
                else ("has no use for a base: leave it out")
            )
            raise InputError(f"{self.name} {what}.")
        if has_weights and not self.takes_weights:
            raise InputError(f"{self.name} finds its own weights and takes none: leave them out.")
        return self.settings.from_dict(options or {})

    def __call__(
        self,
        models: Sequence[str | Path],
        out: str | Path,
        *,
        weights: Sequence[float] | None = None,
        base: str | Path | None = None,
        options: Mapping[str, Any] | None = None,
        **common: Any,
    ) -> MergeReport:
        """Merge models, oldest or most important first."""
        chosen = self.check(
            has_base=base is not None, has_weights=weights is not None, options=options
        )
        given: dict[str, Any] = dict(chosen)
        if self.needs_base:
            given["base"] = base
        if self.takes_weights:
            given["weights"] = weights
        return self.function(models, out, **given, **common)


#: Methods that look at the place of models or tensors, by name.
PLACE_MERGE_METHODS: Registry[PlaceMergeMethod] = Registry("merge methods by place")


def _add(name: str, summary: str, function: Callable[..., MergeReport], **about: Any) -> None:
    PLACE_MERGE_METHODS.add(name, PlaceMergeMethod(name, function, **about), summary=summary)


_add("ema", "Moving average of checkpoints, oldest first.", ema, settings=EmaOptions)
_add("swa", "Mean of the last checkpoints.", swa, settings=SwaOptions)
_add(
    "lines",
    "Another method's changes, scaled by the depth of the layer (LiNeS).",
    lines,
    settings=LinesOptions,
    needs_base=True,
    takes_weights=True,
)
