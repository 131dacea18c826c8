"""Sentences read off the vectors of MiniLM and of the bundled static model, and what defends them.

    python benchmarks/inversion.py --data DATA [--device cuda] [--models minilm] [--out FILE]
    python benchmarks/inversion.py --join FILE FILE ...

The models can run side by side (``--models``); ``--join`` puts their files together. About five
minutes a model on a GPU.

Captions of images: those of one image are all for training or all for the test. A language model
trained on the training captions alone is the start of every decoder. Reported are word F1, BLEU,
exact texts and the cosine of the first guess, after each correction, and of writing led by the
cosine without training, beside the nearest training caption; then the same decoder under defences.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from _common import machine, peak_memory_mb, versions, write_result

import embedworks as ew
from embedworks.evaluation import binary_vectors, gaussian_noise, int8_vectors
from embedworks.evaluation.kinds.text_overlap import sentence_bleu, word_f1
from embedworks.models import (
    VectorDecoderSettings,
    guided_inversion,
    invert_vectors,
    new_language_model,
    train_tokenizer,
    train_vector_corrector,
    train_vector_decoder,
)
from embedworks.training.language_models.train import LanguageModelSettings, train_language_model


@dataclass(frozen=True)
class Sizes:
    """What a run costs."""

    images: int
    test: int
    vocabulary: int
    dim: int
    layers: int
    language_steps: int
    steps: int
    corrector_steps: int
    batch: int
    corrections: int
    guided: int


TINY = Sizes(300, 20, 600, 64, 2, 20, 20, 10, 32, 2, 4)
USUAL = Sizes(6000, 200, 3000, 128, 2, 300, 900, 500, 64, 4, 10)


class Changed:
    """A model whose vectors are changed before anybody sees them, guesses' vectors too."""

    def __init__(self, model: Any, change: Any) -> None:
        self.model, self.change = model, change

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode and change."""
        found = np.asarray(self.model.encode(list(texts)), dtype=np.float32)
        return np.asarray(self.change(found))


def scores(found: Sequence[str], wanted: Sequence[str], model: Any) -> dict[str, float]:
    """Compare texts."""
    pairs = list(zip(found, wanted, strict=True))
    left, right = (
        np.asarray(model.encode([text or "." for text in part]), dtype=np.float64)
        for part in zip(*pairs, strict=True)
    )
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    return {
        "word_f1": round(float(np.mean([word_f1(a, b) for a, b in pairs])), 4),
        "bleu": round(float(np.mean([sentence_bleu(a, b) for a, b in pairs])), 4),
        "exact": round(float(np.mean([a.strip() == b.strip() for a, b in pairs])), 4),
        "cosine": round(float((left * right).sum(axis=1).mean()), 4),
    }


def captions(data: Path, images: int, test: int, seed: int) -> tuple[list[str], list[str]]:
    """Return training captions and test captions, of different images."""
    table = pq.read_table(data / "multi30k_captions.parquet", columns=["en", "en_captions"])
    rows = [[row["en"], *(row["en_captions"] or [])] for row in table.to_pylist() if row["en"]]
    order = np.random.default_rng(seed).permutation(len(rows))[: images + test]
    train = [text.strip() for i in order[test:] for text in rows[i] if text and text.strip()]
    held = [rows[i][0].strip() for i in order[:test]]
    known = set(train)
    return list(dict.fromkeys(train)), [text for text in held if text not in known]


def audit(
    name: str, model: Any, train: list[str], test: list[str], lm: Any, tokenizer: Any,
    sizes: Sizes, seed: int, precision: str, correct: bool, plain: Any, vectors: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
    """Train an attacker on one model's vectors and attack the test texts."""
    settings = VectorDecoderSettings(
        slots=8, steps=sizes.steps, batch_size=sizes.batch, max_tokens=40, precision=precision,
        seed=seed,
    )  # fmt: skip
    start = time.perf_counter()
    secret = np.asarray(model.encode(test), dtype=np.float32)
    made = train_vector_decoder(
        None, train, copy.deepcopy(lm), tokenizer, settings, vectors=vectors
    )
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = [train[i] for i in (secret @ unit.T).argmax(axis=1)]
    first = invert_vectors(secret, made.decoder, model, beams=4, max_tokens=40)
    likely = [best for (best,) in made.decoder.write(secret, max_tokens=40)]
    found: dict[str, Any] = {
        "loss": round(made.losses[-1], 4),
        "nearest training text": scores(near, test, plain),
        "first guess, greedy": scores(likely, test, plain),
        "first guess, nearest of 4": scores(first.texts, test, plain),
    }
    if correct:
        again = settings.model_copy(update={"steps": sizes.corrector_steps})
        corrector = train_vector_corrector(
            made.decoder, model, train, again, vectors=vectors
        ).decoder
        for steps in sorted({1, sizes.corrections}):
            led = invert_vectors(
                secret, made.decoder, model, corrector=corrector, steps=steps, width=4, beams=4,
                max_tokens=40,
            )  # fmt: skip
            found[f"{steps} corrections"] = scores(led.texts, test, plain)
        found["cosine after each correction"] = [round(float(v), 4) for v in led.cosines.mean(1)]
        few = slice(0, sizes.guided)
        for title, lead in (("language model", lm), ("decoder", made.decoder)):
            extra = () if title == "decoder" else (tokenizer,)
            guided = guided_inversion(
                secret[few], model, lead, *extra, beams=8, branch=16, max_tokens=24
            )
            found[f"led by the cosine, {title}"] = scores(guided.texts, test[few], plain)
        found["examples"] = [
            {"text": a, "first": b, "corrected": c, "led": d}
            for a, b, c, d in zip(test[:5], first.texts, led.texts, guided.texts, strict=False)
        ]
    found["seconds"] = round(time.perf_counter() - start, 1)
    print(name, {k: v for k, v in found.items() if k != "examples"}, flush=True)
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tiny", action="store_true", help="see that it runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", default="minilm,static")
    parser.add_argument("--parts", default="attack,defences")
    parser.add_argument("--join", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.join:
        join(given.join, given.out)
        return
    where = machine()
    sizes = TINY if given.tiny else USUAL
    precision = "bf16" if given.device.startswith("cuda") else "fp32"
    train, test = captions(given.data, sizes.images, sizes.test, given.seed)
    tokenizer = train_tokenizer(train, vocab_size=sizes.vocabulary)
    lm = new_language_model(
        "llama", tokenizer, dim=sizes.dim, layers=sizes.layers, heads=sizes.dim // 32,
        max_tokens=256, seed=given.seed,
    )  # fmt: skip
    steps = LanguageModelSettings(
        steps=sizes.language_steps, batch_size=64, precision=precision, seed=given.seed
    )
    pre = train_language_model(lm, tokenizer, train, steps, device=given.device)
    print(f"language model: loss {pre.losses[-1]:.3f} in {pre.seconds:.0f} s", flush=True)
    result: dict[str, Any] = {
        "machine": where,
        "device": torch.cuda.get_device_name() if precision == "bf16" else "cpu",
        "versions": versions("torch", "transformers", "sentence-transformers"),
        "sizes": vars(sizes),
        "seed": given.seed,
        "texts": {"train": len(train), "test": len(test)},
        "language_model_loss": round(pre.losses[-1], 4),
    }
    parts = given.parts.split(",")
    for name in given.models.split(",") if {"attack", "defences"} & set(parts) else ():
        plain: Any = ew.load(name) if name == "static" else ew.load(name, device=given.device)
        vectors = np.asarray(plain.encode(train), dtype=np.float32)
        attack = (train, test, lm, tokenizer, sizes, given.seed, precision)
        if "attack" in parts:
            result[f"attack {name}"] = audit(name, plain, *attack, True, plain, vectors)
        if "defences" in parts:
            result[f"defences {name}"] = defended = {}
            for title, change in defences(vectors.shape[1]).items():
                changed = np.asarray(change(vectors), dtype=np.float32)
                defended[title] = audit(
                    f"{name}, {title}", Changed(plain, change), *attack, False, plain, changed
                )
    result["peak_memory_mb"] = peak_memory_mb()
    write_result("inversion", result, given.out)


def defences(dim: int) -> dict[str, Any]:
    """Return changes of vectors by name."""
    private = [gaussian_noise(0.3, dimension=dim), gaussian_noise(1.0, dimension=dim),
               int8_vectors(), binary_vectors()]  # fmt: skip
    return {
        "as they are": lambda vectors: vectors,
        **{change.name: change for change in private},
        "first 64 values": lambda vectors: vectors[:, :64],
    }


def join(files: Sequence[Path], out: Path | None) -> None:
    """Put the parts that ran side by side into one file; what is of one part stays with it."""
    whole: dict[str, Any] = {}
    for file in files:
        part = json.loads(file.read_text(encoding="utf-8"))
        measured = [k for k in part if k.startswith(("attack", "defences"))]
        for name in measured:
            whole[name] = part.pop(name)
        whole.setdefault("runs", []).append({"parts": measured, **part})
    write_result("inversion", whole, out)


if __name__ == "__main__":
    main()
