"""The instruction gap: what an instruction before the query does to a system, if anything.

Three runs of one task: without an instruction, with it, and with random words of equal length in
its place. The last tells what the instruction says from the mere shift that any prefix makes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_in_range
from embedworks.data.templates import TEMPLATES, InstructionTemplate
from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation.outcomes import Resampling, Score, TaskResult
from embedworks.evaluation.statistics.intervals import Difference, Interval
from embedworks.evaluation.systems import EncoderSystem, System
from embedworks.evaluation.tasks import Task

__all__ = ["InstructionGap", "instruction_gap", "random_prefix"]

#: Common words that ask for nothing, by no particular order.
_WORDS = (
    "a", "i", "of", "by", "at", "on", "up", "we", "he", "it", "is", "so", "an", "the", "and",
    "cup", "map", "sun", "rain", "leaf", "boat", "bird", "salt", "road", "wind", "milk", "stone",
    "cloud", "river", "chair", "green", "seven", "paper", "window", "garden", "bottle", "yellow",
    "silver", "morning", "evening", "blanket", "kitchen", "station", "mountain", "umbrella",
    "December", "southern", "elephant", "furniture", "classroom", "telephone", "waterfall",
    "grandfather", "strawberry", "neighbourhood", "refrigerator", "entertainment",
    "transportation",
)  # fmt: skip


@dataclass(frozen=True)
class InstructionGap:
    """What an instruction changes in one task for one system.

    Differences are paired by item, or by resample where the metric is no mean over items.
    """

    task: str
    """Name of the task."""
    system: str
    """Name of the system."""
    metric: str
    """The task's main metric."""
    instruction: str
    """The instruction."""
    random: tuple[str, ...]
    """The random words that took its place, one string per draw."""
    template: dict[str, Any]
    """How it was put before the queries."""
    without: Score
    """The figure without an instruction."""
    with_instruction: Score
    """The figure with it."""
    with_random: Score
    """The figure with random words, the mean over the draws."""
    effect: Difference
    """With the instruction minus without."""
    over_random: Difference
    """With the instruction minus with random words."""
    shift: Difference
    """With random words minus without: what any prefix does."""

    def sentence(self) -> str:
        """Return the finding in words."""
        verb = "changes nothing that shows"
        if self.effect.low > 0:
            verb = "helps"
        elif self.effect.high < 0:
            verb = "harms"
        return (
            f"{self.system} on {self.task}: the instruction {verb} "
            f"({self.effect.mean:+.3f} [{self.effect.low:+.3f}, {self.effect.high:+.3f}] "
            f"{self.metric}; against random words {self.over_random.mean:+.3f} "
            f"[{self.over_random.low:+.3f}, {self.over_random.high:+.3f}])."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold."""
        scores = ("without", "with_instruction", "with_random")
        differences = ("effect", "over_random", "shift")
        names = ("task", "system", "metric", "instruction")
        return {
            **{name: getattr(self, name) for name in names},
            "random": list(self.random),
            "template": dict(self.template),
            **{name: getattr(self, name).interval.to_dict() for name in scores},
            **{name: getattr(self, name).to_dict() for name in differences},
        }


def instruction_gap(
    task: Task,
    system: System,
    *,
    instruction: str | None = None,
    template: str | InstructionTemplate | None = None,
    draws: int = 3,
    resampling: Resampling | None = None,
    seed: int = 0,
) -> InstructionGap:
    """Run a task without an instruction, with it, and with random words of equal length.

    Everything else is the same in all runs: items, documents, resamples. With a cache the
    documents are encoded once.

    Args:
        task: A task with an attribute ``instruction``; it is not changed.
        system: An encoder; it is not changed.
        instruction: In place of the task's own.
        template: How it is put before the queries, a name in `embedworks.data.TEMPLATES` or a
            template; None takes the system's.
        draws: How many times random words are drawn.
        resampling: How intervals are made.
        seed: Seed of the random words.

    Raises:
        InputError: When there is no instruction, the task does not take one, or the template
            leaves it out.

    Paper: Xiao, Hudson, Al Moubayed 2024, arXiv 2404.06347, where retrievers are run without and
    with an instruction; the random words are ours.

    Example:
        >>> from embedworks.evaluation import RetrievalTask
        >>> class Letters:
        ...     def encode(self, texts):
        ...         return np.array([[1 + t.count("a"), 1 + t.count("b")] for t in texts], float)
        >>> task = RetrievalTask("toy", {"1": "aa", "2": "bb"}, {"x": "aaa", "y": "bbb"},
        ...                      {"1": {"x": 1}, "2": {"y": 1}}, instruction="Find the twin.")
        >>> gap = instruction_gap(task, EncoderSystem(Letters(), name="letters"),
        ...                       template="prepend", draws=1)
        >>> gap.effect.mean, len(gap.random[0].split())
        (0.0, 3)
    """
    how = resampling or Resampling()
    check_in_range(draws, name="draws", low=1)
    if not hasattr(task, "instruction"):
        raise InputError(f"Task {task.name!r} takes no instruction: it has no such attribute.")
    text = task.instruction if instruction is None else instruction
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"Task {task.name!r} has no instruction: give one.")
    spoken = _spoken_to(system, template)
    prefixes = tuple(random_prefix(text, seed=seed + draw) for draw in range(draws))
    without = _run(task, None, spoken, how)
    instructed = _run(task, text, spoken, how).main
    drawn = _mean([_run(task, prefix, spoken, how).main for prefix in prefixes], how)
    return InstructionGap(
        task=task.name,
        system=system.name,
        metric=without.metric,
        instruction=text,
        random=prefixes,
        template=spoken.template.to_dict(),
        without=without.main,
        with_instruction=instructed,
        with_random=drawn,
        effect=instructed.minus(without.main, how),
        over_random=instructed.minus(drawn, how),
        shift=drawn.minus(without.main, how),
    )


def random_prefix(instruction: str, *, seed: int = 0) -> str:
    """Return random words as many and as long as those of an instruction.

    Each word becomes another of the same length, or of the nearest there is; marks at the ends
    of words stay.

    Raises:
        EmptyInputError: When the instruction has no words.

    Example:
        >>> random_prefix("Find the right answer.", seed=0) != "Find the right answer."
        True
        >>> len(random_prefix("Find the right answer.").split())
        4
    """
    words = instruction.split()
    if not words:
        raise EmptyInputError("An instruction without words has no random counterpart.")
    rng = generator(seed, "random prefix", instruction)
    said = {word.strip(".,;:!?'\"()").casefold() for word in words}
    drawn = []
    for number, word in enumerate(words):
        core = word.strip(".,;:!?'\"()")
        start = word.find(core) if core else len(word)
        usable = [other for other in _WORDS if other.casefold() not in said]
        gap = min(abs(len(other) - len(core)) for other in usable)
        nearest = [other for other in usable if abs(len(other) - len(core)) == gap]
        chosen = nearest[int(rng.integers(len(nearest)))] if core else ""
        if number == 0:
            chosen = chosen[:1].upper() + chosen[1:]
        drawn.append(word[:start] + chosen + word[start + len(core) :])
    return " ".join(drawn)


def _spoken_to(system: System, template: str | InstructionTemplate | None) -> EncoderSystem:
    """Return the system with the template, after checking that it says the instruction."""
    if not isinstance(system, EncoderSystem):
        raise InputError(
            f"{system.name} puts no instructions before queries: its figures would be the same."
        )
    twin = copy.copy(system)
    if template is not None:
        twin.template = TEMPLATES[template] if isinstance(template, str) else template
    if twin.template.prefix("one") == twin.template.prefix("two"):
        known = [name for name in TEMPLATES.names() if name != "plain"]
        raise InputError(
            f"The template of {system.name} ({twin.template.query!r}) leaves instructions out. "
            f"Give one of {', '.join(known)}, or a template of your own."
        )
    return twin


def _run(task: Task, instruction: str | None, system: System, how: Resampling) -> TaskResult:
    twin = copy.copy(task)
    object.__setattr__(twin, "instruction", instruction)  # tasks may be frozen
    return twin.run(system, how)


def _mean(scores: Sequence[Score], how: Resampling) -> Score:
    """Return the mean of several scores of the same items, which can be compared like each."""
    if all(score.values for score in scores):
        return Score.of_values(np.mean([score.values for score in scores], axis=0), how)
    replicates = np.mean([score.replicates for score in scores], axis=0)
    defined = replicates[np.isfinite(replicates)]
    mean = float(np.mean([score.interval.mean for score in scores]))
    low, high = mean, mean
    if len(defined):
        tail = (1 - how.confidence) / 2
        low, high = (float(q) for q in np.quantile(defined, [tail, 1 - tail]))
    interval = Interval(mean, low, high, scores[0].interval.n, how.confidence)
    return Score(interval, replicates=tuple(replicates.tolist()))
