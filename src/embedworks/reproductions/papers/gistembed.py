"""GISTEmbed: does a guide model remove false negatives, or would any thinner batch do?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from embedworks.reproductions import (
    Arm,
    Comparison,
    Context,
    FrozenVectors,
    Outcome,
    Reproduction,
    RetrievalWorld,
    Tuning,
    frozen_fields,
    retrieval_outcome,
    row_batches,
    stdlib_retrieval,
    train_student,
)
from embedworks.reproductions.papers._fresh import fresh_student

if TYPE_CHECKING:
    import torch

    from embedworks.data import Row
    from embedworks.reproductions import Annotate

__all__ = ["ENTRIES", "MaskWatch", "family_ids", "guided_away", "strangers_guide"]

PAPER = "GISTEmbed: Guided In-sample Selection of Training Negatives for Text Embedding Fine-tuning"
ARXIV = "2402.16829"


def guided_away(
    query: torch.Tensor, document: torch.Tensor, *, relative_margin: float = 0.0
) -> torch.Tensor:
    """Return which documents of a batch the guide drops for which queries, bool (B, B).

    The same rule as the loss applies, for counting.

    Args:
        query: float tensor (B, D) of the guide's unit vectors of the queries.
        document: float tensor (B, D) of the guide's unit vectors of the documents.
        relative_margin: Drops what is above ``t - |t| * margin``, t the pair's own score.
    """
    import torch

    from embedworks.losses import functional

    scores = query @ document.T
    # Equal texts must not beat each other by a rounding error.
    own = scores.diagonal() + (0.0 if relative_margin else 1e-6)
    dropped = functional.guide_mask(scores, own, margin=relative_margin, kind="relative")
    return dropped & ~torch.eye(len(scores), dtype=torch.bool)


def strangers_guide(annotate: Annotate, *, seed: int) -> Annotate:
    """Return an annotator that gives each row the guide's vectors of another row.

    Rows are permuted within the batch, queries and documents alike, so the table of what is
    dropped is the guide's own with rows and columns renamed: exactly as many entries go, in the
    same pattern, but they are other documents than those the guide meant.

    Args:
        annotate: Fills ``guide_query`` and ``guide_document``.
        seed: Seed of the permutations.
    """
    import torch

    draw = torch.Generator().manual_seed(seed)

    def permuted(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        order = torch.randperm(len(rows), generator=draw)
        return {name: value[order] for name, value in annotate(rows).items()}

    return permuted


def family_ids(world: RetrievalWorld) -> Annotate:
    """Return an annotator whose ``positive_ids`` say which family a row is truly of."""
    import torch

    from embedworks.data import content_key

    def annotate(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        return {"positive_ids": torch.tensor([content_key(world.family(row)) for row in rows])}

    return annotate


class MaskWatch:
    """Counts what a mask drops among the documents of the batches, against the planted truth.

    Args:
        world: Knows the truth.
        annotate: Adds fields to a batch; those of a guide are counted.
        relative_margin: The guide's margin.
    """

    def __init__(
        self, world: RetrievalWorld, annotate: Annotate | None, *, relative_margin: float = 0.0
    ) -> None:
        self.world, self.inner, self.margin = world, annotate, relative_margin
        self.dropped = self.right = self.false = self.entries = 0

    def annotate(self, rows: Sequence[Row]) -> Mapping[str, torch.Tensor]:
        """Return the fields of a batch, and count."""
        import torch

        fields = {} if self.inner is None else dict(self.inner(rows))
        truth = torch.from_numpy(self.world.answers(rows, [str(row.positive) for row in rows]))
        truth &= ~torch.eye(len(rows), dtype=torch.bool)
        mask = torch.zeros_like(truth)
        if "guide_query" in fields:
            mask = guided_away(
                fields["guide_query"], fields["guide_document"], relative_margin=self.margin
            )
        elif "positive_ids" in fields:
            mask = truth
        self.dropped += int(mask.sum())
        self.right += int((mask & truth).sum())
        self.false += int(truth.sum())
        self.entries += len(rows) * (len(rows) - 1)
        return fields

    def metrics(self, *, planted: bool) -> dict[str, float]:
        """Return shares; precision and recall only where siblings were ``planted``."""
        found = {
            "false negatives per 100": 100 * self.false / self.entries,
            "dropped per 100": 100 * self.dropped / self.entries,
        }
        if planted:
            found["mask precision"] = self.right / max(1, self.dropped)
            found["mask recall"] = self.right / max(1, self.false)
        return found


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    from embedworks.losses import ContrastiveLoss, objective

    rows, rho, kind = settings["rows"], arm["rho"], arm["mask"]
    world = context.once(
        ("world", seed, rows, rho),
        lambda: stdlib_retrieval(rows, siblings=rho, copies=3, queries=2000, seed=seed),
    )
    guide = context.once(("guide",), lambda: FrozenVectors("minilm", cache=context.cache))
    guide([str(text) for row in world.train for text in (row.anchor, row.positive)])
    annotate = None
    if kind == "guide":
        annotate = frozen_fields(guide)
    elif kind == "random":
        annotate = strangers_guide(frozen_fields(guide), seed=seed)
    elif kind == "oracle":
        annotate = family_ids(world)
    watch = MaskWatch(world, annotate, relative_margin=arm["margin"])
    guided = {"margin": arm["margin"], "kind": "relative"} if kind in ("guide", "random") else None
    loss = ContrastiveLoss(
        None,
        objective(
            "gist",
            temperature=context.setting("temperature", settings.get("temperature", 0.05)),
            masks={"guide": guided, "same_id": kind == "oracle"},
        ),
    )
    student = fresh_student(context, world, (rows, rho), dim=settings["dim"], seed=seed)
    train_student(
        student,
        row_batches(
            world.train,
            settings["batch"],
            steps=settings["steps"],
            seed=seed,
            together=world.family,
        ),
        loss,
        steps=settings["steps"],
        lr=context.setting("lr", 3e-3),
        seed=seed,
        annotate=watch.annotate,
    )
    return retrieval_outcome(student, world.task(context.part)) | Outcome(
        watch.metrics(planted=kind != "none" and rho > 0)
    )


def _arm(kind: str, rho: float, summary: str, tune_as: str = "", margin: float = 0.0) -> Arm:
    names = {"none": "no mask", "guide": "guide", "random": "random mask", "oracle": "oracle mask"}
    name = names[kind] + (f" margin {margin:g}" if margin else "") + f", {rho:.0%}"
    return Arm(name, summary, {"mask": kind, "rho": rho, "margin": margin}, tune_as)


_GROWTH = {"guide, 40%": 1, "no mask, 40%": -1, "guide, 0%": -1, "no mask, 0%": 1}
_CORE = (
    _arm("none", 0.4, "the same candidates, nothing dropped"),
    _arm("guide", 0.4, "MiniLM drops what scores above the positive"),
    _arm("none", 0.0, "nothing dropped, no siblings planted"),
    _arm("guide", 0.0, "the guide, no siblings planted"),
)
_SETUP = (
    "Docstring summaries of the standard library search for their code. At 40 %, that share of the "
    "training rows are siblings: three near-copies of a function (renamed, reordered) under "
    "paraphrased queries, beside the original; siblings of a family meet in a batch of 32. Of the "
    "test documents 30 % have a near-copy too, and it counts as relevant. Test modules are never "
    "trained on.\n\n"
    "The student is a table of 128 numbers per token, started from the bundled static model and "
    "trained for 100 steps. Candidates are those of GISTEmbed in all arms: other documents, other "
    "queries, documents against documents. The guide is MiniLM, frozen. Precision and recall of a "
    "mask are counted among the documents, against the planted siblings.\n\n"
)
_LIMITS = (
    "The paper trains whole transformers on 330 tasks and reports MTEB averages; here one task and "
    "a table of token vectors stand in, so sizes of effects do not carry over. Siblings are made "
    "by rules and planted densely; real data hold fewer. The guide is a much better model than the "
    "student starts as, which is the case the paper means. Batch size, steps and the share of "
    "siblings were fixed after trials on other seeds and the validation modules, margins before "
    "any test was run. "
)
_MINI = {"rows": 1500, "batch": 32, "steps": 100, "dim": 128}

ENTRIES = (
    Reproduction(
        slug="gistembed",
        paper=PAPER,
        arxiv=ARXIV,
        claim="A guide model that drops what it finds closer to the query than the positive "
        "removes false negatives: it helps the more of them there are.",
        falsifier="At the published temperature of 0.01 the gain of the guide does not grow with "
        "the share of siblings, or dropping as many candidates at random gains as much.",
        arms=(
            *_CORE,
            _arm("random", 0.4, "the guide's table with the rows of the batch renamed"),
            _arm("oracle", 0.4, "drops the planted siblings, and nothing else"),
            _arm("none", 0.2, "nothing dropped"),
            _arm("guide", 0.2, "the guide"),
            _arm("guide", 0.4, "drops what is above 95 % of the positive", "guide, 40%", 0.05),
        ),
        decisive=Comparison(
            "the guide's gain grows with siblings", "ndcg@10", _GROWTH, margin=0.01
        ),
        conditions=(
            Comparison.between(
                "guide, 40%",
                "no mask, 40%",
                "ndcg@10",
                name="the guide gains at 40 %",
                margin=0.01,
            ),
            Comparison.between(
                "guide, 40%",
                "random mask, 40%",
                "ndcg@10",
                name="the guide is better than dropping as many at random",
                margin=0.01,
            ),
            Comparison.between(
                "random mask, 40%",
                "no mask, 40%",
                "ndcg@10",
                name="dropping at random changes nothing",
                claim="equal",
                margin=0.01,
                falsifies=False,
            ),
        ),
        secondary=(
            Comparison.between(
                "guide, 0%",
                "no mask, 0%",
                "ndcg@10",
                name="no gain without siblings",
                claim="equal",
                margin=0.01,
            ),
            Comparison.between("guide, 20%", "no mask, 20%", "ndcg@10"),
            Comparison.between("guide, 40%", "no mask, 40%", "recall@10"),
            Comparison.between("oracle mask, 40%", "no mask, 40%", "ndcg@10"),
            Comparison.between("guide, 40%", "oracle mask, 40%", "ndcg@10"),
            Comparison.between("guide margin 0.05, 40%", "guide, 40%", "ndcg@10"),
        ),
        run=_run,
        seeds=3,
        tuning=Tuning({"lr": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}, metric="ndcg@10"),
        scales={"mini": {**_MINI, "temperature": 0.01}},
        setup=_SETUP
        + "The random mask is the guide's own table with the rows of the batch renamed: as many "
        "entries in the same pattern, on other documents. The oracle knows the families. The "
        "temperature is the published 0.01. The learning rate is chosen for each arm from the same "
        "five, on validation modules under a seed of its own.",
        limits=_LIMITS
        + "The arm with a margin uses the rate tuned for the guide at 40 %. The list of rates was "
        "made longer downward for all arms when the two controls chose its lowest; nothing else "
        "was changed then. A temperature "
        "of 0.01 is low for this student: the entry `gistembed-temperature` asks what is left of "
        "the gain when the temperature is tuned too.",
    ),
    Reproduction(
        slug="gistembed-temperature",
        paper=PAPER,
        arxiv=ARXIV,
        claim="The guide's gain is not one that a better temperature gives as well.",
        falsifier="With 40 % siblings and the temperature tuned for each arm, the guide gains "
        "nothing over the same candidates without a guide.",
        arms=_CORE,
        decisive=Comparison.between(
            "guide, 40%",
            "no mask, 40%",
            "ndcg@10",
            name="the guide gains at tuned temperatures",
            margin=0.01,
        ),
        secondary=(
            Comparison("the guide's gain grows with siblings", "ndcg@10", _GROWTH, margin=0.01),
            Comparison.between("guide, 0%", "no mask, 0%", "ndcg@10"),
            Comparison.between("guide, 40%", "no mask, 40%", "recall@10"),
        ),
        run=_run,
        seeds=3,
        tuning=Tuning(
            {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "temperature": (0.05, 0.1, 0.2, 0.4)}, metric="ndcg@10"
        ),
        scales={"mini": _MINI},
        setup=_SETUP
        + "Learning rate and temperature are chosen for each arm from the same sixteen points, on "
        "validation modules under a seed of its own.",
        limits=_LIMITS
        + "The paper does not claim this; it publishes one temperature. A first tuning, whose "
        "tests were not compared, had put two rates at the end of the list, and a first full run "
        "two temperatures; each time the list was made longer for all arms.",
    ),
)
