"""Memory vectors: how much of a text do m vectors hold, trained encoder or gradients?"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embedworks.models import (
    TextCompressorSettings,
    memory_vectors,
    train_text_compressor,
    write_from_memory,
)
from embedworks.reproductions import Arm, Comparison, Context, Outcome, Reproduction
from embedworks.reproductions.papers._memory_world import Passages, language_model, passages

__all__ = ["ENTRIES", "token_f1"]


def token_f1(found: Sequence[int], wanted: Sequence[int]) -> float:
    """Return the F1 of tokens, each counted as often as it occurs, in [0, 1].

    Example:
        >>> token_f1([1, 2, 2], [2, 3, 2])
        0.6666666666666666
    """
    both = sum((Counter(found) & Counter(wanted)).values())
    return 2 * both / (len(found) + len(wanted)) if both else 0.0


def _written(
    arm: Arm, held: Sequence[str], lm: Any, tokenizer: Any, texts: Passages, seed: int,
    settings: Mapping[str, Any], context: Context,
) -> list[str]:  # fmt: skip
    """Return what is written for each held-out text."""
    length, slots = settings["length"], arm["slots"]
    if arm["by"] == "gradients":
        found = memory_vectors(
            lm, tokenizer, held, slots=slots, steps=settings["gradient_steps"],
            learning_rate=settings["gradient_lr"], max_tokens=length, seed=seed,
        )  # fmt: skip
        return write_from_memory(lm, tokenizer, found.vectors, max_tokens=length)
    wanted = TextCompressorSettings(
        slots=slots, steps=settings["steps"], batch_size=settings["batch"], max_tokens=length,
        learning_rate=settings["lr"], freeze_language_model=arm["frozen"], seed=seed,
        precision="bf16" if context.device.startswith("cuda") else "fp32",
    )  # fmt: skip
    made = train_text_compressor(texts.documents, copy.deepcopy(lm), tokenizer, wanted).compressor
    memory = made.compress(held, max_tokens=length)
    if arm["by"] == "another's":
        memory = np.roll(memory, 1, axis=0)
    return made.write(memory, max_tokens=length + 1)


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    texts: Passages = context.once(("texts", seed), lambda: passages(settings, seed))
    lm, tokenizer = context.once(
        ("lm", seed), lambda: language_model(texts, settings, context, seed)
    )
    held = {one: "".join(parts) for one, parts in texts.test.items()}
    found = _written(arm, list(held.values()), lm, tokenizer, texts, seed, settings, context)
    pairs = [
        [tokenizer(text, add_special_tokens=False)["input_ids"][: settings["length"]]
         for text in both]
        for both in zip(found, held.values(), strict=True)
    ]  # fmt: skip
    f1 = {one: token_f1(*pair) for one, pair in zip(held, pairs, strict=True)}
    exact = {one: float(a == b) for one, (a, b) in zip(held, pairs, strict=True)}
    return Outcome(items={_F1: f1, "exact": exact})


def _arm(slots: int, name: str = "", *, by: str = "encoder", frozen: bool = False) -> Arm:
    how = {"encoder": "A trained encoder", "another's": "The memory of another text",
           "gradients": "Gradients for each text"}[by]  # fmt: skip
    kept = "frozen" if frozen or by == "gradients" else "trained too"
    return Arm(
        name or f"m = {slots}", f"{how}, {slots} vectors; the language model is {kept}.",
        {"slots": slots, "by": by, "frozen": frozen},
    )  # fmt: skip


_F1 = "token f1"
_SLOTS = (1, 2, 4, 8, 16)
_STEPS = tuple(
    Comparison.between(f"m = {more}", f"m = {less}", _F1)
    for less, more in itertools.pairwise(_SLOTS[:-1])
)

ENTRIES = (
    Reproduction(
        slug="survey-memory-vectors",
        paper="In-context Autoencoder for Context Compression in a Large Language Model",
        arxiv="2307.06945",
        claim="An encoder that is trained for it puts a text into m vectors from which a language "
        "model writes it again: the more vectors the better, and nearly whole with one for each "
        "token.",
        falsifier="The token F1 of texts of 16 tokens is not 0.1 higher with 16 vectors than with "
        "one, falls from one number of vectors to the next, or is below 0.9 with 16.",
        arms=(
            *(_arm(slots) for slots in _SLOTS),
            _arm(16, "m = 16, another's", by="another's"),
            _arm(1, "m = 1, frozen", frozen=True),
            _arm(16, "m = 16, frozen", frozen=True),
            _arm(1, "m = 1, gradients", by="gradients"),
            _arm(4, "m = 4, gradients", by="gradients"),
            _arm(16, "m = 16, gradients", by="gradients"),
        ),
        decisive=Comparison.between("m = 16", "m = 1", _F1, margin=0.1),
        conditions=(
            *_STEPS,
            Comparison.between("m = 16", "m = 8", _F1, claim="not_worse", margin=0.02),
            Comparison("m = 16 is 0.9 or more", _F1, {"m = 16": 1.0}, null=0.9),
        ),
        secondary=(
            Comparison.between("m = 1", "m = 16, another's", _F1),
            Comparison.between("m = 16, frozen", "m = 1, frozen", _F1),
            Comparison("m = 16, frozen is 0.9 or more", _F1, {"m = 16, frozen": 1.0}, null=0.9),
            Comparison.between("m = 4, gradients", "m = 1, gradients", _F1),
            Comparison.between("m = 16, gradients", "m = 4, gradients", _F1),
            Comparison("m = 16, gradients is 0.9 or more", _F1, {"m = 16, gradients": 1.0},
                       null=0.9),
            Comparison.between("m = 1, gradients", "m = 1", _F1),
        ),
        run=_run,
        seeds=3,
        scales={
            "mini": {
                "world": "captions", "rows": 8000, "documents": 80,
                "vocabulary": 1000, "dim": 96, "layers": 2, "heads": 4, "length": 16,
                "lm": {"steps": 200, "batch_size": 32, "length": 64, "learning_rate": 3e-3},
                "steps": 600, "batch": 48, "lr": 2e-3, "gradient_steps": 200, "gradient_lr": 0.05,
            },
            "gpu": {
                "world": "captions", "rows": 28_000, "documents": 300,
                "vocabulary": 8000, "dim": 384, "layers": 4, "heads": 6, "length": 16,
                "lm": {"steps": 800, "batch_size": 64, "length": 128, "learning_rate": 1e-3,
                       "precision": "bf16"},
                "steps": 1500, "batch": 256, "lr": 5e-4, "gradient_steps": 500,
                "gradient_lr": 0.02,
            },
        },
        setup="A causal language model for each seed is trained from scratch on the captions of a "
        "photo after one another. Every encoder starts as a copy of it and is trained for the same "
        "steps on the same texts: the first 16 tokens of training documents, written again from "
        "m vectors (L_AE alone). Scored are the first 16 tokens of other photos' captions, written "
        "by greedy decoding: F1 of tokens, each as often as it occurs, and texts that are exact. "
        "Where vectors are found by gradients for each text, nothing else is trained: they bound "
        "from below what m vectors hold for this language model.",
        limits="ICAE compresses 512 tokens into 128 vectors of a frozen model of 7 billion "
        "parameters, four tokens to a vector, after long training. A small language model has "
        "never copied anything: here it is trained with the encoder, and frozen arms are reported.",
    ),
)  # fmt: skip
