"""What the papers on nested sizes share: MiniLM, short texts, one training loop, scores by size."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import embedworks
from embedworks.data import Row
from embedworks.evaluation import RetrievalTask, spearman
from embedworks.reproductions import (
    Arm,
    Context,
    Outcome,
    Student,
    pair_retrieval,
    retrieval_outcome,
    stsb_graded,
)
from embedworks.reproductions.papers._steps import train_model

__all__ = ["DIAGONAL", "LADDER", "SCALES", "SETUP", "SHALLOW", "run"]

#: The small sizes that every paper is asked about, and the ladder that ends with the whole model.
DIAGONAL = ((1, 32), (2, 64), (3, 128))
LADDER = (*DIAGONAL, (4, 192), (5, 256), (6, 384))
SHALLOW = tuple((layer, dim) for layer in (1, 2, 3) for dim in (32, 128, 384))
FULL = (6, 384)

SCALES = {
    "mini": {
        "lr": 3e-4,
        "rows": 2000,
        "documents": 250,
        "pairs": 400,
        "batch": 32,
        "steps": 40,
    },
    "gpu": {
        "lr": 3e-4,
        "rows": 15000,
        "documents": 500,
        "pairs": 2000,
        "batch": 128,
        "steps": 250,
    },
}

SETUP = (
    "The model is all-MiniLM-L6-v2, 6 layers of 384 dimensions, pooled by mean. It is trained on "
    "pairs of short texts: two people's captions of a photo (Multi30k) and sentences of the STS "
    "benchmark graded 3.5 or more, by InfoNCE at temperature 0.05 with the batch's documents. All "
    "arms take the same batches, steps and optimiser (AdamW, linear warm-up and decay, bf16, token "
    "table frozen). The learning rate is 3e-4 for all: of 1e-4, 3e-4 and 1e-3 it was the best "
    "compromise of small and full sizes on validation data under another seed, for random sizes "
    "and for the ladder alike.\n\n"
    "Scores: nDCG@10 of finding another person's caption of a photo among held-out ones, and "
    "Spearman's correlation on the freely usable test pairs of the STS benchmark. *Diagonal* is "
    "the mean over the sizes 1 layer x 32 dimensions, 2 x 64 and 3 x 128; *shallow* the mean over "
    "1 to 3 layers at 32, 128 and 384 dimensions."
)


class _Cut:
    """A size of a model as a student that is only asked for vectors."""

    def __init__(self, vectors: Mapping[str, np.ndarray], dim: int) -> None:
        self._vectors, self._dim = vectors, dim

    def vectors(self, texts: Sequence[str], /) -> np.ndarray:
        cut = np.stack([self._vectors[text][: self._dim] for text in texts])
        return np.asarray(cut / np.linalg.norm(cut, axis=1, keepdims=True))

    def encode(self, texts: Sequence[str], /) -> Any:
        raise NotImplementedError

    def parameters(self) -> list[Any]:
        return []

    def train(self, mode: bool, /) -> None:
        """Nothing here is trained."""


def run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    """Train one arm and score it at every size."""
    from embedworks.models import truncate_model

    rows, task, pairs = context.once(
        ("data", seed, context.part), lambda: _data(settings, seed, context.part)
    )
    base = context.once(("base",), lambda: _base(context.device))

    def trained(model: Any) -> Any:
        _train(model, arm["loss"], rows, settings, seed=seed)
        return model

    if arm["loss"] == "separate":
        models = [((n, d), trained(truncate_model(base, n, d))) for n, d in DIAGONAL]
        found = {size: _scores(model, [size], task, pairs)[size] for size, model in models}
        return _mean("diagonal", found, DIAGONAL) | _one("3x128", found[3, 128])
    model = copy.deepcopy(base)
    if arm["loss"] != "none":
        trained(model)
    found = _scores(model, sorted({*SHALLOW, *DIAGONAL, FULL}), task, pairs)
    return (
        _mean("diagonal", found, DIAGONAL)
        | _mean("shallow", found, SHALLOW)
        | _one("full", found[FULL])
        | _one("3x128", found[3, 128])
    )


def _base(device: str) -> Any:
    model: Any = embedworks.load("minilm", device=device)
    model.max_seq_length = 48
    return model


def _data(
    settings: Mapping[str, Any], seed: int, part: str
) -> tuple[list[Row], RetrievalTask, list[tuple[str, str, float]]]:
    world = pair_retrieval(
        "captions",
        settings["rows"],
        documents=settings["documents"],
        queries=settings["documents"],
        seed=seed,
    )
    graded = stsb_graded()
    similar = [row for row in graded.train if row.score is not None and row.score >= 3.5]
    pairs = list(graded.part(part))[: settings["pairs"]]
    return [*world.train, *similar], world.task(part), pairs


def _loss(kind: str, model: Any, seed: int) -> Any:
    """Return the loss of an arm by its name in the arms' settings."""
    from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss

    from embedworks.losses import (
        AllLayers,
        ContrastiveLoss,
        FixedPairs,
        LayerDimLoss,
        PCACompress,
        RandomLayerDim,
        ScoreKL,
        VectorKL,
    )

    # Packs that fit a CPU's cache; on a GPU one pack, as each is a pass of its own.
    packed = 1024 if model.device.type == "cpu" else 32_768
    base = ContrastiveLoss(model, temperature=0.05, mini_batch_tokens=packed)
    dims = (32, 64, 128, 192, 256)

    def nested(sampler: Any, align: Any = None, *, detach: bool = True) -> Any:
        return LayerDimLoss(
            model, base, sampler=sampler, align=align, detach_teacher=detach, seed=seed
        )

    kinds: dict[str, Callable[[], Any]] = {
        "contrastive": lambda: base,
        "separate": lambda: base,
        "widths": lambda: MatryoshkaLoss(model, base, [384, *dims]),
        "random": lambda: nested(RandomLayerDim(dims)),
        "random, vector KL": lambda: nested(RandomLayerDim(dims), VectorKL()),
        "random, score KL": lambda: nested(RandomLayerDim(dims), ScoreKL()),
        "random, vector KL, not detached": lambda: nested(
            RandomLayerDim(dims), VectorKL(), detach=False
        ),
        "random x2, score KL": lambda: nested(RandomLayerDim(dims, 2, 1), ScoreKL()),
        "all layers, PCA": lambda: nested(AllLayers(128), PCACompress()),
        "ladder": lambda: nested(FixedPairs(LADDER)),
        "ladder, score KL": lambda: nested(FixedPairs(LADDER), ScoreKL()),
        "ladder, vector KL, not detached": lambda: nested(
            FixedPairs(LADDER), VectorKL(), detach=False
        ),
    }
    return kinds[kind]()


