"""Search one version of a collection: check the query, filter, rank, show."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from embedworks._core.validation import check_in_range, check_k, check_texts, check_vectors
from embedworks.data.chunking import with_title
from embedworks.errors import DataWarning, EmptyInputError, InputError, ShapeError
from embedworks.index._snapshot import Snapshot
from embedworks.index.analysis import Analyzer
from embedworks.index.highlight import best_passage
from embedworks.index.modes import SEARCH_MODES, HybridSettings, Queries, Ranked, Searchable
from embedworks.index.reranking import Reranker, rerank_order, rerank_scores
from embedworks.index.results import BatchResult, Explanation, Hit
from embedworks.index.where import Condition, parse_where

__all__ = ["Clock", "QueryEncoder", "Searcher", "make_hit", "prepare_queries"]

_HIT_COLUMNS = ("chunk_id", "doc_id", "title", "path", "start_line", "end_line", "text")


class QueryEncoder(Protocol):
    """Anything that turns texts into vectors; ``encode_query`` is used when it is there."""

    def encode(self, texts: Sequence[str], /) -> np.ndarray:
        """Return float vectors of shape (N, D)."""
        ...


@dataclass(frozen=True, eq=False)
class Searcher:
    """One snapshot and the options of one search."""

    snapshot: Snapshot
    mode: str
    encoder: QueryEncoder | None
    hybrid: HybridSettings | None
    reranker: Reranker | None = None
    rerank_depth: int = 50

    def one(
        self,
        query: str | None,
        vector: np.ndarray | None,
        k: int,
        where: str | Condition | None,
    ) -> tuple[list[Hit], Explanation]:
        """Search for one query; returns the hits and how they were found."""
        mode, k = SEARCH_MODES[self.mode], check_k(k)
        clock = Clock()
        if query is not None and not isinstance(query, str):
            raise InputError(f"query must be a string, got {type(query).__name__}.")
        condition = parse_where(where) if isinstance(where, str) else where
        mask = self.snapshot.mask(condition)
        clock.lap("filter")
        queries = self._prepare(None if query is None else [query], _one_vector(vector))
        clock.lap("encode")
        ids, first = mode.run(self._searchable(), queries, self._depth(k), mask)[0]
        clock.lap("rank")
        scores = first
        if self.reranker is not None:
            ids, scores, first = self._rerank(queries, [(ids, first)], k)[0]
            clock.lap("rerank")
        hits = self._hits(ids, scores, first, query or "")
        clock.lap("highlight")
        rows = len(self.snapshot.rows)
        matching = rows if mask is None else int(mask.sum())
        explanation = Explanation(
            mode=self.mode,
            where=None if condition is None else str(condition),
            rows=rows,
            matching=matching,
            plan=(
                *mode.plan(self._searchable(), self._depth(k), mask),
                *self._rerank_plan(k, matching),
            ),
            seconds=clock.laps,
            version=self.snapshot.commit.version,
        )
        return hits, explanation

    def many(
        self,
        queries: Sequence[str] | None,
        vectors: np.ndarray | None,
        k: int,
        where: str | Condition | None,
    ) -> BatchResult:
        """Search for Q queries under one filter."""
        mode, k = SEARCH_MODES[self.mode], check_k(k)
        mask = self.snapshot.mask(where)
        prepared = self._prepare(queries, vectors)
        ranked = mode.run(self._searchable(), prepared, self._depth(k), mask)
        again = None if self.reranker is None else self._rerank(prepared, ranked, k)
        rows = [entry[0] for entry in again or ranked]
        return BatchResult(
            rows=rows,
            scores=[entry[1] for entry in again or ranked],
            chunk_ids=self._values("chunk_id", rows),
            doc_ids=self._values("doc_id", rows),
            first_scores=None if again is None else [entry[2] for entry in again],
        )

    def _depth(self, k: int) -> int:
        """Return how many rows the mode must rank."""
        if self.reranker is None:
            return k
        return max(k, int(check_in_range(self.rerank_depth, name="rerank_depth", low=1)))

    def _rerank(
        self, queries: Queries, ranked: Sequence[Ranked], k: int
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return rows, the reranker's scores and the mode's, the ``k`` best of each query."""
        assert self.reranker is not None
        if queries.texts is None:
            raise InputError("rerank needs the query's text: give it beside the vector.")
        rows = [ids for ids, _ in ranked]
        titles, texts = self._values("title", rows), self._values("text", rows)
        pairs = [
            (query, with_title(title or "", text))
            for query, *shown in zip(queries.texts, titles, texts, strict=True)
            for title, text in zip(*shown, strict=True)
        ]
        scores = rerank_scores(self.reranker, pairs)
        parts = np.split(scores, np.cumsum([len(ids) for ids in rows])[:-1])
        result = []
        for (ids, first), again in zip(ranked, parts, strict=True):
            order = rerank_order(again, k)
            result.append((ids[order], again[order], first[order]))
        return result

    def _rerank_plan(self, k: int, matching: int) -> tuple[str, ...]:
        if self.reranker is None:
            return ()
        count = min(self._depth(k), matching)
        name = type(self.reranker).__name__
        return (f"rerank: read query and text of the first {count:,} rows with {name}",)

    def _searchable(self) -> Searchable:
        hybrid = self.hybrid or HybridSettings.from_dict(self.snapshot.metadata.get("hybrid", {}))
        snapshot = self.snapshot
        return Searchable(snapshot.dense, snapshot.bm25, hybrid, snapshot.planned)

    def _prepare(self, texts: Sequence[str] | None, vectors: np.ndarray | None) -> Queries:
        encoder = self.encoder if SEARCH_MODES[self.mode].uses_vectors else None
        dim = self.snapshot.dense.vectors.shape[1]
        return prepare_queries(texts, vectors, encoder=encoder, dim=dim, mode=self.mode)

    def _hits(
        self, ids: np.ndarray, scores: np.ndarray, first: np.ndarray, query: str
    ) -> list[Hit]:
        rows = self.snapshot.rows.take(_arrow_integers(ids)).to_pylist()
        terms = set(self.snapshot.bm25.analyzer.terms(query))
        hits = [
            make_hit(rank, score, row, terms, self.snapshot.bm25.analyzer)
            for rank, (row, score) in enumerate(zip(rows, scores.tolist(), strict=True), start=1)
        ]
        if self.reranker is None:
            return hits
        return [replace(h, first_score=s) for h, s in zip(hits, first.tolist(), strict=True)]

    def _values(self, column: str, rows: list[np.ndarray]) -> list[list[str]]:
        """Return a text column's values for lists of row numbers."""
        sizes = [len(part) for part in rows]
        flat = np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)
        values = self.snapshot.rows.column(column).take(_arrow_integers(flat)).to_pylist()
        ends = np.cumsum(sizes).tolist()
        return [values[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def prepare_queries(
    texts: Sequence[str] | None,
    vectors: np.ndarray | None,
    *,
    encoder: QueryEncoder | None,
    dim: int,
    mode: str,
) -> Queries:
    """Check queries and encode them when the mode needs vectors."""
    if texts is None and vectors is None:
        raise EmptyInputError("A search needs a query text or a vector.")
    if texts is not None:
        texts = check_texts(texts, name="queries")
        blank = [number for number, text in enumerate(texts) if not text.strip()]
        if blank:
            raise EmptyInputError(
                f"{len(blank)} of {len(texts)} queries are empty (the first is number "
                f"{blank[0]}): write what you are looking for."
            )
    uses_vectors = SEARCH_MODES[mode].uses_vectors
    if vectors is None and texts and uses_vectors and encoder is not None:
        encode = getattr(encoder, "encode_query", encoder.encode)
        vectors = np.asarray(encode(texts))
    if vectors is not None:
        vectors = check_vectors(vectors, name="query vectors", dim=dim, allow_empty=True)
        if texts is not None and len(texts) != len(vectors):
            raise ShapeError(f"{len(texts)} queries come with {len(vectors)} vectors.")
        zero = int((~vectors.any(axis=1)).sum())
        if zero and uses_vectors:
            warnings.warn(
                f"{zero} of {len(vectors)} queries have a zero vector (no token the model "
                "knows): the dense ranking says nothing about them.",
                DataWarning,
                stacklevel=5,
            )
    return Queries(texts, vectors)


def make_hit(
    rank: int, score: float, row: Mapping[str, Any], terms: set[str], analyzer: Analyzer
) -> Hit:
    """Show one row that was found, with the passage that has the query's terms."""
    found = best_passage(row["text"], terms, analyzer=analyzer)
    others = {n: v for n, v in row.items() if n not in _HIT_COLUMNS and v is not None}
    return Hit(
        rank=rank,
        score=score,
        chunk_id=row["chunk_id"],
        doc_id=row["doc_id"],
        title=row["title"] or "",
        path=row["path"] or "",
        start_line=row["start_line"],
        end_line=row["end_line"],
        text=row["text"],
        passage=found.text,
        highlights=found.spans,
        attributes=others,
    )


def _one_vector(vector: np.ndarray | None) -> np.ndarray | None:
    """Return one vector (D,) as an array (1, D)."""
    if vector is None:
        return None
    array = np.atleast_2d(np.asarray(vector))
    if len(array) != 1:
        raise ShapeError(f"vector must have shape (D,), got {np.shape(vector)}.")
    return array


def _arrow_integers(values: np.ndarray) -> pa.Array:
    """View int64 values as an Arrow array; unlike ``pa.array`` this never imports pandas."""
    buffer = pa.py_buffer(np.ascontiguousarray(values, dtype=np.int64))
    return pa.Array.from_buffers(pa.int64(), len(values), [None, buffer])


class Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now
