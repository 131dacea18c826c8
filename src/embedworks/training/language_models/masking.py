"""Texts as rows of tokens, and which of them a model must guess: pure functions on arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from embedworks._core.validation import check_in_range
from embedworks.errors import EmptyInputError, ShapeError

__all__ = ["IGNORED", "masked_rows", "nested_masks", "pack_tokens", "word_starts"]

#: Label of a token that need not be guessed, as torch and transformers have it.
IGNORED = -100


def pack_tokens(
    texts: Iterable[str], tokenizer: Any, length: int, *, begin: bool = False
) -> np.ndarray:
    """Return texts one after another as full rows of tokens, int32 (N, T).

    Texts keep their special tokens, which part them. What does not fill the last row is left out.

    Args:
        texts: Texts; empty ones are skipped.
        tokenizer: A tokenizer of transformers.
        length: T.
        begin: Whether every row starts with the first special token, also within a text, as
            objectives need that read the first state.

    Raises:
        EmptyInputError: When the texts do not fill a row.

    Example:
        >>> from embedworks.models import train_tokenizer
        >>> tokenizer = train_tokenizer(["ab ab ab"], vocab_size=261)
        >>> pack_tokens(["ab ab", "a"], tokenizer, 4).shape
        (2, 4)
    """
    check_in_range(length, name="length", low=2)
    first = tokenizer("a")["input_ids"][0] if begin else None
    room = length - 1 if begin else length
    parts: list[np.ndarray] = []
    batch: list[str] = []

    def flush() -> None:
        coded = tokenizer(batch, verbose=False)["input_ids"] if batch else []
        parts.extend(np.asarray(row, dtype=np.int32) for row in coded)
        batch.clear()

    for text in texts:
        if text.strip():
            batch.append(text)
        if len(batch) == 1000:
            flush()
    flush()
    stream = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
    rows = stream[: len(stream) // room * room].reshape(-1, room)
    if not len(rows):
        raise EmptyInputError(
            f"the texts have {len(stream)} tokens, which do not fill a row of {length}: give more "
            "text or shorter rows."
        )
    if first is None:
        return rows
    return np.concatenate([np.full((len(rows), 1), first, dtype=np.int32), rows], axis=1)


def word_starts(tokenizer: Any) -> np.ndarray:
    """Return which tokens begin a word, bool (V,): after a space, or not written as a piece.

    Special tokens begin one each. Knows the marks of byte-level BPE, SentencePiece and WordPiece.
    """
    names = [str(n) for n in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    special = set(tokenizer.all_special_ids)
    if any(name.startswith("##") for name in names):
        return np.array([not name.startswith("##") for name in names])
    return np.array(
        [
            place in special or name.startswith(("Ġ", "▁", "Ċ")) or not name[:1].isalnum()
            for place, name in enumerate(names)
        ]
    )


def masked_rows(
    ids: np.ndarray,
    chosen: np.ndarray,
    *,
    mask_token: int,
    vocabulary: int,
    rng: np.random.Generator,
    masked: float = 0.8,
    random: float = 0.1,
) -> tuple[np.ndarray, np.ndarray]:
    """Hide chosen tokens: most become the mask, some a random token, the rest stay.

    Args:
        ids: int array (B, T).
        chosen: bool array (B, T), True for tokens to be guessed.
        mask_token: What hides a token.
        vocabulary: V; random tokens are drawn from it.
        rng: Random source.
        masked: Share of the chosen that become the mask; 1 is MNTP's and RetroMAE's way.
        random: Share that become a random token.

    Returns:
        What the model reads, and labels: the token where chosen, else `IGNORED`; both (B, T).

    Raises:
        ShapeError: When the shapes differ.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> read, labels = masked_rows(np.array([[5, 6]]), np.array([[True, False]]), mask_token=4,
        ...                            vocabulary=9, rng=rng, masked=1.0, random=0.0)
        >>> read.tolist(), labels.tolist()
        ([[4, 6]], [[5, -100]])
    """
    if ids.shape != chosen.shape:
        raise ShapeError(f"ids are {ids.shape} and chosen {chosen.shape}.")
    check_in_range(masked, name="masked", low=0.0, high=1.0)
    check_in_range(random, name="random", low=0.0, high=1.0 - masked)
    fate = rng.random(ids.shape)
    other = rng.integers(0, vocabulary, ids.shape)
    read = np.where(chosen & (fate < masked), mask_token, ids)
    read = np.where(chosen & (fate >= masked) & (fate < masked + random), other, read)
    return read, np.where(chosen, ids, IGNORED)


def nested_masks(
    ids: np.ndarray,
    *,
    starts: np.ndarray,
    special: Sequence[int],
    shares: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose whole words to hide, twice: the first set is part of the second.

    Words of a row are shuffled once; the first of them are hidden until the share is reached, as
    in the code of Starbucks. A word that would pass over the share by more than it lacks is left.

    Args:
        ids: int array (B, T).
        starts: bool array (V,), see `word_starts`.
        special: Tokens that are never hidden.
        shares: Shares of the other tokens to hide, the smaller first.
        rng: Random source.

    Returns:
        Two bool arrays (B, T).

    Paper: Zhuang et al. 2024, arXiv 2410.13230 (their code).
    """
    small, large = shares
    check_in_range(large, name="shares[1]", low=0.0, high=1.0)
    check_in_range(small, name="shares[0]", low=0.0, high=large)
    plain = ~np.isin(ids, list(special))
    # A word begins where a token says so, and behind a special token.
    begins = plain & (starts[ids] | ~np.pad(plain, ((0, 0), (1, 0)))[:, :-1])
    number = np.cumsum(begins, axis=1) - 1
    found = (np.zeros(ids.shape, dtype=bool), np.zeros(ids.shape, dtype=bool))
    for row in range(len(ids)):
        places = np.flatnonzero(plain[row])
        if not len(places):
            continue
        words, sizes = np.unique(number[row, places], return_counts=True)
        order = rng.permutation(len(words))
        reached = np.cumsum(sizes[order])
        for mask, share in zip(found, (small, large), strict=True):
            wanted = share * len(places)
            count = int(np.searchsorted(reached, wanted, side="right"))
            before = reached[count - 1] if count else 0
            if count < len(words) and reached[count] - wanted < wanted - before:
                count += 1
            mask[row, places] = np.isin(number[row, places], words[order[:count]])
    return found
