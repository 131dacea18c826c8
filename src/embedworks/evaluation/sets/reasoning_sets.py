"""Generated reasoning sets with exact answers: nothing to download, and nothing to have seen.

Each set has a train and a test part that share no question, so that tuning on it is measured on
what was not trained on. Wrong options are what a slip of reasoning gives: the neighbouring month,
the opposite direction, the other noun, the wrong operation, the wrong operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from embedworks._core.registry import Registry
from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice, check_in_range
from embedworks.errors import InputError
from embedworks.evaluation.kinds.reasoning import (
    MultipleChoice,
    Pool,
    ReasoningTask,
    multiple_choice_to_retrieval,
)
from embedworks.evaluation.sets import _word_problems as words
from embedworks.evaluation.sets._stdlib_functions import operator_mutants, stdlib_functions

__all__ = ["REASONING_SETS", "ReasoningSet", "reasoning_set"]

#: A question, its right answer, and wrong ones.
Draft = tuple[str, str, list[str]]

_OPTIONS = 4
_TRIES = 50


@dataclass(frozen=True)
class ReasoningSet:
    """A generated set.

    Attributes:
        name: Its name in `REASONING_SETS`.
        instruction: What the task is, in one sentence.
        train: Questions to train on.
        test: Questions to be measured on; none occurs in ``train``.
    """

    name: str
    instruction: str
    train: tuple[MultipleChoice, ...]
    test: tuple[MultipleChoice, ...]

    def task(self, pool: Pool = "all", *, part: str = "test") -> ReasoningTask:
        """Return a part as a task.

        Args:
            pool: ``"all"`` ranks the answers of both parts together, ``"own"`` the question's
                own options.
            part: ``"test"`` or ``"train"``.

        Example:
            >>> made = reasoning_set("months", train=5, test=5)
            >>> made.task("own").metric
            'success@1'
        """
        check_choice(part, ("test", "train"), name="part")
        examples = self.test if part == "test" else self.train
        others = self.train if part == "test" else self.test
        return multiple_choice_to_retrieval(
            examples,
            pool,
            name=f"{self.name}-generated" + ("" if pool == "all" else "-choice"),
            instruction=self.instruction,
            distractors=[text for x in others for text in x.options] if pool == "all" else (),
            facts={"generated": True, "part": part},
        )


@dataclass(frozen=True)
class _Maker:
    """How a set is made: drafts of a part under a seed, for so many questions."""

    instruction: str
    drafts: Callable[[str, int, int], Iterator[Draft]]


#: Makers of generated reasoning sets by name.
REASONING_SETS: Registry[_Maker] = Registry("reasoning sets")


def reasoning_set(name: str, *, train: int = 500, test: int = 300, seed: int = 0) -> ReasoningSet:
    """Generate a reasoning set; the same arguments give the same questions.

    Sets made of code read this Python's own standard library, so they differ between Python
    versions.

    Args:
        name: A name in `REASONING_SETS`.
        train: Questions to train on; 0 makes none.
        test: Questions to be measured on.
        seed: Seed of everything.

    Raises:
        UnknownNameError: When there is no such set.
        InputError: When there are not so many different questions.

    Example:
        >>> made = reasoning_set("sums", train=3, test=2, seed=1)
        >>> len(made.train), len(made.test[0].options)
        (3, 4)
    """
    maker = REASONING_SETS[name]
    check_in_range(train, name="train", low=0)
    check_in_range(test, name="test", low=1)
    taken: set[str] = set()
    tested = _take(name, maker, "test", test, seed, taken)
    trained = _take(name, maker, "train", train, seed, taken)
    return ReasoningSet(name, maker.instruction, trained, tested)


def _take(
    name: str, maker: _Maker, part: str, count: int, seed: int, taken: set[str]
) -> tuple[MultipleChoice, ...]:
    """Return so many questions that are not among those taken, and add them to these."""
    examples: list[MultipleChoice] = []
    rng = generator(seed, "options", name, part)
    tries = 0
    for question, right, wrong in maker.drafts(part, seed, count) if count else ():
        if len(examples) == count or tries > _TRIES * count:
            break
        tries += 1
        rivals = [text for text in dict.fromkeys(wrong) if text != right][: _OPTIONS - 1]
        if question.casefold() in taken or not rivals:
            continue
        taken.add(question.casefold())
        options = [right, *rivals]
        order = rng.permutation(len(options)).tolist()
        examples.append(
            MultipleChoice(
                question,
                tuple(options[i] for i in order),
                (order.index(0),),
                f"{name}-{part}-{len(examples)}",
            )
        )
    if len(examples) < count:
        raise InputError(
            f"The set {name!r} has {len(examples)} different questions for its {part} part, "
            f"{count} were asked for: ask for fewer."
        )
    return tuple(examples)


def _endless(name: str, one: Callable[[np.random.Generator], Draft]) -> _Maker:
    """Return a maker that draws from a template; both parts draw from the same space."""

    def drafts(part: str, seed: int, count: int) -> Iterator[Draft]:
        rng = generator(seed, "reasoning set", name, part)
        while True:
            yield one(rng)

    return _Maker(words.INSTRUCTIONS[name], drafts)


def _code_drafts(part: str, seed: int, count: int) -> Iterator[Draft]:
    """Yield functions of the part's modules with mutants; modules of the parts differ."""
    # About every third function has two mutants or more; modules are read as far as needed.
    functions = stdlib_functions(part, max_chars=700, limit=40 + 8 * count)
    for place in generator(seed, "code set", part).permutation(len(functions)).tolist():
        function = functions[place]
        mutants = operator_mutants(function.code, _OPTIONS - 1, seed=seed)
        if len(mutants) >= 2:
            yield function.summary, function.code, mutants


REASONING_SETS.add(
    "months",
    _endless("months", words.months),
    summary="Which month is so many months before or after another?",
)
REASONING_SETS.add(
    "spatial",
    _endless("spatial", words.spatial),
    summary="Things in a row, told pair by pair: which stands where?",
)
REASONING_SETS.add(
    "coreference",
    _endless("coreference", words.coreference),
    summary="Which of two does a sentence with a gap mean?",
)
REASONING_SETS.add(
    "sums",
    _endless("sums", words.sums),
    summary="Word problems of two or three steps whose answer is a number.",
)
REASONING_SETS.add(
    "code-mutants",
    _Maker("Given a description, find the function that does it without a mistake.", _code_drafts),
    summary="Docstring to function, among versions with one operator changed.",
)
