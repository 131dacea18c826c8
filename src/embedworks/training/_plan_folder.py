"""The folder of one staged training: what is finished, where the rest goes on.

Everything is made inside ``work/`` and moved into place at the end. A stage is done when it
stands in ``work/state.json``; its files are written before that.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedworks._core.files import read_json, storage_errors, write_json, write_text
from embedworks.errors import FormatError, InputError, SettingsError

if TYPE_CHECKING:
    from embedworks.training.plan import PlanSettings

__all__ = ["PlanFolder"]

_FORMAT = 1
_PARTS = ("plan.yaml", "model", "metrics.json")


class PlanFolder:
    """A staged training on disk.

    Layout::

        plan.yaml      the resolved recipe
        model/         the final model
        metrics.json   figures of the base and after every stage; its presence means finished
        run.jsonl      journal: events and training logs, append only
        work/          an unfinished training: state.json, and a folder for every stage
    """

    def __init__(self, path: Path, state: dict[str, Any], *, complete: bool) -> None:
        self.path, self.state, self.complete = path, state, complete

    @classmethod
    def open(
        cls, path: str | Path, plan: PlanSettings, *, resume: bool = False, overwrite: bool = False
    ) -> PlanFolder:
        """Begin a training, or go on with one.

        Raises:
            InputError: When the folder holds something else, or a training and neither
                ``resume`` nor ``overwrite`` was asked for.
            SettingsError: When it was started with another recipe; lists what differs.
            FormatError: When its state is of another version.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file: give a folder for the run.")
        finished = (path / "metrics.json").is_file() and (path / "plan.yaml").is_file()
        unfinished = (path / "work" / "state.json").is_file()
        if path.is_dir() and any(path.iterdir()) and not (finished or unfinished):
            raise InputError(f"{path} is not empty and is not a training run: give another folder.")
        if resume and (finished or unfinished):
            return cls._resume(path, plan, complete=not unfinished)
        if (finished or unfinished) and not overwrite:
            kind = "an unfinished run" if unfinished else "a finished run"
            raise InputError(
                f"{path} already holds {kind}: give another folder, pass resume=True (--resume) "
                "to go on with it, or overwrite=True (--overwrite) to replace it."
            )
        with storage_errors(path):
            shutil.rmtree(path / "work", ignore_errors=True)
            (path / "work" / "final").mkdir(parents=True)
        state = {"format": _FORMAT, "plan": plan.to_dict(), "done": {}}
        folder = cls(path, state, complete=False)
        folder.save()
        folder.log("created", recipe=plan.name)
        return folder

    @classmethod
    def _resume(cls, path: Path, plan: PlanSettings, *, complete: bool) -> PlanFolder:
        from embedworks.training.plan import PlanSettings
        from embedworks.training.plan_files import diff_plans

        state: Any
        if complete:
            state = {
                "format": _FORMAT,
                "plan": PlanSettings.from_yaml(path / "plan.yaml").to_dict(),
                "done": {},
            }
        else:
            state = read_json(path / "work" / "state.json")
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise FormatError(
                f"{path} is a run of another format: finish it with the version that began it, or "
                "start again with --overwrite."
            )
        changes = diff_plans(PlanSettings.from_dict(state["plan"]), plan)
        if changes:
            lines = [f"{path} was started with another recipe:", *map(str, changes)]
            raise SettingsError(
                "\n- ".join(lines)
                + "\nResume with the same recipe, scale and --set, or start again with --overwrite."
            )
        folder = cls(path, state, complete=complete)
        folder.log("resumed", done=list(state["done"]))
        return folder

    @classmethod
    def join(cls, path: str | Path) -> PlanFolder:
        """Open what another process of the same training has begun."""
        path = Path(path)
        state = path / "work" / "state.json"
        if not state.is_file():
            return cls(path, {"done": {}}, complete=True)
        return cls(path, read_json(state), complete=False)

    @property
    def work(self) -> Path:
        """Folder of what is not finished."""
        return self.path / "work"

    @property
    def final(self) -> Path:
        """Folder in which the parts of the finished run are made."""
        return self.work / "final"

    @property
    def journal(self) -> Path:
        """The journal."""
        return self.path / "run.jsonl"

    def is_done(self, step: str) -> bool:
        """Return whether a step has finished."""
        return step in self.state["done"]

    def info(self, step: str) -> dict[str, Any]:
        """Return the figures a finished step left."""
        return self.state["done"][step]

    def finish_step(self, step: str, info: dict[str, Any]) -> None:
        """Record that a step is done; call after its files are written."""
        self.state["done"][step] = info
        self.save()
        self.log("done", name=step)

    def reload(self) -> None:
        """Read the state that another process has written."""
        self.state = read_json(self.work / "state.json")

    def save(self) -> None:
        """Write the state, atomically."""
        write_json(self.work / "state.json", self.state)

    def discard(self) -> None:
        """Remove an unfinished run; a finished one in the same folder stays."""
        shutil.rmtree(self.work, ignore_errors=True)
        if not (self.path / "metrics.json").is_file():
            self.journal.unlink(missing_ok=True)
            if self.path.is_dir() and not any(self.path.iterdir()):
                self.path.rmdir()

    def finish(self, plan: PlanSettings, metrics: dict[str, Any]) -> None:
        """Move every part into place, then remove what only unfinished runs need."""
        write_text(self.final / "plan.yaml", plan.to_yaml_text())
        write_json(self.final / "metrics.json", metrics)
        with storage_errors(self.path):
            replaced = self.work / "replaced"
            replaced.mkdir(exist_ok=True)
            for name in _PARTS:
                # After a kill in the middle of this loop, parts already moved are not there.
                if (self.final / name).exists():
                    if (self.path / name).exists():
                        os.replace(self.path / name, replaced / f"{time.time_ns()}.{name}")
                    os.replace(self.final / name, self.path / name)
        self.complete = True
        self.log("complete")
        shutil.rmtree(self.work, ignore_errors=True)

    def log(self, event: str, **fields: Any) -> None:
        """Append one line to the journal."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **fields}
        with storage_errors(self.journal), open(self.journal, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line, ensure_ascii=False) + "\n")
