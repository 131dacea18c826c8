"""LG-ANNA-Embedding, margins while mining: do they keep unmarked positives out of the negatives?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from embedworks.data import Row, content_key
from embedworks.reproductions import (
    Arm,
    Comparison,
    Context,
    Outcome,
    Reproduction,
    RetrievalWorld,
    StaticStudent,
    Tuning,
    retrieval_outcome,
    row_batches,
    stdlib_retrieval,
    train_student,
)

if TYPE_CHECKING:
    from embedworks.data import RowSet

__all__ = ["ENTRIES", "false_negative_share", "mine"]

PAPER = "LG-ANNA-Embedding technical report"
ARXIV = "2506.07438"

#: How negatives are chosen -> rules of the miner.
_RULES: dict[str, tuple[tuple[str, float], ...]] = {
    "naive": (),
    "random": (),
    "oracle": (),
    "absolute": (("absolute", 0.05),),
    "relative": (("relative", 0.05),),
    "adaptive": (("adaptive", 0.5),),
    "document": (("document", 0.95),),
    "relative+document": (("relative", 0.05), ("document", 0.95)),
}


def mine(world: RetrievalWorld, how: str, *, count: int, seed: int) -> RowSet:
    """Return the world's training rows with ``count`` negatives each, scored by the static model.

    Args:
        world: Where rows and documents come from; the corpus is what the rows train on.
        how: ``"naive"`` (the best ranked), ``"oracle"`` (the best ranked that truly are
            negatives), ``"random"``, or one of the margin rules.
        count: Negatives per row; random documents fill up where a rule leaves fewer.
        seed: Seed of what is random.
    """
    from embedworks.models import load
    from embedworks.negatives import Corpus, Miner, NegativeRule

    documents = list(dict.fromkeys(str(row.positive) for row in world.train))
    families = [world.family_of_document[content_key(text)] for text in documents]
    miner = Miner(
        [load("static")],
        rules=tuple(NegativeRule(kind, value) for kind, value in _RULES[how]),
        count=count,
        min_keep=count,
        window=(1, len(documents) if how == "random" else 50),
        sampling="random" if how == "random" else "top",
        on_empty="random",
        seed=seed,
        show_progress=False,
    )
    corpus = Corpus(documents, groups=families if how == "oracle" else None)
    return miner.mine(world.train, corpus).rows


def false_negative_share(world: RetrievalWorld, rows: Sequence[Row]) -> float:
    """Return which share of the rows' negatives truly answer their row's anchor."""
    wrong = total = 0
    for row in rows:
        family = world.family_of_query[content_key(row.anchor)]
        found = [world.family_of_document[content_key(text)] for text in row.negatives]
        wrong += found.count(family)
        total += len(found)
    return wrong / total


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    from embedworks.losses import ContrastiveLoss, objective

    size, count, siblings = settings["rows"], settings["negatives"], arm["siblings"]
    world = context.once(
        ("world", seed, size, siblings),
        lambda: stdlib_retrieval(size, siblings=siblings, copies=3, queries=2000, seed=seed),
    )
    how = arm["negatives"]
    rows = context.once(
        ("mined", seed, size, siblings, how, count),
        lambda: mine(world, how, count=count, seed=seed),
    )
    student = StaticStudent(world.texts(), seed=seed, device=context.device)
    steps = settings["steps"]
    train_student(
        student,
        row_batches(rows, settings["batch"], steps=steps, seed=seed),
        ContrastiveLoss(None, objective("infonce", temperature=0.05)),
        steps=steps,
        lr=context.setting("lr", 3e-3),
        seed=seed,
    )
    share = Outcome({"false-negative share": false_negative_share(world, rows)})
    return retrieval_outcome(student, world.task(context.part)) | share


def _arm(name: str, summary: str, how: str, siblings: float = 0.4, tune_as: str = "") -> Arm:
    return Arm(name, summary, {"negatives": how, "siblings": siblings}, tune_as)
