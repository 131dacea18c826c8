"""Run a reproduction: every arm under every seed, each cell kept, then the verdict."""

from __future__ import annotations

import logging
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from embedworks._core.devices import cpu_count, pick_device
from embedworks._core.files import read_json, sha256_of_text, write_json
from embedworks._core.progress import progress
from embedworks._core.registry import did_you_mean
from embedworks._core.validation import check_unique
from embedworks.errors import FormatError, InputError, NonFiniteError, UnknownNameError
from embedworks.reproductions.comparisons import (
    Comparison,
    SeedValues,
    estimate,
    judge,
    verdict_of,
)
from embedworks.reproductions.framework import Arm, Context, Outcome, Reproduction, Tuning
from embedworks.reproductions.results import (
    ArmSummary,
    ComparisonResult,
    MetricSummary,
    ReproductionResult,
    TunedArm,
)

__all__ = ["reproduce"]

_LOG = logging.getLogger(__name__)
_PACKAGES = ("embedworks", "numpy", "torch", "sentence-transformers", "scikit-learn")


def reproduce(
    slug: str | Reproduction,
    *,
    scale: str = "mini",
    seeds: int | Sequence[int] | None = None,
    out: str | Path = "runs/reproductions",
    resume: bool = True,
    device: str | None = None,
    show_progress: bool | None = None,
) -> ReproductionResult:
    """Run a reproduction, write its record and its page, and return the record.

    Arms take turns within a seed, so that whatever changes on the machine meanwhile meets all of
    them. Each finished cell is kept under ``out/cells``: after a kill, the same call goes on
    where it stopped, and asking for more seeds runs only these. Cells are reused as long as the
    settings and the code are the same.

    Args:
        slug: Name among ``REPRODUCTIONS``, or a `Reproduction` of your own.
        scale: ``"mini"`` runs in minutes on two cores; others where the entry has them.
        seeds: How many seeds, or which; None takes the entry's number. With one seed the
            verdict is always inconclusive.
        out: Folder for the record, the page with its plot, and the cells.
        resume: Whether to use finished cells; False runs everything again.
        device: Torch device; None takes the best there is.
        show_progress: True or False to force the bar; by default there is one on a terminal.

    Returns:
        The record, also written to ``out/<slug>-<scale>.json``.

    Raises:
        UnknownNameError: When slug, scale, an arm or a metric is not known.
        NotFoundError: When the entry needs data that is not there.
        NonFiniteError: When a cell gives NaN; names the arm and the seed.

    Example:
        >>> import tempfile
        >>> from embedworks.reproductions import Arm, Reproduction
        >>> toy = Reproduction(
        ...     slug="toy", paper="A toy", arxiv="", claim="Longer names score more.",
        ...     falsifier="They do not.", arms=(Arm("a"), Arm("bbb")),
        ...     decisive=("bbb", "a", "score"), scales={"mini": {}},
        ...     run=lambda arm, seed, settings, context: {"score": len(arm.name) + 0.01 * seed},
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = reproduce(toy, out=folder, device="cpu")
        >>> found.verdict, round(found.effect, 3)
        ('holds', 2.0)
    """
    from embedworks.reproductions.pages import write_pages

    entry = _entry(slug)
    chosen = _seeds(entry, seeds)
    run = _Run(entry, scale, Path(out), resume, device or pick_device(), show_progress)
    result = run.whole(chosen)
    result.save(Path(out) / f"{entry.slug}-{scale}.json")
    write_pages(Path(out))
    return result


def _entry(slug: str | Reproduction) -> Reproduction:
    if isinstance(slug, Reproduction):
        return slug
    from embedworks.reproductions.registry import REPRODUCTIONS

    return REPRODUCTIONS[slug]


def _seeds(entry: Reproduction, seeds: int | Sequence[int] | None) -> tuple[int, ...]:
    if seeds is None:
        seeds = entry.seeds
    chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not chosen or min(chosen) < 0:
        raise InputError(f"seeds must be a number above 0, or seeds of 0 or more, got {seeds!r}.")
    check_unique([str(seed) for seed in chosen], name="seeds")
    if entry.tuning and set(chosen) & set(entry.tuning.seeds):
        raise InputError(f"Seeds {entry.tuning.seeds} are kept for tuning: choose others.")
    return chosen


@dataclass(frozen=True)
class _Cell:
    """A finished cell."""

    outcome: Outcome
    seconds: float


