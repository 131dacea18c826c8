"""The static model: a token table and a tokenizer, in numpy alone.

A text's vector is the L2-normalised mean of its tokens' rows, tokenised without special tokens.
No torch is imported: a cold process has its first vector in a fraction of a second.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer

from embedworks._core.progress import progress
from embedworks._core.validation import check_texts, check_vectors, normalize_rows
from embedworks.errors import DataWarning, InputError, ShapeError
from embedworks.models import _static_files
from embedworks.models._ragged import RaggedTokenizer, clean_unicode, text_batches

__all__ = ["StaticModel"]


class StaticModel:
    """A static embedding model: ``normalize(mean(table[tokens(text)]))``.

    Hundreds of times faster than a transformer and a few megabytes small; word order is not
    seen. Saved folders are ordinary sentence-transformers folders.

    Args:
        tokenizer: A `tokenizers.Tokenizer`; its padding and truncation settings are ignored.
        table: float array (V, D), one row per token id; token weights are baked into the rows.
        name: Shown in reports and in the model card.
        normalize: Whether vectors are L2-normalised.
        metadata: Anything JSON can hold about how the model was made; saved with it.
        max_tokens: Read only so many tokens of each text and warn with a count of the texts
            that were cut; None reads all.

    Raises:
        ShapeError: When the table has fewer rows than the tokenizer has ids.
        NonFiniteError: When the table holds NaN or infinity.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> words = Tokenizer(models.WordLevel({"[UNK]": 0, "red": 1, "blue": 2}, "[UNK]"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> model = StaticModel(words, np.array([[0, 1], [3, 4], [1, 0]], dtype=np.float32))
        >>> model.encode(["red", "blue blue"])
        array([[0.6, 0.8],
               [1. , 0. ]], dtype=float32)
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        table: np.ndarray,
        *,
        name: str = "static",
        normalize: bool = True,
        metadata: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
    ) -> None:
        if max_tokens is not None and max_tokens < 1:
            raise InputError(f"max_tokens must be at least 1 or None, got {max_tokens}.")
        own = Tokenizer.from_str(tokenizer.to_str())
        self._assemble(RaggedTokenizer(own, max_tokens), table, name, normalize, metadata or {})

    def _assemble(
        self,
        ragged: RaggedTokenizer,
        table: np.ndarray,
        name: str,
        normalize: bool,
        metadata: Mapping[str, Any],
    ) -> None:
        self.name = name
        self.normalize = normalize
        self.metadata: dict[str, Any] = dict(metadata)
        self._ragged = ragged
        rows = check_vectors(table, name="table")
        needed = max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if len(rows) < needed:
            raise ShapeError(
                f"table has {len(rows)} rows but the tokenizer has ids up to {needed - 1}: "
                "one row per token id is needed. Do the two belong together?"
            )
        view = rows.view()
        view.setflags(write=False)
        self._table = view
        self._hash: str | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, without padding and truncation."""
        return self._ragged.tokenizer

    @property
    def max_tokens(self) -> int | None:
        """How many tokens of each text are read, or None for all."""
        return self._ragged.max_tokens

    @property
    def table(self) -> np.ndarray:
        """The token table, float32 (V, D), read-only; see `with_table` to change it."""
        return self._table

    @property
    def dim(self) -> int:
        """Number of dimensions D."""
        return int(self._table.shape[1])

    @property
    def content_hash(self) -> str:
        """Hex SHA-256 of everything that decides the vectors: table, tokenizer, settings."""
        if self._hash is None:
            digest = hashlib.sha256(self.tokenizer.to_str().encode("utf-8"))
            digest.update(repr((self._table.shape, self.normalize, self.max_tokens)).encode())
            digest.update(self._table.data)
            self._hash = digest.hexdigest()
        return self._hash

    def __repr__(self) -> str:
        return f"StaticModel(name={self.name!r}, tokens={len(self._table)}, dim={self.dim})"

    def get_embedding_dimension(self) -> int:
        """Return D, under the name sentence-transformers uses."""
        return self.dim

    def with_table(self, table: np.ndarray) -> StaticModel:
        """Return a model with the same tokenizer and settings and another table (V, D').

        Raises:
            ShapeError: When the table has too few rows.
        """
        other = StaticModel.__new__(StaticModel)
        other._assemble(self._ragged, table, self.name, self.normalize, self.metadata)
        return other

    def tokenize(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids of N texts, flat.

        Returns:
            ``ids`` int32 (T,) and ``offsets`` int64 (N + 1,): the tokens of text i are
            ``ids[offsets[i]:offsets[i + 1]]``. No special tokens are added.

        Raises:
            InputError: When an item is not a string.
        """
        items = clean_unicode(check_texts(texts))
        parts, counts, cut = [], [np.zeros(1, dtype=np.int64)], 0
        for low, high in text_batches(items):
            ids, offsets, shortened = self._ragged(items[low:high])
            parts.append(ids)
            counts.append(np.diff(offsets))
            cut += shortened
        self._warn_cut(cut, len(items))
        flat = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
        return flat, np.cumsum(np.concatenate(counts))

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int | None = None,
        normalize: bool | None = None,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray:
        """Return one vector per text, float32 (N, D).

        A text without a single token (empty, or white space only) gets a zero vector, and such
        texts are counted in one `DataWarning`.

        Args:
            texts: N strings of any length.
            batch_size: Texts held in memory at once; the default suits, and the result does not
                depend on it.
            normalize: Overrides the model's own setting.
            show_progress_bar: True or False to force; by default a bar is shown on a terminal
                when there is more than one batch.

        Raises:
            InputError: When an item is not a string or ``batch_size`` is below 1.
        """
        vectors, _, _ = self.encode_counted(
            texts, batch_size=batch_size, normalize=normalize, show_progress_bar=show_progress_bar
        )
        return vectors

    def encode_counted(
        self,
        texts: Sequence[str],
        *,
        batch_size: int | None = None,
        normalize: bool | None = None,
        show_progress_bar: bool | None = None,
    ) -> tuple[np.ndarray, int, int]:
        """Encode as `encode` does, and count.

        Returns:
            Vectors (N, D), the number of tokens read, and how many texts were cut short by
            ``max_tokens``.
        """
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}.")
        items = clean_unicode(check_texts(texts))
        unit = self.normalize if normalize is None else normalize
        vectors = np.zeros((len(items), self.dim), dtype=np.float32)
        batches = list(text_batches(items, batch_size))
        if show_progress_bar is None and len(batches) < 2:
            show_progress_bar = False
        tokens = cut = 0
        with progress("Encoding", len(items), enabled=show_progress_bar) as bar:
            for low, high in batches:
                ids, offsets, shortened = self._ragged(items[low:high])
                tokens += len(ids)
                cut += shortened
                sums = self._ragged.sums(self._table, ids, offsets)
                if unit:
                    vectors[low:high] = normalize_rows(sums)
                else:
                    vectors[low:high] = sums / np.maximum(np.diff(offsets), 1)[:, None]
                bar.advance(high - low)
        self._warn_cut(cut, len(vectors))
        self._warn_zero(vectors)
        return vectors, tokens, cut

    def encode_query(self, texts: Sequence[str], **options: Any) -> np.ndarray:
        """Encode search queries; the same as `encode` for this model."""
        return self.encode(texts, **options)

    def encode_document(self, texts: Sequence[str], **options: Any) -> np.ndarray:
        """Encode what is searched; the same as `encode` for this model."""
        return self.encode(texts, **options)

    def similarity(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return cosine similarities (N, M) of vectors (N, D) and (M, D)."""
        left = normalize_rows(check_vectors(first, name="first", dim=self.dim))
        right = normalize_rows(check_vectors(second, name="second", dim=self.dim))
        return np.asarray(left @ right.T, dtype=np.float32)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        dtype: Literal["float32", "float16", "int8"] = "float32",
    ) -> Path:
        """Write the model to ``folder``, which an existing model there is replaced by.

        Args:
            folder: Target; readers see the old content or the new, never a mixture.
            dtype: ``"float32"`` and ``"float16"`` are ordinary sentence-transformers folders.
                Prefer float32 where sentence-transformers itself will read it: it computes in
                the type it finds, and in float16 loses three digits and turns empty texts to
                NaN (``SentenceTransformer(folder).float()`` avoids both). ``"int8"`` is a
                quarter of the size and can be read by embedworks only.

        Raises:
            StorageError: When the disk is full or not writable; what was there stays.
            InputError: When ``folder`` holds something that is not a model.
        """
        return _static_files.write_static(
            Path(folder),
            tokenizer=self.tokenizer,
            table=self._table,
            settings=_static_files.StaticSettings(
                name=self.name,
                normalize=self.normalize,
                max_tokens=self.max_tokens,
                metadata=self.metadata,
            ),
            dtype=dtype,
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> StaticModel:
        """Read a static model folder: ours, sentence-transformers' or model2vec's.

        Where the folder's tokenizer says that texts are cut (``truncation``), they are, as
        sentence-transformers would; the cut texts are counted in a `DataWarning`.

        Raises:
            NotFoundError: When the folder or one of its files does not exist.
            FormatError: When a file is damaged, half written, or of another kind.
        """
        tokenizer, table, settings = _static_files.read_static(Path(folder))
        ragged = RaggedTokenizer(tokenizer, settings.max_tokens)
        model = cls.__new__(cls)
        model._assemble(ragged, table, settings.name, settings.normalize, settings.metadata)
        return model

    def _warn_cut(self, cut: int, total: int) -> None:
        if cut:
            warnings.warn(
                f"{cut} of {total} texts are longer than this model's {self.max_tokens} tokens; "
                "the rest of them was not read.",
                DataWarning,
                stacklevel=4,
            )

    def _warn_zero(self, vectors: np.ndarray) -> None:
        zero = np.flatnonzero(~vectors.any(axis=1))
        if len(zero):
            warnings.warn(
                f"{len(zero)} of {len(vectors)} texts have no token this model knows (empty or "
                f"white space only?); their vectors are zero. The first is text {zero[0]}.",
                DataWarning,
                stacklevel=4,
            )
