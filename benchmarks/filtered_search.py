"""How fast is filtered search at a given recall, method by method? One query at a time, one thread.

Our planner, each of its plans alone, our filtered graphs and other libraries, on generated
clusters or on the ACL Anthology (97,435 papers, MiniLM, titles as queries). Filters of four kinds
pass 50 to 0.01 % of the rows, with rows anywhere, near the query or far from it. Every query has
a filter of its own, whose cost is included; methods take turns in every round; answers are checked
against exact scores. What is measured, and how, is `embedworks.evaluation.compare_filtered`.

    python benchmarks/filtered_search.py
    python benchmarks/filtered_search.py --rows 1000000 --kinds range set --build-threads 8
    python benchmarks/filtered_search.py --columns kind tags --labels kind tags --kinds exact set
    EMBEDWORKS_DATA=DATA python benchmarks/filtered_search.py --data acl --vectors FOLDER

FOLDER holds ``acl-minilm-documents.npy``, ``acl-minilm-titles.npy`` and
``acl-minilm-titles_only.npy``; what is missing is encoded and kept there (an hour on a CPU).
Pin the process to one core (``taskset -c 2``) for engines that bring threads of their own.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from _common import RESULTS, machine, peak_memory_mb, versions, write_result

from embedworks.evaluation import (
    FILTER_KINDS,
    FILTERED_METHODS,
    DataFolder,
    FilteredData,
    FilteredReport,
    compare_filtered,
    filtered_workload,
    render_filtered_curves,
    render_filtered_speeds,
    synthetic_filtered_data,
)


def acl(folder: Path, queries: int, seed: int) -> FilteredData:
    """Return papers with and without abstracts; titles of some of the former ask."""
    with_abstract = pyarrow.parquet.read_table(DataFolder().path("acl_abstracts.parquet"))
    titles_only = pyarrow.parquet.read_table(DataFolder().path("acl_titles_only.parquet"))
    titles = with_abstract.column("title").to_pylist()
    abstracts = with_abstract.column("abstract").to_pylist()
    texts = {
        "documents": [f"{title}. {text}" for title, text in zip(titles, abstracts, strict=True)],
        "titles": titles,
        "titles_only": titles_only.column("title").to_pylist(),
    }
    vectors = {name: minilm(folder / f"acl-minilm-{name}.npy", texts[name]) for name in texts}
    columns = ("year", "month", "venue", "authors", "booktitle", "language", "volume_type", "place")
    columns = (*columns, "n_chars")
    table = pa.concat_tables(
        [with_abstract.select(columns), titles_only.select([c for c in columns if c in
                                                            titles_only.column_names])],
        promote_options="default",
    )  # fmt: skip
    asked = np.random.default_rng(seed).choice(len(titles), queries, replace=False)
    return FilteredData.of(
        np.concatenate([vectors["documents"], vectors["titles_only"]]),
        table,
        vectors["titles"][np.sort(asked)],
    )


def minilm(path: Path, texts: list[str]) -> np.ndarray:
    """Read vectors, or make them."""
    if path.is_file():
        return np.load(path, allow_pickle=False).astype(np.float32)
    import embedworks as ew

    vectors = np.asarray(ew.load("minilm").encode(texts), dtype=np.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, vectors)
    return vectors.astype(np.float32)


def rounded(value: Any) -> Any:
    """Keep five digits of every number: more would be noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, (list, tuple)) else value


def write(report: FilteredReport, about: dict[str, Any], path: Path) -> None:
    """Write a record, and two plots beside it."""
    write_result(path.stem, rounded({**about, **report.to_dict()}), path)
    path.with_name(f"{path.stem}-speeds.svg").write_text(render_filtered_speeds(report))
    path.with_name(f"{path.stem}-curves.svg").write_text(render_filtered_curves(report))


