"""Text2Token: can predicting a text's key tokens train an embedder as well as contrast does?"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedworks.data import Row
from embedworks.errors import DataWarning
from embedworks.models import (
    CountModel,
    TokenTargets,
    VectorTransform,
    VocabLens,
    encode_batched,
    fit_component_removal,
    mix_token_targets,
    model_token_targets,
    prompted_model,
    text_token_targets,
)
from embedworks.reproductions import (
    Arm,
    Comparison,
    Context,
    Outcome,
    Reproduction,
    Tuning,
    english_texts,
    graded_items,
    retrieval_outcome,
    text_classes,
    trained_folder,
    unit_rows,
    v_measure,
)
from embedworks.reproductions.papers._steps import train_model
from embedworks.reproductions.papers.survey_llm_embedders import (
    MINI_MODEL,
    scored_texts,
    texts_of,
)

__all__ = ["ENTRIES", "built_targets", "shuffled_targets"]


def shuffled_targets(targets: TokenTargets, seed: int) -> TokenTargets:
    """Return the targets given to other texts: as hard to learn by heart, and about nothing."""
    order = np.random.default_rng([seed, 23]).permutation(len(targets))
    return TokenTargets(
        targets.ids[order], targets.shares[order], targets.tokenizer, targets.vocabulary
    )


def built_targets(
    kind: str, texts: Sequence[str], folder: Path, settings: Mapping[str, Any], device: str
) -> TokenTargets:
    """Return targets of one kind.

    Args:
        kind: ``"key"``: filtered by how common they are, weighed by tf-idf. ``"all"``: every token
            of the text alike. ``"model"``: key tokens mixed evenly with those that the language
            model says after PromptEOL's prompt.
        texts: Training texts.
        folder: Of the causal language model, whose tokenizer is that of the trained one.
        settings: Of the scale.
        device: Torch device.
    """
    prompted = prompted_model(folder, normalize=False, max_tokens=512, device=device)
    tokenizer = prompted.tokenizer
    if kind == "all":
        return text_token_targets(texts, tokenizer, weighting="uniform", max_share=1.0)
    key = text_token_targets(texts, tokenizer, weighting="tfidf", max_share=0.1)
    if kind == "key":
        return key
    head = prompted[0].head.weight.detach().float().cpu().numpy()

    def said(some: list[str]) -> np.ndarray:
        scores = np.asarray(prompted.encode(some), dtype=np.float64) @ head.T
        scores -= scores.max(axis=1, keepdims=True)
        return np.asarray(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))

    prior = texts[: settings["prior_texts"]]
    own = model_token_targets(texts, said, tokenizer, prior_texts=prior, batch_size=64)
    return mix_token_targets(key, own, 0.5)


class _Trained:
    """A model as what reproductions score: what vectors of training texts share is taken off."""

    def __init__(self, model: Any, texts: Sequence[str] = ()) -> None:
        self.model = model
        self._centre: VectorTransform | None = None
        if texts:
            self._centre = fit_component_removal(self.vectors(texts), count=0)

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors (N, D)."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DataWarning)  # words tf-idf does not know
            found, _ = encode_batched(self.model, list(texts), show_progress=False)
        found = unit_rows(found)
        return found if self._centre is None else unit_rows(self._centre(found))


def _train(
    arm: Arm, model: Any, texts: Sequence[str], base: Path, settings: Mapping[str, Any],
    context: Context, seed: int,
) -> None:  # fmt: skip
    """Train in place, every arm for the same steps."""
    import torch

    from embedworks.losses import ContrastiveLoss, TokenTargetLoss

    rows = [Row(text, text) for text in texts]
    place = {text: number for number, text in enumerate(texts)}
    lr = float(context.setting("lr", 3e-4))
    kinds = list(arm["targets"])
    options = {
        "batch": settings["batch"], "lr": lr, "seed": seed,
        "bf16": context.device.startswith("cuda"),
    }  # fmt: skip
    if not kinds:
        # Two readings differ by dropout alone (SimCSE); decoders have it in the attention.
        for module in model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.3
        loss: Any = ContrastiveLoss(model, temperature=0.05)
        train_model(model, loss, rows, steps=settings["steps"], **options)
        return

    def labels(chosen: Sequence[Row]) -> Any:
        return torch.tensor([place[str(row.anchor)] for row in chosen], device=model.device)

    for stage, kind in enumerate(kinds):
        targets = context.once(
            ("targets", seed, kind, context.part),
            lambda: built_targets(kind, texts, base, settings, context.device),  # noqa: B023
        )
        if arm["shuffled"]:
            targets = shuffled_targets(targets, seed)
        loss = TokenTargetLoss(model, targets, temperature=1.0)
        steps = settings["steps"] // len(kinds)
        train_model(
            model, loss, rows, steps=steps, labels=labels, **{**options, "seed": seed + 100 * stage}
        )


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    scored = context.once(("scored",), lambda: scored_texts(settings))
    classes = context.once(("classes",), lambda: text_classes("banking77", classes=20, seed=0))
    part = context.part
    held = [*texts_of(scored), *(text for text, _ in classes.part(part))]
    lm_seed = 0 if part == "validation" else seed
    room = settings["text_characters"]
    texts = context.once(
        ("texts", seed),
        lambda: list(dict.fromkeys(
            text[:room] for text in english_texts(settings["train_characters"], exclude=held,
                                                  seed=1000 + seed)
        )),
    )  # fmt: skip
    exclude = texts_of(scored)
    base = trained_folder("causal", lm_seed, settings, context, exclude)
    folder = trained_folder("mntp", lm_seed, settings, context, exclude)
    if arm["model"] == "counts":
        model: Any = CountModel.fit(texts)
    else:
        model = prompted_model(
            folder, template="mean", normalize=False, max_tokens=512, device=context.device
        )
        if arm["model"] == "trained":
            _train(arm, model, texts, base, settings, context, seed)
    student = _Trained(model, () if arm["model"] == "counts" else texts[:1000])
    if part == "validation":
        return Outcome(items={"sts": graded_items(student, scored["validation"])})
    items = {name: graded_items(student, scored[own]) for name, own in
             (("sts", "test"), ("sick", "sick"))}  # fmt: skip
    found = Outcome(items=items)
    titles = retrieval_outcome(student, scored["acl"], metrics=("ndcg@10",))
    texts_, labels = zip(*classes.part(part), strict=True)
    found |= titles.prefixed("titles ")
    found |= Outcome({"v-measure": v_measure(student.vectors(texts_), labels, seed=seed)})
    if arm["model"] != "counts":
        asked = [a for a, _, _ in scored["test"]][:200]
        report = VocabLens(model).alignment(asked)
        found |= Outcome({"hit@10": report.hit_at_k, "own tokens first": report.local})
    return found


def _arm(name: str, summary: str, targets: Sequence[str] = (), **settings: Any) -> Arm:
    values = {"model": "trained", "shuffled": False, **settings}
    return Arm(name, summary, {"targets": list(targets), **values})


_STS, _TITLES = "sts", "titles ndcg@10"

ENTRIES = (
    Reproduction(
        slug="text2token",
        paper="Text2Token: Unsupervised Text Representation Learning with Token Target Prediction",
        arxiv="2510.10224",
        claim="Predicting the key tokens of a text trains an embedder without negatives, as well "
        "as contrast of two readings does, and better than predicting all of its tokens.",
        falsifier="On sentence similarity key tokens do not beat all tokens alike, or those of "
        "other texts, by 0.01, or are worse than SimCSE by 0.02 or more.",
        arms=(
            _arm("start", "the language model trained on masked tokens, no more", model="start"),
            _arm("key tokens", "filtered, by tf-idf", ["key"]),
            _arm("all tokens", "every token of the text alike", ["all"]),
            _arm("key, then model", "half the steps on each; second with what the model says",
                 ["key", "model"]),
            _arm("shuffled", "key tokens of other texts", ["key"], shuffled=True),
            _arm("simcse", "contrast of two readings that differ by dropout"),
            _arm("tf-idf", "words counted, no model", model="counts"),
        ),
        decisive=Comparison.between("key tokens", "all tokens", _STS, margin=0.01),
        conditions=(
            Comparison.between("key tokens", "simcse", _STS, claim="not_worse", margin=0.02),
            Comparison.between("key tokens", "shuffled", _STS, margin=0.01),
        ),
        secondary=(
            Comparison.between("key tokens", "all tokens", _TITLES, margin=0.01),
            Comparison.between("key tokens", "simcse", _TITLES, claim="not_worse", margin=0.02),
            Comparison.between("key tokens", "start", _TITLES, margin=0.01),
            Comparison.between("key tokens", "start", _STS, margin=0.01),
            Comparison.between("simcse", "start", _STS, margin=0.01),
            Comparison.between("key, then model", "key tokens", _TITLES, margin=0.01),
            Comparison.between("key, then model", "key tokens", _STS, margin=0.01),
            Comparison.between("key tokens", "tf-idf", _TITLES, margin=0.01),
            Comparison.between("key tokens", "tf-idf", _STS, margin=0.01),
            Comparison.between("key tokens", "simcse", "v-measure"),
            Comparison.between("key tokens", "start", "hit@10"),
        ),
        run=_run,
        seeds=3,
        tuning=Tuning({"lr": (3e-4, 1e-3, 3e-3)}, metric=_STS),
        scales={
            "mini": {
                **MINI_MODEL, "train_characters": 300_000, "prior_texts": 128, "batch": 24,
                "steps": 60,
            },
        },
        setup="The start is a small causal language model trained here on English text, then on "
        "masked tokens with its causal mask taken off, as LLM2Vec does: its output layer is the "
        "vocabulary that vectors are read through. From there every arm takes the same steps on "
        "the same texts. Vectors are means of the states, without what those of 1,000 training "
        "texts share. The rate is the best of three for each arm, by validation pairs of STS-B.",
        limits="A language model of 1.6 million parameters trained for minutes, sixty steps of "
        "texts of 240 characters. The paper's body was not at hand: the formulas of the targets "
        "are ours. SimCSE has dropout in the attention only, as this architecture has no other. "
        "At the small scale no arm but tf-idf finds abstracts by their titles better than chance, "
        "so that similarity decides; this was seen in a first run with fewer rates, which had the "
        "titles decide.",
    ),
)  # fmt: skip
