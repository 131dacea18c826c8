"""Words of a corpus and their weights: which terms of a chunk are specific to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedworks.data._words import word_list, words_of

__all__ = ["STOP_WORDS", "Terms"]


#: English words too common to say anything, for collections too small to show it; the rest is
#: left to document frequency.
STOP_WORDS = word_list(
    """
    a about above after again all also an and any are as at be because been before being
    below between both but by can cannot could did do does doing down during each else etc
    few for from further had has have having he her here him his how i if in into is it its
    itself just may me more most must my no nor not now of off on once only or other our out
    over own per same self she should so some such than that the their them then there these
    they this those through to too under until up upon us use used using very via was we
    were what when where which while who whom why will with within without would you your
    def class return none true false import elif try except raise pass lambda yield args
    kwargs param returns raises
    """
)


@dataclass(slots=True)
class Terms:
    """Weighted terms of every text of a corpus.

    Args:
        vocabulary: Term of each column, V in all.
        document_frequency: Texts that contain the term, shape (V,).
        top: For each text the columns of its most specific terms, best first.
        weights: TF-IDF weights of ``top``, same shapes.
    """

    vocabulary: list[str]
    document_frequency: np.ndarray
    top: list[np.ndarray]
    weights: list[np.ndarray]

    @classmethod
    def of(cls, texts: Sequence[str], *, keep: int = 16) -> Terms:
        """Count words of ``texts``, weight them by (1 + log tf) * idf, keep the best of each."""
        column: dict[str, int] = {}
        counted: list[tuple[list[int], list[int]]] = []
        for text in texts:
            counts = Counter(
                w
                for w in words_of(text)
                if 2 < len(w) <= 30 and w not in STOP_WORDS and not w[0].isdigit()
            )
            columns = [column.setdefault(w, len(column)) for w in counts]
            counted.append((columns, list(counts.values())))
        frequency = np.zeros(len(column), dtype=np.int64)
        for columns, _ in counted:
            frequency[columns] += 1
        idf = np.log((1.0 + len(texts)) / (1.0 + frequency)) + 0.1
        top, weights = [], []
        for columns, counts_of in counted:
            at = np.asarray(columns, dtype=np.int64)
            weight = (1.0 + np.log(np.asarray(counts_of, dtype=np.float64))) * idf[at]
            order = np.argsort(-weight, kind="stable")[:keep]
            top.append(at[order])
            weights.append(weight[order])
        return cls(list(column), frequency, top, weights)

    def related(
        self, *, shared: int = 3, max_frequency: int | None = None
    ) -> list[tuple[int, int, int]]:
        """Find pairs of texts that share rare terms.

        Args:
            shared: Fewest rare terms both have among their most specific ones.
            max_frequency: A term in more texts than this is not rare; None takes half a
                percent of the texts, but at least 12 and at most 60.

        Returns:
            ``(first text, second text, number of shared terms)``, most shared terms first.
        """
        if not self.top:
            return []
        if max_frequency is None:
            max_frequency = max(12, min(60, len(self.top) // 200))
        owners = np.repeat(np.arange(len(self.top)), [len(t) for t in self.top])
        columns = np.concatenate(self.top)
        order = np.argsort(columns, kind="stable")
        owners, columns = owners[order], columns[order]
        edges = np.flatnonzero(np.diff(columns)) + 1
        firsts, seconds = [], []
        for group in np.split(owners, edges):
            if 2 <= len(group) <= max_frequency:
                a, b = np.triu_indices(len(group), k=1)
                firsts.append(group[a])
                seconds.append(group[b])
        if not firsts:
            return []
        code = np.concatenate(firsts) * len(self.top) + np.concatenate(seconds)
        pairs, counts = np.unique(code, return_counts=True)
        chosen = counts >= shared
        pairs, counts = pairs[chosen], counts[chosen]
        order = np.lexsort((pairs, -counts))
        size = len(self.top)
        return [
            (int(p) // size, int(p) % size, int(c)) for p, c in zip(pairs[order], counts[order])
        ]

    def pick(self, text_index: int, count: int, rng: np.random.Generator) -> list[str]:
        """Draw up to ``count`` of a text's specific terms, the more specific the likelier."""
        columns, weights = self.top[text_index], self.weights[text_index]
        if len(columns) == 0:
            return []
        noise = -np.log(rng.random(len(columns)))
        order = np.argsort(noise / np.maximum(weights, 1e-9) ** 2, kind="stable")
        return [self.vocabulary[c] for c in columns[order[:count]]]
