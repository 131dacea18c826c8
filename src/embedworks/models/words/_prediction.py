"""Kernels that learn by predicting words: one gradient step, and walks over texts that take it.

All of word2vec, fastText and Doc2Vec is the same step: the mean of some input rows predicts one
word against drawn others. They differ in which rows are the input and which word is the target.
Input rows are words, then pieces of words, then texts; ``pieces[starts[w]:starts[w + 1]]`` are the
input rows of word w. Random numbers are splitmix64, so a run repeats exactly on one thread.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from embedworks._core.kernels import compile_kernel

__all__ = ["alias_table", "cbow_texts", "dbow_texts", "negative_step", "skipgram_texts"]

_FAST = {"contract", "reassoc", "nsz", "arcp"}
_F32 = types.float32
_MATRIX = types.Array(_F32, 2, "C")
_VECTOR = types.Array(_F32, 1, "C")
_INTS = types.Array(types.int32, 1, "C")
_LONGS = types.Array(types.int64, 1, "C")
_STATE = types.Array(types.uint64, 1, "C")


def alias_table(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (share float32 (V,), other int32 (V,)) for drawing in constant time.

    Draw a place i evenly; keep it with chance ``share[i]``, else take ``other[i]`` (Walker 1977).

    Args:
        weights: float array (V,), greater than zero.

    Example:
        >>> share, other = alias_table(np.array([3.0, 1.0]))
        >>> share.tolist(), other.tolist()
        ([1.0, 0.5], [0, 0])
    """
    scaled = np.asarray(weights, dtype=np.float64) * (len(weights) / np.sum(weights))
    share = np.ones(len(scaled), dtype=np.float32)
    other = np.arange(len(scaled), dtype=np.int32)
    small = [int(i) for i in np.flatnonzero(scaled < 1)]
    large = [int(i) for i in np.flatnonzero(scaled >= 1)]
    while small and large:
        low, high = small.pop(), large[-1]
        share[low], other[low] = scaled[low], high
        scaled[high] -= 1 - scaled[low]
        if scaled[high] < 1:
            small.append(large.pop())
    return share, other


@njit(inline="always")
def _draw(state: np.ndarray) -> np.uint64:
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(inline="always")
def _unit(bits: np.uint64) -> np.float32:
    return np.float32((bits >> np.uint64(40)) * (1.0 / 16777216.0))


@compile_kernel(
    types.void, _MATRIX, _VECTOR, _VECTOR, types.int64, _F32, _F32, types.boolean, fastmath=_FAST
)
def _predict(
    outputs: np.ndarray,
    hidden: np.ndarray,
    change: np.ndarray,
    word: int,
    label: float,
    rate: float,
    learn: bool,
) -> None:
    """Move one output row, and add to ``change`` what the hidden vector is to move by."""
    dot = np.float32(0)
    for d in range(hidden.shape[0]):
        dot += hidden[d] * outputs[word, d]
    if dot > np.float32(30):
        dot = np.float32(30)
    elif dot < np.float32(-30):
        dot = np.float32(-30)
    step = rate * (label - np.float32(1) / (np.float32(1) + np.exp(-dot)))
    if learn:
        for d in range(hidden.shape[0]):
            change[d] += step * outputs[word, d]
            outputs[word, d] += step * hidden[d]
    else:
        for d in range(hidden.shape[0]):
            change[d] += step * outputs[word, d]


@njit(inline="always")
def _tell_apart(
    outputs: np.ndarray,
    hidden: np.ndarray,
    change: np.ndarray,
    target: int,
    negatives: int,
    share: np.ndarray,
    other: np.ndarray,
    rate: float,
    state: np.ndarray,
    learn: bool,
) -> None:
    """Move the target's output row and those of drawn words; set ``change`` of the hidden vector.

    A step up ``ln s(u_target . h) + sum_k ln s(-u_k . h)``. A drawn word that is the target is
    passed over. Without ``learn`` the outputs stay as they are.
    """
    for d in range(hidden.shape[0]):
        change[d] = np.float32(0)
    _predict(outputs, hidden, change, target, np.float32(1), rate, learn)
    size = np.uint64(share.shape[0])
    for _ in range(negatives):
        bits = _draw(state)
        word = np.int64((bits >> np.uint64(32)) * size >> np.uint64(32))
        if np.float32((bits & np.uint64(0xFFFFFF)) * (1.0 / 16777216.0)) >= share[word]:
            word = np.int64(other[word])
        if word != target:
            _predict(outputs, hidden, change, word, np.float32(0), rate, learn)


