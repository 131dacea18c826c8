"""How often words stand near each other: one pass, memory for the pairs that occur."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import types

from embedworks._core.kernels import compile_kernel
from embedworks._core.progress import progress
from embedworks._core.validation import check_in_range
from embedworks.models.words.corpus import WordCorpus

__all__ = ["Cooccurrences", "count_cooccurrences"]

_START = 1 << 16
_CHUNK = 200_000  # words between two moves of the bar


@dataclass(frozen=True)
class Cooccurrences:
    """Pairs of words with their weighted counts, both directions, sorted by row and column.

    Args:
        rows: int32 (P,), word numbers.
        columns: int32 (P,), word numbers.
        values: float64 (P,), greater than zero; symmetric.
    """

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray


def count_cooccurrences(
    corpus: WordCorpus,
    window: int = 5,
    *,
    harmonic: bool = False,
    show_progress: bool | None = None,
) -> Cooccurrences:
    """Count pairs of words that are at most ``window`` apart in one text.

    Args:
        corpus: The texts.
        window: Largest distance.
        harmonic: A pair at distance d counts ``1 / d`` (GloVe) in place of
            ``(window - d + 1) / window``, which is what word2vec's drawn windows amount to.
        show_progress: True or False to force a bar; by default there is one on a terminal.

    Example:
        >>> corpus = WordCorpus(["red sky red"], min_count=1)
        >>> found = count_cooccurrences(corpus, 2)
        >>> [(corpus.words[i], corpus.words[j], v)
        ...  for i, j, v in zip(found.rows, found.columns, found.values.tolist())]
        [('red', 'red', 1.0), ('red', 'sky', 2.0), ('sky', 'red', 2.0)]
    """
    check_in_range(window, name="window", low=1, high=10_000)
    steps = np.arange(1, window + 1, dtype=np.float64)
    weights = 1 / steps if harmonic else (window - steps + 1) / window
    keys = np.full(_START, -1, dtype=np.int64)
    values = np.zeros(_START)
    place = np.zeros(3, dtype=np.int64)  # text, word, pairs stored
    words = len(corpus.words)
    with progress("Pairs", len(corpus.ids), enabled=show_progress) as bar:
        while place[0] < len(corpus):
            before = int(place[1])
            _count(corpus.ids, corpus.offsets, words, weights, keys, values, place, _CHUNK)
            bar.advance(int(place[1]) - before)
            if 3 * place[2] > 2 * len(keys):
                keys, values = _grown(keys, values)
    there = keys >= 0
    order = np.argsort(keys[there])
    keys, values = keys[there][order], values[there][order]
    left, right = keys // words, keys % words
    apart = left != right  # stored once with the smaller number first
    rows = np.concatenate([left, right[apart]])
    columns = np.concatenate([right, left[apart]])
    both = np.concatenate([np.where(apart, values, 2 * values), values[apart]])
    order = np.lexsort((columns, rows))
    return Cooccurrences(rows[order].astype(np.int32), columns[order].astype(np.int32), both[order])


def _grown(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wider = np.full(4 * len(keys), -1, dtype=np.int64)
    moved = np.zeros(len(wider))
    _insert_all(keys, values, wider, moved)
    return wider, moved


_LONGS = types.Array(types.int64, 1, "C")
_DOUBLES = types.Array(types.float64, 1, "C")


@compile_kernel(types.int64, _LONGS, _DOUBLES, types.int64, types.float64)
def _add(keys: np.ndarray, values: np.ndarray, key: int, value: float) -> int:
    """Add to a key of an open hash table; return 1 if the key is new."""
    mask = keys.shape[0] - 1
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    slot = np.int64(mixed >> np.uint64(24)) & mask
    while keys[slot] != key:
        if keys[slot] < 0:
            keys[slot] = key
            values[slot] = value
            return 1
        slot = (slot + 1) & mask
    values[slot] += value
    return 0


@compile_kernel(types.void, _LONGS, _DOUBLES, _LONGS, _DOUBLES)
def _insert_all(keys: np.ndarray, values: np.ndarray, wider: np.ndarray, moved: np.ndarray) -> None:
    for slot in range(keys.shape[0]):
        if keys[slot] >= 0:
            _add(wider, moved, keys[slot], values[slot])


@compile_kernel(
    types.void,
    types.Array(types.int32, 1, "C"),
    _LONGS,
    types.int64,
    _DOUBLES,
    _LONGS,
    _DOUBLES,
    _LONGS,
    types.int64,
)
def _count(
    ids: np.ndarray,
    offsets: np.ndarray,
    words: int,
    weights: np.ndarray,
    keys: np.ndarray,
    values: np.ndarray,
    place: np.ndarray,
    chunk: int,
) -> None:
    """Count on from ``place`` to the end, for a chunk, or until the table is two thirds full."""
    stop = min(place[1] + chunk, ids.shape[0])
    while place[0] < offsets.shape[0] - 1:
        end = offsets[place[0] + 1]
        while place[1] < end:
            if place[1] >= stop or 3 * place[2] > 2 * keys.shape[0]:
                return
            word = np.int64(ids[place[1]])
            for step in range(1, min(weights.shape[0], end - 1 - place[1]) + 1):
                near = np.int64(ids[place[1] + step])
                low, high = min(word, near), max(word, near)
                place[2] += _add(keys, values, low * words + high, weights[step - 1])
            place[1] += 1
        place[0] += 1
