"""Starbucks: is a fixed ladder of sizes better than random ones, and as good as separate models?"""

from __future__ import annotations

from embedworks.reproductions import Arm, Comparison, Reproduction
from embedworks.reproductions.papers._nested import SCALES, SETUP, run

__all__ = ["ENTRIES"]


def _arm(name: str, summary: str, loss: str) -> Arm:
    return Arm(name, summary, {"loss": loss})


_DIAGONAL, _FULL = "diagonal ndcg@10", "full ndcg@10"

ENTRIES = (
    Reproduction(
        slug="starbucks",
        paper="Starbucks: Improved Training for 2D Matryoshka Embeddings",
        arxiv="2410.13230",
        claim="Training a fixed ladder of sizes at every step beats random sizes at the small "
        "sizes, and is as good there as separately trained models.",
        falsifier="The ladder with score KL gains less than 0.01 nDCG@10 over random sizes with "
        "the same score KL at the three smallest sizes, or is worse than separate models by 0.02 "
        "or more there.",
        arms=(
            _arm("cut", "MiniLM as it is, not trained", "none"),
            _arm("random", "2DMSE's random layer and width, score KL", "random, score KL"),
            _arm(
                "random, six terms",
                "two random layers, one width: six losses, as the ladder has",
                "random x2, score KL",
            ),
            _arm("ladder", "six sizes every step, score KL", "ladder, score KL"),
            _arm("ladder, no KL", "six sizes every step", "ladder"),
            _arm(
                "ladder, vector KL",
                "KL over coordinates that pulls the last layer too, as published for STS",
                "ladder, vector KL, not detached",
            ),
            _arm("separate", "a model of its own for each small size", "separate"),
        ),
        decisive=Comparison.between("ladder", "random", _DIAGONAL, margin=0.01),
        conditions=(
            Comparison.between("ladder", "separate", _DIAGONAL, claim="not_worse", margin=0.02),
        ),
        secondary=(
            Comparison.between("ladder", "random, six terms", _DIAGONAL, margin=0.01),
            Comparison.between("ladder", "ladder, no KL", _DIAGONAL),
            Comparison.between("ladder", "ladder, vector KL", _DIAGONAL),
            Comparison.between("ladder", "cut", _DIAGONAL),
            Comparison.between("ladder", "cut", _FULL, claim="not_worse", margin=0.02),
            Comparison.between("ladder", "random", "diagonal sts"),
            Comparison.between("ladder", "separate", "diagonal sts"),
            Comparison.between("ladder", "random", "shallow ndcg@10"),
        ),
        run=run,
        seeds=3,
        scales=SCALES,
        setup=SETUP
        + " The ladder is 1 x 32, 2 x 64, 3 x 128, 4 x 192, 5 x 256, 6 x 384. Random sizes draw "
        "from the same widths.",
        limits="Forty steps (250 at the GPU scale) of an already trained model of six layers; the "
        "paper trains BERT-base of twelve for epochs. Its pre-training (SMAE) is not part of this "
        "entry. Separate models start from the first layers of MiniLM and take as many steps each "
        "as the ladder takes for all sizes. What is off the diagonal is not trained by the ladder: "
        "see the shallow grid.",
    ),
)