class _Run:
    """One call of `reproduce`."""

    def __init__(
        self,
        entry: Reproduction,
        scale: str,
        out: Path,
        resume: bool,
        device: str,
        show_progress: bool | None,
    ) -> None:
        self.entry, self.scale, self.device = entry, scale, device
        self.out, self.resume, self.show_progress = out, resume, show_progress
        self.fingerprint = entry.fingerprint(scale)
        kind = sha256_of_text(self.fingerprint, entry.source_fingerprint(), device)
        self.folder = out / "cells" / f"{entry.slug}-{scale}" / kind[:16]
        self.memory: dict[tuple[Any, ...], Any] = {}
        self.remembered: int | None = None

    def whole(self, seeds: tuple[int, ...]) -> ReproductionResult:
        """Tune, run every cell, and sum up."""
        tuned_arms = [arm for arm in self.entry.arms if not arm.tune_as]
        tuning = self.entry.tuning
        trials = len(tuned_arms) * len(list(tuning.points())) * len(tuning.seeds) if tuning else 0
        total = trials + len(seeds) * len(self.entry.arms)
        self.spent = 0.0
        with progress(self.entry.slug, total, enabled=self.show_progress) as self.bar:
            tables = self._tune(tuning, tuned_arms) if tuning else []
            chosen = {table.arm: table.chosen for table in tables}
            points = {arm.name: chosen.get(arm.tune_as or arm.name, {}) for arm in self.entry.arms}
            cells: dict[str, list[_Cell]] = {arm.name: [] for arm in self.entry.arms}
            for seed in seeds:
                for arm in self.entry.arms:
                    cells[arm.name].append(self._cell(arm, seed, points[arm.name], "test"))
        return self._result(seeds, cells, points, tables)

    def _tune(self, tuning: Tuning, arms: Sequence[Arm]) -> list[TunedArm]:
        points = list(tuning.points())
        values: dict[str, list[list[float]]] = {arm.name: [[] for _ in points] for arm in arms}
        for seed in tuning.seeds:
            for place, point in enumerate(points):
                for arm in arms:
                    found = self._cell(arm, seed, point, "validation").outcome.metrics
                    value = found[_known(tuning.metric, found, f"arm {arm.name!r} (tuning)")]
                    values[arm.name][place].append(value)
        sign = 1 if tuning.larger_is_better else -1
        tables = []
        for arm in arms:
            means = [math.fsum(column) / len(column) for column in values[arm.name]]
            best = points[max(range(len(points)), key=lambda i: sign * means[i])]
            edge = any(
                len(grid) > 1 and best[name] in (min(grid), max(grid))
                for name, grid in tuning.grid.items()
            )
            tables.append(
                TunedArm(
                    arm=arm.name,
                    points=tuple(points),
                    values=tuple(means),
                    chosen=best,
                    at_edge=edge,
                )
            )
        return tables

    def _cell(self, arm: Arm, seed: int, point: Mapping[str, float], part: str) -> _Cell:
        """Return a cell: read it if it was finished, else run it and keep it."""
        key = sha256_of_text(arm.name, str(seed), part, repr(sorted(point.items())))[:20]
        path = self.folder / f"{key}.json"
        cell = _read_cell(path) if self.resume and path.is_file() else None
        if cell is None:
            cell = self._fresh(arm, seed, point, part)
            if part == "test":
                for one in self.entry.comparisons:
                    if arm.name in one.contrast:
                        _known(one.metric, cell.outcome.metrics, f"arm {arm.name!r}")
            write_json(
                path,
                {
                    "arm": arm.name,
                    "seed": seed,
                    "part": part,
                    "tuned": dict(point),
                    "metrics": dict(cell.outcome.metrics),
                    "items": {name: dict(v) for name, v in cell.outcome.items.items()},
                    "seconds": cell.seconds,
                },
            )
        self.spent += cell.seconds
        self.bar.advance()
        return cell

    def _fresh(self, arm: Arm, seed: int, point: Mapping[str, float], part: str) -> _Cell:
        if seed != self.remembered:
            self.memory.clear()
            self.remembered = seed
        context = Context(
            self.scale, part, dict(point), self.device, self.out / "cache", self.memory
        )
        started = time.perf_counter()
        where = f"{self.entry.slug}, arm {arm.name!r}, seed {seed}"
        try:
            outcome = self.entry.run(arm, seed, self.entry.scales[self.scale], context)
            if not isinstance(outcome, Outcome):
                outcome = Outcome(outcome)
        except NonFiniteError as error:
            raise NonFiniteError(f"{where}: {error}") from error
        seconds = time.perf_counter() - started
        _LOG.info("%s, %s: %.1f s, %s", where, part, seconds, dict(outcome.metrics))
        return _Cell(outcome, seconds)

    def _result(
        self,
        seeds: tuple[int, ...],
        cells: Mapping[str, Sequence[_Cell]],
        points: Mapping[str, Mapping[str, float]],
        tables: Sequence[TunedArm],
    ) -> ReproductionResult:
        entry = self.entry
        arms = tuple(_summary(arm, cells[arm.name], points[arm.name]) for arm in entry.arms)
        decisive = _compare(entry.comparisons[0], cells)
        conditions = tuple(_compare(one, cells) for one in entry.conditions)
        verdict, reason = verdict_of(
            decisive.finding, [(c.finding, c.falsifies) for c in conditions], len(seeds)
        )
        return ReproductionResult(
            slug=entry.slug,
            paper=entry.paper,
            arxiv=entry.arxiv,
            claim=entry.claim,
            falsifier=entry.falsifier,
            setup=entry.setup,
            limits=entry.limits,
            scale=self.scale,
            seeds=seeds,
            arms=arms,
            decisive=decisive,
            conditions=conditions,
            secondary=tuple(_compare(one, cells) for one in entry.secondary),
            effect=decisive.mean,
            interval=(decisive.low, decisive.high),
            verdict=verdict,
            reason=reason,
            tuning=tuple(tables),
            tuning_metric=entry.tuning.metric if entry.tuning else "",
            settings=dict(entry.scales[self.scale]),
            fingerprint=self.fingerprint,
            seconds=round(self.spent, 2),
            environment=_environment(self.device),
            date=time.strftime("%Y-%m-%d"),
        )


