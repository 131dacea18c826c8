"""Survey on embeddings and language models, explanation: is the changed word blamed?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedworks import load
from embedworks.evaluation import integrated_gradients, leave_one_out, spearman
from embedworks.reproductions import (
    Arm,
    Comparison,
    Context,
    Outcome,
    Reproduction,
    stsb_graded,
)

__all__ = ["ENTRIES", "ChangedPair", "changed_pairs"]

_WORD = re.compile(r"\w+(?:['’.,-]\w+)*")
_LEFT_OUT, _GRADIENTS, _RAREST, _RANDOM = (
    "leave one out", "integrated gradients", "rarest word", "random word",
)  # fmt: skip


@dataclass(frozen=True)
class ChangedPair:
    """A sentence, the same with one word changed, and which word that is.

    Attributes:
        text: The sentence.
        changed: The sentence with another word at ``place``.
        place: Number of the changed word, counted from 0.
        words: The words of the sentence.
    """

    text: str
    changed: str
    place: int
    words: tuple[str, ...]


def changed_pairs(
    sentences: Sequence[str], kind: str, count: int, *, seed: int
) -> list[ChangedPair]:
    """Change one word in each of some sentences.

    Args:
        sentences: Sentences to draw from.
        kind: ``"number"`` changes the one number of a sentence to another with as many digits;
            ``"word"`` changes one word of four or more letters to another of these sentences.
        count: Most pairs.
        seed: Decides sentences, places and new words.
    """
    rng = np.random.default_rng([seed, 19])
    vocabulary = sorted(
        {w.lower() for text in sentences for w in _WORD.findall(text) if w.isalpha() and len(w) > 3}
    )
    pairs = []
    for index in rng.permutation(len(sentences)).tolist():
        text = sentences[index]
        found = list(_WORD.finditer(text))
        if kind == "number":
            places = [i for i, match in enumerate(found) if match.group().isdecimal()]
            if len(places) != 1:
                continue
        else:
            places = [i for i, m in enumerate(found) if m.group().isalpha() and len(m.group()) > 3]
        if not places or len(found) < 5:
            continue
        place = int(rng.choice(places))
        old = found[place]
        new = old.group()
        while new.lower() == old.group().lower():
            if kind == "number":
                digits = len(old.group())
                new = str(int(rng.integers(10 ** (digits - 1) if digits > 1 else 1, 10**digits)))
            else:
                new = str(rng.choice(vocabulary))
        changed = f"{text[: old.start()]}{new}{text[old.end() :]}"
        pairs.append(ChangedPair(text, changed, place, tuple(m.group() for m in found)))
        if len(pairs) == count:
            break
    return pairs


def _by_word(text: str, spans: Sequence[tuple[int, int]], scores: np.ndarray) -> np.ndarray:
    """Add up the scores of tokens over the words they stand in."""
    total = []
    for match in _WORD.finditer(text):
        inside = [i for i, (start, end) in enumerate(spans)
                  if start >= match.start() and end <= match.end()]  # fmt: skip
        total.append(float(scores[inside].sum()))
    return np.array(total)


def _scores(
    arm: Arm, pair: ChangedPair, model: Any, common: Counter[str], steps: int, seed: int
) -> np.ndarray:
    """Return one score per word; the lowest is the word that is blamed."""
    if arm["method"] == "random":
        return np.random.default_rng([seed, len(pair.text)]).random(len(pair.words))
    if arm["method"] == "rarest":
        return np.array([float(common[word.lower()]) for word in pair.words])
    if arm["method"] == "gradients":
        found = integrated_gradients(model, pair.text, pair.changed, steps=steps)
        return _by_word(pair.text, found.spans, found.scores)
    return leave_one_out(model, pair.text, pair.changed).scores


def _run(arm: Arm, seed: int, settings: Mapping[str, Any], context: Context) -> Outcome:
    world = context.once(("world",), stsb_graded)
    common = context.once(
        ("common",),
        lambda: Counter(
            word.lower()
            for row in world.train
            for text in (row.anchor, row.positive)
            for word in _WORD.findall(str(text))
        ),
    )
    sentences = sorted({text for a, b, _ in world.test for text in (a, b)})
    model = context.once(("model", arm["model"]), lambda: load(arm["model"], device="cpu"))
    items: dict[str, dict[str, float]] = {}
    for kind in ("number", "word"):
        pairs = context.once(
            ("pairs", kind, seed),
            lambda kind=kind: changed_pairs(sentences, kind, settings[kind], seed=seed),
        )
        blamed, agreed = {}, {}
        for pair in pairs:
            scores = _scores(arm, pair, model, common, settings["steps"], seed)
            lowest = np.flatnonzero(scores == scores.min())
            blamed[pair.text] = float(pair.place in lowest) / len(lowest)
            if arm["method"] == "gradients":
                other = leave_one_out(model, pair.text, pair.changed).scores
                agreed[pair.text] = spearman(scores, other.tolist())
        items[f"{kind} blamed"] = blamed
        if agreed:
            items[f"{kind} agreement"] = agreed
    return Outcome(items=items)


ENTRIES = (
    Reproduction(
        slug="survey-text-embedding-llm",
        paper="When Text Embedding Meets Large Language Model: A Comprehensive Survey",
        arxiv="2412.09165",
        claim="Similarity can be explained by its words: where one number of a sentence was "
        "changed, leaving words out and integrated gradients both blame that number, and they "
        "agree on the rest.",
        falsifier="Either method blames the changed number not clearly more often (by 0.1) than "
        "the guess that the rarest word is to blame; or the two rank words with a mean "
        "correlation of 0.6 or less.",
        arms=(
            Arm(_LEFT_OUT, "the word without which the cosine is highest",
                {"method": "leave out", "model": "minilm"}),
            Arm(_GRADIENTS, "the word with the lowest sum of gradients on the way from padding",
                {"method": "gradients", "model": "minilm"}),
            Arm(_RAREST, "the word that is rarest in the training sentences",
                {"method": "rarest", "model": "minilm"}),
            Arm(_RANDOM, "any word", {"method": "random", "model": "minilm"}),
            Arm("leave one out, static", "the same with a model that has no context",
                {"method": "leave out", "model": "static"}),
        ),
        decisive=Comparison.between(_LEFT_OUT, _RAREST, "number blamed", margin=0.1),
        conditions=(
            Comparison.between(_GRADIENTS, _RAREST, "number blamed", margin=0.1),
            Comparison("the two agree", "number agreement", {_GRADIENTS: 1.0}, margin=0.6),
        ),
        secondary=(
            Comparison.between(_LEFT_OUT, _GRADIENTS, "number blamed"),
            Comparison.between(_LEFT_OUT, _RAREST, "word blamed", margin=0.1),
            Comparison.between(_GRADIENTS, _RAREST, "word blamed", margin=0.1),
            Comparison.between(_LEFT_OUT, _GRADIENTS, "word blamed"),
            Comparison.between("leave one out, static", _LEFT_OUT, "number blamed",
                               name="a model without context is easier to explain"),
            Comparison.between(_RAREST, _RANDOM, "number blamed"),
        ),
        run=_run,
        seeds=3,
        scales={"mini": {"number": 80, "word": 80, "steps": 30}},
        setup="Sentences of the English STS benchmark, each beside itself with one word changed: "
        "the only number of a sentence to another with as many digits, or a word of four or more "
        "letters to another word. The cosine of the two under MiniLM is explained; the word with "
        "the lowest score is the one that is blamed. Each seed draws sentences and changes anew. "
        "Gradients are followed from padding tokens in 30 steps, and summed over the tokens of a "
        "word.",
        limits="One word is changed and the rest is the same, so the right answer is known; "
        "errors of real searches have many causes. One model. That a word is blamed does not say "
        "that the cosine moved enough to matter.",
    ),
)  # fmt: skip
