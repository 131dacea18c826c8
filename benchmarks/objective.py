"""The objective alone: time, memory and exactness against plain losses at growing batch sizes.

Contestants get the same vectors (float32, d = 256) and compute InfoNCE forward and backward:

- `embedworks`: `losses.contrast`;
- `naive`: cross-entropy over the whole score matrix;
- `row-chunks`: cross-entropy over 1,024 rows at a time, gradients accumulated by autograd;
- `sentence-transformers`: the loss stage of CachedMultipleNegativesRankingLoss, mini-batch 64.

Each run is a process of its own, so that peaks are its own; contestants take turns. Memory is
counted above the process with its inputs. Loss and gradients are compared with float64 on the
smallest batch.

    python benchmarks/objective.py --sizes 4096 16384 65536 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from _common import machine, versions, write_result

DIM = 256
TEMPERATURE = 0.05
CONTESTANTS = ("embedworks", "naive", "row-chunks", "sentence-transformers")


def vectors(size, dtype=None):
    """Return the same two (size, DIM) leaves in every process."""
    import torch

    g = torch.Generator().manual_seed(size)
    # Positives resemble their queries, as in a model that has begun to learn.
    query = torch.randn(size, DIM, generator=g)
    document = query + 2.0 * torch.randn(size, DIM, generator=g)
    dtype = dtype or torch.float32
    return query.to(dtype).requires_grad_(), document.to(dtype).requires_grad_()


def naive(query, document):
    """Cross-entropy over all scores at once."""
    import torch
    import torch.nn.functional as F

    scores = F.normalize(query, dim=1) @ F.normalize(document, dim=1).T / TEMPERATURE
    loss = F.cross_entropy(scores, torch.arange(len(query)))
    loss.backward()
    return loss


def row_chunks(query, document, rows=1024):
    """Cross-entropy over some rows at a time."""
    import torch
    import torch.nn.functional as F

    unit = F.normalize(document, dim=1)
    leaf = unit.detach().requires_grad_()
    total = torch.zeros(())
    for start in range(0, len(query), rows):
        scores = F.normalize(query[start : start + rows], dim=1) @ leaf.T / TEMPERATURE
        target = torch.arange(start, start + len(scores))
        loss = F.cross_entropy(scores, target, reduction="sum") / len(query)
        loss.backward()
        total += loss.detach()
    unit.backward(leaf.grad)
    return total


def sentence_transformers(query, document, mini_batch=64):
    """The loss stage of the cached loss, as its trainer runs it."""
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
    )

    loss = CachedMultipleNegativesRankingLoss.__new__(CachedMultipleNegativesRankingLoss)
    import torch
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    torch.nn.Module.__init__(loss)
    loss.loss = MultipleNegativesRankingLoss(None, scale=1 / TEMPERATURE)
    loss.mini_batch_size, loss.show_progress_bar = mini_batch, False
    return loss.calculate_loss([[query], [document]], with_backward=True)


def embedworks(query, document):
    """Ours."""
    from embedworks.losses import ObjectiveSettings, contrast

    loss = contrast(query, document, settings=ObjectiveSettings(temperature=TEMPERATURE))
    loss.backward()
    return loss


FUNCTIONS = dict(
    zip(CONTESTANTS, (embedworks, naive, row_chunks, sentence_transformers), strict=True)
)


def memory_mb(field):
    """Read a line of this process's status, in MB."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this system does not tell the memory of a process")


def alone(contestant, size, threads):
    """Run one contestant in this process and print its figures."""
    import torch

    torch.set_num_threads(threads)
    run = FUNCTIONS[contestant]
    run(*vectors(64))  # imports and thread pools
    query, document = vectors(size)
    before = memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # start a new peak
    started = time.perf_counter()
    loss = run(query, document)
    seconds = time.perf_counter() - started
    peak = memory_mb("VmHWM")
    print(
        json.dumps({"seconds": seconds, "memory_mb": peak - before, "loss": float(loss.detach())})
    )


def exactness(size, threads):
    """Compare loss and gradients with float64."""
    import torch

    torch.set_num_threads(threads)
    exact = vectors(size, torch.float64)
    reference = float(naive(*exact).detach())
    found = {}
    for name, run in FUNCTIONS.items():
        query, document = vectors(size)
        loss = float(run(query, document).detach())
        gap = max(
            float((mine.grad - theirs.grad).abs().max() / theirs.grad.abs().max())
            for mine, theirs in zip((query, document), exact, strict=True)
        )
        found[name] = {"loss_error": abs(loss - reference), "gradient_error": gap}
    return found


def main():
    """Run all contestants in turns and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 16384, 65536])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--skip-above", default="naive=16384,sentence-transformers=32768", metavar="NAME=SIZE,..."
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", nargs=2, metavar=("CONTESTANT", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone(options.alone[0], int(options.alone[1]), options.threads)
        return
    limits = dict(pair.split("=") for pair in options.skip_above.split(",") if pair)
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    rows = []
    about = machine()
    for size in options.sizes:
        entered = [c for c in CONTESTANTS if size <= int(limits.get(c, size))]
        runs = {name: [] for name in entered}
        for _ in range(options.rounds):
            for name in entered:
                command = [
                    sys.executable, __file__, "--threads", str(options.threads),
                    "--alone", name, str(size),
                ]  # fmt: skip
                out = subprocess.run(
                    command, capture_output=True, text=True, check=True, env=environment
                )
                runs[name].append(json.loads(out.stdout.splitlines()[-1]))
        for name, values in runs.items():
            seconds = [v["seconds"] for v in values]
            row = {
                "size": size,
                "contestant": name,
                "seconds_median": round(statistics.median(seconds), 3),
                "seconds_min": round(min(seconds), 3),
                "seconds_max": round(max(seconds), 3),
                "memory_mb": round(statistics.median(v["memory_mb"] for v in values), 1),
                "loss": values[0]["loss"],
            }
            rows.append(row)
            print(
                f"{size:>7,}  {name:<22} {row['seconds_median']:>8.2f} s "
                f"[{row['seconds_min']:.2f}, {row['seconds_max']:.2f}]  "
                f"{row['memory_mb']:>8.0f} MB",
                flush=True,
            )
    result = {
        "question": "what does the objective cost beside the model?",
        "dim": DIM,
        "threads": options.threads,
        "rounds": options.rounds,
        "rows": rows,
        "against_float64": exactness(min(4096, *options.sizes), options.threads),
        "machine": about,
        "versions": versions("embedworks", "torch", "sentence-transformers"),
    }
    for name, errors in result["against_float64"].items():
        print(f"{name:<22} loss error {errors['loss_error']:.1e}, gradient error "
              f"{errors['gradient_error']:.1e} of the largest")  # fmt: skip
    print(write_result("objective", result, options.json))


if __name__ == "__main__":
    main()
