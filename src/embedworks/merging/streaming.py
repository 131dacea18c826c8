"""Merging files tensor by tensor: models larger than memory, and no half-written result.

Knows nothing about model folders beyond their weights; `embedworks.merging.merge_models` does.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.files import atomic_directory, atomic_path, sha256_of_file
from embedworks._core.progress import Progress, progress
from embedworks.errors import DataWarning, InputError, NonFiniteError
from embedworks.merging._planning import MergeCall, Plan, Weights, make_plan
from embedworks.merging._tensor_files import (
    INTEGERS,
    Entry,
    TensorSource,
    encode,
    merged_dtype,
)

__all__ = ["MergeInput", "MergeReport", "merge_files"]

_MOST_WORKERS = 4
_PIECE = 1 << 20  # numbers merged at a time where a method allows it: they stay in the cache


@dataclass(frozen=True)
class MergeInput:
    """One model that went into a merge: where it is, and the SHA-256 of its weights by file."""

    path: Path
    weight: float | None
    files: dict[str, str]


@dataclass(frozen=True)
class MergeReport:
    """What a merge did.

    Attributes:
        out: The file or folder written.
        method: Name of the merge method.
        options: The method's options that were given.
        inputs: The models, with weights as given and checksums.
        base: The common ancestor, where the method takes one.
        parts: Part of the model -> one weight per input, where they were given by part.
        files: SHA-256 of every weight file written, by name; empty without checksums.
        tensors: How many tensors the result has.
        parameters: How many numbers were merged.
        copied: Names of integer tensors, which were equal everywhere and copied.
        tied: Groups of names that share one tensor in every model, merged once.
        left_out: Files of the first model that were not taken over, such as stale exports.
        data: What was measured on data and what came of it, for methods that look at data.
        size: Bytes of weights written.
        seconds: How long it took.
    """

    out: Path
    method: str
    options: dict[str, Any]
    inputs: tuple[MergeInput, ...]
    base: MergeInput | None
    files: dict[str, str]
    tensors: int
    parameters: int
    copied: tuple[str, ...] = ()
    tied: tuple[tuple[str, ...], ...] = ()
    left_out: tuple[str, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)
    size: int = 0
    seconds: float = 0.0
    parts: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; folders are told by their name only."""
        return {
            "method": self.method,
            "options": self.options,
            "inputs": [self._input_dict(item) for item in self.inputs],
            "base": None if self.base is None else self._input_dict(self.base),
            "parts": {part: list(own) for part, own in self.parts.items()},
            "files": self.files,
            "tensors": self.tensors,
            "parameters": self.parameters,
            "copied": list(self.copied),
            "tied": [list(group) for group in self.tied],
            "left_out": list(self.left_out),
            "data": self.data,
            "size": self.size,
            "seconds": round(self.seconds, 3),
        }

    def _input_dict(self, item: MergeInput) -> dict[str, Any]:
        names = [other.path.name for other in self.inputs]
        near = item.path.parts[-2:] if names.count(item.path.name) > 1 else (item.path.name,)
        return {"name": "/".join(near), "weight": item.weight, "files": item.files}


@dataclass(frozen=True)
class Written:
    """A plan that was carried out: checksums of what was written, and of each model's files."""

    plan: Plan
    files: dict[str, str]
    sources: tuple[dict[str, str], ...]
    prefix: str = ""
    roots: tuple[Path, ...] = ()


