"""Training pairs without labels: what in a document can stand for a question about it.

Each source is a function from a corpus of chunks to pairs, registered by name with a weight.
In every pair the anchor has been taken out of the positive, so that matching the two is a task
about meaning and not about finding a copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, overload

import numpy as np

from embedworks._core.registry import Registry
from embedworks._core.seeding import generator
from embedworks._core.validation import check_in_range
from embedworks.data._sentences import sentences
from embedworks.data._terms import Terms
from embedworks.data.chunking import Chunk
from embedworks.errors import EmptyInputError

__all__ = [
    "PAIR_SOURCES",
    "PairCorpus",
    "PairSet",
    "PairSource",
    "RawPair",
    "TrainingPair",
    "holdout_pairs",
    "make_pairs",
]

_MIN_ANCHOR_CHARS = 3
_MIN_POSITIVE_WORDS = 5
_MAX_SHARED_ANCHOR = 3


@dataclass(frozen=True, slots=True)
class TrainingPair:
    """A text that may be searched for and the passage that answers it.

    Args:
        anchor: The query side.
        positive: The document side, without the anchor.
        source: Name of the pair source.
        weight: Weight in the loss, above 0.
        doc_id: Document of the positive.
        chunk_id: Chunk of the positive.
    """

    anchor: str
    positive: str
    source: str
    weight: float
    doc_id: str
    chunk_id: str


class RawPair(NamedTuple):
    """What a pair source yields: the position of the positive's chunk, and both texts."""

    chunk: int
    anchor: str
    positive: str


class PairCorpus:
    """Chunks as pair sources see them, with shared statistics computed once.

    Args:
        chunks: The chunks.
        seed: Seed of every random choice.
    """

    def __init__(self, chunks: Sequence[Chunk], seed: int = 0) -> None:
        self.chunks = chunks
        self.seed = seed

    @cached_property
    def terms(self) -> Terms:
        """Specific terms of every chunk's title and text."""
        return Terms.of([c.embedding_text for c in self.chunks])

    @cached_property
    def sentences(self) -> list[list[tuple[int, int]]]:
        """Sentence spans of every prose chunk's text; empty for code."""
        return [sentences(c.text) if c.kind == "prose" else [] for c in self.chunks]

    def rng(self, name: str) -> np.random.Generator:
        """Return the random stream of one source."""
        return generator(self.seed, "pairs", name)


@dataclass(frozen=True, slots=True)
class PairSource:
    """A way to make pairs.

    Args:
        make: Yields pairs for a corpus, in chunk order where that is possible.
        weight: Default weight of its pairs in the loss.
        natural: Whether anchors read like something a person wrote about the passage, which
            makes them fit for evaluation.
        summary: One line for listings.
    """

    make: Callable[[PairCorpus], Iterator[RawPair]]
    weight: float
    natural: bool
    summary: str


#: Pair sources by name.
PAIR_SOURCES: Registry[PairSource] = Registry("pair sources")


