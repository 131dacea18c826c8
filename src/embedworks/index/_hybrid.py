"""Mode "hybrid": two rankers under one filter, fused, and refined by their first results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedworks._core.validation import check_k
from embedworks.index.bm25 import BM25Index
from embedworks.index.exact import ExactIndex, matching_rows
from embedworks.index.feedback import expand_terms, rank_weights, rocchio
from embedworks.index.fusion import reciprocal_rank_fusion, standardize

__all__ = ["RANKED_ROWS", "HybridSearch"]

_BLOCK_BYTES = 64 * 2**20
RANKED_ROWS = 1000  # of each ranker, under fusion by rank
_SMALLEST_DEVIATION = 0.25  # of BM25 scores, as a share of their mean


@dataclass(frozen=True, eq=False)
class HybridSearch:
    """Both indexes over the same M rows and how to combine them (see `HybridSettings`)."""

    dense: ExactIndex
    bm25: BM25Index
    bm25_weight: float
    feedback_rows: int
    feedback_terms: int
    original_weight: float
    fusion: str = "zscore"

    def run(
        self, texts: Sequence[str], vectors: np.ndarray, k: int, mask: np.ndarray | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return ``(rows, scores)`` per query, exactly min(k, matching) of them."""
        k = check_k(k)
        prepared = self.dense.prepare(vectors, allow_zero=True)
        rows = matching_rows(mask, len(self.dense))
        rows = np.arange(len(self.dense)) if rows is None else rows
        step = max(1, min(128, _BLOCK_BYTES // (4 * max(1, len(rows)))))
        results: list[tuple[np.ndarray, np.ndarray]] = []
        for start in range(0, len(texts), step):
            part = slice(start, start + step)
            results.extend(self._run_block(texts[part], prepared[part], k, rows))
        return results

    def _run_block(
        self, texts: Sequence[str], vectors: np.ndarray, k: int, rows: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        terms = [self.bm25.query_terms(text) for text in texts]
        if self.feedback_rows:
            first = self._rank(terms, vectors, self.feedback_rows, rows)
            refined = [
                self._refine(query, vector, best)
                for query, vector, (best, _) in zip(terms, vectors, first, strict=True)
            ]
            terms = [query for query, _ in refined]
            vectors = np.stack([vector for _, vector in refined])
        return self._rank(terms, vectors, k, rows)

    def _rank(
        self, terms: Sequence[dict[int, float]], vectors: np.ndarray, k: int, rows: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rank the rows, which all pass the filter, by both rankers together."""
        if self.fusion == "rrf":
            return self._rank_by_rank(terms, vectors, k, rows)
        approximate = self.dense.approximate(vectors, rows)
        margins = self.dense.margins(vectors)
        results = []
        for number, query in enumerate(terms):
            lexical = self._lexical(query, rows)
            mean, deviation = self._dense_scale(vectors[number])
            semantic = standardize(approximate[number], mean=mean, deviation=deviation)
            fused = lexical + (1.0 - self.bm25_weight) * semantic
            keep = np.arange(len(rows))
            if len(rows) > k:
                # Approximate scores choose candidates; exact ones, which depend neither on the
                # block nor on the other queries, order them.
                slack = (1.0 - self.bm25_weight) * float(margins[number]) / max(deviation, 1e-6)
                limit = np.partition(fused, len(fused) - k)[len(fused) - k]
                keep = np.flatnonzero(fused >= limit - slack - 1e-6)
            exact = self.dense.scores(vectors[number], rows[keep])
            semantic = standardize(exact, mean=mean, deviation=deviation)
            scores = (lexical[keep] + (1.0 - self.bm25_weight) * semantic).astype(np.float32)
            order = np.lexsort((rows[keep], -scores))[:k]
            results.append((rows[keep][order], scores[order]))
        return results

    def _rank_by_rank(
        self, terms: Sequence[dict[int, float]], vectors: np.ndarray, k: int, rows: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Fuse the best rows of both rankers by their ranks.

        The dense list alone has min(k, matching) rows or more, so the result has too.
        """
        mask = np.zeros(len(self.dense), dtype=bool)
        mask[rows] = True
        depth = max(k, RANKED_ROWS)
        dense_ids, _ = self.dense.search(vectors, depth, mask=mask, allow_zero=True)
        weights = (self.bm25_weight, 1.0 - self.bm25_weight)
        results = []
        for query, semantic in zip(terms, dense_ids, strict=True):
            lexical, _ = self.bm25.best(self.bm25.row_scores(query), depth, mask=mask)
            ids, scores = reciprocal_rank_fusion([lexical, semantic], weights=weights)
            results.append((ids[:k], scores[:k].astype(np.float32)))
        return results

    def _dense_scale(self, vector: np.ndarray) -> tuple[float, float]:
        """Return what is subtracted from a query's cosines, and by what they are divided."""
        if self.fusion == "linear":
            return -1.0, 2.0  # from [-1, 1] to [0, 1]
        return self.dense.moments(vector)

    def _lexical(self, query: dict[int, float], rows: np.ndarray) -> np.ndarray:
        """Return the weighted BM25 scores of the rows, on the scale of the fusion.

        The scale is that of all rows, so that a filter changes no score. Under "linear" 1 is the
        highest score of all rows. Under "zscore" mean and deviation are those of the rows that
        share a term with the query: with the others they would drift with the size of the
        collection. The floor keeps a few nearly equal scores from being blown up.
        """
        scores = self.bm25.row_scores(query).astype(np.float64)
        found = scores[scores > 0]
        if not len(found):
            return np.zeros(len(rows))
        if self.fusion == "linear":
            return self.bm25_weight * scores[rows] / float(found.max())
        mean = float(found.mean())
        deviation = max(float(found.std()), _SMALLEST_DEVIATION * mean)
        return self.bm25_weight * standardize(scores[rows], mean=mean, deviation=deviation)

    def _refine(
        self, query: dict[int, float], vector: np.ndarray, best: np.ndarray
    ) -> tuple[dict[int, float], np.ndarray]:
        """Move both forms of a query towards its first results."""
        weights = rank_weights(len(best))
        moved = rocchio(
            vector,
            self.dense.unit_vectors(best),
            weights=weights,
            original_weight=self.original_weight,
        )
        expanded = expand_terms(
            query,
            [self.bm25.row_profile(row) for row in best.tolist()],
            weights=weights,
            idf=self.bm25.arrays["idf"],
            terms=self.feedback_terms,
            original_weight=self.original_weight,
        )
        return expanded, moved
