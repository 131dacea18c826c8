"""Search a served collection: what to ask the server, and what to make of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from embedworks._core.validation import check_in_range, check_k
from embedworks.data.chunking import with_title
from embedworks.errors import InputError
from embedworks.index._milvus import ServedColumn, expression, from_served
from embedworks.index._searcher import Clock, QueryEncoder, make_hit, prepare_queries
from embedworks.index._served_client import TERMS, VECTOR, served
from embedworks.index.analysis import Analyzer
from embedworks.index.fusion import reciprocal_rank_fusion
from embedworks.index.modes import SEARCH_MODES, HybridSettings, Queries
from embedworks.index.reranking import Reranker, rerank_order, rerank_scores
from embedworks.index.results import Explanation, Hit
from embedworks.index.where import Condition, parse_where

__all__ = ["ServedSearch", "Target"]

_MOST_RESULTS = 16_384
_FUSED_ROWS = 1_000


@dataclass(frozen=True)
class Target:
    """The collection on the server, as a search sees it."""

    client: Any
    name: str
    dim: int
    columns: tuple[ServedColumn, ...]
    metadata: Mapping[str, Any]
    analyzer: Analyzer

    def count(self, where: str | Condition | None) -> int:
        """Return how many rows match a filter."""
        chosen = expression(where, self.columns)
        with served(self.name):
            found = self.client.query(self.name, filter=chosen, output_fields=["count(*)"])
        return int(found[0]["count(*)"])


@dataclass(frozen=True)
class Found:
    """One row of a ranking, with its score and, after reranking, the one before."""

    row: dict[str, Any]
    score: float
    first: float


class ServedSearch:
    """One search with its options."""

    def __init__(
        self,
        target: Target,
        mode: str,
        encoder: QueryEncoder | None,
        hybrid: HybridSettings | None,
        reranker: Reranker | None,
        rerank_depth: int,
    ) -> None:
        self.target = target
        self.mode = SEARCH_MODES[mode].name
        self.encoder = encoder
        stored = target.metadata.get("hybrid", {})
        self.hybrid = hybrid or HybridSettings.from_dict(stored)
        self.reranker = reranker
        self.depth = int(check_in_range(rerank_depth, name="rerank_depth", low=1))

    def one(
        self,
        query: str | None,
        vector: np.ndarray | None,
        k: int,
        where: str | Condition | None,
    ) -> tuple[list[Hit], Explanation]:
        """Search for one query; returns the hits and how they were found."""
        clock = Clock()
        queries = None if query is None else [query]
        vectors = None if vector is None else np.atleast_2d(np.asarray(vector))
        found = self.ranked(queries, vectors, k, where)[0]
        clock.lap("search")
        analyzer = self.target.analyzer
        terms = set(analyzer.terms(query or ""))
        hits = [
            make_hit(rank, f.score, f.row, terms, analyzer) for rank, f in enumerate(found, start=1)
        ]
        if self.reranker is not None:
            hits = [replace(hit, first_score=f.first) for hit, f in zip(hits, found, strict=True)]
        clock.lap("highlight")
        condition = parse_where(where) if isinstance(where, str) else where
        told = Explanation(
            mode=self.mode,
            where=None if condition is None else str(condition),
            rows=self.target.count(None),
            matching=self.target.count(condition),
            plan=self._plan(k, condition),
            seconds=clock.laps,
            version=None,
        )
        return hits, told

    def ranked(
        self,
        texts: Sequence[str] | None,
        vectors: np.ndarray | None,
        k: int,
        where: str | Condition | None,
    ) -> list[list[Found]]:
        """Return the ``k`` best rows of every query."""
        k = check_k(k)
        wanted = k if self.reranker is None else max(k, self.depth)
        if wanted > _MOST_RESULTS:
            raise InputError(f"A server returns at most {_MOST_RESULTS:,} rows, not {wanted:,}.")
        encoder = self.encoder if SEARCH_MODES[self.mode].uses_vectors else None
        dim = self.target.dim
        queries = prepare_queries(texts, vectors, encoder=encoder, dim=dim, mode=self.mode)
        chosen = expression(where, self.target.columns)
        if self.mode == "dense":
            lists = self._dense(queries, wanted, chosen)
        elif self.mode == "bm25":
            lists = self._words(queries, wanted, chosen)
        else:
            depth = max(wanted, _FUSED_ROWS)
            words = self._words(queries, depth, chosen)
            dense = self._dense(queries, depth, chosen)
            lists = [self._fuse(*both)[:wanted] for both in zip(words, dense, strict=True)]
        if self.reranker is None:
            return lists
        if queries.texts is None:
            raise InputError("rerank needs the query's text: give it beside the vector.")
        pairs = zip(queries.texts, lists, strict=True)
        return [self._rerank(query, found, k) for query, found in pairs]

    def _dense(self, queries: Queries, limit: int, chosen: str) -> list[list[Found]]:
        vectors = queries.need_vectors(self.mode)
        return self._ask(vectors.tolist(), VECTOR, "COSINE", limit, chosen)

    def _words(self, queries: Queries, limit: int, chosen: str) -> list[list[Found]]:
        texts = list(queries.need_texts(self.mode))
        return self._ask(texts, TERMS, "BM25", limit, chosen)

    def _ask(
        self, data: list[Any], field: str, metric: str, limit: int, chosen: str
    ) -> list[list[Found]]:
        target = self.target
        if not data:
            return []
        with served(target.name):
            answers = target.client.search(
                target.name,
                data,
                anns_field=field,
                search_params={"metric_type": metric},
                limit=limit,
                filter=chosen,
                output_fields=[column.field for column in target.columns],
            )
        result = []
        for answer in answers:
            found = []
            for entry in answer:
                # The embedded server gives BM25 scores, which are never negative, a minus sign.
                score = float(entry["distance"])
                score = abs(score) if metric == "BM25" else score
                row = from_served(entry["entity"], target.columns)
                found.append(Found(row, score, score))
            result.append(sorted(found, key=lambda f: -f.score))
        return result

    def _fuse(self, words: list[Found], dense: list[Found]) -> list[Found]:
        rows = {f.row["chunk_id"]: f.row for f in (*dense, *words)}
        numbers = {name: number for number, name in enumerate(rows)}
        rankings = [
            np.array([numbers[f.row["chunk_id"]] for f in found], dtype=np.int64)
            for found in (words, dense)
        ]
        share = self.hybrid.bm25_weight
        ids, scores = reciprocal_rank_fusion(rankings, weights=(share, 1.0 - share))
        names = list(rows)
        return [
            Found(rows[names[number]], score, score)
            for number, score in zip(ids.tolist(), scores.tolist(), strict=True)
        ]

    def _rerank(self, query: str, found: list[Found], k: int) -> list[Found]:
        assert self.reranker is not None
        pairs = [(query, with_title(f.row["title"] or "", f.row["text"])) for f in found]
        scores = rerank_scores(self.reranker, pairs)
        return [
            Found(found[place].row, float(scores[place]), found[place].first)
            for place in rerank_order(scores, k).tolist()
        ]

    def _plan(self, k: int, condition: Condition | None) -> tuple[str, ...]:
        steps = []
        if condition is not None:
            steps.append(f"the server filters: {expression(condition, self.target.columns)}")
        if self.mode != "bm25":
            steps.append("the server ranks by cosine")
        if self.mode != "dense":
            steps.append("the server ranks by its full-text BM25")
        if self.mode == "hybrid":
            share = self.hybrid.bm25_weight
            steps.append(
                f"add up weight / (60 + rank) over the first {_FUSED_ROWS:,} of each: "
                f"{share:.2f} BM25, {1 - share:.2f} dense"
            )
        if self.reranker is not None:
            name = type(self.reranker).__name__
            steps.append(f"rerank: read query and text of the first {max(k, self.depth)} by {name}")
        return tuple(steps)
