"""What every way to train word vectors shares: the run's settings, the registry, the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from embedworks._core.registry import Registry
from embedworks._core.validation import check_in_range
from embedworks.models.protocols import Encoder
from embedworks.models.static import StaticModel
from embedworks.models.words.corpus import WordCorpus, word_tokenizer

__all__ = ["WORD_METHODS", "WordMethod", "WordRun", "word_model"]


@dataclass(frozen=True)
class WordRun:
    """What a method is told beside its own settings.

    Args:
        dim: Number of dimensions D.
        window: How many words to each side are a word's company.
        seed: For the start, the order and the draws.
        threads: More than one is faster and not repeatable: threads write to shared rows.
        show_progress: True or False to force a bar; None shows one on a terminal.

    Raises:
        InputError: When a number is below 1 (the seed: below 0).
    """

    dim: int = 100
    window: int = 5
    seed: int = 0
    threads: int = 1
    show_progress: bool | None = None

    def __post_init__(self) -> None:
        for name in ("dim", "window", "threads"):
            check_in_range(getattr(self, name), name=name, low=1)
        check_in_range(self.seed, name="seed", low=0)


class WordMethod(Protocol):
    """A frozen dataclass of settings that can train: ``train(corpus, run) -> model``."""

    def train(self, corpus: WordCorpus, run: WordRun) -> Encoder:
        """Return a model that encodes words and texts."""
        ...


#: Name -> class of settings, all with defaults.
WORD_METHODS: Registry[type[WordMethod]] = Registry("word methods")


def training_record(name: str, method: Any, corpus: WordCorpus, run: WordRun) -> dict[str, Any]:
    """Return how a model was made, for its metadata."""
    return {
        "method": name,
        "settings": asdict(method),
        "dim": run.dim,
        "window": run.window,
        "seed": run.seed,
        "threads": run.threads,
        "texts": len(corpus),
        "words": len(corpus.ids),
    }


def word_model(
    words: list[str], table: np.ndarray, *, name: str, metadata: Mapping[str, Any] | None = None
) -> StaticModel:
    """Return a static model whose tokens are words: a text is the mean of its words' vectors.

    An unknown word adds nothing; a text of unknown words only has a zero vector, with a warning.

    Args:
        words: V words, lower-cased, most frequent first.
        table: float array (V, D).
        name: Shown in reports.
        metadata: How the vectors were made.

    Example:
        >>> word_model(["red", "sky"], np.eye(2), name="toy").encode(["Red!", "an unknown sky"])
        array([[1., 0.],
               [0., 1.]], dtype=float32)
    """
    rows = np.concatenate([np.zeros((1, table.shape[1])), table]).astype(np.float32)
    return StaticModel(word_tokenizer(words), rows, name=name, metadata=metadata)
