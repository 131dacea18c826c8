"""Encode many texts well: sorted, in batches of equal token count, with nothing cut silently."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from embedworks._core.progress import progress
from embedworks._core.validation import check_in_range, check_texts, check_vectors
from embedworks.errors import DataWarning
from embedworks.models.protocols import Encoder
from embedworks.models.static import StaticModel

__all__ = ["EncodingStats", "count_truncated", "encode_batched", "model_fingerprint"]

_METHODS = {None: "encode", "query": "encode_query", "document": "encode_document"}


@dataclass(frozen=True)
class EncodingStats:
    """What it took to encode a list of texts.

    Attributes:
        texts: Number of texts.
        tokens: Tokens the model read, special tokens included; 0 when it cannot tell.
        seconds: Wall-clock time.
        truncated: Texts of which the model did not read the end.
    """

    texts: int
    tokens: int
    seconds: float
    truncated: int

    @property
    def texts_per_second(self) -> float:
        """Throughput in texts."""
        return self.texts / self.seconds if self.seconds > 0 else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Throughput in tokens."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


def encode_batched(
    model: Encoder,
    texts: Sequence[str],
    *,
    role: Literal["query", "document"] | None = None,
    tokens_per_batch: int | None = None,
    show_progress: bool | None = None,
) -> tuple[np.ndarray, EncodingStats]:
    """Encode ``texts`` with any model, faster than fixed batches, and say what happened.

    Texts are sorted by token count and put in batches of about ``tokens_per_batch`` tokens, so
    that little padding is computed and a batch stays in the CPU's cache; the order is restored.
    Vectors equal those of ``model.encode`` up to rounding. Static models, and models without a
    tokenizer that counts, are simply called.

    Args:
        model: A `StaticModel`, a ``SentenceTransformer`` or any `Encoder`.
        texts: N strings.
        role: ``"query"`` or ``"document"`` for models that treat the two differently.
        tokens_per_batch: Padded tokens per batch; None is 1,024 on a CPU and 32,768 on a GPU.
        show_progress: True or False to force a bar; by default there is one on a terminal.

    Returns:
        float32 vectors (N, D) and `EncodingStats`. Texts longer than the model reads are counted
        in the stats and in one `DataWarning`.

    Raises:
        InputError: When an item is not a string.
        NonFiniteError: When the model gives NaN or infinity.
    """
    if tokens_per_batch is None:
        device = getattr(getattr(model, "device", None), "type", "cpu")
        tokens_per_batch = 1024 if device == "cpu" else 32_768
    check_in_range(tokens_per_batch, name="tokens_per_batch", low=1)
    items = check_texts(texts)
    encode = getattr(model, _METHODS[role])
    started = time.perf_counter()
    if isinstance(model, StaticModel):
        vectors, tokens, cut = model.encode_counted(items, show_progress_bar=show_progress)
        seconds = time.perf_counter() - started
        return vectors, EncodingStats(len(items), tokens, seconds, cut)
    dim_of = getattr(model, "get_embedding_dimension", None)
    if not items and dim_of is not None:
        return np.zeros((0, dim_of()), dtype=np.float32), EncodingStats(0, 0, 0.0, 0)
    counts = _token_counts(model, items) if items else None
    if counts is None:
        plain = check_vectors(encode(items), name="vectors", allow_empty=True)
        return plain, EncodingStats(len(items), 0, time.perf_counter() - started, 0)
    empty = sum(not text.strip() for text in items)
    if empty:
        warnings.warn(
            f"{empty} of {len(items)} texts are empty or white space only: this model gives them "
            "a vector, but it means nothing. Leave them out.",
            DataWarning,
            stacklevel=2,
        )
    limit = getattr(model, "max_seq_length", None) or np.inf
    truncated = int((counts > limit).sum())
    if truncated:
        warnings.warn(
            f"{truncated} of {len(items)} texts are longer than the {limit} tokens this model "
            "reads; the rest of them is not in their vectors. Split them into chunks first.",
            DataWarning,
            stacklevel=2,
        )
    read = np.minimum(counts, limit).astype(np.int64)
    order = np.argsort(-read, kind="stable")
    parts: list[np.ndarray] = []
    with progress("Encoding", int(read.sum()), enabled=show_progress) as bar:
        for low, high in _budget_batches(read[order], tokens_per_batch):
            batch = [items[position] for position in order[low:high]]
            parts.append(
                encode(batch, batch_size=len(batch), show_progress_bar=False, convert_to_numpy=True)
            )
            bar.advance(int(read[order[low:high]].sum()))
    in_order = check_vectors(np.concatenate(parts)[np.argsort(order)], name="vectors")
    seconds = time.perf_counter() - started
    return in_order, EncodingStats(len(items), int(read.sum()), seconds, truncated)


def model_fingerprint(model: Any) -> str:
    """Return a hash that changes when the model's vectors may change, for reports and caches.

    Two loads of the same folder agree. Hex, 16 characters.

    Example:
        >>> from tokenizers import Tokenizer, models
        >>> words = Tokenizer(models.WordLevel({"a": 0}, "a"))
        >>> one = StaticModel(words, np.ones((1, 2)))
        >>> model_fingerprint(one) == model_fingerprint(one.with_table(2 * one.table))
        False
    """
    known = getattr(model, "content_hash", None)
    if isinstance(known, str):
        return known[:16]
    digest = hashlib.sha256(type(model).__name__.encode())
    for name in ("max_seq_length", "prompts", "truncate_dim"):
        digest.update(repr(getattr(model, name, None)).encode())
    if hasattr(model, "state_dict"):
        digest.update(repr(model).encode())
        for name, tensor in sorted(model.state_dict().items()):
            stored = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {stored.dtype} {tuple(stored.shape)}".encode())
            digest.update(memoryview(stored.flatten().view(_bytes_dtype()).numpy()))
    else:
        # Nothing to look into: the vectors of a few texts stand for the model.
        from embedworks.models.golden import GOLDEN_TEXTS

        vectors = check_vectors(model.encode(list(GOLDEN_TEXTS)), name="vectors")
        digest.update(np.round(vectors, 4).tobytes())
    return digest.hexdigest()[:16]


def count_truncated(model: Any, texts: Sequence[str]) -> int:
    """Return how many texts have an end that the model does not read; 0 when it cannot tell.

    Only texts with more characters than the model reads tokens are tokenised: the others fit.
    """
    if isinstance(model, StaticModel):
        limit: float = model.max_tokens or np.inf
    else:
        limit = getattr(model, "max_seq_length", None) or np.inf
    long = [text for text in texts if len(text) + 2 > limit]
    if not long:
        return 0
    if isinstance(model, StaticModel):
        return model.encode_counted(long, show_progress_bar=False)[2]
    counts = _token_counts(model, long)
    return 0 if counts is None else int((counts > limit).sum())


def _bytes_dtype() -> Any:
    import torch

    return torch.uint8


def _token_counts(model: Encoder, texts: list[str]) -> np.ndarray | None:
    """Count the tokens of each whole text, or return None when the model cannot tell."""
    tokenizer: Any = getattr(model, "tokenizer", None)
    if not hasattr(tokenizer, "backend_tokenizer"):
        return None
    counts = np.empty(len(texts), dtype=np.int64)
    for low in range(0, len(texts), 4096):
        encoded = tokenizer(
            texts[low : low + 4096],
            truncation=False,
            padding=False,
            verbose=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        counts[low : low + len(encoded)] = [len(ids) for ids in encoded]
    return counts


def _budget_batches(counts: np.ndarray, budget: int) -> list[tuple[int, int]]:
    """Cut descending counts into ranges whose longest text times size stays in the budget."""
    batches, low = [], 0
    while low < len(counts):
        size = max(1, int(budget // max(1, counts[low])))
        batches.append((low, min(low + size, len(counts))))
        low += size
    return batches
