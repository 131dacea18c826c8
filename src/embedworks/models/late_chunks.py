"""Late chunking: vectors of passages that have seen the text around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embedworks._core.validation import check_in_range, check_texts, normalize_rows
from embedworks.errors import EmptyInputError, InputError

__all__ = ["encode_late_chunks"]


def encode_late_chunks(
    model: Any,
    text: str,
    spans: Sequence[tuple[int, int]],
    *,
    context: int = 1,
    overlap: int | None = None,
) -> np.ndarray:
    """Encode a document as a whole and pool the tokens of each passage: one vector a passage.

    So "it costs 40 euros" knows from the passage before what costs 40 euros. A document longer than
    the model is read in windows of whole passages; each window but the first begins with
    ``context`` passages of the one before, which are read but not pooled again.

    Args:
        model: A ``SentenceTransformer`` over a transformer with mean pooling.
        text: The document.
        spans: ``(start, end)`` of each passage in characters, in order and without overlap.
        context: Passages of the window before that are read again.
        overlap: Cut windows by tokens, wherever passages end, and read so many tokens of the window
            before again: for passages longer than the model, or an even context. ``context`` does
            not count then.

    Returns:
        float32 (N, D) of unit length. Special tokens count for the first and the last passage of
        their window: one passage alone has the model's own vector of it.

    Raises:
        EmptyInputError: When there is no passage, or one has no token.
        InputError: When spans overlap or leave the text, one passage alone is longer than the model
            reads (without ``overlap``), ``overlap`` fills a window, or the model is of another
            kind.

    Paper: Günther et al. 2024, arXiv 2409.04701: late chunking, and its long form with overlapping
    windows of tokens; windows of whole passages are ours.
    """
    (text,) = check_texts([text])
    check_in_range(context, name="context", low=0)
    _check(spans, len(text))
    limit, offsets = _reader(model)
    if overlap is not None:
        check_in_range(overlap, name="overlap", low=0)
        return normalize_rows(_pool_by_tokens(model, text, spans, overlap, limit, offsets))
    pieces = _windows(text, spans, context, limit, offsets)
    vectors = [_pool(model, text, spans, window, offsets) for window in pieces]
    return normalize_rows(np.concatenate(vectors))


def _check(spans: Sequence[tuple[int, int]], length: int) -> None:
    if not spans:
        raise EmptyInputError("At least one passage is needed.")
    before = 0
    for start, end in spans:
        if not before <= start < end <= length:
            raise InputError(
                f"The passage ({start}, {end}) overlaps the one before, is empty or leaves the "
                f"text of {length} characters."
            )
        before = end


def _reader(model: Any) -> tuple[int, Any]:
    try:
        tokenizer, limit = model.tokenizer, int(model.max_seq_length)
        pooling = next(module for module in model if hasattr(module, "pooling_mode"))
    except (AttributeError, TypeError, StopIteration) as error:
        raise InputError(
            f"A {type(model).__name__} does not give vectors of tokens: expected a "
            "SentenceTransformer over a transformer with mean pooling."
        ) from error
    if pooling.pooling_mode != "mean":
        raise InputError(
            f"The model pools by {pooling.pooling_mode!r}: passages can be pooled late only by "
            "the mean."
        )
    if not getattr(tokenizer, "is_fast", False):
        raise InputError("The tokenizer has no offsets: a fast tokenizer is needed.")

    def offsets(piece: str) -> list[tuple[int, int]]:
        return list(tokenizer(piece, return_offsets_mapping=True)["offset_mapping"])

    return limit, offsets


def _windows(
    text: str, spans: Sequence[tuple[int, int]], context: int, limit: int, offsets: Any
) -> list[tuple[int, int, int]]:
    """Return ``(first read, first pooled, end)`` passages of each window."""
    windows, begin = [], 0
    while begin < len(spans):
        read = max(0, begin - context)
        while True:
            fits = _fitting(text, spans, read, limit, offsets)
            if fits > begin:
                break
            if read == begin:
                raise InputError(
                    f"Passage {begin} alone is longer than the {limit} tokens the model reads: "
                    "cut it, or give overlap."
                )
            read += 1
        windows.append((read, begin, fits))
        begin = fits
    return windows


def _fitting(
    text: str, spans: Sequence[tuple[int, int]], read: int, limit: int, offsets: Any
) -> int:
    """Return how many passages, counted from the first of all, fit when reading starts there."""
    low, high = read, len(spans)
    while low < high:
        middle = (low + high + 1) // 2
        if len(offsets(text[spans[read][0] : spans[middle - 1][1]])) <= limit:
            low = middle
        else:
            high = middle - 1
    return low


def _pool(
    model: Any, text: str, spans: Sequence[tuple[int, int]], window: tuple[int, int, int],
    offsets: Any,
) -> np.ndarray:  # fmt: skip
    read, begin, end = window
    origin = spans[read][0]
    piece = text[origin : spans[end - 1][1]]
    tokens, places = _read(model, piece, offsets)
    ends = np.array([spans[i][1] - origin for i in range(read, end)])
    own = places[:, 1] > places[:, 0]
    owner = np.searchsorted(ends, places[:, 0], side="right") + read
    owner[~own] = np.where(np.flatnonzero(~own) < len(own) / 2, read, end - 1)
    starts = np.array([span[0] - origin for span in spans[read:end]])
    between = own & (places[:, 1] <= starts[np.clip(owner - read, 0, len(starts) - 1)])
    owner[between] = -1
    rows = []
    for passage in range(begin, end):
        mine = tokens[owner == passage]
        if not len(mine):
            raise EmptyInputError(f"Passage {passage} has no token: {spans[passage]}.")
        rows.append(mine.mean(axis=0))
    return np.stack(rows)


def _pool_by_tokens(
    model: Any, text: str, spans: Sequence[tuple[int, int]], overlap: int, limit: int, offsets: Any
) -> np.ndarray:
    """Return the mean of each passage's tokens, read in windows of tokens that overlap."""
    every = offsets(text)
    words = [(start, end) for start, end in every if end > start]
    room = limit - (len(every) - len(words))
    if overlap >= room:
        raise InputError(f"overlap must be below the {room} tokens of a window, got {overlap}.")
    starts = np.array([start for start, _ in spans])
    ends = np.array([end for _, end in spans])
    sums: Any = 0.0
    counts = np.zeros(len(spans))
    begin = 0
    while begin < len(words):
        read = max(0, begin - overlap)
        end = min(len(words), read + room)
        origin = words[read][0]
        # A window may be cut into more tokens than the same letters in the whole text.
        while len(offsets(text[origin : words[end - 1][1]])) > limit and end > begin + 1:
            end -= 1
        tokens, places = _read(model, text[origin : words[end - 1][1]], offsets)
        real = places[:, 1] > places[:, 0]
        owner = np.searchsorted(ends, places[:, 0] + origin, side="right")
        known = np.clip(owner, 0, len(spans) - 1)
        taken = real & (owner < len(spans)) & (places[:, 1] + origin > starts[known])
        taken &= places[:, 0] + origin >= words[begin][0]
        half = np.arange(len(real)) < len(real) / 2
        first, last = ~real & half & (begin == 0), ~real & ~half & (end == len(words))
        known = np.where(first, 0, np.where(last, len(spans) - 1, known))
        taken |= first | last
        sums = sums + np.stack(
            [tokens[taken & (known == one)].sum(axis=0) for one in range(len(spans))]
        )
        counts += np.bincount(known[taken], minlength=len(spans))
        begin = end
    if not counts.all():
        bare = int(np.flatnonzero(counts == 0)[0])
        raise EmptyInputError(f"Passage {bare} has no token: {spans[bare]}.")
    means: np.ndarray = sums / counts[:, None]
    return means.astype(np.float32)


def _read(model: Any, piece: str, offsets: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the states (T, D) and the places (T, 2) of a piece's tokens."""
    tokens = np.asarray(model.encode([piece], output_value="token_embeddings")[0].float().cpu())
    places = np.array(offsets(piece))
    if len(places) != len(tokens):
        raise InputError(
            f"The model gave {len(tokens)} token vectors for {len(places)} tokens: a prompt or "
            "a prefix is in the way."
        )
    return tokens, places
