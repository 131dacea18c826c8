"""Merging whole model folders: every module's weights, one tokenizer, golden vectors, a card."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from embedworks import __version__
from embedworks._core.files import atomic_directory, write_text
from embedworks._core.validation import check_choice
from embedworks.errors import DataWarning, InputError, MissingExtraError
from embedworks.merging._model_folders import ModelFolder, check_folders
from embedworks.merging._planning import MergeCall, Plan, Weights, make_plan
from embedworks.merging._union import TOKENIZERS, unite
from embedworks.merging.streaming import (
    MergeReport,
    Written,
    check_target,
    make_report,
    run_plan,
)
from embedworks.models import MODELS, load, write_golden

__all__ = ["OpenedModels", "merge_models"]


def merge_models(
    models: Sequence[str | Path],
    out: str | Path,
    method: str = "linear",
    *,
    weights: Weights | None = None,
    base: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    tokenizer: str = "same",
    overwrite: bool = False,
    workers: int | None = None,
    show_progress: bool | None = None,
) -> MergeReport:
    """Merge models of one structure into a new one, without data.

    Takes folders of sentence-transformers models (transformer, pooling, dense heads, prompts) and
    static ones. Modules, configuration, prompts and tokenizer must agree; what differs is named.
    Weights are merged tensor by tensor, so that models larger than memory can be merged; only
    for the golden vectors the result is loaded once. Everything else comes from the first model,
    less its exports and training files. The result appears in one step, when it is whole, with a
    model card and ``merge.json`` that name the inputs and their checksums.

    Args:
        models: Folders, or short names of models that have a folder (``"static"``).
        out: Folder for the result.
        method: A name among `MERGE_METHODS`; ``linear`` is the first to try.
        weights: One number per model, or such numbers by part of the model (see `part_of`), such
            as ``{"layer 0": [1, 0], "*": [0.5, 0.5]}``; by default the method's own.
        base: What the models were trained from, for methods that look at the change.
        options: The method's options by name.
        tokenizer: ``"same"`` refuses models whose tokens differ. ``"union"`` gives the result the
            tokens of all, the first one's first: rows of token tables are merged by token text,
            and a row that only some models have is the mean of theirs. For WordPiece and word
            vocabularies, without a base; texts may be cut into other, longer pieces than before.
        overwrite: Whether a model in ``out`` is replaced; it stays whole until then.
        workers: Threads; by default up to 4. The result does not depend on it.
        show_progress: True or False to force a bar; by default on a terminal.

    Raises:
        InputError: When the models differ in more than their weights (up to ten differences are
            told), when one is an adapter, quantised or pickled, when ``out`` exists or is an
            input, or the method cannot merge these.
        NonFiniteError: When a tensor has NaN or infinity; names tensor and model.
        FormatError: When a file is damaged, or the result cannot be loaded.
        NotFoundError: When a folder does not exist.
        UnknownNameError: When no method has this name.
        StorageError: When ``out`` cannot be written.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from tokenizers import Tokenizer, models
        >>> from embedworks.models import StaticModel
        >>> words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, "a"))
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name, table in {"one": [[1, 0], [2, 0]], "two": [[0, 1], [0, 2]]}.items():
        ...     _ = StaticModel(words, np.array(table, np.float32)).save_pretrained(folder / name)
        >>> report = merge_models([folder / "one", folder / "two"], folder / "both")
        >>> load(folder / "both").encode(["a"]).round(4)
        array([[0.7071, 0.7071]], dtype=float32)
    """
    started = time.perf_counter()
    call = MergeCall.of(method, weights, options)
    call.check(model_count(models), has_base=base is not None)
    check_choice(tokenizer, TOKENIZERS, name="tokenizer")
    if tokenizer == "union":
        if base is not None:
            raise InputError(
                "a union of tokenizers is for methods without a base: rows that the base does not "
                "have did not change from anything. Leave the base out, or choose linear."
            )
        report = _merge_union(models, out, call, overwrite, workers, show_progress)
    else:
        opened = OpenedModels.open(models, base, out, overwrite=overwrite)
        report = opened.write(lambda stem: call, workers=workers, show_progress=show_progress)
    return replace(report, seconds=time.perf_counter() - started)


def _merge_union(
    models: Sequence[str | Path],
    out: str | Path,
    call: MergeCall,
    overwrite: bool,
    workers: int | None,
    show_progress: bool | None,
) -> MergeReport:
    """Merge models after giving all of them the tokens of all."""
    if call.parts:
        raise InputError("weights by part do not go with tokenizer='union': give one per model.")
    with tempfile.TemporaryDirectory() as scratch:
        opened = OpenedModels.open(models, None, out, overwrite=overwrite, compare=False)
        union = unite(opened.folders, Path(scratch))
        check_folders(union.folders, None)
        return replace(opened, folders=union.folders).write(
            lambda stem: union.call(call, stem),
            workers=workers,
            show_progress=show_progress,
            told={"data": union.story()},
        )


@dataclass(frozen=True)
class OpenedModels:
    """Model folders that agree in everything but their weights, and where their merge goes.

    Attributes:
        roots: Folders of the models, in order.
        folders: What they hold.
        origin: What the base holds, or None.
        out: Folder for the result.
    """

    roots: tuple[Path, ...]
    folders: tuple[ModelFolder, ...]
    origin: ModelFolder | None
    out: Path

    @classmethod
    def open(
        cls,
        models: Sequence[str | Path],
        base: str | Path | None,
        out: str | Path,
        *,
        overwrite: bool,
        compare: bool = True,
    ) -> OpenedModels:
        """Open the folders and compare them; nothing is written."""
        out = Path(out)
        model_count(models)
        if out.is_file():
            raise InputError(f"{out} is a file: choose a folder for the merged model.")
        roots = [folder_of(model) for model in models]
        ancestor = None if base is None else folder_of(base)
        check_target(out, [*roots, *([ancestor] if ancestor else [])], overwrite=overwrite)
        folders = [ModelFolder.open(root) for root in roots]
        origin = None if ancestor is None else ModelFolder.open(ancestor)
        if compare:
            check_folders(folders, origin)
        return cls(tuple(roots), tuple(folders), origin, out)

    def choose(self, places: Sequence[int]) -> OpenedModels:
        """Return some of the models, in the order given."""
        return replace(
            self,
            roots=tuple(self.roots[place] for place in places),
            folders=tuple(self.folders[place] for place in places),
        )

    def plans(self, call_of: Callable[[str], MergeCall]) -> dict[str, Plan]:
        """Return a plan for each set of weights, by the stem of its file.

        Args:
            call_of: What merges the weights with that stem.
        """
        first, origin = self.folders[0], self.origin
        plans = {
            stem: make_plan(
                [folder.weights[stem] for folder in self.folders],
                None if origin is None else origin.weights[stem],
                call_of(stem),
            )
            for stem in first.weights
        }
        names = [group[0] for plan in plans.values() for group in plan.groups]
        for plan in plans.values():
            plan.call.check_names(names)
        return plans

    def write(
        self,
        call_of: Callable[[str], MergeCall],
        *,
        workers: int | None = None,
        show_progress: bool | None = None,
        told: Mapping[str, Any] | None = None,
        lines: Sequence[str] = (),
        files: Mapping[str, str] | None = None,
    ) -> MergeReport:
        """Merge every set of weights and write the whole model, with card and golden vectors.

        Args:
            call_of: What merges the weights with that stem.
            workers: Threads.
            show_progress: Whether there is a bar.
            told: Fields of the report that say more than the calls do.
            lines: Markdown for the card, after what is said of the merge.
            files: Further files of the folder, name -> text.
        """
        everything = (*self.roots, *([self.origin.root] if self.origin else []))
        return write_merged(
            self.plans(call_of), self.folders[0], everything, self.out,
            workers=workers, show_progress=show_progress, told=told, licensed=self.folders,
            lines=lines, files=files,
        )  # fmt: skip


def write_merged(
    plans: Mapping[str, Plan],
    first: ModelFolder,
    everything: Sequence[Path],
    out: Path,
    *,
    workers: int | None,
    show_progress: bool | None,
    licensed: Sequence[ModelFolder | None],
    told: Mapping[str, Any] | None = None,
    lines: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
) -> MergeReport:
    """Carry out plans into a new model folder, which appears in one step.

    Args:
        plans: By the stem of the weights.
        first: The model that everything but the weights is taken from.
        everything: Where the plans' sources are, the base last where there is one.
        out: Folder for the result.
        workers: Threads.
        show_progress: Whether there is a bar.
        licensed: For each source, the folder whose card tells its licence, or None.
        told: Fields of the report that say more than the plans do.
        lines: Markdown for the card, after what is said of the merge.
        files: Further files of the folder, name -> text.
    """
    with atomic_directory(out) as target:
        written = fill(target, plans, first, workers=workers, show_progress=show_progress)
        written = [replace(done, roots=tuple(everything)) for done in written]
        report = make_report(written, out=out, seconds=0.0, left_out=first.left_out)
        report = replace(report, **(told or {}))
        for name, text in (files or {}).items():
            write_text(target / name, text)
        _write_card(target, report, first, licensed, lines)
        _write_golden(target)
    return report


def fill(
    target: Path,
    plans: Mapping[str, Plan],
    first: ModelFolder,
    *,
    workers: int | None = None,
    show_progress: bool | None = None,
    checksums: bool = True,
) -> list[Written]:
    """Write the merged weights, and what is taken over from the first model, into a folder."""
    for name, path in first.taken_over().items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)
    written = []
    for stem, plan in plans.items():
        place = Path(stem).parent
        (target / place).mkdir(parents=True, exist_ok=True)
        done = run_plan(plan, target / place, workers, show_progress, checksums=checksums)
        prefix = "" if place == Path() else place.as_posix() + "/"
        written.append(replace(done, prefix=prefix))
    return written


def model_count(models: Sequence[str | Path]) -> int:
    """Return how many models are given; one path in place of a list is an `InputError`."""
    if isinstance(models, (str, Path)):
        raise InputError(f"models must be a list of folders, got one: {str(models)!r:.80}.")
    return len(models)


def folder_of(model: str | Path) -> Path:
    if not isinstance(model, (str, Path)):
        raise InputError(
            f"Models to merge are given by their folders, got a {type(model).__name__}: save it "
            "with embedworks.models.save first."
        )
    folder = Path(model).expanduser()
    holds_model = (folder / "modules.json").is_file() or (folder / "model.safetensors").is_file()
    if holds_model or isinstance(model, Path) or model not in MODELS:
        return folder
    _, found = MODELS[model](None, True)
    if found is None:
        raise InputError(f"{model!r} has no folder here: save it with embedworks.models.save.")
    return found


def _write_golden(target: Path) -> None:
    try:
        model = load(target, device="cpu", check_golden=False)
    except MissingExtraError as error:
        warnings.warn(
            f"The result could not be tried and has no golden vectors: {error}",
            DataWarning,
            stacklevel=3,
        )
        return
    write_golden(target, model)


def _write_card(
    target: Path,
    report: MergeReport,
    first: ModelFolder,
    licensed: Sequence[ModelFolder | None],
    more: Sequence[str],
) -> None:
    """Write README.md, merge.json and a static model's own note of how it was made."""
    name = report.out.resolve().name
    story = {key: value for key, value in report.to_dict().items() if key != "seconds"}
    _write_json(target / "merge.json", {"embedworks": __version__, **story})
    settings = first.json("config.json")
    if "embedworks_format" in settings:
        made = {key: story[key] for key in ("method", "options", "inputs", "base")}
        _write_json(target / "config.json", {**settings, "name": name, "metadata": {"merge": made}})
    licences = [None if folder is None else _licence(folder) for folder in licensed]
    front: dict[str, Any] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "merge", "embedworks"],
    }
    if licences[0] is not None and licences.count(licences[0]) == len(licences):
        front["license"] = licences[0]
    count = len(report.inputs)
    weights = sum(len(item.files) for item in report.inputs) > count
    lines = [
        "---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(), "---", "",
        f"# {name}", "",
        f"A merge of {count} model{'s'[: count > 1]} by the method `{report.method}`"
        + (f" with {_options(report.options)}." if report.options else "."),
        "", "## Merge", "", "| model | weight | licence | SHA-256 |", "|---|---|---|---|",
    ]  # fmt: skip
    for item, found, licence in zip(story["inputs"], report.inputs, licences):
        weight = "by part" if report.parts else "by the method"
        if found.weight is not None:
            weight = f"{found.weight:g}"
        lines.append(_row(item, weight, licence))
    if story["base"] is not None:
        lines.append(_row(story["base"], "base", None))
    lines += [
        "",
        f"{report.parameters:,} numbers were merged. Tokenizer and configuration are those of "
        f"`{first.root.name}`"
        + (", with the tokens of all models. " if "tokenizer" in report.data else ". ")
        + ("Checksums of all files are" if weights else "The same is")
        + " in `merge.json`.",
        *more,
        "", "```python", "import embedworks as ew", "",
        'model = ew.load("path/to/this/folder")',
        'vectors = model.encode(["a text", "another text"])', "```", "",
    ]  # fmt: skip
    (target / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _row(item: Mapping[str, Any], weight: str, licence: str | None) -> str:
    name = str(item["name"]).replace("|", "\\|")
    sums = ", ".join(f"`{value[:16]}`" for value in list(item["files"].values())[:3])
    more = len(item["files"]) - 3
    return f"| {name} | {weight} | {licence or ''} | {sums}{f' and {more} more' * (more > 0)} |"


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in options.items())


def _licence(folder: ModelFolder) -> str | None:
    """Return the licence that a model's card tells, or None."""
    path = folder.others.get("README.md")
    text = "" if path is None else path.read_text(encoding="utf-8", errors="replace")
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        front = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None
    licence = front.get("license") if isinstance(front, dict) else None
    return licence if isinstance(licence, str) else None


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
