"""Files: atomic writes, content hashes, and disk errors in plain words.

A reader never sees a half-written file: everything is written beside its target, flushed to
disk and moved into place in one step.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from embedworks.errors import FormatError, NotFoundError, StorageError

__all__ = [
    "atomic_directory",
    "atomic_path",
    "read_json",
    "sha256_of_file",
    "sha256_of_text",
    "storage_errors",
    "write_json",
    "write_text",
]


@contextmanager
def storage_errors(target: Path) -> Iterator[None]:
    """Turn a failed write into a `StorageError` that names the target and the remedy."""
    try:
        yield
    except (StorageError, NotFoundError):
        raise
    except OSError as error:
        remedies = {
            errno.ENOSPC: "the disk is full: free some space and run the command again",
            errno.EDQUOT: "the disk quota is used up: free some space and run the command again",
            errno.EACCES: "permission was denied: choose a folder you may write to",
            errno.EROFS: "the file system is read-only: choose another folder",
        }
        remedy = remedies.get(error.errno or 0, error.strerror or str(error))
        raise StorageError(
            error.errno or 0, f"Could not write {target}: {remedy}. Nothing there was changed"
        ) from error


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary path to write to; move it onto ``target`` when the block succeeds.

    Raises:
        StorageError: When the disk is full or not writable; ``target`` is then unchanged.
    """
    target = Path(target)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; swap it in as ``target`` when the block succeeds.

    An existing ``target`` is replaced; until the swap it stays complete and readable.
    """
    target = Path(target)
    tag = uuid.uuid4().hex[:8]
    temporary = target.with_name(f".{target.name}.{tag}.tmp")
    retired = target.with_name(f".{target.name}.{tag}.old")
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            yield temporary
            if target.exists():
                os.replace(target, retired)
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(retired, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        NotFoundError: When the file does not exist.
        FormatError: When it is not valid JSON, for example half written.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} is not valid JSON ({error}): is it half written?") from error


def sha256_of_text(*texts: str) -> str:
    """Return a hex SHA-256 of several texts; ``("ab", "c")`` and ``("a", "bc")`` differ."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes.

    Raises:
        NotFoundError: When the file does not exist.
    """
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist.") from error
