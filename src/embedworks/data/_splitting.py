"""Cut a text that is over the token limit: paragraphs, sentences or lines, words, characters."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from embedworks.data._sentences import sentences

__all__ = ["Counter", "split_text"]

Span = tuple[int, int]

#: A text of more characters per allowed token than this is over the limit without counting.
#: It keeps counting linear and stops an endless "word" from passing as one unknown token.
MAX_CHARS_PER_TOKEN = 16

_PARAGRAPH = re.compile(r"\S[^\n]*(?:\n(?![ \t\f\v\r]*(?:\n|\Z))[^\n]*)*")
_LINE = re.compile(r"\S[^\n]*")
_WORDS = re.compile(r"\S+(?:\s+\S+){0,31}")
_WORD = re.compile(r"\S+")


class Counter:
    """Counts tokens in batches, without ever counting a text that is too long anyway.

    Args:
        count_tokens: ``(texts) -> counts``.
        max_tokens: The limit.
    """

    def __init__(
        self, count_tokens: Callable[[Sequence[str]], Sequence[int]], max_tokens: int
    ) -> None:
        self._count = count_tokens
        self._max_chars = MAX_CHARS_PER_TOKEN * max_tokens

    def __call__(self, texts: Sequence[str]) -> list[int]:
        """Return token counts; for a text that is far too long, a number over the limit."""
        short = [t for t in texts if len(t) <= self._max_chars]
        counted = iter(self._count(short) if short else ())
        return [
            int(next(counted)) if len(t) <= self._max_chars else max(len(t) // 2, 1) for t in texts
        ]


def split_text(text: str, limit: int, count: Counter, *, code: bool) -> list[Span]:
    """Cut ``text`` into spans of at most ``limit`` tokens each, as equal as boundaries allow.

    The counts of joined pieces are taken to add up; a tokenizer may differ by some tokens at
    the seams, so the caller counts the spans again. Only white space between spans is left out.
    A cut is made at the coarsest boundary that helps: blank lines, then sentences (lines in
    code), then lines, words, characters.

    Args:
        text: The text.
        limit: Most tokens in a span.
        count: Token counter.
        code: Whether the text is code, where lines are kept whole in place of sentences.
    """
    return _pack(_units(text, limit, count, code), limit)


def _units(text: str, limit: int, count: Counter, code: bool) -> list[tuple[int, int, int]]:
    """Return ``(start, end, tokens)`` of the pieces that fit, cut no finer than needed."""
    steps = [_paragraphs, _lines, _word_groups, _words] if code else [
        _paragraphs, _sentences, _lines, _word_groups, _words
    ]  # fmt: skip
    done: list[tuple[int, int, int]] = []
    open_spans: list[Span] = [(0, len(text))]
    while open_spans:
        if steps:
            step = steps.pop(0)
            spans = [s for start, end in open_spans for s in step(text, start, end)]
        else:
            spans = [s for span in open_spans for s in _halves(span, limit)]
        counts = count([text[a:b] for a, b in spans])
        open_spans = []
        for (a, b), n in zip(spans, counts, strict=True):
            if n <= limit or b - a == 1:
                done.append((a, b, n))
            else:
                open_spans.append((a, b))
    done.sort()
    return done


def _paragraphs(text: str, start: int, end: int) -> list[Span]:
    return [m.span() for m in _PARAGRAPH.finditer(text, start, end)]


def _lines(text: str, start: int, end: int) -> list[Span]:
    return [m.span() for m in _LINE.finditer(text, start, end)]


def _sentences(text: str, start: int, end: int) -> list[Span]:
    return [(start + a, start + b) for a, b in sentences(text[start:end])]


def _word_groups(text: str, start: int, end: int) -> list[Span]:
    return [m.span() for m in _WORDS.finditer(text, start, end)]


def _words(text: str, start: int, end: int) -> list[Span]:
    return [m.span() for m in _WORD.finditer(text, start, end)]


def _halves(span: Span, limit: int) -> list[Span]:
    start, end = span
    width = min(max(1, (end - start) // 2), 2 * limit)
    return [(a, min(a + width, end)) for a in range(start, end, width)]


def _pack(units: list[tuple[int, int, int]], limit: int) -> list[Span]:
    """Join neighbouring units into spans of about equal size, taking counts as additive."""
    spans: list[Span] = []
    total = sum(n for _, _, n in units)
    target = total / max(1, -(-total // limit))
    first = filled = before = 0
    for index, (_, _, n) in enumerate(units):
        over = filled + n > limit
        enough = filled and before + filled + n / 2 > target * (len(spans) + 1)
        if index > first and (over or enough):
            spans.append((units[first][0], units[index - 1][1]))
            before += filled
            first, filled = index, 0
        filled += n
    if first < len(units):
        spans.append((units[first][0], units[-1][1]))
    return spans
