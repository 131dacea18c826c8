"""How fast is filtered search, plan by plan, and what does choosing gain? One thread.

Synthetic: clustered unit vectors with a uniform integer (ranges of any selectivity), and a
cluster label ("far": a range of labels that avoids the query's). Every query has a filter of
its own and its cost is included. Contestants run interleaved, in rounds:
the planner, each plan alone, and faiss (HNSW and IVF with a bitmap selector).

    python benchmarks/filtered_search.py [--rows 100000] [--dim 128] [--queries 100] [--rounds 3]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
from _common import machine, peak_memory_mb, versions, write_result

from embedworks.index import FilteredIndex
from embedworks.index.where import Between, Condition

K = 10
SHARES = (0.5, 0.1, 0.01, 0.001)
WIDTHS = (16, 32, 64, 128, 256)
Answer = Callable[[int], np.ndarray]


def world(rows: int, dim: int, queries: int) -> tuple[np.ndarray, np.ndarray, pa.Table, list[int]]:
    """Return vectors, queries, attributes and each query's cluster."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(200, dim))
    label = rng.integers(0, 200, rows + queries)
    points = centers[label] + 0.7 * rng.normal(size=(rows + queries, dim))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    table = pa.table({"number": rng.permutation(rows), "cluster": label[:rows]})
    return points[:rows], points[rows:], table, label[rows:].tolist()


def filters(cell: str, rows: int, clusters: list[int]) -> list[Condition]:
    """Return one filter per query for a cell, such as ``"0.1"`` or ``"far 0.01"``."""
    rng = np.random.default_rng(1)
    share = float(cell.split()[-1])
    if cell.startswith("far"):
        starts = [(own + 100) % 198 for own in clusters]
        width = round(200 * share) - 1
        return [Between("cluster", start, start + width) for start in starts]
    width = round(rows * share)
    starts = rng.integers(0, rows - width + 1, len(clusters)).tolist()
    return [Between("number", start, start + width - 1) for start in starts]


def mask_of(condition: Condition, table: dict[str, np.ndarray]) -> np.ndarray:
    """Evaluate a range with numpy, as the peers must."""
    assert isinstance(condition, Between)
    values = table[condition.column]
    return (values >= condition.low) & (values <= condition.high)


def peers(vectors: np.ndarray) -> tuple[dict[str, Any], dict[str, float]]:
    """Build faiss indexes; returns them and their build seconds."""
    built, seconds = {}, {}
    for name in ("faiss HNSW", "faiss IVF"):
        started = time.perf_counter()
        if name == "faiss HNSW":
            index = faiss.IndexHNSWFlat(vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = 100
        else:
            flat = faiss.IndexFlatIP(vectors.shape[1])
            index = faiss.IndexIVFFlat(flat, vectors.shape[1], 512, faiss.METRIC_INNER_PRODUCT)
            index.train(vectors)
        index.add(vectors)
        built[name], seconds[name] = index, round(time.perf_counter() - started, 2)
    return built, seconds


def faiss_answer(
    index: Any, value: int, queries: np.ndarray, wheres: list[Condition], columns: dict[str, Any]
) -> Answer:
    """Search faiss under a bitmap made for every query."""

    def answer(number: int) -> np.ndarray:
        bits = np.packbits(mask_of(wheres[number], columns), bitorder="little")
        selector = faiss.IDSelectorBitmap(bits)
        if isinstance(index, faiss.IndexHNSW):
            parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=value)
        else:
            parameters = faiss.SearchParametersIVF(sel=selector, nprobe=value)
        return index.search(queries[number : number + 1], K, params=parameters)[1][0]

    return answer


def main() -> None:
    """Measure every cell and write ``results/filtered_search.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    vectors, queries, table, clusters = world(options.rows, options.dim, options.queries)
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    started = time.perf_counter()
    index = FilteredIndex.build(vectors, table, ordered=["number", "cluster"])
    built, seconds = peers(vectors)
    seconds["embedworks"] = round(time.perf_counter() - started - sum(seconds.values()), 2)
    cells = {}
    for cell in [*(str(share) for share in SHARES), "far 0.01"]:
        wheres = filters(cell, options.rows, clusters)
        truth = [
            index.search(queries[i : i + 1], K, where=where, plan="exact").rows[0]
            for i, where in enumerate(wheres)
        ]
        contestants: dict[str, Answer] = {}
        for plan in ("auto", "exact", "graph", "two-hop"):

            def ours(number: int, plan: str = plan, wheres: Any = wheres) -> np.ndarray:
                query = queries[number : number + 1]
                return index.search(query, K, where=wheres[number], plan=plan).rows[0]

            contestants["planner" if plan == "auto" else plan] = ours
        for name, peer in built.items():
            for value in WIDTHS if name == "faiss HNSW" else (4, 8, 16, 32, 64):
                answer = faiss_answer(peer, value, queries, wheres, columns)
                contestants[f"{name} {value}"] = answer
        times: dict[str, list[float]] = {name: [] for name in contestants}
        hits = dict.fromkeys(contestants, 0)
        for round_number in range(options.rounds):
            for name, answer in contestants.items():
                index._kept.clear()  # filters are not remembered from the round before
                for number, expected in enumerate(truth):
                    began = time.perf_counter()
                    found = answer(number)
                    times[name].append(time.perf_counter() - began)
                    if not round_number:
                        hits[name] += len(set(found.tolist()) & set(expected.tolist()))
        total = sum(len(expected) for expected in truth)
        cells[cell] = {
            name: {
                "recall@10": round(hits[name] / total, 4),
                "qps": round(1 / float(np.mean(values))),
                "median us": round(1e6 * float(np.median(values)), 1),
            }
            for name, values in times.items()
        }
        for name, row in cells[cell].items():
            print(cell, name, row)
    result = {
        "machine": machine(),
        "versions": versions("faiss-cpu", "numba", "numpy"),
        "settings": {"rows": options.rows, "dim": options.dim, "k": K, "threads": 1,
                     "queries": options.queries, "rounds": options.rounds},
        "build_seconds": seconds,
        "memory_bytes": index.memory(),
        "peak_memory_mb": peak_memory_mb(),
        "cells": cells,
    }  # fmt: skip
    write_result("filtered_search", result, options.out)


if __name__ == "__main__":
    main()
