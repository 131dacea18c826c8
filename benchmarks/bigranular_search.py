"""What do codes in memory and vectors on disk cost, and what do they find? One thread.

Ours (`TwoTierIndex`: codes in memory, float16 vectors in a file) against faiss: exact search, HNSW
over float32, OPQ codes alone, and IVF with OPQ codes refined by float32 vectors in memory.
Queries are asked one by one, contestants interleaved in rounds, files in the page cache; "cold"
rows drop the cache before every query.

Memory is counted twice. "memory MB" is what the index holds: codes, scales, rotation, codewords
(rows are their own ids). "resident MB" is what a process of its own holds more after opening the
index and asking 50 queries than before, with code and libraries already loaded: the working arrays
of a search are in it, and pages of the vectors' file that the system could drop are not; those are
"resident file MB".

Recall is of the exact search's best 10 and 100, and of the judged documents.

    python benchmarks/bigranular_search.py --vectors DOCUMENTS.npy [MORE.npy] --asked QUERIES.npy
    python benchmarks/bigranular_search.py --collection vaswani

With --folder, indexes built there earlier are used again.

Query i of the file is judged to want document i. A collection (cranfield, vaswani) has judgements
of its own and is encoded with MiniLM.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from _common import machine, versions, write_result

from embedworks.index import TwoTierIndex
from embedworks.index.quantized.two_tier import PAGE

K = 100
FEW_DIM = 64
CANDIDATES = (100, 150, 200, 300, 500, 1000)
Search = Callable[[np.ndarray], np.ndarray]


def vectors_of(
    files: list[Path], asked: Path, count: int
) -> tuple[np.ndarray, np.ndarray, list[set[int]]]:
    """Return documents, an even sample of the queries, and each query's own document."""
    documents = np.concatenate([np.load(file).astype(np.float32) for file in files])
    queries = np.load(asked, mmap_mode="r")
    rows = np.linspace(0, len(queries) - 1, min(count, len(queries))).astype(int)
    return documents, queries[rows].astype(np.float32), [{int(row)} for row in rows]


def encoded(name: str) -> tuple[np.ndarray, np.ndarray, list[set[int]]]:
    """Return the same for a judged collection of the data folder."""
    import embedworks
    from embedworks.evaluation import DataFolder

    data = DataFolder()
    corpus = data.records(f"ir_{name}_corpus.parquet", ("doc_id", "title", "text"))
    asked = data.records(f"ir_{name}_queries.parquet", ("query_id", "text"))
    judged = data.records(f"ir_{name}_qrels.parquet", ("query_id", "doc_id", "relevance"))
    place = {record["doc_id"]: row for row, record in enumerate(corpus)}
    positives: dict[str, set[int]] = {record["query_id"]: set() for record in asked}
    for record in judged:
        if record["relevance"] > 0 and record["doc_id"] in place:
            positives[record["query_id"]].add(place[record["doc_id"]])
    texts = [f"{r['title'] or ''} {r['text'] or ''}".strip() or "-" for r in corpus]
    model = embedworks.load("minilm")
    both = [np.asarray(model.encode(part)) for part in (texts, [r["text"] for r in asked])]
    return both[0], both[1], list(positives.values())


def build(name: str, documents: np.ndarray, path: Path) -> None:
    """Build a contestant and write it to ``path``."""
    dim, kind, *rest = documents.shape[1], *name.split()
    if kind == "embedworks":
        codes, size = (rest[0], int(rest[1])) if rest[0] == "opq" else (rest[0], None)
        TwoTierIndex.build(path, documents, codes=codes, subspaces=size, storage="float16")
        return
    lists = max(16, round(4 * len(documents) ** 0.5))
    recipe = {
        "exact": "Flat", "hnsw": "HNSW32", "opq": f"OPQ{rest[-1]},PQ{rest[-1]}",
        "ivfopq": f"OPQ{rest[-1]},IVF{lists},PQ{rest[-1]},RFlat",
    }[rest[0]]  # fmt: skip
    index = faiss.index_factory(dim, recipe, faiss.METRIC_INNER_PRODUCT)
    if rest[0] == "hnsw":
        index.hnsw.efConstruction = 100
    if "OPQ" in recipe:  # the same training as ours, which takes most of the time
        chain = index.base_index if rest[0] == "ivfopq" else index
        turn = faiss.downcast_VectorTransform(faiss.downcast_index(chain).chain.at(0))
        turn.niter, turn.max_train_points = 20, 16_384
    index.train(documents)
    index.add(documents)
    faiss.write_index(index, str(path))


def open_index(name: str, path: Path) -> Any:
    """Open what `build` wrote."""
    return TwoTierIndex.load(path) if name.startswith("embedworks") else faiss.read_index(str(path))


