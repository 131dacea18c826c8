"""One door to word vectors that are trained here: `train_word_vectors`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from embedworks._core.registry import did_you_mean
from embedworks.errors import InputError
from embedworks.models.protocols import Encoder
from embedworks.models.words import glove, ppmi, prediction, subwords
from embedworks.models.words.corpus import WordCorpus
from embedworks.models.words.methods import WORD_METHODS, WordMethod, WordRun

__all__ = ["WORD_METHODS", "method_settings", "train_word_vectors"]

#: Modules that fill the registry.
_PARTS = (glove, ppmi, prediction, subwords)


def method_settings(name: str, options: Mapping[str, Any] | None = None) -> WordMethod:
    """Return the settings of a method by name, some of them changed.

    Raises:
        UnknownNameError: When there is no such method.
        InputError: When it has no such setting, or a value is out of range.

    Example:
        >>> method_settings("glove", {"x_max": 10.0}).x_max
        10.0
    """
    kind: Any = WORD_METHODS[name]
    known = [field.name for field in dataclasses.fields(kind)]
    for option in options or {}:
        if option not in known:
            raise InputError(
                f"The word method {name!r} has no setting {option!r}. {did_you_mean(option, known)}"
            )
    method: WordMethod = kind(**(options or {}))
    return method


def train_word_vectors(
    texts: Iterable[str],
    method: str | WordMethod = "skipgram",
    *,
    dim: int = 100,
    window: int = 5,
    min_count: int = 5,
    max_words: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    threads: int = 1,
    show_progress: bool | None = None,
) -> Encoder:
    """Train word vectors on texts; the result encodes words and texts, saves and loads as a model.

    Words are runs of letters and digits, lower-cased. A text's vector is the normalised mean of its
    words' vectors. All methods but ``"fasttext"`` give a `StaticModel`, which plain
    sentence-transformers reads too; ``"fasttext"`` gives a `SubwordModel`, which has vectors for
    words it has never seen.

    Args:
        texts: Any iterable of strings, read once: a list, or a generator over files.
        method: A name in `WORD_METHODS`, or an object such as ``GloVe(x_max=10)`` with settings
            of its own.
        dim: Number of dimensions D.
        window: How many words to each side are a word's company.
        min_count: Leave out words that occur less often.
        max_words: Keep at most so many of the most frequent words; None keeps all.
        epochs: How often the texts are read; None for the method's own default.
        seed: A run with one thread repeats exactly.
        threads: More than one is faster for the methods that read texts again and again
            (``"skipgram"``, ``"cbow"``, ``"fasttext"``), and does not repeat exactly.
        show_progress: True or False to force a bar; by default there is one on a terminal.

    Raises:
        EmptyInputError: When no word is frequent enough, or no two words stand side by side.
        InputError: When a number is out of range, or the method has no epochs.
        UnknownNameError: When there is no such method.
        MissingExtraError: When ``"ppmi"`` is asked for without scipy.

    Example:
        >>> texts = ["the cat sat on the mat", "the dog sat on the rug"] * 20
        >>> model = train_word_vectors(texts, "skipgram", dim=8, min_count=1, epochs=2)
        >>> model.encode(["cat", "a dog on the mat"]).shape
        (2, 8)
    """
    chosen = method_settings(method) if isinstance(method, str) else method
    if epochs is not None:
        if not any(field.name == "epochs" for field in dataclasses.fields(chosen)):  # type: ignore[arg-type]
            raise InputError(f"{type(chosen).__name__} counts once and has no epochs.")
        chosen = dataclasses.replace(chosen, epochs=epochs)  # type: ignore[type-var]
    run = WordRun(dim, window, seed, threads, show_progress)
    corpus = WordCorpus(
        texts, min_count=min_count, max_words=max_words, show_progress=show_progress
    )
    return chosen.train(corpus, run)
