"""A model whose vectors are transformed: again a model, saved with its transforms."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.validation import check_texts, check_vectors, normalize_rows
from embedworks.errors import EmptyInputError, FormatError, InputError, ShapeError
from embedworks.models._kinds import KindFolder, hash_of, read_kind, write_kind
from embedworks.models.words.transforms import VectorTransform

__all__ = ["TransformedModel"]

_PARTS = ("mean", "matrix", "offset")


class TransformedModel:
    """``transforms[-1](... transforms[0](model.encode(texts)))``, L2-normalised.

    Args:
        model: Any `embedworks.models.Encoder`.
        transforms: Applied in this order.
        normalize: Whether the result is L2-normalised.

    Raises:
        EmptyInputError: When there is no transform.
        ShapeError: When one transform gives another width than the next one takes.

    Example:
        >>> import embedworks as ew
        >>> from embedworks.models import fit_whitening
        >>> model = ew.load("static")
        >>> texts = ["a red car", "a blue sky", "fresh bread", "old wine"]
        >>> TransformedModel(model, [fit_whitening(model.encode(texts), dim=2)]).encode(texts).shape
        (4, 2)
    """

    def __init__(
        self, model: Any, transforms: Sequence[VectorTransform], *, normalize: bool = True
    ) -> None:
        if not transforms:
            raise EmptyInputError("At least one transform is needed.")
        for before, after in pairwise(transforms):
            if before.matrix.shape[1] != len(after.mean):
                raise ShapeError(
                    f"{before.name!r} gives {before.matrix.shape[1]} dimensions but "
                    f"{after.name!r} takes {len(after.mean)}: fit each on the vectors before it."
                )
        self.model = model
        self.transforms = tuple(transforms)
        self.normalize = normalize

    @property
    def dim(self) -> int:
        """Number of dimensions D."""
        return int(self.transforms[-1].matrix.shape[1])

    @property
    def content_hash(self) -> str:
        """Hex SHA-256 of everything that decides the vectors."""
        from embedworks.models.encoding import model_fingerprint

        both = model_fingerprint(self.model) + hash_of(self._content())
        return hashlib.sha256(both.encode()).hexdigest()

    def __repr__(self) -> str:
        names = ", ".join(transform.name for transform in self.transforms)
        return f"TransformedModel({self.model!r}, [{names}])"

    def get_embedding_dimension(self) -> int:
        """Return D, under the name sentence-transformers uses."""
        return self.dim

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return one vector per text, float32 (N, D)."""
        return self._encode(texts, "encode")

    def encode_query(self, texts: Sequence[str]) -> np.ndarray:
        """Encode search queries, as the model does."""
        return self._encode(texts, "encode_query")

    def encode_document(self, texts: Sequence[str]) -> np.ndarray:
        """Encode what is searched, as the model does."""
        return self._encode(texts, "encode_document")

    def _encode(self, texts: Sequence[str], method: str) -> np.ndarray:
        items = check_texts(texts)
        if not items:
            return np.zeros((0, self.dim), dtype=np.float32)
        vectors = check_vectors(getattr(self.model, method)(items))
        for transform in self.transforms:
            vectors = transform(vectors)
        return normalize_rows(vectors) if self.normalize else vectors

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write model and transforms to ``folder``; `embedworks.load` reads it.

        Raises:
            InputError: When the model cannot save itself, or ``folder`` holds something else.
        """
        if not hasattr(self.model, "save_pretrained"):
            raise InputError(f"A {type(self.model).__name__} has no save_pretrained method.")
        return write_kind(folder, self._content(), nested={"model": self.model})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> TransformedModel:
        """Read a folder that `save_pretrained` wrote.

        Raises:
            FormatError: When a file is damaged or of another kind.
        """
        from embedworks.models.loading import load

        content = read_kind(Path(folder), "transformed")
        try:
            transforms = [
                VectorTransform(name, *(content.arrays[f"{place}.{part}"] for part in _PARTS))
                for place, name in enumerate(content.settings["transforms"])
            ]
            return cls(
                load(Path(folder) / "model"), transforms, normalize=content.settings["normalize"]
            )
        except (KeyError, TypeError, InputError) as error:
            raise FormatError(f"{folder} is not a whole transformed model ({error}).") from error

    def _content(self) -> KindFolder:
        names = [transform.name for transform in self.transforms]
        arrays = {
            f"{place}.{part}": np.asarray(getattr(transform, part), dtype=np.float64)
            for place, transform in enumerate(self.transforms)
            for part in _PARTS
        }
        return KindFolder("transformed", {"normalize": self.normalize, "transforms": names}, arrays)
