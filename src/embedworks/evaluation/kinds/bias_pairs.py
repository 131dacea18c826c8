"""Bias between texts that differ only in the group they name: in distances and in rankings."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from embedworks._core.validation import check_unique, normalize_rows
from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation.outcomes import Failure, Resampling, Score, TaskResult, shorten

if TYPE_CHECKING:
    from embedworks.evaluation.systems import System

__all__ = ["ExposureTask", "PreferencePairsTask", "swap_words"]

_WORD = re.compile(r"\w+(?:['’]\w+)*")


def swap_words(text: str, pairs: Sequence[tuple[str, str]]) -> str:
    """Swap words for their counterparts; whole words, keeping capitals. Twice is the original.

    Args:
        text: Any text.
        pairs: (word, word), swapped in both directions. A word may occur once only: "her" is the
            counterpart of "his" and of "him", and a list of words cannot tell which.

    Raises:
        InputError: When a word is empty or occurs twice.

    Example:
        >>> swap_words("He said that the king is old.", [("he", "she"), ("king", "queen")])
        'She said that the queen is old.'
    """
    swaps: dict[str, str] = {}
    for one, other in pairs:
        for word, counterpart in ((one, other), (other, one)):
            if not word.strip() or word.lower() in swaps:
                raise InputError(f"Word {word!r} is empty or in two pairs: swaps must be clear.")
            swaps[word.lower()] = counterpart.lower()

    def swapped(match: re.Match[str]) -> str:
        word = match.group()
        other = swaps.get(word.lower())
        if other is None:
            return word
        if word.isupper() and len(word) > 1:
            return other.upper()
        return other[:1].upper() + other[1:] if word[:1].isupper() else other

    return _WORD.sub(swapped, text)


class PreferencePairsTask:
    """Sentence pairs that differ in the group they name: which group is the unmarked one?

    An embedder gives sentences no likelihood, so it cannot be asked which sentence it finds more
    probable. It is asked instead which of the two lies nearer to their frame, the words both
    share: whose mention changes the vector less in this context. The main figure is the share of
    pairs in which that is the first sentence (``more``); 0.5 is no preference. Length, frequency
    and spelling of the group's words play a part too, so compare models, or groups, and do not
    read one figure as a verdict.

    Args:
        name: Name for tables.
        pairs: (more stereotyped sentence, less stereotyped sentence).
        groups: A label per pair, for figures by kind of bias.
        instruction: What the task is, for systems that read instructions.

    Raises:
        EmptyInputError: When there are no pairs that differ and share a word.
        InputError: When ``groups`` is not one label per pair.

    Paper: The kind of pairs of Nangia et al. 2020, arXiv 2010.00133; the measure is our own.

    Example:
        >>> task = PreferencePairsTask("toy", [("The nurse met her.", "The nurse met him.")])
        >>> task.frames
        ['The nurse met.']
    """

    kind = "bias"
    metric = "stereotype_share"

    def __init__(
        self,
        name: str,
        pairs: Sequence[tuple[str, str]],
        *,
        groups: Sequence[str] | None = None,
        instruction: str | None = None,
    ) -> None:
        self.name = name
        self.instruction = instruction
        if groups is not None and len(groups) != len(pairs):
            raise InputError(f"Task {name!r} has {len(pairs)} pairs and {len(groups)} groups.")
        self.pairs: list[tuple[str, str]] = []
        self.frames: list[str] = []
        self.groups: list[str] = []
        self._ids: list[str] = []
        for number, (more, less) in enumerate(pairs):
            frame = _frame(more, less)
            if frame is not None:
                self.pairs.append((more, less))
                self.frames.append(frame)
                self.groups.append("all" if groups is None else str(groups[number]))
                self._ids.append(str(number))
        self._without = len(pairs) - len(self.pairs)
        if not self.pairs:
            raise EmptyInputError(f"Task {name!r} has no pairs that differ and share a word.")

    def texts(self) -> list[str]:
        """Return the sentences of the pairs."""
        return [text for pair in self.pairs for text in pair]

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Compare both sentences of every pair with their frame.

        Raises:
            InputError: When both are equally near in all pairs.
        """
        n = len(self.pairs)
        vectors = normalize_rows(
            system.encode([*self.texts(), *self.frames], instruction=self.instruction)
        ).astype(np.float64)
        more, less, frames = vectors[: 2 * n : 2], vectors[1 : 2 * n : 2], vectors[2 * n :]
        gap = ((more - less) * frames).sum(axis=1)
        if not (np.abs(gap) > 1e-6).any():
            raise InputError(f"{system.name} finds both sentences of all {n} pairs equally near.")
        value = np.where(np.abs(gap) <= 1e-6, 0.5, gap > 0)
        groups = np.array(self.groups)
        worst = np.argsort(-gap, kind="stable")[:10].tolist()
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores={self.metric: Score.of_values(value, resampling)},
            better="half",
            items=tuple(self._ids),
            excluded={"pairs that are equal or share no word": self._without}
            if self._without
            else {},
            failures=tuple(
                Failure(
                    item=self._ids[i],
                    text=shorten(f"{self.pairs[i][0]} / {self.pairs[i][1]}", 400),
                    score=float(value[i]),
                    expected=("both equally near to what they share",),
                    found=(f"the first is nearer by {gap[i]:.4f}",),
                )
                for i in worst
                if gap[i] > 1e-6
            ),
            details={
                "pairs": n,
                "mean_gap": float(gap.mean()),
                "groups": {
                    group: {"pairs": int(mask.sum()), "share": float(value[mask].mean())}
                    for group in sorted(set(self.groups))
                    for mask in [groups == group]
                },
                "instruction": self.instruction,
            },
        )


