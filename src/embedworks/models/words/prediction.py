"""Word vectors learned by predicting words: skip-gram and CBOW with drawn negatives."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from embedworks._core.progress import progress
from embedworks._core.seeding import derive_seed, generator
from embedworks._core.validation import check_in_range
from embedworks.models.static import StaticModel
from embedworks.models.words._prediction import alias_table, cbow_texts, skipgram_texts
from embedworks.models.words.corpus import WordCorpus
from embedworks.models.words.methods import WORD_METHODS, WordRun, training_record, word_model

__all__ = ["CBOW", "PredictionSettings", "SkipGram", "start_rows", "walk_texts"]

_CHUNK = 50_000  # words between two looks at the rate and the bar


@dataclass(frozen=True)
class PredictionSettings:
    """Settings of everything that predicts words.

    Args:
        epochs: How often the texts are read.
        negatives: Words drawn against each right one, in proportion to ``count ** smoothing``.
        rate: Learning rate at the start; it falls evenly to a thousandth.
        sample: Share of the text from which on a word is thinned out: an occurrence of a word
            with share f is kept with chance ``sqrt(sample / f) + sample / f``, as word2vec's
            program does (the paper has only the root). 0 keeps all.
        smoothing: Exponent of the counts when drawing.

    Raises:
        InputError: When a number is out of range.
    """

    epochs: int = 5
    negatives: int = 5
    rate: float = 0.025
    sample: float = 1e-3
    smoothing: float = 0.75

    def __post_init__(self) -> None:
        check_in_range(self.epochs, name="epochs", low=1)
        check_in_range(self.negatives, name="negatives", low=1)
        check_in_range(self.rate, name="rate", low=0, open_low=True)
        check_in_range(self.sample, name="sample", low=0, high=1)
        check_in_range(self.smoothing, name="smoothing", low=0, high=1)

    def rate_at(self, epoch: int, share: float) -> float:
        """Return the learning rate after some epochs and a share of the next one."""
        return self.rate * max(1 - (epoch + share) / self.epochs, 1e-3)

    def keep(self, counts: np.ndarray) -> np.ndarray:
        """Return each word's chance to be kept, float32 (V,)."""
        if self.sample == 0:
            return np.ones(len(counts), dtype=np.float32)
        share = self.sample * counts.sum() / counts
        return np.minimum(1.0, np.sqrt(share) + share).astype(np.float32)


@WORD_METHODS.register("skipgram", summary="word2vec: each word predicts its neighbours.")
@dataclass(frozen=True)
class SkipGram(PredictionSettings):
    """Skip-gram with negative sampling, Mikolov et al. 2013, arXiv 1310.4546, equation 4.

    Each word predicts every word at most ``r`` away, r drawn evenly from 1 to the window. The
    best vectors of the objective factorise pointwise mutual information less ``ln negatives``
    (Levy and Goldberg 2014); see `PPMI` for that without gradients.
    """

    def train(self, corpus: WordCorpus, run: WordRun) -> StaticModel:
        """Return a word model of the input vectors."""
        return _train_words("skipgram", skipgram_texts, self, corpus, run)


@WORD_METHODS.register("cbow", summary="word2vec: the neighbours' mean predicts each word.")
@dataclass(frozen=True)
class CBOW(PredictionSettings):
    """Continuous bag of words with negative sampling, Mikolov et al. 2013, arXiv 1301.3781.

    Faster than `SkipGram`, and weaker on rare words. Each word of the window is moved by the whole
    gradient of their mean, as in word2vec's program.
    """

    rate: float = 0.05

    def train(self, corpus: WordCorpus, run: WordRun) -> StaticModel:
        """Return a word model of the input vectors."""
        return _train_words("cbow", cbow_texts, self, corpus, run)


def _train_words(
    name: str, walk: Any, method: PredictionSettings, corpus: WordCorpus, run: WordRun
) -> StaticModel:
    corpus.require_pairs()
    count = len(corpus.words)
    inputs = start_rows(count, run.dim, run.seed)
    outputs = np.zeros_like(inputs)
    walk_texts(walk, method, corpus, run, inputs, outputs, *own_rows(count))
    record = training_record(name, method, corpus, run)
    return word_model(corpus.words, inputs, name=name, metadata=record)


def own_rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``pieces`` and ``starts`` of words that have one row each."""
    return np.arange(count, dtype=np.int32), np.arange(count + 1, dtype=np.int64)


def start_rows(count: int, dim: int, seed: int, *names: str) -> np.ndarray:
    """Return input rows to begin with, float32 (count, dim), even in +-1/dim.

    word2vec's program starts in +-1/(2 dim), fastText's in +-1/dim. The wider start was a little
    better here in nearly every pair of runs with one seed, the more so on little text, where rare
    words do not go far from it.
    """
    rows = generator(seed, "word rows", *names).random((count, dim), dtype=np.float32)
    return np.asarray((rows - np.float32(0.5)) * np.float32(2 / dim))


def walk_texts(
    walk: Callable[..., None],
    method: PredictionSettings,
    corpus: WordCorpus,
    run: WordRun,
    inputs: np.ndarray,
    outputs: np.ndarray,
    pieces: np.ndarray,
    starts: np.ndarray,
    *,
    text_base: int = -1,
) -> None:
    """Read the texts for some epochs and move ``inputs`` and ``outputs`` in place.

    With one thread a run repeats bit by bit; with more, threads take parts of the texts and
    write to the same rows without waiting (Recht et al. 2011, "Hogwild").

    Args:
        walk: ``skipgram_texts``, ``cbow_texts`` or ``dbow_texts``.
        method: Epochs, negatives, rates, thinning.
        corpus: The texts.
        run: Window, seed, threads, bar.
        inputs: float32 (R, D): words, then pieces, then texts.
        outputs: float32 (V, D).
        pieces: int32 (P,), with ``starts`` (V + 1,): the input rows of each word.
        starts: int64 (V + 1,).
        text_base: Row of the first text's vector, or -1 when texts have none.
    """
    ends = np.searchsorted(corpus.offsets, np.arange(_CHUNK, len(corpus.ids), _CHUNK))
    cuts = np.unique(np.concatenate([[0], ends, [len(corpus)]]))
    keep = method.keep(corpus.counts)
    noise = alias_table(corpus.counts.astype(np.float64) ** method.smoothing)
    total = method.epochs * len(corpus.ids)

    def rate_at(epoch: int, text: int) -> float:
        return method.rate_at(epoch, int(corpus.offsets[text]) / len(corpus.ids))

    def chunk(job: tuple[int, int, int]) -> int:
        epoch, first, last = job
        state = np.array([derive_seed(run.seed, "walk", epoch, first)], dtype=np.uint64)
        base = text_base + first if text_base >= 0 else -1
        walk(
            corpus.ids, corpus.offsets, first, last, inputs, outputs, pieces, starts, base,
            keep, run.window, method.negatives, *noise, rate_at(epoch, first),
            rate_at(epoch, last), state, 0, True,
        )  # fmt: skip
        return int(corpus.offsets[last] - corpus.offsets[first])

    jobs = [
        (epoch, int(first), int(last))
        for epoch in range(method.epochs)
        for first, last in itertools.pairwise(cuts)
    ]
    with progress("Training", total, enabled=run.show_progress) as bar:
        if run.threads == 1:
            for job in jobs:
                bar.advance(chunk(job))
        else:
            with ThreadPoolExecutor(run.threads) as pool:
                for words in pool.map(chunk, jobs):
                    bar.advance(words)
