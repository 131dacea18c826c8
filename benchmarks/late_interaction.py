"""What does compressed late interaction cost and find, beside exact MaxSim?

MiniLM's token vectors of the first documents of the Vaswani collection, and its 93 judged queries.
One query at a time, on as many cores as the process is given; all contestants take turns at every
query, each time in another order. A row has the median over all turns with the 10th and the 90th
percentile, and the ratio of exact search's median to it. Recall is of the ten documents that exact
search over float32 tokens of all dimensions finds; storage is everything an index holds, over these
tokens in float16. nDCG knows no document that was left out.

    EMBEDWORKS_DATA=DATA python benchmarks/late_interaction.py --cache CACHE
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from _common import machine, peak_memory_mb, versions, write_result

from embedworks.evaluation import DataFolder, ndcg_at_k
from embedworks.index import MaxSimIndex, MuveraIndex, PlaidIndex, pool_documents
from embedworks.reproductions import FrozenTokens

K = 10
EIGHTH = 84  # bytes of a code with which all of the index is an eighth of float16


class PlainMaxSim:
    """Exact MaxSim in three lines of numpy, the way one writes it first."""

    def __init__(self, tokens):
        self.tokens, self.offsets = tokens.tokens.astype(np.float32), tokens.offsets

    def search(self, queries, k):
        """Return ids and scores, as the indexes do; tokens have unit length already."""
        products = self.tokens @ queries[0].T
        scores = np.maximum.reduceat(products, self.offsets[:-1], axis=0).sum(axis=1)
        best = np.argsort(-scores)[:k]
        return best[None], scores[best][None]

    def memory(self):
        """Return the bytes held, by part."""
        return {"tokens": self.tokens.nbytes, "offsets": self.offsets.nbytes}


def contestants(tokens, centroids):
    """Yield ``(name, function that builds the index, search options to try)``; exact is first."""
    for storage in ("float32", "float16", "int8"):
        yield f"exact {storage}", lambda s=storage: MaxSimIndex(tokens, storage=s), ({},)
    yield "plain numpy float32", lambda: PlainMaxSim(tokens), ({},)
    middle = {"probes": 32, "candidates": 1024, "finalists": 64}
    yield (
        f"plaid {EIGHTH} bytes",
        lambda: PlaidIndex(tokens, bits=8 * EIGHTH / tokens.dim, centroids=centroids),
        (
            {"probes": 4, "candidates": 256, "finalists": 32},
            {"probes": 8, "candidates": 256, "finalists": 64},
            {"probes": 16, "candidates": 512, "finalists": 64},
            middle,
            {"probes": 64, "candidates": 2048, "finalists": 128},
        ),
    )
    halves = {}

    def pooled(factor):
        if factor not in halves:
            halves[factor] = pool_documents(tokens, factor)
        return halves[factor]

    for size in (48, 96, 192):
        yield (
            f"plaid {size} bytes",
            lambda b=8 * size / tokens.dim: PlaidIndex(tokens, bits=b, centroids=centroids),
            (middle,),
        )
    yield (
        "plaid 154 bytes of tokens pooled by 2",
        lambda: PlaidIndex(pooled(2), bits=3.2, centroids=centroids),
        (middle,),
    )
    for factor in (2, 4):
        yield (
            f"exact float16 of tokens pooled by {factor}",
            lambda f=factor: MaxSimIndex(pooled(f), storage="float16"),
            ({},),
        )
    yield (
        "muvera",
        lambda: MuveraIndex(tokens, repetitions=20, planes=4, projected=16, storage="float16"),
        ({"candidates": 100}, {"candidates": 400}),
    )


def built(tokens, centroids, only):
    """Build the contestants whose name has one of ``only``, and exact search.

    Returns ``(name, seconds to build, index, search options)`` of each.
    """
    entries = []
    for name, build, options in contestants(tokens, centroids):
        if entries and not any(part in name for part in only):
            continue
        started = time.perf_counter()
        index = build()
        seconds = time.perf_counter() - started
        for chosen in options:
            label = " ".join([name, *(f"{key}={value}" for key, value in chosen.items())])
            entries.append((label, seconds, index, chosen))
    return entries


def main():
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=11429)
    parser.add_argument("--centroids", type=int, default=512)
    parser.add_argument("--only", nargs="*", default=[""], help="parts of names; exact is added")
    parser.add_argument("--rounds", type=int, default=3)
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
    tokens = frozen([row["text"] for row in corpus][: options.documents])
    matrix = frozen([row["text"] for row in asked])
    queries = [matrix.document(m).astype(np.float32) for m in range(len(matrix))]
    entries = built(tokens, options.centroids, options.only)
    times = {name: [] for name, *_ in entries}
    found = {name: [] for name, *_ in entries}
    for _, _, index, chosen in entries:
        index.search(queries[:1], K, **chosen)
    order = np.random.default_rng(0)
    for turn in range(options.rounds):
        for query in queries:
            for number in order.permutation(len(entries)):
                name, _, index, chosen = entries[number]
                started = time.perf_counter()
                ids = index.search([query], K, **chosen)[0][0]
                times[name].append(time.perf_counter() - started)
                if turn == 0:
                    found[name].append(ids)
    truth = found[entries[0][0]]
    rows = []
    base = np.median(times[entries[0][0]])
    for name, seconds, index, _ in entries:
        recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(found[name], truth)])
        quality = [
            ndcg_at_k([names[m] for m in ids], qrels[row["query_id"]], K)
            for ids, row in zip(found[name], asked)
        ]
        size = sum(index.memory().values())
        low, median, high = (1000 * float(v) for v in np.percentile(times[name], (10, 50, 90)))
        rows.append(
            {
                "name": name, "recall@10": round(float(recall), 4),
                "ndcg@10": round(float(np.mean(quality)), 4),
                "median_ms": round(median, 2), "p10_ms": round(low, 2), "p90_ms": round(high, 2),
                "times_exact": round(float(1000 * base / median), 2),
                "bytes_per_document": round(size / len(names), 1),
                "share_of_float16": round(size / (tokens.tokens.size * 2), 4),
                "build_seconds": round(seconds, 1),
            }
        )  # fmt: skip
        print(*(f"{value:>10}" for value in list(rows[-1].values())[1:]), name, flush=True)
    setup = {
        "documents": len(names), "tokens": len(tokens.tokens), "dim": tokens.dim,
        "centroids": options.centroids,
        "queries": len(queries), "rounds": options.rounds,
        "query_tokens": round(len(matrix.tokens) / len(queries), 1),
        "peak_memory_mb": peak_memory_mb(),
    }  # fmt: skip
    about |= versions("numpy", "numba", "faiss-cpu", "sentence-transformers")
    write_result("late_interaction", {"machine": about, "setup": setup, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
