"""How fast is search over all rows at a given recall, beside other libraries? One thread.

The walk of the filtered index over all its rows (`SearchGraph`), its planner, hnswlib and usearch
where they are installed, and faiss' HNSW, on generated clusters or on the ACL Anthology (97,435
papers, MiniLM, titles as queries). Methods take turns in every round at every width of the beam;
queries come one a call, and all in one call where a method can. Answers are checked against exact
scores.

    python benchmarks/unfiltered_search.py
    EMBEDWORKS_DATA=DATA python benchmarks/unfiltered_search.py --data acl --vectors FOLDER

FOLDER is as in ``filtered_search.py``. Pin the process to one core (``taskset -c 2``) for
engines that bring threads of their own.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from _common import RESULTS, machine, peak_memory_mb, versions, write_result
from filtered_search import acl, rounded

from embedworks.evaluation import (
    FilteredData,
    FilteredReport,
    render_filtered_curves,
    synthetic_filtered_data,
)
from embedworks.evaluation.filtered.report import BuildCost, CellReport, Point
from embedworks.index.attributes import AttributeTable
from embedworks.index.exact import ExactIndex
from embedworks.index.filtered.graph import Graph
from embedworks.index.filtered.lists import InvertedLists
from embedworks.index.filtered.planned import FilteredIndex
from embedworks.index.filtered.planner import Calibration, Planner
from embedworks.index.filtered.search_graph import SearchGraph

K = 10
WIDTHS = (16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0, 384.0)
ONE, ALL = "one query a call", "all queries in one call"
TARGETS = (0.95, 0.99)


@dataclass(frozen=True)
class Contestant:
    """``ask(queries, value)`` returns rows (Q, 10); ``calls`` says which cells it takes part in."""

    ask: Callable[[np.ndarray, float], np.ndarray]
    nbytes: int
    values: tuple[float, ...] = WIDTHS
    calls: tuple[str, ...] = (ONE, ALL)


def ours(data: FilteredData) -> Contestant:
    """Build lists and graph."""
    lists = InvertedLists.build(data.vectors, similarity="cosine")
    search = SearchGraph(Graph.build(lists), lists)
    alive = np.ones(len(data.vectors), dtype=np.uint8)

    def ask(queries: np.ndarray, value: float) -> np.ndarray:
        return search.search(data.vectors, queries, K, ef=int(value), alive=alive)[0]

    nbytes = data.vectors.nbytes + lists.nbytes() + search.graph.nbytes() + search.nbytes()
    return Contestant(ask, nbytes)


def planner(data: FilteredData) -> Contestant:
    """Build the whole index; the knob is the recall its planner aims at."""
    lists = InvertedLists.build(data.vectors, similarity="cosine")
    index = FilteredIndex(
        data.vectors,
        AttributeTable(data.table.select(["number"])),
        similarity="cosine",
        alive=np.ones(len(data.vectors), dtype=np.uint8),
        graph=Graph.build(lists),
        lists=lists,
        planner=Planner(Calibration(), TARGETS[0]),
    )
    index.calibrate()

    def ask(queries: np.ndarray, value: float) -> np.ndarray:
        if index.planner.target_recall != value:
            index.planner = Planner(index.planner.calibration, value)
        return np.array(index.search(queries, K).rows)

    return Contestant(ask, sum(index.memory().values()), TARGETS)


def hnswlib(data: FilteredData, links: int, ef_construction: int) -> Contestant:
    """Build hnswlib's index."""
    library: Any = importlib.import_module("hnswlib")
    rows, dim = data.vectors.shape
    index = library.Index(space="ip", dim=dim)
    index.init_index(max_elements=rows, M=links, ef_construction=ef_construction, random_seed=0)
    index.set_num_threads(1)
    index.add_items(data.vectors, np.arange(rows), num_threads=1)

    def ask(queries: np.ndarray, value: float) -> np.ndarray:
        index.set_ef(int(value))
        found: np.ndarray = index.knn_query(queries, K, num_threads=1)[0]
        return found

    return Contestant(ask, int(index.index_file_size()))


