"""What does a durable collection cost at a million rows: opening, first search, changes, kills?

Rows have a text of 20 words (Zipf-distributed over 200,000), three attributes and a random vector.
Opening and first searches are timed in processes of their own, with the files in the page cache;
LanceDB's own search of the same table stands beside them. Changes are timed in the order a user
would make them, each durable when the call returns; this collection has no graph.

With ``--planned`` a collection of clustered vectors gets one, and the same searches run planned and
exact, in turns of processes: queries one at a time and 200 together, under one filter each, which
the first search evaluates. With ``--folder`` these collections are kept, and used again when they
are there already: a run that was stopped goes on. What a killed writer leaves is a record of its
own, ``collection_kills.json``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _common import machine, peak_memory_mb, versions, write_result

from embedworks.index import Collection

CHILD = """
import json, sys, time
def lap():
    global last
    now = time.perf_counter(); spent = now - last; last = now
    return round(1e3 * spent, 2)
last = time.perf_counter()
import numpy as np
out = {"import_numpy_ms": lap()}
path, dim = sys.argv[1], int(sys.argv[2])
query = np.random.default_rng(5).standard_normal(dim)
last = time.perf_counter()
if sys.argv[3] == "embedworks":
    from embedworks.index import Collection
    out["import_ms"] = lap()
    collection = Collection.open(path)
    out["open_ms"] = lap()
    searches = {
        "bm25": dict(query="w7 w1234 w77", mode="bm25"),
        "dense": dict(vector=query, mode="dense"),
        "dense_filtered_1_percent": dict(vector=query, mode="dense", where="part = 7"),
        "hybrid": dict(query="w7 w1234 w77", vector=query),
    }
    last = time.perf_counter()
    for turn in ("first", "second"):
        for name, options in searches.items():
            assert len(collection.search(k=10, **options)) == 10
            out[f"{turn}_{name}_ms"] = lap()
    times = []
    for _ in range(7):
        last = time.perf_counter()
        again = Collection.open(path)
        times.append(lap())
    out["open_again_ms"] = sorted(times)[3]
else:
    import lancedb
    out["import_ms"] = lap()
    table = lancedb.connect(path).open_table("rows")
    out["open_ms"] = lap()
    searches = {
        "dense": lambda: table.search(query).metric("cosine").limit(10),
        "dense_filtered_1_percent": lambda: (
            table.search(query).metric("cosine").where("part = 7", prefilter=True).limit(10)
        ),
    }
    for turn in ("first", "second"):
        for name, search in searches.items():
            assert search().to_arrow().num_rows == 10
            out[f"{turn}_{name}_ms"] = lap()
