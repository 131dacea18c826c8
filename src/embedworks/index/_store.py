"""The durable table behind a collection: one Lance table, one commit per change.

Readers need only the manifest's name and content, so the storage library is imported for
writing, and for reading when there is no cache.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from embedworks._core.extras import require_extra
from embedworks._core.files import storage_errors
from embedworks._core.validation import check_in_range
from embedworks.errors import (
    DataWarning,
    EmbedworksError,
    FormatError,
    NotFoundError,
    StorageError,
)

__all__ = ["KEPT_VERSIONS", "Commit", "TableStore", "Version"]

T = TypeVar("T")

#: From how many rows on ids are indexed.
INDEXED_ROWS = 20_000

#: How many of the newest versions are kept at least.
KEPT_VERSIONS = 8

_TABLE = "rows"
_LISTED_IDS = 2_000
_MOST_VERSIONS = 250  # before a change compacts, beyond the 16 of a small table
_ROWS_PER_VERSION = 5_000
_LOCKS = {"writer": ".lock", "cache": ".cache.lock"}
_NEVER = datetime.timedelta(days=36_500)
_NO_TIME = datetime.timedelta(0)
_SLACK = datetime.timedelta(milliseconds=20)
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


@dataclass(frozen=True)
class Version:
    """One kept version of a collection.

    Attributes:
        number: Its number; a change makes the next one.
        time: When it was committed, with time zone.
        rows: How many rows it has.
    """

    number: int
    time: datetime.datetime
    rows: int


class TableStore:
    """The Lance table in a collection's folder."""

    def __init__(self, folder: Path, *, lock_timeout: float = 60.0) -> None:
        self.folder = folder
        self.lock_timeout = check_in_range(lock_timeout, name="lock_timeout", low=0.0)
        self._versions = folder / f"{_TABLE}.lance" / "_versions"

    def latest(self) -> Commit | None:
        """Return the latest commit, or None before the first; reads one small file."""
        for _ in range(10):  # a manifest can be cleaned up between listing and reading
            found = [(_version_of(path), path) for path in self._manifests()]
            if not found:
                return None
            version, path = max(found)
            try:
                return Commit(version, _digest(path))
            except FileNotFoundError:
                continue
        raise StorageError(f"The versions in {self._versions} keep changing; try again.")

    def commit(self, version: int) -> Commit | None:
        """Return one commit that is still kept, or None."""
        for path in self._manifests():
            if _version_of(path) == version:
                try:
                    return Commit(version, _digest(path))
                except FileNotFoundError:
                    return None
        return None

    def versions(self) -> list[Version]:
        """Return the kept versions, oldest first."""

        def load() -> list[Version]:
            table = self._connect().open_table(_TABLE)
            return [
                Version(
                    int(entry["version"]),
                    entry["timestamp"].astimezone(),
                    int(entry["metadata"]["total_rows"]),
                )
                for entry in table.list_versions()
            ]

        return self._guard(load, "read")

    def schema(self, version: int) -> pa.Schema:
        """Return the columns of one version, ``vector`` among them, and its metadata."""
        return self._read(version, lambda table: table.schema)

    def count(self, version: int) -> int:
        """Return the number of rows of one version."""
        return self._read(version, lambda table: int(table.count_rows()))

    def read(self, version: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all rows of one version, or some columns of them, in table order.

        Raises:
            NotFoundError: When the version is not kept any longer.
            FormatError: When the table is damaged.
        """
        if columns is None:
            return self._read(version, lambda table: table.to_arrow())
        return self._read(
            version, lambda table: table.search().select(list(columns)).limit(None).to_arrow()
        )

    def find(self, version: int, chunk_ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """Return some columns of the rows with these ids, in table order."""
        if len(chunk_ids) > _LISTED_IDS:
            # A scan of the ids is quicker than a long list; the rows are then few columns.
            table = self.read(version, sorted({"chunk_id", *columns}))
            return table.filter(
                pc.is_in(table["chunk_id"], value_set=pa.array(chunk_ids, pa.string()))
            ).select(list(columns))
        condition = _listed("chunk_id", chunk_ids)
        return self._read(
            version,
            lambda table: (
                table.search().where(condition).select(list(columns)).limit(None).to_arrow()
            ),
        )

    def replace(self, rows: pa.Table) -> None:
        """Make ``rows`` the whole content, in one commit."""
        self._guard(lambda: self._connect().create_table(_TABLE, rows, mode="overwrite"), "write")
        self._index_ids()

    def append(self, rows: pa.Table) -> None:
        """Add rows of the same schema, in one commit."""
        self._guard(lambda: self._connect().open_table(_TABLE).add(rows), "write")

    def upsert(self, rows: pa.Table, *, whole_documents: bool = False) -> None:
        """Add rows of the same schema, replacing those with the same id, in one commit.

        With ``whole_documents`` the other rows of the same documents are deleted with them.
        """

        def merge() -> None:
            table = self._connect().open_table(_TABLE)
            merging = table.merge_insert("chunk_id").when_matched_update_all()
            merging = merging.when_not_matched_insert_all()
            if whole_documents:
                documents = list(dict.fromkeys(rows["doc_id"].to_pylist()))
                merging = merging.when_not_matched_by_source_delete(_listed("doc_id", documents))
            merging.execute(rows)

        self._guard(merge, "write")

    def delete(self, chunk_ids: Sequence[str]) -> None:
        """Delete rows by id, in one commit."""
        condition = _listed("chunk_id", chunk_ids)
        self._guard(lambda: self._connect().open_table(_TABLE).delete(condition), "write")

    def restore(self, version: int) -> None:
        """Make an older version's content the newest again, in one commit."""

        def put_back() -> None:
            table = self._connect().open_table(_TABLE)
            table.checkout(version)
            table.restore()

        self._guard(put_back, "write")

    def compact(self, keep: int) -> None:
        """Merge small files and drop all but about the ``keep`` newest versions.

        The lock is held, so a file that no version names is a killed writer's and is removed.
        Readers never need an old version of the table: they have theirs memory-mapped.
        """

        def optimize() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # warns of readers of old versions
                table = self._connect().open_table(_TABLE)
                table.optimize(cleanup_older_than=_NEVER)
                stamps = sorted(entry["timestamp"] for entry in table.list_versions())
                oldest = stamps[max(0, len(stamps) - keep)]
                age = datetime.datetime.now() - oldest + _SLACK if keep > 1 else _NO_TIME
                table.optimize(cleanup_older_than=max(age, _NO_TIME), delete_unverified=True)

        self._guard(optimize, "compact")
        self._index_ids()

    def _index_ids(self) -> None:
        """Let a large table find rows by id without a scan: one more commit, of the same rows.

        The table is right without it, so a full disk is no error here.
        """

        def make() -> None:
            table = self._connect().open_table(_TABLE)
            if table.count_rows() >= INDEXED_ROWS and not table.list_indices():
                kinds = importlib.import_module("lancedb.index")
                table.create_index("chunk_id", config=kinds.BTree())

        with suppress(StorageError):
            self._guard(make, "index")

    def tidy(self) -> None:
        """Compact once there are many versions; the lock is held and the change is stored.

        Compacting may write the whole table again, so a large table is left alone for longer.
        """
        versions = len(self._manifests())
        if versions <= 2 * KEPT_VERSIONS:
            return
        try:
            newest = self.latest()
            rows = self.count(newest.version) if newest else 0
            if versions > 2 * KEPT_VERSIONS + min(_MOST_VERSIONS, rows // _ROWS_PER_VERSION):
                self.compact(KEPT_VERSIONS)
        except StorageError as error:
            warnings.warn(
                f"The change is stored, but old versions could not be removed: {error.strerror}.",
                DataWarning,
                stacklevel=5,
            )

    @contextmanager
    def lock(self, name: str = "writer") -> Iterator[None]:
        """Hold the collection's writer lock, or that of its caches.

        The system frees it when the process dies, however it dies.

        Raises:
            StorageError: When another process keeps it for longer than `lock_timeout` seconds.
        """
        import fcntl

        path = self.folder / _LOCKS[name]
        with storage_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            deadline = time.monotonic() + self.lock_timeout
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
                        doing = "writing to" if name == "writer" else "making the caches of"
                        named = f" (id {holder})" if holder else ""
                        raise StorageError(
                            f"Another process{named} has been {doing} {self.folder} "
                            f"for {self.lock_timeout:g} s, and one at a time may. Wait for it and "
                            "try again, or allow more time with lock_timeout=."
                        ) from None
                    time.sleep(0.02)
            with suppress(OSError):  # on a full disk the holder stays unnamed
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def _manifests(self) -> list[Path]:
        if not self._versions.is_dir():
            return []
        return [path for path in self._versions.glob("*.manifest") if path.stem.isdigit()]

    def _read(self, version: int, action: Callable[[Any], T]) -> T:
        """Do something with the table at one version."""
        gone = NotFoundError(
            f"Version {version} of {self.folder} is not kept any longer. See `versions`."
        )
        if self.commit(version) is None:
            raise gone

        def at_version() -> T:
            table = self._connect().open_table(_TABLE)
            table.checkout(version)
            return action(table)

        try:
            return self._guard(at_version, "read")
        except FormatError as error:
            if self.commit(version) is None:  # removed while it was read
                raise gone from error
            raise

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
            if isinstance(error, EmbedworksError):
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


def _version_of(path: Path) -> int:
    """Return a manifest's version; newer tables store it counted down from 2^64 - 1."""
    number = int(path.stem)
    return _LARGEST_VERSION - number if len(path.stem) == 20 else number


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _listed(column: str, values: Sequence[str]) -> str:
    """Return a condition of the storage library's language: the column is one of the values."""
    listed = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({listed})"
