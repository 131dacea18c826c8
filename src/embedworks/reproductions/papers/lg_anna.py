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
    "random": (("max-score", -2.0),),  # turns everything down, so that random documents fill up
    "oracle": (),
    "absolute": (("absolute", 0.05),),
    "relative": (("relative", 0.05),),
    "adaptive": (("adaptive", 0.5),),
    "document": (("document", 0.95),),
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
        window=(1, 50),
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
        lambda: stdlib_retrieval(size, siblings=siblings, copies=4, queries=2000, seed=seed),
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
        ContrastiveLoss(None, objective("infonce", temperature=0.05, candidates=arm["candidates"])),
        steps=steps,
        lr=context.setting("lr", 3e-3),
        seed=seed,
    )
    share = Outcome({"false-negative share": false_negative_share(world, rows)})
    return retrieval_outcome(student, world.task(context.part)) | share


_BATCH = ("documents", "own_negatives", "other_negatives")


def _arm(name: str, summary: str, how: str, **changes: Any) -> Arm:
    settings = {"negatives": how, "siblings": 0.9, "candidates": ("own_negatives",)}
    return Arm(name, summary, {**settings, **changes})


def _over_naive(arm: str) -> Comparison:
    return Comparison.between(arm, "naive", "ndcg@10", margin=0.005)


ENTRIES = (
    Reproduction(
        slug="lg-anna",
        paper=PAPER,
        arxiv=ARXIV,
        claim="A margin that adapts to each query's positive and candidates keeps unmarked "
        "positives out of the mined negatives, and the model trained on them retrieves better.",
        falsifier="With many unmarked positives planted, nDCG@10 is less than 0.005 above that of "
        "the best ranked negatives, or unmarked positives are not cut to a third; or without any "
        "planted, the margin costs 0.01 or more.",
        arms=(
            _arm("naive", "the five best ranked documents", "naive"),
            _arm("adaptive", "below the positive by half a std of the candidates", "adaptive"),
            _arm("relative", "below 95 % of the positive", "relative"),
            _arm("absolute", "below the positive by 0.05", "absolute"),
            _arm("document", "cosine to the positive document below 0.95", "document"),
            _arm("oracle", "best ranked, the planted truth known", "oracle"),
            _arm("random", "documents at random", "random"),
            _arm("naive, none planted", "", "naive", siblings=0.0),
            _arm("adaptive, none planted", "", "adaptive", siblings=0.0),
            _arm("naive, in-batch too", "", "naive", candidates=_BATCH),
            _arm("oracle, in-batch too", "", "oracle", candidates=_BATCH),
        ),
        decisive=_over_naive("adaptive"),
        conditions=(
            Comparison(
                "unmarked positives cut to a third",
                "false-negative share",
                {"adaptive": 1, "naive": -1 / 3},
                "less",
            ),
            Comparison.between(
                "adaptive, none planted",
                "naive, none planted",
                "ndcg@10",
                claim="not_worse",
                margin=0.01,
                name="costs little where nothing is planted",
            ),
        ),
        secondary=(
            _over_naive("oracle"),
            _over_naive("relative"),
            _over_naive("absolute"),
            _over_naive("document"),
            Comparison.between("adaptive", "random", "ndcg@10", margin=0.005),
            Comparison.between(
                "oracle, in-batch too",
                "naive, in-batch too",
                "ndcg@10",
                margin=0.005,
                name="oracle over naive, in-batch too",
            ),
        ),
        run=_run,
        seeds=3,
        tuning=Tuning({"lr": (3e-4, 1e-3, 3e-3, 1e-2)}, metric="ndcg@10"),
        scales={"mini": {"rows": 3000, "negatives": 5, "batch": 64, "steps": 100}},
        setup="Docstring summaries are queries, the code of the standard library is the corpus; "
        "modules are split, so nothing tested was trained on. Nine of ten training rows belong to "
        "a family of five: the same function rewritten (other local names, statements exchanged, "
        "comments gone) under a paraphrased query. The four relatives answer the query and are not "
        "marked, so every rule that is fooled mines them. Negatives come from the untrained static "
        "model, ranks 1 to 50, five per row; where a rule leaves fewer, documents at random fill "
        "up, so that all arms train on equally many.\n\nA table of pretrained token vectors is "
        "trained for 100 steps of 64 rows, each row against its own negatives. Every arm "
        "chooses among the same four learning rates. A test query counts its near-copies as "
        "relevant.",
        limits="The paper does not state its formula; half a standard deviation is our reading. "
        "Planted relatives are near-copies, easier to recognise than unmarked positives in the "
        "wild, and a bag of tokens forgives them easily. The strength of planting and the choice "
        "of own negatives alone were made in pilots on validation questions under another seed, "
        "looking at the oracle and the naive arm only: with the batch's documents as negatives "
        "too, even the oracle gained nothing there; two arms show this here. A first run had three "
        "learning rates, of which several arms took the smallest; it was run again with a smaller "
        "one added for all.",
    ),
)