print(json.dumps(out))
"""


def rows(first: int, count: int, dim: int) -> tuple[pa.Table, np.ndarray]:
    """Make rows with ids from ``first`` on, and their vectors."""
    rng = np.random.default_rng(first)
    words = np.array([f"w{n}" for n in range(200_000)])
    drawn = words[np.minimum(rng.zipf(1.2, size=(count, 20)) - 1, len(words) - 1)]
    table = pa.table(
        {
            "chunk_id": [f"c{n}" for n in range(first, first + count)],
            "title": pa.array([f"Part {n % 1000}" for n in range(first, first + count)]),
            "text": [" ".join(line) for line in drawn.tolist()],
            "year": pa.array(rng.integers(1990, 2026, count)),
            "part": pa.array(rng.integers(0, 100, count)),
            "venue": pa.array(rng.choice(["acl", "emnlp", "naacl", "eacl"], count)),
        }
    )
    return table, rng.standard_normal((count, dim), dtype=np.float32)


def in_child(path: Path, dim: int, contestant: str) -> dict[str, float]:
    """Open and search in a process of its own; the median of three."""
    found = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(path), str(dim), contestant],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.append(json.loads(done.stdout))
    return {name: statistics.median(entry[name] for entry in found) for name in found[0]}


def seconds(action: Callable[[], Any]) -> float:
    """Time an action."""
    started = time.perf_counter()
    action()
    return round(time.perf_counter() - started, 3)


def size_mb(path: Path) -> float:
    """Size of a folder."""
    return round(sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) / 2**20, 1)


def create(path: Path, count: int, dim: int) -> float:
    """Store the rows and make their cache."""
    table, vectors = rows(0, count, dim)
    return seconds(lambda: Collection.create(path, table, vectors, index="exact"))


def changes(path: Path, count: int, dim: int) -> dict[str, Any]:
    """Change the collection as a user would; every call is durable when it returns."""
    collection = Collection.open(path)
    out: dict[str, Any] = {}

    def upsert(batch: int, times: int, new_share: float) -> float:
        rng = np.random.default_rng(batch)
        spent = 0.0
        for number in range(times):
            fresh = int(batch * new_share)
            table, vectors = rows(count + 100_000 * batch + number * batch, batch, dim)
            old = rng.choice(count, batch - fresh, replace=False)
            ids = [f"c{n}" for n in old] + table["chunk_id"].to_pylist()[batch - fresh :]
            table = table.set_column(0, "chunk_id", pa.array(ids))
            spent += seconds(lambda t=table, v=vectors: collection.upsert(t, v))
        return round(batch * times / spent, 1)

    out["upsert_one_row_at_a_time_rows_per_s"] = upsert(1, 20, 1.0)
    out["upsert_1000_rows_half_new_rows_per_s"] = upsert(1000, 10, 0.5)
    out["upsert_20000_rows_half_new_rows_per_s"] = upsert(20_000, 2, 0.5)
    out["cache_after_upserts_s"] = seconds(collection.prepare)
    shutil.rmtree(path / "cache")
    out["cache_from_nothing_s"] = seconds(lambda: Collection.open(path))
    out["update_1_percent_s"] = seconds(lambda: collection.update({"year": 0}, where="part = 3"))
    out["remove_1_percent_s"] = seconds(lambda: collection.remove(where="part = 4"))
    out["table_before_compaction_mb"] = size_mb(path / "rows.lance")
    out["compact_s"] = seconds(lambda: collection.compact(keep=1))
    out["table_after_compaction_mb"] = size_mb(path / "rows.lance")
    out["cache_after_update_remove_compact_s"] = seconds(collection.prepare)
    out["cache_mb"] = size_mb(path / "cache")
    out["verify_s"] = seconds(collection.verify)
    return out


PLANNED = """
import json, sys, time
import numpy as np
from embedworks.index import Collection

path, index = sys.argv[1:3]
queries = np.load(sys.argv[3])
def peak_mb():
    status = open("/proc/self/status").read()  # unlike getrusage, without the parent's memory
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)
started = time.perf_counter()
collection = Collection.open(path, index=index)
out = {"open_ms": 1e3 * (time.perf_counter() - started), "peak_mb_opened": peak_mb()}
started = time.perf_counter()
collection.search(vector=queries[0], mode="dense")
out["first_search_ms"] = 1e3 * (time.perf_counter() - started)
if index == "planned":  # otherwise it scans until loading the compiled plans pays
    started = time.perf_counter()
    from embedworks.index import FilteredIndex
    out["load_plans_ms"] = 1e3 * (time.perf_counter() - started)
    started = time.perf_counter()
    collection.search(vector=queries[0], mode="dense")
    out["first_planned_search_ms"] = 1e3 * (time.perf_counter() - started)
rows = {}
for name, where in json.loads(sys.argv[4]).items():
    # The first search evaluates the filter, the next ones find it kept.
    many = lambda part: collection.search_many(vectors=part, mode="dense", where=where)
    started = time.perf_counter()
    many(queries[:1])
    out[f"{name} first ms"] = 1e3 * (time.perf_counter() - started)
    for query in queries[:20]:
        many(query[None])
    started = time.perf_counter()
    rows[name] = [many(query[None]).rows[0].tolist() for query in queries]
    out[f"{name} qps"] = len(queries) / (time.perf_counter() - started)
    started = time.perf_counter()
    many(queries)
    out[f"{name} qps in a batch"] = len(queries) / (time.perf_counter() - started)
    told = collection.explain(vector=queries[0], mode="dense", where=where)
    out[f"{name} plan"] = told.plan[0]
