"""Survey of language models as embedders: what does a prompt give without any training?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedworks.evaluation import RetrievalTask
from embedworks.models import (
    VectorTransform,
    encode_batched,
    fit_component_removal,
    next_token_vectors,
    prompted_model,
)
from embedworks.modules import PROMPT_TEMPLATES
from embedworks.reproductions import (
    Arm,
    Comparison,
    Context,
    Outcome,
    Reproduction,
    Tuning,
    acl_retrieval,
    english_texts,
    graded_items,
    read_records,
    retrieval_outcome,
    stsb_graded,
    trained_folder,
    unit_rows,
)

__all__ = [
    "ENTRIES",
    "GPU_MODEL",
    "MINI_MODEL",
    "PromptStudent",
    "scored_texts",
    "texts_of",
    "trained_folder",
]

Pairs = tuple[tuple[str, str, float], ...]


def _sick(count: int) -> Pairs:
    columns = ("dataset", "split", "sentence1", "sentence2", "score")
    found = [
        (r["sentence1"], r["sentence2"], float(r["score"]))
        for r in read_records("sts_sick.parquet", columns)
        if r["dataset"] == "sick2014" and r["score"] is not None
    ]
    return tuple(found[:: max(1, len(found) // count)][:count])


def scored_texts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is scored: STS-B for tuning and testing, SICK, titles to find abstracts by."""
    pairs, documents, queries = settings["pairs"], settings["documents"], settings["queries"]
    world = stsb_graded()
    task = acl_retrieval(2, queries=queries, seed=0).test
    assert isinstance(task.corpus, Mapping)
    asked = list(task.queries)
    others = [one for one in task.corpus if one not in task.queries]
    # The same beginning for every arm: prompts and second copies must not cost them text.
    room = settings["text_characters"]
    corpus = {one: task.corpus[one][:room] for one in [*asked, *others][:documents]}
    return {
        "validation": world.validation[:pairs],
        "test": world.test[:pairs],
        "sick": _sick(pairs),
        "acl": RetrievalTask("titles", task.queries, corpus, task.qrels),
    }


def texts_of(scored: Mapping[str, Any]) -> list[str]:
    """Return what a language model must not be trained on; abstracts are of another part."""
    acl = scored["acl"]
    found = [text for part in ("validation", "test", "sick") for a, b, _ in scored[part]
             for text in (a, b)]  # fmt: skip
    return [*found, *acl.queries.values()]


def _fitted_on(settings: Mapping[str, Any], exclude: Sequence[str], seed: int) -> list[str]:
    """Return texts without any judgement, from which the common part of vectors is learned."""
    room = settings["text_characters"]
    texts = english_texts(settings["fit_characters"], exclude=exclude, seed=2000 + seed)
    return [text[:room] for text in texts]


