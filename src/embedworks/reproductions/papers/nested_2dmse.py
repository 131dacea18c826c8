"""2DMSE and ESE: does training depth as well as width make a model that can be cut?"""

from __future__ import annotations

from embedworks.reproductions import Arm, Comparison, Reproduction
from embedworks.reproductions.papers._nested import SCALES, SETUP, run

__all__ = ["ENTRIES"]


def _arm(name: str, summary: str, loss: str) -> Arm:
    return Arm(name, summary, {"loss": loss})


_SHALLOW, _FULL, _DIAGONAL = "shallow ndcg@10", "full ndcg@10", "diagonal ndcg@10"

ENTRIES = (
    Reproduction(
        slug="2dmse",
        paper="2D Matryoshka Sentence Embeddings (v1, v3) and ESE (v2)",
        arxiv="2402.14776",
        claim="A model trained on random layers and widths can be cut to few layers, which one "
        "trained on widths alone cannot, and keeps its quality at full size.",
        falsifier="2DMSE gains less than 0.02 nDCG@10 over width-only training at 1 to 3 layers, "
        "or loses 0.03 or more at full size against training without cuts.",
        arms=(
            _arm("cut", "MiniLM as it is, not trained", "none"),
            _arm("contrastive", "InfoNCE of the whole model alone", "contrastive"),
            _arm("widths", "Matryoshka: widths of the last layer", "widths"),
            _arm("2DMSE", "random layer and width, vector KL", "random, vector KL"),
            _arm("2DMSE, no KL", "the four losses alone", "random"),
            _arm(
                "2DMSE, not detached",
                "the KL pulls the last layer too, as published",
                "random, vector KL, not detached",
            ),
            _arm("ESE", "all layers at 128 dimensions, log weights, PCA", "all layers, PCA"),
        ),
        decisive=Comparison.between("2DMSE", "widths", _SHALLOW, margin=0.02),
        conditions=(
            Comparison.between("2DMSE", "contrastive", _FULL, claim="not_worse", margin=0.03),
        ),
        secondary=(
            Comparison.between("widths", "contrastive", _SHALLOW),
            Comparison.between("contrastive", "cut", _SHALLOW),
            Comparison.between("2DMSE", "2DMSE, no KL", _SHALLOW),
            Comparison.between("2DMSE", "2DMSE, not detached", _SHALLOW),
            Comparison.between("2DMSE", "2DMSE, not detached", _FULL),
            Comparison.between("ESE", "2DMSE", _SHALLOW),
            Comparison.between("ESE", "2DMSE", _FULL),
            Comparison.between("2DMSE", "cut", _DIAGONAL),
            Comparison.between("2DMSE", "widths", "shallow sts"),
            Comparison.between("2DMSE", "contrastive", "full sts"),
        ),
        run=run,
        seeds=3,
        scales=SCALES,
        setup=SETUP,
        limits="Forty steps (250 at the GPU scale) of an already trained model, where the papers "
        "train an epoch or more from BERT. One learning rate for all arms, found for two of them. "
        "ESE is built from its published trainer, with layers 1 to N - 1 where that one is off by "
        "one; its published base loss is another. Separately trained small models are compared in "
        "the entry `starbucks`.",
    ),
)
