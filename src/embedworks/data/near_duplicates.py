"""Removing near duplicates: texts that share most of their word sequences.

MinHash finds candidates without comparing all pairs; every candidate is then compared exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice, check_in_range, check_k, check_texts
from embedworks.data._near_pairs import Bands, ShingleSets, signatures
from embedworks.data._word_windows import normal_words, text_of
from embedworks.data.rows import RowSet
from embedworks.errors import EmptyInputError, InputError

__all__ = ["NearDuplicateReport", "find_near_duplicates", "remove_near_duplicates"]

_PARTS = ("anchor", "positive", "both")
_MAX_CHARS = 300
_ROUNDING = 1e-12


@dataclass(frozen=True)
class NearDuplicateReport:
    """What was removed, and beside what.

    Attributes:
        items: Texts or rows looked at.
        kept: How many are left.
        removed: Removed position -> the kept position it duplicates.
        cluster_sizes: Size of a cluster, its kept item included -> number of such clusters.
        equal: How many of the removed have the same words as the kept one.
        sources: Source -> its rows and how many were removed; empty for texts.
        settings: Threshold and the other settings.
        detection: Probability that a pair exactly at the threshold is found; it rises steeply
            above it.
        examples: Some removed items with the kept one and their similarity, lowest first.
    """

    items: int
    kept: int
    removed: dict[int, int]
    cluster_sizes: dict[int, int]
    equal: int
    sources: dict[str, dict[str, int]]
    settings: dict[str, Any]
    detection: float
    examples: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            **asdict(self),
            "removed": [[a, b] for a, b in self.removed.items()],
            "cluster_sizes": [[size, n] for size, n in self.cluster_sizes.items()],
            "examples": list(self.examples),
        }


def find_near_duplicates(
    texts: Sequence[str],
    *,
    threshold: float = 0.8,
    shingle: int = 3,
    permutations: int = 128,
    recall: float = 0.999,
    seed: int = 0,
) -> np.ndarray:
    """Return, for every text, the kept text it duplicates, or itself.

    See `remove_near_duplicates` for the method and the arguments.

    Returns:
        int64 (N,), positions.

    Example:
        >>> find_near_duplicates(["The tea is hot.", "the TEA is hot", "The rye is cold."])
        array([0, 0, 2])
    """
    texts = _checked_texts(texts)
    sets = _shingle_sets([[normal_words(text) for text in texts]], shingle)
    return _leaders(sets, threshold, permutations, recall, seed)[0]


@overload
def remove_near_duplicates(
    items: RowSet,
    *,
    threshold: float = ...,
    part: str = ...,
    shingle: int = ...,
    permutations: int = ...,
    recall: float = ...,
    seed: int = ...,
    max_examples: int = ...,
) -> tuple[RowSet, NearDuplicateReport]: ...
@overload
def remove_near_duplicates(
    items: Sequence[str],
    *,
    threshold: float = ...,
    part: str = ...,
    shingle: int = ...,
    permutations: int = ...,
    recall: float = ...,
    seed: int = ...,
    max_examples: int = ...,
) -> tuple[list[str], NearDuplicateReport]: ...
def remove_near_duplicates(
    items: RowSet | Sequence[str],
    *,
    threshold: float = 0.8,
    part: str = "both",
    shingle: int = 3,
    permutations: int = 128,
    recall: float = 0.999,
    seed: int = 0,
    max_examples: int = 10,
) -> tuple[RowSet | list[str], NearDuplicateReport]:
    """Remove texts or rows that nearly repeat an earlier one.

    Two texts are near duplicates when the sets of their ``shingle``-word sequences have a Jaccard
    similarity of at least ``threshold``; case and punctuation do not count. Items are taken in
    order: one is removed exactly when it is a near duplicate of an earlier item that was kept.
    So nothing is removed for being similar to something that is gone as well, and every removal
    was verified on the sets themselves.

    Candidates come from MinHash signatures cut into b bands of r values: a pair of similarity s
    shares a band with probability ``1 - (1 - s^r)^b``. r is the largest that reaches ``recall``
    at the threshold, so near duplicates are missed with a probability below ``1 - recall``.

    Args:
        items: Rows, or texts.
        threshold: Least similarity of near duplicates, in (0, 1].
        part: For rows: "anchor", "positive", or "both", where both parts must be near
            duplicates of the other row's. Different questions about one passage stay then.
        shingle: Words of a sequence; shorter texts are one sequence as a whole.
        permutations: Length of a signature; more finds more at low thresholds and costs time.
        recall: Probability of finding a pair at the threshold, in (0, 1).
        seed: Seed of the permutations.
        max_examples: Removed items shown in the report.

    Returns:
        What is left, in its order, and the report.

    Raises:
        EmptyInputError: When there is nothing to look at.
        InputError: When a text is empty, a row has no text in ``part``, or ``permutations`` are
            too few for the threshold and recall.

    Example:
        >>> kept, report = remove_near_duplicates(["The tea is hot.", "the TEA is hot!", "Rye."])
        >>> kept, report.removed
        (['The tea is hot.', 'Rye.'], {1: 0})
    """
    check_choice(part, _PARTS, name="part")
    if isinstance(items, RowSet):
        names = ["anchor", "positive"] if part == "both" else [part]
        columns = [_row_texts(items, name) for name in names]
    else:
        columns = [_checked_texts(items)]
    if not columns[0]:
        raise EmptyInputError("there is nothing to look for near duplicates in.")
    words = [[normal_words(text) for text in column] for column in columns]
    sets = _shingle_sets(words, shingle)
    leader, detection = _leaders(sets, threshold, permutations, recall, seed)
    gone = np.flatnonzero(leader != np.arange(len(leader)))
    removed = {int(i): int(leader[i]) for i in gone}
    similarity = _similarity(sets, gone, leader[gone])
    report = NearDuplicateReport(
        items=len(leader),
        kept=len(leader) - len(gone),
        removed=removed,
        cluster_sizes=_cluster_sizes(leader),
        equal=sum(all(w[i] == w[j] for w in words) for i, j in removed.items()),
        sources=_by_source(items, removed) if isinstance(items, RowSet) else {},
        settings={
            "threshold": threshold, "part": part if isinstance(items, RowSet) else "text",
            "shingle": shingle, "permutations": permutations, "recall": recall, "seed": seed,
        },
        detection=detection,
        examples=_examples(columns, removed, similarity, max_examples),
    )  # fmt: skip
    stay = [i for i in range(len(leader)) if i not in removed]
    if isinstance(items, RowSet):
        return RowSet(items[i] for i in stay), report
    return [items[i] for i in stay], report


def _checked_texts(texts: Sequence[str]) -> list[str]:
    texts = check_texts(texts)
    for place, text in enumerate(texts):
        if not text.strip():
            raise InputError(f"texts[{place}] is empty: fix or drop it first.")
    return texts


def _row_texts(rows: RowSet, part: str) -> list[str]:
    texts = []
    for place, row in enumerate(rows):
        text = text_of(getattr(row, part))
        if text is None:
            raise InputError(
                f"row {place} has no text in its {part}: near duplicates are found by words."
            )
        texts.append(text)
    return texts


def _shingle_sets(words: Sequence[Sequence[Sequence[str]]], shingle: int) -> list[ShingleSets]:
    check_k(shingle)
    return [ShingleSets.of(column, shingle, tag=tag) for tag, column in enumerate(words)]


def _leaders(
    sets: Sequence[ShingleSets], threshold: float, permutations: int, recall: float, seed: int
) -> tuple[np.ndarray, float]:
    """Return the kept item of every item, (N,), and the probability of finding a pair."""
    check_in_range(threshold, name="threshold", low=0.0, high=1.0, open_low=True)
    check_in_range(recall, name="recall", low=0.0, high=1.0, open_low=True)
    check_k(permutations)
    bands = Bands.choose(threshold, permutations, recall)
    count = len(sets[0])
    joined = sets[0] if len(sets) == 1 else sets[0].joined(sets[1])
    # Equal sets first: what they duplicate is known, and one of them stands for all.
    first = joined.first_equal()
    stands = np.flatnonzero(first == np.arange(count))
    table = signatures(joined, stands, permutations, generator(seed, "near-duplicates"))
    leader = first.copy()
    for later, kept in bands.walk(table, lambda a, b: _near(sets, stands[a], stands[b], threshold)):
        leader[stands[later]] = stands[kept]
    return leader[first], bands.detection(threshold)


def _similarity(sets: Sequence[ShingleSets], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the exact similarity of pairs: the smaller one where there are two parts."""
    return np.asarray(np.min([s.jaccard(a, b) for s in sets], axis=0), dtype=np.float64)


