"""The folder of one adaptation: its state, its journal, and what each finished stage left.

Knows nothing about models. Everything is made inside ``work/`` and moved into place at the end,
so a kill at any moment leaves the previous run, if there was one, whole and readable. A stage is
done when its entry stands in ``work/state.json``; its files are written before that, each
atomically, so an interrupted stage is simply done again.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

from embedworks._core.files import read_json, storage_errors, write_json
from embedworks.errors import FormatError, InputError, NotFoundError, SettingsError

__all__ = ["FORMAT_VERSION", "RunFolder"]

FORMAT_VERSION = 1

#: What a finished run consists of, in the order it is moved into place; run.json comes last.
_PARTS = ("recipe.yaml", "model", "collection", "results.json", "report.html", "run.json")


class RunFolder:
    """A run on disk. Use `create`, `resume` or `open`; never the constructor.

    Layout::

        run.json      state: format, settings, stages with their figures; only of finished runs
        run.jsonl     journal: one line per event, append only
        recipe.yaml   the resolved settings
        model/        the final model
        collection/   rows, vectors and indexes
        results.json  metrics
        report.html   the same for people
        work/         an unfinished run: state.json, what stages hand to each other, final/
    """

    def __init__(self, path: Path, state: dict[str, Any], *, complete: bool) -> None:
        self.path = path
        self.state = state
        self.complete = complete

    # -- making and opening -------------------------------------------------------------

    @classmethod
    def create(
        cls, path: str | Path, *, settings: dict[str, Any], source: str, overwrite: bool = False
    ) -> RunFolder:
        """Start a new run.

        Raises:
            InputError: When the folder already holds a run, or other files, and ``overwrite``
                is False.
            StorageError: When the folder cannot be written.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file: give a folder for the run.")
        if path.is_dir() and any(path.iterdir()):
            finished = (path / "run.json").is_file()
            unfinished = (path / "work" / "state.json").is_file()
            if not finished and not unfinished:
                raise InputError(f"{path} is not empty and is not a run: give another folder.")
            if not overwrite:
                hint = "pass overwrite=True (--overwrite) to replace it"
                if unfinished:
                    hint = f"pass resume=True (--resume) to finish it, or {hint}"
                kind = "an unfinished run" if unfinished else "a finished run"
                raise InputError(f"{path} already holds {kind}: give another folder, or {hint}.")
        with storage_errors(path):
            shutil.rmtree(path / "work", ignore_errors=True)
            (path / "work" / "final").mkdir(parents=True)
        state = {
            "format": FORMAT_VERSION,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "source": source,
            "settings": settings,
            "stages": {},
        }
        run = cls(path, state, complete=False)
        run.save()
        run.log("created", source=source)
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open a finished run.

        Raises:
            NotFoundError: When there is no run.
            FormatError: When it is unfinished, damaged, or of another format version.
        """
        path = Path(path)
        if (path / "run.json").is_file():
            return cls(path, _read_state(path / "run.json"), complete=True)
        if (path / "work" / "state.json").is_file():
            state = _read_state(path / "work" / "state.json")
            last = (list(state["stages"]) or ["none"])[-1]
            raise FormatError(
                f"{path} is unfinished (last finished stage: {last}). Finish it with: "
                f"embedworks adapt {state['source']} --out {path} --resume"
            )
        raise NotFoundError(
            f"{path} holds no run (no run.json). Make one with: embedworks adapt DOCS --out {path}"
        )

    @classmethod
    def resume(cls, path: str | Path, *, settings: dict[str, Any], source: str) -> RunFolder:
        """Open an unfinished run to go on with it, or a finished one, which needs nothing more.

        Raises:
            NotFoundError: When there is nothing to resume.
            SettingsError: When settings or source differ from those it was started with.
        """
        path = Path(path)
        if (path / "work" / "state.json").is_file():
            run = cls(path, _read_state(path / "work" / "state.json"), complete=False)
        else:
            run = cls.open(path)
        changed = sorted(
            key
            for key in settings.keys() | run.state["settings"].keys()
            if settings.get(key) != run.state["settings"].get(key)
        )
        if source != run.state["source"]:
            changed.append("source")
        if changed:
            raise SettingsError(
                f"{path} was started with other values of {', '.join(changed)}: resume with the "
                "same command, or start again with --overwrite."
            )
        run.log("resumed", finished=list(run.state["stages"]))
        return run

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether a folder holds a run, finished or not."""
        path = Path(path)
        return (path / "run.json").is_file() or (path / "work" / "state.json").is_file()

    # -- state ----------------------------------------------------------------------------

    @property
    def work(self) -> Path:
        """Folder for what stages hand to each other."""
        return self.path / "work"

    def part(self, name: str) -> Path:
        """Return where a part such as ``"model"`` is, or is being made."""
        return self.path / name if self.complete else self.work / "final" / name

    def is_done(self, stage: str) -> bool:
        """Whether ``stage`` has finished."""
        return stage in self.state["stages"]

    def info(self, stage: str) -> dict[str, Any]:
        """Return the figures a finished stage left."""
        return self.state["stages"][stage]["info"]

    def finish_stage(self, stage: str, seconds: float, info: dict[str, Any]) -> None:
        """Record that ``stage`` is done; call after its files are written."""
        self.state["stages"][stage] = {"seconds": round(seconds, 3), "info": info}
        self.save()
        self.log("stage", name=stage, seconds=round(seconds, 3))

    def set(self, **values: Any) -> None:
        """Record values in the state, such as the plan."""
        self.state.update(values)
        self.save()

    def finish(self) -> None:
        """Move every part into place, then remove what only unfinished runs need."""
        self.state["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        final = self.work / "final"
        write_json(final / "run.json", self.state)
        with storage_errors(self.path):
            replaced = self.work / "replaced"
            replaced.mkdir(exist_ok=True)
            for name in _PARTS:
                # After a kill in the middle of this loop, parts already moved are not there.
                if (final / name).exists():
                    if (self.path / name).exists():
                        os.replace(self.path / name, replaced / f"{uuid.uuid4().hex[:8]}.{name}")
                    os.replace(final / name, self.path / name)
        self.complete = True
        self.log("complete")
        shutil.rmtree(self.work, ignore_errors=True)

    def discard(self) -> None:
        """Remove an unfinished run; a finished one in the same folder stays."""
        shutil.rmtree(self.work, ignore_errors=True)
        if not (self.path / "run.json").is_file():
            (self.path / "run.jsonl").unlink(missing_ok=True)
            if not any(self.path.iterdir()):
                self.path.rmdir()

    @property
    def stage_seconds(self) -> float:
        """Wall clock spent in finished stages, over all sittings."""
        return float(sum(stage["seconds"] for stage in self.state["stages"].values()))

    def save(self) -> None:
        """Write the state of an unfinished run, atomically."""
        write_json(self.work / "state.json", self.state)

    def log(self, event: str, **fields: Any) -> None:
        """Append one line to the journal."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **fields}
        with (
            storage_errors(self.path / "run.jsonl"),
            open(self.path / "run.jsonl", "a", encoding="utf-8") as handle,
        ):
            handle.write(json.dumps(line, ensure_ascii=False) + "\n")


def _read_state(path: Path) -> dict[str, Any]:
    state = read_json(path)
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT_VERSION:
        raise FormatError(
            f"{path.parent} is a run of format {found!r}; this version reads format "
            f"{FORMAT_VERSION}. Make it again with `embedworks adapt`, or install the version "
            "that wrote it."
        )
    return state
