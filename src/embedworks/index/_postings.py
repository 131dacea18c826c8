"""The arrays of a BM25 index: counted terms, their postings in both orders, a sorted vocabulary.

Everything is a pure function of the texts: an index made from an older one and the texts that
changed has the same arrays as one made from all texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from embedworks.index.analysis import FUNCTION_MARK, Analyzer

__all__ = ["ARRAYS", "Vocabulary", "count_terms", "postings", "reuse_counts"]

#: The arrays and their types, for M rows, V terms, P postings and B bytes of terms.
ARRAYS = {
    "term_text": np.uint8,  # (B,) UTF-8 of all terms one after the other, in ascending order
    "term_ends": np.int64,  # (V,) where each term ends in it
    "term_start": np.int64,  # (V + 1,) where each term's postings begin
    "rows": np.int32,  # (P,) row of each posting, ascending within a term
    "impacts": np.float32,  # (P,) finished BM25 score of each posting
    "idf": np.float32,  # (V,)
    "row_start": np.int64,  # (M + 1,) where each row's terms begin
    "row_terms": np.int32,  # (P,) term of each entry, ascending within a row
    "row_counts": np.int32,  # (P,) how often the row has it
    "row_norms": np.float64,  # (M,) k1 * (1 - b + b * length / mean length)
}

#: Counted terms: the words, and row, number of the word and count of each pair.
Counts = tuple[list[str], np.ndarray, np.ndarray, np.ndarray]


class Vocabulary(Mapping[str, int]):
    """Terms and their numbers, looked up by bisection in (mapped) arrays.

    Args:
        text: uint8 (B,), UTF-8 of the terms in ascending order.
        ends: int64 (V,), where each ends.

    Example:
        >>> words = Vocabulary.of(["file", "open"])
        >>> words["open"], words.get("shut"), list(words)
        (1, None, ['file', 'open'])
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray) -> None:
        self._text, self._ends = text, ends

    @classmethod
    def of(cls, terms: Sequence[str]) -> Vocabulary:
        """Make a vocabulary of sorted terms."""
        parts = [term.encode("utf-8", "surrogatepass") for term in terms]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return cls(np.frombuffer(b"".join(parts), dtype=np.uint8), ends)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The two arrays it consists of."""
        return {"term_text": self._text, "term_ends": self._ends}

    def __getitem__(self, term: str) -> int:
        wanted = term.encode("utf-8", "surrogatepass")
        low, high = 0, len(self._ends)
        while low < high:
            middle = (low + high) // 2
            if self._bytes(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        if low < len(self._ends) and self._bytes(low) == wanted:
            return low
        raise KeyError(term)

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[str]:
        text, start = self._text.tobytes(), 0
        for end in self._ends.tolist():
            yield text[start:end].decode("utf-8", "surrogatepass")
            start = end

    def is_content(self) -> np.ndarray:
        """Return which terms are no function words, (V,)."""
        starts = np.concatenate([[0], self._ends[:-1]]) if len(self) else np.empty(0, np.int64)
        return np.asarray(self._text[starts] != ord(FUNCTION_MARK), dtype=bool)

    def _bytes(self, number: int) -> bytes:
        start = int(self._ends[number - 1]) if number else 0
        return self._text[start : int(self._ends[number])].tobytes()


def count_terms(
    texts: Sequence[str], titles: Sequence[str] | None, rows: np.ndarray, analyzer: Analyzer
) -> Counts:
    """Count the terms of some rows' texts and titles."""
    numbers: dict[str, int] = {}
    found: list[int] = []
    sizes = np.zeros(len(rows), dtype=np.int64)
    number = numbers.setdefault
    for place, row in enumerate(rows.tolist()):
        before = len(found)
        if titles is not None:
            found.extend([number(t, len(numbers)) for t in analyzer.all_terms(titles[row])])
        found.extend([number(t, len(numbers)) for t in analyzer.all_terms(texts[row])])
        sizes[place] = len(found) - before
    size = max(1, len(numbers))
    keys, counts = np.unique(
        np.repeat(rows, sizes) * size + np.array(found, dtype=np.int64), return_counts=True
    )
    row, term = np.divmod(keys, size)
    return list(numbers), row, term, counts


def reuse_counts(
    vocabulary: Mapping[str, int], arrays: Mapping[str, np.ndarray], old: np.ndarray
) -> Counts:
    """Take the counts of rows from an index: ``old`` (M,) has their rows there, -1 for none."""
    rows = np.flatnonzero(old >= 0)
    starts = arrays["row_start"][old[rows]]
    sizes = arrays["row_start"][old[rows] + 1] - starts
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    places = np.arange(total) + np.repeat(starts - (ends - sizes), sizes)
    terms = arrays["row_terms"][places].astype(np.int64)
    used = np.zeros(len(vocabulary), dtype=bool)
    used[terms] = True
    words = [word for word, is_used in zip(vocabulary, used.tolist(), strict=True) if is_used]
    numbers = np.cumsum(used) - 1
    return words, np.repeat(rows, sizes), numbers[terms], arrays["row_counts"][places]


def postings(parts: Sequence[Counts], total: int, *, k1: float, b: float) -> dict[str, np.ndarray]:
    """Build all arrays of an index over ``total`` rows from the counts of disjoint rows."""
    words = sorted({word for part in parts for word in part[0]})
    place = {word: number for number, word in enumerate(words)}
    row = np.concatenate([part[1] for part in parts])
    counts = np.concatenate([part[3] for part in parts])
    term = np.concatenate(
        [np.array([place[word] for word in part[0]], dtype=np.int64)[part[2]] for part in parts]
    )
    order = np.argsort(row * max(1, len(words)) + term, kind="stable")
    row, term, counts = row[order], term[order], counts[order]
    vocabulary = Vocabulary.of(words)
    content = vocabulary.is_content()
    lengths = np.bincount(row, weights=content[term] * counts, minlength=total)
    frequencies = np.bincount(term, minlength=len(words))
    idf = np.log1p((total - frequencies + 0.5) / (frequencies + 0.5))
    mean = max(1.0, float(lengths.mean())) if total else 1.0
    norms = k1 * (1.0 - b + b * lengths / mean)
    impacts = idf[term] * counts * (k1 + 1.0) / (counts + norms[row])
    by_term = np.argsort(term, kind="stable")
    found = {
        **vocabulary.arrays,
        "term_start": _starts(term, len(words)),
        "rows": row[by_term],
        "impacts": impacts[by_term],
        "idf": idf,
        "row_start": _starts(row, total),
        "row_terms": term,
        "row_counts": counts,
        "row_norms": norms,
    }
    return {name: np.ascontiguousarray(found[name], dtype=kind) for name, kind in ARRAYS.items()}


def _starts(keys: np.ndarray, count: int) -> np.ndarray:
    """Return where each key's run begins in the sorted list of keys, (count + 1,)."""
    return np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=count))])
