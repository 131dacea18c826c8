"""Doc2Vec: a vector for each text, learned by predicting its words."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from embedworks._core.seeding import derive_seed
from embedworks._core.validation import (
    check_choice,
    check_in_range,
    check_texts,
    check_unique,
    check_vectors,
    normalize_rows,
)
from embedworks.errors import FormatError, InputError
from embedworks.models._kinds import KindFolder, KindModel, read_kind, warn_of_unknown
from embedworks.models.words._prediction import alias_table, cbow_texts, dbow_texts
from embedworks.models.words.corpus import WordCorpus, split_words
from embedworks.models.words.methods import WordRun, training_record
from embedworks.models.words.prediction import (
    PredictionSettings,
    own_rows,
    start_rows,
    walk_texts,
)

__all__ = ["Doc2Vec"]


class Doc2Vec(KindModel):
    """Paragraph vectors (Le and Mikolov 2014, arXiv 1405.4053), with inference for new texts.

    Make one with `fit`. ``encode`` learns a vector for each text against the frozen model, which
    takes ``inference_epochs`` passes over it; the result depends on the text alone, not on what
    else is encoded. A text without a known word gets a zero vector, counted in one `DataWarning`.

    Example:
        >>> texts = ["ships sail the sea", "the sea has waves", "cars use the road"] * 20
        >>> model = Doc2Vec.fit(texts, dim=8, min_count=1, epochs=2)
        >>> model.encode(["ships on the sea"]).shape, model.text_vectors.shape
        ((1, 8), (60, 8))
    """

    def __init__(self, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> None:
        self._arrays = arrays
        self._settings = settings
        self._method = PredictionSettings(**settings["prediction"])
        self._place = {word: place for place, word in enumerate(settings["words"])}
        self._keep = self._method.keep(arrays["counts"])
        self._noise = alias_table(arrays["counts"].astype(np.float64) ** self._method.smoothing)

    @classmethod
    def fit(
        cls,
        texts: Iterable[str],
        *,
        method: Literal["dbow", "dm"] = "dbow",
        dim: int = 100,
        window: int = 5,
        min_count: int = 5,
        epochs: int = 10,
        inference_epochs: int = 20,
        prediction: PredictionSettings | None = None,
        seed: int = 0,
        threads: int = 1,
        show_progress: bool | None = None,
    ) -> Doc2Vec:
        """Learn words and texts.

        Args:
            texts: N texts, read once.
            method: ``"dbow"``: the text predicts its words. ``"dm"``: the mean of the text and the
                words around predicts each word; slower, and most often weaker.
            dim: Number of dimensions D.
            window: Words to each side, for ``"dm"``.
            min_count: Leave out words that occur less often.
            epochs: Passes over the texts.
            inference_epochs: Passes over a new text.
            prediction: Negatives, rate, thinning and smoothing; its ``epochs`` are not used.
            seed: A run with one thread repeats exactly.
            threads: More than one is faster and does not repeat exactly.
            show_progress: True or False to force a bar.

        Raises:
            EmptyInputError: When no word is frequent enough.
            InputError: When a number is out of range.
        """
        check_choice(method, ("dbow", "dm"), name="method")
        check_in_range(inference_epochs, name="inference_epochs", low=1)
        chosen = PredictionSettings() if prediction is None else prediction
        own = PredictionSettings(**{**asdict(chosen), "epochs": epochs})
        run = WordRun(dim, window, seed, threads, show_progress)
        corpus = WordCorpus(texts, min_count=min_count, show_progress=show_progress)
        words = len(corpus.words) if method == "dm" else 0
        inputs = start_rows(words + len(corpus), dim, seed)
        outputs = np.zeros((len(corpus.words), dim), dtype=np.float32)
        walk = cbow_texts if method == "dm" else dbow_texts
        rows = own_rows(len(corpus.words))
        walk_texts(walk, own, corpus, run, inputs, outputs, *rows, text_base=words)
        arrays: dict[str, np.ndarray] = {
            "counts": corpus.counts,
            "outputs": outputs,
            "texts": normalize_rows(inputs[words:]),
            "words": inputs[:words],
        }
        settings: dict[str, Any] = {
            "words": corpus.words,
            "method": method,
            "window": window,
            "seed": seed,
            "inference_epochs": inference_epochs,
            "prediction": asdict(own),
            "metadata": training_record(f"doc2vec-{method}", own, corpus, run),
        }
        return cls(arrays, settings)

    @property
    def dim(self) -> int:
        """Number of dimensions D."""
        return int(self._arrays["outputs"].shape[1])

    @property
    def text_vectors(self) -> np.ndarray:
        """L2-normalised vectors of the texts it was fitted on, float32 (N, D)."""
        return self._arrays["texts"]

    def __repr__(self) -> str:
        return f"Doc2Vec({self._settings['method']}, words={len(self._place)}, dim={self.dim})"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Infer one L2-normalised vector per text, float32 (N, D).

        Raises:
            InputError: When an item is not a string.
        """
        items = check_texts(texts)
        vectors = np.zeros((len(items), self.dim), dtype=np.float32)
        for place, text in enumerate(items):
            known = [self._place[word] for word in split_words(text) if word in self._place]
            if known:
                vectors[place] = self._infer(np.array(known, dtype=np.int32))
        warn_of_unknown(vectors)
        return normalize_rows(vectors)

    def _infer(self, ids: np.ndarray) -> np.ndarray:
        words = self._arrays["words"]
        seed = self._settings["seed"]
        inputs = np.concatenate([words, start_rows(1, self.dim, seed, "inference")])
        outputs = self._arrays["outputs"]
        ends = np.array([0, len(ids)], dtype=np.int64)
        state = np.array([derive_seed(seed, "inference")], dtype=np.uint64)
        walk = cbow_texts if self._settings["method"] == "dm" else dbow_texts
        epochs, rate = self._settings["inference_epochs"], self._method.rate
        rates = np.linspace(rate, rate * 1e-3, epochs + 1)
        for now, after in itertools.pairwise(rates):
            walk(
                ids, ends, 0, 1, inputs, outputs, *own_rows(len(self._place)), len(words),
                self._keep, self._settings["window"], self._method.negatives, *self._noise,
                now, after, state, len(words), False,
            )  # fmt: skip
        return np.asarray(inputs[-1])

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Doc2Vec:
        """Read a folder that `save_pretrained` wrote.

        Raises:
            FormatError: When a file is damaged or of another kind.
        """
        content = read_kind(Path(folder), "texts")
        try:
            _check_parts(content)
            return cls(content.arrays, content.settings)
        except (KeyError, TypeError, InputError) as error:
            raise FormatError(f"{folder} is not a whole Doc2Vec model ({error}).") from error

    def _content(self) -> KindFolder:
        return KindFolder("texts", self._settings, self._arrays)


def _check_parts(content: KindFolder) -> None:
    """Raise where arrays and settings of a folder do not fit: a kernel would read beyond them."""
    arrays, settings = content.arrays, content.settings
    words = check_texts(settings["words"], name="words")
    check_unique(words, name="words")
    check_choice(settings["method"], ("dbow", "dm"), name="method")
    check_in_range(settings["seed"], name="seed", low=0)
    for name, high in (("window", 10_000), ("inference_epochs", 100_000)):
        check_in_range(settings[name], name=name, low=1, high=high)
    outputs = check_vectors(arrays["outputs"], name="outputs")
    for name in ("texts", "words"):
        check_vectors(arrays[name], name=name, dim=outputs.shape[1], allow_empty=True)
    rows = len(words) if settings["method"] == "dm" else 0
    counts = arrays["counts"]
    shapes = len(outputs), counts.shape, len(arrays["words"])
    if shapes != (len(words), (len(words),), rows) or (counts < 1).any():
        raise InputError(f"its arrays have rows {shapes} for {len(words)} words")
    if any(arrays[name].dtype != np.float32 for name in ("outputs", "texts", "words")):
        raise InputError("its vectors are not float32")