def merge_files(
    inputs: Sequence[str | Path],
    out: str | Path,
    method: str = "linear",
    *,
    weights: Weights | None = None,
    base: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    checksums: bool = True,
    overwrite: bool = False,
    workers: int | None = None,
    show_progress: bool | None = None,
) -> MergeReport:
    """Merge safetensors files or shards of one structure, tensor by tensor.

    Memory holds about one tensor of each input and the merged one. Types are kept; integer
    tensors must be equal and are copied; tensors that are tied in every input stay tied. The
    result appears in one step, when it is whole. For model folders with tokenizer and
    configuration use `merge_models`.

    Args:
        inputs: Safetensors files, indexes of shards, or folders that hold either.
        out: A ``.safetensors`` file, or a folder that gets the first input's layout.
        method: A name among `MERGE_METHODS`.
        weights: One number per input, or such numbers by part of the model (see `part_of`), such
            as ``{"layer 0": [1, 0], "*": [0.5, 0.5]}``; by default the method's own.
        base: What the models were trained from, for methods that look at the change.
        options: The method's options by name.
        checksums: Whether the report has the SHA-256 of every file read and written. Taking them
            costs more than the merge itself when the files are in memory already.
        overwrite: Whether an existing ``out`` is replaced; it stays whole until then.
        workers: Threads; by default up to 4. The result does not depend on it.
        show_progress: True or False to force a bar; by default on a terminal.

    Raises:
        InputError: When names, shapes or types differ (all are told at once), integer tensors
            differ, ``out`` exists or is an input, or the method cannot merge these.
        NonFiniteError: When a tensor has NaN or infinity; names tensor and model.
        FormatError: When a file is damaged, or changed meanwhile.
        NotFoundError: When an input does not exist.
        UnknownNameError: When no method has this name.
        StorageError: When ``out`` cannot be written.

    Example:
        >>> import tempfile
        >>> from safetensors.numpy import load_file, save_file
        >>> folder = Path(tempfile.mkdtemp())
        >>> for place, name in enumerate("ab"):
        ...     save_file({"w": np.full(2, place, np.float32)}, folder / f"{name}.safetensors")
        >>> report = merge_files(
        ...     [folder / "a.safetensors", folder / "b.safetensors"], folder / "c.safetensors"
        ... )
        >>> load_file(folder / "c.safetensors")["w"], report.parameters
        (array([0.5, 0.5], dtype=float32), 2)
    """
    started = time.perf_counter()
    out = Path(out)
    if isinstance(inputs, (str, Path)):
        raise InputError(f"inputs must be a list of paths, got one: {str(inputs)!r:.80}.")
    call = MergeCall.of(method, weights, options)
    paths = [Path(path) for path in inputs]
    ancestor = None if base is None else Path(base)
    call.check(len(paths), has_base=ancestor is not None)
    sources = [TensorSource.open(path) for path in paths]
    ancestors = None if ancestor is None else TensorSource.open(ancestor)
    every = sources if ancestors is None else [*sources, ancestors]
    read = [path for source in every for path in (source.path, *source.files)]
    check_target(out, read, overwrite=overwrite)
    if out.suffix == ".safetensors":
        with atomic_path(out) as target:
            plan = make_plan(sources, ancestors, call, single=target.name)
            call.check_names([group[0] for group in plan.groups])
            written = run_plan(plan, target.parent, workers, show_progress, checksums=checksums)
        if checksums:
            written = replace(written, files={out.name: written.files[target.name]})
    else:
        plan = make_plan(sources, ancestors, call)
        call.check_names([group[0] for group in plan.groups])
        with atomic_directory(out) as folder:
            written = run_plan(plan, folder, workers, show_progress, checksums=checksums)
    return make_report([written], out=out, seconds=time.perf_counter() - started)


def check_target(out: Path, inputs: Sequence[Path], *, overwrite: bool) -> None:
    """Raise `InputError` when writing ``out`` could destroy an input or something else."""
    target = out.resolve()
    for path in inputs:
        source = path.resolve()
        if target == source or target in source.parents or source in target.parents:
            raise InputError(
                f"The result {out} and the input {path} lie in one another: choose another folder "
                "for the result, so that no input is replaced."
            )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise InputError(f"{out} exists: choose another place, or say `overwrite` to replace it.")
    is_model = out.is_file() == (out.suffix == ".safetensors") and (
        out.is_file() or any(out.glob("*.safetensors")) or (out / "modules.json").is_file()
    )
    if not is_model:
        raise InputError(
            f"{out} holds no model: choose a new place, so that nothing of yours is replaced."
        )


def run_plan(
    plan: Plan,
    folder: Path,
    workers: int | None = None,
    show_progress: bool | None = None,
    *,
    checksums: bool = True,
) -> Written:
    """Write the merged tensors into ``folder`` and take checksums of all that was read."""
    if workers is not None and workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}.")
    count = workers or min(_MOST_WORKERS, _processors())
    plan.layout.create(folder)
    entries = plan.sources[0].entries
    costs = {group: _cost(entries[group[0]], len(plan.all)) for group in plan.groups}
    limit = max(costs.values()) * (count if plan.call.elementwise else 1)
    running: dict[Future[None], int] = {}
    with (
        _told_once(plan),
        progress("Merging", plan.parameters, enabled=show_progress) as bar,
        ThreadPoolExecutor(count) as pool,
        ThreadPoolExecutor(count) as hashing,
    ):
        hashed = plan.all if checksums else ()
        sums = [hashing.submit(source.checksums) for source in hashed]
        try:
            for group in plan.groups:
                # Several small tensors at once, but never more bytes than the largest alone.
                while running and (
                    len(running) >= count or sum(running.values()) + costs[group] > limit
                ):
                    _collect(running)
                running[pool.submit(_merge_one, plan, group, folder, bar)] = costs[group]
            while running:
                _collect(running)
        except BaseException:
            hashing.shutdown(wait=False, cancel_futures=True)
            raise
        names = list(plan.layout.headers) if checksums else []
        files = hashing.map(lambda name: sha256_of_file(folder / name), names)
        found = tuple(future.result() for future in sums)
        for source in plan.all:
            source.check_unchanged()
        return Written(plan, dict(zip(names, files)), found)