class PromptStudent:
    """A prompted language model as what reproductions score.

    Args:
        folder: Of the language model.
        arm: Template, and what of it: ``dense``, ``sparse`` or ``both``.
        depth: Share of the layers that are read; 0 is the token vectors.
        settings: Of the scale.
        device: Torch device.
        both_ways: Whether the causal mask is taken off.
    """

    def __init__(
        self,
        folder: Path,
        arm: Arm,
        *,
        depth: float,
        settings: Mapping[str, Any],
        device: str,
        both_ways: bool = False,
    ) -> None:
        from embedworks.modules import make_bidirectional

        count = settings["layers"]
        self.what = arm["what"]
        layer = -1 if self.what != "dense" else round(depth * count)
        self.model = prompted_model(
            folder, template=arm["template"], layer=layer, max_tokens=settings["max_tokens"],
            device=device,
        )  # fmt: skip
        if both_ways:
            make_bidirectional(self.model)
        self._centre: VectorTransform | None = None

    def centre(self, texts: Sequence[str]) -> None:
        """Take off what the vectors of some texts have in common from all that follow."""
        self._centre = fit_component_removal(self.vectors(texts), count=0)

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors (N, D)."""
        parts = []
        if self.what in ("dense", "both"):
            parts.append(encode_batched(self.model, list(texts), show_progress=False)[0])
        if self.what in ("sparse", "both"):
            said = next_token_vectors(self.model, texts, batch_size=64, show_progress=False)
            parts.append(unit_rows(said.toarray()))
        found = unit_rows(np.concatenate(parts, axis=1))
        return found if self._centre is None else unit_rows(self._centre(found))

    def tokens_per_text(self, texts: Sequence[str]) -> float:
        """Return how many tokens the model reads for a text, all prompts together."""
        features = self.model[0].preprocess(list(texts))
        read = int(features["attention_mask"].sum())
        return (read + int(features["steer_mask"].sum() if "steer_mask" in features else 0)) / len(
            texts
        )


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    scored = context.once(("scored",), lambda: scored_texts(settings))
    tuning = context.part == "validation"
    # Tuning looks at other pairs, not at another language model.
    folder = trained_folder(arm["lm"], 0 if tuning else seed, settings, context, texts_of(scored))
    student = PromptStudent(
        folder, arm, depth=float(context.setting("depth", 1.0)) if arm["tuned"] else arm["depth"],
        settings=settings, device=context.device, both_ways=arm["both_ways"],
    )  # fmt: skip
    if arm["centred"]:
        fitted = context.once(("fit", seed), lambda: _fitted_on(settings, texts_of(scored), seed))
        student.centre(fitted)
    pairs = scored["validation" if tuning else "test"]
    found = Outcome(items={"sts": graded_items(student, pairs)})
    if tuning:
        return found
    found |= Outcome(items={"sick": graded_items(student, scored["sick"])})
    titles = retrieval_outcome(student, scored["acl"], metrics=("ndcg@10",))
    cost = student.tokens_per_text([a for a, _, _ in pairs[:100]])
    loss = float(json.loads((folder / "loss.json").read_text()))
    return found | titles.prefixed("titles ") | Outcome({"tokens per text": cost, "lm loss": loss})


def _arm(name: str, summary: str = "", template: str = "", **settings: Any) -> Arm:
    template = template or name
    values = {
        "template": template, "what": "dense", "lm": "causal", "tuned": True, "depth": 1.0,
        "both_ways": False, "centred": False, **settings,
    }  # fmt: skip
    return Arm(name, summary or PROMPT_TEMPLATES.summary(template), values)


_STS, _SICK, _TITLES = "sts", "sick", "titles ndcg@10"

_ARMS = (
    _arm("last"), _arm("eos"), _arm("mean"), _arm("weighted-mean"), _arm("prompteol"),
    _arm("metaeol"), _arm("pretended-cot"), _arm("knowledge"), _arm("echo"), _arm("echo-last"),
    _arm("token-prepending"), _arm("contrastive"), _arm("promptreps"),
    _arm("promptreps sparse", "What it says next, as a lexical vector.", "promptreps",
         what="sparse", tuned=False),
    _arm("promptreps both", "State and lexical vector, their cosines added.", "promptreps",
         what="both", tuned=False),
    _arm("token vectors", "The mean of the vectors the model starts from.", "mean",
         tuned=False, depth=0.0),
    _arm("mean, centred", "The mean, without what all texts have in common.", "mean", centred=True),
    _arm("prompteol, centred", "PromptEOL, the same way.", "prompteol", centred=True),
    _arm("untrained", "The mean, of a model with random weights.", "mean", lm="untrained"),
    _arm("both ways", "The mean, with the causal mask just taken off.", "mean", both_ways=True),
    _arm("both ways, MNTP", "The same, trained on masked tokens.", "mean", lm="mntp"),
)  # fmt: skip

_OVER_EOL = ("metaeol", "pretended-cot", "knowledge", "token-prepending", "contrastive")

#: The language models by scale, and what they are scored on.
MINI_MODEL: dict[str, Any] = {
    "architecture": "qwen3",
    "vocabulary": 4096,
    "dim": 128,
    "layers": 4,
    "heads": 4,
    "characters": 12_000_000,
    "tokenizer_texts": 20_000,
    "lm": {"steps": 400, "batch_size": 16, "length": 160, "learning_rate": 3e-3},
    "mntp": {"steps": 60, "learning_rate": 1e-3},
    "max_tokens": 512,
    "text_characters": 240,
    "pairs": 400,
    "queries": 60,
    "documents": 200,
}

GPU_MODEL: dict[str, Any] = {
    "architecture": "qwen3",
    "vocabulary": 16_384,
    "dim": 640,
    "layers": 12,
    "heads": 10,
    "characters": 200_000_000,
    "tokenizer_texts": 60_000,
    "lm": {
        "steps": 700,
        "batch_size": 64,
        "length": 512,
        "learning_rate": 1e-3,
        "precision": "bf16",
        "max_seconds": 95.0,
    },
    "mntp": {"steps": 70, "learning_rate": 3e-4},
    "max_tokens": 512,
    "text_characters": 800,
    "pairs": 1000,
    "queries": 250,
    "documents": 600,
}

ENTRIES = (
    Reproduction(
        slug="survey-llm-embedders",
        paper="LLMs are Also Effective Embedding Models: An In-depth Overview",
        arxiv="2412.12591",
        claim="A prompt that asks for one word makes a causal language model a better embedder "
        "without training than the mean or the last of its states.",
        falsifier="On sentence similarity PromptEOL does not beat the mean of the states by 0.01, "
        "or does not beat the last state.",
        arms=_ARMS,
        decisive=Comparison.between("prompteol", "mean", _STS, margin=0.01),
        conditions=(Comparison.between("prompteol", "last", _STS),),
        secondary=(
            Comparison.between("prompteol", "mean", _SICK, margin=0.01),
            Comparison.between("prompteol", "mean", _TITLES, margin=0.01),
            Comparison.between("echo", "mean", _STS, margin=0.01),
            Comparison.between("echo", "mean", _SICK, margin=0.01),
            Comparison.between("echo", "mean", _TITLES, margin=0.01),
            *(Comparison.between(name, "prompteol", _STS, margin=0.01) for name in _OVER_EOL),
            Comparison.between("metaeol", "mean", _STS),
            Comparison.between("mean, centred", "mean", _STS, margin=0.01),
            Comparison.between("mean, centred", "mean", _TITLES, margin=0.01),
            Comparison.between("prompteol, centred", "mean, centred", _STS, margin=0.01),
            Comparison.between("prompteol, centred", "mean, centred", _TITLES, margin=0.01),
            Comparison.between("prompteol, centred", "prompteol", _TITLES, margin=0.01),
            Comparison.between("weighted-mean", "mean", _STS),
            Comparison.between("promptreps both", "promptreps", _TITLES, margin=0.01),
            Comparison.between("mean", "token vectors", _STS),
            Comparison.between("mean", "untrained", _STS, margin=0.01),
            Comparison.between("both ways", "mean", _STS, claim="less", margin=0.01),
            Comparison.between("both ways, MNTP", "both ways", _STS, margin=0.01),
            Comparison.between("both ways, MNTP", "mean", _STS, margin=0.01),
        ),
        run=_run,
        seeds=3,
        tuning=Tuning({"depth": (0.5, 0.75, 1.0)}, metric=_STS),
        scales={
            "mini": {**MINI_MODEL, "fit_characters": 60_000},
            "gpu": {**GPU_MODEL, "fit_characters": 200_000},
        },
        setup="A causal language model with a tokenizer of its own is trained from scratch, one "
        "for each seed, on abstracts, glosses, captions, speeches, questions and short texts in "
        "English; texts that are scored are kept out of it. No arm is trained to embed. Each arm "
        "reads a half, three quarters or all of the layers, whichever is best on validation pairs. "
        "Centred arms take off the mean vector of other texts. Scored are pairs of STS-B "
        "and SICK, and titles that must find abstracts. Tokens read for a text are reported with "
        "every arm.",
        limits="The survey speaks of models a hundred times as large, trained on ten thousand "
        "times as much text, which follow instructions; ours at most completes sentences. Prompts "
        "are our own wording but for PromptEOL's sentence. A mean over the states leaves out the "
        "token at the start, which every causal model uses as a dump.",
    ),
)  # fmt: skip
