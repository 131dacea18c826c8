"""GRIT: does one decoder embed and generate as well as two that do one of both?"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import embedworks
from embedworks.models import causal_language_model
from embedworks.reproductions import (
    Arm,
    Comparison,
    Context,
    Outcome,
    Reproduction,
    RetrievalWorld,
    acl_retrieval,
    pair_retrieval,
    retrieval_outcome,
)
from embedworks.reproductions.papers._memory_world import language_model
from embedworks.reproductions.papers._steps import Encoder, train_model

__all__ = ["ENTRIES", "log_likelihoods"]


def log_likelihoods(
    language_model: Any, tokenizer: Any, texts: Sequence[str], *, max_tokens: int
) -> np.ndarray:
    """Return the mean log-likelihood of each text's tokens after the first, in nats, (N,).

    Args:
        language_model: A causal language model of transformers.
        tokenizer: Its tokenizer.
        texts: N texts.
        max_tokens: Where they are cut.
    """
    import torch

    found = []
    for start in range(0, len(texts), 64):
        part = tokenizer(
            list(texts[start : start + 64]), padding=True, truncation=True, max_length=max_tokens,
            return_tensors="pt",
        ).to(language_model.device)  # fmt: skip
        with torch.inference_mode():
            logits = language_model(
                input_ids=part["input_ids"], attention_mask=part["attention_mask"]
            ).logits[:, :-1]
        told = (part["attention_mask"][:, 1:] * part["attention_mask"][:, :-1]).double()
        scores = -torch.nn.functional.cross_entropy(
            logits.float().transpose(1, 2), part["input_ids"][:, 1:], reduction="none"
        )
        found.append(((scores * told).sum(dim=1) / told.sum(dim=1)).cpu().numpy())
    return np.concatenate(found)


def _loss(kind: str, model: Any, weight: float) -> Any:
    """Return the loss of an arm: of vectors, of the documents' next tokens, or of both."""
    import torch

    from embedworks.losses import ContrastiveLoss, GenerationLoss

    vectors = ContrastiveLoss(model, temperature=0.05)
    if kind == "embed":
        return vectors

    class Generation(torch.nn.Module):
        """The second part of `GenerationLoss` alone, on the same documents."""

        def __init__(self) -> None:
            super().__init__()
            self.whole = GenerationLoss(model, vectors)

        def forward(self, columns: Iterable[dict[str, Any]], labels: Any = None) -> Any:
            documents = list(columns)[1]
            return self.whole.generation(documents["input_ids"], documents["attention_mask"])

    return Generation() if kind == "generate" else GenerationLoss(model, vectors, weight=weight)


def _world(settings: Mapping[str, Any], seed: int) -> RetrievalWorld:
    count, queries = settings["rows"], settings["queries"]
    if settings["world"] == "captions":
        return pair_retrieval(
            "captions", count, documents=settings["documents"], queries=queries, seed=seed
        )
    return acl_retrieval(count, queries=queries, seed=seed)


def _base(world: RetrievalWorld, settings: Mapping[str, Any], context: Context, seed: int) -> Any:
    """Return the model that every arm starts from: a language model of the training texts."""
    texts = [str(text) for row in world.train for text in (row.anchor, row.positive)]
    lm, tokenizer = language_model(texts, settings, context, seed)
    with tempfile.TemporaryDirectory() as folder:
        lm.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return embedworks.load(folder, device=context.device)


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    import torch
    from sentence_transformers import SentenceTransformer

    from embedworks.modules import MaskedMeanPooling, make_bidirectional

    world = context.once(("world", seed), lambda: _world(settings, seed))
    task = world.task(context.part)
    assert isinstance(task.corpus, Mapping)
    base = context.once(("base", seed), lambda: _base(world, settings, context, seed))
    torch.manual_seed(seed)
    body = copy.deepcopy(base[0])
    model = SentenceTransformer(
        modules=[body, MaskedMeanPooling(settings["dim"])], device=context.device
    )
    model.max_seq_length = settings["max_tokens"]
    make_bidirectional(model)
    if arm["loss"]:
        train_model(
            model, _loss(arm["loss"], model, arm["weight"]), list(world.train),
            steps=settings["steps"], batch=settings["batch"], lr=settings["lr"], seed=seed,
            bf16=context.device.startswith("cuda"),
        )  # fmt: skip
    said = log_likelihoods(
        causal_language_model(model), model.tokenizer, list(task.corpus.values()),
        max_tokens=settings["max_tokens"],
    )  # fmt: skip
    items = dict(zip(task.corpus, said.tolist(), strict=True))
    found = retrieval_outcome(Encoder(model), task, metrics=("ndcg@10",))
    perplexity = Outcome({"perplexity": float(np.exp(-said.mean()))})
    return found | Outcome(items={_SAID: items}) | perplexity


