"""Merging whole model folders: every module's weights, one tokenizer, golden vectors, a card."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from embedworks import __version__
from embedworks._core.files import atomic_directory, write_text
from embedworks.errors import DataWarning, InputError, MissingExtraError
from embedworks.merging._model_folders import ModelFolder, check_folders
from embedworks.merging._planning import MergeCall, Plan, Weights, make_plan
from embedworks.merging.streaming import MergeReport, check_target, make_report, run_plan
from embedworks.models import MODELS, load, write_golden

__all__ = ["merge_models"]


def merge_models(
    models: Sequence[str | Path],
    out: str | Path,
    method: str = "linear",
    *,
    weights: Weights | None = None,
    base: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
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
    call = MergeCall.of(method, weights, options)
    folders, origin = open_folders(models, base, out, call, overwrite=overwrite)
    return write_merge(
        folders, origin, Path(out), call, workers=workers, show_progress=show_progress
    )


@dataclass(frozen=True)
class Story:
    """What a card and the folder of a merge say beside the merge itself.

    Attributes:
        lines: Markdown for the card, after the table of models.
        files: Further files of the folder: name -> text.
        method: The method as the user named it, where it is not the one that was carried out.
        options: Its options.
    """

    lines: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    method: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def open_folders(
    models: Sequence[str | Path],
    base: str | Path | None,
    out: str | Path,
    call: MergeCall,
    *,
    overwrite: bool,
) -> tuple[list[ModelFolder], ModelFolder | None]:
    """Open models that are to be merged into ``out``; raise what is against it."""
    out = Path(out)
    if isinstance(models, (str, Path)):
        raise InputError(f"models must be a list of folders, got one: {str(models)!r:.80}.")
    call.check(len(models), has_base=base is not None)
    if out.is_file():
        raise InputError(f"{out} is a file: choose a folder for the merged model.")
    roots = [_folder_of(model) for model in models]
    ancestor = None if base is None else _folder_of(base)
    check_target(out, [*roots, *([ancestor] if ancestor else [])], overwrite=overwrite)
    folders = [ModelFolder.open(root) for root in roots]
    origin = None if ancestor is None else ModelFolder.open(ancestor)
    check_folders(folders, origin)
    return folders, origin


def plan_folders(
    folders: Sequence[ModelFolder], origin: ModelFolder | None, call: MergeCall
) -> dict[str, Plan]:
    """Return how each set of weights is merged; raise where the models' tensors do not agree."""
    plans = {
        stem: make_plan(
            [folder.weights[stem] for folder in folders],
            None if origin is None else origin.weights[stem],
            call,
        )
        for stem in folders[0].weights
    }
    call.check_names([group[0] for plan in plans.values() for group in plan.groups])
    return plans


def write_merge(
    folders: Sequence[ModelFolder],
    origin: ModelFolder | None,
    out: Path,
    call: MergeCall,
    *,
    workers: int | None = None,
    show_progress: bool | None = None,
    story: Story | None = None,
) -> MergeReport:
    """Merge opened models into ``out``, which appears when it is whole."""
    started = time.perf_counter()
    plans = plan_folders(folders, origin, call)
    story = story or Story()
    everything = tuple(folder.root for folder in (*folders, *([origin] if origin else [])))
    with atomic_directory(out) as target:
        for name, path in folders[0].taken_over().items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
        written = []
        for stem, plan in plans.items():
            place = Path(stem).parent
            (target / place).mkdir(parents=True, exist_ok=True)
            done = run_plan(plan, target / place, workers, show_progress)
            prefix = "" if place == Path() else place.as_posix() + "/"
            written.append(replace(done, prefix=prefix, roots=everything))
        report = make_report(written, out=out, seconds=0.0, left_out=folders[0].left_out)
        if story.method:
            report = replace(report, method=story.method, options=dict(story.options))
        for name, text in story.files.items():
            write_text(target / name, text)
        _write_card(target, report, folders, story.lines)
        _write_golden(target)
    return replace(report, seconds=time.perf_counter() - started)


def _folder_of(model: str | Path) -> Path:
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
    target: Path, report: MergeReport, folders: Sequence[ModelFolder], more: Sequence[str]
) -> None:
    """Write README.md, merge.json and a static model's own note of how it was made."""
    name = report.out.resolve().name
    story = {key: value for key, value in report.to_dict().items() if key != "seconds"}
    _write_json(target / "merge.json", {"embedworks": __version__, **story})
    settings = folders[0].json("config.json")
    if "embedworks_format" in settings:
        made = {key: story[key] for key in ("method", "options", "inputs", "base")}
        _write_json(target / "config.json", {**settings, "name": name, "metadata": {"merge": made}})
    licences = [_licence(folder) for folder in folders]
    front: dict[str, Any] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "merge", "embedworks"],
    }
    if licences[0] is not None and licences.count(licences[0]) == len(licences):
        front["license"] = licences[0]
    weights = sum(len(item.files) for item in report.inputs) > len(report.inputs)
    lines = [
        "---", yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(), "---", "",
        f"# {name}", "",
        f"A merge of {len(report.inputs)} models by the method `{report.method}`"
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
        f"{report.parameters:,} numbers were merged. Tokenizer and configuration are those of the "
        "first model. "
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
