"""Reasoning as retrieval: the question is the query, the answers are the documents.

A multiple-choice question is asked in two settings. In the full one all answers of the data set
form the corpus, so that an answer must be found and not only told from its rivals. In the other
only the question's own options are ranked, and the figure is the accuracy. Equal answers become
one document, and an answer that is right for two questions is relevant for both.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from embedworks._core.files import sha256_of_text
from embedworks._core.validation import check_choice, check_unique
from embedworks.errors import DataWarning, EmptyInputError, InputError
from embedworks.evaluation.kinds.retrieval import RetrievalTask
from embedworks.evaluation.outcomes import Resampling, TaskResult

if TYPE_CHECKING:
    from embedworks.evaluation.systems import Ranks

__all__ = [
    "MultipleChoice",
    "ReasoningTask",
    "chance_levels",
    "multiple_choice_to_retrieval",
    "questions_to_solutions",
]

Pool = Literal["all", "own"]

_FULL_METRICS = ("ndcg@10", "recall@10")
_OWN_METRICS = ("success@1",)


@dataclass(frozen=True)
class MultipleChoice:
    """A question with options, of which one or more are right.

    Args:
        question: What is asked.
        options: The answers to choose from, two or more.
        answers: Positions of the right options.
        id: Its id; by default its position in the list it is in.

    Raises:
        InputError: When the question or an option is empty, there are fewer than two options, or
            a label is not the position of an option.

    Example:
        >>> MultipleChoice("2 + 2 = ?", ("3", "4"), (1,)).right
        ('4',)
    """

    question: str
    options: tuple[str, ...]
    answers: tuple[int, ...]
    id: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))
        object.__setattr__(self, "answers", tuple(self.answers))
        shown = f"The question {self.question!r:.60}"
        if not isinstance(self.question, str) or not self.question.strip():
            raise InputError(f"A question must have text, got {self.question!r}.")
        if len(self.options) < 2:
            raise InputError(f"{shown} needs at least 2 options, it has {len(self.options)}.")
        for place, option in enumerate(self.options):
            if not isinstance(option, str) or not option.strip():
                raise InputError(f"{shown}: option {place} has no text, got {option!r}.")
        if not self.answers:
            raise InputError(f"{shown} has no right answer: give the position of at least one.")
        for label in self.answers:
            whole = isinstance(label, (int, np.integer)) and not isinstance(label, bool)
            if not whole or not 0 <= label < len(self.options):
                raise InputError(
                    f"{shown}: the label {label!r} is not the position of one of its "
                    f"{len(self.options)} options (0 to {len(self.options) - 1})."
                )

    @property
    def right(self) -> tuple[str, ...]:
        """The right options."""
        return tuple(self.options[label] for label in self.answers)


@dataclass(frozen=True)
class ReasoningTask(RetrievalTask):
    """A retrieval task that knows its chance level and says how much of its texts was not read.

    Made by `multiple_choice_to_retrieval` and `questions_to_solutions`. The details of a result
    have ``chance`` (metric -> expected value of a random order), ``truncated_texts`` (queries and
    documents of which the system did not read the end) and whatever is in ``facts``.

    Args:
        facts: More to say in the details, as JSON values.

    Example:
        >>> from embedworks.evaluation import LexicalSystem
        >>> task = ReasoningTask("toy", {"q": "a cat"}, {"a": "cat", "b": "dog"}, {"q": {"a": 1}},
        ...                      metrics=("success@1",), candidates={"q": ["a", "b"]})
        >>> task.run(LexicalSystem(), Resampling()).details["chance"]
        {'success@1': 0.5}
    """

    refuses_flat: ClassVar[bool] = False  # its chance level stands beside the figure

    facts: Mapping[str, Any] = field(default_factory=dict)

    def chance(self) -> dict[str, float]:
        """Return metric -> value expected of a random order of the documents.

        Metrics for which it is not known are left out.
        """
        return chance_levels(self)

    def run(self, system: Ranks, resampling: Resampling) -> TaskResult:
        """Rank and score, and add the chance level and the truncation to the details."""
        before = system.usage.truncated
        result = super().run(system, resampling)
        details = {
            **result.details,
            **self.facts,
            "chance": self.chance(),
            "truncated_texts": system.usage.truncated - before,
        }
        return replace(result, details=details)


def chance_levels(task: RetrievalTask) -> dict[str, float]:
    """Return the expected value of a task's metrics under a random order, exactly.

    Known for ``success@k``, ``recall@k``, ``precision@k`` and ``ndcg@k``; others are left out.

    Example:
        >>> task = RetrievalTask("toy", {"q": "?"}, {"a": "1", "b": "2"}, {"q": {"a": 1}},
        ...                      metrics=("success@1", "recall@10"))
        >>> chance_levels(task)
        {'success@1': 0.5, 'recall@10': 1.0}
    """
    from embedworks.evaluation.statistics.metrics import parse_metric

    levels = {}
    for text in task.metrics:
        metric = parse_metric(text)
        values = []
        for query in task.judged_queries:
            judged = task.qrels[query]
            pool = task.corpus if task.candidates is None else task.candidates.get(query, ())
            size = len(pool)
            inside = [judged.get(doc, 0) for doc in pool] if task.candidates is not None else None
            gains = list(judged.values()) if inside is None else inside
            value = _expected(metric.label.split("@")[0], metric.k, gains, judged, size)
            values.append(value)
        known = [value for value in values if value is not None]
        if known and len(known) == len(values):
            levels[metric.label] = float(np.mean(known))
    return levels


def _expected(
    kind: str, k: int | None, gains: Sequence[int], judged: Mapping[str, int], size: int
) -> float | None:
    """Return the expected value for one query; ``gains`` are those of the documents ranked."""
    if not size:
        return 0.0
    depth = size if k is None else min(k, size)
    relevant = sum(gain > 0 for gain in gains)
    total = sum(gain > 0 for gain in judged.values())
    if kind == "recall":
        return depth * relevant / size / total
    if kind == "precision":
        return depth * relevant / size / (k or size)
    if kind == "success":
        misses = np.arange(depth)
        return float(1 - np.prod(np.clip((size - relevant - misses) / (size - misses), 0, 1)))
    if kind == "ndcg":
        cut = size if k is None else k
        ideal = sorted((gain for gain in judged.values() if gain > 0), reverse=True)[:cut]
        best = sum(gain / np.log2(2 + place) for place, gain in enumerate(ideal))
        mean = sum(max(0, gain) for gain in gains) / size
        return float(mean * np.sum(1 / np.log2(2 + np.arange(depth))) / best)
    return None


def multiple_choice_to_retrieval(
    examples: Sequence[MultipleChoice],
    pool: Pool = "all",
    *,
    name: str = "multiple-choice",
    instruction: str | None = None,
    distractors: Sequence[str] = (),
    facts: Mapping[str, Any] | None = None,
) -> ReasoningTask:
    """Turn multiple-choice questions into a retrieval task.

    Ids of documents are hashes of their texts, so that where scores are equal the order says
    nothing of which option is right. A question that is asked twice has all its right answers.

    Args:
        examples: The questions.
        pool: ``"all"`` ranks all options of all questions (nDCG@10, recall@10); ``"own"`` only
            the question's own (accuracy, which is success@1).
        name: Name of the task.
        instruction: What the task is, for systems that read instructions.
        distractors: More answers for the corpus, such as those of a training part.
        facts: More to say in the details of results.

    Returns:
        The task. With ``"own"``, questions whose options are all the same text are left out and
        counted in a `DataWarning`.

    Raises:
        EmptyInputError: When there are no examples.
        DuplicateIdError: When two examples have one id.

    Paper: Xiao, Hudson, Al Moubayed 2024, arXiv 2404.06347.

    Example:
        >>> examples = [MultipleChoice("2 + 2", ("4", "5"), (0,)),
        ...             MultipleChoice("1 + 3", ("4", "6"), (0,))]
        >>> task = multiple_choice_to_retrieval(examples)
        >>> len(task.corpus), task.kind
        (3, 'retrieval')
        >>> multiple_choice_to_retrieval(examples, "own").kind
        'reranking'
    """
    check_choice(pool, ("all", "own"), name="pool")
    asked = [replace(x, id=x.id or str(place)) for place, x in enumerate(examples)]
    if not asked:
        raise EmptyInputError(f"Task {name!r} has no questions.")
    check_unique([x.id for x in asked], name=f"ids of the questions of {name!r}")
    corpus = {_doc_id(text): text for x in asked for text in x.options}
    corpus |= {_doc_id(text): text for text in distractors if text.strip()}
    right: dict[str, set[str]] = {}
    for x in asked:
        right.setdefault(x.question, set()).update(_doc_id(text) for text in x.right)
    own = {x.id: tuple(dict.fromkeys(_doc_id(text) for text in x.options)) for x in asked}
    known = {
        **dict(facts or {}),
        "questions": len(asked),
        "options": sum(len(x.options) for x in asked),
        "distinct_answers": len(corpus),
        "mean_right_answers": float(np.mean([len(right[x.question]) for x in asked])),
    }
    if pool == "all":
        return ReasoningTask(
            name,
            {x.id: x.question for x in asked},
            corpus,
            {x.id: dict.fromkeys(sorted(right[x.question]), 1) for x in asked},
            metrics=_FULL_METRICS,
            instruction=instruction,
            facts={**known, "setting": "full"},
        )
    kept = [x for x in asked if len(own[x.id]) > 1]
    if not kept:
        raise EmptyInputError(f"Task {name!r}: the options of every question are all the same.")
    if len(kept) < len(asked):
        left = len(asked) - len(kept)
        warnings.warn(
            DataWarning(
                f"Task {name!r}: {left} of {len(asked)} questions have one option only, repeated, "
                "and are left out."
            ),
            stacklevel=2,
        )
    return ReasoningTask(
        name,
        {x.id: x.question for x in kept},
        corpus,
        {x.id: {d: 1 for d in own[x.id] if d in right[x.question]} for x in kept},
        metrics=_OWN_METRICS,
        instruction=instruction,
        candidates={x.id: own[x.id] for x in kept},
        facts={**known, "setting": "multiple choice", "left_out": len(asked) - len(kept)},
    )


def questions_to_solutions(
    name: str,
    pairs: Sequence[tuple[str, str]],
    *,
    instruction: str | None = None,
    distractors: Sequence[str] = (),
    facts: Mapping[str, Any] | None = None,
) -> ReasoningTask:
    """Turn questions with one written solution each into a full retrieval task.

    Args:
        name: Name of the task.
        pairs: (question, solution).
        instruction: What the task is, for systems that read instructions.
        distractors: More solutions for the corpus.
        facts: More to say in the details of results.

    Raises:
        EmptyInputError: When there are no pairs.
        InputError: When a question or a solution is empty.

    Example:
        >>> task = questions_to_solutions("sums", [("1 + 1?", "Two."), ("2 + 2?", "Four.")])
        >>> sorted(task.corpus.values())
        ['Four.', 'Two.']
    """
    if not pairs:
        raise EmptyInputError(f"Task {name!r} has no questions.")
    for place, (question, solution) in enumerate(pairs):
        if not question.strip() or not solution.strip():
            raise InputError(f"Task {name!r}: question {place} or its solution has no text.")
    corpus = {_doc_id(text): text for _, text in pairs}
    corpus |= {_doc_id(text): text for text in distractors if text.strip()}
    right: dict[str, set[str]] = {}
    for question, solution in pairs:
        right.setdefault(question, set()).add(_doc_id(solution))
    return ReasoningTask(
        name,
        {str(place): question for place, (question, _) in enumerate(pairs)},
        corpus,
        {
            str(place): dict.fromkeys(sorted(right[question]), 1)
            for place, (question, _) in enumerate(pairs)
        },
        metrics=_FULL_METRICS,
        instruction=instruction,
        facts={
            **dict(facts or {}),
            "questions": len(pairs),
            "distinct_answers": len(corpus),
            "setting": "full",
        },
    )


def _doc_id(text: str) -> str:
    return sha256_of_text(text)[:16]