def _train(
    model: Any, kind: str, rows: Sequence[Row], settings: Mapping[str, Any], *, seed: int
) -> None:
    # Half of MiniLM is its token table, which forty steps would hardly change.
    model[0].auto_model.embeddings.requires_grad_(False)
    train_model(
        model, _loss(kind, model, seed), rows, steps=settings["steps"], batch=settings["batch"],
        lr=settings["lr"], seed=seed, bf16=True,
    )  # fmt: skip


def _scores(
    model: Any,
    sizes: Sequence[tuple[int, int]],
    task: RetrievalTask,
    pairs: Sequence[tuple[str, str, float]],
) -> dict[tuple[int, int], tuple[dict[str, float], float]]:
    """Return per size the nDCG@10 of each query and the correlation, from one pass per layer."""
    assert isinstance(task.corpus, Mapping)
    from embedworks.models import truncate_model

    texts = [*task.corpus.values(), *task.queries.values()]
    texts += [text for a, b, _ in pairs for text in (a, b)]
    texts = list(dict.fromkeys(texts))
    layers = len(model[0].auto_model.encoder.layer)
    found = {}
    for layer in sorted({n for n, _ in sizes}):
        cut = truncate_model(model, layer) if layer < layers else model
        encoded = embedworks.models.encode_batched(cut, texts, show_progress=False)[0]
        vectors = dict(zip(texts, encoded, strict=True))
        for dim in sorted({d for n, d in sizes if n == layer}):
            size: Student = _Cut(vectors, dim)
            ranked = retrieval_outcome(size, task, metrics=("ndcg@10",)).items["ndcg@10"]
            left = size.vectors([a for a, _, _ in pairs])
            right = size.vectors([b for _, b, _ in pairs])
            close = np.einsum("nd,nd->n", left, right, dtype=np.float64)
            found[layer, dim] = dict(ranked), spearman(close, [grade for _, _, grade in pairs])
    return {size: found[size] for size in sizes}


def _mean(
    name: str,
    found: Mapping[tuple[int, int], tuple[dict[str, float], float]],
    sizes: Sequence[tuple[int, int]],
) -> Outcome:
    queries = found[sizes[0]][0]
    items = {q: float(np.mean([found[size][0][q] for size in sizes])) for q in queries}
    correlation = float(np.mean([found[size][1] for size in sizes]))
    return Outcome({f"{name} sts": correlation}, {f"{name} ndcg@10": items})


def _one(name: str, scores: tuple[dict[str, float], float]) -> Outcome:
    return Outcome({f"{name} sts": scores[1]}, {f"{name} ndcg@10": scores[0]})