def _near(
    sets: Sequence[ShingleSets], a: np.ndarray, b: np.ndarray, threshold: float
) -> np.ndarray:
    near = np.arange(len(a))
    for of_part in sets:
        near = near[of_part.jaccard(a[near], b[near]) >= threshold - _ROUNDING]
    result = np.zeros(len(a), dtype=bool)
    result[near] = True
    return result


def _cluster_sizes(leader: np.ndarray) -> dict[int, int]:
    sizes = np.bincount(leader)
    return dict(sorted(Counter(int(s) for s in sizes[sizes > 1]).items()))


def _by_source(rows: RowSet, removed: dict[int, int]) -> dict[str, dict[str, int]]:
    gone = Counter(rows[i].source for i in removed)
    return {name: {"rows": n, "removed": gone[name]} for name, n in rows.sources.items()}


def _examples(
    columns: Sequence[Sequence[str]],
    removed: dict[int, int],
    similarity: np.ndarray,
    limit: int,
) -> tuple[dict[str, Any], ...]:
    order = np.argsort(similarity, kind="stable")[:limit]
    pairs = list(removed.items())
    return tuple(
        {
            "removed": pairs[i][0],
            "kept": pairs[i][1],
            "similarity": round(float(similarity[i]), 4),
            "removed_text": " | ".join(c[pairs[i][0]] for c in columns)[:_MAX_CHARS],
            "kept_text": " | ".join(c[pairs[i][1]] for c in columns)[:_MAX_CHARS],
        }
        for i in order
    )
