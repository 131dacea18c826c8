"""The durable collection: rows, vectors and filters in one folder, searched without a server.

A folder holds ``collection.json`` (the format), ``rows.lance`` (the table, one commit per
change) and ``cache/`` (search structures of the newest version; may be deleted at any time).
A process killed at any moment leaves the version before or the version after, never a mixture.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedworks._core.files import read_json, storage_errors, write_json
from embedworks._core.validation import check_texts, check_vectors
from embedworks.errors import (
    DataWarning,
    FormatError,
    InputError,
    NotFoundError,
    ShapeError,
    StorageError,
)
from embedworks.index._cache import cached_snapshot, newest_snapshot
from embedworks.index._rows import attach_vectors, check_new_ids, rows_table, unify
from embedworks.index._searcher import QueryEncoder, Searcher, row_mask
from embedworks.index._snapshot import METADATA_KEY, Snapshot
from embedworks.index._store import TableStore
from embedworks.index.exact import ExactIndex
from embedworks.index.modes import HybridSettings
from embedworks.index.results import BatchResult, Explanation, Hit
from embedworks.index.where import Condition

__all__ = ["Collection"]

FORMAT_VERSION = 1


class Collection:
    """A searchable folder of rows with vectors.

    An object stays at the version it opened, whatever other processes write; its own changes
    move it on. Make one by `create` or `open`.

    Example:
        >>> import tempfile
        >>> rows = [{"chunk_id": "a", "text": "open a file", "year": 2020},
        ...         {"chunk_id": "b", "text": "close a socket", "year": 2024}]
        >>> folder = tempfile.mkdtemp()
        >>> made = Collection.create(folder, rows, np.eye(2), overwrite=True)
        >>> [hit.chunk_id for hit in made.search("sockets", mode="bm25", where="year > 2021")]
        ['b']
    """

    def __init__(self, path: Path, store: TableStore | None, snapshot: Snapshot) -> None:
        self.path = path
        self._store = store
        self._snapshot = snapshot

    # Making and opening.

    @classmethod
    def create(
        cls,
        path: str | Path,
        rows: pa.Table | Iterable[Any],
        vectors: np.ndarray,
        *,
        metadata: Mapping[str, Any] | None = None,
        overwrite: bool = False,
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
            overwrite: Replace what an existing collection holds, in one commit.

        Raises:
            InputError: When the folder holds something else, or a collection and ``overwrite``
                is False; or on unusable rows.
            DuplicateIdError: When a chunk id occurs twice.
            ShapeError: When there is not one vector per row.
            NonFiniteError: When a vector has NaN or infinity.
            StorageError: When the disk is full or not writable; nothing is lost.
        """
        path = Path(path)
        table = rows_table(rows)
        vectors = _checked_vectors(vectors, len(table), dim=None)
        stored = attach_vectors(table, vectors).replace_schema_metadata(_encode(metadata or {}))
        store = TableStore(path)
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            others = [e.name for e in path.iterdir() if not e.name.startswith(".")]
        if (path / "collection.json").exists():
            _check_format(path)
        elif others:
            raise InputError(
                f"{path} is not empty and not a collection: choose another folder for it."
            )
        with store.lock():
            if store.latest() is not None and not overwrite:
                raise InputError(
                    f"{path} holds a collection already. Use overwrite=True to replace what it "
                    "holds, or open it and add to it."
                )
            if not (path / "collection.json").exists():
                about = {"kind": "embedworks collection", "format_version": FORMAT_VERSION}
                write_json(path / "collection.json", about)
            store.replace(stored)
            return cls(path, store, newest_snapshot(store))

    @classmethod
    def open(cls, path: str | Path) -> Collection:
        """Open the newest version.

        Uses the cache when it is whole, which needs no storage library; otherwise reads the
        table and makes the cache again.

        Raises:
            NotFoundError: When there is no collection, or its creation was interrupted.
            FormatError: When it is of another version, or the table is damaged.
        """
        path = Path(path)
        if not path.is_dir():
            raise NotFoundError(f"There is no collection at {path}: the folder does not exist.")
        if not (path / "collection.json").exists():
            raise NotFoundError(f"{path} is not a collection: it has no collection.json.")
        _check_format(path)
        store = TableStore(path)
        commit = store.latest()
        if commit is None:
            raise NotFoundError(
                f"The collection at {path} holds no version yet: its creation was interrupted. "
                "Create it again."
            )
        snapshot = cached_snapshot(path, commit)
        if snapshot is None:
            try:
                with store.lock():
                    snapshot = newest_snapshot(store)
            except StorageError as error:
                warnings.warn(
                    f"{error}. The collection is read from its table, which is slower.",
                    DataWarning,
                    stacklevel=2,
                )
                snapshot = Snapshot.build(commit, store.read(commit.version))
        return cls(path, store, snapshot)

    # Looking.

    @property
    def version(self) -> int:
        """Version of the table this object sees; every change makes a new one."""
        return self._snapshot.commit.version

    @property
    def metadata(self) -> dict[str, Any]:
        """What was stored beside the rows when the collection was made."""
        return dict(self._snapshot.metadata)

    @property
    def dim(self) -> int:
        """Dimension D of the vectors."""
        return int(self._snapshot.dense.vectors.shape[1])

    @property
    def columns(self) -> dict[str, str]:
        """Columns a filter may use, with their types."""
        return {field.name: str(field.type) for field in self._snapshot.rows.schema}

    @property
    def rows(self) -> pa.Table:
        """All rows without vectors, in row order; memory-mapped."""
        return self._snapshot.rows

    @property
    def vectors(self) -> np.ndarray:
        """All vectors, float32 (M, D), in row order; memory-mapped, read-only."""
        return self._snapshot.dense.vectors

    def __len__(self) -> int:
        return len(self._snapshot.rows)

    def count(self, where: str | Condition | None = None) -> int:
        """Return how many rows match a filter.

        Raises:
            QuerySyntaxError: When the filter is wrong or names a column that is not there.
        """
        mask = row_mask(self._snapshot.rows, where)
        return len(self) if mask is None else int(mask.sum())

    def memory(self) -> dict[str, int]:
        """Return the bytes of each part; memory-mapped parts are read as they are needed."""
        parts = {
            "rows": int(self._snapshot.rows.nbytes),
            "vectors": int(self._snapshot.dense.vectors.nbytes),
            "bm25": self._snapshot.bm25.memory(),
        }
        return {**parts, "total": sum(parts.values())}

    # Searching.

    def search(
        self,
        query: str | None = None,
        *,
        vector: np.ndarray | None = None,
        k: int = 10,
        where: str | Condition | None = None,
        mode: str = "hybrid",
        encoder: QueryEncoder | None = None,
        hybrid: HybridSettings | None = None,
    ) -> list[Hit]:
        """Return the best rows for a query.

        Args:
            query: Text of the query.
            vector: Its vector (D,), to save encoding it or to search without a text.
            k: Number of results wanted; all matching rows when there are fewer.
            where: Filter, such as ``"path LIKE 'http%' AND year >= 2020"``.
            mode: A name in `SEARCH_MODES`. ``"dense"`` and ``"hybrid"`` return exactly
                min(k, matching) rows, ``"bm25"`` only rows that share a term with the query.
            encoder: The model that made the collection's vectors.
            hybrid: How mode ``"hybrid"`` combines; None for what the collection's metadata
                say, or the defaults.

        Raises:
            EmptyInputError: When the query is blank.
            InputError: When the mode needs a text, a vector or an encoder and has none.
            ShapeError: When the vector does not have the collection's dimension.
            QuerySyntaxError: When the filter is wrong.
            UnknownNameError: When the mode is not known.
        """
        return Searcher(self._snapshot, mode, encoder, hybrid).one(query, vector, k, where)[0]

    def explain(
        self,
        query: str | None = None,
        *,
        vector: np.ndarray | None = None,
        k: int = 10,
        where: str | Condition | None = None,
        mode: str = "hybrid",
        encoder: QueryEncoder | None = None,
        hybrid: HybridSettings | None = None,
    ) -> Explanation:
        """Carry out a search and tell how: arguments as for `search`."""
        return Searcher(self._snapshot, mode, encoder, hybrid).one(query, vector, k, where)[1]

    def search_many(
        self,
        queries: Sequence[str] | None = None,
        *,
        vectors: np.ndarray | None = None,
        k: int = 10,
        where: str | Condition | None = None,
        mode: str = "hybrid",
        encoder: QueryEncoder | None = None,
        hybrid: HybridSettings | None = None,
    ) -> BatchResult:
        """Return ids and scores for many queries at once; arguments as for `search`.

        Args:
            queries: Q texts.
            vectors: Their vectors (Q, D).
            k: Number of results wanted per query.
            where: One filter for all.
            mode: A name in `SEARCH_MODES`.
            encoder: The model that made the collection's vectors.
            hybrid: How mode ``"hybrid"`` combines.
        """
        return Searcher(self._snapshot, mode, encoder, hybrid).many(queries, vectors, k, where)

    def with_vectors(self, vectors: np.ndarray) -> Collection:
        """Return the same rows with other vectors, in memory: to compare models.

        Nothing is stored; the result can be searched and not changed.

        Args:
            vectors: Array of shape (M, D), any D, in the order of `rows`.

        Raises:
            ShapeError: When there is not one vector per row.
        """
        dense = ExactIndex(_checked_vectors(vectors, len(self), dim=None))
        snapshot = replace(self._snapshot, dense=dense, folder=None)
        return Collection(self.path, None, snapshot)

    # Changing.

    def add(self, rows: pa.Table | Iterable[Any], vectors: np.ndarray) -> None:
        """Add rows in one commit; columns may be new or missing.

        Raises:
            DuplicateIdError: When a chunk id is there already; nothing is added then.
            ShapeError: When the vectors do not fit rows or collection.
        """
        self._put(rows, vectors, update=False)

    def upsert(self, rows: pa.Table | Iterable[Any], vectors: np.ndarray) -> None:
        """Add rows in one commit, replacing those whose chunk id is there already."""
        self._put(rows, vectors, update=True)

    def remove(
        self, chunk_ids: Sequence[str] | None = None, *, where: str | Condition | None = None
    ) -> int:
        """Remove rows by id or by filter, in one commit; return how many.

        Raises:
            InputError: When not exactly one of ids and filter is given, or an id is unknown;
                nothing is removed then.
        """
        if (chunk_ids is None) == (where is None):
            raise InputError("remove needs either chunk_ids or where=, and not both.")
        with self._writable().lock():
            self._catch_up()
            present = self._snapshot.rows.column("chunk_id")
            if chunk_ids is None:
                doomed = present.filter(pa.array(row_mask(self._snapshot.rows, where))).to_pylist()
            else:
                doomed = list(dict.fromkeys(check_texts(chunk_ids, name="chunk_ids")))
                unknown = sorted(set(doomed) - set(present.to_pylist()))
                if unknown:
                    raise InputError(
                        f"{len(unknown)} of {len(doomed)} chunk ids are not in the collection, "
                        f"the first is {unknown[0]!r}. Nothing was removed."
                    )
            if doomed:
                self._writable().delete(doomed)
                self._snapshot = newest_snapshot(self._writable())
        return len(doomed)

    def verify(self) -> dict[str, int]:
        """Compare every cache file with its checksum and the cache with the table.

        Returns:
            Counts of what was compared.

        Raises:
            FormatError: On the first difference; says how to repair it.
        """
        snapshot = self._snapshot
        stored = self._writable().read(snapshot.commit.version)
        repair = f"Delete {self.path / 'cache'}: it is made again when the collection is opened."
        if snapshot.folder is not None and snapshot.folder.exists():
            try:
                Snapshot.load(snapshot.commit, snapshot.folder, verify=True)
            except (FormatError, NotFoundError) as error:
                raise FormatError(f"{error} {repair}") from error
        fresh = Snapshot.build(snapshot.commit, stored)
        if not fresh.rows.equals(snapshot.rows):
            raise FormatError(f"The cached rows differ from the table's. {repair}")
        if not np.array_equal(fresh.dense.vectors, snapshot.dense.vectors):
            raise FormatError(f"The cached vectors differ from the table's. {repair}")
        return {"rows": len(snapshot.rows), "dim": self.dim, "version": self.version}

    # Private parts.

    def _put(self, rows: pa.Table | Iterable[Any], vectors: np.ndarray, *, update: bool) -> None:
        table = rows_table(rows)
        vectors = _checked_vectors(vectors, len(table), dim=self.dim)
        if not len(table):
            return
        with self._writable().lock():
            self._catch_up()
            old, new = unify(self._snapshot.rows, table)
            keep = np.ones(len(old), dtype=bool)
            if update:
                ids = set(table.column("chunk_id").to_pylist())
                keep = np.array([i not in ids for i in old.column("chunk_id").to_pylist()], bool)
            else:
                check_new_ids(old, table)
            if keep.all() and old.schema.equals(self._snapshot.rows.schema):
                self._writable().append(attach_vectors(new, vectors))
            else:
                everything = pa.concat_tables([old.filter(pa.array(keep)), new])
                both = np.concatenate([self._snapshot.dense.vectors[keep], vectors])
                stored = attach_vectors(everything.combine_chunks(), both)
                self._writable().replace(stored.replace_schema_metadata(_encode(self.metadata)))
            self._snapshot = newest_snapshot(self._writable())

    def _writable(self) -> TableStore:
        """Return the store, or say why there is none."""
        if self._store is None:
            raise InputError(
                "This collection has other vectors in memory (with_vectors): it can be searched "
                f"and not changed. Open {self.path} to change what is stored."
            )
        return self._store

    def _catch_up(self) -> None:
        """Move to the newest version before changing it; the lock is held."""
        if self._writable().latest() != self._snapshot.commit:
            self._snapshot = newest_snapshot(self._writable())


def _checked_vectors(vectors: np.ndarray, rows: int, *, dim: int | None) -> np.ndarray:
    vectors = check_vectors(vectors, dim=dim, allow_empty=True)
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
    try:
        text = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"metadata must hold JSON values only: {error}.") from error
    return {METADATA_KEY: text.encode()}


def _check_format(path: Path) -> None:
    about = read_json(path / "collection.json")
    version = about.get("format_version") if isinstance(about, dict) else None
    if version != FORMAT_VERSION:
        raise FormatError(
            f"The collection at {path} has format version {version!r}; this version of embedworks "
            f"reads {FORMAT_VERSION}. Open it with the version that wrote it, or make it again in "
            "another folder."
        )
