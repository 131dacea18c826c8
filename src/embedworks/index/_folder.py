"""The folder of a collection: what marks it, and which format it has."""

from __future__ import annotations

from pathlib import Path

from embedworks._core.files import read_json, storage_errors, write_json
from embedworks.errors import FormatError, InputError, NotFoundError
from embedworks.index._store import TableStore

__all__ = ["mark", "open_store", "start_store"]

FORMAT_VERSION = 1
_ABOUT = "collection.json"


def open_store(path: Path, *, lock_timeout: float = 60.0) -> TableStore:
    """Return the table of an existing collection.

    Raises:
        NotFoundError: When there is no collection.
        FormatError: When it is of another format version.
    """
    if not path.is_dir():
        raise NotFoundError(f"There is no collection at {path}: the folder does not exist.")
    if not (path / _ABOUT).exists():
        raise NotFoundError(f"{path} is not a collection: it has no collection.json.")
    _check_format(path)
    return TableStore(path, lock_timeout=lock_timeout)


def start_store(path: Path, *, lock_timeout: float) -> TableStore:
    """Make the folder of a new collection, or use that of an existing one.

    Raises:
        InputError: When the folder holds something else.
    """
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        others = [e.name for e in path.iterdir() if not e.name.startswith(".")]
    if (path / _ABOUT).exists():
        _check_format(path)
    elif others:
        raise InputError(f"{path} is not empty and not a collection: choose another folder for it.")
    return TableStore(path, lock_timeout=lock_timeout)


def mark(path: Path) -> None:
    """Write what makes the folder a collection; the lock is held."""
    if not (path / _ABOUT).exists():
        about = {"kind": "embedworks collection", "format_version": FORMAT_VERSION}
        write_json(path / _ABOUT, about)


def _check_format(path: Path) -> None:
    about = read_json(path / _ABOUT)
    version = about.get("format_version") if isinstance(about, dict) else None
    if version != FORMAT_VERSION:
        raise FormatError(
            f"The collection at {path} has format version {version!r}; this version of embedworks "
            f"reads {FORMAT_VERSION}. Open it with the version that wrote it, or make it again in "
            "another folder."
        )
