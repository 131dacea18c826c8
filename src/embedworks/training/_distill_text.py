"""Small text functions of the distillation corpus: sentences, passages, cutting, sampling.

Knows strings only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

__all__ = ["clip", "passages", "sample", "sentences", "squeeze"]

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[A-Z0-9\"'(])")
_SPACE = re.compile(r"\s+")


def squeeze(text: str) -> str:
    """Replace every run of white space by one space.

    Example:
        >>> squeeze(" a   b ")
        'a b'
    """
    return _SPACE.sub(" ", text).strip()


def sentences(text: str) -> list[str]:
    """Split prose into sentences of at least 20 characters.

    Example:
        >>> sentences("Short. This is the first sentence. And this is another one.")
        ['This is the first sentence.', 'And this is another one.']
    """
    return [part for part in _SENTENCE_END.split(squeeze(text)) if len(part) >= 20]


def clip(text: str, *, max_words: int = 85, max_chars: int = 560) -> str:
    """Return the beginning of a text, cut at a word.

    The limits keep a text inside the teacher's window, so that teacher and student read the same
    words.

    Example:
        >>> clip("one two three", max_words=2)
        'one two'
    """
    words = text.split()
    kept = " ".join(words[:max_words])
    if len(kept) <= max_chars:
        return kept
    head = kept[: max_chars + 1].rsplit(" ", 1)[0]
    return head[:max_chars]


def passages(text: str, *, words: int = 85) -> list[str]:
    """Group neighbouring sentences into passages of about ``words`` words."""
    found: list[str] = []
    current: list[str] = []
    for sentence in sentences(text):
        if current and sum(len(s.split()) for s in current) + len(sentence.split()) > words:
            found.append(" ".join(current))
            current = []
        current.append(sentence)
    if current:
        found.append(" ".join(current))
    return [p for p in found if len(p) >= 60]


def sample(items: Sequence[str], take: int, *, seed: int) -> list[str]:
    """Choose ``take`` distinct items by hash, so that a larger ``take`` contains a smaller one.

    Example:
        >>> set(sample(["a", "b", "c"], 1, seed=0)) <= set(sample(["a", "b", "c"], 2, seed=0))
        True
    """
    unique = list(dict.fromkeys(items))
    if len(unique) <= take:
        return unique
    salt = seed.to_bytes(8, "little")
    keys = [
        hashlib.blake2b(item.encode("utf-8", "replace"), digest_size=8, salt=salt).digest()
        for item in unique
    ]
    chosen = sorted(range(len(unique)), key=keys.__getitem__)[:take]
    return [unique[i] for i in sorted(chosen)]
