"""NV-Embed: in-batch negatives on data with few classes, and the order of the stages."""

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

_STAGES: dict[str, tuple[tuple[str, str], ...]] = {
    # (rows, objective) of each stage; the steps are shared out evenly.
    "single in-batch": (("all", "nv-embed/1"),),
    "single own": (("all", "nv-embed/2"),),
    "two stages": (("retrieval", "nv-embed/1"), ("all", "nv-embed/2")),
    "reversed": (("all", "nv-embed/2"), ("retrieval", "nv-embed/1")),
}


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    from embedworks.losses import ContrastiveLoss, objective

    blend: Blend = context.once(
        ("blend", seed),
        lambda: real_blend(
            rows=settings["rows"], documents=settings["documents"],
            queries=settings["queries"], seed=seed,
        ),
    )  # fmt: skip
    rows = context.once(
        ("rows", seed),
        lambda: blend.rows(
            settings["rows"], negatives=settings["negatives"],
            mined_with=embedworks.load("static"), seed=seed,
        ),
    )  # fmt: skip
    base = context.once(
        ("student", seed),
        lambda: StaticStudent(blend.texts(), dim=settings["dim"], device=context.device),
    )
    parts: dict[str, list[Row]] = {
        "all": [row for own in rows.values() for row in own],
        "retrieval": [row for world in blend.retrieval for row in rows[world.name]],
    }
    student = base.copy()
    stages = _STAGES[arm["stages"]]
    for number, (part, name) in enumerate(stages):
        masks = {"same_class": True} if arm["class mask"] else {}
        plan = BatchSettings(batch_size=settings["batch"])
        train_student(
            student,
            planned_batches(parts[part], plan, seed=seed + number),
            ContrastiveLoss(None, objective(name, masks=masks)),
            steps=settings["steps"] // len(stages),
            lr=context.setting("lr", 3e-3),
            seed=seed + number,
            annotate=blend.negative_classes if arm["class mask"] else None,
        )
    return blend.outcome(student, context.part)


def _arm(name: str, summary: str, stages: str, *, mask: bool = False) -> Arm:
    return Arm(name, summary, {"stages": stages, "class mask": mask})


_FEW, _ALL = "few classes", "retrieval"

ENTRIES = (
    Reproduction(
        slug="nv-embed",
        paper="NV-Embed: Improved Techniques for Training LLMs as Generalist Embedding Models",
        arxiv="2405.17428",
        claim="In-batch negatives hurt data with few classes; a retrieval stage with them, then "
        "all tasks without them, is better there and has the best retrieval.",
        falsifier="One stage with in-batch negatives comes within one point of two stages on "
        "two-class tasks, or is above; or retrieval is clearly worse with two stages than with "
        "one stage without in-batch negatives or with the reversed order.",
        arms=(
            _arm("single in-batch", "all tasks, in-batch negatives", "single in-batch"),
            _arm("single own", "all tasks, the row's own negatives alone", "single own"),
            _arm("two stages", "retrieval in-batch, then all tasks, own negatives", "two stages"),
            _arm("reversed", "the two stages in the other order", "reversed"),
            _arm(
                "single in-batch, class mask",
                "control: in-batch, texts of the same class left out",
                "single in-batch",
                mask=True,
            ),
        ),
        decisive=Comparison.between("two stages", "single in-batch", _FEW, margin=0.01),
        conditions=(
            Comparison.between("two stages", "single own", _ALL),
            Comparison.between("two stages", "reversed", _ALL),
            Comparison.between(
                "single in-batch, class mask",
                "single in-batch",
                _FEW,
                name="same-class negatives are the cause",
                falsifies=False,
            ),
        ),
        secondary=(
            Comparison.between("single own", "single in-batch", _FEW),
            Comparison.between("single own", "single in-batch", "many classes"),
            Comparison.between("two stages", "single in-batch", _ALL),
            Comparison.between("two stages", "single in-batch", "many classes"),
            Comparison.between("two stages", "single in-batch", "average"),
            Comparison.between("two stages", "reversed", _FEW),
            Comparison.between("two stages", "single in-batch, class mask", "average"),
        ),
        run=_run,
        seeds=4,
        tuning=Tuning({"lr": (1e-3, 3e-3, 1e-2)}, metric="average"),
        scales={
            "mini": {
                "rows": 900,
                "negatives": 3,
                "batch": 64,
                "steps": 240,
                "dim": 128,
                "documents": 500,
                "queries": 250,
            },
        },
        setup="Real texts. Retrieval: photo captions by another person (Multi30k), the words of a "
        "definition (WordNet), Java methods for comments (CONCODE), with hard negatives mined by "
        "the untrained student below 95 % of the positive. Two classes: subjectivity, sentence "
        "polarity, pros and cons. Many: banking77 and clinc150. Class rows have another text of "
        "the class as positive and texts of other classes as negatives.\n\n"
        "The student is a token table that starts from the bundled static model (first 128 "
        "dimensions). All arms take the same number of steps with batches of 64 from all tasks "
        "of their stage, a new optimiser and warm-up per stage, and one learning rate per arm "
        "from the same grid, chosen by the average over task groups on validation data. Scores: "
        "nDCG@10 for retrieval, 5-nearest-neighbour accuracy for classes.",
        limits="The student sees no word order and is five orders of magnitude smaller than the "
        "paper's; batches hold 64 rows. The paper gives two-class data label words as positives; "
        "here all class data has examples. It says nothing of the temperature; 0.02 is ours. "
        "World sizes, temperature and the learning-rate grid were fixed after looking at other "
        "seeds than those reported.",
    ),
)
