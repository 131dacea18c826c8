"""fastText: a word is the mean of its own row and those of its letter groups."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.validation import check_in_range, check_texts, check_vectors, normalize_rows
from embedworks.errors import FormatError, InputError
from embedworks.models._kinds import KindFolder, KindModel, read_kind, warn_of_unknown
from embedworks.models.static import StaticModel
from embedworks.models.words._prediction import skipgram_texts
from embedworks.models.words.corpus import WordCorpus, split_words
from embedworks.models.words.methods import WORD_METHODS, WordRun, training_record, word_model
from embedworks.models.words.prediction import PredictionSettings, start_rows, walk_texts

__all__ = ["FastText", "SubwordModel", "Subwords"]


@dataclass(frozen=True)
class Subwords:
    """How a word is cut into letter groups, each with a numbered bucket.

    Args:
        shortest: Letters of the shortest group; word ends ``<`` and ``>`` count as letters.
        longest: Letters of the longest.
        buckets: Groups share so many buckets, by their CRC-32.

    Raises:
        InputError: When a number is out of range.
    """

    shortest: int = 3
    longest: int = 6
    buckets: int = 2_000_000

    def __post_init__(self) -> None:
        check_in_range(self.shortest, name="shortest", low=1)
        check_in_range(self.longest, name="longest", low=self.shortest)
        check_in_range(self.buckets, name="buckets", low=1, high=2**31)

    def groups(self, word: str) -> list[str]:
        """Return the letter groups of a word, without the whole of it.

        Example:
            >>> Subwords(shortest=3, longest=4).groups("cat")
            ['<ca', 'cat', 'at>', '<cat', 'cat>']
        """
        marked = f"<{word}>"
        return [
            marked[start : start + size]
            for size in range(self.shortest, min(self.longest, len(marked) - 1) + 1)
            for start in range(len(marked) - size + 1)
        ]

    def numbers(self, word: str) -> list[int]:
        """Return the buckets of a word's groups."""
        return [zlib.crc32(group.encode("utf-8")) % self.buckets for group in self.groups(word)]


@WORD_METHODS.register("fasttext", summary="Skip-gram over letter groups: unseen words too.")
@dataclass(frozen=True)
class FastText(PredictionSettings):
    """Skip-gram with subwords, Bojanowski et al. 2017, arXiv 1607.04606, section 3.2.

    Differs from the authors' program in two ways: groups are hashed by CRC-32, which Python
    has, in place of FNV; and only the buckets that some word of the texts has are kept, because
    the others never learn anything.

    Args:
        shortest: Letters of the shortest group.
        longest: Letters of the longest.
        buckets: Number of buckets.
    """

    rate: float = 0.05
    shortest: int = 3
    longest: int = 6
    buckets: int = 2_000_000

    def __post_init__(self) -> None:
        super().__post_init__()
        Subwords(self.shortest, self.longest, self.buckets)

    def train(self, corpus: WordCorpus, run: WordRun) -> SubwordModel:
        """Return a model with a row per word and per bucket in use."""
        corpus.require_pairs()
        subwords = Subwords(self.shortest, self.longest, self.buckets)
        numbers = [subwords.numbers(word) for word in corpus.words]
        used = np.unique(np.concatenate([np.array(own, dtype=np.int64) for own in numbers]))
        size = len(corpus.words)
        pieces = np.concatenate(
            [[word, *(size + np.searchsorted(used, own))] for word, own in enumerate(numbers)]
        ).astype(np.int32)
        starts = np.cumsum([0, *(1 + len(own) for own in numbers)]).astype(np.int64)
        inputs = start_rows(size + len(used), run.dim, run.seed)
        outputs = np.zeros((size, run.dim), dtype=np.float32)
        walk_texts(skipgram_texts, self, corpus, run, inputs, outputs, pieces, starts)
        sums = np.add.reduceat(inputs[pieces], starts[:-1], axis=0)
        return SubwordModel(
            corpus.words,
            sums / np.diff(starts)[:, None],
            used,
            inputs[size:],
            subwords,
            metadata=training_record("fasttext", self, corpus, run),
        )