@njit(inline="always")
def _mean_of(inputs: np.ndarray, rows: np.ndarray, n_rows: int, hidden: np.ndarray) -> None:
    """Set ``hidden`` to the mean of input rows; a row that comes twice counts twice."""
    first = rows[0]
    for d in range(hidden.shape[0]):
        hidden[d] = inputs[first, d]
    if n_rows > 1:
        for r in range(1, n_rows):
            row = rows[r]
            for d in range(hidden.shape[0]):
                hidden[d] += inputs[row, d]
        part = np.float32(1.0 / n_rows)
        for d in range(hidden.shape[0]):
            hidden[d] *= part


@njit(inline="always")
def _move(
    inputs: np.ndarray, rows: np.ndarray, n_rows: int, change: np.ndarray, learn_from: int
) -> None:
    """Add ``change`` to every input row from ``learn_from`` on."""
    for r in range(n_rows):
        row = rows[r]
        if row >= learn_from:
            for d in range(change.shape[0]):
                inputs[row, d] += change[d]


@compile_kernel(
    types.void,
    _MATRIX,
    _MATRIX,
    _INTS,
    types.int64,
    types.int64,
    types.int64,
    _VECTOR,
    _INTS,
    _F32,
    _STATE,
    _VECTOR,
    _VECTOR,
    types.int64,
    types.boolean,
    fastmath=_FAST,
)
def negative_step(
    inputs: np.ndarray,
    outputs: np.ndarray,
    rows: np.ndarray,
    n_rows: int,
    target: int,
    negatives: int,
    share: np.ndarray,
    other: np.ndarray,
    rate: float,
    state: np.ndarray,
    hidden: np.ndarray,
    change: np.ndarray,
    learn_from: int,
    learn_outputs: bool,
) -> None:
    """Take one step up ``ln s(u_target . h) + sum_k ln s(-u_k . h)``, h the mean of input rows.

    Every input row is moved by the whole gradient of h and not by its share, as in word2vec's and
    fastText's programs; with one row it is the exact gradient. A drawn word that is the target is
    passed over. Rows below ``learn_from`` stay as they are, and so do the outputs without
    ``learn_outputs``.
    """
    _mean_of(inputs, rows, n_rows, hidden)
    _tell_apart(
        outputs, hidden, change, target, negatives, share, other, rate, state, learn_outputs
    )
    _move(inputs, rows, n_rows, change, learn_from)


@compile_kernel(types.int64, _LONGS, types.int64, types.int64)
def _widest(ends: np.ndarray, first: int, last: int) -> int:
    widest = 1
    for place in range(first, last):
        if ends[place + 1] - ends[place] > widest:
            widest = ends[place + 1] - ends[place]
    return widest


@njit(inline="always")
def _thinned(
    ids: np.ndarray, low: int, high: int, keep: np.ndarray, state: np.ndarray, kept: np.ndarray
) -> int:
    """Copy a text's words to ``kept``, common ones by chance; return how many."""
    count = 0
    for place in range(low, high):
        word = ids[place]
        if keep[word] >= 1 or _unit(_draw(state)) < keep[word]:
            kept[count] = word
            count += 1
    return count


_WALK = (
    _INTS, _LONGS, types.int64, types.int64, _MATRIX, _MATRIX, _INTS, _LONGS, types.int64,
    _VECTOR, types.int64, types.int64, _VECTOR, _INTS, _F32, _F32, _STATE, types.int64,
    types.boolean,
)  # fmt: skip


@njit(inline="always")
def _pull(rows: np.ndarray, learn_from: int) -> np.float32:
    """Return by how much of its change the mean of the rows moves when each row moves by it."""
    pairs = 0
    for r in range(rows.shape[0]):
        if rows[r] >= learn_from:
            for other in range(rows.shape[0]):
                pairs += rows[r] == rows[other]
    return np.float32(pairs / rows.shape[0])