out["peak_mb_searched"] = peak_mb()
out["parts_mb"] = {part: round(size / 2**20, 1) for part, size in collection.memory().items()}
print(json.dumps({"figures": out, "rows": rows}))
"""

FILTERS = {"all": None, "50 %": "part < 50", "10 %": "part < 10", "1 %": "part = 7"}


def planned(path: Path, count: int, dim: int, turns: int) -> dict[str, Any]:
    """Search a collection planned and exact, in turns of processes; medians and recall."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(10, count // 100), dim), dtype=np.float32)

    def clustered(number: int) -> np.ndarray:
        moved = rng.standard_normal((number, dim), dtype=np.float32)
        vectors = centres[rng.integers(0, len(centres), number)] + 0.8 * moved
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    table, _ = rows(0, count, dim)
    vectors = clustered(count)
    queries = path.with_name(f"{path.name}-queries.npy")
    np.save(queries, clustered(200))
    told = path.with_name(f"{path.name}.json")
    if not told.is_file():
        shutil.rmtree(path, ignore_errors=True)
        Collection.create(path, table, vectors, index="exact")
        size = size_mb(path / "cache")
        spent = seconds(lambda: Collection.open(path, index="planned"))
        made = {"graph_s": spent, "graph_mb_on_disk": round(size_mb(path / "cache") - size, 1)}
        told.write_text(json.dumps(made))
    result = {"rows": count, "dim": dim, **json.loads(told.read_text())}
    found: dict[str, list[Any]] = {"exact": [], "planned": []}
    for _ in range(turns):
        for index, runs in found.items():
            done = subprocess.run(
                [sys.executable, "-c", PLANNED, str(path), index, str(queries),
                 json.dumps(FILTERS)],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            runs.append(json.loads(done.stdout))
    for index, runs in found.items():
        figures = [run["figures"] for run in runs]
        result[index] = {
            name: round(statistics.median(entry[name] for entry in figures), 2)
            if isinstance(value, float)
            else value
            for name, value in figures[0].items()
        }
    for name in FILTERS:
        pairs = zip(found["exact"][0]["rows"][name], found["planned"][0]["rows"][name], strict=True)
        hits = [len(set(truth) & set(rows)) / len(truth) for truth, rows in pairs]
        result["planned"][f"{name} recall@10"] = round(float(np.mean(hits)), 4)
    result["changes"] = changes_under_a_graph(path, count, dim)
    return result


def changes_under_a_graph(path: Path, count: int, dim: int) -> dict[str, float]:
    """Change a copy of a collection with a graph, and make the cache that takes the graph over."""
    copy = path.with_name(f"{path.name}-changed")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path, copy)
    collection = Collection.open(copy, index="planned")
    table, vectors = rows(count - 500, 1000, dim)  # half of them are there already
    out = {"upsert_1000_rows_s": seconds(lambda: collection.upsert(table, vectors))}
    out["cache_with_graph_s"] = seconds(collection.prepare)
    shutil.rmtree(copy)
    return out


def kill_summary(kills: int) -> dict[str, Any]:
    """Kill a writer at random moments; see tests/references/kill_harness.py."""
    harness = Path(__file__).parents[1] / "tests" / "references" / "kill_harness.py"
    done = subprocess.run(
        [sys.executable, str(harness), "--kills", str(kills)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return json.loads(done.stdout) if done.returncode == 0 else {"failed": done.stderr[-2000:]}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument(
        "--planned", type=int, nargs="*", default=[], help="Rows to compare planned and exact at."
    )
    parser.add_argument("--only-planned", action="store_true", help="Leave out the other parts.")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="Keep the planned collections here.")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "question": __doc__.split("\n")[0],
        "machine": machine(),
        "versions": versions("lancedb", "pyarrow", "numpy"),
        "rows": arguments.rows,
        "dim": arguments.dim,
    }
    for count in arguments.planned:
        with tempfile.TemporaryDirectory() as temporary:
            folder = arguments.folder or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"rows-{count}-{arguments.dim}"
            found = planned(path, count, arguments.dim, arguments.turns)
            result.setdefault("planned_and_exact", []).append(found)
    if arguments.only_planned:
        del result["rows"]
        print(write_result("collection-planned", result, arguments.out))
        print(json.dumps(result, indent=2))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "collection"
        result["create_with_cache_s"] = create(path, arguments.rows, arguments.dim)
        result["opening"] = in_child(path, arguments.dim, "embedworks")
        result["lancedb_alone"] = in_child(path, arguments.dim, "lancedb")
        result["changes"] = changes(path, arguments.rows, arguments.dim)
        result["opening_after_changes"] = in_child(path, arguments.dim, "embedworks")
    result["peak_memory_mb"] = peak_memory_mb()
    print(write_result("collection", result, arguments.out))
    print(json.dumps(result, indent=2))
    if arguments.kills:
        about = {name: result[name] for name in ("question", "machine", "versions")}
        killed = {**about, **kill_summary(arguments.kills)}
        out = arguments.out
        out = out and out.with_name(f"{out.stem}_kills.json")
        print(write_result("collection_kills", killed, out))
        print(json.dumps(killed, indent=2))


if __name__ == "__main__":
    main()