class SubwordModel(KindModel):
    """Words and letter groups, as a model: also words that were never seen have a vector.

    A known word has its row of ``table``; an unknown one the mean of its groups' rows. A text is
    the normalised mean of its words. A text without a word, or whose words share no group with any
    known one, has a zero vector; such texts are counted in one `DataWarning`.

    Args:
        words: V words.
        table: float array (V, D), a row per word, its groups already in it.
        buckets: int array (G,), the buckets in use, rising.
        bucket_table: float array (G, D).
        subwords: How words are cut.
        metadata: How the vectors were made.

    Raises:
        InputError: When the parts do not fit each other.

    Example:
        >>> texts = ["green apples taste sweet", "red apples taste sour"] * 20
        >>> from embedworks.models import train_word_vectors
        >>> model = train_word_vectors(texts, "fasttext", dim=8, min_count=1, epochs=1)
        >>> bool(model.encode(["applesauce"]).any())
        True
    """

    def __init__(
        self,
        words: Sequence[str],
        table: np.ndarray,
        buckets: np.ndarray,
        bucket_table: np.ndarray,
        subwords: Subwords,
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.words = list(words)
        self.subwords = subwords
        self.metadata = dict(metadata or {})
        self._table = check_vectors(table, name="table")
        self._buckets = np.ascontiguousarray(buckets, dtype=np.int64)
        self._bucket_table = check_vectors(
            bucket_table, name="bucket_table", dim=self.dim, allow_empty=True
        )
        if len(self.words) != len(self._table) or len(set(self.words)) != len(self.words):
            raise InputError(f"{len(set(self.words))} different words for {len(table)} rows.")
        if self._buckets.shape != (len(bucket_table),) or (np.diff(self._buckets) <= 0).any():
            raise InputError(
                f"buckets of shape {self._buckets.shape} must rise, one per row of bucket_table, "
                f"which has {len(bucket_table)}."
            )
        self._place = {word: place for place, word in enumerate(self.words)}

    @property
    def dim(self) -> int:
        """Number of dimensions D."""
        return int(self._table.shape[1])

    def __repr__(self) -> str:
        return f"SubwordModel(words={len(self.words)}, groups={len(self._buckets)}, dim={self.dim})"

    def word_vector(self, word: str) -> np.ndarray:
        """Return the vector of one lower-cased word, float32 (D,); zero if no group is known."""
        place = self._place.get(word)
        if place is not None:
            return np.asarray(self._table[place])
        numbers = np.array(self.subwords.numbers(word), dtype=np.int64)
        inside = np.searchsorted(self._buckets, numbers)
        there = inside < len(self._buckets)
        numbers, inside = numbers[there], inside[there]
        known = self._buckets[inside] == numbers
        if not known.any():
            return np.zeros(self.dim, dtype=np.float32)
        return np.asarray(self._bucket_table[inside[known]].mean(axis=0), dtype=np.float32)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return one L2-normalised vector per text, float32 (N, D).

        Raises:
            InputError: When an item is not a string.
        """
        items = check_texts(texts)
        vectors = np.zeros((len(items), self.dim), dtype=np.float32)
        unseen: dict[str, np.ndarray] = {}
        for place, text in enumerate(items):
            words = split_words(text)
            known = [self._place[word] for word in words if word in self._place]
            total = self._table[known].sum(axis=0)
            for word in words:
                if word not in self._place:
                    if word not in unseen:
                        unseen[word] = self.word_vector(word)
                    total = total + unseen[word]
            vectors[place] = total
        warn_of_unknown(vectors)
        return normalize_rows(vectors)

    def as_static(self) -> StaticModel:
        """Return the known words alone, as a `StaticModel`: faster, and blind to other words."""
        return word_model(self.words, self._table, name="fasttext", metadata=self.metadata)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> SubwordModel:
        """Read a folder that `save_pretrained` wrote.

        Raises:
            FormatError: When a file is damaged or of another kind.
        """
        content = read_kind(Path(folder), "subwords")
        settings, arrays = content.settings, content.arrays
        try:
            return cls(
                check_texts(settings["words"], name="words"),
                arrays["table"],
                arrays["buckets"],
                arrays["bucket_table"],
                Subwords(**settings["subwords"]),
                metadata=settings["metadata"],
            )
        except (KeyError, TypeError, InputError) as error:
            raise FormatError(f"{folder} is not a whole subword model ({error}).") from error

    def _content(self) -> KindFolder:
        settings = {
            "words": self.words,
            "subwords": asdict(self.subwords),
            "metadata": self.metadata,
        }
        arrays = {
            "table": self._table,
            "buckets": self._buckets,
            "bucket_table": self._bucket_table,
        }
        return KindFolder("subwords", settings, arrays)
