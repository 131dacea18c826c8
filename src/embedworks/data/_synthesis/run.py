"""Running a synthesis pipeline: from settings to a folder with rows, ledger and report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedworks._core.files import write_json, write_text
from embedworks._core.registry import did_you_mean
from embedworks.data._synthesis import settings as settings_module
from embedworks.data._synthesis.negatives import Decision, make_hard_negatives, relabel
from embedworks.data._synthesis.report import SynthesisReport
from embedworks.data._synthesis.rows import Passage
from embedworks.data._synthesis.settings import SynthesisSettings
from embedworks.data._synthesis.synthesizer import Synthesizer
from embedworks.data.chunking import Chunk, chunk_documents
from embedworks.data.documents import read_documents
from embedworks.data.generators import Generator
from embedworks.data.rows import RowSet
from embedworks.data.synthesis import (
    augment,
    brainstorm_tasks,
    paraphrase,
    query_passages,
    synthesize_rows,
)
from embedworks.data.synthesis_tasks import SynthesisTask
from embedworks.errors import EmptyInputError, EndpointError, InputError, UnknownNameError

__all__ = ["SynthesisResult", "run_synthesis"]

_LEDGER = "ledger.jsonl"


@dataclass(frozen=True, slots=True)
class SynthesisResult:
    """What a pipeline made.

    Attributes:
        path: The folder: ``rows.parquet``, ``ledger.jsonl``, ``report.json``, ``settings.yaml``,
            and ``decisions.jsonl`` after a relabelling.
        rows: The rows.
        report: Counts and cost.
        decisions: The judge's decisions on negatives; positions are those before the judgement.
        reading: What was read from the documents, or None.
        seconds: Wall clock, this time.
    """

    path: Path
    rows: RowSet
    report: SynthesisReport
    decisions: tuple[Decision, ...]
    reading: dict[str, Any] | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        negatives = [len(row.negatives) for row in self.rows]
        return {
            "path": str(self.path),
            "rows": len(self.rows),
            "rows_with_negatives": sum(n > 0 for n in negatives),
            "negatives": sum(negatives),
            "sources": self.rows.sources,
            "fingerprint": self.rows.fingerprint(),
            "reading": self.reading,
            "seconds": round(self.seconds, 3),
            **self.report.to_dict(),
        }


def run_synthesis(
    settings: SynthesisSettings,
    out: str | Path,
    *,
    resume: bool = False,
    generators: Mapping[str, Generator] | None = None,
    show_progress: bool | None = None,
) -> SynthesisResult:
    """Run a synthesis pipeline and write its rows, ledger and report to a folder.

    Answers are kept as they come. After a kill, or when an endpoint went away, the same call
    with ``resume=True`` asks only for what is missing and gives the rows an uninterrupted run
    would have given. Changed settings may be resumed too: every answer they still need is
    taken from the ledger.

    Args:
        settings: The pipeline.
        out: Folder to write to.
        resume: Go on with the ledger that is there.
        generators: Generators of your own, in place of those that have these names in the
            settings.
        show_progress: Force the progress bars on or off; None shows them on a terminal.

    Raises:
        InputError: When the folder holds answers and ``resume`` is False, or is in use.
        UnknownNameError: When a generator of your own has no place in the settings.
        EmptyInputError: When no row came out; says what was dropped and why.
        EndpointError: When an endpoint cannot be reached; tells how to go on.
        NotFoundError: When the documents or rows do not exist.

    Example:
        >>> import tempfile
        >>> settings = SynthesisSettings.from_dict(
        ...     {"steps": [{"step": "tasks", "task_types": ["sts"], "tasks_per_type": 5}]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = run_synthesis(settings, folder)
        >>> result.rows.sources
        {'synthetic-sts': 10}
    """
    started = time.perf_counter()
    out = Path(out)
    synthesizer = Synthesizer(
        _generators(settings, generators or {}),
        ledger=out / _LEDGER,
        seed=settings.seed,
        workers=settings.workers,
        max_attempts=settings.max_attempts,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        personas=settings.personas,
        prices={
            name: (spec.prompt_price, spec.completion_price)
            for name, spec in settings.generators.items()
        },
        show_progress=show_progress,
    )
    with synthesizer:
        if len(synthesizer.ledger) and not resume:
            raise InputError(
                f"{out} holds answers of an earlier run: go on with resume=True (--resume), or "
                "choose another folder."
            )
        passages, rows, reading = _source(settings, show_progress)
        settings.to_yaml(out / "settings.yaml")
        job = _Job(synthesizer, passages, rows)
        try:
            for step in settings.steps:
                job.run(step)
        except EndpointError as error:
            raise EndpointError(
                f"{error} Here: the same call with resume=True, or the same command with --resume."
            ) from error
    result = SynthesisResult(
        path=out,
        rows=job.rows,
        report=synthesizer.report,
        decisions=tuple(job.decisions),
        reading=reading,
        seconds=time.perf_counter() - started,
    )
    if not job.rows:
        raise EmptyInputError(
            f"synthesis gave no row. {synthesizer.report.summary()} The details of dropped items "
            f"are in {out / _LEDGER}."
        )
    job.rows.save(out / "rows.parquet")
    if job.judged:
        lines = [json.dumps(d.to_dict(), ensure_ascii=False) + "\n" for d in job.decisions]
        write_text(out / "decisions.jsonl", "".join(lines))
    write_json(out / "report.json", result.to_dict())
    return result


def _generators(settings: SynthesisSettings, own: Mapping[str, Generator]) -> dict[str, Generator]:
    for name in own:
        if name not in settings.generators:
            raise UnknownNameError(
                f"The settings have no generator {name!r}. "
                f"{did_you_mean(name, list(settings.generators))}"
            )
    return {n: own[n] if n in own else spec.build() for n, spec in settings.generators.items()}


def _source(
    settings: SynthesisSettings, show_progress: bool | None
) -> tuple[list[Chunk], RowSet, dict[str, Any] | None]:
    rows = RowSet([]) if settings.rows is None else RowSet.load(settings.rows)
    if settings.documents is None:
        return [], rows, None
    documents = read_documents(
        settings.documents, exclude=settings.exclude, show_progress=show_progress
    )
    chunks = chunk_documents(
        documents, max_tokens=settings.max_passage_tokens, show_progress=show_progress
    )
    reading = documents.report.to_dict()
    wanted = ("source", "documents", "files", "skipped_by_reason")
    about = {name: reading[name] for name in wanted}
    return list(chunks), rows, {**about, "passages": len(chunks)}


class _Job:
    """The rows of a pipeline on their way through its steps."""

    def __init__(self, synthesizer: Synthesizer, passages: list[Chunk], rows: RowSet) -> None:
        self.synthesizer = synthesizer
        self.passages = passages
        self.rows = rows
        self.decisions: list[Decision] = []
        self.judged = False

    def run(self, step: settings_module.StepSettings) -> None:
        """Run one step."""
        work = {
            settings_module.TasksStep: self._tasks,
            settings_module.QueriesStep: self._queries,
            settings_module.ParaphraseStep: self._paraphrase,
            settings_module.AugmentStep: self._augment,
            settings_module.HardNegativesStep: self._negatives,
            settings_module.RelabelStep: self._relabel,
        }
        work[type(step)](step)

    def _tasks(self, step: Any) -> None:
        tasks: list[SynthesisTask] = []
        for kind in step.task_types:
            tasks += brainstorm_tasks(
                kind,
                self.synthesizer,
                count=step.tasks_per_type,
                topics=step.topics,
                languages=step.languages if kind == "bitext" else None,
                generators=step.task_generators,
            )
        if tasks:
            self.rows += synthesize_rows(
                tasks,
                self.synthesizer,
                rows_per_task=step.rows_per_task,
                generators=step.generators,
            )

    def _queries(self, step: Any) -> None:
        self.rows += query_passages(
            self.passages or self._positives(),
            self.synthesizer,
            styles=step.styles,
            per_passage=step.per_passage,
            count=step.count,
            min_words=step.min_words,
            generators=step.generators,
        )

    def _positives(self) -> list[Passage]:
        """Return the rows' positives, each once, where there are no documents."""
        found = {r.positive: r.positive_id for r in self.rows if isinstance(r.positive, str)}
        return [Passage(text, passage_id=key) for text, key in found.items()]

    def _paraphrase(self, step: Any) -> None:
        self.rows += paraphrase(
            self.rows,
            self.synthesizer,
            per_row=step.per_row,
            max_overlap=step.max_overlap,
            generators=step.generators,
        )

    def _augment(self, step: Any) -> None:
        self.rows += augment(
            self.rows,
            self.synthesizer,
            passages=self.passages,
            per_row=step.per_row,
            generators=step.generators,
        )

    def _negatives(self, step: Any) -> None:
        self.rows = make_hard_negatives(
            self.rows,
            self.synthesizer,
            count=step.count,
            share=step.share,
            strategies=step.strategies,
            passages=self.passages,
            generators=step.generators,
        )

    def _relabel(self, step: Any) -> None:
        done = relabel(self.rows, self.synthesizer, action=step.action, generators=step.generators)
        self.rows, self.judged = done.rows, True
        self.decisions += done.decisions
