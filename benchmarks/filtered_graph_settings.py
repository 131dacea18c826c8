"""What do the settings of the filtered graphs buy? Recall, time, build and bytes. One thread.

Clustered unit vectors with a permutation (ranges), a skewed value and a skewed set of labels.
Every arm of a family answers the same queries; arms take turns, in rounds, and the median time
counts. Scans are switched off, so that each walk is seen where it is weak too. One filter serves
a whole batch.

    python benchmarks/filtered_graph_settings.py [--rows 20000] [--dim 64] [--queries 200]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _common import machine, peak_memory_mb, versions, write_result

from embedworks import index as indexes
from embedworks.index import evaluate

K = 10
RANGES = (0.5, 1 / 12, 1 / 48)

#: Family -> arms: class, settings; the filters are those of `filters`.
ARMS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "density": [
        ("AcornIndex", {"gamma": gamma, "links": links})
        for links in (16, 32)
        for gamma in (1, 4, 12)
    ],
    "ranges": [
        *(("SegmentGraphIndex", {"column": "place", "leap": leap}) for leap in (0.0, 0.5, 1.0)),
        ("SegmentGraphIndex", {"column": "place", "candidates": 200}),
        ("RangeTreeIndex", {"column": "place"}),
        ("AcornIndex", {}),
    ],
    "labels": [
        ("FilteredVamanaIndex", {"column": "tags"}),
        ("StitchedVamanaIndex", {"column": "tags"}),
        *(("UngIndex", {"column": "tags", "cross_links": cross}) for cross in (2, 6, 24)),
        ("AcornIndex", {}),
    ],
    "values": [
        ("FilteredVamanaIndex", {"column": "kind"}),
        ("UngIndex", {"column": "kind"}),
        ("PartitionIndex", {"columns": ["kind"]}),
        ("AcornIndex", {}),
    ],
}  # fmt: skip


def world(rows: int, dim: int, queries: int) -> tuple[np.ndarray, np.ndarray, pa.Table]:
    """Return vectors, queries and attributes."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(max(1, rows // 60), dim))
    label = rng.integers(0, len(centers), rows + queries)
    points = centers[label] + 0.7 * rng.normal(size=(rows + queries, dim))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    shares = 1 / np.arange(1, 13)
    tags = [np.flatnonzero(rng.random(12) < 0.6 * shares).tolist() for _ in range(rows)]
    table = pa.table({
        "place": rng.permutation(rows),
        "kind": rng.choice(12, rows, p=shares / shares.sum()),
        "tags": pa.array(tags, pa.list_(pa.int64())),
    })  # fmt: skip
    return points[:rows], points[rows:], table


def filters(family: str, rows: int) -> list[str]:
    """Return the filters that all arms of a family serve."""
    if family in ("density", "ranges"):
        widths = [max(2 * K, round(rows * share)) for share in RANGES]
        return [f"place >= {rows // 3} AND place < {rows // 3 + width}" for width in widths]
    if family == "labels":
        return ["tags CONTAINS 0", "tags CONTAINS 3", "tags CONTAINS 1 OR tags CONTAINS 4"]
    return ["kind = 0", "kind = 5", "kind IN (1, 3)"]


def measure(
    family: str, vectors: np.ndarray, queries: np.ndarray, table: pa.Table, widths: list[int],
    rounds: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return one row per arm, filter and width."""
    built = []
    for name, settings in ARMS[family]:
        started = time.perf_counter()
        index = getattr(indexes, name).build(vectors, table, **settings)
        seconds = round(time.perf_counter() - started, 2)
        index.exact_below = 0
        held = index.memory()
        kept = sum(size for part, size in held.items() if not part.startswith(("vec", "attr")))
        built.append((name, settings, index, seconds, round(kept / len(vectors))))
    rows = []
    for where in filters(family, len(vectors)):
        mask = evaluate(where, table)
        scores = np.where(mask, queries @ vectors.T, -np.inf)
        truth = np.argpartition(-scores, K, axis=1)[:, :K]
        for width in widths:
            times: list[list[float]] = [[] for _ in built]
            recalls, fell_back = [0.0] * len(built), [0.0] * len(built)
            for _ in range(rounds):
                for number, (name, _, index, _, _) in enumerate(built):
                    wide = 20 * width if name == "PartitionIndex" else width
                    index.search(queries[:1], K, where=where, ef=wide)
                    started = time.perf_counter()
                    found = index.search(queries, K, where=where, ef=wide)
                    times[number].append(time.perf_counter() - started)
                    hits = [
                        len(np.intersect1d(a, b)) for a, b in zip(found.rows, truth, strict=True)
                    ]
                    recalls[number] = float(np.mean(hits)) / K
                    fell_back[number] = float(np.mean(["exact" in plan for plan in found.plans]))
            for number, (name, settings, _, seconds, kept) in enumerate(built):
                rows.append({
                    "family": family, "index": name, **settings, "where": where,
                    "share": round(float(mask.mean()), 4), "ef": width,
                    "recall": round(recalls[number], 4),
                    "microseconds": round(1e6 * float(np.median(times[number])) / len(queries), 1),
                    "scanned": round(fell_back[number], 3),
                    "build_seconds": seconds, "structure_bytes_per_row": kept,
                })  # fmt: skip
                print(rows[-1])
    return rows


def main() -> None:
    """Measure every family."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--families", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    vectors, queries, table = world(options.rows, options.dim, options.queries)
    rows = []
    for family in options.families:
        rows += measure(family, vectors, queries, table, options.widths, options.rounds)
    result = {
        "machine": machine(),
        "versions": versions("faiss-cpu", "numba", "numpy"),
        "settings": {"rows": options.rows, "dim": options.dim, "queries": options.queries,
                     "rounds": options.rounds, "k": K, "threads": 1},
        "peak_memory_mb": peak_memory_mb(),
        "rows": rows,
    }  # fmt: skip
    write_result("filtered_graph_settings", result, options.out)


if __name__ == "__main__":
    main()