class ExposureTask:
    """Documents in two versions that differ in a group: which version is ranked higher?

    Every query ranks both versions of all documents together. ``rank_gap`` (the main figure) is
    the mean of the second version's rank minus the first's: 0 is equal, positive favours the
    first. ``exposure_ratio`` is the exposure of all first versions over that of all second ones,
    a rank r giving ``1 / log2(1 + r)``. Documents with equal scores share their mean rank, so
    both are exactly 0 and 1 when the versions are equal. Intervals resample queries.

    Args:
        name: Name for tables.
        queries: Query id -> text.
        documents: Document id -> (first version, second version); `swap_words` makes them.
        background: Document id -> text of documents without a group, ranked among them.
        instruction: What the task is, for systems that read instructions.

    Raises:
        EmptyInputError: When there are no queries or documents, or a version is blank.
        DuplicateIdError: When a background document has the id of a document.

    Paper: Singh and Joachims 2018, arXiv 1802.07281 (exposure).

    Example:
        >>> task = ExposureTask("toy", {"q": "a good nurse"},
        ...                     {"d": ("He is a nurse.", "She is a nurse.")})
        >>> task.texts()
        ['a good nurse', 'He is a nurse.', 'She is a nurse.']
    """

    kind = "bias"
    metric = "rank_gap"

    def __init__(
        self,
        name: str,
        queries: Mapping[str, str],
        documents: Mapping[str, tuple[str, str]],
        *,
        background: Mapping[str, str] | None = None,
        instruction: str | None = None,
    ) -> None:
        self.name = name
        self.instruction = instruction
        self.queries = dict(queries)
        self.documents = dict(documents)
        self.background = dict(background or {})
        if not self.queries or not self.documents:
            raise EmptyInputError(
                f"Task {name!r} needs queries and documents, got {len(self.queries)} and "
                f"{len(self.documents)}."
            )
        for doc, versions in self.documents.items():
            if len(versions) != 2 or not all(text.strip() for text in versions):
                raise EmptyInputError(f"Task {name!r}: document {doc!r} needs two texts.")
        self._ids = [(f"{doc}#1", f"{doc}#2") for doc in self.documents]
        check_unique(
            [*(doc for pair in self._ids for doc in pair), *self.background],
            name=f"documents of task {name!r}",
        )

    def texts(self) -> list[str]:
        """Return queries and documents."""
        versions = [text for pair in self.documents.values() for text in pair]
        return [*self.queries.values(), *versions, *self.background.values()]

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Rank both versions of every document for every query."""
        corpus = dict(self.background)
        for ids, versions in zip(self._ids, self.documents.values(), strict=True):
            corpus.update(zip(ids, versions, strict=True))
        found = system.search(self.queries, corpus, k=len(corpus), instruction=self.instruction)
        place = {doc: i for i, doc in enumerate(corpus)}
        first, second = (np.array([place[pair[i]] for pair in self._ids]) for i in (0, 1))
        gaps = np.empty((len(self.queries), len(self._ids)))
        exposure = np.empty((len(self.queries), 2))
        for row, query in enumerate(self.queries):
            scores = np.full(len(corpus), -np.inf)
            for doc, score in found[query].items():
                scores[place[doc]] = score
            ranks = _mean_ranks(scores)
            gaps[row] = ranks[second] - ranks[first]
            exposure[row] = [(1 / np.log2(1 + ranks[side])).sum() for side in (first, second)]

        def ratio(rows: np.ndarray) -> float:
            one, other = exposure[rows].sum(axis=0)
            return float(one / other)

        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            better="zero",
            scores={
                self.metric: Score.of_values(gaps.mean(axis=1), resampling),
                "exposure_ratio": Score.of_statistic(len(gaps), ratio, resampling),
            },
            items=tuple(self.queries),
            failures=self._failures(gaps),
            details={
                "queries": len(self.queries),
                "documents": len(self._ids),
                "background": len(self.background),
                "mean_absolute_gap": float(np.abs(gaps).mean()),
                "instruction": self.instruction,
            },
        )

    def _failures(self, gaps: np.ndarray) -> tuple[Failure, ...]:
        """Return the pairs of a query and a document with the largest gaps."""
        queries, documents = list(self.queries), list(self.documents)
        shown: list[Failure] = []
        for flat in np.argsort(-np.abs(gaps), axis=None, kind="stable")[:10].tolist():
            row, column = divmod(flat, gaps.shape[1])
            gap = float(gaps[row, column])
            if gap == 0:
                break
            versions = self.documents[documents[column]]
            higher, lower = versions if gap > 0 else versions[::-1]
            shown.append(
                Failure(
                    item=f"{queries[row]}:{documents[column]}",
                    text=shorten(self.queries[queries[row]]),
                    score=gap,
                    expected=("equal ranks",),
                    found=(shorten(higher), f"{abs(gap):g} ranks above", shorten(lower)),
                )
            )
        return tuple(shown)


def _mean_ranks(scores: np.ndarray) -> np.ndarray:
    """Return ranks from 1, best first; scores equal to six decimals share their mean rank."""
    _, codes, counts = np.unique(-np.round(scores, 6), return_inverse=True, return_counts=True)
    mean = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(mean[codes])


def _frame(more: str, less: str) -> str | None:
    """Return what two sentences share; None when they are equal or share no word."""
    one, other = (re.findall(r"\w+(?:['’]\w+)*|[^\w\s]", text) for text in (more, less))
    if one == other:
        return None
    blocks = difflib.SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
    shared = [word for block in blocks for word in one[block.a : block.a + block.size]]
    if not any(word[0].isalnum() for word in shared):
        return None
    return re.sub(r"\s+([^\w\s])", r"\1", " ".join(shared))
