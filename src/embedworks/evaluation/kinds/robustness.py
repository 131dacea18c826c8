"""Robustness: does a vector follow the meaning of a text, or its surface?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from embedworks._core.validation import check_choice, check_in_range, normalize_rows
from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation.outcomes import Failure, Resampling, Score, TaskResult, shorten
from embedworks.evaluation.sets._generated_texts import changed_texts

if TYPE_CHECKING:
    from embedworks.evaluation.systems import System

__all__ = ["ROBUSTNESS_CHANGES", "RobustnessTask", "generated_robustness"]

#: Change -> (the same meaning, another meaning), for `generated_robustness`.
ROBUSTNESS_CHANGES = {
    "typos": ("two words are misspelt", "a noun is another one"),
    "negation": ("'not' and the opposite", "'not' alone"),
    "numbers": ("the number is spelt out", "the number is another one"),
    "word_order": ("active becomes passive", "doer and done-to trade places"),
    "length": ("the sentence follows a long empty opening", "a noun is another one"),
}

_TIE = 1e-6


class RobustnessTask:
    """Texts with two changes: one that keeps the meaning and one that does not.

    An item is right when the text is nearer to the version that means the same, half right when
    both are equally near; 0.5 is chance. The version with another meaning may look more alike
    than the one with the same, so models that follow the surface fall below chance: a bag of
    words cannot tell "the cat saw the dog" from "the dog saw the cat" and gets 0 for word order.

    Args:
        name: Name for tables.
        triples: (text, a version with the same meaning, a version with another meaning).
        instruction: What the task is, for systems that read instructions.

    Raises:
        EmptyInputError: When there are no triples, or a text is blank.
        InputError: When a version equals its text or the other version.

    Example:
        >>> task = RobustnessTask("toy", [("He left.", "He went away.", "He stayed.")])
        >>> task.kind
        'probing'
    """

    kind = "probing"
    metric = "accuracy"

    def __init__(
        self,
        name: str,
        triples: Sequence[tuple[str, str, str]],
        *,
        instruction: str | None = None,
    ) -> None:
        if not triples:
            raise EmptyInputError(f"Task {name!r} has no triples.")
        for number, triple in enumerate(triples):
            if len(triple) != 3 or not all(text.strip() for text in triple):
                raise EmptyInputError(f"Task {name!r}: triple {number} needs three texts.")
            if len(set(triple)) < 3:
                raise InputError(f"Task {name!r}: two texts of triple {number} are equal.")
        self.name = name
        self.instruction = instruction
        self.triples = [(text, same, other) for text, same, other in triples]

    def texts(self) -> list[str]:
        """Return the texts the task encodes."""
        return [text for triple in self.triples for text in triple]

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Compare every text with both of its versions.

        Raises:
            InputError: When the system gives all texts the same vector.
        """
        raw = system.encode(self.texts(), instruction=self.instruction)
        if np.ptp(raw, axis=0).max() == 0:
            raise InputError(f"{system.name} gives all {len(raw)} texts the same vector.")
        vectors = normalize_rows(raw).astype(np.float64)
        text, same, other = vectors[::3], vectors[1::3], vectors[2::3]
        near, far = (text * same).sum(axis=1), (text * other).sum(axis=1)
        gap = near - far
        value = np.where(np.abs(gap) <= _TIE, 0.5, gap > 0)
        worst = [i for i in np.argsort(gap, kind="stable")[:10].tolist() if gap[i] <= _TIE]
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores={
                self.metric: Score.of_values(value, resampling),
                "margin": Score.of_values(gap, resampling),
            },
            items=tuple(str(i) for i in range(len(value))),
            failures=tuple(
                Failure(
                    item=str(i),
                    text=shorten(self.triples[i][0]),
                    score=float(value[i]),
                    expected=(f"{shorten(self.triples[i][1])} ({near[i]:.3f})",),
                    found=(f"{shorten(self.triples[i][2])} ({far[i]:.3f})",),
                )
                for i in worst
            ),
            details={
                "triples": len(value),
                "chance": 0.5,
                "similarity_same": float(near.mean()),
                "similarity_other": float(far.mean()),
                "instruction": self.instruction,
            },
        )


def generated_robustness(
    change: str, *, count: int = 200, seed: int = 0, name: str | None = None
) -> RobustnessTask:
    """Make a robustness task of generated English sentences.

    Args:
        change: A key of `ROBUSTNESS_CHANGES`.
        count: Number of texts; for ``"negation"`` and ``"numbers"`` fewer when no more differ.
        seed: Seed of the texts.
        name: Name for tables; ``"robust-<change>"`` by default.

    Raises:
        UnknownNameError: When there is no such change.
        InputError: When ``count`` is below 1.

    Example:
        >>> generated_robustness("word_order", count=1).texts()
        ['The ... the ... in the ...', 'The ... was ... by the ...', 'The ... the ... in the ...']
    """
    check_choice(change, ROBUSTNESS_CHANGES, name="change")
    check_in_range(count, name="count", low=1)
    rows = changed_texts(change, count, seed=seed)
    return RobustnessTask(
        name or f"robust-{change.replace('_', '-')}",
        [(row.text, row.same, row.other) for row in rows],
    )
