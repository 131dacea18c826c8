"""What every collection offers a reader: counting, searching, explaining."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from embedworks.index._searcher import QueryEncoder, Searcher
from embedworks.index._snapshot import Snapshot
from embedworks.index.modes import HybridSettings
from embedworks.index.reranking import Reranker
from embedworks.index.results import BatchResult, Explanation, Hit
from embedworks.index.where import Condition

__all__ = ["Reading"]


class Reading(ABC):
    """Search one version, given as a snapshot."""

    @abstractmethod
    def _snapshot(self) -> Snapshot:
        """Return the version to read, ready to search."""

    @property
    def rows(self) -> pa.Table:
        """All rows without vectors, in row order; memory-mapped."""
        return self._snapshot().rows

    @property
    def vectors(self) -> np.ndarray:
        """All vectors, float32 (M, D), in row order; memory-mapped, read-only."""
        return self._snapshot().dense.vectors

    def count(self, where: str | Condition | None = None) -> int:
        """Return how many rows match a filter.

        Raises:
            QuerySyntaxError: When the filter is wrong or names a column that is not there.
        """
        snapshot = self._snapshot()
        mask = snapshot.mask(where)
        return len(snapshot.rows) if mask is None else int(np.count_nonzero(mask))

    def memory(self) -> dict[str, int]:
        """Return the bytes of each part; memory-mapped parts are read as they are needed."""
        snapshot = self._snapshot()
        parts = {
            "rows": int(snapshot.rows.nbytes),
            "vectors": int(snapshot.dense.vectors.nbytes),
            "bm25": snapshot.bm25.memory(),
            "filters": snapshot.masks.nbytes(),
            **({} if snapshot.planned is None else snapshot.planned.memory()),
        }
        return {**parts, "total": sum(parts.values())}

    def search(
        self,
        query: str | None = None,
        *,
        vector: np.ndarray | None = None,
        k: int = 10,
        where: str | Condition | None = None,
        mode: str = "hybrid",
        encoder: QueryEncoder | None = None,
        hybrid: HybridSettings | None = None,
        rerank: Reranker | None = None,
        rerank_depth: int = 50,
    ) -> list[Hit]:
        """Return the best rows for a query.

        Args:
            query: Text of the query.
            vector: Its vector (D,), to save encoding it or to search without a text.
            k: Number of results wanted; all matching rows when there are fewer.
            where: Filter, such as ``"path LIKE 'http%' AND year >= 2020"``.
            mode: A name in `SEARCH_MODES`. ``"dense"`` and ``"hybrid"`` return exactly
                min(k, matching) rows, ``"bm25"`` only rows that share a term with the query.
            encoder: The model that made the collection's vectors.
            hybrid: How mode ``"hybrid"`` combines; None for what the collection's metadata
                say, or the defaults.
            rerank: A model with ``predict(pairs)``, such as a ``CrossEncoder``, that reads query
                and text together and puts the first results in a new order. Hits then have
                both scores.
            rerank_depth: How many first results it reads, at least ``k``.

        Raises:
            EmptyInputError: When the query is blank.
            InputError: When the mode needs a text, a vector or an encoder and has none.
            ShapeError: When the vector does not have the collection's dimension.
            QuerySyntaxError: When the filter is wrong.
            UnknownNameError: When the mode is not known.
        """
        return Searcher(self._snapshot(), mode, encoder, hybrid, rerank, rerank_depth).one(
            query, vector, k, where
        )[0]

    def explain(
        self,
        query: str | None = None,
        *,
        vector: np.ndarray | None = None,
        k: int = 10,
        where: str | Condition | None = None,
        mode: str = "hybrid",
        encoder: QueryEncoder | None = None,
        hybrid: HybridSettings | None = None,
        rerank: Reranker | None = None,
        rerank_depth: int = 50,
    ) -> Explanation:
        """Carry out a search and tell how: arguments as for `search`."""
        return Searcher(self._snapshot(), mode, encoder, hybrid, rerank, rerank_depth).one(
            query, vector, k, where
        )[1]

    def search_many(
        self,
        queries: Sequence[str] | None = None,
        *,
        vectors: np.ndarray | None = None,
        k: int = 10,
        where: str | Condition | None = None,
        mode: str = "hybrid",
        encoder: QueryEncoder | None = None,
        hybrid: HybridSettings | None = None,
        rerank: Reranker | None = None,
        rerank_depth: int = 50,
    ) -> BatchResult:
        """Return ids and scores for many queries at once; arguments as for `search`.

        Args:
            queries: Q texts.
            vectors: Their vectors (Q, D).
            k: Number of results wanted per query.
            where: One filter for all.
            mode: A name in `SEARCH_MODES`.
            encoder: The model that made the collection's vectors.
            hybrid: How mode ``"hybrid"`` combines.
            rerank: A model that puts each query's first results in a new order.
            rerank_depth: How many it reads per query.
        """
        return Searcher(self._snapshot(), mode, encoder, hybrid, rerank, rerank_depth).many(
            queries, vectors, k, where
        )
