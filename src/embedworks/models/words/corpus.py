"""Texts as word numbers: one pass over any iterable, and the tokenizer that reads the same words.

A word is a run of letters, their marks, digits and underscores, lower-cased. Everything that is
trained on words here counts with `WordCorpus` and is read back through `word_tokenizer`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from unicodedata import category

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from embedworks._core.progress import track
from embedworks._core.validation import check_in_range
from embedworks.errors import EmptyInputError, InputError

__all__ = ["UNKNOWN", "WordCorpus", "split_words", "word_tokenizer"]

#: Stands for every word that is not in a vocabulary; its vector is zero.
UNKNOWN = "[UNK]"

_find_ascii = re.compile(r"\w+").findall


@cache
def _find_any() -> Callable[[str], list[str]]:
    """Return a finder that takes combining marks as letters, as the tokenizer does."""
    marks = "".join(
        char for char in map(chr, range(sys.maxunicode + 1)) if category(char).startswith("M")
    )
    return re.compile(f"[\\w{marks}]+").findall


def split_words(text: str) -> list[str]:
    """Return the words of a text, lower-cased.

    Example:
        >>> split_words("The cat's  mat, 2024.")
        ['the', 'cat', 's', 'mat', '2024']
    """
    if text.isascii():
        return _find_ascii(text.lower())
    # A sigma at the end of a word is written like any other, as the tokenizer does.
    return _find_any()(text.replace("\u03a3", "\u03c3").lower())


def word_tokenizer(words: Sequence[str]) -> Tokenizer:
    """Return a tokenizer that splits as `split_words` and gives ``words[i]`` the id ``i + 1``.

    Id 0 is `UNKNOWN`.
    """
    ids = {UNKNOWN: 0} | {word: place for place, word in enumerate(words, start=1)}
    tokenizer = Tokenizer(models.WordLevel(ids, UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"[\p{L}\p{N}\p{M}_]+"), "removed", invert=True
    )
    return tokenizer


class WordCorpus:
    """The kept words of some texts as numbers, in order, with their counts.

    ``words`` are sorted by falling count and then by spelling, so the numbers do not depend on the
    order of the texts. ``ids[offsets[i]:offsets[i + 1]]`` are the kept words of text i; rare words
    are left out before anything looks at distances, as word2vec does.

    Args:
        texts: Any iterable of strings; it is read once, so a generator over files will do. Four
            bytes are held per word read.
        min_count: Leave out words that occur less often.
        max_words: Keep at most so many of the most frequent words; None keeps all.
        show_progress: True or False to force a bar; by default there is one on a terminal.

    Raises:
        InputError: When an item is not a string, or one string is given in place of several.
        EmptyInputError: When there is no word, or none is frequent enough.

    Example:
        >>> corpus = WordCorpus(["a rose is a rose", "a daisy"], min_count=2)
        >>> corpus.words, corpus.counts.tolist(), corpus.ids.tolist(), corpus.offsets.tolist()
        (['a', 'rose'], [3, 2], [0, 1, 0, 1, 0], [0, 4, 5])
    """

    def __init__(
        self,
        texts: Iterable[str],
        *,
        min_count: int = 5,
        max_words: int | None = None,
        show_progress: bool | None = None,
    ) -> None:
        check_in_range(min_count, name="min_count", low=1)
        if max_words is not None:
            check_in_range(max_words, name="max_words", low=1)
        if isinstance(texts, (str, bytes)):
            raise InputError(f"texts must be several strings, got one {type(texts).__name__}.")
        seen: dict[str, int] = {}
        parts, ends = [np.zeros(0, dtype=np.int32)], [0]
        for place, text in enumerate(track(texts, "Counting", enabled=show_progress)):
            if not isinstance(text, str):
                raise InputError(
                    f"texts[{place}] must be a string, got {type(text).__name__}: {text!r:.60}."
                )
            found = [seen.setdefault(word, len(seen)) for word in split_words(text)]
            parts.append(np.array(found, dtype=np.int32))
            ends.append(ends[-1] + len(found))
        raw = np.concatenate(parts)
        if not len(raw):
            raise EmptyInputError(f"No word was found in {len(ends) - 1} texts.")
        counts = np.bincount(raw, minlength=len(seen))
        spelt = list(seen)
        kept = sorted(np.flatnonzero(counts >= min_count), key=lambda i: (-counts[i], spelt[i]))
        if not kept:
            commonest = spelt[int(counts.argmax())]
            raise EmptyInputError(
                f"None of {len(seen)} different words occurs {min_count} times; the most frequent, "
                f"{commonest!r}, occurs {counts.max()} times. Give more text or a smaller "
                "min_count."
            )
        order = np.array(kept[:max_words], dtype=np.int64)
        numbers = np.full(len(seen), -1, dtype=np.int32)
        numbers[order] = np.arange(len(order), dtype=np.int32)
        ids = numbers[raw]
        inside = ids >= 0
        before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(inside)])
        self.words = [spelt[i] for i in order]
        self.counts = counts[order].astype(np.int64)
        self.ids = ids[inside]
        self.offsets = before[np.array(ends)]

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"WordCorpus({len(self)} texts, {len(self.ids)} words, {len(self.words)} different)"

    def require_pairs(self) -> None:
        """Raise `EmptyInputError` unless some text has two kept words: vectors need company."""
        if len(self.words) < 2 or not (np.diff(self.offsets) > 1).any():
            raise EmptyInputError(
                f"{self!r} has no two words side by side to learn from: give longer texts or a "
                "smaller min_count."
            )
