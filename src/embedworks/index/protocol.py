"""What every vector index does, what a search of one returns, and how one is kept on disk.

An index numbers its rows 0, 1, ... in the order they were added; a removed row keeps its number
and is never found again. Knows nothing about how an index searches.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from embedworks._core.files import atomic_directory, read_json, write_json
from embedworks.errors import FormatError, NotFoundError
from embedworks.index.where import Condition

__all__ = ["Neighbors", "VectorIndex", "Where", "read_index", "write_index"]

FORMAT_VERSION = 1

#: One filter for all queries, or one per query; None matches every row.
Where = str | Condition | None | Sequence[str | Condition | None]


@dataclass(eq=False, slots=True)
class Neighbors:
    """The nearest rows of Q queries.

    Attributes:
        rows: One int64 array of row numbers per query, best first, equal scores by row.
        scores: One float32 array of scores per query, higher is better.
        plans: How each query was answered, such as ``"exact"``.
    """

    rows: list[np.ndarray]
    scores: list[np.ndarray]
    plans: list[str]

    def __len__(self) -> int:
        return len(self.rows)


@runtime_checkable
class VectorIndex(Protocol):
    """Vectors with attributes, searched under filters.

    Every row found passes the filter, exactly ``min(k, matching)`` rows are found for each
    query, best first, and removed rows are never among them. An index is made by a class method
    ``build(vectors, attributes, ...)`` and read back by ``load(folder)``.
    """

    def __len__(self) -> int:
        """Return the number of rows that are not removed."""
        ...

    def add(self, vectors: np.ndarray, attributes: pa.Table | None = None) -> np.ndarray:
        """Append vectors (N, D) with their attributes; returns their row numbers, int64 (N,)."""
        ...

    def remove(self, rows: np.ndarray) -> int:
        """Remove rows by number; returns how many were there."""
        ...

    def search(self, queries: np.ndarray, k: int, *, where: Where = None) -> Neighbors:
        """Return the best ``min(k, matching)`` rows for each of the queries (Q, D)."""
        ...

    def explain(self, k: int, *, where: str | Condition | None = None) -> Any:
        """Say how a search would be carried out; ``str()`` of it is for people."""
        ...

    def save(self, folder: Path) -> None:
        """Write the index to a folder, all or nothing."""
        ...

    def memory(self) -> dict[str, int]:
        """Return the bytes held, by part."""
        ...


def write_index(
    folder: Path,
    kind: str,
    settings: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    version: int = FORMAT_VERSION,
) -> None:
    """Write arrays as ``.npy`` files with a header that says what must be there.

    Args:
        folder: Where to; replaced in one step when everything is written.
        kind: Name of the index class's format; `read_index` checks it.
        settings: JSON values.
        arrays: Name -> array; a name is part of a file name.
        version: Version of the format; `read_index` checks it.

    Raises:
        StorageError: When the disk is full or not writable; what was there is intact.
    """
    parts = {
        name: {
            "shape": list(array.shape),
            "dtype": array.dtype.str,
            "crc32": _checksum(array),
        }
        for name, array in arrays.items()
    }
    header = {"format": kind, "version": version, "settings": settings, "arrays": parts}
    with atomic_directory(Path(folder)) as temporary:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        write_json(temporary / "index.json", header)


def read_index(
    folder: Path,
    kind: str,
    *,
    version: int = FORMAT_VERSION,
    mapped: Sequence[str] = (),
    verify: bool = True,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `write_index` wrote.

    Args:
        folder: The index's folder.
        kind: The format expected.
        version: Its version.
        mapped: Arrays to map from disk, read-only, rather than read.
        verify: Whether to compare checksums of the arrays that are read into memory.

    Returns:
        ``(settings, arrays)``.

    Raises:
        NotFoundError: When there is no index.
        FormatError: When it is damaged, of another kind, or of another version.
    """
    folder = Path(folder)
    header = read_json(folder / "index.json")
    remedy = "Delete it and build the index again."
    if not isinstance(header, dict) or header.get("format") != kind:
        found = header.get("format") if isinstance(header, dict) else None
        raise FormatError(f"{folder} is no {kind} index but {found!r}. {remedy}")
    if header.get("version") != version:
        raise FormatError(
            f"The index in {folder} has format version {header.get('version')!r}; this version "
            f"of embedworks reads {version}. {remedy}"
        )
    arrays = {}
    try:
        settings, parts = dict(header["settings"]), dict(header["arrays"])
        expected = {
            name: (tuple(part["shape"]), str(part["dtype"]), int(part["crc32"]))
            for name, part in parts.items()
        }
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{folder / 'index.json'} is damaged ({error}). {remedy}") from error
    for name, (shape, dtype, checksum) in expected.items():
        if Path(name).name != name:
            raise FormatError(f"{folder / 'index.json'} names a file outside its folder: {name!r}.")
        path = folder / f"{name}.npy"
        lazy = name in mapped and bool(np.prod(shape))
        try:
            array = np.load(path, mmap_mode="r" if lazy else None, allow_pickle=False)
        except FileNotFoundError as error:
            raise NotFoundError(f"{path} is missing from the index. {remedy}") from error
        except (ValueError, EOFError, OSError) as error:
            raise FormatError(f"{path} is damaged ({error}). {remedy}") from error
        if array.shape != shape or array.dtype.str != dtype:
            raise FormatError(
                f"{path} holds {array.dtype} of shape {array.shape}, but the index expects {dtype} "
                f"of shape {shape}. {remedy}"
            )
        if verify and not lazy and _checksum(array) != checksum:
            raise FormatError(f"{path} differs from its checksum. {remedy}")
        arrays[name] = array
    return settings, arrays


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
