"""Word vectors by counting and factorising: positive pointwise mutual information and an SVD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.seeding import generator
from embedworks._core.validation import check_in_range
from embedworks.errors import InputError
from embedworks.models.static import StaticModel
from embedworks.models.words.cooccurrence import Cooccurrences, count_cooccurrences
from embedworks.models.words.corpus import WordCorpus
from embedworks.models.words.methods import WORD_METHODS, WordRun, training_record, word_model

__all__ = ["PPMI", "ppmi_values"]


def ppmi_values(
    counts: Cooccurrences, *, smoothing: float = 0.75, negatives: float = 1.0
) -> np.ndarray:
    """Return ``max(0, ln(p(w, c) / (p(w) p_s(c))) - ln negatives)`` of each pair, float64 (P,).

    ``p_s(c)`` is in proportion to ``count(c) ** smoothing``: context distribution smoothing, which
    keeps rare contexts from looking like the strongest. Levy, Goldberg and Dagan 2015, section
    3.2.

    Args:
        counts: Pairs with their counts.
        smoothing: Exponent; 1 for none.
        negatives: 1 for PPMI; k gives the shifted PPMI that skip-gram with k negatives approaches.

    Example:
        >>> pairs = Cooccurrences(np.array([0, 1]), np.array([1, 0]), np.array([2.0, 2.0]))
        >>> np.exp(ppmi_values(pairs, smoothing=1.0)).tolist()
        [2.0, 2.0]
    """
    check_in_range(smoothing, name="smoothing", low=0, high=1)
    check_in_range(negatives, name="negatives", low=0, open_low=True)
    size = int(max(counts.rows.max(), counts.columns.max())) + 1
    by_row = np.bincount(counts.rows, counts.values, size)
    by_column = np.bincount(counts.columns, counts.values, size) ** smoothing
    total, smooth_total = by_row.sum(), by_column.sum()
    expected = by_row[counts.rows] / total * by_column[counts.columns] / smooth_total
    return np.maximum(0.0, np.log(counts.values / total / expected) - np.log(negatives))


@WORD_METHODS.register("ppmi", summary="Counted company (PPMI), factorised by an SVD.")
@dataclass(frozen=True)
class PPMI:
    """Rows of ``U S^power`` of the matrix of `ppmi_values`: no gradients, one pass over the texts.

    Often as good as skip-gram on a small corpus (Levy, Goldberg and Dagan 2015). Near words count
    more than far ones, as with word2vec's drawn windows.

    Args:
        smoothing: Exponent of the contexts' counts.
        negatives: 1 for PPMI, k for shifted PPMI (SPPMI).
        power: 0.5 shares the singular values between words and contexts; 0 leaves them out.

    Raises:
        InputError: When a number is out of range.
    """

    smoothing: float = 0.75
    negatives: float = 1.0
    power: float = 0.5

    def __post_init__(self) -> None:
        check_in_range(self.smoothing, name="smoothing", low=0, high=1)
        check_in_range(self.negatives, name="negatives", low=0, open_low=True)
        check_in_range(self.power, name="power", low=0, high=1)

    def train(self, corpus: WordCorpus, run: WordRun) -> StaticModel:
        """Return a word model of the left singular vectors.

        Raises:
            InputError: When ``dim`` is not below the number of words, or no pair is left.
            MissingExtraError: When scipy is not installed.
        """
        corpus.require_pairs()
        size = len(corpus.words)
        if run.dim >= size:
            raise InputError(f"dim={run.dim} must be below the number of words, {size}.")
        sparse: Any = require_extra("scipy.sparse", extra="train", purpose="factorise counts")
        linalg: Any = require_extra("scipy.sparse.linalg", extra="train", purpose="factorise")
        counts = count_cooccurrences(corpus, run.window, show_progress=run.show_progress)
        values = ppmi_values(counts, smoothing=self.smoothing, negatives=self.negatives)
        there = values > 0
        if not there.any():
            raise InputError(f"negatives={self.negatives:g} leaves no pair: use a smaller number.")
        where = (counts.rows[there], counts.columns[there])
        matrix = sparse.csr_matrix((values[there], where), shape=(size, size))
        start = generator(run.seed, "svd").standard_normal(size)
        left, singular, _ = linalg.svds(matrix, k=run.dim, v0=start)
        order = np.argsort(-singular, kind="stable")
        left, singular = left[:, order], singular[order]
        left *= np.sign(left[np.abs(left).argmax(axis=0), np.arange(run.dim)])  # one sign always
        record = training_record("ppmi", self, corpus, run)
        table = left * np.maximum(singular, 0) ** self.power
        return word_model(corpus.words, table, name="ppmi", metadata=record)
