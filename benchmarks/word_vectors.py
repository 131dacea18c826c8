"""How fast are word vectors trained, and how good are they, beside gensim's?

Each run is a process of its own; contestants take turns. Both read the same file of one text per
line, lower-cased words with a space between, and are timed from opening it to the last epoch, so
counting the vocabulary is in the time. gensim (LGPL) is not needed by the package: give the Python
of an environment that has it, and it reads the file by its fastest way (``corpus_file``). Without
it, ours runs alone. Compiled code is loaded before the clock starts.

Seeds differ far more from each other than contestants do: with small corpora a difference of a
hundredth in one pair of runs is chance. So ``paired`` gives, over all seeds of a setting, the mean
difference (ours less gensim's) with the half width of its 95 % interval by Student's t. With W > 1
threads the two do not train alike: each of gensim's workers counts its own words against those of
the whole epoch, so that its rate ends at (1 - 1/W)/epochs of its start, where ours ends near zero.
``--workers-rates W`` lets a third contestant run: ours with the rates of gensim with W workers.

    python benchmarks/word_vectors.py --data ../shared/data --gensim-python GENSIM_ENV/bin/python
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

METHODS = ("skipgram", "cbow", "fasttext")
SETTINGS = {"dim": 100, "window": 5, "min_count": 5, "epochs": 5}


Trained = tuple[list[str], np.ndarray, float, float]


def train_ours(job: dict[str, Any]) -> Trained:
    """Return words, vectors, seconds and seconds of the processor."""
    from embedworks.models import SubwordModel, train_word_vectors

    options = {**SETTINGS, "show_progress": False}
    train_word_vectors(["a b a b"] * 9, job["method"], **{**options, "dim": 4})  # loads kernels
    method = job["method"] if "workers" not in job else with_rates(job["method"], job["workers"])
    started, busy = time.perf_counter(), time.process_time()
    with open(job["corpus"], encoding="utf-8") as lines:
        model = train_word_vectors(
            lines, method, seed=job["seed"], threads=job["threads"], **options
        )
    seconds, cpu = time.perf_counter() - started, time.process_time() - busy
    static = model.as_static() if isinstance(model, SubwordModel) else model
    words = sorted(static.tokenizer.get_vocab(), key=static.tokenizer.token_to_id)
    return words[1:], static.table[1:], seconds, cpu


def with_rates(method: str, workers: int) -> Any:
    """Return a method whose rate falls as gensim's does with so many workers."""
    import dataclasses

    from embedworks.models.words.training import method_settings

    def rate_at(self: Any, epoch: int, share: float) -> float:
        return self.rate * max(1 - (epoch + share / workers) / self.epochs, 1e-3)

    kind = type(method_settings(method))
    return dataclasses.make_dataclass(
        kind.__name__, [], bases=(kind,), namespace={"rate_at": rate_at}, frozen=True
    )()


def train_gensim(job: dict[str, Any]) -> Trained:
    """Return words, vectors, seconds and seconds of the processor."""
    from gensim.models import FastText, Word2Vec

    kind = FastText if job["method"] == "fasttext" else Word2Vec
    cbow = job["method"] == "cbow"
    started, busy = time.perf_counter(), time.process_time()
    model = kind(
        corpus_file=job["corpus"], sg=0 if cbow else 1, vector_size=SETTINGS["dim"],
        window=SETTINGS["window"], min_count=SETTINGS["min_count"], epochs=SETTINGS["epochs"],
        negative=5, sample=1e-3, alpha=0.025 if job["method"] == "skipgram" else 0.05,
        seed=job["seed"], workers=job["threads"],
    )  # fmt: skip
    seconds, cpu = time.perf_counter() - started, time.process_time() - busy
    words = list(model.wv.index_to_key)
    return words, np.stack([model.wv[word] for word in words]), seconds, cpu


WITH_RATES = "embedworks, gensim's rates"
CONTESTANTS = {"embedworks": train_ours, "gensim": train_gensim, WITH_RATES: train_ours}


