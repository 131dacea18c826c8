"""xRAG: what is one vector worth to a frozen language model that reads it as one token?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from embedworks.reproductions import (
    Arm,
    Comparison,
    Context,
    FrozenVectors,
    Outcome,
    Reproduction,
)
from embedworks.reproductions.papers._memory_world import language_model, passages

__all__ = ["ENTRIES"]


def _losses(
    seed: int, settings: Mapping[str, Any], context: Context
) -> dict[str, dict[str, float]]:
    """Return arm -> document -> nats per token of what follows; all arms at once."""
    from embedworks.models import VectorDecoderSettings, context_losses, train_vector_decoder

    texts = passages(settings, seed)
    lm, tokenizer = language_model(texts.documents, settings, context, seed)
    frozen = FrozenVectors(settings["embedder"], cache=context.cache, device=context.device)
    first, follow = zip(*texts.train, strict=True)
    ids = list(texts.test)
    read, told = zip(*texts.test.values(), strict=True)
    known = frozen([*dict.fromkeys(first), *dict.fromkeys(read)])
    vectors, own = frozen(first), frozen(read)
    same = np.broadcast_to(known.mean(axis=0), own.shape)

    def measured(given: np.ndarray, shown: Mapping[str, np.ndarray]) -> dict[str, Any]:
        wanted = VectorDecoderSettings(
            slots=1, steps=settings["steps"], batch_size=settings["batch"],
            learning_rate=settings["lr"], max_tokens=settings["max_tokens"],
            freeze_language_model=True, seed=seed,
            precision="bf16" if context.device.startswith("cuda") else "fp32",
        )  # fmt: skip
        made = train_vector_decoder(None, first, lm, tokenizer, wanted, targets=follow,
                                    vectors=given)  # fmt: skip
        return {
            name: context_losses(made.decoder, one, read, told, continues=True,
                                 max_tokens=settings["max_tokens"])
            for name, one in shown.items()
        }  # fmt: skip

    found = measured(vectors, {"vector": own, "another's vector": np.roll(own, 1, axis=0)})
    found |= measured(np.broadcast_to(same[:1], vectors.shape), {"same for all": same})
    columns = {name: losses.by_text[:, 1] for name, losses in found.items()}
    columns |= {"none": found["vector"].by_text[:, 0], "text": found["vector"].by_text[:, 2]}
    return {name: dict(zip(ids, column.tolist(), strict=True)) for name, column in columns.items()}


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    found = context.once(("losses", seed), lambda: _losses(seed, settings, context))[arm.name]
    perplexity = float(np.exp(np.mean(list(found.values()))))
    return Outcome(items={_LOSS: found}) | Outcome({"perplexity": perplexity})


_LOSS = "nats per token"

ENTRIES = (
    Reproduction(
        slug="survey-vector-token",
        paper="xRAG: Extreme Context Compression for Retrieval-augmented Generation with One Token",
        arxiv="2405.13792",
        claim="A frozen language model that reads the vector of a text as one token tells what "
        "follows better than after nothing, and less well than after the text.",
        falsifier="What follows is no likelier after the vector than after nothing or after a "
        "trained token that is the same for every text, or is likelier than after the text.",
        arms=(
            Arm("none", "The token that begins a text."),
            Arm("same for all", "One trained token that is the same for all texts."),
            Arm("another's vector", "The vector of another text."),
            Arm("vector", "The vector of the text, through a trained projection."),
            Arm("text", "The text itself."),
        ),
        decisive=Comparison.between("vector", "none", _LOSS, claim="less"),
        conditions=(
            Comparison.between("text", "vector", _LOSS, claim="less"),
            Comparison.between("vector", "same for all", _LOSS, claim="less"),
        ),
        secondary=(
            Comparison.between("same for all", "none", _LOSS, claim="less"),
            Comparison.between("vector", "another's vector", _LOSS, claim="less"),
            Comparison.between("text", "none", _LOSS, claim="less"),
        ),
        run=_run,
        seeds=3,
        scales={
            "mini": {
                "world": "captions", "rows": 3000, "documents": 300, "embedder": "minilm",
                "vocabulary": 1000, "dim": 96, "layers": 2, "heads": 4,
                "lm": {"steps": 300, "batch_size": 16, "length": 64, "learning_rate": 3e-3},
                "steps": 150, "batch": 48, "lr": 2e-3, "max_tokens": 32,
            },
            "gpu": {
                "world": "abstracts", "rows": 40_000, "documents": 1000, "embedder": "minilm",
                "vocabulary": 8000, "dim": 384, "layers": 6, "heads": 6,
                "lm": {"steps": 1500, "batch_size": 64, "length": 256, "learning_rate": 1e-3,
                       "precision": "bf16"},
                "steps": 800, "batch": 256, "lr": 1e-3, "max_tokens": 80,
            },
        },
        setup="A causal language model for each seed is trained from scratch on the captions of a "
        "photo after one another (mini) or on abstracts (gpu), and then frozen. A projection of "
        "MiniLM's vector of the first caption, or of the first 48 words, is trained on what "
        "follows: the next caption, or 32 words. Scored are other photos and abstracts, what "
        "follows in nats for each token. A second projection is trained for the same steps on one "
        "vector for all texts: what it gains is the form of what follows, not its content.",
        limits="xRAG's language model has 7 billion parameters and answers questions; there a "
        "second phase distils the model that reads the text. The text is worth what the language "
        "model makes of it: a small one makes less of it than a large one.",
    ),
)  # fmt: skip
