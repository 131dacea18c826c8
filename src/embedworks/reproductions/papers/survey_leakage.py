"""Surveys on text embeddings, safety: what do vectors tell, and what does hiding it cost?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embedworks import load
from embedworks.evaluation import (
    EncoderSystem,
    InversionTask,
    PrivacyTransform,
    Resampling,
    TaskResult,
    binary_vectors,
    gaussian_noise,
    int8_vectors,
    rounded_vectors,
)
from embedworks.reproductions import (
    Arm,
    Comparison,
    Context,
    Outcome,
    Reproduction,
    RetrievalWorld,
    Tuning,
    stdlib_retrieval,
)

__all__ = ["ENTRIES"]

_FEW = Resampling(n_resamples=100)
_KEPT = 0.95
_RAW, _NOISE = "as they are", "noise"


def _transform(arm: Arm, system: EncoderSystem, scale: float, seed: int) -> PrivacyTransform | None:
    kind = arm["transform"]
    if kind in ("noise", "drowned"):
        dimension = int(system.encode(["dimension"]).shape[1])
        length = 1000.0 if kind == "drowned" else scale
        return gaussian_noise(length, dimension=dimension, seed=seed)
    fixed = {"int8": int8_vectors, "binary": binary_vectors, "rounded": lambda: rounded_vectors(1)}
    return fixed[kind]() if kind in fixed else None


def _read(world: RetrievalWorld, seed: int) -> InversionTask:
    return InversionTask("words", [str(row.anchor) for row in world.train], seed=seed)


def _ndcg(system: EncoderSystem, world: RetrievalWorld, part: str) -> TaskResult:
    return world.task(part).run(system, _FEW)


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    world = context.once(
        ("world", seed, settings["rows"]),
        lambda: stdlib_retrieval(
            settings["rows"], test_siblings=0.0, queries=settings["queries"], seed=seed
        ),
    )
    system = context.once(
        ("system", settings["model"]),
        lambda: EncoderSystem(
            load(settings["model"]), name=settings["model"], cache=context.cache / "systems"
        ),
    )
    transform = _transform(arm, system, context.setting("scale", 1.0), seed)
    changed = system if transform is None else transform.of(system)
    told = context.once(("task", seed, settings["rows"]), lambda: _read(world, seed)).run(
        changed, _FEW
    )
    used = _ndcg(changed, world, context.part)
    ndcg = used.scores["ndcg@10"].values
    facts: dict[str, float] = {"known words": told.details["known_words"]}
    if transform is not None and "epsilon" in transform.about:
        facts["epsilon"] = transform.about["epsilon"]
    if context.part == "validation":
        whole = context.once(
            ("whole", seed, context.part, settings["rows"], settings["queries"]),
            lambda: _ndcg(system, world, context.part).scores["ndcg@10"].interval.mean,
        )
        kept = used.scores["ndcg@10"].interval.mean / whole
        # The most that is hidden among the levels that keep enough; else what keeps most.
        hidden = 1 - told.main.interval.mean
        facts["hidden"] = hidden if kept >= _KEPT + settings["reserve"] else kept - 2
    return Outcome(
        facts,
        {
            "word f1": _items(told, "word_f1"),
            "over baseline": _items(told, "over_best_baseline"),
            "prior f1": _items(told, "prior_f1"),
            "nearest f1": _items(told, "nearest_f1"),
            "ndcg@10": dict(zip(used.items, ndcg, strict=True)),
        },
    )


def _items(result: TaskResult, metric: str) -> dict[str, float]:
    """Return values by text; texts are drawn anew with every seed, so ids need not agree."""
    return dict(zip(result.items, result.scores[metric].values, strict=True))


def _arm(name: str, summary: str, transform: str, *, tuned: bool = False) -> Arm:
    return Arm(name, summary, {"transform": transform}, "" if tuned else _NOISE)


ENTRIES = (
    Reproduction(
        slug="survey-leakage",
        paper="On the Role of Pretrained Language Models in General-Purpose Text Embeddings: A "
        "Survey",
        arxiv="2507.20783",
        claim="Words can be read off the vectors of unseen texts, and some level of noise halves "
        "what is read at less than 5 % of the search quality.",
        falsifier="The level of noise that hides most on validation data, among those that keep "
        "95 % of nDCG@10 there, leaves more than half of the word F1 on test data; or the decoder "
        "does not beat the guesses that need none.",
        arms=(
            _arm(_RAW, "the vectors, unchanged", "none"),
            _arm(_NOISE, "Gaussian noise, its level tuned on validation data", "noise", tuned=True),
            _arm("int8", "8 bits per value", "int8"),
            _arm("rounded", "one digit after the point", "rounded"),
            _arm("binary", "the sign of every value", "binary"),
            _arm("drowned", "noise 1,000 times as long as the vector: must be at the prior",
                 "drowned"),
        ),
        decisive=Comparison(
            "noise leaves less than half of word F1", "word f1", {_NOISE: 1.0, _RAW: -0.5}, "less"
        ),
        conditions=(
            Comparison(
                "noise keeps 95 % of nDCG@10", "ndcg@10", {_NOISE: 1.0, _RAW: -_KEPT}, "not_worse",
                margin=0.005,
            ),
            Comparison(
                "words can be read", "over baseline", {_RAW: 1.0}, margin=0.02
            ),
        ),
        secondary=(
            Comparison(
                "nothing is read when drowned", "over baseline", {"drowned": 1.0}, "equal",
                margin=0.02,
            ),
            Comparison.between("int8", _RAW, "word f1", claim="equal", margin=0.02),
            Comparison(
                "binary leaves less than half of word F1", "word f1", {"binary": 1.0, _RAW: -0.5},
                "less",
            ),
            Comparison.between("binary", _RAW, "ndcg@10", claim="less"),
            Comparison.between("rounded", _RAW, "word f1", claim="less"),
        ),
        run=_run,
        seeds=3,
        tuning=Tuning({"scale": (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 2.0)}, metric="hidden"),
        scales={"mini": {"model": "minilm", "rows": 3000, "queries": 400, "reserve": 0.01}},
        setup="MiniLM's vectors of docstring summaries of the standard library. A ridge "
        "regression from vectors to words is trained on 70 % of 3,000 of them, its penalty and "
        "threshold are chosen on 10 %, and the words of the other 20 % are guessed; words in more "
        "than a tenth of the summaries do not count. Two guesses need no decoder: the commonest "
        "words, and those of the nearest training text. The attacker is trained on vectors with "
        "the same defence. Search quality is that of summaries for their code, in modules that "
        "are not otherwise used; both sides have the defence.\n\n"
        "The level of noise is the one of eight that hides most on validation modules among "
        "those that keep 96 % of nDCG@10.",
        limits="A linear decoder of a bag of words is the weakest of the attacks the survey "
        "names; what it cannot read a trained language model may. An item of word F1 is a place "
        "in a seed's own sample, so intervals over texts are approximate. Epsilon is printed "
        "for every level; at levels that keep a search usable it promises nothing.",
    ),
)  # fmt: skip
