"""What a pooling adds to a forward pass of MiniLM.

    python benchmarks/latent_pooling.py

Every pooling stands in for MiniLM's mean in the same model; rounds are interleaved, and the ratio
to the plain model is taken within a round.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from _common import machine, peak_memory_mb, versions, write_result
from sentence_transformers import SentenceTransformer

import embedworks as ew
from embedworks.modules import POOLINGS, LatentAttentionPooling, TokenPooling
from embedworks.reproductions import stdlib_retrieval

ROUNDS = 15


def main() -> None:
    """Measure and print."""
    where = machine()
    plain: Any = ew.load("minilm", device="cpu")
    dim = plain.get_embedding_dimension()
    poolings: dict[str, TokenPooling] = {name: POOLINGS[name](dim) for name in POOLINGS}
    poolings["latent-attention, published sizes"] = LatentAttentionPooling.published(dim)
    models = {
        name: SentenceTransformer(modules=[plain[0], pooling, plain[2]], device="cpu").eval()
        for name, pooling in poolings.items()
    }
    models = {"sentence-transformers mean": plain, **models}
    task = stdlib_retrieval(200, queries=32, seed=0).task("test")
    texts = sorted((str(text) for text in dict(task.corpus).values()), key=len)[100:132]
    features = plain.preprocess(texts)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for model in models.values():
            model(dict(features))
        for _ in range(ROUNDS):
            for name, model in models.items():
                started = time.perf_counter()
                model(dict(features))
                seconds[name].append(time.perf_counter() - started)
    base = seconds["sentence-transformers mean"]
    rows = {}
    for name, found in seconds.items():
        ratios = sorted(mine / theirs for mine, theirs in zip(found, base, strict=True))
        weights = 0 if name not in poolings else sum(p.numel() for p in poolings[name].parameters())
        rows[name] = {
            "milliseconds": round(1000 * statistics.median(found), 2),
            "ratio": round(statistics.median(ratios), 3),
            "ratio_quartiles": [round(ratios[ROUNDS // 4], 3), round(ratios[-ROUNDS // 4], 3)],
            "weights": weights,
        }
        print(f"{name:36s} {rows[name]}")
    write_result(
        "latent_pooling",
        {
            "machine": where,
            "versions": versions("torch", "transformers", "sentence-transformers"),
            "shape": list(features["input_ids"].shape),
            "tokens": int(features["attention_mask"].sum()),
            "rounds": ROUNDS,
            "peak_memory_mb": peak_memory_mb(),
            "poolings": rows,
        },
    )


if __name__ == "__main__":
    main()
