"""What does compressed late interaction cost and find, beside exact MaxSim?

MiniLM's token vectors of the Vaswani collection (11,429 abstracts, 93 judged queries). One query
at a time, on one core; all contestants take turns in every round, and the median round counts.
Recall is of the ten documents that exact search over float32 tokens finds; storage is everything
an index holds, over the tokens in float16.

    EMBEDWORKS_DATA=DATA python benchmarks/late_interaction.py --cache CACHE
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from _common import machine, peak_memory_mb, versions, write_result

from embedworks.evaluation import DataFolder, ndcg_at_k
from embedworks.index import MaxSimIndex, MuveraIndex, PlaidIndex, TokenMatrix, pool_documents
from embedworks.reproductions import FrozenTokens

K = 10


def contestants(tokens):
    """Yield ``(name, seconds to build, index, search options)``; exact search is first."""

    def timed(name, build, *options):
        started = time.perf_counter()
        index = build()
        seconds = time.perf_counter() - started
        for chosen in options or ({},):
            label = " ".join([name, *(f"{key}={value}" for key, value in chosen.items())])
            yield label, seconds, index, chosen

    for storage in ("float32", "float16", "int8"):
        yield from timed(f"exact {storage}", lambda s=storage: MaxSimIndex(tokens, storage=s))
    yield from timed(
        "plaid 2 bits 256 dims 4096 centroids",
        lambda: PlaidIndex(tokens, bits=2, dims=256, centroids=4096),
        {"probes": 4, "candidates": 64},
        {"probes": 8, "candidates": 128},
        {"probes": 16, "candidates": 256},
        {"probes": 32, "candidates": 512},
    )
    yield from timed(
        "plaid 4 bits 128 dims 4096 centroids",
        lambda: PlaidIndex(tokens, bits=4, dims=128, centroids=4096),
        {"probes": 16, "candidates": 256},
    )
    yield from timed(
        "plaid 2 bits 2048 centroids",
        lambda: PlaidIndex(tokens, bits=2, centroids=2048),
        {"probes": 16, "candidates": 256},
    )
    for factor in (2, 4):
        yield from timed(
            f"exact float16, pooled by {factor}",
            lambda f=factor: MaxSimIndex(pool_documents(tokens, f), storage="float16"),
        )
    yield from timed(
        "muvera",
        lambda: MuveraIndex(tokens, repetitions=20, planes=4, projected=16, storage="float16"),
        {"candidates": 100},
        {"candidates": 400},
    )


def main():
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=11_429)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="contestants whose name has this, and exact")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    about = machine()
    data, frozen = DataFolder(), FrozenTokens("minilm", cache=options.cache, device="cpu")
    corpus = data.records("ir_vaswani_corpus.parquet", ["doc_id", "text"])
    asked = data.records("ir_vaswani_queries.parquet", ["query_id", "text"])
    qrels = {}
    for row in data.records("ir_vaswani_qrels.parquet", ["query_id", "doc_id", "relevance"]):
        qrels.setdefault(row["query_id"], {})[row["doc_id"]] = int(row["relevance"])
    names = [row["doc_id"] for row in corpus][: options.documents]
    tokens = frozen([row["text"] for row in corpus])
    tokens = TokenMatrix(
        tokens.tokens[: tokens.offsets[len(names)]], tokens.offsets[: len(names) + 1]
    )
    matrix = frozen([row["text"] for row in asked])
    queries = [matrix.document(m).astype(np.float32) for m in range(len(matrix))]
    entries = [
        entry for entry in contestants(tokens)
        if options.only in entry[0] or entry[0] == "exact float32"
    ]  # fmt: skip
    truth = entries[0][2].search(queries, K)[0]
    times = {name: [] for name, *_ in entries}
    found = {}
    for _ in range(options.rounds):
        for name, _, index, chosen in entries:
            index.search(queries[:1], K, **chosen)
            started = time.perf_counter()
            found[name] = [index.search([query], K, **chosen)[0][0] for query in queries]
            times[name].append((time.perf_counter() - started) / len(queries))
    rows = []
    base = np.median(times[entries[0][0]])
    for name, seconds, index, _ in entries:
        recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(found[name], truth)])
        quality = [
            ndcg_at_k([names[m] for m in ids], qrels[row["query_id"]], K)
            for ids, row in zip(found[name], asked)
        ]
        size = sum(index.memory().values())
        rows.append(
            {
                "name": name, "recall@10": round(float(recall), 4),
                "ndcg@10": round(float(np.mean(quality)), 4),
                "queries_per_second": round(1 / float(np.median(times[name])), 1),
                "times_exact": round(float(base / np.median(times[name])), 2),
                "bytes_per_document": round(size / len(names), 1),
                "share_of_float16": round(size / (tokens.tokens.size * 2), 4),
                "build_seconds": round(seconds, 1),
            }
        )  # fmt: skip
        print(*(f"{value:>10}" for value in list(rows[-1].values())[1:]), name, flush=True)
    setup = {
        "documents": len(names), "tokens": len(tokens.tokens), "dim": tokens.dim,
        "queries": len(queries), "query_tokens": round(len(matrix.tokens) / len(queries), 1),
        "rounds": options.rounds, "peak_memory_mb": peak_memory_mb(),
    }  # fmt: skip
    about |= versions("numpy", "numba", "faiss-cpu", "sentence-transformers")
    write_result("late_interaction", {"machine": about, "setup": setup, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
