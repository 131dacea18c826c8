"""An open conflict: mixed batches or batches of one source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import embedworks
from embedworks.data import BatchSettings, Row
from embedworks.reproductions import (
    Arm,
    Blend,
    Comparison,
    Context,
    Outcome,
    Reproduction,
    StaticStudent,
    Tuning,
    planned_batches,
    real_blend,
    train_student,
)

_RETRIEVAL = ("captions", "wordnet", "concode", "nl2bash")


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    from embedworks.losses import ContrastiveLoss, objective

    blend: Blend = context.once(
        ("blend", seed),
        lambda: real_blend(
            rows=settings["rows"], retrieval=_RETRIEVAL, few=(), many=("banking77", "clinc150"),
            documents=settings["documents"], queries=settings["queries"], seed=seed,
        ),
    )  # fmt: skip
    rows: list[Row] = context.once(
        ("rows", seed),
        lambda: [
            row
            for own in blend.rows(
                settings["rows"], negatives=settings["negatives"],
                mined_with=embedworks.load("static"), seed=seed,
            ).values()
            for row in own
        ],
    )  # fmt: skip
    base = context.once(
        ("student", seed),
        lambda: StaticStudent(blend.texts(), dim=settings["dim"], device=context.device),
    )
    plan = BatchSettings(strategy=arm["strategy"], ratio=arm["ratio"], batch_size=settings["batch"])
    student = base.copy()
    train_student(
        student,
        planned_batches(rows, plan, seed=seed),
        ContrastiveLoss(None, objective(arm["objective"], masks={"same_class": True})),
        steps=settings["steps"],
        lr=context.setting("lr", 3e-3),
        seed=seed,
        annotate=blend.negative_classes,
    )
    return blend.outcome(student, context.part)


def _arm(name: str, summary: str, strategy: str, objective: str, ratio: float | None = None) -> Arm:
    return Arm(name, summary, {"strategy": strategy, "ratio": ratio, "objective": objective})


_ALL, _MEAN = "retrieval", "average"
_TASKS = (*_RETRIEVAL, "banking77", "clinc150")

ENTRIES = (
    Reproduction(
        slug="batch-composition",
        paper="NV-Embed (well-mixed batches) against QZhou-Embedding (one data set per batch)",
        arxiv="2405.17428",
        claim="Batches that mix all sources are better on average over tasks than batches of one "
        "source; QZhou-Embedding (arXiv 2508.21632) does the opposite.",
        falsifier="With in-batch negatives, mixed batches are not at least half a point above "
        "batches of one source on average.",
        arms=(
            _arm("mixed", "all sources in every batch", "mixed", "nv-embed/1"),
            _arm("one source", "one source per batch", "one_source", "nv-embed/1"),
            _arm(
                "semi-homogeneous",
                "half of a batch from one source",
                "semi_homogeneous",
                "nv-embed/1",
                0.5,
            ),
            _arm("mixed, own", "control: own negatives alone", "mixed", "nv-embed/2"),
            _arm("one source, own", "control: own negatives alone", "one_source", "nv-embed/2"),
        ),
        decisive=Comparison.between("mixed", "one source", _MEAN, margin=0.005),
        secondary=(
            *(Comparison.between("mixed", "one source", task) for task in _TASKS),
            Comparison.between("mixed", "one source", _ALL),
            Comparison.between("mixed", "one source", "many classes"),
            Comparison.between("semi-homogeneous", "mixed", _MEAN),
            Comparison.between("semi-homogeneous", "one source", _MEAN),
            Comparison.between(
                "mixed, own",
                "one source, own",
                _MEAN,
                name="without in-batch negatives",
            ),
        ),
        run=_run,
        seeds=4,
        tuning=Tuning({"lr": (1e-3, 3e-3, 1e-2)}, metric=_MEAN),
        scales={
            "mini": {
                "rows": 900,
                "negatives": 1,
                "batch": 48,
                "steps": 150,
                "dim": 128,
                "documents": 500,
                "queries": 250,
            },
        },
        setup="Six real sources of equal size: photo captions by another person (Multi30k), the "
        "words of a definition (WordNet), Java methods for comments (CONCODE), shell commands for "
        "descriptions (NL2Bash), and the intents of banking77 and clinc150 with another text of "
        "the class as positive. One hard negative per row, mined below 95 % of the positive for "
        "retrieval and drawn from other classes for intents; texts of the same intent are masked "
        "in all arms.\n\n"
        "The arms see the same rows in batches of 48 and differ only in which rows meet. The "
        "student is a token table that starts from the bundled static model (first 128 "
        "dimensions); the learning rate is tuned per arm on one grid, by the average on "
        "validation data. Two control arms have no in-batch negatives: there the composition "
        "changes the order of gradients alone.",
        limits="The sources differ so much that rows of other sources are trivial negatives; "
        "related sources would be closer to each other. No sampling by size, no two-stage "
        "training, a student without word order. World sizes and the grid were fixed after "
        "looking at other seeds than those reported.",
    ),
)
