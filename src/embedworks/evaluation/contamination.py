"""Contamination: which texts of a task are in the training data?

Scores on texts that a model was trained on say what it remembers. Works on texts alone: exact
copies, shared runs of words, near duplicates. Translations and paraphrases are not found.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from embedworks._core.validation import check_choice, check_in_range, check_unique
from embedworks.data import Row, RowSet, decontaminate, find_near_duplicates
from embedworks.errors import DataWarning, EmptyInputError
from embedworks.evaluation.outcomes import shorten
from embedworks.evaluation.tasks import Task

__all__ = ["HasTexts", "TaskContamination", "check_contamination", "task_texts"]

_METHODS = ("exact", "ngram", "near")


@runtime_checkable
class HasTexts(Protocol):
    """A task that says which texts it uses."""

    def texts(self) -> list[str]:
        """Return the texts the task encodes or ranks."""
        ...


@dataclass(frozen=True)
class TaskContamination:
    """What of a task's texts was found in the training data."""

    task: str
    """Name of the task."""
    method: str
    """``"exact"``, ``"ngram"`` or ``"near"``."""
    texts: int
    """Different texts of the task that were looked for; blank ones are not."""
    found: int
    """Of these, how many are in the training data."""
    rules: Mapping[str, int]
    """Rule that found a text first -> number of texts."""
    examples: tuple[tuple[str, str], ...]
    """Some of them: (text of the task, text of the training data)."""

    @property
    def share(self) -> float:
        """Share of the task's texts that were found."""
        return self.found / self.texts

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold."""
        examples = [list(pair) for pair in self.examples]
        return {**asdict(self), "share": self.share, "examples": examples}


def task_texts(task: Task) -> list[str] | None:
    """Return the texts a task uses, or None when it does not say (see `HasTexts`).

    Example:
        >>> from embedworks.evaluation import StsTask
        >>> task_texts(StsTask("toy", [("a", "b", 1.0), ("a", "c", 0.0)]))
        ['a', 'b', 'a', 'c']
    """
    return task.texts() if isinstance(task, HasTexts) else None


def check_contamination(
    rows: RowSet,
    tasks: Iterable[Task],
    *,
    method: str = "ngram",
    ngram: int = 13,
    threshold: float = 0.8,
    max_examples: int = 5,
) -> tuple[list[TaskContamination], list[str]]:
    """Look for the texts of tasks in training rows.

    The methods find more in this order, and more that is only similar:

    - "exact": the texts have the same words.
    - "ngram": also when they share ``ngram`` words in a row, or a text of 5 words or more lies in
      the other as a whole (see `embedworks.data.decontaminate`, which removes such rows).
    - "near": instead, when their sets of 3-word sequences have a Jaccard similarity of at least
      ``threshold`` (see `embedworks.data.find_near_duplicates`).

    Args:
        rows: Training rows; anchors, positives and negatives are looked at.
        tasks: The tasks; names must differ.
        method: "exact", "ngram" or "near".
        ngram: Words in a row.
        threshold: For "near".
        max_examples: Examples kept per task.

    Returns:
        A report per task, and the names of tasks that do not say which texts they use; those are
        counted in a `DataWarning`.

    Raises:
        EmptyInputError: When there are no rows with texts, no tasks, or a task has blank texts
            only.
        UnknownNameError: When the method is not known.
        DuplicateIdError: When two tasks have one name.

    Example:
        >>> from embedworks.evaluation import StsTask
        >>> rows = RowSet([Row("The tea is hot.", "A hot drink.")])
        >>> task = StsTask("toy", [("the TEA is hot", "rye", 1.0), ("oats", "figs", 0.0)])
        >>> reports, unchecked = check_contamination(rows, [task], method="exact")
        >>> reports[0].found, reports[0].texts, reports[0].examples
        (1, 4, (('the TEA is hot', 'The tea is hot.'),))
    """
    check_choice(method, _METHODS, name="method")
    check_in_range(max_examples, name="max_examples", low=0)
    todo = list(tasks)
    check_unique([task.name for task in todo], name="task names")
    known = list(
        dict.fromkeys(
            text
            for row in rows
            for value in (row.anchor, row.positive, *row.negatives)
            for text in [value if isinstance(value, str) else (value or {}).get("text")]
            if isinstance(text, str) and text.strip()
        )
    )
    if not known or not todo:
        raise EmptyInputError("there are no training texts." if todo else "there are no tasks.")
    reports, unchecked = [], []
    for task in todo:
        texts = task_texts(task)
        if texts is None:
            unchecked.append(task.name)
            continue
        own = [text for text in dict.fromkeys(texts) if text.strip()]
        if not own:
            raise EmptyInputError(f"Task {task.name!r} has no text that is not blank.")
        found = (
            _near(own, known, threshold)
            if method == "near"
            else _by_words(own, known, method, ngram)
        )
        rules: dict[str, int] = {}
        for _, _, rule in found:
            rules[rule] = rules.get(rule, 0) + 1
        examples = tuple((shorten(a, 300), shorten(b, 300)) for a, b, _ in found[:max_examples])
        reports.append(TaskContamination(task.name, method, len(own), len(found), rules, examples))
    if unchecked:
        message = f"{len(unchecked)} tasks do not say which texts they use: {', '.join(unchecked)}."
        warnings.warn(DataWarning(message), stacklevel=2)
    return reports, unchecked


def _by_words(
    own: list[str], known: list[str], method: str, ngram: int
) -> list[tuple[str, str, str]]:
    """Return (task text, training text, rule): a task's texts as rows, the training's as tests."""
    rows = RowSet(Row(text, text) for text in own)
    _, report = decontaminate(
        rows, known, method=method, ngram=ngram, parts=("anchor",), max_examples=len(own)
    )
    return [(own[hit.row], known[hit.test_index], hit.rule) for hit in report.examples]


def _near(own: list[str], known: list[str], threshold: float) -> list[tuple[str, str, str]]:
    """Return (task text, training text, rule); training texts stand first, so they are kept."""
    leading = sorted(set(find_near_duplicates(known, threshold=threshold).tolist()))
    kept = [known[i] for i in leading]
    leaders = find_near_duplicates([*kept, *own], threshold=threshold)[len(kept) :].tolist()
    return [
        (text, kept[leader], "near")
        for text, leader in zip(own, leaders, strict=True)
        if leader < len(kept)
    ]
