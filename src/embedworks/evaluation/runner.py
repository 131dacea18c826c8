"""Run tasks on systems and keep what came out: one JSON file per system, written as it grows."""

from __future__ import annotations

import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedworks._core.files import read_json, sha256_of_text, write_json
from embedworks._core.memory import PeakMemory
from embedworks._core.progress import progress
from embedworks._core.validation import check_unique
from embedworks.errors import DataWarning, EmbedworksError, EmptyInputError, FormatError
from embedworks.evaluation._records import check_keys
from embedworks.evaluation.outcomes import Resampling, TaskResult
from embedworks.evaluation.systems import Ranks, System
from embedworks.evaluation.tasks import Task, why_not

if TYPE_CHECKING:
    from embedworks.data import RowSet

__all__ = ["SystemResult", "evaluate_systems", "file_name", "load_results"]

_FORMAT = 1
#: Share of a task's texts met in training from which its figure counts as remembered.
_SHARED = 0.01
_LIBRARIES = ("embedworks", "numpy", "torch", "sentence-transformers", "transformers")


@dataclass(frozen=True)
class SystemResult:
    """Everything a system was evaluated on."""

    name: str
    """The system's name."""
    about: Mapping[str, Any]
    """What `describe` said: kind, fingerprint, dimension, prompts, ..."""
    tasks: Mapping[str, TaskResult]
    """Task name -> result."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Task name -> why it was not run."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """Task name -> why it failed."""
    resampling: Resampling = field(default_factory=Resampling)
    """How intervals were made."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Versions, machine, date."""

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold; `from_dict` restores it exactly."""
        return {
            "format": _FORMAT,
            "name": self.name,
            "about": dict(self.about),
            "tasks": {name: result.to_dict() for name, result in self.tasks.items()},
            "skipped": dict(self.skipped),
            "errors": dict(self.errors),
            "resampling": self.resampling.options(),
            "environment": dict(self.environment),
        }

    @classmethod
    def from_dict(cls, value: object) -> SystemResult:
        """Restore what `to_dict` returned.

        Raises:
            FormatError: When keys are unknown or missing, or the file is of another version.
        """
        names = ["format", *(f.name for f in fields(cls))]
        record = dict(check_keys(value, names, kind="SystemResult"))
        if record.pop("format") != _FORMAT:
            raise FormatError("These results were written by another version: evaluate again.")
        record["tasks"] = {n: TaskResult.from_dict(r) for n, r in record["tasks"].items()}
        record["resampling"] = Resampling(**record["resampling"])
        return cls(**record)


def evaluate_systems(
    systems: Sequence[Ranks],
    tasks: Iterable[Task],
    *,
    resampling: Resampling | None = None,
    out: str | Path | None = None,
    skipped: Mapping[str, str] | None = None,
    trained_on: RowSet | None = None,
    on_result: Callable[[str, TaskResult], None] | None = None,
    show_progress: bool | None = None,
) -> list[SystemResult]:
    """Evaluate systems on tasks.

    A task that a system cannot run is skipped with a reason; one on which it fails (NaN vectors,
    constant similarities) is recorded under `SystemResult.errors` and in a `DataWarning`, and
    the others go on. With ``out``, ``OUT/results/<system>.json`` is written after every task.

    Args:
        systems: What to evaluate; names must differ.
        tasks: The tasks; names must differ.
        resampling: How intervals are made.
        out: Folder for the results.
        skipped: Tasks that could not be made, with reasons, to be kept with the results.
        trained_on: Rows that the encoders were trained on. Tasks that share texts with them are
            marked by ``details["caveat"]``; from one text in a hundred on, they are left out of
            the means of a comparison.
        on_result: Called with system name and result after every task.
        show_progress: True or False to force a bar; by default there is one on a terminal.

    Raises:
        EmptyInputError: When there is no system or no task.
        DuplicateIdError: When two systems or two tasks have one name.

    Example:
        >>> from embedworks.evaluation import LexicalSystem, RetrievalTask
        >>> task = RetrievalTask("toy", {"q": "cats"}, {"d": "A cat."}, {"q": {"d": 1}})
        >>> evaluate_systems([LexicalSystem()], [task])[0].tasks["toy"].main.interval.mean
        1.0
    """
    todo = list(tasks)
    if not systems or not todo:
        raise EmptyInputError(f"{len(systems)} systems and {len(todo)} tasks: nothing to do.")
    check_unique([system.name for system in systems], name="system names")
    check_unique([task.name for task in todo], name="task names")
    how = resampling or Resampling()
    met = {} if trained_on is None else _met(trained_on, todo)
    found = []
    with progress("Evaluating", len(systems) * len(todo), enabled=show_progress) as bar:
        for system in systems:
            result = SystemResult(
                system.name, system.describe(), {}, dict(skipped or {}), {}, how, _environment()
            )
            system.usage.take()
            for task in todo:
                bar.update(description=f"{system.name}: {task.name}")
                result = _with_task(result, system, task, how, met)
                if out is not None:
                    save_result(result, out)
                if on_result is not None and task.name in result.tasks:
                    on_result(system.name, result.tasks[task.name])
                bar.advance()
            found.append(result)
    return found


def save_result(result: SystemResult, out: str | Path) -> Path:
    """Write ``OUT/results/<system>.json`` and return its path."""
    path = Path(out) / "results" / f"{file_name(result.name)}.json"
    write_json(path, result.to_dict())
    return path


def load_results(out: str | Path) -> list[SystemResult]:
    """Read the results of a folder that `evaluate_systems` wrote, sorted by system.

    Raises:
        EmptyInputError: When there are none.
        FormatError: When a file cannot be read.
    """
    paths = sorted((Path(out) / "results").glob("*.json"))
    if not paths:
        raise EmptyInputError(f"{Path(out) / 'results'} has no results: evaluate something first.")
    return [read_result(path) for path in paths]


def read_result(path: Path) -> SystemResult:
    """Read one file that `save_result` wrote.

    Raises:
        FormatError: When it is damaged or something else; names the file.
    """
    value = read_json(path)
    try:
        return SystemResult.from_dict(value)
    except FormatError as error:
        raise FormatError(f"{path} is no result of an evaluation: {error}") from error


def file_name(name: str) -> str:
    """Return a name as it can stand in a path; different names stay different.

    Example:
        >>> file_name("minilm"), file_name("org/model[:64]")
        ('minilm', 'org-model-64-...')
    """
    plain = re.sub(r"[^\w.]+", "-", name).strip("-.")
    return plain if plain == name else f"{plain}-{sha256_of_text(name)[:8]}".lstrip("-")


def _met(rows: RowSet, tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """Return what to add to the details of tasks that share texts with training rows."""
    from embedworks.evaluation.contamination import check_contamination

    return {
        report.task: {
            "caveat": f"{report.found:,} of its {report.texts:,} texts are in the training data.",
            "seen_in_training": report.share >= _SHARED,
            "contamination": report.to_dict(),
        }
        for report in check_contamination(rows, tasks)[0]
        if report.found
    }


def _with_task(
    result: SystemResult,
    system: Ranks,
    task: Task,
    resampling: Resampling,
    met: Mapping[str, Mapping[str, Any]],
) -> SystemResult:
    if reason := why_not(task, system):
        return replace(result, skipped={**result.skipped, task.name: reason})
    from embedworks.evaluation._suites.seen import seen_in_training

    peak, started = PeakMemory(), time.perf_counter()
    try:
        outcome = task.run(system, resampling)  # type: ignore[arg-type]
    except EmbedworksError as error:
        system.usage.take()
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(DataWarning(f"{system.name} failed on {task.name}. {reason}"), stacklevel=3)
        return replace(result, errors={**result.errors, task.name: reason})
    details = dict(outcome.details)
    if isinstance(system, System) and task.name in met:
        caveats = filter(None, [details.get("caveat"), met[task.name]["caveat"]])
        details |= {**met[task.name], "caveat": " ".join(caveats)}
    if seen := seen_in_training(system.fingerprint, task.name):
        details["seen_in_training"] = True
        details["caveat"] = " ".join(filter(None, [details.get("caveat"), seen]))
    cost = replace(
        system.usage.take(),
        seconds=time.perf_counter() - started,
        peak_memory_mb=round(peak.megabytes(), 1),
    )
    return replace(
        result, tasks={**result.tasks, task.name: replace(outcome, cost=cost, details=details)}
    )


def _environment() -> dict[str, Any]:
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
