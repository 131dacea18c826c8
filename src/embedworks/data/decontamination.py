"""Removing training rows that contain test texts, with a report of what was found.

Works on texts alone. BM25 needs a search over the test texts, which is given by the caller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from embedworks._core.validation import check_choice, check_in_range, check_texts
from embedworks.data._word_windows import WordTable, normal_words, text_of, window_hashes
from embedworks.data.rows import Row, RowSet
from embedworks.errors import EmptyInputError, InputError

__all__ = ["ContaminationHit", "ContaminationReport", "Search", "decontaminate"]

#: Searches test texts: ``search(queries, k)`` gives ``(ids, scores)`` per query, as `BM25Index`.
Search = Callable[[Sequence[str], int], Sequence[tuple[np.ndarray, np.ndarray]]]

_METHODS = ("exact", "ngram", "bm25")
_PARTS = ("anchor", "positive", "negatives")
_NEAREST = 10
_BLOCK = 256
_MAX_CHARS = 500


@dataclass(frozen=True)
class ContaminationHit:
    """One text of a row that is too close to a test text.

    Attributes:
        row: Position of the row.
        source: Its source.
        part: "anchor", "positive" or "negatives".
        rule: What found it: "exact", "ngram", "contained" or "bm25".
        score: 1 for exact and contained texts and n-grams; for BM25 the share of the test
            text's own score.
        text: The text of the row, its beginning.
        test_index: Position of the test text.
        test_text: The test text, its beginning.
    """

    row: int
    source: str
    part: str
    rule: str
    score: float
    text: str
    test_index: int
    test_text: str


@dataclass(frozen=True)
class ContaminationReport:
    """What a decontamination looked at, found and removed.

    Attributes:
        method: "exact", "ngram" or "bm25".
        settings: Settings of the method.
        rows: Rows looked at.
        removed: Positions of the rows that were removed, ascending.
        test_texts: Test texts compared with.
        blank_test_texts: Test texts left out because they are blank.
        sources: Source -> its rows and how many of them were removed.
        rules: Removed rows by the rule that found them first.
        parts: Removed rows by the part that was found first.
        unchecked: Inputs without a text, which were not compared.
        examples: Some of the hits of every source.
    """

    method: str
    settings: dict[str, Any]
    rows: int
    removed: tuple[int, ...]
    test_texts: int
    blank_test_texts: int
    sources: dict[str, dict[str, int]]
    rules: dict[str, int]
    parts: dict[str, int]
    unchecked: int
    examples: tuple[ContaminationHit, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            **asdict(self),
            "removed": list(self.removed),
            "examples": [asdict(hit) for hit in self.examples],
        }


@dataclass(frozen=True)
class _Found:
    rule: str
    test: int
    score: float = 1.0


def decontaminate(
    rows: RowSet,
    test_texts: Sequence[str],
    *,
    method: str = "exact",
    ngram: int = 13,
    min_words: int = 5,
    threshold: float = 0.8,
    search: Search | None = None,
    parts: Sequence[str] = ("anchor", "positive"),
    max_examples: int = 5,
) -> tuple[RowSet, ContaminationReport]:
    """Remove the rows of which a text is, contains or resembles a test text.

    Case, punctuation and the kind of white space never count. Each method finds more than the
    one before, and more that only looks like a leak:

    - "exact": a text equals a test text.
    - "ngram": also when they share ``ngram`` words in a row, or when one of them is shorter than
      that, has at least ``min_words`` words, and lies in the other one as a whole.
    - "bm25": the words of a row's text reach ``threshold`` of the score the test text gets from
      its own words: the share of the test text's informative words that occur in the row's text,
      in any order. A long text reaches it more easily, so look at the examples.

    Args:
        rows: Training rows.
        test_texts: Texts of the evaluation: queries, documents or both.
        method: "exact", "ngram" or "bm25".
        ngram: Words in a row, 2 or more.
        min_words: Shorter texts count only when they are equal: "yes" is in many texts.
        threshold: For BM25, in (0, 1].
        search: For BM25: searches an index over exactly ``test_texts``, in their order, such as
            ``BM25Index.build(test_texts).search``.
        parts: Which parts of a row are compared: "anchor", "positive", "negatives".
        max_examples: Hits shown in the report for every source.

    Returns:
        The rows that are left, in their order, and the report.

    Raises:
        EmptyInputError: When there are no rows or no test texts.
        InputError: When a setting is out of range, ``search`` is missing, or it was built over
            other texts.

    Paper: Lee et al. 2024, arXiv 2405.17428 (BM25 and exact filters).

    Example:
        >>> from embedworks.data import Row
        >>> rows = RowSet([Row("What is tea?", "A drink."), Row("What is rye?", "A grain.")])
        >>> kept, report = decontaminate(rows, ["what is TEA"])
        >>> kept[0].anchor, report.removed, report.sources
        ('What is rye?', (0,), {'default': {'rows': 2, 'removed': 1}})
    """
    check_choice(method, _METHODS, name="method")
    for part in parts:
        check_choice(part, _PARTS, name="part")
    check_in_range(ngram, name="ngram", low=2)
    check_in_range(min_words, name="min_words", low=1)
    check_in_range(threshold, name="threshold", low=0.0, high=1.0, open_low=True)
    check_in_range(max_examples, name="max_examples", low=0)
    if (search is None) == (method == "bm25"):
        raise InputError(
            "method 'bm25' needs `search`, for example BM25Index.build(test_texts).search."
            if search is None
            else f"`search` is used by method 'bm25' only, not by {method!r}."
        )
    tests = check_texts(test_texts, name="test_texts")
    used = [i for i, text in enumerate(tests) if text.strip()]
    if not len(rows) or not used:
        raise EmptyInputError("there are no rows." if not len(rows) else "there are no test texts.")
    where, texts, unchecked = _texts_of(rows, parts)
    distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    every = list(distinct)
    settings: dict[str, Any] = {"parts": list(parts)}
    if search is not None:
        settings |= {"threshold": threshold}
        found = _by_search(every, tests, used, search, threshold)
    else:
        if method == "ngram":
            settings |= {"ngram": ngram, "min_words": min_words}
        found = _by_words(every, tests, used, ngram if method == "ngram" else None, min_words)
    hits: dict[int, ContaminationHit] = {}
    for (place, part), text in zip(where, texts, strict=True):
        what = found.get(distinct[text])
        if what is not None and place not in hits:
            hits[place] = ContaminationHit(
                row=place,
                source=rows[place].source,
                part=part,
                rule=what.rule,
                score=what.score,
                text=text[:_MAX_CHARS],
                test_index=what.test,
                test_text=tests[what.test][:_MAX_CHARS],
            )
    report = ContaminationReport(
        method=method,
        settings=settings,
        rows=len(rows),
        removed=tuple(hits),
        test_texts=len(used),
        blank_test_texts=len(tests) - len(used),
        sources=_by_source(rows, hits),
        rules=dict(Counter(hit.rule for hit in hits.values())),
        parts=dict(Counter(hit.part for hit in hits.values())),
        unchecked=unchecked,
        examples=_examples(hits, max_examples),
    )
    return RowSet(row for i, row in enumerate(rows) if i not in hits), report


def _texts_of(rows: RowSet, parts: Sequence[str]) -> tuple[list[tuple[int, str]], list[str], int]:
    where, texts, unchecked = [], [], 0
    for place, row in enumerate(rows):
        for part in parts:
            values = row.negatives if part == "negatives" else (getattr(row, part),)
            for value in values:
                text = text_of(value)
                if text is None:
                    unchecked += 1
                else:
                    where.append((place, part))
                    texts.append(text)
    return where, texts, unchecked


def _by_source(rows: Sequence[Row], hits: dict[int, ContaminationHit]) -> dict[str, dict[str, int]]:
    removed = Counter(hit.source for hit in hits.values())
    counts = Counter(row.source for row in rows)
    return {name: {"rows": n, "removed": removed[name]} for name, n in counts.items()}


def _examples(hits: dict[int, ContaminationHit], limit: int) -> tuple[ContaminationHit, ...]:
    shown: Counter[str] = Counter()
    chosen = []
    for hit in hits.values():
        if shown[hit.source] < limit:
            shown[hit.source] += 1
            chosen.append(hit)
    return tuple(chosen)


def _by_words(
    texts: Sequence[str], tests: Sequence[str], used: Sequence[int], ngram: int | None, least: int
) -> dict[int, _Found]:
    """Return hits by position of the text: equal words, then shared sequences of words."""
    test_words = [normal_words(tests[i]) for i in used]
    words = [normal_words(text) for text in texts]
    equal: dict[tuple[str, ...], int] = {}
    for place, of_test in enumerate(test_words):
        equal.setdefault(tuple(of_test), place)
    found = {
        i: _Found("exact", used[equal[tuple(w)]]) for i, w in enumerate(words) if tuple(w) in equal
    }
    if ngram is None:
        return found
    vocabulary: dict[str, int] = {}
    test_table = WordTable.of(test_words, vocabulary, grow=True)
    table = WordTable.of(words, vocabulary, grow=False)
    shared = [("ngram", ngram, False, False)]
    for length in range(min(least, ngram), ngram):
        # a whole test text inside a row's text, and a whole row's text inside a test text
        shared += [("contained", length, False, True), ("contained", length, True, False)]
    for rule, length, whole, whole_test in shared:
        for text, test in _common(table, test_table, length, whole, whole_test):
            found.setdefault(text, _Found(rule, used[test]))
    return found


def _common(
    table: WordTable, tests: WordTable, length: int, whole: bool, whole_test: bool
) -> list[tuple[int, int]]:
    """Return ``(text, test)`` pairs with ``length`` equal words in a row, one test per text."""
    here = _windows(table, length, whole)
    there = _windows(tests, length, whole_test)
    if len(here) == 0 or len(there) == 0:
        return []
    known, first = np.unique(window_hashes(tests, length, there), return_index=True)
    hashes = window_hashes(table, length, here)
    at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    matches = np.flatnonzero(known[at] == hashes)
    result: dict[int, int] = {}
    for match in matches:
        a, b = here[match], there[first[at[match]]]
        text = int(table.owners(a))
        if text not in result and np.array_equal(
            table.words[a : a + length], tests.words[b : b + length]
        ):
            result[text] = int(tests.owners(b))
    return list(result.items())


def _windows(table: WordTable, length: int, whole: bool) -> np.ndarray:
    if whole:
        return table.start[:-1][table.lengths == length]
    return table.windows(length)


def _by_search(
    texts: Sequence[str],
    tests: Sequence[str],
    used: Sequence[int],
    search: Search,
    threshold: float,
) -> dict[int, _Found]:
    """Return hits by position of the text: shares of the test texts' own scores."""
    own = _own_scores(tests, used, search)
    found = {}
    for low in range(0, len(texts), _BLOCK):
        block = texts[low : low + _BLOCK]
        results = search([_distinct_words(text) for text in block], _NEAREST)
        for offset, (ids, scores) in enumerate(results):
            ids = _checked_ids(ids, len(tests))
            with np.errstate(invalid="ignore"):
                share = np.asarray(scores, dtype=np.float64) / own[ids]
            share = np.where(np.isfinite(share), share, 0.0)
            if len(share) and share.max() >= threshold:
                best = int(share.argmax())
                score = round(min(float(share[best]), 1.0), 4)
                found[low + offset] = _Found("bm25", int(ids[best]), score)
    return found