def _arm(name: str, summary: str, loss: str, *, weight: float = 1.0) -> Arm:
    return Arm(name, summary, {"loss": loss, "weight": weight})


_FOUND, _SAID = "ndcg@10", "log-likelihood"
_FIVE_PERCENT = math.log(1.05)

ENTRIES = (
    Reproduction(
        slug="survey-grit",
        paper="Generative Representational Instruction Tuning",
        arxiv="2402.09906",
        claim="A decoder that is trained for vectors and for the next token at once embeds as well "
        "as one trained for vectors alone, and generates as well as one trained for the next token "
        "alone.",
        falsifier="Its perplexity on held-out documents is more than 5 % above that of the model "
        "trained to generate, or its nDCG@10 more than 0.02 below that of the model trained to "
        "embed.",
        arms=(
            _arm("both", "Contrastive loss both ways, next-token loss with the mask on.", "both"),
            _arm("generate", "The next-token loss of the same documents alone.", "generate"),
            _arm("embed", "The contrastive loss alone.", "embed"),
            _arm("both, weight 4", "Four times the next-token loss.", "both", weight=4.0),
            _arm("start", "The language model that all arms start from.", ""),
        ),
        decisive=Comparison.between(
            "both", "generate", _SAID, claim="not_worse", margin=_FIVE_PERCENT
        ),
        conditions=(
            Comparison.between("both", "embed", _FOUND, claim="not_worse", margin=0.02),
            Comparison.between(
                "embed", "generate", _SAID, claim="less", margin=_FIVE_PERCENT, falsifies=False
            ),
            Comparison.between("embed", "start", _FOUND, margin=0.05, falsifies=False),
        ),
        secondary=(
            Comparison.between("generate", "start", _SAID),
            Comparison.between("both", "start", _SAID),
            Comparison.between("both, weight 4", "generate", _SAID, claim="not_worse",
                               margin=_FIVE_PERCENT),
            Comparison.between("both, weight 4", "embed", _FOUND, claim="not_worse",
                               margin=0.02),
        ),
        run=_run,
        seeds=3,
        scales={
            "mini": {
                "world": "captions", "rows": 10_000, "documents": 300, "queries": 300,
                "vocabulary": 1000, "dim": 96, "layers": 2, "heads": 4,
                "lm": {"steps": 250, "batch_size": 32, "length": 48, "learning_rate": 3e-3},
                "max_tokens": 40, "steps": 100, "batch": 48, "lr": 1e-3,
            },
            "gpu": {
                "world": "abstracts", "rows": 20_000, "queries": 1000,
                "vocabulary": 8000, "dim": 384, "layers": 6, "heads": 6,
                "lm": {"steps": 800, "batch_size": 64, "length": 128, "learning_rate": 1e-3,
                       "precision": "bf16"},
                "max_tokens": 96, "steps": 150, "batch": 128, "lr": 3e-4,
            },
        },
        setup="One causal language model for each seed is trained from scratch on the texts of all "
        "training pairs. From it every arm goes on for the same steps with the "
        "same batches in the same order, the same rate and no dropout: pairs of captions of one "
        "photo (mini), or titles and abstracts (gpu). Vectors are means of the last states, "
        "temperature 0.05, negatives are the batch's. The next-token loss is that of the documents "
        "in the batch. Scored are held-out documents: their log-likelihood for each token with the "
        "mask on, and nDCG@10 of finding them. Five per cent of perplexity are 0.049 in "
        "log-likelihood. That the embedder alone loses more than that shows that there is "
        "something to lose.",
        limits="GRIT trains a model of 7 billion parameters on instructions with answers, data of "
        "their own beside the pairs, and finds it equal on tasks; here the documents are both, the "
        "models small and young, and generation is scored by likelihood alone. A step of both "
        "costs the passes of both.",
    ),
)  # fmt: skip
