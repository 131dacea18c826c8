"""Merging model folders by what the models do on data: Fisher, RegMean, soups, cocktails.

Models are loaded one at a time to be measured; what was measured waits on the disk, and the
weights are merged tensor by tensor as in every other merge.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field
from safetensors.numpy import save_file

from embedworks._core.devices import pick_device
from embedworks._core.extras import require_extra
from embedworks._core.files import storage_errors
from embedworks._core.registry import Registry
from embedworks._core.settings import Settings
from embedworks.data import RowSet
from embedworks.errors import DataWarning, EmbedworksError, InputError, NonFiniteError
from embedworks.merging._model_folders import ModelFolder
from embedworks.merging._parameter_names import tensor_parameters
from embedworks.merging._planning import MergeCall
from embedworks.merging._tensor_files import INTEGERS, TensorSource
from embedworks.merging.functional import linear
from embedworks.merging.measured import fisher, regmean
from embedworks.merging.methods import MERGE_METHODS
from embedworks.merging.models import OpenedModels, fill, model_count
from embedworks.merging.soups import GreedySoup, cocktail_weights, greedy_soup, pair_score
from embedworks.merging.streaming import MergeReport
from embedworks.models import Encoder, load
from embedworks.models.loading import is_static_folder

if TYPE_CHECKING:
    from embedworks.merging.collecting import LossOf

__all__ = ["DATA_MERGE_METHODS", "DataMerge", "DataMergeMethod", "merge_with_data"]


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
class DataMerge:
    """A merge that was asked for, checked and opened: what a method's function gets.

    Attributes:
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
        needs_loss: Whether it cannot do without a loss.
        takes_score: Whether a score function may be given, in place of rows.
        takes_weights: Whether weights of the models may be given.
        takes_base: Whether a base may be given.
    """

    name: str
    function: Callable[[DataMerge], MergeReport] = field(repr=False)
    settings: type[Settings]
    needs_rows: bool = True
    needs_loss: bool = False
    takes_score: bool = False
    takes_weights: bool = False
    takes_base: bool = False

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
        if self.takes_score and not has_rows and not has_score:
            problems.append("it needs a score function, or rows to make one from")
        if self.takes_score and has_rows and has_score:
            problems.append("it takes rows or a score function, not both")
        if self.needs_loss and not has_loss:
            problems.append(
                "it needs a loss: what makes one from a model, such as "
                "embedworks.losses.ContrastiveLoss"
            )
        for name, given, wanted in (
            ("a loss", has_loss, self.needs_loss),
            ("a score function", has_score, self.takes_score),
            ("a base", has_base, self.takes_base),
            ("weights", weights is not None, self.takes_weights),
        ):
            if given and not wanted:
                problems.append(f"it has no use for {name}: leave it out")
        if problems:
            raise InputError(f"{self.name}: " + "; ".join(problems) + ".")
        linear([np.ones(1)] * count, weights)  # what a weighted mean has against the weights


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
        loss: Makes a loss from a model, for methods that need one:
            `embedworks.losses.ContrastiveLoss`, a loss class of sentence-transformers, or a
            function that sets options.
        score: From a model to a number, the higher the better, for ``greedy_soup``; with rows
            instead, `pair_score`.
        base: What the models were trained from, for methods that take it.
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
        opened, probes, loss, score, call.weights, settings, device, workers, show_progress
    )
    return replace(chosen.function(job), seconds=time.perf_counter() - started)


#: Every method that needs data, by name.
DATA_MERGE_METHODS: Registry[DataMergeMethod] = Registry("data merge methods")


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


def _merge_by_fisher(job: DataMerge) -> MergeReport:
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


def _merge_by_regmean(job: DataMerge) -> MergeReport:
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
            model = _load_for_torch(folder.root, job.device)
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
                name, job.weights, dict(settings), function,
                tuple(held.get(stem) for held in measured),
            )  # fmt: skip

        return opened.write(
            call_of,
            workers=job.workers,
            show_progress=job.show_progress,
            told={"options": job.options.to_dict(), "data": _about(job)},
        )


def _merge_by_greedy_soup(job: DataMerge) -> MergeReport:
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


def _merge_by_cocktail(job: DataMerge) -> MergeReport:
    from embedworks.merging.collecting import mean_loss

    options, loss = job.options, job.loss
    assert isinstance(options, CocktailOptions)
    assert loss is not None
    losses = []
    for folder, rows in zip(job.opened.folders, job.rows):
        model = _load_for_torch(folder.root, job.device)
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


def _add(
    name: str, function: Callable[[DataMerge], MergeReport], summary: str, **about: Any
) -> None:
    DATA_MERGE_METHODS.add(name, DataMergeMethod(name, function, **about), summary=summary)


_add(
    "fisher",
    _merge_by_fisher,
    "Mean weighted, number by number, by how much a loss depends on it.",
    settings=FisherOptions,
    needs_loss=True,
    takes_weights=True,
)
_add(
    "regmean",
    _merge_by_regmean,
    "Linear layers whose outputs are nearest to every model's; the rest averaged.",
    settings=RegmeanOptions,
    takes_weights=True,
)
_add(
    "greedy_soup",
    _merge_by_greedy_soup,
    "Mean of the models that do not lower a score, the best first.",
    settings=GreedySoupOptions,
    needs_rows=False,
    takes_score=True,
)
_add(
    "cocktail",
    _merge_by_cocktail,
    "Weighted mean with weights from each model's loss on a few rows.",
    settings=CocktailOptions,
    needs_loss=True,
)


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


def _texts(rows: RowSet) -> list[str]:
    """Return the distinct texts of rows."""
    every = [text for row in rows for text in (row.anchor, row.positive, *row.negatives)]
    texts = list(dict.fromkeys(text for text in every if isinstance(text, str)))
    if len(texts) < len({str(text) for text in every}):
        raise InputError("regmean reads texts, and some rows hold other inputs: leave them out.")
    return texts


def _load_for_torch(root: Path, device: str | None) -> Any:
    """Load a folder as a torch model in float32, static ones too."""
    library = require_extra("sentence_transformers", extra="train", purpose="measure a model")
    if not is_static_folder(root):
        model: Any = load(root, device=device, check_golden=False)
    else:
        model = library.SentenceTransformer(
            str(root), device=pick_device(device), local_files_only=True, trust_remote_code=False
        )
    return model.float()


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