def _own_scores(tests: Sequence[str], used: Sequence[int], search: Search) -> np.ndarray:
    """Return what every test text scores for its own words, (M,); NaN where that is nothing."""
    own = np.full(len(tests), np.nan)
    wanted = list(used)
    for k in (_NEAREST, len(tests)):
        missing = []
        for low in range(0, len(wanted), _BLOCK):
            block = wanted[low : low + _BLOCK]
            results = search([_distinct_words(tests[i]) for i in block], k)
            for test, (ids, scores) in zip(block, results, strict=True):
                at = np.flatnonzero(_checked_ids(ids, len(tests)) == test)
                if len(at):
                    own[test] = scores[at[0]]
                elif len(ids):
                    missing.append(test)
        wanted = missing
    if wanted:
        raise InputError(
            f"`search` does not find test text {wanted[0]} by its own words "
            f"({tests[wanted[0]]!r:.60}): build its index over exactly test_texts, in their order."
        )
    return own


def _checked_ids(ids: np.ndarray, count: int) -> np.ndarray:
    ids = np.asarray(ids)
    if len(ids) and (ids.min() < 0 or ids.max() >= count):
        raise InputError(
            f"`search` returned id {int(ids.max())} for {count} test texts: build its index over "
            "exactly test_texts, in their order."
        )
    return ids


def _distinct_words(text: str) -> str:
    return " ".join(dict.fromkeys(normal_words(text)))
