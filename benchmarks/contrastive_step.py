"""A training step with a transformer: time, peak memory and loss against sentence-transformers.

Two questions, each with both contestants on the same texts, weights and optimiser, taking turns in
processes of their own:

- `large`: one step at a large batch with cached gradients (default: 1,024 pairs cut at 64 tokens);
- `mixed`: ordinary steps on texts of mixed length (default: 64 pairs up to 256 tokens), through
  each library's trainer. Ours packs texts of similar length; the loss and the update are the same.

    python benchmarks/contrastive_step.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import machine, versions, write_result

CONTESTANTS = ("embedworks", "sentence-transformers")


def pairs(count):
    """Return (anchor, positive) texts from this interpreter's standard library."""
    import sysconfig

    from embedworks.data import chunk_documents, make_pairs, read_documents

    folder = Path(sysconfig.get_path("stdlib"))
    documents = read_documents(folder, include=("*.py",), exclude=("*site-packages*", "*test*"))
    made = make_pairs(chunk_documents(documents))
    rows = list(dict.fromkeys((p.anchor, p.positive) for p in made))
    step = max(1, len(rows) // count)
    return rows[::step][:count]


def memory_mb(field):
    """Read a line of this process's status, in MB."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this system does not tell the memory of a process")


def large(contestant, rows, options):
    """Time one step with cached gradients."""
    import torch
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
    )

    import embedworks as ew
    from embedworks.losses import ContrastiveLoss

    torch.manual_seed(0)
    model = ew.load("minilm")
    model.max_seq_length = options.large_tokens
    model.train()
    if contestant == "embedworks":
        loss = ContrastiveLoss(
            model, "infonce", mini_batch_tokens=options.pack, cache_gradients=True
        )
    else:
        loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=options.mini_batch)
    features = [model.preprocess([r[side] for r in rows]) for side in (0, 1)]
    loss([{k: v[:8] if torch.is_tensor(v) else v for k, v in f.items()} for f in features], None)
    before = memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    started = time.perf_counter()
    value = loss(features, None)
    value.backward()
    return {
        "seconds": time.perf_counter() - started,
        "memory_mb": memory_mb("VmHWM") - before,
        "loss": float(value.detach()),
    }


def mixed(contestant, rows, options):
    """Time ordinary steps in the trainer."""
    import datasets
    import torch
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    import embedworks as ew
    from embedworks.losses import ContrastiveLoss

    torch.manual_seed(0)
    model = ew.load("minilm")
    model.max_seq_length = options.mixed_tokens
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # so that both contestants compute the same update
    for layer in model[0].auto_model.encoder.layer:
        layer.attention.self.dropout_prob = 0.0
    loss = (
        ContrastiveLoss(model, "infonce", mini_batch_tokens=options.pack)
        if contestant == "embedworks"
        else MultipleNegativesRankingLoss(model)
    )
    data = {"anchor": [r[0] for r in rows], "positive": [r[1] for r in rows]}
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder, max_steps=options.steps, per_device_train_batch_size=options.mixed_batch,
            report_to=[], disable_tqdm=True, save_strategy="no", logging_steps=1,
            dataloader_pin_memory=False, seed=0,
        )  # fmt: skip
        trainer = SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=datasets.Dataset.from_dict(data), loss=loss
        )
        from transformers.trainer_callback import PrinterCallback

        trainer.remove_callback(PrinterCallback)
        before = memory_mb("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "seconds": seconds / options.steps,
        "memory_mb": memory_mb("VmHWM") - before,
        "loss": losses[-1],
        "losses": losses,
    }


def main():
    """Run both contestants in turns and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--questions", nargs="+", default=["large", "mixed"])
    parser.add_argument("--large-batch", type=int, default=1024)
    parser.add_argument("--large-tokens", type=int, default=64)
    parser.add_argument("--mini-batch", type=int, default=64, help="texts, for the peer")
    parser.add_argument("--mixed-batch", type=int, default=64)
    parser.add_argument("--mixed-tokens", type=int, default=256)
    parser.add_argument("--pack", type=int, default=2048, help="tokens per pack, for ours")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        import torch

        torch.set_num_threads(options.threads)
        question, contestant, file = options.alone
        rows = json.loads(Path(file).read_text(encoding="utf-8"))
        run = {"large": large, "mixed": mixed}[question]
        print("RESULT " + json.dumps(run(contestant, rows, options)))
        return
    about, found = machine(), []
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    for question in options.questions:
        count = options.large_batch if question == "large" else options.mixed_batch * options.steps
        runs = {name: [] for name in CONTESTANTS}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pairs.json"
            file.write_text(json.dumps(pairs(count)), encoding="utf-8")
            passed = list(sys.argv[1:])
            for _ in range(options.rounds):
                for name in CONTESTANTS:
                    command = [sys.executable, __file__, *passed, "--alone", question, name,
                               str(file)]  # fmt: skip
                    out = subprocess.run(
                        command, capture_output=True, text=True, check=True, env=environment
                    )
                    line = next(x for x in out.stdout.splitlines() if x.startswith("RESULT "))
                    runs[name].append(json.loads(line.removeprefix("RESULT ")))
        for name, values in runs.items():
            seconds = [v["seconds"] for v in values]
            row = {
                "question": question,
                "contestant": name,
                "seconds_median": round(statistics.median(seconds), 3),
                "seconds_min": round(min(seconds), 3),
                "seconds_max": round(max(seconds), 3),
                "memory_mb": round(statistics.median(v["memory_mb"] for v in values), 1),
                "loss": values[0]["loss"],
                "losses": values[0].get("losses"),
            }
            found.append(row)
            print(
                f"{question:<6} {name:<22} {row['seconds_median']:>7.2f} s "
                f"[{row['seconds_min']:.2f}, {row['seconds_max']:.2f}]  "
                f"{row['memory_mb']:>7.0f} MB  loss {row['loss']:.5f}",
                flush=True,
            )
    settings = {k: v for k, v in vars(options).items() if k not in ("json", "alone", "questions")}
    result = {
        "question": "what does a training step cost against sentence-transformers?",
        "settings": settings,
        "rows": found,
        "machine": about,
        "versions": versions("embedworks", "torch", "sentence-transformers", "transformers"),
    }
    print(write_result("contrastive_step", result, options.json))


if __name__ == "__main__":
    main()