def work(path: Path) -> None:
    """Do one job: train, and leave words, vectors and figures beside it."""
    job = json.loads(path.read_text())
    words, vectors, seconds, cpu = CONTESTANTS[job["contestant"]](job)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would be the parent's
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    np.save(path.with_suffix(".npy"), vectors.astype(np.float32))
    found = {"words": words, "seconds": seconds, "cpu_seconds": cpu, "peak_mb": round(peak, 1)}
    path.with_suffix(".out").write_text(json.dumps(found))


def write_corpus(data: Path, words: int, target: Path) -> int:
    """Write a drawn part of the training texts; return how many words it has."""
    import os

    os.environ["EMBEDWORKS_DATA"] = str(data)
    from embedworks.models.words.corpus import split_words
    from embedworks.reproductions.papers.survey_word_vectors import draw_texts, training_texts

    total = 0
    with target.open("w", encoding="utf-8") as out:
        for text in draw_texts(training_texts(), words, seed=0):
            found = split_words(text)
            total += len(found)
            out.write(" ".join(found) + "\n")
    return total


def quality(data: Path, words: list[str], vectors: np.ndarray) -> dict[str, float]:
    """Spearman's correlation on known pairs of three sets, and accuracy on known analogies."""
    import pyarrow.parquet as pq

    from embedworks.evaluation import spearman

    place = {word: row for row, word in enumerate(words)}
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    sets: dict[str, list[tuple[float, float]]] = {}
    for row in pq.read_table(data / "word_similarity.parquet").to_pylist():
        known = row["word1"] in place and row["word2"] in place
        if known and row["lang"] == "en" and row["dataset"] in ("men", "simlex999", "wordsim353"):
            cosine = float(unit[place[row["word1"]]] @ unit[place[row["word2"]]])
            sets.setdefault(row["dataset"], []).append((cosine, row["similarity"]))
    scores = {name: spearman(*np.array(pairs).T) for name, pairs in sets.items()}
    asked = []
    for row in pq.read_table(data / "word_analogies.parquet").to_pylist():
        four = [str(row[key]).lower() for key in "abcd"]
        if row["dataset"] == "google-analogies" and all(word in place for word in four):
            asked.append([place[word] for word in four])
    a, b, c, d = np.array(asked).T
    hits = 0
    for low in range(0, len(a), 500):
        part = slice(low, low + 500)
        cosines = (unit[b[part]] - unit[a[part]] + unit[c[part]]) @ unit.T
        rows = np.arange(len(cosines))
        for used in (a, b, c):
            cosines[rows, used[part]] = -9
        hits += int((cosines.argmax(axis=1) == d[part]).sum())
    scores = {name: round(float(value), 4) for name, value in scores.items()}
    return {**scores, "analogies": round(hits / len(a), 4), "analogies_known": len(a)}


