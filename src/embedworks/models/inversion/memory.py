"""Texts as a few vectors that a frozen language model reads: how much do they hold?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embedworks._core.progress import progress
from embedworks._core.seeding import derive_seed
from embedworks._core.validation import check_in_range, check_texts, check_vectors
from embedworks.errors import EmptyInputError, ShapeError
from embedworks.models.inversion.decoder import end_token, padded_rows, target_tokens

__all__ = [
    "MemoryCapacity",
    "MemoryVectors",
    "capacity_curve",
    "memory_vectors",
    "write_from_memory",
]


@dataclass(frozen=True)
class MemoryVectors:
    """Texts as vectors in the input space of a language model.

    A text all of whose tokens are right is written back exactly by greedy decoding.

    Attributes:
        vectors: float32 (N, K, H).
        right: bool (N, T), tokens that are the likeliest after the vectors and the true tokens
            before them.
        right_alone: bool (N, T), the same without the vectors, after the end token instead.
        lengths: int64 (N,), tokens of each text.
        steps: Steps taken.
    """

    vectors: np.ndarray
    right: np.ndarray
    right_alone: np.ndarray
    lengths: np.ndarray
    steps: int

    @property
    def exact(self) -> np.ndarray:
        """Texts that come back whole, bool (N,)."""
        return np.asarray(self.right.sum(axis=1) == self.lengths)


@dataclass(frozen=True)
class MemoryCapacity:
    """What K vectors hold of texts of one length.

    Attributes:
        slots: K.
        length: Tokens of every text.
        texts: How many.
        accuracy: Share of tokens that are right.
        accuracy_alone: The same for the language model without vectors.
        exact: Share of texts that come back whole.
        tokens_gained: Mean tokens right, less those right without vectors.
    """

    slots: int
    length: int
    texts: int
    accuracy: float
    accuracy_alone: float
    exact: float
    tokens_gained: float

    def to_dict(self) -> dict[str, float]:
        """Return a dictionary that JSON can hold."""
        return asdict(self)


def memory_vectors(
    language_model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    slots: int = 1,
    steps: int = 500,
    learning_rate: float = 0.01,
    max_tokens: int = 128,
    seed: int = 0,
    show_progress: bool | None = None,
) -> MemoryVectors:
    """Find K input vectors for each text after which a frozen language model writes it.

    Every text has its own vectors, which gradients alone make: no encoder is trained. So this
    bounds from below what K vectors can hold for this language model. It ends early when all
    tokens are right; what a text reached best is kept.

    Args:
        language_model: A causal language model of transformers; its weights stay.
        tokenizer: Its tokenizer.
        texts: N texts, all at a time; those longer than ``max_tokens`` are cut.
        slots: K.
        steps: Most steps of AdamW.
        learning_rate: Of the vectors.
        max_tokens: Longest text, T.
        seed: Of the first vectors.
        show_progress: True or False to force a bar; by default there is one on a terminal.

    Raises:
        EmptyInputError: When there are no texts.
        InputError: When a setting is out of range.

    Paper: Kuratov, Arkhipov, Bulatov and Burtsev 2025, arXiv 2502.13063.

    Example:
        >>> from embedworks.models import new_language_model, train_tokenizer
        >>> tokenizer = train_tokenizer(["a file", "a folder"], vocab_size=270)
        >>> lm = new_language_model("llama", tokenizer, dim=16, layers=1, heads=2)
        >>> memory_vectors(lm, tokenizer, ["a file"], slots=2, steps=3).vectors.shape
        (1, 2, 16)
    """
    for name, value in (("slots", slots), ("steps", steps), ("max_tokens", max_tokens)):
        check_in_range(value, name=name, low=1)
    check_in_range(learning_rate, name="learning_rate", low=0.0, open_low=True)
    given = check_texts(texts)
    if not given:
        raise EmptyInputError("there are no texts to compress.")
    rows = target_tokens(tokenizer, given, max_tokens, end=False)
    device = language_model.device
    ids = padded_rows(rows).to(device)
    there = ids >= 0
    table = language_model.get_input_embeddings()
    wanted = {name: weight.requires_grad for name, weight in language_model.named_parameters()}
    language_model.requires_grad_(False)
    language_model.eval()
    try:
        with torch.no_grad():
            words = table(ids.clamp(min=0))
            start = table(torch.full((len(ids), 1), end_token(tokenizer), device=device))
            alone = _logits(language_model, start, words).argmax(dim=-1).eq(ids) & there
            spread = float(table.weight.float().std())
        drawn = torch.Generator().manual_seed(derive_seed(seed, "memory vectors") % 2**63)
        first = spread * torch.randn(len(ids), slots, words.shape[-1], generator=drawn)
        memory = nn.Parameter(first.to(device))
        optimizer = torch.optim.AdamW([memory], lr=learning_rate, weight_decay=0.01)
        best = memory.detach().clone()
        right = torch.zeros_like(there)
        taken = 0
        with progress("Memory", steps, enabled=show_progress) as bar:
            # One look more than steps, so that the last step's vectors are looked at too.
            for taken in range(steps + 1):
                logits = _logits(language_model, memory, words).float()
                now = logits.detach().argmax(dim=-1).eq(ids) & there
                better = now.sum(dim=1) > right.sum(dim=1)
                best[better], right[better] = memory.detach()[better], now[better]
                if taken == steps or bool((right == there).all()):
                    break
                loss = nn.functional.cross_entropy(
                    logits.transpose(1, 2), ids.masked_fill(~there, -100), reduction="none"
                )
                # Texts share no weights: a sum over them trains each as if alone.
                torch.autograd.backward((loss.sum(dim=1) / there.sum(dim=1)).sum())
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                bar.advance()
    finally:
        for name, weight in language_model.named_parameters():
            weight.requires_grad_(wanted[name])
    return MemoryVectors(
        best.float().cpu().numpy(),
        right.cpu().numpy(),
        alone.cpu().numpy(),
        there.sum(dim=1).cpu().numpy(),
        taken,
    )


def capacity_curve(
    language_model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    slots: Sequence[int] = (1, 2, 4),
    lengths: Sequence[int] = (8, 16, 32, 64),
    steps: int = 500,
    learning_rate: float = 0.01,
    seed: int = 0,
    show_progress: bool | None = None,
) -> list[MemoryCapacity]:
    """Measure how many tokens K vectors hold, for texts cut to several lengths.

    Args:
        language_model: A causal language model of transformers; its weights stay.
        tokenizer: Its tokenizer.
        texts: Texts; at each length those that have as many tokens are taken.
        slots: Values of K.
        lengths: Values of T, in tokens.
        steps: See `memory_vectors`.
        learning_rate: See `memory_vectors`.
        seed: See `memory_vectors`.
        show_progress: True or False to force bars.

    Raises:
        EmptyInputError: When no text has as many tokens as a length asks for.
    """
    given = check_texts(texts)
    most = max(lengths, default=1)
    sizes = [len(row) for row in target_tokens(tokenizer, given, most, end=False)]
    found = []
    for length in lengths:
        long = [text for text, size in zip(given, sizes, strict=True) if size >= length]
        if not long:
            raise EmptyInputError(
                f"no text has {length} tokens, the longest has {max(sizes, default=0)}: join texts "
                "or ask for shorter ones."
            )
        for count in slots:
            memory = memory_vectors(
                language_model, tokenizer, long, slots=count, steps=steps,
                learning_rate=learning_rate, max_tokens=length, seed=seed,
                show_progress=show_progress,
            )  # fmt: skip
            accuracy, alone = float(memory.right.mean()), float(memory.right_alone.mean())
            found.append(
                MemoryCapacity(
                    count,
                    length,
                    len(long),
                    accuracy,
                    alone,
                    float(memory.exact.mean()),
                    (accuracy - alone) * length,
                )
            )
    return found


@torch.inference_mode()
def write_from_memory(
    language_model: Any,
    tokenizer: Any,
    vectors: np.ndarray,
    *,
    max_tokens: int = 128,
    batch_size: int = 64,
) -> list[str]:
    """Write what a language model says after memory vectors, by greedy decoding.

    Args:
        language_model: A causal language model of transformers.
        tokenizer: Its tokenizer.
        vectors: float (N, K, H), such as `MemoryVectors.vectors`. Those were found without an end
            token: a text ends where ``max_tokens`` ends it.
        max_tokens: Longest text.
        batch_size: Texts at a time.

    Raises:
        ShapeError: When vectors are not of three axes, or not as wide as token vectors.
        NonFiniteError: When a value is NaN or infinite.
    """
    check_in_range(max_tokens, name="max_tokens", low=1)
    check_in_range(batch_size, name="batch_size", low=1)
    found = np.asarray(vectors)
    width = int(language_model.get_input_embeddings().embedding_dim)
    if found.ndim != 3 or found.shape[2] != width:
        raise ShapeError(f"memory vectors must be (N, K, {width}), got {found.shape}.")
    check_vectors(found.reshape(-1, width))
    language_model.eval()
    texts: list[str] = []
    for start in range(0, len(found), batch_size):
        part = torch.from_numpy(found[start : start + batch_size]).to(
            language_model.device, language_model.dtype
        )
        ids = language_model.generate(
            inputs_embeds=part,
            attention_mask=torch.ones(part.shape[:2], dtype=torch.long, device=part.device),
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=end_token(tokenizer),
            pad_token_id=end_token(tokenizer),
            use_cache=True,
        )
        texts += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return texts


def _logits(language_model: Any, before: Tensor, words: Tensor) -> Tensor:
    """Return what is told of each of T words (N, T, V) after vectors (N, K, H)."""
    inputs = torch.cat([before.to(words.dtype), words[:, :-1]], dim=1)
    logits: Tensor = language_model(inputs_embeds=inputs, use_cache=False).logits
    return logits[:, before.shape[1] - 1 :]
