"""Texts for vectors by search: guesses that are corrected, and writing led by the cosine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embedworks._core.progress import progress
from embedworks._core.validation import check_in_range, check_vectors, normalize_rows
from embedworks.errors import EmptyInputError, InputError
from embedworks.models.inversion.decoder import VectorDecoder, end_token, target_tokens
from embedworks.models.inversion.training import text_vectors

__all__ = ["InvertedTexts", "guided_inversion", "invert_vectors"]


@dataclass(frozen=True)
class InvertedTexts:
    """Texts found for vectors.

    Attributes:
        texts: N texts, of each vector the one whose own vector is nearest.
        cosines: float32 (S + 1, N), the cosine of the best text so far to the vector, first and
            after each of S steps; it never falls.
    """

    texts: tuple[str, ...]
    cosines: np.ndarray


def invert_vectors(
    vectors: np.ndarray,
    decoder: VectorDecoder,
    model: Any,
    *,
    corrector: VectorDecoder | None = None,
    steps: int = 0,
    width: int = 1,
    beams: int = 4,
    max_tokens: int = 32,
    batch_size: int = 256,
    show_progress: bool | None = None,
) -> InvertedTexts:
    """Guess texts, embed the guesses, and correct them step by step.

    The decoder writes ``beams`` texts for each vector; the ``width`` whose vectors are nearest
    are kept. A step lets the corrector rewrite each kept text, ``beams`` times, and again keeps
    the nearest of old and new. What no step can change any more is left alone.

    Args:
        vectors: (N, D), from ``model`` or changed by a defence.
        decoder: Writes the first guesses.
        model: What embeds guesses, with ``encode(texts)``; where vectors were changed by a
            defence, the guesses should be changed in the same way.
        corrector: A trained corrector; needed where ``steps`` is above 0.
        steps: Corrections, S.
        width: Texts kept for each vector between steps.
        beams: Width of the decoder's search, and texts it hands on.
        max_tokens: Longest text.
        batch_size: Vectors at a time.
        show_progress: True or False to force a bar; by default there is one on a terminal.

    Raises:
        InputError: When there is no corrector for the steps, or ``decoder`` is one itself.
        ShapeError: When the vectors have another dimension than the decoder reads.

    Paper: Morris et al. 2023, arXiv 2310.06816, section 3 (there the old guesses are dropped at
    each step; keeping them means that the cosine never falls).
    """
    check_in_range(steps, name="steps", low=0)
    check_in_range(width, name="width", low=1)
    if decoder.corrects or (corrector is not None and not corrector.corrects):
        raise InputError("`decoder` makes first guesses and `corrector` reads them: not both so.")
    if steps and corrector is None:
        raise InputError(f"{steps} steps need a corrector: see train_vector_corrector.")
    unit = normalize_rows(check_vectors(vectors)).astype(np.float32)
    options: dict[str, Any] = {
        "beams": beams, "answers": beams, "max_tokens": max_tokens, "batch_size": batch_size,
    }  # fmt: skip
    pools: list[dict[str, float]] = [{} for _ in unit]
    embedded: dict[str, np.ndarray] = {}
    _meet(pools, range(len(unit)), decoder.write(unit, **options), unit, model, embedded, width)
    best = [[max(pool.values()) for pool in pools]]
    active = list(range(len(unit)))
    with progress("Correcting", steps, enabled=show_progress) as bar:
        for _ in range(steps):
            rows = [(i, text) for i in active for text in pools[i]]
            if corrector is not None and rows:
                places = [i for i, _ in rows]
                written = corrector.write(
                    unit[places],
                    guesses=[text for _, text in rows],
                    guess_vectors=np.stack([embedded[text] for _, text in rows]),
                    **options,
                )
                before = {i: set(pools[i]) for i in active}
                _meet(pools, places, written, unit, model, embedded, width)
                active = [i for i in active if set(pools[i]) != before[i]]
            best.append([max(pool.values()) for pool in pools])
            bar.advance()
    texts = tuple(max(pool, key=lambda text: pool[text]) for pool in pools)
    return InvertedTexts(texts, np.asarray(best, dtype=np.float32))


def _meet(
    pools: list[dict[str, float]],
    places: Sequence[int],
    written: Sequence[Sequence[str]],
    unit: np.ndarray,
    model: Any,
    embedded: dict[str, np.ndarray],
    width: int,
) -> None:
    """Put new texts into the pools of their vectors and keep the ``width`` nearest."""
    new = sorted({text for row in written for text in row} - embedded.keys())
    found = text_vectors(model, new, dim=unit.shape[1])
    embedded.update(zip(new, found, strict=True))
    for place, row in zip(places, written, strict=True):
        pools[place].update({text: float(unit[place] @ embedded[text]) for text in row})
    for place in set(places):
        ranked = sorted(pools[place], key=lambda text: (-pools[place][text], text))
        pools[place] = {text: pools[place][text] for text in ranked[:width]}


@torch.inference_mode()
def guided_inversion(
    vectors: np.ndarray,
    model: Any,
    language_model: Any,
    tokenizer: Any = None,
    *,
    weight: float = 10.0,
    beams: int = 4,
    branch: int = 16,
    max_tokens: int = 24,
    prompt: str = "",
    show_progress: bool | None = None,
) -> InvertedTexts:
    """Write texts token by token towards vectors, with no training for the vectors' model.

    A language model proposes its ``branch`` likeliest next tokens for each beam; the texts so far
    are embedded, and the ``beams`` best go on by::

        score = (log p of the tokens) / (their number) + weight * cosine to the vector

    The nearest text that was met on the way is the answer, so texts end where more words do not
    help. Each token costs N * beams * branch encodings.

    Args:
        vectors: (N, D), from ``model``.
        model: What embeds the texts, with ``encode(texts)``.
        language_model: A causal language model of transformers, or a `VectorDecoder`, whose
            proposals depend on the vector.
        tokenizer: That of the language model; a decoder has its own.
        weight: Weight of the cosine against the mean log-likelihood in nats; 0 ignores it.
        beams: Texts that go on.
        branch: Tokens tried after each.
        max_tokens: Tokens written, S.
        prompt: What the language model reads first; it is not part of the text.
        show_progress: True or False to force a bar; by default there is one on a terminal.

    Raises:
        InputError: When a setting is out of range, or there is no tokenizer.

    Paper: after Zhang, Morris and Shmatikov 2025, arXiv 2504.00147 (ZSInvert), of which this is
    the guided beam search; its prompts and its correction are not here.
    """
    check_in_range(weight, name="weight", low=0.0)
    for name, value in (("beams", beams), ("branch", branch), ("max_tokens", max_tokens)):
        check_in_range(value, name=name, low=1)
    unit = normalize_rows(check_vectors(vectors)).astype(np.float32)
    if not len(unit):
        raise EmptyInputError("there are no vectors to invert.")
    if isinstance(language_model, VectorDecoder):
        tokenizer, lm = language_model.tokenizer, language_model.language_model
        soft, _ = language_model.prefix(torch.from_numpy(unit).to(lm.device))
    elif tokenizer is None:
        raise InputError("a language model needs its tokenizer: guided_inversion(v, m, lm, tok).")
    else:
        lm, soft = language_model, None
    start = [end_token(tokenizer)] if soft is None else []
    start += target_tokens(tokenizer, [prompt], 10_000, end=False)[0].tolist() if prompt else []
    barred = sorted({*tokenizer.all_special_ids, end_token(tokenizer)})
    count = len(unit)
    ids = torch.empty(count, 1, 0, dtype=torch.long, device=lm.device)
    total = torch.zeros(count, 1, device=lm.device)
    best, texts, history = np.full(count, -np.inf), [""] * count, []
    with progress("Writing", max_tokens, enabled=show_progress) as bar:
        for step in range(1, max_tokens + 1):
            likely = _next_log_probs(lm, ids, start, soft)
            likely[..., barred] = -torch.inf
            gain, token = likely.topk(min(branch, likely.shape[-1] - len(barred)), dim=-1)
            shape = (count, ids.shape[1], token.shape[-1], ids.shape[2])
            grown = torch.cat([ids[:, :, None].expand(shape), token[..., None]], dim=-1)
            grown = grown.reshape(count, -1, step)
            sums = (total[..., None] + gain).reshape(count, -1)
            written = tokenizer.batch_decode(grown.reshape(-1, step), skip_special_tokens=True)
            names = sorted(set(written))
            place = {text: i for i, text in enumerate(names)}
            found = text_vectors(model, names, dim=unit.shape[1])
            rows = np.array([place[text] for text in written]).reshape(count, -1)
            near = np.einsum("nd,ncd->nc", unit, found[rows])
            for i, j in enumerate(near.argmax(axis=1).tolist()):
                if near[i, j] > best[i]:
                    best[i], texts[i] = near[i, j], names[rows[i, j]]
            history.append(best.astype(np.float32))
            score = sums / step + weight * torch.from_numpy(near).to(sums)
            kept = score.topk(min(beams, score.shape[1]), dim=1).indices
            total = sums.gather(1, kept)
            ids = grown.gather(1, kept[..., None].expand(*kept.shape, step))
            bar.advance()
    return InvertedTexts(tuple(texts), np.stack([np.zeros_like(history[0]), *history]))


def _next_log_probs(lm: Any, ids: Tensor, start: Sequence[int], soft: Tensor | None) -> Tensor:
    """Return log-likelihoods of the next token after beams (N, B, T): float32 (N, B, V)."""
    count, beams, _ = ids.shape
    table = lm.get_input_embeddings()
    first = torch.tensor(start, dtype=torch.long, device=ids.device)
    tokens = torch.cat([first.expand(count, beams, -1), ids], dim=-1)
    words = table(tokens)
    if soft is not None:
        words = torch.cat([soft[:, None].expand(-1, beams, -1, -1).to(words.dtype), words], dim=2)
    logits = lm(inputs_embeds=words.flatten(0, 1), use_cache=False).logits[:, -1]
    return torch.log_softmax(logits.float(), dim=-1).reshape(count, beams, -1)
