"""Merging model folders by what the models do on data: Fisher, RegMean, soups, cocktails."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedworks._core.registry import Registry
from embedworks.data import RowSet
from embedworks.errors import InputError
from embedworks.merging._data_merge import DataMerge, DataMergeMethod
from embedworks.merging._data_merges import (
    CocktailOptions,
    FisherOptions,
    GreedySoupOptions,
    RegmeanOptions,
    merge_by_cocktail,
    merge_by_fisher,
    merge_by_greedy_soup,
    merge_by_regmean,
    merge_by_search,
)
from embedworks.merging._planning import MergeCall
from embedworks.merging.models import OpenedModels, model_count
from embedworks.merging.search_settings import (
    AdamergingOptions,
    CoefficientSearch,
    GridOptions,
    SelfPositioningOptions,
)
from embedworks.merging.streaming import MergeReport
from embedworks.models import Encoder

if TYPE_CHECKING:
    from embedworks.merging.collecting import LossOf

__all__ = ["DATA_MERGE_METHODS", "merge_with_data"]


def merge_with_data(
    models: Sequence[str | Path],
    out: str | Path,
    method: str,
    *,
    rows: RowSet | Sequence[RowSet] | None = None,
    loss: LossOf | None = None,
    score: Callable[[Encoder], float] | None = None,
    base: str | Path | None = None,
    weights: Sequence[float] | None = None,
    device: str | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    show_progress: bool | None = None,
    **options: Any,
) -> MergeReport:
    """Merge model folders by a method that looks at data.

    Like `merge_models` in what it takes, checks and writes. Models are loaded one at a time to be
    measured; beside the one in memory, what was measured lies in a hidden folder next to ``out``
    until the merge is done.

    Args:
        models: Folders, or short names of models that have a folder.
        out: Folder for the result.
        method: A name among `DATA_MERGE_METHODS`.
        rows: Probe rows: one set for all models, or one for each. The papers measure each model
            on the data it was trained on; one set for all asks what matters on that set.
        loss: Makes a loss from a model, for methods that need one; None for InfoNCE,
            `embedworks.losses.ContrastiveLoss`, a loss class of sentence-transformers, or a
            function that sets options.
        score: From a model to a number, the higher the better, for ``greedy_soup``; with rows
            instead, `pair_score`.
        base: What the models were trained from, for methods that search in the span of what each
            model changed.
        weights: One number per model, for methods that take them.
        device: Torch device that models are measured on, chosen by itself when None.
        overwrite: Whether a model in ``out`` is replaced; it stays whole until then.
        workers: Threads of the merge itself; by default up to 4.
        show_progress: True or False to force bars; by default on a terminal.
        options: The method's options, fields of its `DataMergeMethod.settings`.

    Raises:
        InputError: When something a method needs is missing or something it has no use for is
            given, and as in `merge_models`.
        SettingsError: When an option is unknown or out of range.
        NonFiniteError: When a tensor, a loss, a gradient or a score is NaN or infinite.
        MissingExtraError: When models must be loaded with torch and it is not installed.
        UnknownNameError: When no method has this name.
    """
    started = time.perf_counter()
    chosen = DATA_MERGE_METHODS[method]
    settings = chosen.settings.from_dict(options)
    call = MergeCall.of("linear", weights, None)
    if loss is None and chosen.needs_loss:
        loss = _contrastive
    chosen.check(
        model_count(models),
        has_rows=rows is not None,
        has_loss=loss is not None,
        has_score=score is not None,
        has_base=base is not None,
        weights=call.weights,
    )
    probes = _probes(rows, len(models))
    opened = OpenedModels.open(models, base, out, overwrite=overwrite)
    job = DataMerge(
        method, opened, probes, loss, score, call.weights, settings, device, workers, show_progress
    )
    return replace(chosen.function(job), seconds=time.perf_counter() - started)


#: Every method that needs data, by name.
DATA_MERGE_METHODS: Registry[DataMergeMethod] = Registry("data merge methods")


def _add(
    name: str, function: Callable[[DataMerge], MergeReport], summary: str, **about: Any
) -> None:
    DATA_MERGE_METHODS.add(name, DataMergeMethod(name, function, **about), summary=summary)


_add(
    "fisher",
    merge_by_fisher,
    "Mean weighted, number by number, by how much a loss depends on it.",
    settings=FisherOptions,
    needs_loss=True,
    takes_weights=True,
)
_add(
    "regmean",
    merge_by_regmean,
    "Linear layers whose outputs are nearest to every model's; the rest averaged.",
    settings=RegmeanOptions,
    takes_weights=True,
)
_add(
    "greedy_soup",
    merge_by_greedy_soup,
    "Mean of the models that do not lower a score, the best first.",
    settings=GreedySoupOptions,
    needs_rows=False,
    takes_score=True,
)
_add(
    "cocktail",
    merge_by_cocktail,
    "Weighted mean with weights from each model's loss on a few rows.",
    settings=CocktailOptions,
    needs_loss=True,
)
for _name, _summary, _settings in (
    (
        "searched",
        "A coefficient for each model and layer, by gradient on probe rows.",
        CoefficientSearch,
    ),
    (
        "self_positioning",
        "One weight per model and one length, by gradient on probe rows (arXiv 2410.15035).",
        SelfPositioningOptions,
    ),
    (
        "adamerging",
        "A coefficient for each model and layer that makes rankings sure, without labels "
        "(arXiv 2310.02575).",
        AdamergingOptions,
    ),
    ("grid", "Weights of whole models, tried one by one on probe rows.", GridOptions),
):
    _add(_name, merge_by_search, _summary, settings=_settings, needs_base=True)


def _contrastive(model: Any) -> Any:
    from embedworks.losses import ContrastiveLoss

    return ContrastiveLoss(model)


def _probes(rows: RowSet | Sequence[RowSet] | None, count: int) -> tuple[RowSet, ...]:
    """Return one set of rows for each model."""
    if rows is None:
        return ()
    if isinstance(rows, RowSet):
        return (rows,) * count
    sets = tuple(rows)
    if not all(isinstance(item, RowSet) for item in sets):
        raise InputError("rows must be an embedworks.data.RowSet, or a list with one per model.")
    if len(sets) != count:
        raise InputError(
            f"rows must be one set, or one for each of {count} models; got {len(sets)}."
        )
    return sets
