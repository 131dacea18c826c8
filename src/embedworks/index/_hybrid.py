"""Mode "hybrid": averaged z-scores of two rankers, refined by their first results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedworks._core.validation import check_k
from embedworks.index.bm25 import BM25Index
from embedworks.index.exact import ExactIndex, matching_rows
from embedworks.index.feedback import expand_terms, rank_weights, rocchio
from embedworks.index.fusion import standardize

__all__ = ["HybridSearch"]

_BLOCK_BYTES = 64 * 2**20
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
        """Rank the rows by the weighted mean of z-scores."""
        approximate = self.dense.approximate(vectors, rows)
        margins = self.dense.margins(vectors)
        results = []
        for number, query in enumerate(terms):
            lexical = self._lexical(query, rows)
            mean, deviation = self.dense.moments(vectors[number])
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

    def _lexical(self, query: dict[int, float], rows: np.ndarray) -> np.ndarray:
        """Return the weighted BM25 z-scores of the rows.

        Mean and deviation are those of all rows that share a term with the query: over all
        rows they would drift with the size of the collection. The floor keeps a few nearly
        equal scores from being blown up.
        """
        scores = self.bm25.row_scores(query).astype(np.float64)
        found = scores[scores > 0]
        if not len(found):
            return np.zeros(len(rows))
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