def join(paths: list[Path], out: Path) -> None:
    """Join records of the same methods and data, measured kind by kind, into one."""
    records = [json.loads(path.read_text()) for path in paths]
    reports = [FilteredReport.from_dict(record) for record in records]
    first = records[0]
    about = {name: first[name] for name in ("machine", "versions", "data")}
    about["peak_memory_mb"] = max(record["peak_memory_mb"] for record in records)
    skipped = {name: why for report in reports for name, why in report.skipped_cells.items()}
    cells = [cell for report in reports for cell in report.cells]
    write(replace(reports[0], cells=cells, skipped_cells=skipped), about, out)


def main() -> None:
    """Measure, and write a record and two plots below ``results/``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("clusters", "acl"), default="clusters")
    parser.add_argument("--vectors", type=Path, help="folder of MiniLM's vectors, for acl")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=FILTER_KINDS)
    parser.add_argument("--shares", nargs="+", type=float,
                        default=(0.5, 0.1, 0.01, 0.001, 0.0001))  # fmt: skip
    parser.add_argument("--columns", nargs="+", help="attributes to draw filters from")
    parser.add_argument("--ordered", nargs="+", default=(), help="columns to build ranges for")
    parser.add_argument("--labels", nargs="+", default=(), help="columns to build labels for")
    parser.add_argument("--methods", nargs="+", help="default: all that are installed")
    parser.add_argument("--without", nargs="+", default=(), help="methods to leave out")
    parser.add_argument("--slowest", type=float, default=0.05, help="seconds a query at most")
    parser.add_argument("--build-threads", type=int, default=1)
    parser.add_argument("--keep-filters", action="store_true",
                        help="filters seen before may be kept")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="record to write; plots go beside it")
    parser.add_argument("--join", nargs="+", type=Path, metavar="RECORD",
                        help="only join records of other kinds, into OUT")  # fmt: skip
    options = parser.parse_args()
    if options.join:
        if options.out is None:
            parser.error("--join needs --out")
        join(options.join, options.out)
        return
    if options.data == "acl":
        if options.vectors is None:
            parser.error("--data acl needs --vectors FOLDER")
        data = acl(options.vectors, options.queries, options.seed)
    else:
        data = synthetic_filtered_data(
            options.rows, options.dim, options.queries, seed=options.seed
        )
    data = replace(
        data,
        table=data.table.select(options.columns or data.table.column_names),
        ordered=tuple(options.ordered),
        labels=tuple(options.labels),
    )
    name = f"filtered_search_{options.data}"
    if options.data == "clusters":
        name += f"_{options.rows // 1000}k"
    path = options.out or RESULTS / f"{name}.json"
    about = {
        "machine": machine(),
        "versions": versions("faiss-cpu", "numba", "numpy", "pyarrow"),
        "data": options.data,
    }

    def keep(report: FilteredReport) -> None:
        cell = report.cells[-1]
        best, planner = report.best(cell), report.standing(cell, "planner")
        print(
            f"{cell.name:24s} {'nobody' if best is None else best.method:24s}"
            f" {0 if best is None else best.qps:9,.0f} QPS, planner {planner.share_of_best:.2f}",
            flush=True,
        )
        write(report, {**about, "peak_memory_mb": peak_memory_mb()}, path)

    chosen = options.methods or FILTERED_METHODS.names()
    workload = filtered_workload(
        data, kinds=options.kinds, shares=options.shares, seed=options.seed
    )
    report = compare_filtered(
        workload,
        [method for method in chosen if method not in options.without],
        rounds=options.rounds,
        slowest=options.slowest,
        build_threads=options.build_threads,
        keep_filters=options.keep_filters,
        seed=options.seed,
        on_cell=keep,
    )
    for method in report.methods:
        print(f"{method:24s} best in {report.wins(method):2d} cells, at worst"
              f" {report.worst_share(method):.3f} of the best, built in"
              f" {report.builds[method].seconds:.1f} s")  # fmt: skip


if __name__ == "__main__":
    main()
