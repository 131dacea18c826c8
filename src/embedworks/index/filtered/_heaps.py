"""Heaps of rows by score, as two arrays: of the best found so far, and of those waiting."""

from __future__ import annotations

from typing import Any

from numba import njit

__all__ = ["_offer", "_pop", "_push", "_worse"]


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
def _pop(scores: Any, rows: Any, count: Any) -> None:
    """Take the top off a heap whose top is the best; ``count`` entries remain."""
    score, row = scores[count], rows[count]
    place = 0
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
