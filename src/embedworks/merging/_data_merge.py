"""A merge that looks at data, as it was asked for, and how a method carries it out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from embedworks._core.settings import Settings
from embedworks.data import RowSet
from embedworks.errors import InputError
from embedworks.merging.functional import linear
from embedworks.merging.models import OpenedModels
from embedworks.merging.streaming import MergeReport
from embedworks.models import Encoder

if TYPE_CHECKING:
    from embedworks.merging.collecting import LossOf

__all__ = ["DataMerge", "DataMergeMethod"]


@dataclass(frozen=True)
class DataMerge:
    """A merge that was asked for, checked and opened: what a method's function gets.

    Attributes:
        method: Name of the method.
        opened: The models and where the result goes.
        rows: One set of rows per model, or none.
        loss: Makes a loss from a model, or None.
        score: Scores a model, or None.
        weights: One number per model, or None.
        options: The method's options.
        device: Where models run.
        workers: Threads of the merge itself.
        show_progress: Whether there are bars.
    """

    method: str
    opened: OpenedModels
    rows: tuple[RowSet, ...]
    loss: LossOf | None
    score: Callable[[Encoder], float] | None
    weights: tuple[float, ...] | None
    options: Settings
    device: str | None = None
    workers: int | None = None
    show_progress: bool | None = None


@dataclass(frozen=True)
class DataMergeMethod:
    """How one method merges whole models by what they do on data.

    Attributes:
        name: Its name in recipes and on the command line.
        function: From a `DataMerge` to the report.
        settings: The options.
        needs_rows: Whether it cannot do without rows.
        needs_loss: Whether it measures a loss.
        takes_score: Whether a score function may be given, in place of rows.
        takes_weights: Whether weights of the models may be given.
        needs_base: Whether it works on what each model changed of a base.
    """

    name: str
    function: Callable[[DataMerge], MergeReport] = field(repr=False)
    settings: type[Settings]
    needs_rows: bool = True
    needs_loss: bool = False
    takes_score: bool = False
    takes_weights: bool = False
    needs_base: bool = False

    def check(
        self,
        count: int,
        *,
        has_rows: bool,
        has_loss: bool,
        has_score: bool,
        has_base: bool,
        weights: Sequence[float] | None,
    ) -> None:
        """Raise `InputError` with what is missing or of no use, before anything is read."""
        problems = []
        if self.needs_rows and not has_rows:
            problems.append("it needs rows: an embedworks.data.RowSet, or one for each model")
        if self.needs_base and not has_base:
            problems.append(
                "it works on what each model changed, so it needs the base the models were "
                "trained from: give `base`"
            )
        if self.takes_score and not has_rows and not has_score:
            problems.append("it needs a score function, or rows to make one from")
        if self.takes_score and has_rows and has_score:
            problems.append("it takes rows or a score function, not both")
        for name, given, wanted in (
            ("a loss", has_loss, self.needs_loss),
            ("a score function", has_score, self.takes_score),
            ("a base", has_base, self.needs_base),
            ("weights", weights is not None, self.takes_weights),
        ):
            if given and not wanted:
                problems.append(f"it has no use for {name}: leave it out")
        if problems:
            raise InputError(f"{self.name}: " + "; ".join(problems) + ".")
        linear([np.ones(1)] * count, weights)  # what a weighted mean has against the weights
