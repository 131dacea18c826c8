"""Rows by score, as two arrays: the best found so far, as heap or list, and those waiting."""

from __future__ import annotations

from typing import Any

from numba import njit

__all__ = ["_enter", "_heapify", "_offer", "_pop", "_push", "_worse"]


@njit(inline="always")
def _worse(score: Any, row: Any, other_score: Any, other_row: Any) -> Any:
    return score < other_score or (score == other_score and row > other_row)


@njit
def _sift_down(scores: Any, rows: Any, count: Any) -> None:
    """Restore a heap whose top is the worst, after its top was replaced."""
    place = 0
    score, row = scores[0], rows[0]
    while True:
        child = 2 * place + 1
        if child >= count:
            break
        if child + 1 < count and _worse(
            scores[child + 1], rows[child + 1], scores[child], rows[child]
        ):
            child += 1
        if not _worse(scores[child], rows[child], score, row):
            break
        scores[place], rows[place] = scores[child], rows[child]
        place = child
    scores[place], rows[place] = score, row


@njit
def _offer(scores: Any, rows: Any, count: Any, score: Any, row: Any) -> Any:
    """Offer a row to a heap of the best; returns how many it holds."""
    if count < len(scores):
        place = count
        while place > 0:
            parent = (place - 1) // 2
            if not _worse(score, row, scores[parent], rows[parent]):
                break
            scores[place], rows[place] = scores[parent], rows[parent]
            place = parent
        scores[place], rows[place] = score, row
        return count + 1
    if _worse(scores[0], rows[0], score, row):
        scores[0], rows[0] = score, row
        _sift_down(scores, rows, count)
    return count


@njit
def _enter(scores: Any, rows: Any, count: Any, score: Any, row: Any) -> Any:
    """Offer a row to a list of the best, best first; returns how many it holds.

    For a few dozen: moving them is then faster than a heap, and the k-th best is at hand.
    """
    place = count
    if count == len(scores):
        place -= 1
        if not _worse(scores[place], rows[place], score, row):
            return count
    while place > 0 and _worse(scores[place - 1], rows[place - 1], score, row):
        scores[place], rows[place] = scores[place - 1], rows[place - 1]
        place -= 1
    scores[place], rows[place] = score, row
    return min(count + 1, len(scores))


@njit
def _push(scores: Any, rows: Any, count: Any, score: Any, row: Any) -> None:
    """Add to a heap whose top is the best; there is room."""
    place = count
    while place > 0:
        parent = (place - 1) // 2
        if score <= scores[parent]:
            break
        scores[place], rows[place] = scores[parent], rows[parent]
        place = parent
    scores[place], rows[place] = score, row


@njit
def _sink(scores: Any, rows: Any, place: Any, score: Any, row: Any, count: Any) -> None:
    """Put an entry at ``place`` or below, in a heap of ``count`` whose top is the best."""
    while True:
        child = 2 * place + 1
        if child >= count:
            break
        if child + 1 < count and scores[child + 1] > scores[child]:
            child += 1
        if scores[child] <= score:
            break
        scores[place], rows[place] = scores[child], rows[child]
        place = child
    scores[place], rows[place] = score, row


@njit
def _pop(scores: Any, rows: Any, count: Any) -> None:
    """Take the top off a heap whose top is the best; ``count`` entries remain."""
    _sink(scores, rows, 0, scores[count], rows[count], count)


@njit
def _heapify(scores: Any, rows: Any) -> None:
    """Make a heap whose top is the best of entries in any order: faster than pushing each."""
    for place in range(len(scores) // 2 - 1, -1, -1):
        _sink(scores, rows, place, scores[place], rows[place], len(scores))