def searches(name: str, index: Any, total: int) -> dict[str, Search]:
    """Return one search per setting of effort."""
    if name.startswith("embedworks"):
        return {
            f"{name}, {count} candidates": lambda query, n=count: index.search(
                query, K, candidates=n
            )[0]
            for count in CANDIDATES[: 1 if "int8" in name else None]  # nearly exact alone
            if count < total
        }
    kind = name.split()[1]
    if kind == "hnsw":
        efforts = {
            f"{name}, ef {ef}": faiss.SearchParametersHNSW(efSearch=ef) for ef in (100, 200, 400)
        }
    elif kind == "ivfopq":
        efforts = {
            f"{name}, {probes} lists, {factor * K} refined": faiss.IndexRefineSearchParameters(
                k_factor=factor,
                base_index_params=faiss.SearchParametersPreTransform(
                    index_params=faiss.SearchParametersIVF(nprobe=probes)
                ),
            )
            for probes in (16, 64, 256)
            for factor in (2, 5)
        }
    else:
        efforts = {name: None}
    return {
        title: lambda query, given=effort: index.search(query, K, params=given)[1]
        for title, effort in efforts.items()
    }


def weigh(name: str, index: Any, place: Path, documents: np.ndarray) -> dict[str, float]:
    """Return what a contestant holds by its own count, and a process that has only it."""
    float32 = documents.nbytes
    if isinstance(index, TwoTierIndex):
        few = np.random.default_rng(0).normal(size=(300, FEW_DIM)).astype(np.float32)
        size = {"subspaces": 8} if "opq" in name else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 300 vectors are few for 256 codewords
            TwoTierIndex.build(
                place.parent / "few" / place.name, few, codes=name.split()[1], storage="float16",
                **size,
            )  # fmt: skip
    command = [sys.executable, __file__, "--memory", name, str(place)]
    command.append(str(place.parent / "queries.npy"))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    memory = json.loads(done.stdout)
    facts = {
        "resident MB": memory["RssAnon"], "resident file MB": memory["RssFile"],
        "process MB": memory["process"],
    }  # fmt: skip
    if isinstance(index, TwoTierIndex):
        held = sum(index.memory().values())
        facts["disk MB"] = round(index.disk() / 2**20, 1)
    else:
        held = place.stat().st_size
    return facts | {
        "memory MB": round(held / 2**20, 2),
        "memory bytes per document": round(held / len(documents), 2),
        "float32 over memory": round(float32 / held, 2),
        "float32 over resident": round(float32 / 2**20 / max(memory["RssAnon"], 0.1), 2),
    }


def resident() -> dict[str, float]:
    """Return the resident memory of this process, in MB: its own, and pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return {part: round(int(values[part]) / 1024, 1) for part in ("RssAnon", "RssFile")}


def measure_memory(name: str, path: Path, queries: Path) -> None:
    """Open one index, ask 50 queries, and print what the process holds more than before."""
    asked = np.load(queries)[:50]
    faiss.omp_set_num_threads(1)
    faiss.IndexFlatIP(asked.shape[1]).search(asked[:1], 1)
    few = path.parent / "few" / path.name
    if few.exists():  # load what the code needs; built elsewhere, so that nothing is left over
        open_index(name, few).search(np.ones((1, FEW_DIM), dtype=np.float32), 10, candidates=20)
    before = resident()
    index = open_index(name, path)
    search = list(searches(name, index, 10**9).values())[-1]
    for query in asked:
        search(query[None])
    after = resident()
    more = {part: round(after[part] - before[part], 1) for part in after}
    print(json.dumps(more | {"process": after["RssAnon"]}))


def read_from_disk() -> int:
    """Return the bytes that the system has fetched from storage for this process."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


def cold(index: TwoTierIndex, search: Search, queries: np.ndarray, path: Path) -> dict[str, float]:
    """Ask with the vectors out of the page cache."""
    seconds, read = [], 0
    with (path / "vectors.npy").open("rb") as file:
        for query in queries:
            index.vectors._mmap.madvise(mmap.MADV_DONTNEED)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            read -= read_from_disk()
            began = time.perf_counter()
            search(query[None])
            seconds.append(time.perf_counter() - began)
            read += read_from_disk()
    return {
        "cold median ms": round(1e3 * float(np.median(seconds)), 2),
        "cold pages from disk per query": round(read / PAGE / len(queries), 1),
    }


def shares(found: np.ndarray, wanted: list[set[int]], k: int) -> float:
    """Return the mean share of the wanted documents within the first ``k``."""
    parts = [
        len(set(row[:k].tolist()) & set(goal)) / len(goal)
        for row, goal in zip(found, wanted, strict=True)
        if goal
    ]
    return round(float(np.mean(parts)), 4) if parts else float("nan")


