"""Texts as normalised words and as hashes of the word sequences inside them, vectorised."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from embedworks.data.rows import RowInput

__all__ = ["WordTable", "mix", "normal_words", "text_of", "window_hashes"]

#: Scripts that put no spaces between words: every character counts as a word.
_UNSPACED = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2FFFF),
)  # fmt: skip


class _CharacterTable(dict[int, str]):
    """What a character becomes: itself, a space, or a word of its own; filled as it is used."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)[0]
        if kind in "PZC":
            result = " "
        elif kind == "S" or any(low <= code <= high for low, high in _UNSPACED):
            result = f" {character} "
        else:
            result = character
        self[code] = result
        return result


_CHARACTERS = _CharacterTable()


def normal_words(text: str) -> list[str]:
    r"""Return the words of a text without case, punctuation and kind of white space.

    Symbols such as ``+`` are words, and so is every character of scripts without spaces. A text
    of punctuation alone is one word.

    Example:
        >>> normal_words("Hello,\tWORLD: 1+1!")
        ['hello', 'world', '1', '+', '1']
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    folded = text.casefold()
    return folded.translate(_CHARACTERS).split() or folded.split()


def text_of(value: RowInput) -> str | None:
    """Return a text, or the text of a dict input; None where it has none."""
    text = value if isinstance(value, str) else value.get("text")
    return text if isinstance(text, str) and text.strip() else None


def mix(values: np.ndarray) -> np.ndarray:
    """Scramble uint64 values one to one, so that all bits look random (splitmix64)."""
    x = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)), dtype=np.uint64)


@dataclass(frozen=True, eq=False)
class WordTable:
    """The words of N texts, one after the other, as numbers.

    Attributes:
        words: int64 (W,), the number of every word; 0 for one outside the vocabulary.
        start: int64 (N + 1,), where each text begins.
    """

    words: np.ndarray
    start: np.ndarray

    @classmethod
    def of(
        cls, texts: Iterable[Sequence[str]], vocabulary: dict[str, int], *, grow: bool
    ) -> WordTable:
        """Number the words of texts; new words join the vocabulary from 1 when ``grow``."""
        numbers: list[int] = []
        start = [0]
        for words in texts:
            if grow:
                numbers.extend(vocabulary.setdefault(w, len(vocabulary) + 1) for w in words)
            else:
                numbers.extend(vocabulary.get(w, 0) for w in words)
            start.append(len(numbers))
        return cls(np.array(numbers, dtype=np.int64), np.array(start, dtype=np.int64))

    @property
    def lengths(self) -> np.ndarray:
        """Number of words of each text, (N,)."""
        return np.diff(self.start)

    def windows(self, length: int) -> np.ndarray:
        """Return the positions where a window of ``length`` words fits inside one text."""
        text = np.repeat(np.arange(len(self.start) - 1), self.lengths)
        position = np.arange(len(self.words))
        return np.flatnonzero(position + length <= self.start[text + 1])

    def owners(self, positions: np.ndarray) -> np.ndarray:
        """Return which text each position is in."""
        return np.searchsorted(self.start, positions, side="right") - 1


def window_hashes(table: WordTable, length: int, positions: np.ndarray) -> np.ndarray:
    """Return a 64-bit hash of the ``length`` words from each position on, shape of positions."""
    numbers = mix(table.words)
    hashes = np.zeros(len(positions), dtype=np.uint64)
    for offset in range(length):
        hashes = hashes * np.uint64(0x9FB21C651E98DF25) + numbers[positions + offset]
    return mix(hashes)
