"""Nemotron ColEmbed V2: how much of late interaction's quality do fewer numbers keep?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from embedworks.evaluation import ndcg_at_k
from embedworks.reproductions import (
    Arm,
    Comparison,
    Context,
    Outcome,
    Reproduction,
    chosen_axes,
    vaswani_tokens,
)

__all__ = ["ENTRIES"]

_BYTES = {"float32": 4, "float16": 2, "int8": 1}


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    from embedworks.index import MaxSimIndex, TokenMatrix, pool_documents

    documents, names, queries, qrels = context.once(
        ("vaswani",),
        lambda: vaswani_tokens(
            settings["model"], settings["documents"], cache=context.cache, seed=seed
        ),
    )
    factor = arm["pool"]
    if factor > 1:
        whole = documents
        documents = context.once(("pooled", factor), lambda: pool_documents(whole, factor))
    if arm["dims"] < documents.dim:
        axes = chosen_axes(documents.tokens, arm["axes"], arm["dims"], seed=seed)
        axes = axes.astype(np.float32)
        documents = TokenMatrix(documents.tokens @ axes, documents.offsets)
        queries = [query @ axes for query in queries]
    index = MaxSimIndex(documents, storage=arm["storage"])
    ids, _ = index.search(queries, 10)
    quality = {
        question: ndcg_at_k([names[row] for row in found], judged, 10)
        for found, (question, judged) in zip(ids, qrels.items())
    }
    size = sum(index.memory().values()) / len(index)
    return Outcome({"bytes per document": size}, {"ndcg@10": quality})


def _arm(
    name: str, summary: str, dims: int, axes: str = "principal", pool: int = 1,
    storage: str = "float16",
) -> Arm:  # fmt: skip
    return Arm(name, summary, {"dims": dims, "axes": axes, "pool": pool, "storage": storage})


def _keeps(arm: str, share: float, **options: Any) -> Comparison:
    name = f"{arm} keeps {share:.0%}"
    return Comparison(name, "ndcg@10", {arm: 1.0, "full": -share}, **options)


ENTRIES = (
    Reproduction(
        slug="nemotron-colembed-v2",
        paper="Nemotron ColEmbed V2: Top-Performing Late Interaction Embedding Models for Visual "
        "Document Retrieval",
        arxiv="2602.03992",
        claim="Late interaction keeps 95 % of its quality with an eighth of the dimensions.",
        falsifier="With an eighth of the dimensions less than 95 % of the full nDCG@10 is kept.",
        arms=(
            _arm("full", "all 384 dimensions of all tokens, float16", 384),
            _arm("int8", "the same in int8", 384, storage="int8"),
            _arm("192 axes", "half of the principal axes", 192),
            _arm("96 axes", "a quarter of them", 96),
            _arm("48 axes", "an eighth of them", 48),
            _arm("12 axes", "one in 32", 12),
            _arm("48 random", "48 random directions", 48, "random"),
            _arm("48 first", "the first 48 coordinates", 48, "first"),
            _arm("pool 2", "tokens pooled by 2", 384, pool=2),
            _arm("pool 4", "tokens pooled by 4", 384, pool=4),
            _arm("pool 8", "tokens pooled by 8", 384, pool=8),
            _arm("96 axes, pool 2", "as many numbers as 48 axes", 96, pool=2),
        ),
        decisive=_keeps("48 axes", 0.95),
        conditions=(
            Comparison.between("48 axes", "48 random", "ndcg@10", falsifies=False),
        ),
        secondary=(
            _keeps("int8", 0.99),
            _keeps("192 axes", 0.98),
            _keeps("96 axes", 0.95),
            _keeps("12 axes", 0.95),
            _keeps("48 first", 0.95),
            _keeps("pool 2", 0.98),
            _keeps("pool 4", 0.95),
            Comparison.between("pool 2", "pool 8", "ndcg@10"),
            Comparison.between("96 axes, pool 2", "48 axes", "ndcg@10"),
        ),
        run=_run,
        scales={"mini": {"model": "minilm", "documents": 2500}},
        setup="Late interaction with MiniLM's token vectors over the Vaswani collection: 93 "
        "queries, all documents judged relevant and others up to 2,500, which each seed draws. "
        "Exact MaxSim in every arm; only what is stored differs. Axes and pools are found without "
        "looking at queries.",
        limits="The paper trains a projection together with a vision-language model, from 4,096 "
        "dimensions to 512 and to 128, and tests on pages as images. Here the model is frozen, "
        "was trained for the mean of its tokens and not for late interaction, and has 384 "
        "dimensions; its principal axes stand in for a projection. Pooling is no claim of this "
        "paper. Seeds share queries and judged documents.",
    ),
)  # fmt: skip
