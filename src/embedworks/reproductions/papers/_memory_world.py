"""Texts with what follows them, and a small language model of such texts, for both entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedworks.models import new_language_model, train_tokenizer
from embedworks.reproductions import Context, acl_retrieval, read_records

__all__ = ["Passages", "language_model", "passages"]

_WORDS, _FOLLOWING, _TOKENIZER = 48, 32, 10_000


@dataclass(frozen=True)
class Passages:
    """Documents in two parts: a text, and what follows it, which begins with a space.

    Attributes:
        documents: Whole training documents.
        train: Their two parts.
        test: Two parts of other documents, by id.
    """

    documents: tuple[str, ...]
    train: tuple[tuple[str, str], ...]
    test: Mapping[str, tuple[str, str]]


def passages(settings: Mapping[str, Any], seed: int) -> Passages:
    """Return captions of one photo after one another, or abstracts cut in two.

    Args:
        settings: ``world`` is ``"captions"`` or ``"abstracts"``; ``rows`` to train on and
            ``documents`` to test.
        seed: Of the training sample and of the order of captions; tested documents are fixed.
    """
    rows, documents = settings["rows"], settings["documents"]
    if settings["world"] == "abstracts":
        world = acl_retrieval(rows, queries=2, seed=seed)
        assert isinstance(world.test.corpus, Mapping)
        train = [str(row.positive) for row in world.train]
        test = {one: found for one, text in world.test.corpus.items() if (found := _cut(text))}
        held = dict(list(test.items())[:documents])
        return Passages(tuple(train), tuple(filter(None, map(_cut, train))), held)
    records = read_records("multi30k_captions.parquet", ("image_id", "en_captions"))
    captions = [(r["image_id"], r["en_captions"]) for r in records if r["en_captions"]]
    order = np.random.default_rng(0).permutation(len(captions))
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(order[documents:])[:rows]
    mixed = [[captions[i][1][j] for j in rng.permutation(len(captions[i][1]))] for i in drawn]
    held = {str(captions[i][0]): _next(captions[i][1]) for i in order[:documents]}
    return Passages(tuple(map(" ".join, mixed)), tuple(map(_next, mixed)), held)


def _next(captions: Sequence[str]) -> tuple[str, str]:
    return captions[0], f" {captions[1]}"


def _cut(text: str) -> tuple[str, str] | None:
    words = text.split()
    end = _WORDS + _FOLLOWING
    if len(words) < end:
        return None
    return " ".join(words[:_WORDS]), f" {' '.join(words[_WORDS:end])}"


def language_model(
    texts: Sequence[str], settings: Mapping[str, Any], context: Context, seed: int
) -> tuple[Any, Any]:
    """Return a causal language model trained from scratch on texts, and its tokenizer."""
    from embedworks.training import LanguageModelSettings, train_language_model

    tokenizer = train_tokenizer(texts[:_TOKENIZER], settings["vocabulary"], max_tokens=512)
    model = new_language_model(
        "llama", tokenizer, dim=settings["dim"], layers=settings["layers"],
        heads=settings["heads"], max_tokens=512, seed=seed,
    )  # fmt: skip
    wanted = LanguageModelSettings.from_dict({**settings["lm"], "seed": seed})
    train_language_model(model, tokenizer, texts, wanted, device=context.device)
    return model, tokenizer
