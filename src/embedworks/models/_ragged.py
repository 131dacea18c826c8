"""From texts to ragged token ids: the plain way, and the choice of the fast one.

Token ids of N texts are kept flat: ``ids`` int32 (T,) and ``offsets`` int64 (N + 1,), the tokens
of text i being ``ids[offsets[i]:offsets[i + 1]]``. Both ways give the same ids and the same sums
to the last bit, so which one runs is only a matter of speed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from embedworks.errors import DataWarning

if TYPE_CHECKING:
    from embedworks.models._fast_encode import FastTokenizer

__all__ = ["RaggedTokenizer", "clean_unicode", "sum_rows", "text_batches"]

# Rows gathered at once, which bounds memory for long texts.
_GATHERED_ROWS = 4_096

# Importing numba and loading the compiled kernels costs about a second. A process pays for it
# once it has encoded this many characters the plain way, when the time will be won back.
CHARS_BEFORE_FAST = 1_000_000

# Below so many characters, or tokens, a call is over before threads are started.
CHARS_WORTH_THREADS = 4_096
TOKENS_WORTH_THREADS = 1_024

_BATCH_CHARS = 4_000_000
_BATCH_TEXTS = 16_384
_FAST_MODULE = "embedworks.models._fast_encode"

_plain_chars_seen = 0


def text_batches(texts: Sequence[str], batch_size: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield (start, end) ranges of texts that are encoded together, bounded in memory.

    Example:
        >>> list(text_batches(["a", "b", "c"], batch_size=2))
        [(0, 2), (2, 3)]
    """
    limit = batch_size or _BATCH_TEXTS
    start, chars = 0, 0
    for position, text in enumerate(texts):
        if position > start and (position - start >= limit or chars + len(text) > _BATCH_CHARS):
            yield start, position
            start, chars = position, 0
        chars += len(text)
    if start < len(texts):
        yield start, len(texts)


def clean_unicode(texts: list[str]) -> list[str]:
    """Replace lone surrogates, which no tokenizer accepts, by U+FFFD, and count them aloud.

    Example:
        >>> clean_unicode(["plain"])
        ['plain']
    """
    cleaned = texts
    bad: list[int] = []
    for position, text in enumerate(texts):
        if text.isascii():
            continue
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            if not bad:
                cleaned = list(texts)
            repaired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
            cleaned[position] = repaired
            bad.append(position)
    if bad:
        warnings.warn(
            f"{len(bad)} of {len(texts)} texts hold characters that are not valid Unicode (lone "
            f"surrogates); they were replaced by U+FFFD. The first is text {bad[0]}.",
            DataWarning,
            stacklevel=4,
        )
    return cleaned


class RaggedTokenizer:
    """A tokenizer that returns flat ids, quickly when its kind allows.

    Args:
        tokenizer: Any `tokenizers.Tokenizer`; its padding and truncation are switched off, and it
            must not be changed afterwards.
        max_tokens: Keep only the first ``max_tokens`` tokens of each text, or None to keep all.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.max_tokens = max_tokens
        self._fast: FastTokenizer | None = None
        self._fast_tried = False

    def fast(self, chars: int) -> FastTokenizer | None:
        """Return the compiled tokenizer when it exists for this kind and pays for ``chars``."""
        global _plain_chars_seen
        if _FAST_MODULE in sys.modules:
            if chars < CHARS_WORTH_THREADS:
                return None
        else:
            _plain_chars_seen += chars
            if _plain_chars_seen < CHARS_BEFORE_FAST:
                return None
        if not self._fast_tried:
            from embedworks.models._fast_encode import FastTokenizer

            self._fast = FastTokenizer.build(self.tokenizer)
            self._fast_tried = True
        return self._fast

    def sums(self, table: np.ndarray, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Add up table rows (see `sum_rows`), compiled once that is loaded and pays."""
        if len(ids) < TOKENS_WORTH_THREADS or _FAST_MODULE not in sys.modules:
            return sum_rows(table, ids, offsets)
        from embedworks.models._fast_encode import sum_rows_fast

        return sum_rows_fast(table, ids, offsets)

    def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, int]:
        """Return ids int32 (T,), offsets int64 (N + 1,) and how many texts were cut short."""
        fast = self.fast(sum(map(len, texts)))
        ragged = None if fast is None else fast(texts)
        return self._cut(*(ragged or self.plain(texts)))

    def plain(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokenize with the library itself, without special tokens."""
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        lists = [encoding.ids for encoding in encodings]
        offsets = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(ids) for ids in lists], out=offsets[1:])
        flat = np.fromiter((i for ids in lists for i in ids), dtype=np.int32, count=offsets[-1])
        return flat, offsets

    def _cut(self, ids: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        if self.max_tokens is None:
            return ids, offsets, 0
        counts = np.diff(offsets)
        too_long = int((counts > self.max_tokens).sum())
        if too_long == 0:
            return ids, offsets, 0
        position = np.arange(len(ids)) - np.repeat(offsets[:-1], counts)
        shorter = np.zeros_like(offsets)
        np.cumsum(np.minimum(counts, self.max_tokens), out=shorter[1:])
        return ids[position < self.max_tokens], shorter, too_long


def sum_rows(table: np.ndarray, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Add up the table rows of each text: (V, D), (T,), (N + 1,) -> float32 (N, D).

    Rows are added in order and in float64, so that a text of millions of tokens loses nothing.

    Example:
        >>> sum_rows(np.eye(2, dtype=np.float32), np.array([0, 1, 1]), np.array([0, 1, 1, 3]))
        array([[1., 0.],
               [0., 0.],
               [0., 2.]], dtype=float32)
    """
    sums = np.zeros((len(offsets) - 1, table.shape[1]), dtype=np.float32)
    for text, (begin, end) in enumerate(pairwise(offsets.tolist())):
        total = np.zeros(table.shape[1], dtype=np.float64)
        for low in range(begin, end, _GATHERED_ROWS):
            rows = table[ids[low : min(low + _GATHERED_ROWS, end)]].astype(np.float64)
            rows[0] += total
            np.add.reduce(rows, axis=0, out=total)
        sums[text] = total
    return sums
