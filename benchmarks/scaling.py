"""How does the contrastive loss of an encoder fall with its size and its rows, and what is best?

    python benchmarks/scaling.py train --seed 0 --device cuda --out points-0.json
    python benchmarks/scaling.py fit points-0.json points-1.json

``train`` makes encoders of several sizes from scratch and shows each a number of dictionary
definitions once (the words of a definition are its positive). What is measured is the entropy of
the right words among 1,000 fixed candidates. Sizes are counted without the table of tokens. ``fit``
leaves out the largest model with the most rows and predicts it. Needs the optional data folder.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import machine, versions, write_result
from torch.nn.functional import cross_entropy

from embedworks.evaluation import fit_scaling
from embedworks.losses import ContrastiveLoss
from embedworks.models import new_model, train_tokenizer
from embedworks.reproductions import RetrievalWorld, pair_retrieval, row_batches

#: (dimensions, layers, heads).
SIZES = ((32, 1, 2), (64, 2, 2), (128, 3, 4), (192, 4, 4), (256, 6, 4), (384, 8, 6))
ROWS = (11_000, 22_000, 44_000, 88_000)
TEMPERATURE = 0.05
#: Of the smallest; wider models learn slower by the square root of their width.
LEARNING_RATE = 3e-3


def measured(model: Any, world: RetrievalWorld) -> dict[str, float]:
    """Return the entropy in nats and the share of queries whose own document comes first."""
    task = world.test
    names = list(task.corpus)
    documents = torch.from_numpy(model.encode([task.corpus[name] for name in names]))
    queries = torch.from_numpy(model.encode([task.queries[name] for name in task.queries]))
    scores = queries.float() @ documents.float().T / TEMPERATURE
    own = torch.tensor([names.index(name) for name in task.queries])
    first = (scores.argmax(dim=1) == own).float().mean()
    return {"loss": float(cross_entropy(scores, own)), "first": float(first)}


def train(model: Any, world: RetrievalWorld, rows: int, options: argparse.Namespace) -> None:
    """Show the model its rows once."""
    model.train()
    loss = ContrastiveLoss(model, temperature=TEMPERATURE)
    steps = rows // options.batch
    width = model.get_embedding_dimension()
    rate = LEARNING_RATE * (SIZES[0][0] / width) ** 0.5
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.1
    )
    shown = world.train[:rows]
    for batch in row_batches(list(shown), options.batch, steps=steps, seed=options.seed):
        features = [
            {
                name: value.to(options.device) if isinstance(value, torch.Tensor) else value
                for name, value in model.preprocess([str(text) for text in texts]).items()
            }
            for texts in ([row.anchor for row in batch], [row.positive for row in batch])
        ]
        with torch.autocast(options.device, dtype=torch.bfloat16, enabled=options.device != "cpu"):
            value = loss(features, None)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    model.eval()


def run_training(options: argparse.Namespace) -> None:
    """Train every size on every number of rows."""
    world = pair_retrieval(
        "wordnet", max(options.rows), documents=1000, queries=1000, seed=options.seed
    )
    texts = [str(text) for row in world.train[:20_000] for text in (row.anchor, row.positive)]
    tokenizer = train_tokenizer(texts, 4096, max_tokens=48, lowercase=True)
    settings = {"batch": options.batch, "temperature": TEMPERATURE, "rate": LEARNING_RATE}
    points: list[dict[str, Any]] = []
    result = {
        "machine": machine(),
        "versions": versions("torch", "transformers", "sentence-transformers"),
        "settings": settings | {"seed": options.seed, "device": options.device},
        "points": points,
    }
    for dim, layers, heads in SIZES[: options.sizes]:
        for rows in options.rows:
            started = time.perf_counter()
            model = new_model(
                "bert", tokenizer, dim=dim, layers=layers, heads=heads, max_tokens=48,
                seed=options.seed, device=options.device,
            )  # fmt: skip
            body = model[0].auto_model
            table = body.get_input_embeddings().weight.numel()
            torch.manual_seed(options.seed)
            train(model, world, rows, options)
            point = {
                "dim": dim, "layers": layers, "rows": rows // options.batch * options.batch,
                "parameters": sum(p.numel() for p in body.parameters()) - table,
                "seed": options.seed, **measured(model, world),
                "seconds": round(time.perf_counter() - started, 2),
            }  # fmt: skip
            points.append(point)
            print(json.dumps(point), flush=True)
            write_result("scaling-points", result, options.out)


def run_fit(options: argparse.Namespace) -> None:
    """Fit all points but the largest, predict that one, and name the best sizes."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in options.points]
    points = [point for run in runs for point in run["points"]]
    last = max((point["parameters"], point["rows"]) for point in points)
    kept = [point for point in points if (point["parameters"], point["rows"]) != last]
    held = [point["loss"] for point in points if (point["parameters"], point["rows"]) == last]
    law = fit_scaling(*([p[key] for p in kept] for key in ("parameters", "rows", "loss")))
    low, high = law.interval(*last)
    found: dict[str, Any] = {
        **{name: getattr(law, name) for name in ("a", "alpha", "b", "beta", "c", "error")},
        "alpha_interval": law.alpha_interval,
        "beta_interval": law.beta_interval,
        "held_out": {
            "parameters": last[0], "rows": last[1], "measured": float(np.mean(held)),
            "predicted": law.predict(*last), "low": low, "high": high,
            "inside": bool(low <= np.mean(held) <= high),
        },
        "best_sizes": [
            law.best_size(size * rows, per_unit=1.0).to_dict()
            for size, rows in ((1e5, 2e4), (1e6, 5e4), (1e7, 1e5))
        ],
    }  # fmt: skip
    write_result("scaling", {"law": found, "runs": runs}, options.out)
    print(json.dumps(found, indent=2))


def main() -> None:
    """Train, or fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest="what", required=True)
    one = parts.add_parser("train")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    one.add_argument("--batch", type=int, default=128)
    one.add_argument("--sizes", type=int, default=len(SIZES), help="how many, smallest first")
    one.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    one.add_argument("--out", type=Path)
    other = parts.add_parser("fit")
    other.add_argument("points", type=Path, nargs="+", help="files that train wrote")
    other.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    run_training(options) if options.what == "train" else run_fit(options)


if __name__ == "__main__":
    main()
