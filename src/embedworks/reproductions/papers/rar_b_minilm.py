"""RAR-b with a pretrained model: MiniLM tuned to read question and answer together, or apart."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embedworks.errors import InputError
from embedworks.evaluation import (
    EncoderSystem,
    LexicalSystem,
    Ranks,
    ReasoningSet,
    RerankedSystem,
)
from embedworks.models import load
from embedworks.reproductions import (
    Arm,
    Comparison,
    Context,
    Outcome,
    Reproduction,
    Tuning,
    candidate_lists,
    tune_pairs,
)
from embedworks.reproductions.papers._reasoning import (
    FULL_SETTING,
    TOGETHER_APART,
    item_scores,
    joined,
    made_set,
)

__all__ = ["ENTRIES"]

SETS = ("coreference", "months")
#: The bi-encoder's cosines times this go into the softmax at first; usual for such models.
_SCALE = 20.0


class PretrainedPairs:
    """A pretrained transformer that scores a question with an answer, together or apart.

    Together (a cross-encoder) it reads both as one sequence, and a new linear map turns the pooled
    vector into a number. Apart (a bi-encoder) the number is the scaled cosine of two pooled
    vectors. All layers are trained; the token table stays, and dropout is off, in both.

    Args:
        base: A sentence-transformers model; it is copied.
        together: Whether question and answer are read as one sequence.
        max_tokens: Tokens read of a sequence: of the pair, or of each text.
        seed: Seed of the linear map.
        device: Torch device.

    Raises:
        InputError: When the base is not a transformer.
    """

    def __init__(
        self, base: Any, *, together: bool, max_tokens: int, seed: int, device: str = "cpu"
    ) -> None:
        if not hasattr(base, "preprocess"):
            raise InputError(f"A {type(base).__name__} is no transformer: name another base.")
        import torch

        self.together = together
        self.device = device
        self.max_seq_length = max_tokens
        self.fingerprint = f"pretrained-{together}-{seed}"
        self.model = copy.deepcopy(base).to(device).eval()
        self.tokenizer = self.model.tokenizer
        self.model[0].auto_model.get_input_embeddings().requires_grad_(False)
        dim = self.model.get_embedding_dimension()
        rng = torch.Generator().manual_seed(seed)
        weight = 0.02 * torch.randn(dim, generator=rng)
        self.head = torch.nn.Parameter(weight.to(device))
        self.scale = torch.nn.Parameter(torch.tensor(_SCALE, device=device))

    def parameters(self) -> list[Any]:
        """Return what is trained: all that this way of reading uses."""
        own = self.head if self.together else self.scale
        return [*(p for p in self.model.parameters() if p.requires_grad), own]

    def scores(self, questions: Sequence[str], answers: Sequence[str]) -> Any:
        """Return scores of N pairs as a tensor (N,) with gradient."""
        if self.together:
            return self._pooled(questions, answers) @ self.head
        return self.scale * (self._alone(questions) * self._alone(answers)).sum(-1)

    def _alone(self, texts: Sequence[str]) -> Any:
        """Return unit vectors of texts that are read alone, each distinct one once, (N, D)."""
        import torch

        distinct = list(dict.fromkeys(texts))
        where = {text: i for i, text in enumerate(distinct)}
        unit = torch.nn.functional.normalize(self._pooled(distinct), dim=-1)
        return unit[torch.tensor([where[text] for text in texts], device=self.device)]

    def _pooled(self, first: Sequence[str], second: Sequence[str] | None = None) -> Any:
        """Return pooled vectors of texts, or of pairs, before they are made unit, (N, D)."""
        features: Any = dict(
            self.tokenizer(
                list(first),
                None if second is None else list(second),
                padding=True,
                truncation=True,
                max_length=self.max_seq_length,
                return_tensors="pt",
            ).to(self.device)
        )
        for module in self.model:
            if type(module).__name__ != "Normalize":
                features = module(features)
        return features["sentence_embedding"]

    def predict(self, pairs: Sequence[tuple[str, str]], /) -> np.ndarray:
        """Return scores of N pairs, float32 (N,), without gradient."""
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(pairs), 64):
                questions, answers = zip(*pairs[start : start + 64], strict=True)
                parts.append(self.scores(questions, answers).float().cpu().numpy())
        return np.concatenate(parts)


def _guessed(made: ReasoningSet, seed: int) -> Outcome:
    """Return what guessing among the own options gives: one part in as many as there are."""
    return Outcome(
        items={"accuracy": {f"{seed}/{made.name}/{x.id}": 1 / len(x.options) for x in made.test}}
    )


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    base: Any = None
    first: Ranks = LexicalSystem()
    if arm["kind"] not in ("bm25", "guess"):
        base = context.once(("base",), lambda: load(settings["base"], device=context.device))
        first = context.once(("first",), lambda: EncoderSystem(base, name="not tuned"))
    outcomes = {}
    for name in settings["sets"]:
        held_out, test = settings["validation"], settings["test"]
        made = made_set(context, name, train=settings["train"] + held_out, test=test, seed=seed)
        if arm["kind"] == "guess":
            outcomes[name] = _guessed(made, seed)
            continue
        system = first
        if base is not None and arm["kind"] != "none":
            model = PretrainedPairs(
                base,
                together=arm["kind"] == "cross",
                max_tokens=settings["tokens"],
                seed=seed,
                device=context.device,
            )
            batches = candidate_lists(
                made.train[held_out:],
                width=settings["width"][name],
                batch=settings["batch"],
                steps=settings["steps"][name],
                seed=seed,
            )
            tune_pairs(model, batches, lr=context.tuned["lr"])
            system = RerankedSystem(first, model, settings["depth"], name=arm.name)
        if context.part == "validation":
            asked = made.train[:held_out]
            outcomes[name] = item_scores(system, asked, "own", name=name, seed=seed)
        else:
            outcomes[name] = item_scores(system, made.test, "own", name=name, seed=seed)
            asked = made.test[: settings["test_full"]]
            rest = [text for x in made.test[settings["test_full"] :] for text in x.options]
            outcomes[name] |= item_scores(
                system, asked, "all", name=name, seed=seed, distractors=rest
            )
    return joined(outcomes)


ENTRIES = (
    Reproduction(
        slug="rar-b-minilm",
        paper="RAR-b: Reasoning as Retrieval Benchmark",
        arxiv="2404.06347",
        claim="For reasoning, tuning MiniLM as a reranker that reads question and answer together "
        "gets further than tuning it as a retriever that reads them apart.",
        falsifier="With equal data, steps and starting weights, and a learning rate chosen for "
        "each, the bi-encoder chooses among a question's own options as well as the "
        "cross-encoder, on average over two generated sets.",
        arms=(
            Arm("cross-encoder", "MiniLM reads question and answer as one", {"kind": "cross"}),
            Arm("bi-encoder", "MiniLM reads question and answer apart", {"kind": "bi"}),
            Arm(
                "not tuned",
                "MiniLM's cosines as they are; the first stage",
                {"kind": "none"},
                tune_as="cross-encoder",
            ),
            Arm("bm25", "matches words", {"kind": "bm25"}, tune_as="cross-encoder"),
            Arm(
                "guessing",
                "any of a question's own options",
                {"kind": "guess"},
                tune_as="cross-encoder",
            ),
        ),
        decisive=Comparison.between(
            *TOGETHER_APART, "accuracy", name="together over apart, multiple choice", margin=0.02
        ),
        conditions=(
            Comparison.between(
                "cross-encoder",
                "guessing",
                "accuracy",
                name="the cross-encoder has learned",
                margin=0.02,
                falsifies=False,
            ),
            *FULL_SETTING,
        ),
        secondary=(
            Comparison.between("bi-encoder", "guessing", "accuracy"),
            Comparison.between("cross-encoder", "not tuned", "accuracy"),
            Comparison.between("bi-encoder", "not tuned", "accuracy"),
            Comparison.between("not tuned", "bm25", "accuracy"),
            *(Comparison.between(*TOGETHER_APART, f"accuracy, {name}") for name in SETS),
            *(Comparison.between(*TOGETHER_APART, f"ndcg@10, {name}") for name in SETS),
        ),
        run=_run,
        seeds=3,
        tuning=Tuning({"lr": (1e-4, 3e-4)}, metric="accuracy"),
        scales={
            "mini": {
                "base": "minilm",
                "sets": list(SETS),
                "train": 400,
                "validation": 80,
                "test": 120,
                "test_full": 20,
                "tokens": 48,
                "width": {"coreference": 2, "months": 4},
                "batch": 8,
                "steps": {"coreference": 60, "months": 60},
                "depth": 20,
            },
            "gpu": {
                "base": "minilm",
                "sets": list(SETS),
                "train": 8000,
                "validation": 300,
                "test": 300,
                "test_full": 300,
                "tokens": 48,
                "width": {"coreference": 2, "months": 4},
                "batch": 32,
                "steps": {"coreference": 1000, "months": 1000},
                "depth": 20,
            },
        },
        setup="Two generated sets with exact answers: coreference, where the last words of a "
        "sentence decide which of two nouns is meant, and month arithmetic. Each is trained and "
        "tested by itself; train, validation and test share no question.\n\n"
        "Both arms start from all-MiniLM-L6-v2 and train all its layers but the token table, "
        "without dropout, with AdamW and a softmax over the same candidates in the same batches. "
        "The cross-encoder reads question and answer as one sequence and maps its pooled vector "
        "to a number with a new linear map; the bi-encoder reads each alone and scales their "
        "cosine. The learning rate is the better of two on validation questions under a seed of "
        "its own. In the full setting both rescore the first 20 documents of MiniLM as it is; "
        "fewer questions are asked there, because a cross-encoder reads every pair.",
        limits="The budget is one of minutes on one core: some dozens of steps per set, far "
        "below what the paper's models are tuned with. Where neither arm is above guessing, the "
        "difference says nothing of reading together; hence the first condition. The new linear "
        "map makes the cross-encoder start at guessing, while MiniLM's cosines start below it on "
        "months, where wrong options repeat the question's words; so an advantage on months "
        "counts only if the cross-encoder is above guessing too. Two learning rates are a coarse "
        "grid. Questions under two seeds come from the same templates, and a few short "
        "coreference sentences may be equal.",
    ),
)
