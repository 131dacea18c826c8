"""The ways to rank a collection's rows for a query: dense, BM25, or both together.

A mode sees vectors and an inverted index over the same M rows; it knows nothing about storage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from embedworks._core.registry import Registry
from embedworks._core.validation import check_in_range
from embedworks.errors import InputError
from embedworks.index.bm25 import BM25Index
from embedworks.index.exact import ExactIndex
from embedworks.index.fusion import reciprocal_rank_fusion

__all__ = ["SEARCH_MODES", "HybridSettings", "Queries", "Ranked", "SearchMode", "Searchable"]

#: One ranked list: row numbers (int64) and scores (float32), best first.
Ranked = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class HybridSettings:
    """How mode ``"hybrid"`` combines dense and BM25 rankings.

    Attributes:
        fusion_k: Constant of reciprocal-rank fusion; smaller trusts the first places more.
        bm25_weight: Weight of the BM25 ranking; the dense one has weight 1.
        depth: How many rows of each ranking are fused.
    """

    fusion_k: float = 10.0
    bm25_weight: float = 1.0
    depth: int = 1000

    def __post_init__(self) -> None:
        check_in_range(self.fusion_k, name="fusion_k", low=0.0)
        check_in_range(self.bm25_weight, name="bm25_weight", low=0.0)
        check_in_range(self.depth, name="depth", low=1)


@dataclass(frozen=True)
class Searchable:
    """What a mode searches: the same M rows as vectors and as postings."""

    dense: ExactIndex
    bm25: BM25Index
    hybrid: HybridSettings = field(default_factory=HybridSettings)


@dataclass(frozen=True)
class Queries:
    """Q queries as texts, as vectors (Q, D), or both."""

    texts: Sequence[str] | None
    vectors: np.ndarray | None

    def __len__(self) -> int:
        return len(self.texts if self.texts is not None else self._vectors())

    def _vectors(self) -> np.ndarray:
        assert self.vectors is not None
        return self.vectors

    def need_texts(self, mode: str) -> Sequence[str]:
        """Return the texts or say why the mode needs them."""
        if self.texts is None:
            raise InputError(f"mode={mode!r} needs the query's text. Give it, or use mode='dense'.")
        return self.texts

    def need_vectors(self, mode: str) -> np.ndarray:
        """Return the vectors or say why the mode needs them."""
        if self.vectors is None:
            raise InputError(
                f"mode={mode!r} needs the query's vector. Give encoder=, the model that made the "
                "collection's vectors, or use mode='bm25'."
            )
        return self.vectors


@dataclass(frozen=True)
class SearchMode:
    """One way to rank.

    Attributes:
        name: What a caller writes.
        uses_vectors: Whether query texts must be encoded.
        plan: ``plan(searchable, matching)`` says in words what a search does.
        run: ``run(searchable, queries, k, mask)`` returns one `Ranked` per query: rows pass the
            mask, sorted by score, highest first, equal scores by ascending row.
    """

    name: str
    uses_vectors: bool
    plan: Callable[[Searchable, int], tuple[str, ...]]
    run: Callable[[Searchable, Queries, int, np.ndarray | None], list[Ranked]]


#: Search modes by name.
SEARCH_MODES: Registry[SearchMode] = Registry("search modes")


def dense(
    searchable: Searchable, queries: Queries, k: int, mask: np.ndarray | None
) -> list[Ranked]:
    """Rank by exact cosine similarity: exactly min(k, matching) rows."""
    vectors = queries.need_vectors("dense")
    ids, scores = searchable.dense.search(vectors, k, mask=mask, allow_zero=True)
    return list(zip(ids, scores, strict=True))


def bm25(searchable: Searchable, queries: Queries, k: int, mask: np.ndarray | None) -> list[Ranked]:
    """Rank by BM25: only rows that share a term with the query."""
    return searchable.bm25.search(queries.need_texts("bm25"), k, mask=mask)


def hybrid(
    searchable: Searchable, queries: Queries, k: int, mask: np.ndarray | None
) -> list[Ranked]:
    """Fuse both rankings by reciprocal rank: exactly min(k, matching) rows."""
    settings = searchable.hybrid
    texts, vectors = queries.need_texts("hybrid"), queries.need_vectors("hybrid")
    depth = max(k, settings.depth)
    ids, _ = searchable.dense.search(vectors, depth, mask=mask, allow_zero=True)
    results: list[Ranked] = []
    for row, (found, _) in zip(ids, searchable.bm25.search(texts, depth, mask=mask), strict=True):
        fused, scores = reciprocal_rank_fusion(
            [row, found], k=settings.fusion_k, weights=[1.0, settings.bm25_weight]
        )
        results.append((fused[:k], scores[:k].astype(np.float32)))
    return results


def _plan_dense(searchable: Searchable, matching: int) -> tuple[str, ...]:
    return (searchable.dense.plan(matching),)


def _plan_bm25(searchable: Searchable, matching: int) -> tuple[str, ...]:
    terms = len(searchable.bm25.vocabulary)
    return (f"BM25: add up the postings of the query's terms ({terms:,} terms known)",)


def _plan_hybrid(searchable: Searchable, matching: int) -> tuple[str, ...]:
    settings = searchable.hybrid
    fusion = (
        f"reciprocal-rank fusion of the first {settings.depth} of each, k = {settings.fusion_k:g}"
    )
    return (*_plan_dense(searchable, matching), *_plan_bm25(searchable, matching), fusion)


for _name, _vectors, _plan, _run in (
    ("dense", True, _plan_dense, dense),
    ("bm25", False, _plan_bm25, bm25),
    ("hybrid", True, _plan_hybrid, hybrid),
):
    SEARCH_MODES.add(_name, SearchMode(_name, _vectors, _plan, _run), summary=_run.__doc__ or "")
