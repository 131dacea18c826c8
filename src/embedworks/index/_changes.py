"""Change the newest version of a collection's table: every function makes at most one commit.

The writer lock is held by the caller. What a change needs to know is read from the table, a few
columns at a time: no cache is needed, and none is made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedworks._core.validation import check_texts
from embedworks.errors import DuplicateIdError, InputError, NotFoundError, ShapeError
from embedworks.index._rows import attach_vectors, unify, values_table
from embedworks.index._snapshot import METADATA_KEY
from embedworks.index._store import Commit, TableStore
from embedworks.index.filtering import evaluate
from embedworks.index.where import Condition, parse_where

__all__ = ["Facts", "add", "facts", "remove", "update", "upsert"]

_FIXED_COLUMNS = ("chunk_id", "title", "text", "vector")


@dataclass(frozen=True)
class Facts:
    """What one version is, without its content.

    Attributes:
        commit: The version.
        rows: Number of rows.
        schema: Columns without the vectors.
        dim: Dimension D of the vectors.
        metadata: What was stored beside the rows.
    """

    commit: Commit
    rows: int
    schema: pa.Schema
    dim: int
    metadata: Mapping[str, Any]


def facts(store: TableStore, commit: Commit | None = None) -> Facts:
    """Read the facts of a version, by default of the newest."""
    commit = commit or store.latest()
    if commit is None:
        raise NotFoundError(f"The collection at {store.folder} holds no version.")
    stored = store.schema(commit.version)
    columns = [field for field in stored if field.name != "vector"]
    return Facts(
        commit,
        store.count(commit.version),
        pa.schema(columns),
        stored.field("vector").type.list_size,
        json.loads((stored.metadata or {}).get(METADATA_KEY, b"{}")),
    )


def add(store: TableStore, rows: pa.Table, vectors: np.ndarray) -> None:
    """Add rows whose ids must be new."""
    newest = _fitting(store, vectors)
    ids = rows.column("chunk_id").to_pylist()
    taken = set(store.find(newest.commit.version, ids, ["chunk_id"])["chunk_id"].to_pylist())
    if taken:
        first = next(i for i in ids if i in taken)
        raise DuplicateIdError(
            f"{len(taken)} of {len(ids)} chunk ids are in the collection already, the first is "
            f"{first!r}. Remove them first, or use upsert to replace them."
        )
    _put(store, newest, rows, vectors, replaced=None)


def upsert(
    store: TableStore, rows: pa.Table, vectors: np.ndarray, *, whole_documents: bool = False
) -> None:
    """Add rows, replacing those whose id, or whose document, is there."""
    replaced = "doc_id" if whole_documents else "chunk_id"
    _put(store, _fitting(store, vectors), rows, vectors, replaced=replaced)


def remove(
    store: TableStore, chunk_ids: Sequence[str] | None, where: str | Condition | None
) -> int:
    """Remove rows by id or by filter; return how many."""
    doomed = _chosen(store, facts(store), chunk_ids, where)
    if doomed:
        store.delete(doomed)
    return len(doomed)


def update(
    store: TableStore,
    values: Mapping[str, Any],
    chunk_ids: Sequence[str] | None,
    where: str | Condition | None,
) -> int:
    """Set columns of the chosen rows to one value each; return how many rows were chosen."""
    for name in values:
        if name in _FIXED_COLUMNS:
            raise InputError(
                f"update cannot change {name!r}: the vectors were made from it or belong to it. "
                "Use upsert, with the whole row and its new vector."
            )
    newest = facts(store)
    chosen = _chosen(store, newest, chunk_ids, where)
    if not chosen or not values:
        return len(chosen)
    columns = [*newest.schema.names, "vector"]
    rows = store.find(newest.commit.version, chosen, columns)
    changed = values_table(values, len(rows))
    for name in changed.column_names:
        place = rows.schema.get_field_index(name)
        rows = rows.drop_columns([name]) if place >= 0 else rows
        rows = rows.append_column(name, changed.column(name))
    vectors = _vectors(rows, newest.dim)
    _put(store, newest, rows.drop_columns(["vector"]), vectors, replaced="chunk_id")
    return len(chosen)


def _fitting(store: TableStore, vectors: np.ndarray) -> Facts:
    """Return the newest version's facts if the vectors fit it."""
    newest = facts(store)
    if vectors.shape[1] != newest.dim:
        raise ShapeError(
            f"vectors have {vectors.shape[1]} dimensions but {newest.dim} are expected: "
            "were they made by another model?"
        )
    return newest


def _put(
    store: TableStore,
    newest: Facts,
    rows: pa.Table,
    vectors: np.ndarray,
    *,
    replaced: str | None,
) -> None:
    """Commit new or changed rows; when a column is new or changes its type, the whole table.

    ``replaced`` names the column whose values the new rows take over from old ones.
    """
    empty, new = unify(newest.schema.empty_table(), rows)
    if empty.schema.equals(newest.schema):
        table = attach_vectors(new.select(newest.schema.names), vectors)
        if replaced:
            store.upsert(table, whole_documents=replaced == "doc_id")
        else:
            store.append(table)
        return
    everything = store.read(newest.commit.version)
    if replaced:
        taken = [pc.is_in(everything[n], value_set=rows[n]) for n in {"chunk_id", replaced}]
        everything = everything.filter(pc.invert(pc.or_(taken[0], taken[-1])))
    both = np.concatenate([_vectors(everything, newest.dim), vectors])
    old = everything.drop_columns(["vector"]).replace_schema_metadata(None)
    joined = pa.concat_tables(unify(old, rows))
    metadata = {METADATA_KEY: json.dumps(dict(newest.metadata), ensure_ascii=False).encode()}
    store.replace(attach_vectors(joined.combine_chunks(), both).replace_schema_metadata(metadata))


def _chosen(
    store: TableStore,
    newest: Facts,
    chunk_ids: Sequence[str] | None,
    where: str | Condition | None,
) -> list[str]:
    """Return the ids of rows given by id or by filter, each once."""
    version = newest.commit.version
    if where is not None:
        condition = parse_where(where) if isinstance(where, str) else where
        evaluate(condition, newest.schema.empty_table())  # complains of columns and types
        table = store.read(version, sorted({"chunk_id", *condition.columns()}))
        mask = evaluate(condition, table)
        return list(table["chunk_id"].filter(pa.array(mask)).to_pylist())
    assert chunk_ids is not None
    chosen = list(dict.fromkeys(check_texts(chunk_ids, name="chunk_ids")))
    if not chosen:
        return []
    present = set(store.find(version, chosen, ["chunk_id"])["chunk_id"].to_pylist())
    unknown = [i for i in chosen if i not in present]
    if unknown:
        raise InputError(
            f"{len(unknown)} of {len(chosen)} chunk ids are not in the collection, the first is "
            f"{unknown[0]!r}. Nothing was changed."
        )
    return chosen


def _vectors(table: pa.Table, dim: int) -> np.ndarray:
    flat = table.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat.reshape(-1, dim), dtype=np.float32)
