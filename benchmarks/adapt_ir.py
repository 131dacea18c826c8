"""Does adapting without labels help real queries? One judged collection, end to end.

    python benchmarks/adapt_ir.py --corpus C.parquet --queries Q.parquet --qrels R.parquet
    python benchmarks/adapt_ir.py --collection cranfield --base minilm --budget 10m

The corpus has columns doc_id, title, text; queries query_id, text; qrels query_id, doc_id,
relevance. Adaptation sees the corpus alone. Beside the systems of `embedworks evaluate` the table
has plain reciprocal-rank fusion (k = 60) of BM25 with the base model and with the adapted one.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from pathlib import Path

from _common import machine, peak_memory_mb, versions, write_result

import embedworks as ew
from embedworks.evaluation import compare_runs, format_table, load_qrels, load_queries
from embedworks.index import reciprocal_rank_fusion
from embedworks.training import SYSTEM_LABELS, AdaptSettings, rank_judged_queries

METRICS = ("ndcg@10", "recall@10", "mrr@10", "map@100")
LABELS = {
    **SYSTEM_LABELS,
    "base_rrf": "base + BM25, RRF 60",
    "adapted_rrf": "adapted + BM25, RRF 60",
}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--queries", type=Path)
    parser.add_argument("--qrels", type=Path)
    parser.add_argument("--collection", help="name of ir_NAME_*.parquet under the data folder")
    parser.add_argument("--base", default="static")
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", type=Path, help="settings other than the default")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--json", action="store_true", help="print the JSON, not the table")
    arguments = parser.parse_args()
    if arguments.collection:
        root = Path(os.environ.get("EMBEDWORKS_DATA", "../shared/data"))
        for part in ("corpus", "queries", "qrels"):
            setattr(arguments, part, root / f"ir_{arguments.collection}_{part}.parquet")
    if not (arguments.corpus and arguments.queries and arguments.qrels):
        parser.error("give --corpus, --queries and --qrels, or --collection")
    name = arguments.collection or arguments.corpus.stem
    warnings.simplefilter("ignore", ew.errors.DataWarning)

    queries, qrels = load_queries(arguments.queries), load_qrels(arguments.qrels)
    about = machine()
    base = (
        AdaptSettings() if arguments.recipe is None else AdaptSettings.from_yaml(arguments.recipe)
    )
    # Judgements name documents by id, so those with the same text must all stay.
    settings = base.replace(reading={**base.reading.to_dict(), "keep_duplicates": True})
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = ew.adapt(
            arguments.corpus,
            out=Path(folder) / "run",
            base=arguments.base,
            budget=arguments.budget,
            seed=arguments.seed,
            recipe=settings,
        )
        seconds = time.perf_counter() - start
        runs, costs = rank_judged_queries(result.path, queries)
        stages = json.loads((result.path / "run.json").read_text())["stages"]
    for system in ("base", "adapted"):
        runs[f"{system}_rrf"] = {
            query: fused(runs["bm25"].get(query, {}), runs[system].get(query, {}))
            for query in queries
        }
    order = ("bm25", "base", "base_rrf", "base_hybrid", "adapted", "adapted_rrf", "hybrid")
    comparison = compare_runs(
        {system: runs[system] for system in order},
        qrels,
        baseline=["bm25", "base", "base_rrf"],
        metrics=METRICS,
        seed=arguments.seed,
    )
    value = {
        "question": "does adapting without labels help real queries?",
        "collection": name,
        "base": arguments.base,
        "budget": arguments.budget,
        "seed": arguments.seed,
        "seconds": round(seconds, 1),
        "stage_seconds": {stage: round(v["seconds"], 1) for stage, v in stages.items()},
        "peak_memory_mb": peak_memory_mb(),
        "weight": result.weight,
        "merge": result.merge,
        "bm25_weights": {
            name: stages["merge"]["info"][name] for name in ("bm25_weight", "base_bm25_weight")
        },
        "chunks": result.chunks,
        "pairs": result.pairs,
        "ms_per_query": {system: round(cost, 2) for system, cost in costs.items()},
        "metrics": {
            system: {label: round(i.mean, 4) for label, i in scores.intervals.items()}
            for system, scores in comparison.results.items()
        },
        "ndcg@10_minus": {
            baseline: {
                system: [round(d["ndcg@10"].mean, 4), round(d["ndcg@10"].low, 4),
                         round(d["ndcg@10"].high, 4)]
                for system, d in systems.items()
            }
            for baseline, systems in comparison.differences.items()
        },
        "machine": about,
        "versions": versions("embedworks", "numpy", "torch", "sentence-transformers"),
    }  # fmt: skip
    path = write_result(f"adapt_ir_{name}_{Path(arguments.base).name}", value, arguments.out)
    if arguments.json:
        print(json.dumps(value, indent=2))
        return
    print(f"{name}, base {arguments.base}: {seconds:.0f} s. {result.merge}\n")
    print(format_table(comparison, labels=LABELS))
    print(f"\n{path}")


def fused(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    """Fuse two scored lists by reciprocal rank with k = 60."""
    names = sorted({*first, *second})
    number = {name: i for i, name in enumerate(names)}
    lists = [
        [number[doc] for doc in sorted(scores, key=lambda doc: (-scores[doc], doc))]
        for scores in (first, second)
    ]
    ids, scores = reciprocal_rank_fusion(lists, k=60)
    return {names[i]: float(s) for i, s in zip(ids, scores, strict=True)}


if __name__ == "__main__":
    main()
