"""One model that embeds and ranks: what does each task lose to a model of its own?"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import embedworks
from embedworks.data import Row
from embedworks.evaluation import RetrievalTask
from embedworks.models import encode_batched
from embedworks.reproductions import (
    Arm,
    Comparison,
    Context,
    Outcome,
    Reproduction,
    Student,
    Tuning,
    acl_retrieval,
    pair_retrieval,
    retrieval_outcome,
)
from embedworks.reproductions.papers._steps import train_model

__all__ = ["ENTRIES", "candidate_places", "reciprocal_ranks"]

#: Documents that are ranked for a question: the right one and the nearest others.
DEPTH = 20
_GUESSED = sum(1 / place for place in range(1, DEPTH + 1)) / DEPTH


class _Vectors:
    """A model that is only asked for vectors of texts."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        return encode_batched(self.model, list(texts), show_progress=False)[0]

    def encode(self, texts: Sequence[str], /) -> Any:
        raise NotImplementedError

    def parameters(self) -> list[Any]:
        return []

    def train(self, mode: bool, /) -> None:
        """Nothing here is trained."""


def candidate_places(similarities: np.ndarray, right: np.ndarray, depth: int) -> np.ndarray:
    """Return per question the right document and the most similar others, int (Q, depth).

    Example:
        >>> candidate_places(np.array([[0.1, 0.9, 0.5]]), np.array([0]), 2)
        array([[0, 1]])
    """
    found = similarities.copy()
    found[np.arange(len(right)), right] = np.inf
    return np.argsort(-found, axis=1, kind="stable")[:, :depth]


def reciprocal_ranks(scores: np.ndarray) -> np.ndarray:
    """Return 1 / the rank of column 0 in each row; a tie counts against it, float (Q,).

    Example:
        >>> reciprocal_ranks(np.array([[2.0, 1.0, 3.0], [1.0, 1.0, 0.0]]))
        array([0.5, 0.5])
    """
    return 1 / (1 + (scores[:, 1:] >= scores[:, :1]).sum(axis=1))


def _base(device: str) -> Any:
    model: Any = embedworks.load("minilm", device=device)
    # Half of MiniLM is its token table, which some dozens of steps would hardly change.
    model[0].auto_model.embeddings.requires_grad_(False)
    return model


def _data(settings: Mapping[str, Any], base: Any, part: str, seed: int) -> dict[str, Any]:
    """Return rows with a negative each, the task, and the documents to rank for each question."""
    count = settings["rows"]
    if settings["world"] == "titles":
        world = acl_retrieval(count, queries=settings["queries"], seed=seed)
    else:
        world = pair_retrieval(
            settings["world"],
            count,
            documents=settings["documents"],
            queries=settings["queries"],
            seed=seed,
        )
    room = settings["text_characters"]
    held_out = world.task(part)
    assert isinstance(held_out.corpus, Mapping)
    others = (one for one in held_out.corpus if one not in held_out.queries)
    kept = [*held_out.queries, *others][: settings["documents"]]
    corpus = {one: held_out.corpus[one][:room] for one in kept}
    asked = list(held_out.queries)[: settings["ranked"][part]]
    model = _Vectors(base)
    near = model.vectors([held_out.queries[one] for one in asked])
    near = near @ model.vectors(list(corpus.values())).T
    order = {one: place for place, one in enumerate(corpus)}
    places = candidate_places(near, np.array([order[one] for one in asked]), DEPTH)
    texts = list(corpus.values())
    return {
        "rows": _with_negatives(
            [(str(r.anchor), str(r.positive)[:room]) for r in world.train],
            model,
            settings["margin"],
        ),
        "task": RetrievalTask(part, held_out.queries, corpus, held_out.qrels),
        "lists": {
            one: [texts[place] for place in found] for one, found in zip(asked, places.tolist())
        },
    }


