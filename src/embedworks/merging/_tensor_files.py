"""Safetensors files one tensor at a time: checked on opening, read and written in place.

Knows where every tensor lies and never holds more of a file than the tensor asked for.
"""

from __future__ import annotations

import json
import math
import os
import struct
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from embedworks._core.files import read_json, sha256_of_file
from embedworks.errors import DataWarning, FormatError, InputError, NotFoundError

__all__ = [
    "FLOATS",
    "INDEX_SUFFIX",
    "INTEGERS",
    "WEIGHTS",
    "Entry",
    "Layout",
    "TensorSource",
    "decode",
    "encode",
    "merged_dtype",
]

WEIGHTS = "model.safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
ADAPTER = "adapter_config.json"

#: Safetensors type -> the numpy type its bytes are read as; BF16 is widened to float32.
FLOATS = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
INTEGERS = {
    "BOOL": "?", "I8": "i1", "U8": "u1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4",
    "I64": "<i8", "U64": "<u8",
}  # fmt: skip
_BLOCK = 1 << 20
_LARGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Entry:
    """One tensor: its type, its shape and where its bytes lie."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    size: int

    @property
    def values(self) -> int:
        """How many numbers the tensor has."""
        return math.prod(self.shape)

    def read(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """Return the tensor, or the numbers in some of its bytes, flat.

        BF16 comes as float32, which holds it exactly.
        """
        raw = self.bytes(start, count)
        return decode(raw, self.dtype, self.shape if len(raw) == self.size else (-1,))

    def bytes(self, start: int = 0, count: int | None = None) -> np.ndarray:
        """Return ``count`` bytes from ``start`` on, uint8; all by default."""
        count = self.size - start if count is None else min(count, self.size - start)
        try:
            raw = np.fromfile(self.path, dtype=np.uint8, count=count, offset=self.offset + start)
        except OSError as error:
            raise FormatError(f"{self.path} can no longer be read ({error}).") from error
        if len(raw) != count:
            raise FormatError(
                f"{self.path} ended inside the tensor {self.name!r}: was it changed meanwhile?"
            )
        return raw

    def damage(self, owner: Path) -> str | None:
        """Return what to say of NaN and infinity in this tensor of ``owner``, or None."""
        tensor = self.read()
        bad = tensor.size - int(np.isfinite(tensor).sum())
        if not bad:
            return None
        return (
            f"The tensor {self.name!r} of {owner} has NaN or infinity in {bad:,} of "
            f"{self.values:,} places. This model is damaged: leave it out."
        )

    def equals(self, other: Entry) -> bool:
        """Say whether two tensors have the same type, shape and bytes."""
        if (self.dtype, self.shape) != (other.dtype, other.shape):
            return False
        return all(
            np.array_equal(self.bytes(start, _BLOCK), other.bytes(start, _BLOCK))
            for start in range(0, self.size, _BLOCK)
        )


@dataclass(frozen=True)
class TensorSource:
    """The tensors of one model's file or shards, checked but not read."""

    path: Path
    files: tuple[Path, ...]
    entries: dict[str, Entry]
    index: Path | None = None
    index_metadata: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    stamps: dict[Path, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path) -> TensorSource:
        """Open a ``.safetensors`` file, an index of shards, or the folder of either.

        Raises:
            NotFoundError: When there is nothing to read.
            FormatError: When a file is damaged, half written, or leads out of its folder.
            InputError: When the folder holds an adapter or pickled weights.
        """
        path = Path(path)
        found = _weights_in(path) if path.is_dir() else path
        if not found.is_file():
            raise NotFoundError(f"{found} does not exist: expected a safetensors file or folder.")
        if found.name.endswith(INDEX_SUFFIX):
            return cls._sharded(path, found)
        if found.suffix != ".safetensors":
            raise InputError(
                f"{found} is not a safetensors file. Other formats can run code when they are "
                "opened and are not read: load the model and save it again as safetensors."
            )
        return cls._of(path, [found])

    @classmethod
    def _of(cls, path: Path, files: Sequence[Path], **more: Any) -> TensorSource:
        entries: dict[str, Entry] = {}
        metadata, stamps = {}, {}
        for file in files:
            stamps[file] = _stamp(file)
            metadata[file.name], found = _read_header(file)
            for entry in found:
                if entry.name in entries:
                    first = entries[entry.name].path.name
                    raise FormatError(
                        f"{path}: the tensor {entry.name!r} is in {first} and in {file.name}."
                    )
                entries[entry.name] = entry
        if not entries:
            raise InputError(f"{path} holds no tensor.")
        return cls(path, tuple(files), entries, metadata=metadata, stamps=stamps, **more)

    @classmethod
    def _sharded(cls, path: Path, index: Path) -> TensorSource:
        stored = read_json(index)
        named = stored.get("weight_map") if isinstance(stored, dict) else None
        if not isinstance(named, dict) or not named:
            raise FormatError(f"{index} has no 'weight_map' from tensor to file: is it damaged?")
        about = stored.get("metadata")
        about = {} if about is None else about
        total = about.get("total_size", 0) if isinstance(about, dict) else None
        if not isinstance(total, (int, float)) or isinstance(total, bool) or not total >= 0:
            raise FormatError(f"{index}: 'metadata' or its 'total_size' is not as expected.")
        shards: dict[str, Path] = {}
        for tensor, file in named.items():
            if not _is_plain_name(file):
                raise FormatError(
                    f"{index} puts the tensor {tensor!r:.80} into {file!r:.80}: expected the name "
                    "of a safetensors file in the same folder. Do not trust this model."
                )
            shards[file] = index.parent / file
        missing = [file for file, shard in shards.items() if not shard.is_file()]
        if missing:
            raise NotFoundError(
                f"{index} names {len(missing)} of {len(shards)} files that do not exist, such as "
                f"{missing[0]}: is the model half copied?"
            )
        source = cls._of(
            path, [shards[name] for name in sorted(shards)], index=index, index_metadata=dict(about)
        )
        wrong = [
            name
            for name in named.keys() | source.entries.keys()
            if name not in source.entries or source.entries[name].path.name != named.get(name)
        ]
        if wrong:
            raise FormatError(
                f"{index} and its files do not agree about {len(wrong)} tensors, such as "
                f"{min(wrong)!r}: is the model half written or mixed from two?"
            )
        held = sum(entry.size for entry in source.entries.values())
        if total and total != held:
            warnings.warn(
                f"{index} speaks of {total:,.0f} bytes, but its {len(source.entries)} tensors have "
                f"{held:,}; all of them are there and whole.",
                DataWarning,
                stacklevel=2,
            )
        return source

    def read_metadata(self) -> dict[str, str]:
        """Return the metadata of the first file."""
        return self.metadata[self.files[0].name]

    def checksums(self) -> dict[str, str]:
        """Return the SHA-256 of every file, by name."""
        return {file.name: sha256_of_file(file) for file in self.files}

    def check_unchanged(self) -> None:
        """Raise `FormatError` when a file was changed since it was opened."""
        for file, stamp in self.stamps.items():
            if not file.is_file() or _stamp(file) != stamp:
                raise FormatError(f"{file} was changed while it was merged: merge again.")


