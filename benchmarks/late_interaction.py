"""What does compressed late interaction cost and find, beside exact MaxSim?

MiniLM's token vectors of the first documents of the Vaswani collection, and its 93 judged queries.
One query at a time, on as many cores as the process is given; all contestants take turns at every
query, each time in another order, and the mean over the queries counts. Recall is of the ten
documents that exact search over float32 tokens finds; storage is everything an index holds, over
the tokens in float16. nDCG knows no document that was left out.

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
    yield from timed("plain numpy float32", lambda: PlainMaxSim(tokens))
    middle = {"probes": 16, "candidates": 256}
    yield from timed(
        "plaid 77 bytes",
        lambda: PlaidIndex(tokens, bits=1.6, centroids=centroids),
        {"probes": 4, "candidates": 64},
        {"probes": 8, "candidates": 128},
        middle,
        {"probes": 32, "candidates": 512},
    )
    halves = pool_documents(tokens, 2)
    for name, bits, kept in (
        ("plaid 48 bytes", 1, tokens),
        ("plaid 96 bytes", 2, tokens),
        ("plaid 192 bytes", 4, tokens),
        ("plaid 154 bytes of tokens pooled by 2", 3.2, halves),
    ):
        yield from timed(
            name, lambda b=bits, t=kept: PlaidIndex(t, bits=b, centroids=centroids), middle
        )
    for factor, pooled in ((2, halves), (4, pool_documents(tokens, 4))):
        yield from timed(
            f"exact float16 of tokens pooled by {factor}",
            lambda p=pooled: MaxSimIndex(p, storage="float16"),
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
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--centroids", type=int, default=1024)
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
    tokens = frozen([row["text"] for row in corpus][: options.documents])
    matrix = frozen([row["text"] for row in asked])
    queries = [matrix.document(m).astype(np.float32) for m in range(len(matrix))]
    entries = [
        entry for entry in contestants(tokens, options.centroids)
        if options.only in entry[0] or entry[0] == "exact float32"
    ]  # fmt: skip
    times = {name: [] for name, *_ in entries}
    found = {name: [] for name, *_ in entries}
    for _, _, index, chosen in entries:
        index.search(queries[:1], K, **chosen)
    order = np.random.default_rng(0)
    for query in queries:
        for number in order.permutation(len(entries)):
            name, _, index, chosen = entries[number]
            started = time.perf_counter()
            ids = index.search([query], K, **chosen)[0][0]
            times[name].append(time.perf_counter() - started)
            found[name].append(ids)
    truth = found[entries[0][0]]
    rows = []
    base = np.mean(times[entries[0][0]])
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
                "queries_per_second": round(1 / float(np.mean(times[name])), 1),
                "times_exact": round(float(base / np.mean(times[name])), 2),
                "bytes_per_document": round(size / len(names), 1),
                "share_of_float16": round(size / (tokens.tokens.size * 2), 4),
                "build_seconds": round(seconds, 1),
            }
        )  # fmt: skip
        print(*(f"{value:>10}" for value in list(rows[-1].values())[1:]), name, flush=True)
    setup = {
        "documents": len(names), "tokens": len(tokens.tokens), "dim": tokens.dim,
        "centroids": options.centroids,
        "queries": len(queries), "query_tokens": round(len(matrix.tokens) / len(queries), 1),
        "peak_memory_mb": peak_memory_mb(),
    }  # fmt: skip
    about |= versions("numpy", "numba", "faiss-cpu", "sentence-transformers")
    write_result("late_interaction", {"machine": about, "setup": setup, "rows": rows}, options.json)


if __name__ == "__main__":
    main()