def _with_negatives(pairs: Iterable[tuple[str, str]], model: _Vectors, margin: float) -> list[Row]:
    """Return rows with a hard negative, mined by the untuned model; without one it is left out."""
    from embedworks.negatives import mine_hard_negatives

    pairs = list(pairs)
    queries, documents = (model.vectors([pair[side] for pair in pairs]) for side in (0, 1))
    mined = mine_hard_negatives(
        queries, documents, np.arange(len(pairs)), count=1, margin=margin
    ).positions
    return [
        Row(query, document, (pairs[place][1],))
        for (query, document), place in zip(pairs, mined[:, 0].tolist(), strict=True)
        if place >= 0
    ]


def _trained(arm: Arm, data: Mapping[str, Any], settings: Mapping[str, Any], context: Context,
             base: Any, seed: int) -> Any:  # fmt: skip
    from torch import nn

    from embedworks.losses import ContrastiveLoss, JointRankingLoss
    from embedworks.models import joint_model

    class Ranking(nn.Module):
        """The part of a joint loss that ranks."""

        def __init__(self, joint: JointRankingLoss) -> None:
            super().__init__()
            self.joint = joint

        def forward(self, columns: list[dict[str, Any]], labels: Any = None) -> Any:
            return self.joint.ranking(columns)

    model = copy.deepcopy(base)
    # Packs that fit a CPU's cache; on a GPU one pack, as each is a pass of its own.
    packed = 1024 if model.device.type == "cpu" else 65_536
    if arm["tasks"] != "embed":
        model = joint_model(model, seed=seed)
    loss: nn.Module = ContrastiveLoss(model, temperature=0.05, mini_batch_tokens=packed)
    if arm["tasks"] != "embed":
        loss = JointRankingLoss(model, loss, weight=settings["weight"], others=settings["others"])
    if arm["tasks"] == "rank":
        loss = Ranking(loss)
    train_model(
        model, loss, data["rows"], steps=settings["steps"], batch=settings["batch"],
        lr=context.tuned["lr"], seed=seed, bf16=True, negatives=1,
    )  # fmt: skip
    return model


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    from embedworks.models import JointReranker

    base = context.once(("base",), lambda: _base(context.device))
    data = context.once(
        ("data", seed, context.part), lambda: _data(settings, base, context.part, seed)
    )
    model = base
    if arm["tasks"] != "none":
        model = _trained(arm, data, settings, context, base, seed)
    task, lists = data["task"], data["lists"]
    items: dict[str, Mapping[str, float]] = {}
    student: Student = _Vectors(model)
    if arm["tasks"] != "rank":
        searched = retrieval_outcome(student, task, metrics=("ndcg@10",))
        items[_VECTORS] = searched.items["ndcg@10"]
        items[_LISTS] = _by_vectors(student, task, lists)
    if arm["tasks"] in ("rank", "both"):
        reranker = JointReranker(model, batch_size=settings["read"])
        pairs = [(task.queries[one], text) for one, texts in lists.items() for text in texts]
        scores = reranker.predict(pairs).reshape(len(lists), DEPTH)
        items[_RANKING] = dict(zip(lists, reciprocal_ranks(scores).tolist(), strict=True))
    found = Outcome(items=items)
    own = [found.metrics[name] for name in (_VECTORS, _RANKING) if name in items]
    return found | Outcome({"quality": float(np.mean(own))})


