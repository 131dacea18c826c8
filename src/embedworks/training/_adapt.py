"""Adapt a model to a folder of documents without labels: the main job, end to end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from embedworks._core.files import read_json
from embedworks._core.validation import check_choice
from embedworks.errors import EmbedworksError
from embedworks.training.budget import Plan, PlanStep
from embedworks.training.recipes import load_recipe
from embedworks.training.run_folder import RunFolder
from embedworks.training.settings import AdaptSettings

__all__ = ["AdaptResult", "adapt", "index_documents"]


@dataclass(frozen=True)
class AdaptResult:
    """What an adaptation produced.

    Attributes:
        path: The run folder.
        documents: Documents read.
        chunks: Chunks indexed.
        pairs: Training pairs used.
        reading: Counts of what was left out: ``skipped`` and ``duplicates``.
        weight: Share of the adapted model in the final one; 0 means the base was kept.
        merge: Why that share, in words.
        verdict: What was gained on held-out questions, in words.
        table: The comparison as aligned text.
        results: The figures of ``results.json``.
        seconds: Wall clock of all stages.
    """

    path: Path
    documents: int
    chunks: int
    pairs: int
    reading: dict[str, int]
    weight: float
    merge: str
    verdict: str
    table: str
    results: dict[str, Any]
    seconds: float

    @property
    def report(self) -> Path:
        """The report page."""
        return self.path / "report.html"

    @property
    def model(self) -> Path:
        """The model folder, for `embedworks.load` or sentence-transformers."""
        return self.path / "model"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = {**asdict(self), "path": str(self.path), "report": str(self.report)}
        del values["table"]
        return values

    @classmethod
    def from_run(cls, run: RunFolder) -> AdaptResult:
        """Read the result of a finished run."""
        from embedworks.evaluation import Comparison, format_table
        from embedworks.training._search import SYSTEM_LABELS

        results = read_json(run.part("results.json"))
        read, merge = run.info("read"), run.info("merge")
        table = "Nothing was measured: no test questions could be made."
        if "comparison" in results:
            table = format_table(Comparison.from_dict(results["comparison"]), labels=SYSTEM_LABELS)
        return cls(
            path=run.path,
            documents=read["documents"],
            chunks=read["chunks"],
            pairs=run.info("prepare")["pairs_kept"],
            reading={
                "skipped": len(read["reading"]["skipped"]),
                "duplicates": len(read["reading"]["duplicates"]),
            },
            weight=merge["weight"],
            merge=merge["verdict"],
            verdict=run.info("report")["verdict"],
            table=table,
            results=results,
            seconds=run.stage_seconds,
        )


def adapt(
    documents: str | Path,
    *,
    out: str | Path,
    base: str | None = None,
    budget: str | None = None,
    seed: int | None = None,
    recipe: str | Path | AdaptSettings | None = None,
    exclude: Sequence[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_plan: Callable[[Plan], None] | None = None,
    show_progress: bool | None = None,
) -> AdaptResult:
    """Adapt a model to documents without labels, measure it, and index the documents with it.

    Reads and chunks the documents; makes training pairs from their structure; mines hard
    negatives with the base model; trains within the budget; keeps the share of the trained model
    that helps on validation questions, 0 included; measures BM25, base, adapted and hybrid
    search on test questions from documents that were never trained on; writes the run folder.

    Args:
        documents: A folder, a file, or a JSONL, Parquet, CSV or TSV table with a text column.
        out: Folder for the run; see `RunFolder` for what is in it.
        base: Model to start from: ``"static"``, ``"minilm"``, a folder, or a hub name.
        budget: Wall clock for the whole job, such as ``"90s"`` or ``"10m"``.
        seed: Seed of every random choice.
        recipe: Settings to start from: an `AdaptSettings`, a YAML file, or a recipe's name.
            The arguments above override it.
        exclude: Glob patterns of relative paths to leave out.
        resume: Go on with an interrupted run; it ends as it would have without the interruption.
            Documents that changed after they were read are not read again. Without a run in
            ``out``, a new one starts.
        overwrite: Replace a run that is there. It stays readable until the new one is complete.
        on_plan: Called with the plan before training starts.
        show_progress: True or False to force progress bars; None shows them on a terminal.

    Raises:
        EmptyInputError: When there is nothing to read, or no pair can be made.
        InputError: When ``out`` holds something else.
        BudgetError: When the budget is too small to train at all.
        SettingsError: When a setting is invalid, or a resumed run was started with others.
        StorageError: When writing fails, for example because the disk is full.

    Example:
        >>> import embedworks as ew
        >>> run = ew.adapt("docs/", out="runs/docs", budget="5m")  # doctest: +SKIP
        >>> ew.search(run.path, "how do I configure logging?")[0].path  # doctest: +SKIP
        'docs/logging.md'
    """
    settings = _resolve(recipe, base=base, budget=budget, seed=seed, exclude=exclude)
    run = _open_run(documents, out, settings, resume=resume, overwrite=overwrite)
    if not run.complete:
        from embedworks.training import (
            _adapt_finish,
            _adapt_merge,
            _adapt_prepare,
            _adapt_read,
            _adapt_train,
        )
        from embedworks.training._adapt_job import Job

        stages = {
            "read": _adapt_read.read_stage,
            "plan": _adapt_prepare.plan_stage,
            "prepare": _adapt_prepare.prepare_stage,
            "train": _adapt_train.train_stage,
            "merge": _adapt_merge.merge_stage,
            "evaluate": _adapt_finish.evaluate_stage,
            "index": _adapt_finish.index_stage,
            "report": _adapt_finish.report_stage,
        }
        job = Job(run, settings, str(documents), show_progress)
        _run_stages(job, stages, on_plan)
        run.finish()
    return AdaptResult.from_run(run)


def index_documents(
    documents: str | Path,
    *,
    out: str | Path,
    model: str = "static",
    index: str = "auto",
    exclude: Sequence[str] | None = None,
    overwrite: bool = False,
    show_progress: bool | None = None,
) -> dict[str, Any]:
    """Index documents with a model as it is; the folder can be searched like a run's.

    Args:
        documents: As for `adapt`.
        out: Folder to write.
        model: Model to encode with.
        index: How dense search works: ``"auto"``, ``"exact"`` or ``"planned"``; see
            `Collection.create`.
        exclude: Glob patterns of relative paths to leave out.
        overwrite: Replace a run that is there.
        show_progress: None shows progress bars on a terminal.

    Returns:
        Counts and seconds.

    Raises:
        EmptyInputError: When there is nothing to read.
        InputError: When ``out`` holds something else.
        UnknownNameError: When ``index`` is none of the three.
    """
    from embedworks.index._planned import INDEXES

    check_choice(index, INDEXES, name="index")
    settings = _resolve(None, base=model, budget=None, seed=None, exclude=exclude)
    run = _open_run(documents, out, settings, resume=False, overwrite=overwrite)
    from embedworks.training import _adapt_finish, _adapt_read
    from embedworks.training._adapt_job import Job

    stages: dict[str, Callable[[Any], dict[str, Any]]] = {
        "read": _adapt_read.read_only_stage,
        "index": partial(_adapt_finish.index_only_stage, index=index),
    }
    job = Job(run, settings, str(documents), show_progress)
    _run_stages(job, stages, None)
    run.finish()
    read = run.info("read")
    return {
        "path": str(run.path),
        "documents": read["documents"],
        "chunks": read["chunks"],
        "skipped": len(read["reading"]["skipped"]),
        "duplicates": len(read["reading"]["duplicates"]),
        "seconds": round(run.stage_seconds, 3),
    }


def _resolve(
    recipe: str | Path | AdaptSettings | None,
    *,
    base: str | None,
    budget: str | None,
    seed: int | None,
    exclude: Sequence[str] | None,
) -> AdaptSettings:
    """Apply explicit arguments over the recipe, the recipe over the defaults."""
    if isinstance(recipe, AdaptSettings):
        settings = recipe
    elif recipe is None:
        settings = AdaptSettings()
    else:
        settings = load_recipe(recipe, AdaptSettings)
    given = {"base": base, "budget": budget, "seed": seed}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if exclude is not None:
        changes["reading"] = {**settings.reading.to_dict(), "exclude": list(exclude)}
    return settings.replace(**changes)


def _open_run(
    documents: str | Path,
    out: str | Path,
    settings: AdaptSettings,
    *,
    resume: bool,
    overwrite: bool,
) -> RunFolder:
    source = str(Path(documents).resolve())
    if resume and RunFolder.exists(out):
        return RunFolder.resume(out, settings=settings.to_dict(), source=source)
    return RunFolder.create(out, settings=settings.to_dict(), source=source, overwrite=overwrite)


def _run_stages(
    job: Any,
    stages: Mapping[str, Callable[[Any], dict[str, Any]]],
    on_plan: Callable[[Plan], None] | None,
) -> None:
    """Run the stages that are not done; each is recorded once its files are written."""
    for name, stage in stages.items():
        if not job.run.is_done(name):
            start = time.perf_counter()
            try:
                info = stage(job)
            except EmbedworksError:
                # A mistake found before anything was done leaves nothing behind to resume.
                if not job.run.state["stages"]:
                    job.run.discard()
                raise
            job.run.finish_stage(name, time.perf_counter() - start, info)
        if name == "plan" and on_plan is not None:
            plan = job.run.info("plan")["plan"]
            on_plan(
                Plan(
                    plan["budget_seconds"],
                    plan["spent_seconds"],
                    [PlanStep(**step) for step in plan["steps"]],
                )
            )
