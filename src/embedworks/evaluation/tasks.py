"""What a task is: a name, a kind, a main metric, and `run`.

A task brings its own data and asks a system for vectors or rankings only; so the same task works
for any model and needs no network. Failing systems are told apart from failing data: what is
wrong with the data is found when a task is made, what is wrong with a system when it runs.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from embedworks.evaluation.outcomes import Resampling, TaskResult
from embedworks.evaluation.systems import Ranks, System

__all__ = ["RANKING_KINDS", "TASK_KINDS", "Task", "why_not"]

#: Kind -> what such a task asks.
TASK_KINDS = {
    "retrieval": "Which documents answer a query?",
    "reranking": "Which of a query's own candidates answer it?",
    "sts": "How similar are two texts, by people's judgement?",
    "pair-classification": "Do two texts belong together?",
    "classification": "Which label does a text have, learnt from its vector?",
    "clustering": "Which texts belong together, without labels?",
    "bitext": "Which sentence is the translation?",
    "word": "Do word vectors follow people's judgement of words?",
    "bias": "Are groups of people associated with attributes?",
    "leakage": "What can be learnt of a text from its vector?",
    "probing": "Does a vector hold a property of its text?",
}

#: Kinds that need no vectors: whatever ranks documents can run them.
RANKING_KINDS = ("retrieval", "reranking")


@runtime_checkable
class Task(Protocol):
    """A task; any object with these members is one.

    Attributes:
        name: Unique within a run; used in tables and file names.
        kind: One of `TASK_KINDS`.
        metric: The main metric.
    """

    @property
    def name(self) -> str:
        """Unique within a run."""
        ...

    @property
    def kind(self) -> str:
        """One of `TASK_KINDS`."""
        ...

    @property
    def metric(self) -> str:
        """The main metric."""
        ...

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Evaluate a system.

        Raises:
            EmbedworksError: When the system's vectors or scores cannot be used.
        """
        ...


def why_not(task: Task, system: Ranks) -> str | None:
    """Return why a system cannot run a task, or None when it can.

    Example:
        >>> from embedworks.evaluation import LexicalSystem, StsTask
        >>> why_not(StsTask("toy", [("a", "b", 1.0), ("a", "c", 0.0)]), LexicalSystem())
        'bm25 ranks documents and gives no vectors, which sts tasks need'
    """
    if task.kind in RANKING_KINDS or isinstance(system, System):
        return None
    return f"{system.name} ranks documents and gives no vectors, which {task.kind} tasks need"
