"""Fisher, RegMean, greedy soups and cocktails of whole model folders.

Models are loaded one at a time to be measured; what was measured waits on the disk, and the
weights are merged tensor by tensor as in every other merge.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from safetensors.numpy import save_file

from embedworks._core.files import storage_errors
from embedworks._core.settings import Settings
from embedworks.data import RowSet
from embedworks.errors import DataWarning, EmbedworksError, InputError, NonFiniteError
from embedworks.merging._data_merge import DataMerge
from embedworks.merging._model_folders import ModelFolder
from embedworks.merging._parameter_names import tensor_parameters
from embedworks.merging._planning import MergeCall
from embedworks.merging._tensor_files import INTEGERS, TensorSource
from embedworks.merging.functional import linear
from embedworks.merging.measured import fisher, regmean
from embedworks.merging.methods import MERGE_METHODS
from embedworks.merging.models import OpenedModels, fill
from embedworks.merging.search_settings import CoefficientSearch
from embedworks.merging.soups import GreedySoup, cocktail_weights, greedy_soup, pair_score
from embedworks.merging.streaming import MergeReport
from embedworks.models import load, load_trainable

__all__ = [
    "CocktailOptions",
    "FisherOptions",
    "GreedySoupOptions",
    "RegmeanOptions",
    "merge_by_cocktail",
    "merge_by_fisher",
    "merge_by_greedy_soup",
    "merge_by_regmean",
]


class FisherOptions(Settings):
    """Options of the method ``fisher``.

    Attributes:
        per: Gradients of a ``row``'s own loss, or of the mean of a ``batch``.
        batch_size: Rows per batch.
        eps: What is added to every Fisher.
        normalize: Divide each model's Fisher by its mean over all numbers, so that ``eps`` has a
            scale and a model does not weigh more because its gradients are larger. The paper's
            equation has no such step.
    """

    per: Literal["row", "batch"] = "row"
    batch_size: int = Field(default=8, ge=1)
    eps: float = Field(default=1e-8, gt=0, allow_inf_nan=False)
    normalize: bool = True


class RegmeanOptions(Settings):
    """Options of the method ``regmean``.

    Attributes:
        alpha: Factor of the off-diagonal entries.
        ridge: What is added to the diagonal, relative to its mean.
        batch_size: Texts encoded at a time.
    """

    alpha: float = Field(default=0.9, ge=0, le=1)
    ridge: float = Field(default=1e-6, ge=0, allow_inf_nan=False)
    batch_size: int = Field(default=32, ge=1)


class GreedySoupOptions(Settings):
    """The method ``greedy_soup`` has no options."""


class CocktailOptions(Settings):
    """Options of the method ``cocktail``.

    Attributes:
        tau: Temperature of the softmax over losses.
        batch_size: Rows per batch; a contrastive loss contrasts within them.
    """

    tau: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    batch_size: int = Field(default=32, ge=1)


@dataclass(frozen=True)
class MeasuredCall(MergeCall):
    """A merge of one tensor that looks at what was measured for it; others are averaged."""

    function: Callable[..., np.ndarray] = linear
    measured: tuple[TensorSource | None, ...] = ()

    @property
    def elementwise(self) -> bool:
        """Measurements belong to whole tensors."""
        return False

    def __call__(
        self, tensors: Sequence[np.ndarray], base: np.ndarray | None, key: str
    ) -> np.ndarray:
        """Merge one tensor."""
        found = [source.entries.get(key) for source in self.measured if source is not None]
        held = [entry.read() for entry in found if entry is not None]
        if not held or len(held) < len(tensors):
            return MERGE_METHODS["linear"](tensors, self.weights, key=key)
        try:
            return self.function(tensors, held, self.weights, **self.options)
        except EmbedworksError as error:
            raise type(error)(f"{key}: {error}") from error


def merge_by_fisher(job: DataMerge) -> MergeReport:
    from embedworks.merging.collecting import collect_fisher

    options, loss = job.options, job.loss
    assert isinstance(options, FisherOptions)
    assert loss is not None

    def measure(model: Any, rows: RowSet) -> dict[str, np.ndarray]:
        found = collect_fisher(
            model, rows, loss, per=options.per, batch_size=options.batch_size,
            show_progress=job.show_progress,
        )  # fmt: skip
        total = sum(float(array.sum(dtype=np.float64)) for array in found.values())
        if total == 0:
            raise InputError(
                "the loss has no gradient on these rows, so that no number of the model matters: "
                "give more rows, or a larger batch_size."
            )
        if options.normalize:
            mean = total / sum(array.size for array in found.values())
            found = {name: (array / mean).astype(np.float32) for name, array in found.items()}
        return found

    return _merge_measured(job, fisher, {"eps": options.eps}, measure, "fisher")


def merge_by_regmean(job: DataMerge) -> MergeReport:
    from embedworks.merging.collecting import collect_grams

    options = job.options
    assert isinstance(options, RegmeanOptions)
    settings = {"alpha": options.alpha, "ridge": options.ridge}

    def measure(model: Any, rows: RowSet) -> dict[str, np.ndarray]:
        found = collect_grams(
            model, _texts(rows), batch_size=options.batch_size, show_progress=job.show_progress
        )
        if not found:
            raise InputError(
                "regmean works on linear layers, and these models have none: merge them by linear."
            )
        return found

    return _merge_measured(job, regmean, settings, measure, "regmean")


def _merge_measured(
    job: DataMerge,
    function: Callable[..., np.ndarray],
    settings: Mapping[str, Any],
    measure: Callable[[Any, RowSet], dict[str, np.ndarray]],
    name: str,
) -> MergeReport:
    """Measure one model after another, then merge with what was measured."""
    opened = job.opened
    with _scratch(opened.out) as scratch:
        measured = []
        for place, folder in enumerate(opened.folders):
            model = load_trainable(folder.root, device=job.device, check_golden=False).float()
            try:
                found = measure(model, job.rows[place])
            except NonFiniteError as error:
                raise NonFiniteError(_blame(folder, error)) from error
            parameters = tensor_parameters(model, folder)
            del model
            measured.append(_save(found, parameters, scratch / str(place)))
        for stem, source in opened.folders[0].weights.items():
            if name == "fisher":
                _warn_unmeasured(stem, source, [held.get(stem) for held in measured])

        def call_of(stem: str) -> MergeCall:
            return MeasuredCall(
                name, job.weights, dict(settings), function=function,
                measured=tuple(held.get(stem) for held in measured),
            )  # fmt: skip

        return opened.write(
            call_of,
            workers=job.workers,
            show_progress=job.show_progress,
            told={"options": job.options.to_dict(), "data": _about(job)},
        )


def merge_by_greedy_soup(job: DataMerge) -> MergeReport:
    opened = job.opened
    score = pair_score(job.rows[0]) if job.score is None else job.score
    with _scratch(opened.out) as scratch:

        def score_of(which: Sequence[int]) -> float:
            if len(which) == 1:
                return score(load(opened.roots[which[0]], device=job.device, check_golden=False))
            with tempfile.TemporaryDirectory(dir=scratch) as trial:
                some = opened.choose(which)
                fill(
                    Path(trial), some.plans(lambda stem: MergeCall("linear")), some.folders[0],
                    workers=job.workers, show_progress=False, checksums=False,
                )  # fmt: skip
                return score(load(Path(trial), device=job.device, check_golden=False))

        soup = greedy_soup(len(opened.roots), score_of)
    return opened.choose(soup.chosen).write(
        lambda stem: MergeCall("linear"),
        workers=job.workers,
        show_progress=job.show_progress,
        told={"method": "greedy_soup", "data": {**_about(job), **_soup_story(opened, soup)}},
    )


def merge_by_cocktail(job: DataMerge) -> MergeReport:
    from embedworks.merging.collecting import mean_loss

    options, loss = job.options, job.loss
    assert isinstance(options, CocktailOptions)
    assert loss is not None
    losses = []
    for folder, rows in zip(job.opened.folders, job.rows):
        model = load_trainable(folder.root, device=job.device, check_golden=False).float()
        try:
            value = mean_loss(
                model, rows, loss, batch_size=options.batch_size, show_progress=job.show_progress
            )
        except NonFiniteError as error:
            raise NonFiniteError(_blame(folder, error)) from error
        del model
        losses.append(value)
    call = MergeCall("linear", tuple(cocktail_weights(losses, options.tau)))
    return job.opened.write(
        lambda stem: call,
        workers=job.workers,
        show_progress=job.show_progress,
        told={
            "method": "cocktail",
            "options": options.to_dict(),
            "data": {**_about(job), "losses": losses},
        },
    )


def merge_by_search(job: DataMerge) -> MergeReport:
    """Merge with coefficients that are searched on the rows."""
    from embedworks.merging.searched import merge_searched

    assert isinstance(job.options, CoefficientSearch)
    if any(rows is not job.rows[0] for rows in job.rows):
        raise InputError(
            f"{job.method} looks at one set of rows, whose sources are the tasks: join the sets."
        )
    return merge_searched(
        job.opened,
        job.rows[0],
        job.options,
        told={"method": job.method, "data": _about(job)},
        device=job.device,
        workers=job.workers,
        show_progress=job.show_progress,
    )


def _texts(rows: RowSet) -> list[str]:
    """Return the distinct texts of rows."""
    every = [text for row in rows for text in (row.anchor, row.positive, *row.negatives)]
    texts = list(dict.fromkeys(text for text in every if isinstance(text, str)))
    if len(texts) < len({str(text) for text in every}):
        raise InputError("regmean reads texts, and some rows hold other inputs: leave them out.")
    return texts


def _blame(folder: ModelFolder, error: NonFiniteError) -> str:
    """Name a damaged tensor of a model whose loss or inputs are not finite, where there is one."""
    for source in folder.weights.values():
        for entry in source.entries.values():
            if entry.dtype not in INTEGERS and (damage := entry.damage(source.path)):
                return damage
    return f"{folder.root}: {error}"


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """Give a hidden folder beside the result, and remove it."""
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            yield Path(folder)


def _save(
    found: Mapping[str, np.ndarray], parameters: Mapping[str, Mapping[str, str]], folder: Path
) -> dict[str, TensorSource]:
    """Keep what was measured for each tensor on the disk, a file for each stem."""
    folder.mkdir()
    saved = {}
    for number, (stem, names) in enumerate(parameters.items()):
        held = {t: np.ascontiguousarray(found[p]) for t, p in names.items() if p in found}
        if held:
            path = folder / f"{number}.safetensors"
            save_file(held, path)
            saved[stem] = TensorSource.open(path)
    return saved


def _warn_unmeasured(
    stem: str, source: TensorSource, measured: Sequence[TensorSource | None]
) -> None:
    """Warn of tensors that became no parameter of a model, whose Fisher nobody knows."""
    names = [name for name, entry in source.entries.items() if entry.dtype not in INTEGERS]
    lost = [n for n in names if not all(held and n in held.entries for held in measured)]
    if lost:
        warnings.warn(
            f"{len(lost)} of {len(names)} tensors of {stem!r} are no parameters of the loaded "
            f"model, such as {lost[0]!r}: they are averaged.",
            DataWarning,
            stacklevel=5,
        )


def _about(job: DataMerge) -> dict[str, Any]:
    """Say what the models were measured on."""
    if not job.rows:
        return {}
    sets = list(dict.fromkeys(job.rows))
    return {
        "rows": [len(rows) for rows in sets],
        "rows_sha256": [rows.fingerprint() for rows in sets],
    }


def _soup_story(opened: OpenedModels, soup: GreedySoup) -> dict[str, Any]:
    names = [root.name for root in opened.roots]
    return {
        "score": soup.score,
        "scores": [[name, value] for name, value in zip(names, soup.scores)],
        "steps": [[names[place], value, stays] for place, value, stays in soup.steps],
    }
