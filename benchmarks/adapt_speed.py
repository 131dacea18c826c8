"""How long does adapting the bundled model to about 10,000 chunks take, stage by stage?

The corpus is the Python standard library, files added in order of name until there are 10,000
chunks. Every run is a process of its own; the median and the spread are reported.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from _common import machine, versions, write_result

CHILD = """
import json, sys, time
start = time.perf_counter()
import embedworks as ew
from _common import peak_memory_mb
result = ew.adapt(sys.argv[1], out=sys.argv[2], base="static", budget=sys.argv[3])
seconds = time.perf_counter() - start
stages = json.load(open(sys.argv[2] + "/run.json"))["stages"]
means = {
    name: system["intervals"]["ndcg@10"]["mean"]
    for name, system in result.results["comparison"]["results"].items()
}
print(json.dumps({
    "seconds": seconds,
    "stages": {name: stage["seconds"] for name, stage in stages.items()},
    "chunks": result.chunks, "pairs": result.pairs, "weight": result.weight,
    "peak_memory_mb": peak_memory_mb(), "ndcg@10": means,
}))
"""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        documents = Path(folder) / "documents"
        collect(documents, arguments.chunks)
        runs = []
        for number in range(arguments.runs):
            done = subprocess.run(
                [sys.executable, "-c", CHILD, str(documents), f"{folder}/run{number}",
                 arguments.budget],
                capture_output=True, text=True, cwd=Path(__file__).parent, check=False,
            )  # fmt: skip
            if done.returncode:
                sys.exit(done.stderr)
            runs.append(json.loads(done.stdout.strip().splitlines()[-1]))
            shutil.rmtree(f"{folder}/run{number}")
            print(f"run {number + 1}: {runs[-1]['seconds']:.1f} s", file=sys.stderr)
    seconds = [run["seconds"] for run in runs]
    value = {
        "question": "how long does adapting static to 10,000 chunks take?",
        "target_seconds": 60,
        "median_seconds": round(statistics.median(seconds), 1),
        "min_seconds": round(min(seconds), 1),
        "max_seconds": round(max(seconds), 1),
        "runs": runs,
        "machine": about,
        "versions": versions("embedworks", "numpy", "torch"),
    }
    path = write_result("adapt_speed", value, arguments.out)
    print(
        f"{runs[0]['chunks']} chunks: median {value['median_seconds']} s "
        f"({value['min_seconds']} to {value['max_seconds']}), "
        f"peak {max(run['peak_memory_mb'] for run in runs):.0f} MB, "
        f"nDCG@10 base {runs[0]['ndcg@10']['base']:.3f}, "
        f"adapted {runs[0]['ndcg@10']['adapted']:.3f}"
    )
    print(path)


def collect(target: Path, chunks: int) -> None:
    """Copy files of the standard library until they give enough chunks."""
    from embedworks.data import chunk_documents, read_documents

    library = Path(sysconfig.get_path("stdlib"))
    exclude = ("test", "tests", "idlelib", "lib2to3", "config-*", "encodings", "pydoc_data")
    documents = list(read_documents(library, exclude=exclude, show_progress=False))
    counts: dict[str, int] = {}
    for chunk in chunk_documents(documents, show_progress=False):
        counts[chunk.path] = counts.get(chunk.path, 0) + 1
    total = 0
    for path in sorted(counts):
        if total >= chunks:
            break
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library / path, target / path)
        total += counts[path]


if __name__ == "__main__":
    main()
