"""BM25 over an own inverted index: shared filter masks, feedback, memory-mapped files.

Built on numpy alone. Postings are stored by term (for search) and by row (for relevance
feedback), both as compressed sparse rows; each posting carries its finished score, so a query
only adds up slices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.files import atomic_directory, read_json, sha256_of_file, write_json
from embedworks._core.validation import check_in_range, check_k, check_texts
from embedworks.errors import FormatError, InputError, NotFoundError, ShapeError
from embedworks.index._postings import ARRAYS, Vocabulary, count_terms, postings, reuse_counts
from embedworks.index.analysis import Analyzer

__all__ = ["BM25Index"]

FORMAT_VERSION = 2


@dataclass(frozen=True, eq=False)
class BM25Index:
    """An inverted index over M texts.

    Scores are ``sum over query terms of count * idf * tf * (k1 + 1) / (tf + k1 * (1 - b +
    b * length / mean length))`` with ``idf = ln(1 + (M - df + 0.5) / (df + 0.5))``, so a score
    is never negative. See also `bm25s` for a library with more variants; this one shares its
    filter masks and row numbers with the dense search beside it.

    Example:
        >>> index = BM25Index.build(["open a file", "close the socket", "file modes"])
        >>> ids, scores = index.search(["files"], k=5)[0]
        >>> ids
        array([0, 2])
    """

    analyzer: Analyzer
    k1: float
    b: float
    arrays: Mapping[str, np.ndarray]

    @classmethod
    def build(
        cls,
        texts: Sequence[str],
        *,
        titles: Sequence[str] | None = None,
        analyzer: Analyzer | None = None,
        k1: float = 1.2,
        b: float = 0.75,
        previous: tuple[BM25Index, np.ndarray] | None = None,
    ) -> BM25Index:
        """Index texts.

        Args:
            texts: M texts; an empty one matches nothing.
            titles: M titles, indexed as part of each text.
            analyzer: How texts become terms.
            k1: How slowly repeats of a term stop counting, 0 or greater.
            b: How much longer texts are discounted, in [0, 1].
            previous: An index with the same analyzer and, int64 (M,), which of its rows has
                the same text and title, -1 for none: only the other rows are read again. The
                result is the same as without.

        Raises:
            ShapeError: When there is not one title per text, or one row of ``previous``.
            InputError: When ``previous`` has another analyzer.
        """
        texts = check_texts(texts)
        check_in_range(k1, name="k1", low=0.0)
        check_in_range(b, name="b", low=0.0, high=1.0)
        titles = None if titles is None else check_texts(titles, name="titles")
        if titles is not None and len(titles) != len(texts):
            raise ShapeError(f"{len(texts)} texts need {len(texts)} titles, got {len(titles)}.")
        analyzer = analyzer or Analyzer()
        parts = []
        fresh = np.arange(len(texts))
        if previous is not None:
            index, old = previous
            if old.shape != (len(texts),):
                raise ShapeError(f"previous rows must have shape ({len(texts)},), not {old.shape}.")
            if index.analyzer != analyzer:
                raise InputError("previous was made with another analyzer: build without it.")
            parts.append(reuse_counts(index.vocabulary, index.arrays, old))
            fresh = np.flatnonzero(old < 0)
        parts.append(count_terms(texts, titles, fresh, analyzer))
        return cls(analyzer, k1, b, postings(parts, len(texts), k1=k1, b=b))

    def __len__(self) -> int:
        return len(self.arrays["row_start"]) - 1

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Term -> number."""
        return Vocabulary(self.arrays["term_text"], self.arrays["term_ends"])

    def query_terms(self, query: str) -> dict[int, float]:
        """Return the query's known terms and how often each occurs: term number -> count."""
        counts: dict[int, float] = {}
        for term in self.analyzer.terms(query):
            number = self.vocabulary.get(term)
            if number is not None:
                counts[number] = counts.get(number, 0.0) + 1.0
        return counts

    def row_scores(self, terms: Mapping[int, float]) -> np.ndarray:
        """Return the score of every row for weighted terms (term number -> weight), (M,)."""
        scores = np.zeros(len(self), dtype=np.float32)
        start, rows, impacts = (self.arrays[n] for n in ("term_start", "rows", "impacts"))
        for term, weight in terms.items():
            part = slice(start[term], start[term + 1])
            scores[rows[part]] += np.float32(weight) * impacts[part]
        return scores

    def search(
        self, queries: Sequence[str], k: int, *, mask: np.ndarray | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the best rows of every query.

        A row that shares no term with the query is not a match, so fewer than ``k`` rows may
        come back even when more pass the mask.

        Args:
            queries: Q texts.
            k: Number of results wanted.
            mask: Boolean array (M,); only rows where it is True can be returned.

        Returns:
            One ``(ids, scores)`` per query, int64 and float32: every score is positive, highest
            first, equal scores by ascending row.
        """
        queries = check_texts(queries, name="queries")
        return [self.best(self.row_scores(self.query_terms(q)), k, mask=mask) for q in queries]

    def best(
        self, scores: np.ndarray, k: int, *, mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the ``k`` best positive entries of `row_scores` output as ``(ids, scores)``."""
        k = check_k(k)
        if mask is not None and (mask.dtype != bool or mask.shape != scores.shape):
            raise ShapeError(
                f"mask must be boolean of shape {scores.shape}, got {mask.dtype} {mask.shape}."
            )
        rows = np.flatnonzero(scores > 0 if mask is None else (scores > 0) & mask)
        found = scores[rows]
        if len(rows) > k:
            limit = np.partition(found, len(found) - k)[len(found) - k]
            keep = found >= limit
            rows, found = rows[keep], found[keep]
        order = np.lexsort((rows, -found))[:k]
        return rows[order], found[order]

    def row_profile(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return ``(terms, scores)`` of one row, function words left out, for feedback."""
        part = slice(self.arrays["row_start"][row], self.arrays["row_start"][row + 1])
        terms = self.arrays["row_terms"][part]
        keep = self._is_content[terms]
        terms, counts = terms[keep], self.arrays["row_counts"][part][keep]
        scores = self.arrays["idf"][terms] * counts * (self.k1 + 1.0)
        scores /= counts + self.arrays["row_norms"][row]
        return terms, scores.astype(np.float32)

    @cached_property
    def _is_content(self) -> np.ndarray:
        return self.vocabulary.is_content()

    def memory(self) -> int:
        """Return the bytes of the index's arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def save(self, folder: Path) -> None:
        """Write the index as ``.npy`` files and JSON, replacing ``folder`` in one step."""
        with atomic_directory(Path(folder)) as temporary:
            for name, array in self.arrays.items():
                np.save(temporary / f"{name}.npy", array, allow_pickle=False)
            names = [f"{name}.npy" for name in self.arrays]
            write_json(
                temporary / "bm25.json",
                {
                    "format_version": FORMAT_VERSION,
                    "k1": self.k1,
                    "b": self.b,
                    "analyzer": self.analyzer.to_dict(),
                    "rows": len(self),
                    "terms": len(self.vocabulary),
                    "files": {
                        name: {
                            "bytes": (temporary / name).stat().st_size,
                            "sha256": sha256_of_file(temporary / name),
                        }
                        for name in names
                    },
                },
            )

    @classmethod
    def load(cls, folder: Path, *, mmap: bool = True, verify: bool = False) -> BM25Index:
        """Read an index written by `save`.

        Args:
            folder: The folder.
            mmap: Map the arrays in place of reading them.
            verify: Also compare every file with its checksum.

        Raises:
            NotFoundError: When the folder has no index.
            FormatError: When it is damaged, half written or of another version.
        """
        folder = Path(folder)
        about = read_json(folder / "bm25.json")
        try:
            version = about["format_version"]
            if version != FORMAT_VERSION:
                raise FormatError(
                    f"{folder} holds a BM25 index of format {version}; this version of "
                    f"embedworks reads format {FORMAT_VERSION}. Build the index again."
                )
            for name, expected in about["files"].items():
                _check_file(folder, name, expected, verify=verify)
            arrays = {
                name: np.asarray(
                    np.load(
                        folder / f"{name}.npy", mmap_mode="r" if mmap else None, allow_pickle=False
                    )
                )
                for name in ARRAYS
            }
            analyzer = Analyzer.from_dict(about["analyzer"])
            index = cls(analyzer, float(about["k1"]), float(about["b"]), arrays)
            index._check(rows=about["rows"], terms=about["terms"])
        except (AttributeError, LookupError, TypeError, ValueError, EOFError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"The BM25 index in {folder} is damaged ({error}).") from error
        return index

    def _check(self, *, rows: int, terms: int) -> None:
        """Raise unless the arrays fit each other."""
        arrays = self.arrays
        count = len(arrays["rows"])
        shapes = {
            "term_text": int(arrays["term_ends"][-1]) if terms else 0,
            "term_ends": terms,
            "term_start": terms + 1,
            "idf": terms,
            "row_start": rows + 1,
            "rows": count,
            "impacts": count,
            "row_terms": count,
            "row_counts": count,
            "row_norms": rows,
        }
        for name, kind in ARRAYS.items():
            if arrays[name].shape != (shapes[name],) or arrays[name].dtype != kind:
                raise FormatError(
                    f"The BM25 array {name!r} is {arrays[name].dtype} {arrays[name].shape}, "
                    f"expected {np.dtype(kind)} ({shapes[name]},)."
                )
        ends = (arrays["term_start"][-1], arrays["row_start"][-1])
        if ends != (count, count):
            raise FormatError("The BM25 index's counts do not fit each other.")


def _check_file(folder: Path, name: str, expected: Mapping[str, Any], *, verify: bool) -> None:
    if Path(name).name != name:
        raise FormatError(f"{folder / 'bm25.json'} names a file outside its folder: {name!r}.")
    path = folder / name
    if not path.is_file():
        raise NotFoundError(f"{path} is missing from the BM25 index.")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise FormatError(f"{path} has {size} bytes, expected {expected['bytes']}.")
    if verify and sha256_of_file(path) != expected["sha256"]:
        raise FormatError(f"{path} does not match its checksum: it was changed or damaged.")