@compile_kernel(types.void, *_WALK, fastmath=_FAST)
def skipgram_texts(
    ids: np.ndarray,
    offsets: np.ndarray,
    first: int,
    last: int,
    inputs: np.ndarray,
    outputs: np.ndarray,
    pieces: np.ndarray,
    starts: np.ndarray,
    text_base: int,
    keep: np.ndarray,
    window: int,
    negatives: int,
    share: np.ndarray,
    other: np.ndarray,
    rate: float,
    rate_end: float,
    state: np.ndarray,
    learn_from: int,
    learn_outputs: bool,
) -> None:
    """Let each word of texts ``first`` to ``last`` predict the words around it.

    The same as a `negative_step` for each word around, but for rounding: all of a word's rows move
    alike, so their mean after a step is known without them. They are read once and written once
    per word, which is most of the work with many pieces, and lets threads lose fewer changes.
    """
    dim = inputs.shape[1]
    hidden, change = np.empty(dim, np.float32), np.empty(dim, np.float32)
    moved = np.empty(dim, np.float32)
    kept = np.empty(_widest(offsets, first, last), np.int32)
    total = max(1, offsets[last] - offsets[first])
    for text in range(first, last):
        done = np.float32((offsets[text] - offsets[first]) / total)
        now = rate + (rate_end - rate) * done
        count = _thinned(ids, offsets[text], offsets[text + 1], keep, state, kept)
        for place in range(count):
            centre = kept[place]
            rows = pieces[starts[centre] : starts[centre + 1]]
            pull = _pull(rows, learn_from)
            reach = 1 + np.int64(_draw(state) % np.uint64(window))
            _mean_of(inputs, rows, rows.shape[0], hidden)
            for d in range(dim):
                moved[d] = np.float32(0)
            for near in range(max(np.int64(0), place - reach), min(count, place + reach + 1)):
                if near != place:
                    _tell_apart(
                        outputs, hidden, change, kept[near], negatives, share, other, now, state,
                        learn_outputs,
                    )  # fmt: skip
                    for d in range(dim):
                        moved[d] += change[d]
                        hidden[d] += pull * change[d]
            _move(inputs, rows, rows.shape[0], moved, learn_from)


@compile_kernel(types.void, *_WALK, fastmath=_FAST)
def cbow_texts(
    ids: np.ndarray,
    offsets: np.ndarray,
    first: int,
    last: int,
    inputs: np.ndarray,
    outputs: np.ndarray,
    pieces: np.ndarray,
    starts: np.ndarray,
    text_base: int,
    keep: np.ndarray,
    window: int,
    negatives: int,
    share: np.ndarray,
    other: np.ndarray,
    rate: float,
    rate_end: float,
    state: np.ndarray,
    learn_from: int,
    learn_outputs: bool,
) -> None:
    """Let the words around each word predict it, together with the text's row (PV-DM) if any.

    ``text_base`` is the row of text ``first``'s vector, or -1 for none.
    """
    hidden, change = np.empty(inputs.shape[1], np.float32), np.empty(inputs.shape[1], np.float32)
    kept = np.empty(_widest(offsets, first, last), np.int32)
    rows = np.empty(2 * window * _widest(starts, 0, starts.shape[0] - 1) + 1, np.int32)
    total = max(1, offsets[last] - offsets[first])
    for text in range(first, last):
        done = np.float32((offsets[text] - offsets[first]) / total)
        now = rate + (rate_end - rate) * done
        count = _thinned(ids, offsets[text], offsets[text + 1], keep, state, kept)
        for place in range(count):
            reach = 1 + np.int64(_draw(state) % np.uint64(window))
            n_rows = 0
            if text_base >= 0:
                rows[0] = np.int32(text_base + text - first)
                n_rows = 1
            for near in range(max(np.int64(0), place - reach), min(count, place + reach + 1)):
                if near != place:
                    for piece in range(starts[kept[near]], starts[kept[near] + 1]):
                        rows[n_rows] = pieces[piece]
                        n_rows += 1
            if n_rows > 0:
                negative_step(
                    inputs, outputs, rows, n_rows, kept[place], negatives, share, other,
                    now, state, hidden, change, learn_from, learn_outputs,
                )  # fmt: skip


@compile_kernel(types.void, *_WALK, fastmath=_FAST)
def dbow_texts(
    ids: np.ndarray,
    offsets: np.ndarray,
    first: int,
    last: int,
    inputs: np.ndarray,
    outputs: np.ndarray,
    pieces: np.ndarray,
    starts: np.ndarray,
    text_base: int,
    keep: np.ndarray,
    window: int,
    negatives: int,
    share: np.ndarray,
    other: np.ndarray,
    rate: float,
    rate_end: float,
    state: np.ndarray,
    learn_from: int,
    learn_outputs: bool,
) -> None:
    """Let each text's row predict the text's words (PV-DBOW)."""
    hidden, change = np.empty(inputs.shape[1], np.float32), np.empty(inputs.shape[1], np.float32)
    rows = np.empty(1, np.int32)
    total = max(1, offsets[last] - offsets[first])
    for text in range(first, last):
        done = np.float32((offsets[text] - offsets[first]) / total)
        now = rate + (rate_end - rate) * done
        rows[0] = np.int32(text_base + text - first)
        for place in range(offsets[text], offsets[text + 1]):
            word = ids[place]
            if keep[word] >= 1 or _unit(_draw(state)) < keep[word]:
                negative_step(
                    inputs, outputs, rows, 1, word, negatives, share, other,
                    now, state, hidden, change, learn_from, learn_outputs,
                )  # fmt: skip
