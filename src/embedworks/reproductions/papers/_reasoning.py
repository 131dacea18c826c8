"""Generated reasoning sets in a reproduction: made once per seed, scored in both settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from embedworks.evaluation import (
    MultipleChoice,
    Ranks,
    ReasoningSet,
    Resampling,
    multiple_choice_to_retrieval,
    reasoning_set,
)
from embedworks.reproductions import Comparison, Context, Outcome

__all__ = ["FULL_SETTING", "TOGETHER_APART", "item_scores", "joined", "made_set"]

#: The arms of the decisive comparison.
TOGETHER_APART = ("cross-encoder", "bi-encoder")
#: What must hold in the full setting.
FULL_SETTING = (
    Comparison.between(
        *TOGETHER_APART,
        "ndcg@10",
        name="together over apart, full setting",
        margin=0.02,
        falsifies=False,
    ),
    Comparison.between(
        "cross-encoder",
        "not tuned",
        "ndcg@10",
        name="tuning the reranker pays in the full setting",
        margin=0.02,
        falsifies=False,
    ),
)

_QUICK = Resampling(n_resamples=100)
_METRICS: dict[Literal["all", "own"], tuple[str, str]] = {
    "all": ("ndcg@10", "ndcg@10"),
    "own": ("accuracy", "success@1"),
}


def made_set(context: Context, name: str, *, train: int, test: int, seed: int) -> ReasoningSet:
    """Return a generated set; the arms of a seed share it."""
    return context.once(
        ("set", name, seed, train, test),
        lambda: reasoning_set(name, train=train, test=test, seed=seed),
    )


def item_scores(
    system: Ranks,
    examples: Sequence[MultipleChoice],
    pool: Literal["all", "own"],
    *,
    name: str,
    seed: int,
    instruction: str | None = None,
    distractors: Sequence[str] = (),
) -> Outcome:
    """Return ``ndcg@10`` of the full setting, or ``accuracy`` among the own options.

    Items carry the seed, because the questions do.
    """
    task = multiple_choice_to_retrieval(
        examples, pool, name=name, instruction=instruction, distractors=distractors
    )
    result = task.run(system, _QUICK)
    metric, key = _METRICS[pool]
    values = zip(result.items, result.scores[key].values, strict=True)
    return Outcome(items={metric: {f"{seed}/{name}/{item}": value for item, value in values}})


def joined(outcomes: Mapping[str, Outcome]) -> Outcome:
    """Return all sets together, and each set's means under its own name."""
    together: dict[str, dict[str, float]] = {}
    for name, outcome in outcomes.items():
        for metric, items in outcome.items.items():
            together.setdefault(metric, {}).update(items)
            together[f"{metric}, {name}"] = dict(items)
    return Outcome(items=together)