def main() -> None:
    """Run the benchmark."""
    from _common import machine, versions, write_result

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--words", type=int, default=1_000_000)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--gensim-python", help="Python of an environment with gensim.")
    parser.add_argument("--workers-rates", type=int, help="Ours with gensim's rates, too.")
    parser.add_argument("--keep", type=Path, help="A result whose rows are taken over first.")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    earlier = json.loads(given.keep.read_text()) if given.keep else {"rows": [], "machines": []}
    rows = list(earlier["rows"])
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        total = write_corpus(given.data, given.words, corpus)
        if earlier["rows"] and earlier["corpus_words"] != total:
            parser.error(f"--keep is of {earlier['corpus_words']} words, this corpus of {total}")
        pythons = {"embedworks": sys.executable, "gensim": given.gensim_python}
        if given.workers_rates:
            pythons[WITH_RATES] = sys.executable
        for method in given.methods.split(","):
            for threads in map(int, given.threads.split(",")):
                for seed in range(given.repeats):
                    for name in (name for name, python in pythons.items() if python):
                        job = Path(folder) / "job.json"
                        job.write_text(json.dumps({
                            "contestant": name, "method": method, "threads": threads,
                            "seed": seed, "corpus": str(corpus),
                            **({"workers": given.workers_rates} if name == WITH_RATES else {}),
                        }))  # fmt: skip
                        subprocess.run([pythons[name], __file__, "--job", str(job)], check=True)
                        found = json.loads(job.with_suffix(".out").read_text())
                        scores = quality(
                            given.data, found["words"], np.load(job.with_suffix(".npy"))
                        )
                        rows.append({
                            "method": method, "threads": threads, "seed": seed,
                            "contestant": name, "seconds": round(found["seconds"], 2),
                            "cpu_seconds": round(found["cpu_seconds"], 2),
                            "words_per_second": round(
                                total * SETTINGS["epochs"] / found["seconds"]
                            ),
                            "peak_mb": found["peak_mb"], "vocabulary": len(found["words"]),
                            **scores,
                        })  # fmt: skip
                        print(json.dumps(rows[-1]), flush=True)
    value = {
        "question": "How fast are word vectors trained, and how good are they, beside gensim's?",
        "machines": [*earlier["machines"], {"threads": given.threads, **machine()}],
        "versions": versions("embedworks", "numpy", "numba"),
        "corpus_words": total,
        "settings": SETTINGS,
        "gensim": gensim_version(given.gensim_python),
        "summary": summarise(rows),
        "paired": pair(rows),
        "rows": rows,
    }
    print(json.dumps(value["paired"], indent=2))
    print(write_result("word_vectors", value, given.out))


def gensim_version(python: str | None) -> str | None:
    """Return the version of gensim in the other environment."""
    if python is None:
        return None
    code = "import importlib.metadata as m; print(m.version('gensim'))"
    return subprocess.run(
        [python, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def pair(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours against each other's, seed by seed: ratio of speeds, differences of figures."""
    from scipy.stats import t

    found = []
    others = [name for name in CONTESTANTS if name != "embedworks"]
    settings = dict.fromkeys((r["method"], r["threads"]) for r in rows)
    for key, other in itertools.product(settings, others):
        ours, theirs = (
            {
                r["seed"]: r
                for r in rows
                if (r["method"], r["threads"], r["contestant"]) == (*key, n)
            }
            for n in ("embedworks", other)
        )
        seeds = sorted(ours.keys() & theirs.keys())
        if len(seeds) < 2:
            continue
        entry: dict[str, Any] = {
            "method": key[0], "threads": key[1], "against": other, "seeds": len(seeds),
        }  # fmt: skip
        ratios = [ours[s]["words_per_second"] / theirs[s]["words_per_second"] for s in seeds]
        entry["times_as_fast"] = round(float(np.median(ratios)), 3)
        for name in ("men", "simlex999", "wordsim353", "analogies"):
            gaps = np.array([ours[s][name] - theirs[s][name] for s in seeds])
            half = t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
            entry[name] = {"difference": round(float(gaps.mean()), 4), "plus_minus": round(half, 4)}
        found.append(entry)
    return found


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Median speed and mean quality with its spread over seeds, per method and contestant."""
    found = []
    for key in dict.fromkeys((r["method"], r["threads"], r["contestant"]) for r in rows):
        own = [r for r in rows if (r["method"], r["threads"], r["contestant"]) == key]
        entry: dict[str, Any] = dict(zip(("method", "threads", "contestant"), key))
        entry["words_per_second"] = int(np.median([r["words_per_second"] for r in own]))
        entry["peak_mb"] = max(r["peak_mb"] for r in own)
        for name in ("men", "simlex999", "wordsim353", "analogies"):
            values = [r[name] for r in own]
            entry[name] = round(float(np.mean(values)), 4)
            entry[f"{name}_spread"] = round(float(np.ptp(values)), 4)
        found.append(entry)
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        work(Path(sys.argv[2]))
    else:
        main()
