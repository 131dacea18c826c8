"""Indexes on disk: a folder with one npy file per array and a header that says what they are.

The header is read first. What it promises is compared with what the files hold before anything
is used, so that a half-written, shortened or exchanged file is an error and never an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.files import atomic_directory, read_json, write_json
from embedworks.errors import FormatError, NotFoundError

__all__ = ["load_arrays", "save_arrays"]

_HEADER = "index.json"


def save_arrays(
    folder: Path,
    kind: str,
    settings: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    version: int = 1,
) -> None:
    """Write arrays and settings as ``folder``; what was there stays until all is written.

    Args:
        folder: Where to; replaced as a whole.
        kind: What it is, such as ``"maxsim"``; `load_arrays` insists on it.
        settings: Plain values.
        arrays: Numeric arrays by name.
        version: Of the kind's format; `load_arrays` insists on it.

    Raises:
        StorageError: When the disk is full or not writable.
    """
    described = {
        name: {"shape": list(array.shape), "dtype": str(array.dtype)}
        for name, array in arrays.items()
    }
    with atomic_directory(Path(folder)) as temporary:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        header = {"version": version, "kind": kind, "settings": dict(settings)}
        write_json(temporary / _HEADER, header | {"arrays": described})


def load_arrays(
    folder: Path,
    kind: str,
    names: tuple[str, ...],
    *,
    version: int = 1,
    mapped: tuple[str, ...] = (),
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read what `save_arrays` wrote: ``(settings, arrays)``.

    Args:
        folder: Where from.
        kind: What it must be.
        names: The arrays it must have.
        version: The version it must have.
        mapped: Arrays to map into memory instead of reading them.

    Raises:
        NotFoundError: When there is no index.
        FormatError: When it is of another kind or version, or a file is missing, shortened or
            not what the header says.
    """
    folder = Path(folder)
    if not (folder / _HEADER).is_file():
        raise NotFoundError(f"There is no index in {folder}: {_HEADER} is missing.")
    header = read_json(folder / _HEADER)
    if not isinstance(header, dict) or not isinstance(header.get("version"), int):
        raise FormatError(f"{folder / _HEADER} is not the header of an index. {_REBUILD}")
    if header.get("kind") != kind:
        raise FormatError(f"The index in {folder} is of kind {header.get('kind')!r}, not {kind!r}.")
    if header["version"] != version:
        newer = "upgrade embedworks, or build" if header["version"] > version else "build"
        raise FormatError(
            f"The {kind} in {folder} has version {header['version']}, this release reads "
            f"{version}: {newer} it again."
        )
    described, settings = header.get("arrays"), header.get("settings")
    if not isinstance(settings, dict) or not isinstance(described, dict):
        raise FormatError(f"{folder / _HEADER} lacks settings or arrays. {_REBUILD}")
    if set(described) != set(names):
        raise FormatError(
            f"The index in {folder} lists the arrays {sorted(described)}, expected are "
            f"{sorted(names)}. {_REBUILD}"
        )
    return settings, {
        name: _load(folder / f"{name}.npy", described[name], map_it=name in mapped)
        for name in names
    }


_REBUILD = "Build the index again."


def _load(path: Path, described: Any, *, map_it: bool) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r" if map_it else None, allow_pickle=False)
    except FileNotFoundError as error:
        raise FormatError(f"{path} is missing. {_REBUILD}") from error
    except (ValueError, OSError, EOFError) as error:
        raise FormatError(f"{path} is damaged ({error}). {_REBUILD}") from error
    expected = described if isinstance(described, dict) else {}
    if list(array.shape) != expected.get("shape") or str(array.dtype) != expected.get("dtype"):
        raise FormatError(
            f"{path} holds {array.dtype} of shape {array.shape}, the header promises "
            f"{expected.get('dtype')} of shape {expected.get('shape')}. {_REBUILD}"
        )
    return array
