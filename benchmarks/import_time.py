"""How long until something useful happens in a cold process?

Each row is a fresh interpreter, timed from inside, several times in turn; the median counts.

    python benchmarks/import_time.py --json benchmarks/results/import_time.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from static_encode import make_folder

PROLOGUE = "import time; started = time.perf_counter()\n"
EPILOGUE = f"""
seconds = time.perf_counter() - started
import json, sys
sys.path.insert(0, {str(Path(__file__).resolve().parent)!r})
from static_encode import peak_rss_mb
print(json.dumps({{"seconds": seconds, "peak_rss_mb": peak_rss_mb()}}))
"""


def jobs(folder: Path | None) -> dict[str, str]:
    """Return the program of each row; ``folder`` is None for the bundled model."""
    name = "static" if folder is None else str(folder)
    vector = "encode(['How do I open a file?'])"
    return {
        "import numpy": "import numpy",
        "import embedworks": "import embedworks",
        "first static vector": f"import embedworks as ew; ew.load({name!r}).{vector}",
        "import torch": "import torch",
        "import sentence_transformers": "import sentence_transformers",
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    with tempfile.TemporaryDirectory() as scratch:
        folder: Path | None = Path(scratch) / "model"
        described = make_folder(folder)
        if described == "bundled static model":
            folder = None
        else:
            from embedworks.models import load, write_golden

            write_golden(folder, load(folder))
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in jobs(folder)}
        load_before = os.getloadavg()[0]
        for number in range(options.repeats + 1):
            for name, code in jobs(folder).items():
                program = PROLOGUE + code + EPILOGUE
                command = [sys.executable, "-c", program]
                done = subprocess.run(
                    command, capture_output=True, text=True, check=True, env=environment
                )
                if number:  # the first round fills the disk cache
                    rows[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(f"  round {number}/{options.repeats}", file=sys.stderr)
    report = {
        "question": "seconds until done in a cold process",
        "model": described,
        "repeats": options.repeats,
        "rows": {
            name: {
                "median_s": sorted(run["seconds"] for run in runs)[len(runs) // 2],
                "min_s": min(run["seconds"] for run in runs),
                "max_s": max(run["seconds"] for run in runs),
                "peak_rss_mb": max(run["peak_rss_mb"] for run in runs),
            }
            for name, runs in rows.items()
        },
        "machine": {
            "cpus": os.cpu_count(),
            "load_average_before": load_before,
            "python": platform.python_version(),
        },
    }
    print(f"{described}; load average {load_before:.1f}")
    print(f"{'':30}{'median s':>10}{'min s':>8}{'max s':>8}{'peak MB':>9}")
    for name, row in report["rows"].items():
        print(
            f"{name:30}{row['median_s']:>10.3f}{row['min_s']:>8.3f}{row['max_s']:>8.3f}"
            f"{row['peak_rss_mb']:>9.0f}"
        )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
