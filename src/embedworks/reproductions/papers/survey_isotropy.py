"""Surveys on word vectors: do vectors that are more isotropic follow people's judgement better?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embedworks import load
from embedworks.evaluation import effective_rank, iso_score, mean_cosine, spearman
from embedworks.models import StaticModel, fit_component_removal, fit_whitening
from embedworks.models import sif_weights as weights_of_counts
from embedworks.reproductions import (
    Arm,
    Comparison,
    Context,
    FrozenVectors,
    Outcome,
    Reproduction,
    stsb_graded,
)

__all__ = ["ENTRIES", "sif_weights", "token_table"]


def token_table(model: str) -> StaticModel:
    """Return the token embeddings that a transformer starts from, as a model of its own.

    Args:
        model: Name for `embedworks.load`; a static model is returned as it is.
    """
    loaded: Any = load(model, device="cpu")
    if isinstance(loaded, StaticModel):
        return loaded
    table = next(
        value for name, value in loaded.named_parameters() if "word_embeddings.weight" in name
    )
    tokenizer = loaded.tokenizer.backend_tokenizer
    return StaticModel(tokenizer, table.detach().float().numpy(), name=f"{model} tokens")


def sif_weights(model: StaticModel, texts: Sequence[str], *, a: float = 1e-3) -> np.ndarray:
    """Return ``a / (a + p)`` per token, p its share of the tokens of some texts, (V,).

    Args:
        model: Whose tokens are counted.
        texts: Texts to count in.
        a: Smaller weighs common tokens down more.
    """
    ids = model.tokenize(texts)[0]
    counts = np.bincount(ids, minlength=len(model.table))
    return weights_of_counts(counts, a=a).astype(np.float32)


def _changed(
    arm: Arm, fitted: np.ndarray, vectors: np.ndarray, settings: Mapping[str, Any], seed: int
) -> np.ndarray:
    kind = arm["change"]
    if kind == "whitened":
        return fit_whitening(fitted, floor=1e-3)(vectors)
    if kind == "top":
        return fit_component_removal(fitted, count=settings["axes"])(vectors)
    if kind == "sif":
        return fit_component_removal(fitted, count=1)(vectors)
    if kind == "noise":
        # Centred and blurred evenly in all directions: rounder, and no better informed.
        spread = float((fitted - fitted.mean(axis=0)).std())
        rng = np.random.default_rng([seed, 5])
        noise = rng.normal(0.0, settings["noise"] * spread, size=vectors.shape)
        return np.asarray(vectors - fitted.mean(axis=0) + noise)
    return vectors


def _vectors(
    arm: Arm,
    texts: Sequence[str],
    fit: Sequence[str],
    settings: Mapping[str, Any],
    context: Context,
) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors of the texts to fit on and of those to score."""
    if arm["base"] == "sentence":
        frozen = context.once(
            ("frozen", settings["model"]),
            lambda: FrozenVectors(settings["model"], cache=context.cache, device="cpu"),
        )
        return frozen(fit), frozen(texts)
    model = context.once(("table", settings["model"]), lambda: token_table(settings["model"]))
    if arm["change"] == "sif":
        model = model.with_table(model.table * sif_weights(model, fit)[:, None])
    return model.encode(fit), model.encode(texts)


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    world = context.once(("world",), stsb_graded)
    rng = np.random.default_rng([seed, 3])
    rows = [world.train[int(i)] for i in rng.permutation(len(world.train))[: settings["rows"]]]
    pairs = [world.test[int(i)] for i in rng.permutation(len(world.test))[: settings["pairs"]]]
    fit = list(dict.fromkeys(str(text) for row in rows for text in (row.anchor, row.positive)))
    texts = [text for a, b, _ in pairs for text in (a, b)]
    fitted, vectors = (
        part.astype(np.float64) for part in _vectors(arm, texts, fit, settings, context)
    )
    changed = _changed(arm, fitted, vectors, settings, seed)
    unit = changed / np.linalg.norm(changed, axis=1, keepdims=True).clip(1e-12)
    cosines = (unit[::2] * unit[1::2]).sum(axis=1)
    there = changed[changed.any(axis=1)]
    return Outcome(
        {
            "spearman": spearman(cosines, [score for _, _, score in pairs]),
            "iso score": iso_score(changed),
            "mean cosine": mean_cosine(there),
            "effective rank": effective_rank(there),
        }
    )


def _arm(name: str, summary: str, base: str, change: str) -> Arm:
    return Arm(name, summary, {"base": base, "change": change})


ENTRIES = (
    Reproduction(
        slug="survey-isotropy",
        paper="From Word Vectors to Multimodal Embeddings: Techniques, Applications, and Future "
        "Directions For Large Language Models",
        arxiv="2411.05036",
        claim="Averaged word vectors follow people's judgement of similarity better when they are "
        "made more isotropic, by whitening or by taking out the top axes.",
        falsifier="Whitening, or taking out the top axes, makes averaged token vectors more "
        "isotropic and does not raise their rank correlation with people's scores by 0.01.",
        arms=(
            _arm("mean", "the mean of the token vectors", "tokens", "none"),
            _arm("whitened", "unit covariance on the training sentences", "tokens", "whitened"),
            _arm("top axes out", "without the mean and the three top axes", "tokens", "top"),
            _arm("sif", "common tokens weighed down, without the top axis", "tokens", "sif"),
            _arm("noise", "centred, with noise in all directions", "tokens", "noise"),
            _arm("trained", "the transformer's own sentence vectors", "sentence", "none"),
            _arm("trained, whitened", "these, whitened", "sentence", "whitened"),
        ),
        decisive=Comparison.between("whitened", "mean", "spearman", margin=0.01),
        conditions=(
            Comparison.between("top axes out", "mean", "spearman", margin=0.01),
            Comparison.between("whitened", "mean", "iso score", falsifies=False),
            Comparison.between("top axes out", "mean", "iso score", falsifies=False),
        ),
        secondary=(
            Comparison.between("sif", "mean", "spearman", margin=0.01),
            Comparison.between("sif", "whitened", "spearman"),
            Comparison.between("noise", "mean", "iso score", name="noise is rounder too"),
            Comparison.between(
                "noise", "mean", "spearman", name="being rounder is enough", margin=0.01
            ),
            Comparison.between(
                "trained, whitened", "trained", "iso score", name="whitening makes trained rounder"
            ),
            Comparison.between(
                "trained, whitened", "trained", "spearman", name="whitening helps trained vectors",
                margin=0.01,
            ),
        ),
        run=_run,
        seeds=5,
        scales={
            "mini": {"model": "minilm", "rows": 2000, "pairs": 700, "axes": 3, "noise": 2.0}
        },
        setup="Pairs of the English STS benchmark. Token vectors are those MiniLM starts from, "
        "averaged over a sentence. Everything is fitted on 2,000 training pairs, never on the "
        "700 test pairs; each seed draws both anew. Two further questions are asked of the claim: "
        "whether being rounder is enough (noise in all directions makes vectors rounder and "
        "tells nothing), and whether it holds for vectors that were trained to be compared.",
        limits="One table of token vectors, which comes out of a model trained for similarity; "
        "one language, one set of pairs. Seeds share test pairs, so the intervals speak of these "
        "pairs. The share of variance that whitening may blow up is limited at a thousandth of "
        "the largest.",
    ),
)  # fmt: skip
