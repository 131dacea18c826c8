"""Texts as counts of their words: one-hot, TF-IDF, and what is factorised from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.validation import check_choice, check_in_range, check_texts, normalize_rows
from embedworks.errors import EmptyInputError, FormatError, InputError
from embedworks.models._kinds import KindFolder, KindModel, read_kind, warn_of_unknown

__all__ = ["CountModel"]

Weighting = Literal["one-hot", "count", "tf-idf"]
Topics = Literal["lsa", "lda", "nmf"]

_WEIGHTINGS = ("one-hot", "count", "tf-idf")
_TOPICS = ("lsa", "lda", "nmf")
_SAVED = {"lsa": ("components_",), "lda": ("components_",), "nmf": ("components_",)}


@dataclass(frozen=True)
class _Settings:
    weighting: Weighting
    topics: Topics | None
    dim: int
    analyzer: Literal["word", "char_wb"]
    ngrams: tuple[int, int]
    seed: int


class CountModel(KindModel):
    """A text's words, counted and weighed by scikit-learn, as an ordinary model.

    The honest, cheap baseline of every comparison: no training beyond counting. Without
    ``topics`` a dimension is a word; with it, a factor of the counts. Make one with `fit`.

    Two texts that share no word have cosine 0 without ``topics``. A text without a single known
    word gets a zero vector; such texts are counted in one `DataWarning`. For retrieval by words
    alone prefer BM25 (`embedworks.index.BM25Index`), which also weighs length.

    Example:
        >>> model = CountModel.fit(["red apple", "red car", "blue sky"], weighting="one-hot")
        >>> model.words
        ['apple', 'blue', 'car', 'red', 'sky']
        >>> np.round(model.encode(["red sky"]), 3)
        array([[0.   , 0.   , 0.   , 0.707, 0.707]], dtype=float32)
    """

    def __init__(
        self, words: Sequence[str], arrays: dict[str, np.ndarray], settings: _Settings
    ) -> None:
        self.words = list(words)
        self._arrays = arrays
        self._settings = settings
        self._counter = _counter(settings, {word: place for place, word in enumerate(self.words)})
        self._reducer = None if settings.topics is None else _reducer(settings, arrays)

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        *,
        weighting: Weighting = "tf-idf",
        topics: Topics | None = None,
        dim: int = 256,
        max_words: int = 4096,
        min_texts: int = 1,
        analyzer: Literal["word", "char_wb"] = "word",
        ngrams: tuple[int, int] = (1, 1),
        seed: int = 0,
    ) -> CountModel:
        """Count the words of ``texts``, never of the texts a score is made from.

        Args:
            texts: N texts to learn from.
            weighting: ``"one-hot"`` (is the word there), ``"count"``, or ``"tf-idf"``, which is
                ``count * (ln((1 + N) / (1 + texts with the word)) + 1)``.
            topics: ``"lsa"`` (truncated SVD), ``"lda"`` (latent Dirichlet allocation; a vector
                is the text's share of each topic), ``"nmf"``, or None for one dimension a word.
            dim: Number of factors; ignored without ``topics``.
            max_words: Keep so many of the most frequent words: D without ``topics``.
            min_texts: Leave out words that fewer texts have.
            analyzer: ``"word"``, or ``"char_wb"`` for pieces of words, as ``ngrams`` says.
            ngrams: Shortest and longest run of words (or letters) that is counted as one.
            seed: For the start of the factorisation.

        Raises:
            EmptyInputError: When no word is left.
            InputError: When ``dim`` is not below the number of words, or LDA is asked for with
                TF-IDF: it is a model of counts.
            MissingExtraError: When scikit-learn is not installed.
        """
        items = check_texts(texts)
        check_choice(weighting, _WEIGHTINGS, name="weighting")
        check_choice(analyzer, ("word", "char_wb"), name="analyzer")
        for name, value in (("max_words", max_words), ("min_texts", min_texts), ("dim", dim)):
            check_in_range(value, name=name, low=1)
        if topics is not None:
            check_choice(topics, _TOPICS, name="topics")
        if topics == "lda" and weighting == "tf-idf":
            raise InputError("LDA is a model of counts: use weighting='count' (or 'one-hot').")
        settings = _Settings(weighting, topics, dim, analyzer, ngrams, seed)
        words = _frequent_words(items, settings, max_words, min_texts)
        if topics is not None and dim >= len(words):
            raise InputError(f"dim={dim} must be below the number of words, {len(words)}.")
        arrays = {}
        counts = _counter(settings, {word: i for i, word in enumerate(words)}).transform(items)
        if weighting == "tf-idf":
            having = np.asarray((counts > 0).sum(axis=0)).ravel()
            idf = np.log((1 + len(items)) / (1 + having)) + 1
            arrays["idf"] = idf.astype(np.float64)
        if topics is not None:
            reducer = _reducer(settings, {}).fit(_weighed(counts, arrays))
            arrays |= {name: np.asarray(getattr(reducer, name)) for name in _SAVED[topics]}
        return cls(words, arrays, settings)

    @property
    def dim(self) -> int:
        """Number of dimensions D."""
        return len(self.words) if self._settings.topics is None else self._settings.dim

    def __repr__(self) -> str:
        kind = self._settings.topics or self._settings.weighting
        return f"CountModel({kind}, words={len(self.words)}, dim={self.dim})"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return one L2-normalised vector per text, float32 (N, D).

        Raises:
            InputError: When an item is not a string.
        """
        items = check_texts(texts)
        vectors = np.zeros((len(items), self.dim), dtype=np.float32)
        for low in range(0, len(items), 1024):
            counts = self._counter.transform(items[low : low + 1024])
            found = np.asarray(counts.sum(axis=1)).ravel() > 0
            weighed = _weighed(counts, self._arrays)
            if self._reducer is None:
                rows = weighed.toarray()
            else:
                rows = np.asarray(self._reducer.transform(weighed))
            vectors[low : low + len(rows)] = normalize_rows(np.where(found[:, None], rows, 0))
        warn_of_unknown(vectors)
        return vectors

    def topic_words(self, count: int = 10) -> list[list[str]]:
        """Return the ``count`` heaviest words of each factor.

        Raises:
            InputError: When the model has no topics.
        """
        if self._settings.topics is None:
            raise InputError("This model has a dimension per word and no topics: fit with topics=.")
        parts = self._arrays["components_"]
        return [[self.words[i] for i in np.argsort(-row, kind="stable")[:count]] for row in parts]

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> CountModel:
        """Read a folder that `save_pretrained` wrote.

        Raises:
            FormatError: When a file is damaged or of another kind.
        """
        content = read_kind(Path(folder), "counts")
        try:
            words = check_texts(content.settings.pop("words"), name="words")
            ngrams = tuple(content.settings.pop("ngrams"))
            settings = _Settings(ngrams=ngrams, **content.settings)
            _check_arrays(settings, content.arrays, len(words))
        except (KeyError, TypeError, InputError) as error:
            raise FormatError(f"{folder} is not a whole count model ({error}).") from error
        return cls(words, content.arrays, settings)

    def _content(self) -> KindFolder:
        settings: dict[str, Any] = asdict(self._settings)
        settings["ngrams"] = list(self._settings.ngrams)
        return KindFolder("counts", {**settings, "words": self.words}, self._arrays)


def _frequent_words(
    items: list[str], settings: _Settings, max_words: int, min_texts: int
) -> list[str]:
    counter = _counter(settings, None, max_features=max_words, min_df=min_texts)
    try:
        counter.fit(items)
    except ValueError as error:
        raise EmptyInputError(
            f"No word is left to count in {len(items)} texts ({error}): give more text, or a "
            "smaller min_texts."
        ) from error
    return [str(word) for word in counter.get_feature_names_out()]


def _counter(settings: _Settings, vocabulary: dict[str, int] | None, **options: Any) -> Any:
    library = require_extra("sklearn.feature_extraction.text", extra="train", purpose="count words")
    return library.CountVectorizer(
        vocabulary=vocabulary,
        analyzer=settings.analyzer,
        ngram_range=settings.ngrams,
        binary=settings.weighting == "one-hot",
        dtype=np.float64,
        **options,
    )


def _weighed(counts: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Multiply by the inverse document frequencies and normalise, where there are some."""
    if "idf" not in arrays:
        return counts
    weighed = counts.multiply(arrays["idf"]).tocsr()
    norms = np.sqrt(np.asarray(weighed.multiply(weighed).sum(axis=1)).ravel())
    return weighed.multiply(1 / np.where(norms > 0, norms, 1.0)[:, None]).tocsr()


def _reducer(settings: _Settings, arrays: dict[str, np.ndarray]) -> Any:
    """Return scikit-learn's factorisation, as fitted when ``arrays`` has its components."""
    library = require_extra("sklearn.decomposition", extra="train", purpose="find topics")
    common = {"n_components": settings.dim, "random_state": settings.seed}
    if settings.topics == "lsa":
        reducer = library.TruncatedSVD(**common)
    elif settings.topics == "nmf":
        reducer = library.NMF(init="nndsvda", max_iter=400, **common)
    else:
        reducer = library.LatentDirichletAllocation(**common)
    if arrays:
        reducer.components_ = parts = arrays["components_"]
        reducer.n_features_in_ = parts.shape[1]
        if settings.topics == "nmf":
            reducer.n_components_ = reducer._n_components = len(parts)
        if settings.topics == "lda":
            special = require_extra("scipy.special", extra="train", purpose="find topics")
            logs = special.psi(parts) - special.psi(parts.sum(axis=1, keepdims=True))
            reducer.exp_dirichlet_component_ = np.exp(logs)
            reducer.doc_topic_prior_ = 1.0 / settings.dim
    return reducer


def _check_arrays(settings: _Settings, arrays: dict[str, np.ndarray], words: int) -> None:
    expected: dict[str, tuple[int, ...]] = {}
    if settings.weighting == "tf-idf":
        expected["idf"] = (words,)
    if settings.topics is not None:
        expected["components_"] = (settings.dim, words)
    found = {name: array.shape for name, array in arrays.items()}
    if found != expected:
        raise InputError(f"its arrays have shapes {found}, expected {expected}")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise InputError("its arrays have values that are not finite")
