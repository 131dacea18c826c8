"""`reasoning`: questions whose answer must be thought of, as retrieval and as multiple choice.

Sub-sampled so that a small model takes minutes; the details of each result say how much.
"""

from __future__ import annotations

from embedworks.evaluation.kinds.reasoning import Pool, ReasoningTask
from embedworks.evaluation.sets.public_data import DataFolder
from embedworks.evaluation.sets.reasoning_data import (
    MCR_DATASETS,
    math_solutions,
    multiple_choice_data,
)
from embedworks.evaluation.sets.reasoning_sets import REASONING_SETS, reasoning_set
from embedworks.evaluation.suites import SUITES, Suite, TaskSource

__all__ = ["generated", "sampled_choices", "sampled_solutions"]

#: Questions of each public data set.
_QUESTIONS = 400
#: Set -> (train, test): answers of the train part are distractors. Code is long: fewer of it.
_SIZES = {"code-mutants": (0, 150)}


def sampled_choices(data: DataFolder, dataset: str, pool: Pool) -> ReasoningTask:
    """Return a sample of a multiple-choice data set."""
    return multiple_choice_data(data, dataset, pool, limit=_QUESTIONS)


def sampled_solutions(data: DataFolder) -> ReasoningTask:
    """Return a sample of word problems with their written solutions."""
    return math_solutions(data, limit=_QUESTIONS)


def generated(name: str, pool: Pool) -> ReasoningTask:
    """Return the test part of a generated set."""
    train, test = _SIZES.get(name, (500, 300))
    return reasoning_set(name, train=train, test=test).task(pool)


_POOLS: tuple[tuple[Pool, str], ...] = (("all", ""), ("own", "-choice"))

SUITES.add(
    "reasoning",
    Suite(
        "reasoning",
        (
            *(
                TaskSource(
                    f"{name}-generated{ending}",
                    lambda data, name=name, pool=pool: generated(name, pool),  # type: ignore[misc]
                )
                for name in REASONING_SETS.names()
                for pool, ending in _POOLS
            ),
            *(
                TaskSource(
                    f"{name}{ending}",
                    lambda data, name=name, pool=pool: sampled_choices(  # type: ignore[misc]
                        data, name, pool
                    ),
                    ("reasoning_mcr.parquet",),
                )
                for name in MCR_DATASETS
                for pool, ending in _POOLS
            ),
            TaskSource("gsm8k", sampled_solutions, ("gsm8k.parquet",)),
        ),
    ),
    summary="Minutes: reasoning as retrieval and as multiple choice.",
)
