"""A collection in a vector database that other machines reach: Milvus, or a cluster of it.

The same searches, filters and changes as `Collection`, carried out by the server. What needs all
scores or the files at hand is not there: hybrid search fuses by rank, and versions, compaction and
checking are the server's own business.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from embedworks._core.validation import check_texts, check_vectors
from embedworks.data.chunking import with_title
from embedworks.errors import (
    DataWarning,
    DuplicateIdError,
    FormatError,
    InputError,
    NotFoundError,
    ShapeError,
)
from embedworks.index._milvus import ServedColumn, columns_of, expression, to_served
from embedworks.index._rows import rows_table, values_table
from embedworks.index._searcher import QueryEncoder
from embedworks.index._served_client import VECTOR, WORDS, connect, indexes, schema, served
from embedworks.index._served_search import ServedSearch, Target
from embedworks.index.analysis import Analyzer
from embedworks.index.modes import HybridSettings
from embedworks.index.reranking import Reranker
from embedworks.index.results import BatchResult, Explanation, Hit
from embedworks.index.where import Condition, In

__all__ = ["ServedCollection"]

FORMAT_VERSION = 1
_PROPERTY = "embedworks"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}\Z")
_BATCH = 1_000


class ServedCollection:
    """Rows with vectors in a served database, searched and changed like a `Collection`.

    A change of many rows goes over in batches, each durable when it is acknowledged; unlike in a
    `Collection` a change that is cut short may have been carried out in part. Doing it again
    completes it.

    The dense index is exact unless another is asked for; with an approximate one fewer than
    min(k, matching) rows may come back.

    Make one by `create` or `open`.
    """

    def __init__(
        self,
        client: Any,
        name: str,
        dim: int,
        columns: tuple[ServedColumn, ...],
        metadata: Mapping[str, Any],
    ) -> None:
        self._client = client
        self.name = name
        self.dim = dim
        self._columns = columns
        self._metadata = dict(metadata)
        self._analyzer = Analyzer()

    # Making and opening.

    @classmethod
    def create(
        cls,
        name: str,
        rows: pa.Table | Iterable[Any],
        vectors: np.ndarray,
        *,
        uri: str,
        token: str = "",
        timeout: float = 10.0,
        metadata: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        index: Mapping[str, Any] | None = None,
    ) -> ServedCollection:
        """Store rows and vectors as a new collection on a server.

        Args:
            name: Name of the collection: letters, digits and underscores.
            rows: N rows, as for `Collection.create`. Their columns are the columns the collection
                will have; a text has at most 65,535 bytes.
            vectors: Array of shape (N, D).
            uri: Address of the server, such as ``"http://host:19530"``, or the path of a file
                ending in ``.db`` for the embedded one (``milvus-lite``).
            token: ``"user:password"`` or an API key, where the server asks for one.
            timeout: Seconds to wait for the server when connecting.
            metadata: JSON values to keep beside the rows.
            overwrite: Replace a collection of that name.
            index: The dense index as Milvus names it, such as ``{"index_type": "HNSW", "params":
                {"M": 16, "efConstruction": 200}}``; None for ``FLAT``, which is exact.

        Raises:
            InputError: On unusable rows or a name that is taken.
            EndpointError: When the server cannot be reached or refuses.
        """
        if not _NAME.match(name):
            raise InputError(
                f"A served collection's name has letters, digits and underscores, got {name!r}."
            )
        table = rows_table(rows)
        vectors = check_vectors(vectors, allow_empty=True)
        if len(vectors) != len(table):
            raise ShapeError(f"{len(table)} rows need {len(table)} vectors, got {len(vectors)}.")
        columns = columns_of(table.schema)
        list(to_served(table, columns))  # complains before anything is made
        client = connect(uri, token, timeout)
        about: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "dim": int(vectors.shape[1]),
            "columns": [[c.name, c.field, c.kind] for c in columns],
            "metadata": dict(metadata or {}),
        }
        with served(uri):
            if client.has_collection(name):
                if not overwrite:
                    raise InputError(f"{uri} has a collection {name!r}: use overwrite=True.")
                client.drop_collection(name)
            client.create_collection(
                name,
                schema=schema(client, columns, int(vectors.shape[1])),
                index_params=indexes(client, index or {"index_type": "FLAT"}),
                properties={_PROPERTY: json.dumps(about, ensure_ascii=False, allow_nan=False)},
                consistency_level="Strong",
            )
        made = cls(client, name, int(vectors.shape[1]), columns, about["metadata"])
        made._store(table, vectors)
        return made

    @classmethod
    def open(
        cls, name: str, *, uri: str, token: str = "", timeout: float = 10.0
    ) -> ServedCollection:
        """Open a collection that `create` made.

        Raises:
            NotFoundError: When the server has no collection of that name.
            FormatError: When it was made by something else, or by another version.
            EndpointError: When the server cannot be reached or refuses.
        """
        client = connect(uri, token, timeout)
        with served(uri):
            if not client.has_collection(name):
                names = ", ".join(sorted(client.list_collections())) or "none"
                raise NotFoundError(f"{uri} has no collection {name!r}. It has: {names}.")
            properties = client.describe_collection(name).get("properties", {})
            client.load_collection(name)
        about = json.loads(properties.get(_PROPERTY, "{}"))
        if about.get("format_version") != FORMAT_VERSION:
            raise FormatError(
                f"The collection {name!r} on {uri} has format version "
                f"{about.get('format_version')!r}; this version of embedworks reads "
                f"{FORMAT_VERSION}."
            )
        columns = tuple(ServedColumn(*entry) for entry in about["columns"])
        return cls(client, name, int(about["dim"]), columns, about["metadata"])

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    # Looking.

    @property
    def metadata(self) -> dict[str, Any]:
        """What was stored beside the rows when the collection was made."""
        return dict(self._metadata)

    @property
    def columns(self) -> dict[str, str]:
        """Columns a filter may use, with their types."""
        return {column.name: str(column.type) for column in self._columns}

    def __len__(self) -> int:
        return self.count()

    def count(self, where: str | Condition | None = None) -> int:
        """Return how many rows match a filter."""
        return self._target().count(where)

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
        rerank: Reranker | None = None,
        rerank_depth: int = 50,
    ) -> list[Hit]:
        """Return the best rows for a query; see `Collection.search`.

        Mode ``"bm25"`` is the server's full-text search, with its own analysis of words. Mode
        ``"hybrid"`` adds up ``weight / (60 + rank)`` over the first 1,000 rows of both, with
        the weight of ``hybrid``; the other settings need scores that the server does not give.
        """
        run = ServedSearch(self._target(), mode, encoder, hybrid, rerank, rerank_depth)
        return run.one(query, vector, k, where)[0]

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
        rerank: Reranker | None = None,
        rerank_depth: int = 50,
    ) -> Explanation:
        """Carry out a search and tell how: arguments as for `search`."""
        run = ServedSearch(self._target(), mode, encoder, hybrid, rerank, rerank_depth)
        return run.one(query, vector, k, where)[1]

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
        rerank: Reranker | None = None,
        rerank_depth: int = 50,
    ) -> BatchResult:
        """Return ids and scores for many queries; see `Collection.search_many`.

        Rows on a server have no numbers: ``rows`` of the result are -1.
        """
        run = ServedSearch(self._target(), mode, encoder, hybrid, rerank, rerank_depth)
        ranked = run.ranked(queries, vectors, k, where)
        return BatchResult(
            rows=[np.full(len(found), -1, dtype=np.int64) for found in ranked],
            scores=[np.array([f.score for f in found], dtype=np.float32) for found in ranked],
            chunk_ids=[[f.row["chunk_id"] for f in found] for found in ranked],
            doc_ids=[[f.row["doc_id"] for f in found] for found in ranked],
            first_scores=None
            if rerank is None
            else [np.array([f.first for f in found], dtype=np.float32) for found in ranked],
        )

    # Changing.

    def add(self, rows: pa.Table | Iterable[Any], vectors: np.ndarray) -> None:
        """Add rows whose ids are new.

        Raises:
            DuplicateIdError: When a chunk id is there already; nothing is added then.
        """
        table, vectors = self._checked(rows, vectors)
        ids = table.column("chunk_id").to_pylist()
        taken = self._present(ids)
        if taken:
            first = next(i for i in ids if i in taken)
            raise DuplicateIdError(
                f"{len(taken)} of {len(ids)} chunk ids are in the collection already, the first "
                f"is {first!r}. Remove them first, or use upsert to replace them."
            )
        self._store(table, vectors)

    def upsert(
        self,
        rows: pa.Table | Iterable[Any],
        vectors: np.ndarray,
        *,
        whole_documents: bool = False,
    ) -> None:
        """Add rows, replacing those whose chunk id is there; see `Collection.upsert`."""
        table, vectors = self._checked(rows, vectors)
        self._store(table, vectors)
        if whole_documents:
            documents = list(dict.fromkeys(table.column("doc_id").to_pylist()))
            new = set(table.column("chunk_id").to_pylist())
            for start in range(0, len(documents), _BATCH):
                part = In("doc_id", tuple(documents[start : start + _BATCH]))
                self._delete([i for i in self._ids(part) if i not in new])

    def remove(
        self, chunk_ids: Sequence[str] | None = None, *, where: str | Condition | None = None
    ) -> int:
        """Remove rows by id or by filter; return how many. See `Collection.remove`."""
        chosen = self._chosen("remove", chunk_ids, where)
        self._delete(chosen)
        return len(chosen)

    def update(
        self,
        values: Mapping[str, Any],
        *,
        chunk_ids: Sequence[str] | None = None,
        where: str | Condition | None = None,
    ) -> int:
        """Set attributes of some rows; return how many rows. See `Collection.update`."""
        fixed = [name for name in values if name in ("chunk_id", "title", "text", "vector")]
        if fixed:
            raise InputError(
                f"update cannot change {fixed[0]!r}: use upsert, with the row and its new vector."
            )
        fields = next(iter(self._fields(values_table(values, 1), only=values)), {})
        chosen = self._chosen("update", chunk_ids, where)
        for start in range(0, len(chosen) if fields else 0, _BATCH):
            key = self._field("chunk_id")
            data = [{key: i, **fields} for i in chosen[start : start + _BATCH]]
            with served(self.name):
                self._client.upsert(self.name, data, partial_update=True)
        return len(chosen)

    # Private parts.

    def _target(self) -> Target:
        return Target(
            self._client, self.name, self.dim, self._columns, self._metadata, self._analyzer
        )

    def _checked(
        self, rows: pa.Table | Iterable[Any], vectors: np.ndarray
    ) -> tuple[pa.Table, np.ndarray]:
        table = rows_table(rows)
        vectors = check_vectors(vectors, dim=self.dim, allow_empty=True)
        if len(vectors) != len(table):
            raise ShapeError(f"{len(table)} rows need {len(table)} vectors, got {len(vectors)}.")
        return table, vectors

    def _fields(
        self, table: pa.Table, *, only: Iterable[str] | None = None
    ) -> Iterable[dict[str, Any]]:
        names = None if only is None else set(only)
        columns = [c for c in self._columns if names is None or c.name in names]
        return to_served(table, columns)

    def _field(self, name: str) -> str:
        return next(column.field for column in self._columns if column.name == name)

    def _store(self, table: pa.Table, vectors: np.ndarray) -> None:
        zero = int((~vectors.any(axis=1)).sum())
        if zero:
            warnings.warn(
                f"{zero} of {len(vectors)} vectors are zero: those rows score 0 in dense search.",
                DataWarning,
                stacklevel=4,
            )
        titles, texts = table.column("title").to_pylist(), table.column("text").to_pylist()
        data = [
            {**fields, VECTOR: vector.tolist(), WORDS: with_title(title or "", text)}
            for fields, vector, title, text in zip(
                self._fields(table), vectors, titles, texts, strict=True
            )
        ]
        for start in range(0, len(data), _BATCH):
            with served(self.name):
                self._client.upsert(self.name, data[start : start + _BATCH])

    def _delete(self, chunk_ids: Sequence[str]) -> None:
        for start in range(0, len(chunk_ids), _BATCH):
            with served(self.name):
                self._client.delete(self.name, ids=list(chunk_ids[start : start + _BATCH]))

    def _ids(self, where: str | Condition | None) -> list[str]:
        """Return the ids of all rows that match, in ascending order."""
        field = self._field("chunk_id")
        with served(self.name):
            pages = self._client.query_iterator(
                self.name,
                filter=expression(where, self._columns),
                output_fields=[field],
                batch_size=_BATCH,
            )
            found: list[str] = []
            while page := pages.next():
                found.extend(entry[field] for entry in page)
            pages.close()
        return sorted(found)

    def _present(self, chunk_ids: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for start in range(0, len(chunk_ids), _BATCH):
            found |= set(self._ids(In("chunk_id", tuple(chunk_ids[start : start + _BATCH]))))
        return found

    def _chosen(
        self, name: str, chunk_ids: Sequence[str] | None, where: str | Condition | None
    ) -> list[str]:
        if (chunk_ids is None) == (where is None):
            raise InputError(f"{name} needs either chunk_ids or where=, and not both.")
        if chunk_ids is None:
            return self._ids(where)
        chosen = list(dict.fromkeys(check_texts(chunk_ids, name="chunk_ids")))
        present = self._present(chosen)
        unknown = [i for i in chosen if i not in present]
        if unknown:
            raise InputError(
                f"{len(unknown)} of {len(chosen)} chunk ids are not in the collection, the first "
                f"is {unknown[0]!r}. Nothing was changed."
            )
        return chosen
