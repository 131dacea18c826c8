"""The durable table behind a collection: one Lance table, one commit per change.

Readers need only the manifest's name and content, so the storage library is imported for
writing, and for reading when there is no cache.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from embedworks._core.extras import require_extra
from embedworks._core.files import storage_errors
from embedworks.errors import DataWarning, FormatError, StorageError

__all__ = ["Commit", "TableStore"]

T = TypeVar("T")

_TABLE = "rows"
_KEPT_VERSIONS = 8
_LARGEST_VERSION = 2**64 - 1
_OS_ERROR = re.compile(r"os error (\d+)")


@dataclass(frozen=True)
class Commit:
    """One committed version of the table.

    Attributes:
        version: Its number, growing by commits.
        digest: First digits of the manifest's SHA-256, which tells apart tables that were
            deleted and made again.
    """

    version: int
    digest: str

    @property
    def name(self) -> str:
        """Return the name of the cache folder of this version."""
        return f"v{self.version}-{self.digest}"


class TableStore:
    """The Lance table in a collection's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._versions = folder / f"{_TABLE}.lance" / "_versions"

    def latest(self) -> Commit | None:
        """Return the latest commit, or None before the first; reads one small file."""
        for _ in range(10):  # a manifest can be cleaned up between listing and reading
            newest: tuple[int, Path] | None = None
            if self._versions.is_dir():
                for path in self._versions.glob("*.manifest"):
                    version = _version_of(path)
                    if version is not None and (newest is None or version > newest[0]):
                        newest = (version, path)
            if newest is None:
                return None
            try:
                digest = hashlib.sha256(newest[1].read_bytes()).hexdigest()[:12]
            except FileNotFoundError:
                continue
            return Commit(newest[0], digest)
        raise StorageError(f"The versions in {self._versions} keep changing; try again.")

    def read(self, version: int) -> pa.Table:
        """Return all rows of one version.

        Raises:
            FormatError: When the table is damaged.
        """

        def load() -> pa.Table:
            table = self._connect().open_table(_TABLE)
            table.checkout(version)
            return table.to_arrow()

        return self._guard(load, "read")

    def replace(self, rows: pa.Table) -> None:
        """Make ``rows`` the whole content, in one commit."""
        self._guard(lambda: self._connect().create_table(_TABLE, rows, mode="overwrite"), "write")
        self.tidy()

    def append(self, rows: pa.Table) -> None:
        """Add rows of the same schema, in one commit."""
        self._guard(lambda: self._connect().open_table(_TABLE).add(rows), "write")
        self.tidy()

    def delete(self, chunk_ids: list[str]) -> None:
        """Delete rows by id, in one commit."""
        listed = ", ".join("'" + i.replace("'", "''") + "'" for i in chunk_ids)
        self._guard(
            lambda: self._connect().open_table(_TABLE).delete(f"chunk_id IN ({listed})"), "write"
        )
        self.tidy()

    def tidy(self) -> None:
        """Merge small files and drop old versions once there are several; the lock is held.

        Readers never need an old version of the table: they have theirs memory-mapped.
        """
        if sum(1 for _ in self._versions.glob("*.manifest")) <= _KEPT_VERSIONS:
            return

        def optimize() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # warns of readers of old versions
                table = self._connect().open_table(_TABLE)
                table.optimize(cleanup_older_than=datetime.timedelta(0))

        try:
            self._guard(optimize, "tidy")
        except StorageError as error:
            warnings.warn(
                f"The change is stored, but old versions could not be removed: {error.strerror}.",
                DataWarning,
                stacklevel=4,
            )

    @contextmanager
    def lock(self, timeout: float = 60.0) -> Iterator[None]:
        """Hold the collection's writer lock; the system frees it when the process dies.

        Raises:
            StorageError: When another process keeps it for longer than ``timeout`` seconds.
        """
        import fcntl

        path = self.folder / ".lock"
        with storage_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            deadline = time.monotonic() + timeout
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StorageError(
                            f"Another process has been writing to {self.folder} for "
                            f"{timeout:.0f} s. Wait for it and try again."
                        ) from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(descriptor)

    def _connect(self) -> Any:
        os.environ.setdefault("LANCEDB_LOG", "error")  # its notices are not for our users
        lancedb = require_extra("lancedb", extra="store", purpose="store a collection")
        return lancedb.connect(str(self.folder))

    def _guard(self, action: Callable[[], T], doing: str) -> T:
        """Run a storage action; turn its failures into errors with a remedy."""
        try:
            with storage_errors(self.folder):
                return action()
        except (RuntimeError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            if doing == "read":
                raise FormatError(
                    f"The table in {self.folder} cannot be read: a file is missing or damaged "
                    f"({error})."
                ) from error
            match = _OS_ERROR.search(str(error))
            number = int(match[1]) if match else 0
            cause = os.strerror(number) if match else str(error)
            raise StorageError(
                number,
                f"Could not {doing} the table in {self.folder}: {cause}. The version that was "
                "there is intact",
            ) from error


def _version_of(path: Path) -> int | None:
    """Return a manifest's version; newer tables store it counted down from 2^64 - 1."""
    if not path.stem.isdigit():
        return None
    number = int(path.stem)
    return _LARGEST_VERSION - number if len(path.stem) == 20 else number