class Layout:
    """Where every tensor of the result goes: files of one folder, written tensor by tensor."""

    def __init__(
        self,
        files: Mapping[str, Iterable[Entry]],
        metadata: Mapping[str, Mapping[str, str]],
        *,
        index: str | None = None,
        index_metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.index = index
        self.index_metadata = dict(index_metadata or {})
        self.headers: dict[str, bytes] = {}
        self.places: dict[str, tuple[str, int]] = {}
        self.sizes: dict[str, int] = {}
        for file, entries in files.items():
            header: dict[str, Any] = {}
            if metadata.get(file):
                header["__metadata__"] = dict(metadata[file])
            position, starts = 0, {}
            for entry in entries:
                starts[entry.name] = position
                ends = [position, position + entry.size]
                header[entry.name] = {
                    "dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": ends,
                }  # fmt: skip
                position += entry.size
            text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
            text += b" " * (-len(text) % 8)
            self.headers[file] = struct.pack("<Q", len(text)) + text
            begin = len(self.headers[file])
            self.sizes[file] = begin + position
            self.places |= {name: (file, begin + start) for name, start in starts.items()}

    @classmethod
    def like(cls, source: TensorSource, names: Iterable[str], single: str | None = None) -> Layout:
        """Lay tensors out as ``source`` does, or all in the file ``single``."""
        wanted = set(names)
        held: dict[str, list[Entry]] = {}
        for entry in sorted(source.entries.values(), key=lambda e: (e.path.name, e.offset)):
            if entry.name in wanted:
                held.setdefault(single or entry.path.name, []).append(entry)
        if single is not None:
            return cls(held, {single: source.read_metadata()})
        index = None if source.index is None else source.index.name
        return cls(held, source.metadata, index=index, index_metadata=source.index_metadata)

    def create(self, folder: Path) -> None:
        """Create the files with their headers, and the index."""
        for file, header in self.headers.items():
            with open(folder / file, "xb") as handle:
                handle.write(header)
                handle.truncate(self.sizes[file])
        if self.index is not None:
            total = sum(self.sizes[file] - len(head) for file, head in self.headers.items())
            value = {
                "metadata": {**self.index_metadata, "total_size": total},
                "weight_map": {name: file for name, (file, _) in sorted(self.places.items())},
            }
            text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
            (folder / self.index).write_text(text, encoding="utf-8")

    def write(self, folder: Path, name: str, data: np.ndarray, *, start: int = 0) -> None:
        """Write bytes of one tensor in their place, ``start`` bytes after its first."""
        file, offset = self.places[name]
        with open(folder / file, "r+b", buffering=0) as handle:
            handle.seek(offset + start)
            view = data.reshape(-1).view(np.uint8).data
            while len(view):
                view = view[handle.write(view) or 0 :]


def decode(raw: np.ndarray, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Turn bytes (uint8) into a tensor; BF16 becomes float32 of the same values."""
    array = raw.view(np.dtype({**FLOATS, **INTEGERS}[dtype]))
    if dtype == "BF16":
        wide = array.astype(np.uint32)
        wide <<= 16
        array = wide.view(np.float32)
    return array.reshape(shape)


def encode(array: np.ndarray, dtype: str) -> np.ndarray:
    """Turn a finite tensor into the contiguous array that is written; BF16 rounds to nearest.

    The tensor's memory may be reused.
    """
    if dtype != "BF16":
        return np.ascontiguousarray(array, dtype=np.dtype({**FLOATS, **INTEGERS}[dtype]))
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    odd = bits >> 16
    odd &= 1
    odd += 0x7FFF
    bits += odd
    bits >>= 16
    return bits.astype("<u2")


def merged_dtype(entry: Entry) -> np.dtype:
    """Return the numpy type in which a tensor is handed to a merge method."""
    return np.dtype(np.float32 if entry.dtype == "BF16" else FLOATS[entry.dtype])


def _weights_in(folder: Path) -> Path:
    if (folder / ADAPTER).is_file():
        raise InputError(
            f"{folder} is an adapter ({ADAPTER}), not a model: merge it into the model it was "
            "trained on first, with embedworks.merging.merge_adapters(base, [adapter], out) or "
            "with `merge_and_unload()` in peft."
        )
    index = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
    single = sorted(p for p in folder.glob("*.safetensors") if p.name != "golden.safetensors")
    if len(index) == 1 and not (folder / WEIGHTS).is_file():
        return index[0]
    if (folder / WEIGHTS).is_file() and not index:
        return folder / WEIGHTS
    if len(single) == 1 and not index:
        return single[0]
    if single or index:
        names = ", ".join(path.name for path in [*index, *single][:5])
        raise InputError(f"{folder} holds several sets of weights ({names}): name one of them.")
    pickled = sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    if pickled:
        raise InputError(
            f"{folder} has its weights in {pickled[0].name}, a format that can run code when it is "
            "opened and is not read: load the model and save it again as safetensors."
        )
    raise NotFoundError(f"{folder} holds no safetensors weights.")


def _is_plain_name(file: object) -> bool:
    return (
        isinstance(file, str)
        and file.endswith(".safetensors")
        and file.isprintable()
        and PurePosixPath(file).name == file
        and PureWindowsPath(file).name == file
    )


def _stamp(file: Path) -> tuple[int, int]:
    about = os.stat(file)
    return about.st_size, about.st_mtime_ns


def _read_header(path: Path) -> tuple[dict[str, str], list[Entry]]:
    """Return metadata and entries in the order of the file; the library checks every offset."""
    try:
        with safe_open(path, framework="numpy"):
            pass
        with open(path, "rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            if length > _LARGEST_HEADER:
                raise FormatError(f"{path} has a header of {length:,} bytes: is it damaged?")
            header = json.loads(handle.read(length))
    except (SafetensorError, OSError, ValueError, struct.error) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(
            f"{path} cannot be read as safetensors ({error}): is it half written? Copy or save "
            "the model again."
        ) from error
    metadata = header.pop("__metadata__", None) or {}
    entries = []
    for name, about in header.items():
        start, end = about["data_offsets"]
        if about["dtype"] not in FLOATS and about["dtype"] not in INTEGERS:
            raise InputError(
                f"{path}: the tensor {name!r} is of type {about['dtype']}, which cannot be merged: "
                f"expected {', '.join(FLOATS)} (or equal integers). Merge the models before they "
                "are quantised."
            )
        shape = tuple(int(size) for size in about["shape"])
        entries.append(Entry(name, about["dtype"], shape, path, 8 + length + start, end - start))
    return metadata, sorted(entries, key=lambda entry: entry.offset)
