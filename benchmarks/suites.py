"""What do the suites say of the models that need no hub, and what does it cost?

Runs every suite on MiniLM, the bundled model and BM25, and keeps figure, interval, seconds and
memory of every task. Vectors are cached by content in the folder given, so a second run is warm.

    EMBEDWORKS_DATA=DATA python benchmarks/suites.py --cache CACHE
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

from _common import machine, versions, write_result

from embedworks.errors import DataWarning
from embedworks.evaluation import (
    SUITES,
    Resampling,
    evaluate_systems,
    open_system,
    write_evaluation_report,
)


def main():
    """Run the suites and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--suites", nargs="+", default=SUITES.names())
    parser.add_argument("--systems", nargs="+", default=["minilm", "static", "bm25"])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--reports", type=Path, help="folder for a report per suite")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore", DataWarning)
    about, rows, totals, left_out = machine(), [], [], {}
    systems = [open_system(name, cache=options.cache) for name in options.systems]
    for suite in options.suites:
        tasks, missing = SUITES[suite].tasks()
        left_out |= {f"{suite}/{name}": why for name, why in missing.items()}
        results = []
        for system in systems:
            started = time.perf_counter()
            (result,) = evaluate_systems([system], tasks, resampling=Resampling())
            seconds = time.perf_counter() - started
            fresh = sum(one.cost.texts - one.cost.cached for one in result.tasks.values())
            totals.append(
                {"suite": suite, "system": system.name, "seconds": round(seconds, 1),
                 "tasks": len(result.tasks), "texts_encoded": fresh, "failed": dict(result.errors)}
            )  # fmt: skip
            print(f"{suite:<13} {system.name:<8} {len(result.tasks):>3} tasks {seconds:>7.1f} s",
                  flush=True)  # fmt: skip
            results.append(result)
            for name, one in result.tasks.items():
                interval = one.main.interval
                rows.append(
                    {
                        "suite": suite, "task": name, "kind": one.kind, "system": system.name,
                        "metric": one.metric, "mean": round(interval.mean, 4),
                        "low": round(interval.low, 4), "high": round(interval.high, 4),
                        "n": interval.n, "better": one.better,
                        "caveat": one.details.get("caveat"), "truncated": one.cost.truncated,
                        "seconds": round(one.cost.seconds, 2),
                        "memory_mb": one.cost.peak_memory_mb,
                    }
                )  # fmt: skip
        if options.reports is not None:
            write_evaluation_report(
                results, options.reports / f"{suite}.html", title=f"Suite {suite}"
            )
    result = {
        "question": "what do the suites say of the models that need no hub?",
        "totals": totals,
        "rows": rows,
        "left_out": left_out,
        "machine": about,
        "versions": versions("embedworks", "torch", "sentence-transformers", "transformers"),
    }
    print(write_result("suites", result, options.json))


if __name__ == "__main__":
    main()
