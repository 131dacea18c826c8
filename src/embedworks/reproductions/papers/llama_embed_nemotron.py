"""Llama-Embed-Nemotron: four denominators, and what mining has to do with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import embedworks
from embedworks.data import BatchSettings, Row, RowSet
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


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    from embedworks.losses import ContrastiveLoss, objective

    blend: Blend = context.once(
        ("blend", seed),
        lambda: real_blend(
            rows=settings["rows"], documents=settings["documents"],
            queries=settings["queries"], seed=seed,
        ),
    )  # fmt: skip
    base = context.once(
        ("student", seed),
        lambda: StaticStudent(blend.texts(), dim=settings["dim"], device=context.device),
    )

    def make_rows() -> list[Row]:
        model = embedworks.load("static") if arm["mined"] else None
        own: Mapping[str, RowSet] = blend.rows(
            settings["rows"], negatives=arm["negatives"], mined_with=model, seed=seed
        )
        return [row for rows in own.values() for row in rows]

    rows = context.once(("rows", seed, arm["mined"], arm["negatives"]), make_rows)
    batch = arm["batch"]
    student = base.copy()
    train_student(
        student,
        planned_batches(rows, BatchSettings(batch_size=batch), seed=seed),
        ContrastiveLoss(None, objective(arm["objective"])),
        steps=settings["examples"] // batch,
        lr=context.setting("lr", 3e-3),
        seed=seed,
    )
    return blend.outcome(student, context.part)


def _arm(
    name: str,
    objective: str,
    summary: str,
    *,
    mined: bool = True,
    negatives: int = 4,
    batch: int = 32,
    tune_as: str = "",
) -> Arm:
    settings = {"objective": objective, "mined": mined, "negatives": negatives, "batch": batch}
    return Arm(name, summary, settings, tune_as)


_FEW, _ALL, _MANY, _MEAN = "few classes", "retrieval", "many classes", "average"

ENTRIES = (
    Reproduction(
        slug="llama-embed-nemotron",
        paper="Llama-Embed-Nemotron-8B: A Universal Text Embedding Model for Multilingual and "
        "Cross-Lingual Tasks",
        arxiv="2511.07025",
        claim="With mined negatives, InfoNCE over a row's own hard negatives alone is as good as "
        "the Gecko, Qwen3 and Gemini denominators or better, on average over tasks.",
        falsifier="Own negatives alone trail one of the three by clearly more than a point on "
        "average, with mined negatives and a learning rate tuned per denominator.",
        arms=(
            _arm("hard only", "nemotron", "the row's own mined negatives"),
            _arm("gecko", "gecko", "own negatives, other positives, other queries"),
            _arm("gemini", "gemini", "own negatives, other positives"),
            _arm("qwen3", "qwen3", "all blocks, same-side ones too"),
            _arm("hard only, random", "nemotron", "control: negatives drawn evenly", mined=False),
            _arm("gemini, random", "gemini", "control: negatives drawn evenly", mined=False),
            *(
                _arm(f"{name}, K=1", preset, "one negative per row", negatives=1, tune_as=name)
                for name, preset in (("hard only", "nemotron"), ("gemini", "gemini"))
            ),
            _arm("hard only, B=128", "nemotron", "batches of 128", batch=128),
            _arm("gemini, B=128", "gemini", "batches of 128", batch=128),
        ),
        decisive=Comparison.between("hard only", "gemini", _MEAN, claim="not_worse", margin=0.01),
        conditions=(
            Comparison.between("hard only", "gecko", _MEAN, claim="not_worse", margin=0.01),
            Comparison.between("hard only", "qwen3", _MEAN, claim="not_worse", margin=0.01),
            Comparison.between("hard only", "qwen3", _FEW, falsifies=False),
            Comparison(
                "it rests on mining",
                _ALL,
                {
                    "hard only": 1,
                    "gemini": -1,
                    "hard only, random": -1,
                    "gemini, random": 1,
                },
                falsifies=False,
            ),
        ),
        secondary=(
            Comparison.between("hard only, random", "gemini, random", _ALL),
            Comparison.between("hard only", "gecko", _FEW),
            Comparison.between("hard only", "gemini", _FEW),
            Comparison.between("hard only", "gemini", _ALL),
            Comparison.between("hard only", "gemini", _MANY),
            Comparison.between("hard only, K=1", "gemini, K=1", _MEAN),
            Comparison.between("hard only, B=128", "gemini, B=128", _MEAN),
        ),
        run=_run,
        seeds=4,
        tuning=Tuning({"lr": (1e-3, 3e-3, 1e-2)}, metric=_MEAN),
        scales={
            "mini": {
                "rows": 900,
                "examples": 6144,
                "dim": 128,
                "documents": 500,
                "queries": 250,
            },
        },
        setup="Real texts, all tasks in every batch. Retrieval: photo captions by another person "
        "(Multi30k), the words of a definition (WordNet), Java methods for comments (CONCODE), "
        "with negatives mined by the untrained student below 95 % of the positive, or drawn "
        "evenly in the control. Two classes: subjectivity, sentence polarity, pros and cons. "
        "Many: banking77 and clinc150. Class rows have another text of the class as positive and "
        "texts of other classes as negatives, in all arms.\n\n"
        "The student is a token table that starts from the bundled static model (first 128 "
        "dimensions). Every arm sees the same number of rows, 4 negatives per row and batches of "
        "32 unless it says otherwise, temperature 0.02; the learning rate is tuned per arm on the "
        "same grid, by the average over task groups on validation data (arms with one negative "
        "per row use the rate of the same denominator with four). Scores: nDCG@10 for retrieval, "
        "5-nearest-neighbour accuracy for classes; the average weighs the three groups alike.",
        limits="The student sees no word order. Batches of 32 and 128 rows favour own negatives, "
        "compared with the paper's 128 to 2048. The paper's classification rows have label names "
        "as positives. World sizes and the grid were fixed after looking at other seeds than "
        "those reported.",
    ),
)
