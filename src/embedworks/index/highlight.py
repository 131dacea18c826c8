"""Find the passage of a text that answers a query best, and the words that match."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection as CollectionOf
from dataclasses import dataclass

from embedworks.index.analysis import Analyzer

__all__ = ["Passage", "best_passage"]

_BOUNDARY = re.compile(r"\n+|(?<=[.!?;:])\s+")


@dataclass(frozen=True)
class Passage:
    """A part of a text.

    Attributes:
        text: The passage itself.
        start: Where it begins in the whole text.
        spans: ``(start, end)`` of each matching word, relative to ``text``.
    """

    text: str
    start: int
    spans: tuple[tuple[int, int], ...]


def best_passage(
    text: str,
    terms: CollectionOf[str],
    *,
    analyzer: Analyzer,
    max_length: int = 300,
) -> Passage:
    """Return the window with the most different query terms, on sentence or line boundaries.

    Args:
        text: The whole text.
        terms: Query terms, made by the same analyzer.
        analyzer: Turns words of the text into terms.
        max_length: Longest passage in characters; a longer sentence is cut between words.

    Returns:
        The passage; the beginning of the text when no term occurs.

    Example:
        >>> analyzer = Analyzer()
        >>> found = best_passage("It rains. Files can be opened here.", ["open", "file"],
        ...                      analyzer=analyzer, max_length=30)
        >>> found.text, found.spans
        ('Files can be opened here.', ((0, 5), (13, 19)))
    """
    wanted = set(terms)
    matches = [
        (start, end, wanted.intersection(found))
        for start, end, found in analyzer.spans(text)
        if not wanted.isdisjoint(found)
    ]
    start, end = _best_window(text, _pieces(text, max_length), matches, max_length)
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    spans = tuple((s - start, e - start) for s, e, _ in matches if s >= start and e <= end)
    return Passage(text[start:end], start, spans)


def _pieces(text: str, max_length: int) -> list[tuple[int, int]]:
    """Split into sentences or lines; one longer than ``max_length`` is cut between words."""
    edges = [0, *(match.end() for match in _BOUNDARY.finditer(text)), len(text)]
    pieces: list[tuple[int, int]] = []
    for start, end in itertools.pairwise(edges):
        seen = _seen_end(text, start, end)
        while seen - start > max_length:
            space = text.rfind(" ", start + max_length // 2, start + max_length)
            cut = space + 1 if space >= 0 else start + max_length
            pieces.append((start, cut))
            start = cut
        if end > start:
            pieces.append((start, end))
    return pieces


def _seen_end(text: str, start: int, end: int) -> int:
    """Return where a piece ends without the white space after it."""
    while end > start and text[end - 1].isspace():
        end -= 1
    return end


def _best_window(
    text: str,
    pieces: list[tuple[int, int]],
    matches: list[tuple[int, int, set[str]]],
    max_length: int,
) -> tuple[int, int]:
    """Return the run of whole pieces with most distinct terms, then most matches, then first.

    Slides over the pieces once: linear in the length of the text.
    """
    counts: Counter[str] = Counter()
    best, best_score = (0, 0), (-1, -1)
    last, entering, leaving = 0, 0, 0
    seen = [_seen_end(text, start, end) for start, end in pieces]
    for start, _ in pieces:
        while last < len(pieces) and seen[last] - start <= max_length:
            last += 1
        end = pieces[last - 1][1]
        while entering < len(matches) and matches[entering][1] <= end:
            counts.update(matches[entering][2])
            entering += 1
        while leaving < entering and matches[leaving][0] < start:
            counts.subtract(matches[leaving][2])
            leaving += 1
        score = (sum(1 for count in counts.values() if count > 0), entering - leaving)
        if score > best_score:
            best, best_score = (start, end), score
    return best
