"""Different losses for different data sets in one training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from embedworks._core.registry import did_you_mean
from embedworks.errors import InputError

__all__ = ["SourceLosses"]


class SourceLosses(nn.Module):
    """Sends each batch to the loss of its data set.

    Batches must hold rows of one loss only (the batch setting ``losses`` sees to it); rows say
    which source they are of under ``row_source`` in the first column's features.

    Args:
        losses: Loss by name.
        loss_of_source: Source name -> loss name. Sources that are not named take ``default``.
        sources: Names of the data sets, in the order of ``row_source``.
        default: Name of the loss for other sources.

    Raises:
        InputError: When a loss is not there, or nothing is known about the rows' sources.
    """

    def __init__(
        self,
        losses: Mapping[str, nn.Module],
        loss_of_source: Mapping[str, str],
        *,
        sources: Sequence[str],
        default: str,
    ) -> None:
        super().__init__()
        if not sources:
            raise InputError("SourceLosses needs the names of the sources, got none.")
        for name in (*loss_of_source.values(), default):
            if name not in losses:
                hint = did_you_mean(name, list(losses))
                raise InputError(f"there is no loss {name!r}. {hint}")
        for name in loss_of_source:
            if name not in sources:
                hint = did_you_mean(name, list(sources))
                raise InputError(f"there is no source {name!r}. {hint}")
        self.losses = nn.ModuleDict({f"loss_{n}": loss for n, loss in enumerate(losses.values())})
        self._keys = {name: f"loss_{n}" for n, name in enumerate(losses)}
        self.sources = tuple(sources)
        self._names = [loss_of_source.get(source, default) for source in sources]
        self.model = next((m for x in losses.values() if (m := getattr(x, "model", None))), None)

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep the losses' model in step when a trainer wraps it."""
        super().__setattr__(name, value)
        if name == "model" and "losses" in self.__dict__.get("_modules", {}):
            for loss in self.losses.values():
                if hasattr(loss, "model"):
                    loss.model = value

    def parts(self) -> dict[str, nn.Module]:
        """Return the losses by name."""
        return {name: self.losses[key] for name, key in self._keys.items()}

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch by its rows' source."""
        columns = list(sentence_features)
        rows = columns[0].get("row_source")
        if rows is None:
            raise InputError(
                "SourceLosses needs the rows' sources in the features: use RowCollator, or the "
                "trainer's own dictionary of losses."
            )
        names = {self._names[int(source)] for source in torch.unique(rows)}
        if len(names) > 1:
            raise InputError(
                f"a batch mixes rows of the losses {sorted(names)}: set the batches' 'losses' so "
                "that each batch is of one."
            )
        loss: Tensor = self.losses[self._keys[names.pop()]](columns, labels)
        return loss
