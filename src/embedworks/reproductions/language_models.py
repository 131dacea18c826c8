"""Small language models, trained from scratch for a reproduction and kept beside its cells."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.bars import no_bars
from embedworks._core.files import atomic_directory, sha256_of_text
from embedworks._core.validation import normalize_rows
from embedworks.models import new_language_model, train_tokenizer
from embedworks.reproductions.framework import Context
from embedworks.reproductions.language_texts import english_texts

__all__ = ["trained_folder", "unit_rows"]


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (N, D) of unit length, float32; zero rows stay zero.

    Example:
        >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))
        array([[0.6, 0.8],
               [0. , 0. ]], dtype=float32)
    """
    return normalize_rows(vectors)


def trained_folder(
    kind: str, seed: int, settings: Mapping[str, Any], context: Context, exclude: Sequence[str]
) -> Path:
    """Return the folder of a language model trained on English text, kept in the cache.

    Args:
        kind: ``"causal"``, ``"untrained"``, or ``"mntp"``: the causal one trained further with its
            mask taken off.
        seed: Of weights, text and order.
        settings: Of the scale.
        context: Where to keep it.
        exclude: Texts it must not see.
    """
    names = ("architecture", "vocabulary", "dim", "layers", "heads", "characters", "lm", "mntp")
    key = sha256_of_text(json.dumps([kind, seed, {name: settings[name] for name in names}]))[:16]
    folder = context.cache / f"lm-{key}"
    if (folder / "loss.json").is_file():
        return folder
    with no_bars():
        _train_into(folder, kind, seed, settings, context, exclude)
    return folder


def _train_into(
    folder: Path,
    kind: str,
    seed: int,
    settings: Mapping[str, Any],
    context: Context,
    exclude: Sequence[str],
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from embedworks.training import LanguageModelSettings, train_language_model

    wanted = LanguageModelSettings.from_dict({**settings["lm"], "seed": seed})
    texts: list[str] = []
    if kind != "untrained":
        texts = english_texts(settings["characters"], exclude=exclude, seed=seed)
    if kind == "causal":
        tokenizer = train_tokenizer(
            texts[: settings["tokenizer_texts"]], settings["vocabulary"], max_tokens=1024
        )
    else:
        base = trained_folder("causal", seed, settings, context, exclude)
        tokenizer = AutoTokenizer.from_pretrained(base)
    if kind == "mntp":
        model = AutoModelForCausalLM.from_pretrained(base)
        wanted = wanted.replace(**settings["mntp"], objective="mntp")
    else:
        model = new_language_model(
            settings["architecture"], tokenizer, dim=settings["dim"], layers=settings["layers"],
            heads=settings["heads"], max_tokens=1024, seed=seed,
        )  # fmt: skip
    losses: tuple[float, ...] = (float(np.log(len(tokenizer))),)
    if texts:
        losses = train_language_model(model, tokenizer, texts, wanted, device=context.device).losses
    context.cache.mkdir(parents=True, exist_ok=True)
    with atomic_directory(folder) as target:
        model.to("cpu").save_pretrained(target)
        tokenizer.save_pretrained(target)
        (target / "loss.json").write_text(json.dumps(float(np.mean(losses[-3:]))))
