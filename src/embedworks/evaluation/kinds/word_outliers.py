"""Which word does not belong? Groups of words with one stranger each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_in_range, check_texts, check_unique
from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation.kinds._known_words import encode_words
from embedworks.evaluation.outcomes import Failure, Resampling, Score, TaskResult

if TYPE_CHECKING:
    from embedworks.evaluation.systems import System

__all__ = ["OutlierTask", "outlier_groups"]


class OutlierTask:
    """Groups of words and a stranger: is the stranger the word the others do best without?

    A word's compactness is the mean cosine of the pairs that are left when it is taken out; the
    stranger should have the greatest. ``accuracy`` is the share of groups where it has;
    ``position`` (OPP / 100 in the paper) is the share of words it stands above, with itself: 1 is
    right, ``1/(n + 1)`` is last of n + 1. Words that are equal share their place, to the
    stranger's harm. Unknown words are left out of their group; groups without a known stranger
    and two known others are left out and counted, and in ``accuracy-all`` they are wrong.

    Paper: Camacho-Collados and Navigli 2016, "Find the word that does not belong" (RepEval),
        equations 1 to 3.

    Args:
        name: Name for tables.
        groups: (words that belong together, the stranger); at least two words each.
        instruction: What the task is, for systems that read instructions.

    Raises:
        EmptyInputError: When there are no groups.
        InputError: When a group has fewer than two words.
        DuplicateIdError: When a word stands twice in a group.

    Example:
        >>> from embedworks.evaluation import EncoderSystem, Resampling
        >>> class Letters:
        ...     def encode(self, texts):
        ...         return np.array([[t.count("a"), t.count("o")] for t in texts], dtype=float)
        >>> task = OutlierTask("toy", [(["cat", "rat", "ant"], "dog"), (["box", "fox"], "hat")])
        >>> task.run(EncoderSystem(Letters(), name="letters"), Resampling()).main.interval.mean
        1.0
    """

    kind = "word"
    metric = "accuracy"

    def __init__(
        self,
        name: str,
        groups: Sequence[tuple[Sequence[str], str]],
        *,
        instruction: str | None = None,
    ) -> None:
        if not len(groups):
            raise EmptyInputError(f"Task {name!r} has no groups.")
        self.groups = [[*check_texts(words, name="words"), stranger] for words, stranger in groups]
        for number, group in enumerate(self.groups):
            check_unique(check_texts(group), name=f"group {number}")
            if len(group) < 3:
                raise InputError(f"Task {name!r}: group {number} needs two words and a stranger.")
        self.name = name
        self.instruction = instruction

    def texts(self) -> list[str]:
        """Return the texts the task uses."""
        return [word for group in self.groups for word in group]

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Look for the strangers.

        Raises:
            InputError: When the system knows a stranger and two others of no group.
        """
        words = encode_words(system, self.texts(), self.instruction)
        known = [[w for w in group if words.known[words.place[w]]] for group in self.groups]
        rows = [
            row
            for row, group in enumerate(known)
            if len(group) > 2 and group[-1] == self.groups[row][-1]
        ]
        if not rows:
            raise InputError(
                f"{system.name} knows the stranger and two other words of none of the "
                f"{len(known)} groups of {self.name!r}."
            )
        ranked = [
            _compactness(words.vectors[[words.place[word] for word in known[row]]]) for row in rows
        ]
        above = np.array([(found[:-1] < found[-1] - 1e-9).sum() for found in ranked])
        sizes = np.array([len(found) for found in ranked])
        hits = (above == sizes - 1).astype(np.float64)
        everything = np.zeros(len(known))
        everything[rows] = hits
        unknown = len(known) - len(rows)
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores={
                "accuracy": Score.of_values(hits, resampling),
                "position": Score.of_values((above + 1) / sizes, resampling),
                "accuracy-all": Score.of_values(everything, resampling),
            },
            items=tuple(map(str, rows)),
            excluded={"groups with too few known words": unknown} if unknown else {},
            failures=tuple(
                Failure(
                    item=str(row),
                    text=" / ".join(known[row]),
                    score=0.0,
                    expected=(self.groups[row][-1],),
                    found=(known[row][int(found.argmax())],),
                )
                for row, found, hit in zip(rows, ranked, hits, strict=True)
                if not hit
            )[:10],
            details={
                "groups": len(known),
                "answered": len(rows),
                "chance": float((1 / sizes).mean()),
                **words.coverage(),
                "instruction": self.instruction,
            },
        )


def outlier_groups(
    members: Mapping[str, Sequence[str]], *, size: int = 8, groups: int = 100, seed: int = 0
) -> list[tuple[list[str], str]]:
    """Draw groups for an `OutlierTask` from words of known categories.

    Args:
        members: Category -> its words.
        size: Words of one category in a group; the stranger is of another and not of this one.
        groups: How many.
        seed: Of the draws.

    Raises:
        InputError: When no category has so many words, or there is no second category.

    Example:
        >>> outlier_groups({"a": ["x", "y"], "b": ["x", "z"]}, size=2, groups=1)
        [(['z', 'x'], 'y')]
    """
    check_in_range(size, name="size", low=2)
    check_in_range(groups, name="groups", low=1)
    large = sorted(category for category, words in members.items() if len(words) >= size)
    foreign = {
        category: sorted(
            {word for words in members.values() for word in words} - {*members[category]}
        )
        for category in large
    }
    usable = [category for category in large if foreign[category]]
    if not usable:
        raise InputError(
            f"None of the {len(members)} categories has {size} words and words outside of it."
        )
    rng = generator(seed, "outlier groups")
    drawn = []
    for _ in range(groups):
        category = usable[rng.integers(len(usable))]
        words = list(members[category])
        inside = [words[place] for place in rng.permutation(len(words))[:size]]
        drawn.append((inside, foreign[category][rng.integers(len(foreign[category]))]))
    return drawn


def _compactness(vectors: np.ndarray) -> np.ndarray:
    """Return for each row of (n + 1, D) the mean cosine of the pairs without it."""
    cosines = (vectors @ vectors.T).astype(np.float64)
    np.fill_diagonal(cosines, 0)
    left = len(vectors) - 1
    without = cosines.sum() - 2 * cosines.sum(axis=1)
    return np.asarray(without / (left * (left - 1)))
