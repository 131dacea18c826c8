"""Suites: named lists of tasks that run without a hub.

A suite's tasks are made when they are run. Those that need public data are left out with a reason
where it is not on this machine; the rest is generated, so every suite has something to run
anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from embedworks._core.registry import Registry
from embedworks.evaluation.sets.public_data import DataFolder
from embedworks.evaluation.tasks import Task

__all__ = ["SUITES", "Suite", "TaskSource"]


@dataclass(frozen=True)
class TaskSource:
    """How a task is made.

    Args:
        name: Name of the task.
        build: Called with the data folder; returns the task.
        files: Files of the data folder it needs.
    """

    name: str
    build: Callable[[DataFolder], Task]
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """A named list of tasks."""

    name: str
    """Its name in `SUITES`."""
    sources: tuple[TaskSource, ...]
    """How its tasks are made."""

    def tasks(
        self, data: DataFolder | None = None, *, only: Sequence[str] = ()
    ) -> tuple[list[Task], dict[str, str]]:
        """Make the tasks.

        Args:
            data: Where the public data is; None looks in the usual place.
            only: Names of the tasks wanted; all by default.

        Returns:
            The tasks, and name -> reason for those that cannot be made.

        Raises:
            UnknownNameError: When a wanted task is not in the suite.
        """
        from embedworks._core.validation import check_choice

        folder = data or DataFolder()
        names = [source.name for source in self.sources]
        for name in only:
            check_choice(name, names, name=f"task of the suite {self.name!r}")
        made, skipped = [], {}
        for source in self.sources:
            if only and source.name not in only:
                continue
            missing = [name for name in source.files if not folder.has(name)]
            if missing:
                skipped[source.name] = f"{', '.join(missing)} not in {folder.root}"
            else:
                made.append(source.build(folder))
        return made, skipped


#: Suites by name.
SUITES: Registry[Suite] = Registry("suites")
