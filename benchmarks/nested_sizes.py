"""How much of MiniLM is left at 3 layers and 128 dimensions, by how it was trained to be cut?

    python benchmarks/nested_sizes.py ladder --steps 350 --batch 64

Arms: ``cut`` (not trained), ``random`` (2DMSE with score KL), ``ladder`` (Starbucks) and
``separate`` (cut to 3 x 128 first, then trained alone). All take the same batches. With
``--teacher`` every size follows the scores of the untrained MiniLM as well (its own last layer
otherwise). Needs the optional data folder; pairs marked for research only are trained on, so
nothing made here ships. ``--device cuda`` trains there; speed is always measured on the CPU, there
or elsewhere: ``--save FOLDER`` only trains, ``--model FOLDER`` only measures.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from _common import RESULTS, machine, peak_memory_mb, versions, write_result

import embedworks as ew
from embedworks.data import Row
from embedworks.evaluation import DataFolder, LayerDimGrid, StsTask, evaluate_grid
from embedworks.losses import ContrastiveLoss, FixedPairs, LayerDimLoss, RandomLayerDim, ScoreKL
from embedworks.models import encode_batched, truncate_model
from embedworks.reproductions import pair_retrieval, row_batches, stsb_graded

TARGET = (3, 128)
LADDER = ((1, 32), (2, 64), TARGET, (4, 192), (5, 256), (6, 384))
ARMS = ("cut", "random", "ladder", "separate")


def training_rows(seed: int) -> list[Row]:
    """Captions of one photo, and sentence pairs that people found similar."""
    rows = list(pair_retrieval("captions", 20_000, documents=500, queries=500, seed=seed).train)
    graded = stsb_graded()
    rows += [row for row in graded.train if row.score is not None and row.score >= 3.5]
    tested = {text for a, b, _ in graded.part("test") for text in (a, b)}
    columns = ("sentence1", "sentence2", "score", "score_max")
    for record in DataFolder().records("sts_sick.parquet", columns):
        pair = record["sentence1"], record["sentence2"]
        if record["score"] >= 0.75 * record["score_max"] and not tested & set(pair):
            rows.append(Row(*pair, source="sts"))
    return rows


def more_rows(seed: int) -> list[Row]:
    """Words with their dictionary definitions."""
    found = pair_retrieval("wordnet", 60_000, documents=500, queries=100, seed=seed).train
    return list(found)


def train(model: Any, arm: str, rows: list[Row], options: argparse.Namespace) -> float:
    """Train one arm; return the seconds it took."""
    torch.manual_seed(options.seed)
    packed = 2048 if options.device == "cpu" else None
    base = ContrastiveLoss(model, temperature=0.05, mini_batch_tokens=packed)
    samplers = {
        "ladder": FixedPairs(LADDER),
        "random": RandomLayerDim((32, 64, 128, 192, 256)),
        "separate": FixedPairs([TARGET]),
    }
    loss: Any = base
    teacher = ew.load("minilm", device=options.device) if options.teacher else None
    if arm != "separate" or teacher is not None:
        loss = LayerDimLoss(
            model, base, sampler=samplers[arm], align=ScoreKL(options.teacher or 1.0),
            teacher=teacher, seed=options.seed,
        )  # fmt: skip
    rows = [*rows, *more_rows(options.seed)] if options.more else rows
    model[0].auto_model.embeddings.requires_grad_(False)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=options.lr, weight_decay=0.01, fused=True)
    rise = max(1, options.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min((n + 1) / rise, (options.steps - n) / (options.steps - rise))
    )
    model.train()
    started = time.perf_counter()
    for batch in row_batches(rows, options.batch, steps=options.steps, seed=options.seed):
        features = [
            {
                name: value.to(options.device) if isinstance(value, torch.Tensor) else value
                for name, value in model.preprocess([str(text) for text in texts]).items()
            }
            for texts in ([row.anchor for row in batch], [row.positive for row in batch])
        ]
        with torch.autocast(options.device, dtype=torch.bfloat16):
            value = loss(features, None)
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    model.eval()
    model.to("cpu")
    return time.perf_counter() - started


def kept(grid: LayerDimGrid, untrained: LayerDimGrid) -> dict[str, Any]:
    """Return what is left at the target size, of the untrained MiniLM and of the own full size."""
    cells = {(cell.layers, cell.dim): cell for cell in grid.cells}
    before = {(cell.layers, cell.dim): cell for cell in untrained.cells}
    target, own, whole = cells[TARGET], cells[grid.full], before[untrained.full]
    return {
        "of_untrained": {k: round(v / whole.quality[k], 4) for k, v in target.quality.items()},
        "of_own_full": {k: round(v / own.quality[k], 4) for k, v in target.quality.items()},
        "untrained_cut": {
            k: round(v / whole.quality[k], 4) for k, v in before[TARGET].quality.items()
        },
    }


def speed(small: Any, whole: Any, texts: list[str], rounds: int) -> dict[str, float]:
    """Return how much faster the small model encodes: the median of pairs of runs, quartiles."""
    ratios = []
    for _ in range(rounds):
        seconds = []
        for model in (whole, small):
            started = time.perf_counter()
            encode_batched(model, texts, show_progress=False)
            seconds.append(time.perf_counter() - started)
        ratios.append(seconds[0] / seconds[1])
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"median": round(middle, 3), "low": round(low, 3), "high": round(high, 3)}


def main() -> None:
    """Run one arm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arm", choices=ARMS)
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--teacher", type=float, default=0.0, help="weight of MiniLM's scores")
    parser.add_argument("--more", action="store_true", help="dictionary definitions as well")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--name", default="", help="name of the result; by default the arm's")
    parser.add_argument("--save", type=Path, help="write the trained model and stop")
    parser.add_argument("--model", default="minilm", help="measure this trained model instead")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    where = machine()
    name = options.name or options.arm
    model: Any = ew.load(options.model, device=options.device).float()
    model.max_seq_length = 48
    trained = options.model != "minilm"
    if options.arm == "separate" and not trained:
        model = truncate_model(copy.deepcopy(model), *TARGET)
    seconds = 0.0
    if options.arm == "cut" or trained:
        model.to("cpu")
    else:
        seconds = train(model, options.arm, training_rows(options.seed), options)
    if options.save:
        model.save_pretrained(str(options.save))
        print(f"trained in {seconds:.0f} s")
        return
    task = pair_retrieval("captions", 2, documents=500, queries=500, seed=0).task("test")
    pairs = list(stsb_graded().part("test"))
    layers, dims = ([3], [128]) if options.arm == "separate" else (range(1, 7), [32, 64, 128, 256])
    tasks = [StsTask("STS benchmark", pairs), task]
    untrained: Any = ew.load("minilm", device="cpu")
    untrained.max_seq_length = 48
    whole = evaluate_grid(
        untrained, tasks, layers=[3], dims=[128], name="untrained", repeats=options.repeats
    )
    grid = evaluate_grid(
        model,
        tasks,
        layers=list(layers),
        dims=[d for d in dims if d <= model.get_embedding_dimension()],
        name=options.arm,
        repeats=options.repeats,
    )
    texts = [text for a, b, _ in pairs for text in (a, b)][:256] + list(task.queries.values())[:256]
    faster = speed(truncate_model(model, *TARGET), untrained, texts, 5 * options.repeats)
    options.out.mkdir(parents=True, exist_ok=True)
    for task_name in grid.metrics:
        short = task_name.split()[0].lower()
        grid.heat_map(task_name, options.out / f"nested_sizes-{name}-{short}.svg")
    settings = {k: v for k, v in vars(options).items() if k not in ("out", "save", "model")}
    if trained:
        # What the model's own training wrote beside it, in place of settings not used here.
        kept_beside = Path(options.model) / "training.json"
        settings = {"arm": options.arm, "repeats": options.repeats}
        settings["training"] = json.loads(kept_beside.read_text()) if kept_beside.is_file() else {}
        seconds = float(settings["training"].get("seconds", 0.0))
    write_result(
        f"nested_sizes-{name}",
        {
            "machine": where,
            "versions": versions("torch", "transformers", "sentence-transformers"),
            "settings": settings,
            "training_seconds": round(seconds, 1),
            "peak_memory_mb": peak_memory_mb(),
            "untrained": whole.to_dict(),
            "kept": kept(grid, whole),
            "speed_of_target_over_untrained": faster,
            "grid": grid.to_dict(),
        },
        options.out / f"nested_sizes-{name}.json",
    )
    print(grid.markdown())
    print(json.dumps({**kept(grid, whole), "speed": faster}, indent=2))


if __name__ == "__main__":
    main()
