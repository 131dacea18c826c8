"""Folders of models that are neither static nor sentence-transformers': one JSON, one safetensors.

``embedworks.json`` says the kind and the settings, ``model.safetensors`` holds the arrays. Nothing
in a folder is run, and the kind is looked up in a fixed table.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from embedworks._core.files import atomic_directory, read_json
from embedworks._core.registry import did_you_mean
from embedworks.errors import DataWarning, FormatError, InputError
from embedworks.models.protocols import Encoder

__all__ = [
    "KIND_FILE",
    "KindFolder",
    "KindModel",
    "hash_of",
    "is_kind_folder",
    "load_kind",
    "read_kind",
    "warn_of_unknown",
    "write_kind",
]

KIND_FILE = "embedworks.json"
ARRAY_FILE = "model.safetensors"
_FORMAT = 1

#: Kind -> module and class; the class has ``from_pretrained(folder)``.
_KINDS = {
    "counts": ("embedworks.models.words.counts", "CountModel"),
    "subwords": ("embedworks.models.words.subwords", "SubwordModel"),
    "texts": ("embedworks.models.words.documents", "Doc2Vec"),
    "transformed": ("embedworks.models.words.transformed", "TransformedModel"),
}


@dataclass(frozen=True)
class KindFolder:
    """What a folder holds: its kind, settings that JSON can hold, and named arrays."""

    kind: str
    settings: dict[str, Any]
    arrays: dict[str, np.ndarray]


class KindModel(ABC):
    """A model kept in a folder of its kind, which reads queries and documents alike."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Number of dimensions D."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return one L2-normalised vector per text, float32 (N, D)."""

    @abstractmethod
    def _content(self) -> KindFolder:
        """Return all that decides the vectors."""

    @property
    def content_hash(self) -> str:
        """Hex SHA-256 of everything that decides the vectors."""
        return hash_of(self._content())

    def get_embedding_dimension(self) -> int:
        """Return D, under the name sentence-transformers uses."""
        return self.dim

    def encode_query(self, texts: Sequence[str]) -> np.ndarray:
        """Encode search queries; the same as `encode`."""
        return self.encode(texts)

    def encode_document(self, texts: Sequence[str]) -> np.ndarray:
        """Encode what is searched; the same as `encode`."""
        return self.encode(texts)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model to ``folder``; `embedworks.load` reads it.

        Raises:
            InputError: When ``folder`` holds something that is not a model.
        """
        return write_kind(folder, self._content())


def warn_of_unknown(vectors: np.ndarray) -> None:
    """Count texts with a zero vector in one `DataWarning`, as seen by the caller of ``encode``."""
    missing = np.flatnonzero(~vectors.any(axis=1))
    if len(missing):
        warnings.warn(
            f"{len(missing)} of {len(vectors)} texts have no token this model knows; their vectors "
            f"are zero. The first is text {missing[0]}.",
            DataWarning,
            stacklevel=3,
        )


def is_kind_folder(folder: Path) -> bool:
    """Say whether ``folder`` is written by `write_kind`."""
    return (folder / KIND_FILE).is_file()


def load_kind(folder: Path) -> Encoder:
    """Read the model in ``folder``, whichever kind it is.

    Raises:
        FormatError: When the kind is unknown or a file is damaged.
    """
    kind = _described(folder)["kind"]
    if kind not in _KINDS:
        raise FormatError(
            f"{folder / KIND_FILE} is of kind {kind!r}, which this embedworks does not know. "
            f"{did_you_mean(str(kind), list(_KINDS))}"
        )
    module, name = _KINDS[kind]
    model: Encoder = getattr(importlib.import_module(module), name).from_pretrained(folder)
    return model


def read_kind(folder: Path, kind: str) -> KindFolder:
    """Read settings and arrays of a folder that must be of ``kind``.

    Raises:
        NotFoundError: When there is no such folder.
        FormatError: When it is of another kind, or damaged.
    """
    described = _described(folder)
    if described["kind"] != kind:
        raise FormatError(f"{folder} holds a model of kind {described['kind']!r}, not {kind!r}.")
    try:
        arrays = from_bytes((folder / ARRAY_FILE).read_bytes())
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise FormatError(
            f"{folder / ARRAY_FILE} cannot be read ({error}): is it half written? Save it again."
        ) from error
    return KindFolder(kind, dict(described["settings"]), arrays)


def write_kind(
    folder: str | Path,
    content: KindFolder,
    *,
    nested: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model in one step: readers see the old content or the new.

    Args:
        folder: Target; a model that is there is replaced.
        content: Kind, settings and arrays.
        nested: Name of a subfolder -> model with ``save_pretrained`` to write there.

    Raises:
        InputError: When ``folder`` holds something that is not a model.
        StorageError: When the disk is full or not writable.
    """
    folder = Path(folder)
    known = (folder / KIND_FILE).is_file() or (folder / ARRAY_FILE).is_file()
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not known)):
        raise InputError(
            f"{folder} is not an empty folder and holds no model: choose a new folder, so that "
            "nothing of yours is replaced."
        )
    stored = {"format": _FORMAT, "kind": content.kind, "settings": content.settings}
    text = json.dumps(stored, indent=1, ensure_ascii=False, allow_nan=False)
    arrays = {name: np.ascontiguousarray(array) for name, array in content.arrays.items()}
    with atomic_directory(folder) as target:
        for name, model in (nested or {}).items():
            model.save_pretrained(str(target / name))
        (target / ARRAY_FILE).write_bytes(to_bytes(arrays))
        (target / KIND_FILE).write_text(text + "\n", encoding="utf-8")
    return folder


def hash_of(content: KindFolder) -> str:
    """Return a hex SHA-256 of settings and arrays: what decides a model's vectors."""
    digest = hashlib.sha256(json.dumps([content.kind, content.settings]).encode())
    for name, array in sorted(content.arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _described(folder: Path) -> dict[str, Any]:
    stored = read_json(folder / KIND_FILE)
    if not isinstance(stored, dict) or not isinstance(stored.get("settings"), dict):
        raise FormatError(f"{folder / KIND_FILE} must hold an object with kind and settings.")
    if stored.get("format") != _FORMAT:
        raise FormatError(
            f"{folder / KIND_FILE} is of format {stored.get('format')!r}, this embedworks reads "
            f"{_FORMAT}: update embedworks or save the model again."
        )
    return stored