def faiss_hnsw(data: FilteredData) -> Contestant:
    """Build faiss' index."""
    index: Any = faiss.IndexHNSWFlat(data.vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 100
    index.add(data.vectors)

    def ask(queries: np.ndarray, value: float) -> np.ndarray:
        index.hnsw.efSearch = int(value)
        found: np.ndarray = index.search(queries, K)[1]
        return found

    return Contestant(ask, int(faiss.serialize_index(index).nbytes))


def usearch(data: FilteredData) -> Contestant:
    """Build usearch's index."""
    library: Any = importlib.import_module("usearch.index")
    rows, dim = data.vectors.shape
    index = library.Index(ndim=dim, metric="ip", dtype="f32", connectivity=16, expansion_add=100)
    index.add(np.arange(rows), data.vectors, threads=1)

    def ask(queries: np.ndarray, value: float) -> np.ndarray:
        index.expansion_search = int(value)
        found: np.ndarray = index.search(queries, K, threads=1).keys
        return found.reshape(len(queries), K)

    return Contestant(ask, int(index.memory_usage))


METHODS: Mapping[str, Callable[[FilteredData], Contestant]] = {
    "embedworks, graph": ours,
    "embedworks, planner": planner,
    "hnswlib M 16": lambda data: hnswlib(data, 16, 100),
    "hnswlib M 32": lambda data: hnswlib(data, 32, 200),
    "faiss HNSW 16": faiss_hnsw,
    "usearch 16": usearch,
}


def build(names: list[str], data: FilteredData) -> tuple[dict[str, Contestant], dict]:
    """Build what can be built here; returns contestants, and what building took."""
    contestants, costs = {}, {}
    for name in names:
        before, started = peak_memory_mb(), time.perf_counter()
        contestants[name] = METHODS[name](data)
        seconds = time.perf_counter() - started
        higher = peak_memory_mb() - before
        costs[name] = BuildCost(seconds, contestants[name].nbytes, higher)
        print(f"{name:24s} built in {seconds:.1f} s", flush=True)
    return contestants, costs


def measure(
    contestants: dict[str, Contestant], data: FilteredData, true: list[set[int]], rounds: int
) -> tuple[CellReport, ...]:
    """Time every method at every value in turns, and count what it finds."""
    seconds, recalls = defaultdict(list), {}
    for round_ in range(-1, rounds):  # the first warms up
        for step in range(len(WIDTHS)):
            for name, one in contestants.items():
                for call in one.calls if step < len(one.values) else ():
                    value = one.values[step]
                    parts = [data.queries] if call == ALL else list(data.queries[:, None])
                    one.ask(parts[0][:1], value)
                    started = time.perf_counter()
                    found = [one.ask(part, value) for part in parts]
                    took = (time.perf_counter() - started) / len(data.queries)
                    if round_ >= 0:
                        seconds[call, name, value].append(took)
                    hits = [
                        len(truth & set(row))
                        for truth, row in zip(true, np.concatenate(found).tolist(), strict=True)
                    ]
                    recalls[call, name, value] = float(np.mean(hits)) / K
    cells = []
    for call in (ONE, ALL):
        points = []
        for (kind, name, value), times in seconds.items():
            if kind == call:
                # Single queries are not timed apart, so the median and the tail are the mean's.
                middle = float(np.median(times))
                recall = recalls[kind, name, value]
                points.append(Point(name, value, recall, 0, 0, tuple(times), middle, max(times)))
        cells.append(CellReport(call, "none", 1.0, "none", 1.0, 0.0, 0, "", tuple(points)))
    return tuple(cells)


def main() -> None:
    """Measure, and write a record and a plot below ``results/``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("clusters", "acl"), default="clusters")
    parser.add_argument("--vectors", type=Path, help="folder of MiniLM's vectors, for acl")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="record to write; the plot goes beside it")
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    if options.data == "acl":
        if options.vectors is None:
            parser.error("--data acl needs --vectors FOLDER")
        data = acl(options.vectors, options.queries, options.seed)
        data = FilteredData(data.vectors, data.table.append_column(
            "number", [np.arange(len(data.vectors))]), data.queries)  # fmt: skip
    else:
        data = synthetic_filtered_data(
            options.rows, options.dim, options.queries, seed=options.seed
        )
    names = options.methods
    missing = {
        name: f"{library} is not installed"
        for name in names
        for library in ("hnswlib", "usearch")
        if library in name and importlib.util.find_spec(library) is None
    }
    exact = ExactIndex(data.vectors, similarity="dot").search(data.queries, K)[0]
    about = {"machine": machine(), "versions": versions("faiss-cpu", "numba", "numpy")}
    contestants, costs = build([name for name in names if name not in missing], data)
    cells = measure(contestants, data, [set(row) for row in exact.tolist()], options.rounds)
    report = FilteredReport(
        {"rows": len(data.vectors), "dim": data.vectors.shape[1], "queries": len(data.queries),
         "k": K, "rounds": options.rounds, "seed": options.seed, "data": options.data},
        TARGETS[0], ("embedworks, planner",), costs, cells, skipped_methods=missing,
    )  # fmt: skip
    name = f"unfiltered_search_{options.data}"
    path = options.out or RESULTS / f"{name}.json"
    record = {**about, "peak_memory_mb": peak_memory_mb(), **report.to_dict()}
    write_result(name, rounded(record), path)
    path.with_suffix(".svg").write_text(render_filtered_curves(report, columns=2))
    for cell in cells:
        for method in contestants:
            for target in TARGETS:
                point = cell.fastest(method, target)
                what = "not reached"
                if point is not None:
                    what = f"{point.qps:9,.0f} queries/s ({point.value:g}: {point.recall:.4f})"
                print(f"{cell.name:24s} {method:24s} recall >= {target}: {what}")


if __name__ == "__main__":
    main()