def main() -> None:
    """Measure every contestant and write ``results/bigranular_search*.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--vectors", type=Path, nargs="+")
    source.add_argument("--collection", choices=("cranfield", "vaswani"))
    source.add_argument("--memory", nargs=3, metavar=("NAME", "INDEX", "QUERIES"))
    parser.add_argument("--asked", type=Path)
    parser.add_argument("--bytes", type=int, nargs="+", default=[24, 48, 96])
    parser.add_argument("--peer-bytes", type=int, nargs="+", default=[48])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--build-threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep indexes here, and use those there")
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.memory:
        return measure_memory(options.memory[0], *map(Path, options.memory[1:]))
    if options.vectors and not options.asked:
        parser.error("--vectors needs --asked")
    documents, queries, judged = (
        vectors_of(options.vectors, options.asked, options.queries)
        if options.vectors
        else encoded(options.collection)
    )
    documents, queries = (
        np.ascontiguousarray(part / np.linalg.norm(part, axis=1, keepdims=True), dtype=np.float32)
        for part in (documents, queries[: options.queries])
    )
    judged = judged[: len(queries)]
    names = ["faiss exact", "faiss hnsw", "embedworks binary", "embedworks int8"]
    names += [f"embedworks opq {size}" for size in options.bytes]
    for size in options.peer_bytes:
        names += [f"faiss opq {size}", f"faiss ivfopq {size}"]
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        places = {name: folder / name.replace(" ", "-") for name in names}
        np.save(folder / "queries.npy", queries)
        seconds = build_missing(places, documents, options.build_threads)
        if options.build_only:
            return None
        rows = measure(places, seconds, documents, queries, judged, options.rounds)
    result = {
        "machine": machine(),
        "versions": versions("faiss-cpu", "numba", "numpy"),
        "settings": {
            "source": options.collection or "MiniLM vectors", "documents": len(documents),
            "dim": documents.shape[1], "queries": len(queries), "k": K,
            "rounds": options.rounds, "search threads": 1, "build threads": options.build_threads,
            "float32 bytes per document": documents.shape[1] * 4,
        },
        "rows": rows,
    }  # fmt: skip
    suffix = f"_{options.collection}" if options.collection else ""
    write_result(f"bigranular_search{suffix}", result, options.out)


def build_missing(places: dict[str, Path], documents: np.ndarray, threads: int) -> dict[str, float]:
    """Build what is not there yet, and return the seconds that each took, now or then."""
    faiss.omp_set_num_threads(threads)
    seconds = {}
    for name, place in places.items():
        clock = place.with_name(f"{place.name}-seconds.json")
        if not clock.is_file():
            began = time.perf_counter()
            build(name, documents, place)
            clock.write_text(json.dumps(time.perf_counter() - began))
        seconds[name] = json.loads(clock.read_text())
        print(f"{name}: built in {seconds[name]:.1f} s", flush=True)
    return seconds


def measure(
    places: dict[str, Path], seconds: dict[str, float], documents: np.ndarray,
    queries: np.ndarray, judged: list[set[int]], rounds: int,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Open and time every contestant, then measure memory."""
    names = list(places)
    facts: dict[str, dict[str, Any]] = {n: {"build seconds": round(seconds[n], 2)} for n in names}
    opened = {name: open_index(name, places[name]) for name in names}
    faiss.omp_set_num_threads(1)
    truth = opened["faiss exact"].search(queries, K)[1]
    goals = {k: [set(row[:k].tolist()) for row in truth] for k in (10, K)}
    contestants = {
        title: (name, search)
        for name in names
        for title, search in searches(name, opened[name], len(documents)).items()
    }
    times: dict[str, list[float]] = {title: [] for title in contestants}
    rows: dict[str, dict[str, Any]] = {}
    for number in range(rounds):
        for title, (name, search) in contestants.items():
            index = opened[name]
            ours = isinstance(index, TwoTierIndex)
            if ours:
                index.bytes_read = index.pages_read = 0
            found = []
            for query in queries:
                began = time.perf_counter()
                found.append(search(query[None])[0])
                times[title].append(time.perf_counter() - began)
            if number:
                continue
            ids = np.stack(found)
            rows[title] = {"recall@10": shares(ids, goals[10], 10),
                           "recall@100": shares(ids, goals[K], K)}  # fmt: skip
            if any(judged):
                for k in (10, K):
                    rows[title][f"judged recall@{k}"] = shares(ids, judged, k)
            if ours:
                rows[title]["bytes read per query"] = round(index.bytes_read / len(queries))
                rows[title]["pages read per query"] = round(index.pages_read / len(queries), 1)
    for title, (name, search) in contestants.items():
        rows[title]["qps"] = round(1 / float(np.mean(times[title])), 1)
        rows[title]["median ms"] = round(1e3 * float(np.median(times[title])), 3)
        if isinstance(opened[name], TwoTierIndex):
            rows[title] |= cold(opened[name], search, queries[:30], places[name])
    for name in names:
        facts[name] |= weigh(name, opened[name], places[name], documents)
    for title, (name, _) in contestants.items():
        rows[title] |= facts[name]
        print(title, rows[title], flush=True)
    return rows


if __name__ == "__main__":
    main()