class PairSet(Sequence[TrainingPair]):
    """Pairs with counts by source and of what was dropped.

    Args:
        pairs: The pairs.
        n_chunks: Chunks they were made from.
        dropped: Pairs left out, counted by reason.
    """

    def __init__(
        self, pairs: Sequence[TrainingPair], *, n_chunks: int, dropped: Mapping[str, int]
    ) -> None:
        self._pairs = tuple(pairs)
        self.n_chunks = n_chunks
        self.dropped = dict(dropped)
        self.counts = dict(Counter(p.source for p in self._pairs).most_common())

    @overload
    def __getitem__(self, index: int) -> TrainingPair: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[TrainingPair]: ...
    def __getitem__(self, index: int | slice) -> TrainingPair | Sequence[TrainingPair]:
        return self._pairs[index]

    def __len__(self) -> int:
        return len(self._pairs)

    def __repr__(self) -> str:
        return f"PairSet({len(self)} pairs: {self.counts})"

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as plain values for JSON."""
        return {
            "pairs": len(self),
            "chunks": self.n_chunks,
            "by_source": dict(self.counts),
            "dropped": dict(self.dropped),
        }

    def summary(self) -> str:
        """Return a few lines of text for people."""
        by_source = ", ".join(f"{name} {n:,}" for name, n in self.counts.items())
        lines = [f"Made {len(self):,} pairs from {self.n_chunks:,} chunks: {by_source}."]
        if any(self.dropped.values()):
            reasons = ", ".join(f"{name} {n:,}" for name, n in self.dropped.items() if n)
            lines.append(f"Left out: {reasons}.")
        return "\n".join(lines)


def make_pairs(
    chunks: Sequence[Chunk],
    *,
    sources: Mapping[str, float] | None = None,
    seed: int = 0,
    max_pairs_per_chunk: int = 4,
) -> PairSet:
    """Make training pairs from the structure of the chunks.

    Args:
        chunks: What `chunk_documents` returned; pass the training documents' chunks only.
        sources: Source name -> weight; 0 switches a source off, sources not named are off.
            None uses every registered source with its default weight.
        seed: Seed of the random crops and keyword draws.
        max_pairs_per_chunk: Most pairs for one chunk; heavier sources come first.

    Raises:
        EmptyInputError: When there are no chunks or all sources are off.
        UnknownNameError: When a source is not registered; names close matches.
        InputError: When a weight is negative.

    Example:
        >>> chunk = Chunk("a#0", "a", "Boil the water first. Then pour it over the leaves and "
        ...               "wait three minutes.", "How to make tea")
        >>> [(p.source, p.anchor) for p in make_pairs([chunk], sources={"title": 1.0})]
        [('title', 'How to make tea')]
    """
    check_in_range(max_pairs_per_chunk, name="max_pairs_per_chunk", low=1)
    if not chunks:
        raise EmptyInputError("There are no chunks to make pairs from.")
    if sources is None:
        weights = {name: PAIR_SOURCES[name].weight for name in PAIR_SOURCES}
    else:
        for name, weight in sources.items():
            PAIR_SOURCES[name]
            check_in_range(weight, name=f"weight of pair source {name!r}", low=0.0)
        weights = {name: float(weight) for name, weight in sources.items() if weight > 0}
    if not weights:
        raise EmptyInputError(
            f"Every pair source is switched off. Known: {', '.join(PAIR_SOURCES.names())}."
        )
    corpus = PairCorpus(chunks, seed)
    sieve = _Sieve(chunks)
    made: list[list[TrainingPair]] = [[] for _ in chunks]
    for name in sorted(weights, key=lambda n: (-weights[n], n)):
        for raw in _unambiguous(list(PAIR_SOURCES[name].make(corpus)), sieve):
            if len(made[raw.chunk]) >= max_pairs_per_chunk:
                sieve.dropped["over the limit per chunk"] += 1
            elif sieve.passes(raw):
                made[raw.chunk].append(_pair(raw, name, weights[name], chunks))
    return PairSet(
        [pair for pairs in made for pair in pairs], n_chunks=len(chunks), dropped=sieve.dropped
    )


#: Natural sources in the order in which evaluation prefers them, then what may replace them.
_HOLDOUT_ORDER = ("question_heading", "docstring", "title", "first_sentence")
_HOLDOUT_FALLBACK = ("crop", "keywords")


def holdout_pairs(chunks: Sequence[Chunk], *, seed: int = 0) -> PairSet:
    """Make at most one natural pair per chunk, to evaluate on.

    The evaluation corpus must show ``pair.positive`` in place of the chunk's text: the anchor
    has been taken out of it. Natural sources are preferred in the order question heading,
    docstring, title, first sentence. Only when not one chunk has a natural pair, crops and
    then keyword queries are used.

    Args:
        chunks: The chunks to ask about.
        seed: Seed of the crops, if any.

    Raises:
        EmptyInputError: When there are no chunks.

    Example:
        >>> chunk = Chunk("a#0", "a", "Boil the water first. Then pour it over the leaves and "
        ...               "wait three minutes.", "How to make tea")
        >>> [(p.source, p.anchor) for p in holdout_pairs([chunk])]
        [('question_heading', 'How to make tea')]
    """
    if not chunks:
        raise EmptyInputError("There are no chunks to make evaluation pairs from.")
    natural = [n for n in PAIR_SOURCES if PAIR_SOURCES[n].natural and n not in _HOLDOUT_ORDER]
    corpus = PairCorpus(chunks, seed)
    sieve = _Sieve(chunks)
    found: dict[int, TrainingPair] = {}
    for group in ((*_HOLDOUT_ORDER, *natural), _HOLDOUT_FALLBACK):
        for name in group:
            for raw in _unambiguous(list(PAIR_SOURCES[name].make(corpus)), sieve):
                if raw.chunk not in found and sieve.passes(raw):
                    found[raw.chunk] = _pair(raw, name, 1.0, chunks)
        if found:
            break
    pairs = [found[index] for index in sorted(found)]
    return PairSet(pairs, n_chunks=len(chunks), dropped=sieve.dropped)


def _pair(raw: RawPair, source: str, weight: float, chunks: Sequence[Chunk]) -> TrainingPair:
    chunk = chunks[raw.chunk]
    return TrainingPair(
        " ".join(raw.anchor.split()), raw.positive, source, weight, chunk.doc_id, chunk.chunk_id
    )


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _unambiguous(raws: list[RawPair], sieve: _Sieve) -> Iterator[RawPair]:
    """Drop anchors that stand for many passages, such as the heading "Parameters"."""
    users = Counter(anchor for anchor, _ in {(_folded(r.anchor), r.chunk) for r in raws})
    for raw in raws:
        if users[_folded(raw.anchor)] > _MAX_SHARED_ANCHOR:
            sieve.dropped["anchor fits many passages"] += 1
        else:
            yield raw


class _Sieve:
    """Decides which raw pairs are worth training on, and counts the others."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self.dropped: dict[str, int] = dict.fromkeys(
            (
                "too short",
                "anchor repeated in the positive",
                "duplicate",
                "anchor fits many passages",
                "over the limit per chunk",
            ),
            0,
        )
        self._seen: set[tuple[str, int]] = set()

    def passes(self, raw: RawPair) -> bool:
        anchor = _folded(raw.anchor)
        positive = _folded(raw.positive)
        if len(anchor) < _MIN_ANCHOR_CHARS or positive.count(" ") + 1 < _MIN_POSITIVE_WORDS:
            reason = "too short"
        elif anchor in positive:
            reason = "anchor repeated in the positive"
        elif (anchor, raw.chunk) in self._seen:
            reason = "duplicate"
        else:
            self._seen.add((anchor, raw.chunk))
            return True
        self.dropped[reason] += 1
        return False


def _register() -> None:
    from embedworks.data import _pair_sources as own

    for name, make, weight, natural in (
        ("title", own.title, 1.0, True),
        ("docstring", own.docstring, 1.0, True),
        ("question_heading", own.question_heading, 1.0, True),
        ("first_sentence", own.first_sentence, 0.8, True),
        ("crop", own.crop, 0.5, False),
        ("keywords", own.keywords, 0.5, False),
        ("related_terms", own.related_terms, 0.25, False),
    ):
        summary = (make.__doc__ or "").split("\n", 1)[0]
        PAIR_SOURCES.add(name, PairSource(make, weight, natural, summary), summary=summary)


_register()