@contextmanager
def _told_once(plan: Plan) -> Iterator[None]:
    """Gather what tensors are warned of, and say it once with their number."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    about_data = [item for item in caught if issubclass(item.category, DataWarning)]
    for item in caught:
        if item not in about_data:
            warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)
    if len(about_data) > 1:
        count = len(plan.groups)
        text = f"{len(about_data)} of {count} tensors were warned of; the first: "
        warnings.warn(f"{text}{about_data[0].message}", DataWarning, stacklevel=4)
    elif about_data:
        warnings.warn(str(about_data[0].message), DataWarning, stacklevel=4)


def make_report(
    written: Sequence[Written], *, out: Path, seconds: float, left_out: Sequence[str] = ()
) -> MergeReport:
    """Say what one merge, of one set of weights or of several, did."""
    plans = [item.plan for item in written]
    call, models = plans[0].call, len(plans[0].sources)
    weights = call.weights or (None,) * models
    sums: list[dict[str, str]] = [{} for _ in plans[0].all]
    for item in written:
        for place, found in enumerate(item.sources):
            sums[place] |= {item.prefix + name: value for name, value in found.items()}
    roots = written[0].roots or tuple(source.path for source in plans[0].all)
    return MergeReport(
        out=out,
        method=call.method,
        options=dict(call.options),
        inputs=tuple(
            MergeInput(path, weight, found) for path, weight, found in zip(roots, weights, sums)
        ),
        base=None if plans[0].base is None else MergeInput(roots[-1], None, sums[-1]),
        files={item.prefix + name: value for item in written for name, value in item.files.items()},
        tensors=sum(len(plan.layout.places) for plan in plans),
        parameters=sum(plan.parameters for plan in plans),
        copied=tuple(item.prefix + name for item in written for name in item.plan.copied),
        tied=tuple(group for plan in plans for group in plan.groups if len(group) > 1),
        left_out=tuple(left_out),
        size=sum(size for plan in plans for size in plan.layout.sizes.values()),
        seconds=seconds,
        parts=dict(call.parts),
    )


def _processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _collect(running: dict[Future[None], int]) -> None:
    """Wait for one tensor at least; raise what went wrong with it."""
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        del running[future]
        future.result()


def _cost(entry: Entry, models: int) -> int:
    """Return the bytes that merging a tensor holds: each model's, and the merged one."""
    if entry.dtype in INTEGERS:
        return entry.size
    return (models + 1) * entry.values * merged_dtype(entry).itemsize


def _merge_one(plan: Plan, group: tuple[str, ...], folder: Path, bar: Progress) -> None:
    name = group[0]
    entry = plan.sources[0].entries[name]
    merges = entry.dtype not in INTEGERS and entry.values > 0
    for piece in _pieces(plan, entry):
        data = _merged(plan, name, piece) if merges else entry.bytes(*piece)
        for twin in group:
            plan.layout.write(folder, twin, data, start=piece[0])
    bar.advance(entry.values)


def _pieces(plan: Plan, entry: Entry) -> Iterator[tuple[int, int]]:
    """Yield (first byte, bytes) of what is merged at a time; the whole unless order is free."""
    step = _PIECE if plan.call.elementwise or entry.dtype in INTEGERS else entry.size
    for start in range(0, entry.size, step or 1):
        yield start, min(step, entry.size - start)


def _merged(plan: Plan, name: str, piece: tuple[int, int]) -> np.ndarray:
    """Return the bytes of a merged tensor; an error about NaN names the model and its tensor."""
    entry = plan.sources[0].entries[name]
    tensors = [source.entries[name].read(*piece) for source in plan.sources]
    base = None if plan.base is None else plan.base.entries[name].read(*piece)
    try:
        merged = encode(plan.call(tensors, base, name), entry.dtype)
    except NonFiniteError as error:
        for source in plan.all:
            if damage := source.entries[name].damage(source.path):
                raise NonFiniteError(damage) from error
        raise
    if merged.dtype != tensors[0].dtype and _overflowed(merged):
        raise NonFiniteError(
            f"{name}: the merged values are too large for {entry.dtype}. Lower the weights or the "
            "scale, or convert the models to float32."
        )
    return merged


def _overflowed(merged: np.ndarray) -> bool:
    """Say whether a tensor that was rounded to its file's type has infinity; BF16 is uint16."""
    if merged.dtype.kind == "u":
        return bool(((merged & 0x7F80) == 0x7F80).any())
    return not np.isfinite(merged).all()
