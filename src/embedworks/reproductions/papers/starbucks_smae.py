"""Starbucks' pre-training: does SMAE help small sizes more than masked tokens do?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embedworks.data import Row
from embedworks.evaluation import RetrievalTask
from embedworks.models import (
    encode_batched,
    new_language_model,
    new_model,
    train_tokenizer,
)
from embedworks.reproductions import (
    Arm,
    Comparison,
    Context,
    Outcome,
    Reproduction,
    acl_retrieval,
    english_texts,
    graded_items,
    retrieval_outcome,
    stsb_graded,
)
from embedworks.reproductions.papers._steps import train_model

__all__ = ["ENTRIES", "pretrained"]


class _Encoder:
    """A model as what reproductions score."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors (N, D)."""
        return encode_batched(self.model, list(texts), show_progress=False)[0]


def _data(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    world = acl_retrieval(settings["rows"], queries=settings["queries"], seed=seed)
    pairs = stsb_graded().test[: settings["pairs"]]
    room = settings["text_characters"]
    task = world.test
    assert isinstance(task.corpus, Mapping)
    others = [one for one in task.corpus if one not in task.queries]
    kept = [*task.queries, *others][: settings["documents"]]
    corpus = {one: task.corpus[one][:room] for one in kept}
    exclude = [text for a, b, _ in pairs for text in (a, b)]
    texts = english_texts(settings["characters"], exclude=exclude, seed=seed)
    return {
        "rows": [Row(str(r.anchor), str(r.positive)[:room]) for r in world.train],
        "task": RetrievalTask("titles", task.queries, corpus, task.qrels),
        "pairs": pairs,
        "texts": texts,
        "tokenizer": train_tokenizer(
            texts[: settings["tokenizer_texts"]], settings["vocabulary"], max_tokens=256
        ),
    }


def _sizes(settings: Mapping[str, Any]) -> dict[str, int]:
    return {name: settings[name] for name in ("dim", "layers", "heads")}


def pretrained(
    kind: str, data: Mapping[str, Any], settings: Mapping[str, Any], seed: int, device: str
) -> Any:
    """Return a masked language model, pre-trained or not.

    Args:
        kind: ``"none"``, ``"mlm"``, ``"mlm, longer"`` (as many steps more as SMAE takes time) or
            ``"smae"``.
        data: Texts and tokenizer.
        settings: Of the scale.
        seed: Of weights, order and masks.
        device: Torch device.
    """
    from embedworks.training import LanguageModelSettings, train_language_model

    model = new_language_model(
        "bert", data["tokenizer"], masked=True, max_tokens=256, seed=seed, **_sizes(settings)
    )
    if kind == "none":
        return model
    wanted = {**settings["pretraining"], "objective": "smae" if kind == "smae" else "mlm"}
    if kind == "smae":
        wanted["pairs"] = settings["sizes"]
    if kind == "mlm, longer":
        wanted["steps"] = round(wanted["steps"] * settings["longer"])
    train_language_model(
        model, data["tokenizer"], data["texts"],
        LanguageModelSettings.from_dict({**wanted, "seed": seed}), device=device,
    )  # fmt: skip
    return model


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    from sentence_transformers.sentence_transformer.modules import Pooling

    from embedworks.losses import ContrastiveLoss, FixedPairs, LayerDimLoss, ScoreKL
    from embedworks.models import truncate_model

    data = context.once(("data", seed), lambda: _data(settings, seed))
    kind = arm["pretraining"]
    start = context.once(
        ("pretrained", seed, kind), lambda: pretrained(kind, data, settings, seed, context.device)
    )
    model = new_model(
        "bert", data["tokenizer"], max_tokens=256, seed=seed, device=context.device,
        pooling=Pooling(settings["dim"], arm["pooling"]), **_sizes(settings),
    )  # fmt: skip
    model.max_seq_length = settings["max_tokens"]
    model[0].auto_model.load_state_dict(start.bert.state_dict(), strict=False)
    loss = LayerDimLoss(
        model,
        ContrastiveLoss(model, temperature=0.05),
        sampler=FixedPairs([tuple(size) for size in settings["sizes"]]),
        align=ScoreKL(),
        seed=seed,
    )
    train_model(
        model, loss, data["rows"], steps=settings["steps"], batch=settings["batch"],
        lr=settings["lr"], seed=seed, bf16=context.device.startswith("cuda"),
    )  # fmt: skip
    titles: list[Mapping[str, float]] = []
    graded: list[Mapping[str, float]] = []
    for layers, dim in settings["sizes"]:
        student = _Encoder(truncate_model(model, layers, dim))
        found = retrieval_outcome(student, data["task"], metrics=("ndcg@10",))
        titles.append(found.items["ndcg@10"])
        graded.append(graded_items(student, data["pairs"]))
    return Outcome(
        items={
            "small ndcg@10": _mean(titles[:-1]),
            "full ndcg@10": titles[-1],
            "small sts": _mean(graded[:-1]),
            "full sts": graded[-1],
        }
    )


def _mean(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean over sizes, item by item."""
    return {item: float(np.mean([one[item] for one in found])) for item in found[0]}


def _arm(name: str, summary: str, pretraining: str, pooling: str = "cls") -> Arm:
    return Arm(name, summary, {"pretraining": pretraining, "pooling": pooling})


_SMALL, _FULL = "small ndcg@10", "full ndcg@10"

ENTRIES = (
    Reproduction(
        slug="starbucks-smae",
        paper="Starbucks: Improved Training for 2D Matryoshka Embeddings",
        arxiv="2410.13230",
        claim="Pre-training masked tokens and the whole text at every size of the ladder (SMAE) "
        "makes small sizes better than pre-training masked tokens alone.",
        falsifier="After the same fine-tuning SMAE gains less than 0.01 nDCG@10 at the small sizes "
        "over masked tokens on the same text, or nothing over masked tokens for as long a time.",
        arms=(
            _arm("none", "random weights", "none"),
            _arm("mlm", "masked tokens", "mlm"),
            _arm("mlm, longer", "masked tokens, for about the time SMAE takes", "mlm, longer"),
            _arm("smae", "masked tokens and the whole text, at every size", "smae"),
            _arm("mlm, mean", "masked tokens; vectors are means", "mlm", "mean"),
            _arm("smae, mean", "SMAE; vectors are means", "smae", "mean"),
        ),
        decisive=Comparison.between("smae", "mlm", _SMALL, margin=0.01),
        conditions=(Comparison.between("smae", "mlm, longer", _SMALL),),
        secondary=(
            Comparison.between("smae", "mlm", _FULL, margin=0.01),
            Comparison.between("smae", "mlm", "small sts", margin=0.01),
            Comparison.between("smae", "mlm", "full sts", margin=0.01),
            Comparison.between("mlm", "none", _SMALL, margin=0.01),
            Comparison.between("smae, mean", "mlm, mean", _SMALL, margin=0.01),
            Comparison.between("smae", "smae, mean", _SMALL),
        ),
        run=_run,
        seeds=3,
        scales={
            "mini": {
                "vocabulary": 4096, "dim": 128, "layers": 4, "heads": 4,
                "sizes": [[1, 16], [2, 32], [3, 64], [4, 128]],
                "characters": 3_000_000, "tokenizer_texts": 20_000, "text_characters": 300,
                "pretraining": {"steps": 150, "batch_size": 16, "length": 128,
                                "learning_rate": 1e-3, "whole_words": True},
                "longer": 2.5, "rows": 2000, "queries": 150, "documents": 400, "pairs": 400,
                "max_tokens": 112, "batch": 32, "steps": 40, "lr": 1e-3,
            },
            "gpu": {
                "vocabulary": 16_384, "dim": 384, "layers": 6, "heads": 6,
                "sizes": [[1, 24], [2, 48], [3, 96], [4, 192], [5, 288], [6, 384]],
                "characters": 60_000_000, "tokenizer_texts": 60_000, "text_characters": 600,
                "pretraining": {"steps": 350, "batch_size": 128, "length": 128,
                                "learning_rate": 1e-3, "whole_words": True, "precision": "bf16"},
                "longer": 2.5, "rows": 20_000, "queries": 300, "documents": 1000, "pairs": 1000,
                "max_tokens": 200, "batch": 128, "steps": 80, "lr": 5e-4,
            },
        },
        setup="A small BERT from scratch is pre-trained on English text in one of the ways, then "
        "fine-tuned on titles and abstracts by the ladder with score KL, the same for all. Small "
        "sizes are all of the ladder but the full one; each is cut out and searches abstracts of "
        "held-out papers by their titles. Whole words are hidden in every arm. Vectors are states "
        "of the first token, as the paper's for retrieval, and means in two more arms.",
        limits="Minutes of pre-training from random weights, where the paper goes on from BERT for "
        "an epoch of a web corpus. SMAE takes more time for each step: the arm that trains longer "
        "is there for it.",
    ),
)  # fmt: skip