def _by_vectors(
    student: Student, task: RetrievalTask, lists: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Return the reciprocal rank of the right document in each list, ordered by cosine."""
    asked = student.vectors([task.queries[one] for one in lists])
    texts = student.vectors([text for listed in lists.values() for text in listed])
    scores = np.einsum("qd,qkd->qk", asked, texts.reshape(len(asked), DEPTH, -1))
    return dict(zip(lists, reciprocal_ranks(scores).tolist(), strict=True))


_VECTORS, _RANKING, _LISTS = "vectors ndcg@10", "ranking mrr", "lists by vectors"

ENTRIES = (
    Reproduction(
        slug="survey-gpte-joint-rank",
        paper="On the Role of Pretrained Language Models in General-Purpose Text Embeddings: "
        "A Survey",
        arxiv="2507.20783",
        claim="One model can embed and rank: trained for both on the same rows, neither task is "
        "worse by a point or more than that of a model trained for it alone.",
        falsifier="With as many steps for each task and a learning rate chosen for each model, the "
        "joint model is worse by more than 0.01 than the embedder at search (nDCG@10), or than the "
        "ranker at ordering the same lists (mean reciprocal rank).",
        arms=(
            Arm("joint", "one model, half the loss of vectors and half that of scores",
                {"tasks": "both"}),
            Arm("embedder", "the loss of vectors alone", {"tasks": "embed"}),
            Arm("ranker", "the loss of scores alone", {"tasks": "rank"}),
            Arm("untuned", "MiniLM as it is", {"tasks": "none"}, tune_as="embedder"),
        ),
        decisive=Comparison.between("joint", "embedder", _VECTORS, name="joint as good at search",
                                    claim="not_worse", margin=0.01),
        conditions=(
            Comparison.between("joint", "ranker", _RANKING, name="joint as good at ranking",
                               claim="not_worse", margin=0.01),
            Comparison.between("embedder", "untuned", _VECTORS, name="the embedder has learned",
                               falsifies=False),
            Comparison("the ranker has learned", _RANKING, {"ranker": 1.0}, null=_GUESSED,
                       margin=0.02, falsifies=False),
        ),
        secondary=(
            Comparison.between("joint", "untuned", _VECTORS),
            Comparison.between("joint", "embedder", _LISTS, claim="not_worse", margin=0.01),
        ),
        run=_run,
        seeds=3,
        tuning=Tuning({"lr": (1e-4, 3e-4)}, metric="quality"),
        scales={
            "mini": {
                "world": "captions", "rows": 400, "documents": 400, "queries": 400,
                "ranked": {"validation": 60, "test": 100}, "text_characters": 200,
                "margin": 0.95, "weight": 0.5,
                "steps": 20, "batch": 12, "others": 1, "read": 32,
            },
            "gpu": {
                "world": "titles", "rows": 5000, "documents": 2500, "queries": 1500,
                "ranked": {"validation": 300, "test": 1000}, "text_characters": 600,
                "margin": 0.95, "weight": 0.5,
                "steps": 250, "batch": 32, "others": 3, "read": 256,
            },
        },
        setup="Every model starts from all-MiniLM-L6-v2 and trains its layers, not its token "
        "table, on the same rows in the same batches: a text, its document, and a document that "
        "MiniLM finds near and is not it. At the small scale these are two people's captions of a "
        "photo (Multi30k), at the large one titles and abstracts (ACL Anthology). The loss of "
        "vectors is InfoNCE at temperature 0.05 over the batch's documents and negatives. The loss "
        "of scores reads a text with a document as one sequence, through a head of one hidden "
        "layer over the mean of the states, and is a cross-entropy over the right document, the "
        "negative and some other documents of the batch. AdamW, linear warm-up and decay, dropout "
        "as published, bf16; the learning rate is the better of two on validation data, for each "
        "model.\n\n"
        "Search is nDCG@10 by vectors over held-out documents. Ranking is the mean reciprocal rank "
        "of the right document among the 19 that the untuned MiniLM finds nearest, in the order of "
        "the scores; a tie counts against it. The same lists ordered by cosine are shown beside.",
        limits="Some dozens or hundreds of steps. A head from random weights has to learn to rank "
        "from so few; where its scores stay below the cosines, being as good as the ranker "
        "says little of what longer training would cost. One share of the two losses was tried, "
        "a half. Two learning rates are a coarse grid.",
    ),
)  # fmt: skip
