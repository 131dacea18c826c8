"""What does merging large models cost, against copying their bytes?

Makes sharded models of random weights in a temporary folder, which is removed afterwards, and lets
the contestants take turns: copying the inputs, `merge_files` by linear (with and without checksums)
and by ties (with a base), and mergekit where it is installed. Each turn is a fresh process; seconds
are taken inside it, without imports, and peak memory is what the process grew by. Files are in the
page cache.

    python benchmarks/merge.py --megabytes 1000 --json benchmarks/results/merge.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import machine, versions, write_result
from safetensors.numpy import save_file

VOCABULARY = 16_000
SHARDS = 4


def make_model(folder: Path, megabytes: int, seed: int) -> float:
    """Write a decoder of about this size in shards; return the MB of its largest tensor."""
    width = 512 if megabytes < 400 else 1024 if megabytes < 3000 else 2048
    table = VOCABULARY * width * 4 / 2**20
    layers = max(1, round((megabytes - table) / (16 * width * width * 4 / 2**20)))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, width)}
    for layer in range(layers):
        name = f"model.layers.{layer}"
        for part in "qkvo":
            shapes[f"{name}.self_attn.{part}_proj.weight"] = (width, width)
        for part in ("gate", "up"):
            shapes[f"{name}.mlp.{part}_proj.weight"] = (4 * width, width)
        shapes[f"{name}.mlp.down_proj.weight"] = (width, 4 * width)
        shapes[f"{name}.input_layernorm.weight"] = (width,)
        shapes[f"{name}.post_attention_layernorm.weight"] = (width,)
    shapes["model.norm.weight"] = (width,)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width,
        "intermediate_size": 4 * width, "num_hidden_layers": layers, "num_attention_heads": 8,
        "num_key_value_heads": 8, "vocab_size": VOCABULARY, "tie_word_embeddings": True,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "torch_dtype": "float32",
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(seed)
    names = list(shapes)
    per_shard = -(-len(names) // SHARDS)
    where = {}
    for shard in range(SHARDS):
        file = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        mine = names[shard * per_shard : (shard + 1) * per_shard]
        held = {n: rng.standard_normal(shapes[n], dtype=np.float32) * 0.02 for n in mine}
        save_file(held, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(mine, file)
    total = sum(4 * int(np.prod(shape)) for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return max(4 * int(np.prod(shape)) for shape in shapes.values()) / 2**20


def copy(folder: Path, out: Path) -> None:
    """Copy the bytes of both inputs."""
    for name in ("one", "two"):
        shutil.copytree(folder / name, out / name)


def linear(folder: Path, out: Path) -> None:
    """Merge two models by their mean."""
    from embedworks.merging import merge_files

    merge_files([folder / "one", folder / "two"], out / "merged", "linear")


def linear_unchecked(folder: Path, out: Path) -> None:
    """Merge two models by their mean without taking checksums."""
    from embedworks.merging import merge_files

    merge_files([folder / "one", folder / "two"], out / "merged", "linear", checksums=False)


def ties(folder: Path, out: Path) -> None:
    """Merge two models and their base by ties."""
    from embedworks.merging import merge_files

    merge_files([folder / "one", folder / "two"], out / "merged", "ties", base=folder / "base")


def _mergekit(folder: Path, out: Path, method: str) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    parameters = {"weight": 0.5} if method == "linear" else {"weight": 0.5, "density": 0.2}
    config = {
        "merge_method": method,
        "dtype": "float32",
        "models": [
            {"model": str(folder / name), "parameters": parameters} for name in ("one", "two")
        ],
    }
    if method == "ties":
        config["base_model"] = str(folder / "base")
    options = MergeOptions(copy_tokenizer=False, quiet=True)
    run_merge(MergeConfiguration.model_validate(config), str(out / "merged"), options)


def mergekit_linear(folder: Path, out: Path) -> None:
    """Merge two models by their mean with mergekit."""
    _mergekit(folder, out, "linear")


def mergekit_ties(folder: Path, out: Path) -> None:
    """Merge two models and their base by ties with mergekit."""
    _mergekit(folder, out, "ties")


CONTESTANTS = {
    run.__name__: run
    for run in (copy, linear, linear_unchecked, ties, mergekit_linear, mergekit_ties)
}


def alone(contestant: str, folder: Path) -> None:
    """Run one contestant in this process and print its figures."""
    from embedworks._core.memory import PeakMemory

    if contestant in ("linear", "linear_unchecked", "ties"):
        from embedworks.merging import MERGE_METHODS, merge_files

        MERGE_METHODS.names()  # looks for methods of other packages, once in a process
        assert merge_files
    elif contestant.startswith("mergekit"):
        import mergekit.merge  # noqa: F401
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        peak = PeakMemory()
        started = time.perf_counter()
        CONTESTANTS[contestant](folder, Path(scratch))
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "peak_mb": peak.megabytes()}))


def take_turns(folder: Path, names: list[str], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Let the contestants take turns, each in fresh processes."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names:
            command = [sys.executable, __file__, "--alone", name, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            if number:  # the first round warms the page cache
                found[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
        print(f"  round {number}/{rounds}", file=sys.stderr)
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--megabytes", type=int, default=1000, help="size of each model on disk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone(options.alone[0], Path(options.alone[1]))
        return
    has_mergekit = importlib.util.find_spec("mergekit") is not None
    names = [name for name in CONTESTANTS if has_mergekit or not name.startswith("mergekit")]
    described = machine()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for seed, name in enumerate(("one", "two", "base")):
            largest = make_model(folder / name, options.megabytes, seed)
        size = sum(p.stat().st_size for p in (folder / "one").iterdir()) / 2**20
        found = take_turns(folder, names, options.rounds)
    rows = {}
    copying = statistics.median(turn["seconds"] for turn in found["copy"])
    for name, turns in found.items():
        seconds = sorted(turn["seconds"] for turn in turns)
        inputs = {"ties": 3, "mergekit_ties": 3}.get(name, 2)
        peak = statistics.median(turn["peak_mb"] for turn in turns)
        rows[name] = {
            "median_s": statistics.median(seconds),
            "min_s": seconds[0],
            "max_s": seconds[-1],
            "ratio_to_copy": statistics.median(seconds) / copying,
            "peak_mb": peak,
            "peak_in_largest_tensors_of_all_inputs": peak / (largest * inputs),
        }
        print(
            f"{name:18}{rows[name]['median_s']:8.2f} s ({seconds[0]:.2f}-{seconds[-1]:.2f})"
            f"{rows[name]['ratio_to_copy']:8.2f} x copy{peak:9.0f} MB"
            f"{rows[name]['peak_in_largest_tensors_of_all_inputs']:7.2f} x largest x inputs"
        )
    if options.json:
        packages = ["numpy", "safetensors", *(["mergekit"] if has_mergekit else [])]
        report = {
            "question": "seconds and peak memory of merging two sharded models, against a copy",
            "megabytes_each": size,
            "largest_tensor_mb": largest,
            "shards": SHARDS,
            "rounds": options.rounds,
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "contestants": rows,
            "versions": versions(*packages),
            "machine": described,
        }
        write_result("merge", report, options.json)


if __name__ == "__main__":
    main()
