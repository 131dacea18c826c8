"""The durable collection: rows, vectors and filters in one folder, searched without a server.

A folder holds ``collection.json`` (the format), ``rows.lance`` (the table, one commit per
change) and ``cache/`` (search structures of versions; may be deleted at any time). A process
killed at any moment leaves the version before or the version after, never a mixture.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from embedworks._core.validation import check_choice, check_in_range, check_vectors
from embedworks.errors import DataWarning, FormatError, InputError, NotFoundError, ShapeError
from embedworks.index import _changes
from embedworks.index._cache import CACHE_FOLDER, snapshot_of, with_graph
from embedworks.index._changes import Facts
from embedworks.index._folder import mark, open_store, start_store
from embedworks.index._planned import INDEXES, wants_graph
from embedworks.index._reading import Reading
from embedworks.index._rows import attach_vectors, rows_table
from embedworks.index._snapshot import METADATA_KEY, Snapshot
from embedworks.index._store import KEPT_VERSIONS, Commit, TableStore, Version
from embedworks.index.exact import ExactIndex
from embedworks.index.modes import HybridSettings
from embedworks.index.where import Condition

__all__ = ["Collection"]

T = TypeVar("T")


class Collection(Reading):
    """A searchable folder of rows with vectors.

    An object stays at the version it opened, whatever other processes write; its own changes
    move it on. Make one by `create` or `open`.

    A change is one commit of the table, which is durable when the method returns. Search
    structures are made when a version is first searched, or by `prepare`.

    Dense search scans all rows that pass, exactly, as long as that is quick. A large collection,
    or one made with ``index="planned"``, also gets a graph, inverted lists and int8 codes; each
    search then takes the plan that is cheapest, with a recall of 0.95 or more unless it is exact.

    Example:
        >>> import tempfile
        >>> rows = [{"chunk_id": "a", "text": "open a file", "year": 2020},
        ...         {"chunk_id": "b", "text": "close a socket", "year": 2024}]
        >>> folder = tempfile.mkdtemp()
        >>> made = Collection.create(folder, rows, np.eye(2), overwrite=True)
        >>> [hit.chunk_id for hit in made.search("sockets", mode="bm25", where="year > 2021")]
        ['b']
        >>> made.update({"year": 2025}, where="year = 2020")
        1
        >>> made.count("year = 2025"), Collection.open(folder, version=1).count("year = 2025")
        (1, 0)
    """

    def __init__(
        self,
        path: Path,
        store: TableStore | None,
        commit: Commit,
        snapshot: Snapshot | None,
        *,
        is_old: bool = False,
        index: str | None = None,
    ) -> None:
        self.path = path
        self._store = store
        self._commit = commit
        self._mapped = snapshot
        self._known: Facts | None = None
        self._is_old = is_old
        self._index = index

    # Making and opening.

    @classmethod
    def create(
        cls,
        path: str | Path,
        rows: pa.Table | Iterable[Any],
        vectors: np.ndarray,
        *,
        metadata: Mapping[str, Any] | None = None,
        index: str = "auto",
        overwrite: bool = False,
        lock_timeout: float = 60.0,
        show_progress: bool | None = None,
    ) -> Collection:
        """Store rows and vectors as a new collection, or as the next version of one.

        Args:
            path: The folder.
            rows: N rows: a table, mappings, or dataclass instances such as chunks. Needed are
                ``chunk_id`` (unique) and ``text``; known are ``doc_id, title, path,
                start_line, end_line, kind``; anything else is an attribute to filter by.
            vectors: Array of shape (N, D).
            metadata: JSON values to keep beside the rows, such as the model's name. Under
                ``"hybrid"``, `HybridSettings.to_dict` of what searches use unless told
                otherwise.
            index: How dense search works, kept with the collection: ``"exact"`` scans the rows
                that pass, ``"planned"`` builds graph and lists and takes the cheapest plan,
                ``"auto"`` does so from 10,000,000 numbers (rows times dimensions) on. Fewer than
                2,000 rows are always scanned.
            overwrite: Replace what an existing collection holds, in one commit.
            lock_timeout: Seconds to wait for another process that writes.
            show_progress: None shows a progress bar on a terminal while a graph is built.

        Raises:
            InputError: When the folder holds something else, or a collection and ``overwrite``
                is False; or on unusable rows.
            DuplicateIdError: When a chunk id occurs twice.
            ShapeError: When there is not one vector per row.
            NonFiniteError: When a vector has NaN or infinity.
            StorageError: When the disk is full or not writable, or another process writes;
                nothing is lost.
        """
        path = Path(path)
        table = rows_table(rows)
        vectors = _checked_vectors(vectors, len(table))
        about = dict(metadata or {})
        if check_choice(index, INDEXES, name="index") != "auto":
            about["index"] = index
        stored = attach_vectors(table, vectors).replace_schema_metadata(_encode(about))
        store = start_store(path, lock_timeout=lock_timeout)
        with store.lock():
            if store.latest() is not None and not overwrite:
                raise InputError(
                    f"{path} holds a collection already. Use overwrite=True to replace what it "
                    "holds, or open it and add to it."
                )
            mark(path)
            store.replace(stored)
            store.tidy()
            commit = store.latest()
        assert commit is not None
        made = cls(path, store, commit, None)
        made.prepare(show_progress=show_progress)
        return made

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        version: int | None = None,
        index: str | None = None,
        lock_timeout: float = 60.0,
    ) -> Collection:
        """Open the newest version, or an older one that is still kept.

        Uses the cache when it is whole, which needs no storage library; otherwise reads the
        table and makes the cache again. A graph that is missing or damaged is built again by
        `prepare` and `compact`, and by opening the newest version with ``index="planned"``;
        until then searches scan.

        Args:
            path: The folder.
            version: A number from `versions`; an older version can be searched and `restore`-d,
                not changed.
            index: As for `create`, for this object only; None is what it was made with.
            lock_timeout: Seconds that changes wait for another process that writes.

        Raises:
            NotFoundError: When there is no collection, its creation was interrupted, or the
                version is not kept any longer.
            FormatError: When it is of another version, or the table is damaged.
        """
        path = Path(path)
        store = open_store(path, lock_timeout=lock_timeout)
        newest = store.latest()
        if newest is None:
            raise NotFoundError(
                f"The collection at {path} holds no version yet: its creation was interrupted. "
                "Create it again."
            )
        commit = newest if version is None else store.commit(version)
        if commit is None:
            kept = ", ".join(str(entry.number) for entry in store.versions())
            raise NotFoundError(
                f"{path} has no version {version}: it was removed, or never was. Kept are: {kept}."
            )
        if index is not None:
            check_choice(index, INDEXES, name="index")
        opened = cls(path, store, commit, None, is_old=commit != newest, index=index)
        graph = opened._snapshot().planned
        if graph is None and opened.index == "planned" and not opened._is_old:
            opened.prepare()
        return opened

    # Looking.

    @property
    def version(self) -> int:
        """Version of the table this object sees; every change makes a new one."""
        return self._commit.version

    @property
    def metadata(self) -> dict[str, Any]:
        """What was stored beside the rows when the collection was made."""
        return dict(self._facts().metadata)

    @property
    def dim(self) -> int:
        """Dimension D of the vectors."""
        return self._facts().dim

    @property
    def index(self) -> str:
        """How dense search works: ``"auto"``, ``"exact"`` or ``"planned"``."""
        return self._index or str(self._facts().metadata.get("index", "auto"))

    @property
    def columns(self) -> dict[str, str]:
        """Columns a filter may use, with their types."""
        return {field.name: str(field.type) for field in self._facts().schema}

    def __len__(self) -> int:
        return self._facts().rows

    def versions(self) -> list[Version]:
        """Return the versions that can be opened, oldest first; at least the last eight."""
        return self._writable().versions()

    def prepare(self, *, show_progress: bool | None = None) -> None:
        """Make the caches of this version now, and not at the next search.

        Where `index` asks for a graph it is built if there is none, or if a tenth of the rows
        have changed since it was; a search never builds one.

        Args:
            show_progress: None shows a progress bar on a terminal.
        """
        snapshot, wanted = self._snapshot(), self.index
        if not wants_graph(wanted, *snapshot.dense.vectors.shape):
            return
        if snapshot.planned is None or snapshot.planned.is_stale:
            store = self._writable(old_too=True)
            self._mapped = with_graph(store, snapshot, show_progress=show_progress)

    def with_vectors(self, vectors: np.ndarray) -> Collection:
        """Return the same rows with other vectors, in memory: to compare models.

        Nothing is stored; the result can be searched and not changed.

        Args:
            vectors: Array of shape (M, D), any D, in the order of `rows`.

        Raises:
            ShapeError: When there is not one vector per row.
        """
        dense = ExactIndex(_checked_vectors(vectors, len(self)))
        snapshot = replace(self._snapshot(), dense=dense, folder=None, planned=None)
        return Collection(self.path, None, self._commit, snapshot)

    # Changing.

    def add(self, rows: pa.Table | Iterable[Any], vectors: np.ndarray) -> None:
        """Add rows in one commit; columns may be new or missing.

        Raises:
            DuplicateIdError: When a chunk id is there already; nothing is added then.
            ShapeError: When the vectors do not fit rows or collection.
            StorageError: When the disk is full, or another process writes; nothing is lost.
        """
        self._put(_changes.add, rows, vectors)

    def upsert(
        self,
        rows: pa.Table | Iterable[Any],
        vectors: np.ndarray,
        *,
        whole_documents: bool = False,
    ) -> None:
        """Add rows in one commit, replacing those whose chunk id is there already.

        A replaced row has the given columns only: attributes that are left out become missing.

        Args:
            rows: N rows, as for `create`.
            vectors: Array of shape (N, D).
            whole_documents: Also remove the other rows of the documents that the rows belong
                to, so that a document which became shorter leaves nothing behind.
        """
        change = partial(_changes.upsert, whole_documents=whole_documents)
        self._put(change, rows, vectors)

    def remove(
        self, chunk_ids: Sequence[str] | None = None, *, where: str | Condition | None = None
    ) -> int:
        """Remove rows by id or by filter, in one commit; return how many.

        Raises:
            InputError: When not exactly one of ids and filter is given, or an id is unknown;
                nothing is removed then.
        """
        _check_choice_of_rows("remove", chunk_ids, where)
        return self._change(lambda store: _changes.remove(store, chunk_ids, where))

    def update(
        self,
        values: Mapping[str, Any],
        *,
        chunk_ids: Sequence[str] | None = None,
        where: str | Condition | None = None,
    ) -> int:
        """Set attributes of some rows, in one commit; return how many rows.

        Args:
            values: Column -> value, one for all rows; None is a missing value. A column may be
                new.
            chunk_ids: Ids of the rows.
            where: Or a filter.

        Raises:
            InputError: When not exactly one of ids and filter is given, an id is unknown, or
                ids, titles, texts or vectors are to be changed, which `upsert` does; nothing is
                changed then.
        """
        _check_choice_of_rows("update", chunk_ids, where)
        return self._change(lambda store: _changes.update(store, values, chunk_ids, where))

    def restore(self, version: int) -> None:
        """Make an older version's content the newest again, in one commit.

        Raises:
            NotFoundError: When the version is not kept any longer.
        """
        store = self._writable(old_too=True)
        with store.lock():
            if store.commit(version) is None:
                kept = ", ".join(str(entry.number) for entry in store.versions())
                raise NotFoundError(f"{self.path} has no version {version}. Kept are: {kept}.")
            store.restore(version)
            self._move_on(store)
        self._is_old = False

    def compact(self, *, keep: int = KEPT_VERSIONS, show_progress: bool | None = None) -> None:
        """Merge small files, drop old versions, and remove what killed writers left.

        Changes do this themselves now and then. Open collections are not affected. A graph that
        too many rows have changed under is built anew.

        Args:
            keep: How many of the newest versions can still be opened afterwards.
            show_progress: None shows a progress bar on a terminal while a graph is built.

        Raises:
            StorageError: When the disk is full; nothing is lost.
        """
        check_in_range(keep, name="keep", low=1)
        self._change(lambda store: store.compact(int(keep)))
        if wants_graph(self.index, len(self), self.dim):
            self.prepare(show_progress=show_progress)

    def verify(self) -> dict[str, int]:
        """Compare every cache file with its checksum and the cache with the table.

        See `embedworks.index.check_collection` for a list of everything that is wrong.

        Returns:
            Counts of what was compared.

        Raises:
            FormatError: On the first difference; says how to repair it.
        """
        snapshot = self._snapshot()
        stored = self._writable(old_too=True).read(snapshot.commit.version)
        repair = (
            f"Delete {self.path / CACHE_FOLDER}: it is made again when the collection is opened."
        )
        if snapshot.folder is not None and snapshot.folder.exists():
            try:
                Snapshot.load(snapshot.commit, snapshot.folder, verify=True)
            except (FormatError, NotFoundError) as error:
                raise FormatError(f"{error} {repair}") from error
        fresh = Snapshot.build(snapshot.commit, stored)
        difference = fresh.difference(snapshot)
        if difference:
            raise FormatError(f"The cached {difference} differ from the table's. {repair}")
        return {"rows": len(snapshot.rows), "dim": self.dim, "version": self.version}

    # Private parts.

    def _snapshot(self) -> Snapshot:
        if self._mapped is None or self._mapped.commit != self._commit:
            store = self._writable(old_too=True)
            try:
                self._mapped = snapshot_of(store, self._commit, older=self._mapped)
            except NotFoundError:
                # Others changed it so often since that the version is gone: theirs has our
                # changes too. An old version that was asked for is not replaced by another.
                newest = store.latest()
                if self._is_old or newest is None or newest == self._commit:
                    raise
                self._commit = newest
                self._mapped = snapshot_of(store, newest, older=self._mapped)
        if self._index == "exact" and self._mapped.planned is not None:
            return replace(self._mapped, planned=None)
        return self._mapped

    def _facts(self) -> Facts:
        """Tell what the version is, without making its cache."""
        if self._known is None or self._known.commit != self._commit:
            mapped = self._mapped
            if mapped is not None and mapped.commit == self._commit:
                dim = int(mapped.dense.vectors.shape[1])
                schema = mapped.rows.schema
                self._known = Facts(self._commit, len(mapped.rows), schema, dim, mapped.metadata)
            else:
                self._known = _changes.facts(self._writable(old_too=True), self._commit)
        return self._known

    def _put(
        self,
        change: Callable[[TableStore, pa.Table, np.ndarray], None],
        rows: pa.Table | Iterable[Any],
        vectors: np.ndarray,
    ) -> None:
        table = rows_table(rows)
        vectors = _checked_vectors(vectors, len(table))
        if len(table):
            self._change(lambda store: change(store, table, vectors))

    def _change(self, change: Callable[[TableStore], T]) -> T:
        """Change the newest version, whatever this object has opened, and move on to it."""
        store = self._writable()
        with store.lock():
            result = change(store)
            store.tidy()
            self._move_on(store)
        return result

    def _move_on(self, store: TableStore) -> None:
        newest = store.latest()
        assert newest is not None
        self._commit = newest

    def _writable(self, *, old_too: bool = False) -> TableStore:
        """Return the store, or say why there is none or it may not be changed."""
        if self._store is None:
            raise InputError(
                "This collection has other vectors in memory (with_vectors): it can be searched "
                f"and not changed. Open {self.path} to change what is stored."
            )
        if self._is_old and not old_too:
            raise InputError(
                f"Version {self.version} of {self.path} is an old one: it can be searched and not "
                "changed. Open the newest version to change it, or restore this one first."
            )
        return self._store


def _check_choice_of_rows(
    name: str, chunk_ids: Sequence[str] | None, where: str | Condition | None
) -> None:
    if (chunk_ids is None) == (where is None):
        raise InputError(f"{name} needs either chunk_ids or where=, and not both.")


def _checked_vectors(vectors: np.ndarray, rows: int) -> np.ndarray:
    vectors = check_vectors(vectors, allow_empty=True)
    if len(vectors) != rows:
        raise ShapeError(f"{rows} rows need {rows} vectors, got {len(vectors)}.")
    if vectors.shape[1] == 0:
        raise ShapeError("vectors need at least one dimension, got shape (N, 0).")
    zero = int((~vectors.any(axis=1)).sum())
    if zero:
        warnings.warn(
            f"{zero} of {rows} vectors are zero: those rows score 0 in dense search.",
            DataWarning,
            stacklevel=4,
        )
    return vectors


def _encode(metadata: Mapping[str, Any]) -> dict[bytes, bytes]:
    HybridSettings.from_dict(metadata.get("hybrid", {}))
    check_choice(metadata.get("index", "auto"), INDEXES, name="metadata index")
    try:
        text = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"metadata must hold JSON values only: {error}.") from error
    return {METADATA_KEY: text.encode()}