def _read_cell(path: Path) -> _Cell | None:
    """Read a finished cell; a damaged file counts as not there."""
    try:
        values = read_json(path)
        return _Cell(Outcome(values["metrics"], values["items"]), float(values["seconds"]))
    except (FormatError, KeyError, TypeError):
        _LOG.warning("%s is damaged: its cell runs again.", path)
        return None


def _known(metric: str, metrics: Mapping[str, Any], where: str) -> str:
    if metric not in metrics:
        hint = did_you_mean(metric, list(metrics))
        raise UnknownNameError(f"{where} reports no metric {metric!r}. {hint}")
    return metric


def _by_seed(cells: Sequence[_Cell], metric: str, where: str) -> list[SeedValues]:
    """Return a metric per seed, by item where all seeds have items."""
    for cell in cells:
        _known(metric, cell.outcome.metrics, where)
    if all(metric in cell.outcome.items for cell in cells):
        return [cell.outcome.items[metric] for cell in cells]
    return [cell.outcome.metrics[metric] for cell in cells]


def _means(values: Sequence[SeedValues]) -> tuple[float, ...]:
    return tuple(
        math.fsum(v.values()) / len(v) if isinstance(v, Mapping) else float(v) for v in values
    )


def _summary(arm: Arm, cells: Sequence[_Cell], tuned: Mapping[str, float]) -> ArmSummary:
    metrics = {}
    for metric in cells[0].outcome.metrics:
        values = _by_seed(cells, metric, f"arm {arm.name!r}")
        interval = estimate(values)
        with_items = isinstance(values[0], Mapping)
        metrics[metric] = MetricSummary(
            mean=interval.mean,
            low=interval.low,
            high=interval.high,
            by_seed=_means(values),
            items=interval.n if with_items else 0,
        )
    return ArmSummary(
        name=arm.name,
        summary=arm.summary,
        settings=dict(arm.settings),
        tuned=dict(tuned),
        metrics=metrics,
        seconds=round(math.fsum(cell.seconds for cell in cells) / len(cells), 3),
    )


def _compare(comparison: Comparison, cells: Mapping[str, Sequence[_Cell]]) -> ComparisonResult:
    by_arm = {
        arm: _by_seed(cells[arm], comparison.metric, f"arm {arm!r}") for arm in comparison.contrast
    }
    values = comparison.values(by_arm)
    interval = estimate(values)
    return ComparisonResult(
        name=comparison.name,
        metric=comparison.metric,
        contrast=dict(comparison.contrast),
        claim=comparison.claim,
        null=comparison.null,
        margin=comparison.margin,
        falsifies=comparison.falsifies,
        mean=interval.mean,
        low=interval.low,
        high=interval.high,
        by_seed=_means(values),
        items=interval.n if isinstance(values[0], Mapping) else 0,
        finding=judge(comparison.claim, interval, comparison.margin),
    )


def _environment(device: str) -> dict[str, Any]:
    """Describe the machine and the versions, without naming the machine."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    name = platform.machine()
    if device.startswith("cuda"):
        import torch

        name = torch.cuda.get_device_name(device)
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "versions": versions,
        "cores": cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "device": device,
        "device_name": name,
    }
