"""Embedders from causal language models by prompts: make one, and its lexical vectors."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.bars import no_bars
from embedworks._core.extras import require_extra
from embedworks._core.progress import progress
from embedworks._core.validation import check_k, check_texts
from embedworks.errors import InputError
from embedworks.models.vocabulary import usable_tokens

__all__ = ["next_token_vectors", "prompted_model"]


def prompted_model(
    model: Any,
    tokenizer: Any = None,
    *,
    template: Any = "prompteol",
    normalize: bool = True,
    max_tokens: int | None = None,
    device: str | None = None,
    **options: Any,
) -> Any:
    """Return a sentence-transformers model that embeds texts by prompting a language model.

    Args:
        model: A folder or name of a causal language model, or one of transformers in memory, whose
            weights are copied.
        tokenizer: Its tokenizer, for a model in memory.
        template: Name in `embedworks.modules.PROMPT_TEMPLATES`, or a `PromptTemplate`.
        normalize: Whether vectors get length 1.
        max_tokens: Longest prompt with its text; None takes what the model reads.
        device: Torch device; None takes that of a model in memory, else the CPU.
        options: Of `embedworks.modules.LMEmbedder`: pooling, layer, steering.

    Raises:
        InputError: When a model in memory comes without its tokenizer, or does not fit.
        UnknownNameError: When there is no such template.
    """
    library = require_extra("sentence_transformers", extra="train", purpose="prompt a model")
    from sentence_transformers.sentence_transformer.modules import Normalize

    from embedworks.modules import LMEmbedder

    options = {**options, "template": template, "max_seq_length": max_tokens}
    if isinstance(model, (str, Path)):
        with no_bars():
            first = LMEmbedder(str(model), **options)
    elif tokenizer is None:
        raise InputError("a model in memory needs its tokenizer: prompted_model(lm, tokenizer).")
    else:
        device = device or str(model.device)
        with tempfile.TemporaryDirectory() as folder, no_bars():
            # Sentence-transformers builds its first module from a folder alone.
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            first = LMEmbedder(folder, **options)
    modules = [first, Normalize()] if normalize else [first]
    made = library.SentenceTransformer(modules=modules, device=device or "cpu")
    made.eval()
    return made


def next_token_vectors(
    model: Any,
    texts: Sequence[str],
    *,
    top_k: int = 128,
    own_tokens: bool = False,
    batch_size: int = 32,
    show_progress: bool | None = None,
) -> Any:
    """Return what a prompted language model would say next, as a scipy CSR matrix (N, V).

    ``ln(1 + relu(score))`` of each usable token, the largest kept. Their dot product is a lexical
    similarity, for an inverted index or beside the dense vector of the same forward pass.

    Args:
        model: Of `prompted_model` with one prompt, pooled at its last token, last layer.
        texts: N texts.
        top_k: Most tokens kept per text.
        own_tokens: Keep only tokens of the text, as PromptReps does.
        batch_size: Texts read at a time.
        show_progress: True or False to force a bar.

    Raises:
        InputError: When the model has no output layer, or its vectors are not such states.

    Paper: Zhuang et al. 2024, PromptReps, arXiv 2404.18424, section 3.
    """
    import torch

    sparse = require_extra("scipy.sparse", extra="train", purpose="keep lexical vectors")

    from embedworks.modules import LMEmbedder

    first = model[0] if hasattr(model, "__getitem__") else None
    if not isinstance(first, LMEmbedder):
        raise InputError(
            f"a {type(model).__name__} without a prompted language model says no next token: make "
            "one with prompted_model."
        )
    at_the_end = first.layer in (-1, first.config.num_hidden_layers)
    if len(first.template.prompts) != 1 or first.pooling != "last-token" or not at_the_end:
        raise InputError("next tokens are read from one prompt's last state of the last layer.")
    head, usable = first.head, usable_tokens(first.tokenizer)
    allowed = torch.from_numpy(usable).to(model.device)
    items = check_texts(texts)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    with progress("Reading", len(items), enabled=show_progress) as bar, torch.inference_mode():
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            features = first.preprocess(batch)
            features = {
                k: v.to(model.device) if k != "modality" else v for k, v in features.items()
            }
            scores = head(first(features)["sentence_embedding"])[:, : len(usable)].float()
            weights = torch.log1p(torch.relu(scores)) * allowed
            if own_tokens:
                weights = weights * _own(first.tokenizer, batch, len(usable)).to(weights)
            top, ids = weights.topk(min(check_k(top_k), weights.shape[1]), dim=1)
            parts += list(zip(ids.cpu().numpy(), top.cpu().numpy(), strict=True))
            bar.advance(len(batch))
    kept = [(ids[top > 0], top[top > 0]) for ids, top in parts]
    ends = np.cumsum([0, *(len(ids) for ids, _ in kept)])
    columns = np.concatenate([np.zeros(0, dtype=np.int64), *(ids for ids, _ in kept)])
    values = np.concatenate([np.zeros(0, dtype=np.float32), *(top for _, top in kept)])
    return sparse.csr_matrix((values, columns, ends), shape=(len(items), len(usable)))


def _own(tokenizer: Any, texts: list[str], size: int) -> Any:
    """Return which tokens each text has, bool (B, V), with a space in front and without."""
    import torch

    found = torch.zeros(len(texts), size, dtype=torch.bool)
    for place, text in enumerate(texts):
        for form in (text, " " + text):
            found[place, tokenizer(form, add_special_tokens=False)["input_ids"]] = True
    return found
