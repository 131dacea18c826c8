"""Memory vectors: how much of a text do m vectors hold, trained encoder or gradients?"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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
    from embedworks.models import (
        TextCompressor,
        TextCompressorSettings,
        memory_vectors,
        train_text_compressor,
        write_from_memory,
    )

    length = settings["length"]
    slots = max(1, int(arm["share"] * length))
    if arm["by"] == "gradients":
        found = memory_vectors(
            lm, tokenizer, held, slots=slots, steps=settings["gradient_steps"],
            learning_rate=settings["gradient_lr"], max_tokens=length, seed=seed,
        )  # fmt: skip
        return write_from_memory(lm, tokenizer, found.vectors, max_tokens=length)

    def trained() -> TextCompressor:
        wanted = TextCompressorSettings(
            slots=slots, steps=settings["steps"], batch_size=settings["batch"], max_tokens=length,
            learning_rate=settings["lr"], freeze_language_model=arm["frozen"], seed=seed,
            precision="bf16" if context.device.startswith("cuda") else "fp32",
        )  # fmt: skip
        own = copy.deepcopy(lm)
        return train_text_compressor(texts.documents, own, tokenizer, wanted).compressor

    made = context.once(("compressor", seed, slots, arm["frozen"]), trained)
    memory = made.compress(held, max_tokens=length)
    if arm["by"] == "another's":
        memory = np.roll(memory, 1, axis=0)
    return made.write(memory, max_tokens=length + 1)


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    texts: Passages = context.once(("texts", seed), lambda: passages(settings, seed))
    lm, tokenizer = context.once(
        ("lm", seed), lambda: language_model(texts.documents, settings, context, seed)
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


def _arm(
    size: str, share: float, summary: str, *, by: str = "encoder", frozen: bool = False
) -> Arm:
    how = {"encoder": "", "another's": ", another's", "gradients": ", gradients"}[by]
    name = f"m = {size}{how}{', frozen' if frozen else ''}"
    return Arm(name, summary, {"share": share, "by": by, "frozen": frozen})


_F1 = "token f1"
_NEAR = 0.9


def _near(arm: str) -> Comparison:
    return Comparison(f"{arm} is {_NEAR} or more", _F1, {arm: 1.0}, null=_NEAR)


ENTRIES = (
    Reproduction(
        slug="survey-memory-vectors",
        paper="In-context Autoencoder for Context Compression in a Large Language Model",
        arxiv="2307.06945",
        claim="An encoder that is trained for it puts a text of T tokens into m vectors from which "
        "a language model writes it again: the more vectors the better, and nearly whole with T.",
        falsifier="The token F1 is not 0.1 higher with T vectors than with one, falls from one "
        "number of vectors to the next, or is below 0.9 with T.",
        arms=(
            _arm("1", 0.0, "An encoder of one vector, trained with the language model."),
            _arm("T/4", 0.25, "One vector for four tokens."),
            _arm("T/2", 0.5, "One vector for two tokens."),
            _arm("T", 1.0, "One vector for each token."),
            _arm("T", 1.0, "The memory of another text, as what chance gives.", by="another's"),
            _arm("T", 1.0, "The encoder alone is trained.", frozen=True),
            _arm("1", 0.0, "One vector found for each text; the language model is frozen.",
                 by="gradients"),
            _arm("T/4", 0.25, "A quarter, the same way.", by="gradients"),
            _arm("T", 1.0, "One for each token, the same way.", by="gradients"),
        ),
        decisive=Comparison.between("m = T", "m = 1", _F1, margin=0.1),
        conditions=(
            Comparison.between("m = T/4", "m = 1", _F1),
            Comparison.between("m = T/2", "m = T/4", _F1),
            Comparison.between("m = T", "m = T/2", _F1, claim="not_worse", margin=0.02),
            _near("m = T"),
        ),
        secondary=(
            Comparison.between("m = 1", "m = T, another's", _F1),
            Comparison.between("m = T", "m = T, frozen", _F1),
            Comparison.between("m = T/4, gradients", "m = 1, gradients", _F1),
            Comparison.between("m = T, gradients", "m = T/4, gradients", _F1),
            _near("m = T, gradients"),
            Comparison.between("m = 1, gradients", "m = 1", _F1),
        ),
        run=_run,
        seeds=3,
        scales={
            "mini": {
                "world": "captions", "rows": 6000, "documents": 60,
                "vocabulary": 600, "dim": 64, "layers": 2, "heads": 4, "length": 8,
                "lm": {"steps": 150, "batch_size": 16, "length": 64, "learning_rate": 3e-3},
                "steps": 400, "batch": 16, "lr": 3e-3, "gradient_steps": 100, "gradient_lr": 0.05,
            },
            "gpu": {
                "world": "captions", "rows": 28_000, "documents": 150,
                "vocabulary": 4000, "dim": 384, "layers": 3, "heads": 6, "length": 16,
                "lm": {"steps": 600, "batch_size": 64, "length": 128, "learning_rate": 1e-3,
                       "precision": "bf16"},
                "steps": 1200, "batch": 256, "lr": 7e-4, "gradient_steps": 400,
                "gradient_lr": 0.02,
            },
        },
        setup="A causal language model for each seed is trained from scratch on the captions of a "
        "photo after one another. Every encoder starts as a copy of it and is trained for the same "
        "steps on the same texts: the first T tokens of training documents, written again from "
        "m vectors (L_AE alone; T = 8 in mini, 16 in gpu). Scored are the first T tokens of other "
        "photos' captions, written by greedy decoding: F1 of tokens, each as often as it occurs, "
        "and texts that are exact. Where vectors are found by gradients for each text, nothing "
        "else is trained: they bound from below what m vectors hold for this language model.",
        limits="ICAE compresses 512 tokens into 128 vectors of a frozen model of 7 billion "
        "parameters, four tokens to a vector, after long training. A small language model has "
        "never copied anything: here it is trained with the encoder, and a frozen arm is reported.",
    ),
)  # fmt: skip
