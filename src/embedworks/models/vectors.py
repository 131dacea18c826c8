"""Vectors of inputs by content key: computed once, kept in memory or in a folder.

A folder belongs to one model and one role, and its name says so. Finished vectors are two memory
maps, ``keys.npy`` sorted and ``vectors.npy``; what is being computed lies beside them in parts,
each written in one step, so that a run that was killed continues after its last part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.lib.format import open_memmap
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from embedworks._core.files import (
    atomic_directory,
    atomic_path,
    read_json,
    sha256_of_text,
    write_json,
)
from embedworks._core.progress import progress
from embedworks._core.validation import check_vectors
from embedworks.data.rows import RowInput
from embedworks.errors import FormatError, InputError, ShapeError
from embedworks.models.encoding import encode_batched, model_fingerprint

__all__ = ["Role", "VectorStore", "encode_inputs", "fingerprint_of"]

Role = Literal["query", "document"]

_FORMAT = 1
_PART = 2048  # inputs encoded between two writes


def fingerprint_of(model: Any, given: str | None) -> str:
    """Return what stands for a model in cache keys: ``given``, or a hash of what it computes."""
    return given if given is not None else model_fingerprint(model)


def encode_inputs(model: Any, inputs: Sequence[RowInput], role: Role | None) -> np.ndarray:
    """Encode texts or dicts with whatever method the model has for ``role``, float32 (N, D)."""
    method = "encode" if role is None else f"encode_{role}"
    if not hasattr(model, method):
        role, method = None, "encode"
    if all(isinstance(item, str) for item in inputs):
        texts = [item for item in inputs if isinstance(item, str)]
        vectors, _ = encode_batched(model, texts, role=role, show_progress=False)
    else:
        vectors = check_vectors(getattr(model, method)(list(inputs)), name="vectors")
    if len(vectors) != len(inputs):
        raise ShapeError(
            f"the model gave {len(vectors)} vectors for {len(inputs)} inputs: one each is expected."
        )
    return vectors


class _Part(NamedTuple):
    """Some vectors, in memory or to be read when they are wanted."""

    keys: np.ndarray
    dim: int
    vectors: Callable[[], np.ndarray]


class VectorStore:
    """Vectors by content key, sorted; in a folder, no more than a part of them is in memory.

    Args:
        folder: Where they stay between runs, or None to keep them in memory.
        fingerprint: What stands for the model and the role; another one never reads this folder.
    """

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        self.folder = None if folder is None else Path(folder)
        self.fingerprint = fingerprint
        self.keys = np.zeros(0, dtype=np.int64)
        self.vectors = np.zeros((0, 0), dtype=np.float32)
        if self.folder is not None and (self.folder / "done").is_dir():
            self._open(self.folder / "done")

    @classmethod
    def beside(cls, root: Path | None, fingerprint: str, role: Role | None) -> VectorStore:
        """Return the store of one model and role under ``root``."""
        full = sha256_of_text(f"vectors {_FORMAT}", fingerprint, role or "plain")
        return cls(None if root is None else Path(root) / f"vectors-{full[:24]}", full)

    def missing(self, keys: np.ndarray) -> np.ndarray:
        """Return bool (N,): True where a key has no vector."""
        if not len(self.keys):
            return np.ones(len(keys), dtype=bool)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.asarray(self.keys[place] != keys)

    def take(self, keys: np.ndarray) -> np.ndarray:
        """Return the vectors of ``keys``, float32 (N, D); all must be there."""
        return np.asarray(self.vectors[np.searchsorted(self.keys, keys)], dtype=np.float32)

    def add(
        self,
        inputs: Sequence[RowInput],
        keys: np.ndarray,
        encode: Callable[[list[RowInput]], np.ndarray],
        *,
        show_progress: bool | None = None,
        label: str = "Encoding",
    ) -> None:
        """Compute and keep the vectors of all inputs that have none yet.

        Args:
            inputs: N texts or dicts.
            keys: int64 (N,), their `embedworks.data.content_key`.
            encode: Called with some of the inputs; returns their vectors, float32 (n, D).
            show_progress: True or False to force a bar; by default there is one on a terminal.
            label: What the bar says.
        """
        _, first = np.unique(keys, return_index=True)
        first = np.sort(first[self.missing(keys[first])])
        if not len(first):
            return
        parts = self._read_parts()
        if parts:
            there = np.concatenate([part.keys for part in parts])
            first = first[~np.isin(keys[first], there)]
        with progress(label, len(first), enabled=show_progress) as bar:
            for start in range(0, len(first), _PART):
                rows = first[start : start + _PART]
                vectors = encode([inputs[int(place)] for place in rows])
                parts.append(self._keep_part(keys[rows], vectors))
                bar.advance(len(rows))
        self._merge(parts)

    def _keep_part(self, keys: np.ndarray, vectors: np.ndarray) -> _Part:
        if self.folder is None:
            return _Part(keys, vectors.shape[1], lambda: vectors)
        path = self.folder / f"part-{sha256_of_text(keys.tobytes().hex())[:24]}.safetensors"
        with atomic_path(path) as temporary:
            temporary.write_bytes(
                to_bytes({"keys": keys, "vectors": vectors}, {"of": self.fingerprint})
            )
        return _Part(keys, vectors.shape[1], partial(self._vectors_of, path))

    def _read_parts(self) -> list[_Part]:
        if self.folder is None:
            return []
        parts = []
        for path in sorted(self.folder.glob("part-*.safetensors")):
            keys, vectors = self._read_part(path)
            parts.append(_Part(keys, vectors.shape[1], partial(self._vectors_of, path)))
        return parts

    def _read_part(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        try:
            arrays = from_bytes(path.read_bytes())
            keys, vectors = arrays["keys"], arrays["vectors"]
        except (SafetensorError, KeyError) as error:
            raise self._damaged(path, str(error)) from error
        if keys.dtype != np.int64 or len(keys) != len(vectors) or vectors.ndim != 2:
            raise self._damaged(path, f"{keys.shape} keys for {vectors.shape} vectors")
        return keys, vectors

    def _vectors_of(self, path: Path) -> np.ndarray:
        return self._read_part(path)[1]

    def _merge(self, parts: list[_Part]) -> None:
        """Join the finished vectors and all parts in order of their keys."""
        blocks = list(parts)
        if len(self.keys):
            blocks.insert(0, _Part(self.keys, self.vectors.shape[1], lambda: self.vectors))
        dims = {part.dim for part in blocks}
        if len(dims) != 1:
            raise InputError(
                f"one model gave vectors of {sorted(dims)} dimensions: did it change between two "
                "runs? Use an empty cache folder, or another fingerprint."
            )
        keys = np.concatenate([part.keys for part in blocks])
        unique, place = np.unique(keys, return_index=True)
        target = np.empty(len(keys), dtype=np.int64)  # where each row goes; repeats go nowhere
        target[:] = -1
        target[place] = np.arange(len(unique))
        shape = (len(unique), dims.pop())
        if self.folder is None:
            self._fill(out := np.empty(shape, dtype=np.float32), blocks, target)
            self.keys, self.vectors = unique, out
            return
        with atomic_directory(self.folder / "done") as temporary:
            np.save(temporary / "keys.npy", unique, allow_pickle=False)
            mapped = open_memmap(
                temporary / "vectors.npy", mode="w+", dtype=np.float32, shape=shape
            )
            self._fill(mapped, blocks, target)
            mapped.flush()
            del mapped
            write_json(
                temporary / "about.json",
                {"format": _FORMAT, "of": self.fingerprint, "shape": list(shape)},
            )
        self._open(self.folder / "done")
        for path in self.folder.glob("part-*.safetensors"):
            path.unlink()

    @staticmethod
    def _fill(out: np.ndarray, blocks: list[_Part], target: np.ndarray) -> None:
        start = 0
        for part in blocks:
            where = target[start : start + len(part.keys)]
            out[where[where >= 0]] = part.vectors()[where >= 0]
            start += len(part.keys)

    def _open(self, folder: Path) -> None:
        about = read_json(folder / "about.json")
        if about.get("format") != _FORMAT or about.get("of") != self.fingerprint:
            raise self._damaged(folder, "it was made by another model or version")
        try:
            self.keys = np.load(folder / "keys.npy", allow_pickle=False)
            self.vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(folder, str(error)) from error
        fits = list(self.vectors.shape) == about.get("shape") and self.keys.dtype == np.int64
        if not fits or len(self.keys) != len(self.vectors) or (np.diff(self.keys) <= 0).any():
            raise self._damaged(folder, "keys and vectors do not fit each other")

    @staticmethod
    def _damaged(path: Path, why: str) -> FormatError:
        return FormatError(f"the cached vectors in {path} cannot be used ({why}): delete them.")
