"""Run a staged plan: prepare rows, train, merge and measure stage by stage, and finish a model."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedworks._core.bars import no_bars
from embedworks._core.extras import require_extra
from embedworks._core.files import atomic_directory, read_json, write_json, write_text
from embedworks.data import RowSet
from embedworks.errors import EmbedworksError, InputError
from embedworks.training.plan import PlanSettings
from embedworks.training.plan_files import load_plan
from embedworks.training.plan_stage import StageSettings

if TYPE_CHECKING:
    from embedworks.training._plan_evaluation import HeldOut
    from embedworks.training._plan_folder import PlanFolder

__all__ = ["PlanResult", "train_plan"]


@dataclass(frozen=True)
class PlanResult:
    """What a staged training produced.

    Attributes:
        path: The run folder.
        metrics: Content of ``metrics.json``: figures of the base and after every stage.
        seconds: Wall clock of all sittings, without what was interrupted.
    """

    path: Path
    metrics: dict[str, Any]
    seconds: float

    @property
    def model(self) -> Path:
        """The model folder, for `embedworks.load` or sentence-transformers."""
        return self.path / "model"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without values per question."""
        return {
            "path": str(self.path),
            "model": str(self.model),
            "seconds": self.seconds,
            "table": self.table(),
        }

    def table(self) -> list[dict[str, Any]]:
        """Return one line per model: its name, its metrics, and the gain over the base."""
        return metric_table(self.metrics)


def metric_table(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one line per model of ``metrics.json``."""
    lines = []
    for name, found in metrics["models"].items():
        line: dict[str, Any] = {"model": name}
        for label, value in found.get("retrieval", {}).get("metrics", {}).items():
            line[label] = round(value["mean"], 4)
        for label, value in found.get("gain", {}).items():
            line[f"gain {label}"] = [round(value[k], 4) for k in ("mean", "low", "high")]
        if "sts" in found:
            line["sts spearman"] = round(found["sts"]["mean"], 4)
        lines.append(line)
    return lines


def train_plan(
    plan: PlanSettings | str | Path,
    out: str | Path,
    *,
    scale: str | None = None,
    changes: Sequence[str] = (),
    data_root: str | Path = ".",
    resume: bool = False,
    overwrite: bool = False,
    report_to: Sequence[str] = (),
    show_progress: bool | None = None,
    callbacks: Sequence[Any] = (),
) -> PlanResult:
    """Train a model stage by stage, as a recipe says.

    Every stage starts from the model that the one before left: its rows are read, cleaned and
    given negatives; it is trained in sentence-transformers' trainer; merged with its start where
    the recipe says so; measured on what was held out; saved. A run that was killed at any moment
    goes on with ``resume`` and ends with the weights it would have had.

    Run under ``accelerate launch`` or ``torchrun`` to train on several devices: batches are
    those of one process, cut into parts.

    Args:
        plan: Settings, a recipe's name, or its file.
        out: Folder for the run: ``model/``, ``plan.yaml``, ``metrics.json``, ``run.jsonl``.
        scale: Scale of a recipe given by name or file.
        changes: ``key=value`` changes to a recipe given by name or file; see `load_plan`.
        data_root: Folder that the recipe's paths are relative to.
        resume: Go on with an interrupted run; without one in ``out``, a new one starts.
        overwrite: Replace a run that is there; it stays readable until the new one is complete.
        report_to: Experiment trackers of Hugging Face, such as ``["wandb"]``; logs are always
            kept in ``run.jsonl`` too.
        show_progress: None shows bars on a terminal.
        callbacks: Further ``TrainerCallback`` objects.

    Raises:
        SettingsError: When the recipe is not valid, or a run is resumed with another one.
        InputError: When ``out`` holds something else, or rows, objective and batches do not fit.
        NotFoundError: When a file or model is not there.
        EmptyInputError: When nothing is left to train on.
        StorageError: When writing fails.
        MissingExtraError: When the ``train`` extra is not installed.

    Example:
        >>> result = train_plan("gistembed", "runs/gist", scale="mini")  # doctest: +SKIP
        >>> result.table()[-1]["model"]  # doctest: +SKIP
        'guided'
    """
    if not isinstance(plan, PlanSettings):
        plan = load_plan(plan, scale=scale, changes=changes)
    for module in ("torch", "sentence_transformers", "datasets"):
        require_extra(module, extra="train", purpose="train a staged plan")
    from embedworks.training._plan_folder import PlanFolder

    processes = _Processes()
    if processes.is_main:
        folder = PlanFolder.open(out, plan, resume=resume, overwrite=overwrite)
    processes.wait()
    if not processes.is_main:
        folder = PlanFolder.join(out)
    if not folder.complete:
        job = _Job(
            plan, folder, Path(data_root), processes, tuple(report_to), show_progress,
            tuple(callbacks),
        )  # fmt: skip
        try:
            with no_bars():
                job.run()
        except EmbedworksError:
            # A mistake found before anything was done leaves nothing behind to resume.
            if processes.is_main and not folder.state["done"]:
                folder.discard()
            raise
    metrics = read_json(folder.path / "metrics.json")
    return PlanResult(folder.path, metrics, metrics["seconds"])


class _Processes:
    """The processes that train together; one unless a launcher started more."""

    def __init__(self) -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self._state: Any = None
        if self.world > 1:
            import torch
            from accelerate import PartialState

            # Without this, processes on CPUs would not know of each other.
            self._state = PartialState(cpu=not torch.cuda.is_available())

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process is here."""
        if self._state is not None:
            self._state.wait_for_everyone()


@dataclass
class _Job:
    """One run of a plan."""

    plan: PlanSettings
    folder: PlanFolder
    data_root: Path
    processes: _Processes
    report_to: tuple[str, ...]
    show_progress: bool | None
    callbacks: tuple[Any, ...]
    _models: dict[str, Any] = field(default_factory=dict)
    _task: HeldOut | None = None

    def run(self) -> None:
        """Run every step that is not done."""
        self._step("base", self._measure_base)
        for place, stage in enumerate(self.plan.stages):
            if not self.folder.is_done(f"{stage.name}/model"):
                if stage.data:
                    self._step(f"{stage.name}/rows", lambda: self._prepare(place, stage))  # noqa: B023
                if stage.steps == 0:
                    self._step(f"{stage.name}/model", lambda: self._merge(place, stage))  # noqa: B023
                else:
                    self._train(place, stage)
            self._step(f"{stage.name}/metrics", lambda: self._measure(stage))  # noqa: B023
        self._step("model", self._finish_model)
        if self.processes.is_main:
            self.folder.finish(self.plan, self._metrics())
        self.processes.wait()

    def _step(self, name: str, work: Any) -> None:
        """Do a step on the main process; the others wait and learn what came out."""
        if self.folder.is_done(name):
            return
        if self.processes.is_main:
            begin = time.perf_counter()
            info = work()
            info["seconds"] = round(time.perf_counter() - begin, 3)
            self.folder.finish_step(name, info)
        self._share()

    def _share(self) -> None:
        self.processes.wait()
        if not self.processes.is_main:
            self.folder.reload()

    # -- models ---------------------------------------------------------------------------

    def _load(self, name: str) -> Any:
        """Return a model by name, loaded once; not for training."""
        from embedworks.models import load

        if name not in self._models:
            self._models[name] = load(name)
        return self._models[name]

    def _start_folder(self, place: int) -> str:
        """Return the name of the model that a stage starts from."""
        start = self.plan.stages[place].start
        if start == "base" or (place == 0 and start is None):
            return self.plan.model.base
        return str(self.folder.work / (start or self.plan.stages[place - 1].name) / "model")

    def _named(self, place: int, name: str) -> str:
        """Return the folder or name of a model that a stage's merge names."""
        if name == "base":
            return self.plan.model.base
        if name == "start":
            return self._start_folder(place)
        if name == "stage":
            return str(self.folder.work / self.plan.stages[place].name / "trained")
        return str(self.folder.work / name / "model")

    def _trainable(self, place: int) -> Any:
        """Load the model a stage starts from, fresh, as a sentence-transformers model."""
        from embedworks.models import load_trainable

        return load_trainable(self._start_folder(place))

    # -- steps ----------------------------------------------------------------------------

    @property
    def task(self) -> HeldOut:
        """What is measured."""
        if self._task is None:
            from embedworks.training._plan_evaluation import held_out

            self._task = held_out(self.plan, data_root=self.data_root)
        return self._task

    def _measure_base(self) -> dict[str, Any]:
        from embedworks.training._plan_evaluation import measure

        return {"found": measure(self._load(self.plan.model.base), self.task, self.plan)}

    def _prepare(self, place: int, stage: StageSettings) -> dict[str, Any]:
        from embedworks.training._plan_losses import check_rows
        from embedworks.training._plan_rows import prepare_rows

        folder = self.folder.work / stage.name
        rows, report = prepare_rows(
            self.plan,
            stage,
            model=lambda: self._load(self._start_folder(place)),
            load=self._load,
            data_root=self.data_root,
            held_out=self.task.texts,
            cache=folder / "mined",
        )
        if stage.steps != 0:
            check_rows(stage, rows)
        rows.save(folder / "rows.parquet")
        return {"sources": report, "fingerprint": rows.fingerprint()}

    def _train(self, place: int, stage: StageSettings) -> None:
        """Train a stage on all processes and save its model."""
        from embedworks.models import joint_model, save
        from embedworks.modules import RankingHead
        from embedworks.training._plan_merge import merge_adapters
        from embedworks.training._plan_trainer import make_parts, train_stage

        begin = time.perf_counter()
        folder = self.folder.work / stage.name
        rows = RowSet.load(folder / "rows.parquet")
        model = self._trainable(place)
        if stage.pretrain is not None:
            self._pretrain(place, stage, model, rows)
            return
        if stage.rank is not None and not any(isinstance(part, RankingHead) for part in model):
            model = joint_model(model, seed=self.plan.seed)
        parts = make_parts(
            model,
            rows,
            stage,
            settings=self.plan.model,
            seed=self.plan.seed,
            world_size=self.processes.world,
            guide=self._vectors(stage.guide, rows, model, folder / "guide"),
            teacher=self._vectors(self._batch_teacher(stage), rows, model, folder / "teacher"),
        )
        previous = None
        if not stage.reset_optimizer:
            before = self.plan.stages[place - 1].name
            previous = self.folder.work / before / "optimizer.pt"
        done = train_stage(
            parts,
            stage,
            folder=folder / "checkpoints",
            journal=self.folder.journal,
            seed=self.plan.seed,
            max_tokens=self.plan.model.max_tokens,
            previous_optimizer=previous,
            report_to=self.report_to,
            show_progress=self.show_progress,
            callbacks=self.callbacks,
        )
        if self.processes.is_main:
            merge_adapters(model)
            save(model, folder / ("model" if stage.merge is None else "trained"))
            if stage.merge is not None:
                done["merge"] = self._merge(place, stage)["merge"]
            self._keep_optimizer(place, folder)
            done["seconds"] = round(time.perf_counter() - begin, 3)
            self.folder.finish_step(f"{stage.name}/model", done)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        self._share()

    def _pretrain(self, place: int, stage: StageSettings, model: Any, rows: RowSet) -> None:
        """Train a stage's model as a language model and save it; a kill starts the stage anew."""
        from embedworks.models import save
        from embedworks.training.plan_tokens import pretrain_stage

        if self.processes.world > 1:
            raise InputError(f"stage {stage.name!r} pre-trains, which takes one process.")
        done = pretrain_stage(
            model, rows, stage, seed=self.plan.seed, show_progress=self.show_progress
        )
        save(model, self.folder.work / stage.name / ("model" if stage.merge is None else "trained"))
        if stage.merge is not None:
            done["merge"] = self._merge(place, stage)["merge"]
        self.folder.finish_step(f"{stage.name}/model", done)

    def _merge(self, place: int, stage: StageSettings) -> dict[str, Any]:
        """Merge what a stage trained with other models, into its model."""
        from embedworks.training._plan_merge import merge_stage_models

        assert stage.merge is not None
        folder = self.folder.work / stage.name
        folder.mkdir(parents=True, exist_ok=True)
        report = merge_stage_models(
            stage.merge,
            lambda name: self._named(place, name),
            RowSet.load(folder / "rows.parquet") if stage.data else RowSet([]),
            folder / "model",
            show_progress=self.show_progress,
        )
        shutil.rmtree(folder / "trained", ignore_errors=True)
        told = report.to_dict()
        return {"merge": {key: told[key] for key in ("method", "options", "parts", "data")}}

    def _keep_optimizer(self, place: int, folder: Path) -> None:
        """Keep the optimiser's state where the next stage goes on with it."""
        from embedworks.training._plan_trainer import OPTIMIZER_FILE, last_checkpoint

        if place + 1 < len(self.plan.stages) and not self.plan.stages[place + 1].reset_optimizer:
            last = last_checkpoint(folder / "checkpoints", clean=False)
            assert last is not None
            shutil.copyfile(last / OPTIMIZER_FILE, folder / OPTIMIZER_FILE)

    def _batch_teacher(self, stage: StageSettings) -> str | None:
        """Return the teacher whose vectors of whole batches are needed."""
        whole = any(
            o.teacher.weight > 0 and o.teacher.scope == "in_batch"
            for o in stage.objectives().values()
        )
        return stage.teacher if whole else None

    def _vectors(self, name: str | None, rows: RowSet, student: Any, cache: Path) -> Any:
        """Return the vectors of a guide or teacher; encoded once, by the main process."""
        if name is None:
            return None
        from embedworks.negatives import CachedGuide

        def build() -> CachedGuide:
            return CachedGuide.build(
                rows, self._load(name), cache, student=student, show_progress=False
            )

        if self.processes.is_main:
            build()
        self.processes.wait()
        return build()

    def _measure(self, stage: StageSettings) -> dict[str, Any]:
        from embedworks.models import load
        from embedworks.training._plan_evaluation import gains, measure

        model = load(str(self.folder.work / stage.name / "model"))
        found = measure(model, self.task, self.plan)
        found["gain"] = gains(self.folder.info("base")["found"], found, self.plan)
        write_json(self.folder.work / stage.name / "metrics.json", found)
        return {"found": found}

    def _finish_model(self) -> dict[str, Any]:
        """Put the last stage's model in place, with its prompts and its card."""
        from embedworks.training._plan_card import plan_card

        last = self.folder.work / self.plan.stages[-1].name / "model"
        prompts = self.plan.model.task_prompts()
        with atomic_directory(self.folder.final / "model") as target:
            shutil.copytree(last, target, dirs_exist_ok=True)
            if prompts is not None:
                write_json(target / "task_prompts.json", prompts.to_dict())
            write_text(target / "README.md", plan_card(self.plan, self._metrics()))
        return {}

    def _metrics(self) -> dict[str, Any]:
        done = self.folder.state["done"]
        models = {"base": done["base"]["found"]}
        stages = {}
        for stage in self.plan.stages:
            models[stage.name] = done[f"{stage.name}/metrics"]["found"]
            stages[stage.name] = {
                "sources": done[f"{stage.name}/rows"]["sources"],
                **done[f"{stage.name}/model"],
            }
        seconds = round(sum(info.get("seconds", 0.0) for info in done.values()), 3)
        return {"recipe": self.plan.name, "seconds": seconds, "models": models, "stages": stages}
