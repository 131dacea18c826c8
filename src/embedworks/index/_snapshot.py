"""One version of a collection, ready to search, and its cache on disk.

The cache is a folder named by version: rows as an Arrow file, vectors and norms as ``.npy``,
the BM25 arrays, and the graph if there is one. Everything is memory-mapped when it is opened, so
a reader keeps its version after a writer has removed the folder.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from embedworks._core.files import atomic_directory, read_json, sha256_of_file, write_json
from embedworks.errors import DataWarning, FormatError, NotFoundError
from embedworks.index._planned import GRAPH_FOLDER, PlannedDense
from embedworks.index._row_masks import RowMasks
from embedworks.index._store import Commit
from embedworks.index.bm25 import BM25Index
from embedworks.index.exact import ExactIndex
from embedworks.index.where import Condition

__all__ = ["CACHE_VERSION", "Snapshot"]

CACHE_VERSION = 3
METADATA_KEY = b"embedworks"
_FILES = ("rows.arrow", "vectors.npy", "norms.npy", "mean.npy", "covariance.npy")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Rows (without vectors), dense index and BM25 index of one version.

    Attributes:
        commit: The version.
        rows: M rows, the ``vector`` column left out.
        dense: Vectors (M, D) with their norms.
        bm25: Inverted index over titles and texts.
        metadata: What the writer stored beside the rows.
        folder: The cache folder, or None when it lives in memory only.
        planned: Dense search through a graph, or None when it always scans.
        masks: The filters used lately.
    """

    commit: Commit
    rows: pa.Table
    dense: ExactIndex
    bm25: BM25Index
    metadata: Mapping[str, Any]
    folder: Path | None
    planned: PlannedDense | None = None
    masks: RowMasks = field(default_factory=RowMasks, repr=False)

    def mask(self, where: str | Condition | None) -> np.ndarray | None:
        """Return which rows (M,) pass a filter, read-only, or None when there is none."""
        return self.masks.of(where, self.rows)

    @classmethod
    def build(cls, commit: Commit, table: pa.Table, *, older: Snapshot | None = None) -> Snapshot:
        """Make a snapshot in memory from the stored table, vectors included.

        Texts that an older snapshot has under the same id are not analysed again, and its graph
        is taken over for the rows that stay.
        """
        metadata = json.loads((table.schema.metadata or {}).get(METADATA_KEY, b"{}"))
        column = table.column("vector").combine_chunks()
        dim = column.type.list_size
        vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
        rows = table.drop_columns(["vector"]).replace_schema_metadata(None).combine_chunks()
        previous = None if older is None else (older.bm25, _same_rows(older.rows, rows))
        texts = rows.column("text").to_pylist()
        titles = [title or "" for title in rows.column("title").to_pylist()]
        unrepeated = [
            "" if text.startswith(title) else title
            for title, text in zip(titles, texts, strict=True)
        ]
        bm25 = BM25Index.build(texts, titles=unrepeated, previous=previous)
        dense, planned = ExactIndex(vectors), None
        if older is not None and older.planned is not None:
            planned = older.planned.taken_over(dense, _places(older.rows, rows))
        return cls(commit, rows, dense, bm25, metadata, None, planned)

    def difference(self, other: Snapshot) -> str | None:
        """Name the first part in which two snapshots of one version differ, or None."""
        if not self.rows.equals(other.rows):
            return "rows"
        if not np.array_equal(self.dense.vectors, other.dense.vectors):
            return "vectors"
        if not np.array_equal(self.dense.norms, other.dense.norms):
            return "norms"
        for name, array in self.bm25.arrays.items():
            if not np.array_equal(array, other.bm25.arrays[name]):
                return f"BM25 arrays {name!r}"
        return None

    def save(self, folder: Path) -> None:
        """Write the cache folder in one step."""
        with atomic_directory(folder) as temporary:
            with (
                pa.OSFile(str(temporary / "rows.arrow"), "wb") as sink,
                pa.ipc.new_file(sink, self.rows.schema) as writer,
            ):
                writer.write_table(self.rows)
            np.save(temporary / "vectors.npy", self.dense.vectors, allow_pickle=False)
            mean, covariance = self.dense.statistics
            np.save(temporary / "norms.npy", self.dense.norms, allow_pickle=False)
            np.save(temporary / "mean.npy", mean, allow_pickle=False)
            np.save(temporary / "covariance.npy", covariance, allow_pickle=False)
            self.bm25.save(temporary / "bm25")
            if self.planned is not None:
                self.planned.save(temporary / GRAPH_FOLDER)
            about = {
                "cache_version": CACHE_VERSION,
                "commit": self.commit.name,
                "rows": len(self.rows),
                "dim": int(self.dense.vectors.shape[1]),
                "metadata": dict(self.metadata),
                "files": {
                    name: {
                        "bytes": (temporary / name).stat().st_size,
                        "sha256": sha256_of_file(temporary / name),
                    }
                    for name in _FILES
                },
            }
            write_json(temporary / "snapshot.json", about)

    @classmethod
    def load(cls, commit: Commit, folder: Path, *, verify: bool = False) -> Snapshot:
        """Map a cache folder.

        Raises:
            NotFoundError: When there is none.
            FormatError: When it is damaged, half written or of another version.
        """
        about = read_json(folder / "snapshot.json")
        try:
            if about["cache_version"] != CACHE_VERSION:
                raise FormatError(f"{folder} is a cache of version {about['cache_version']}.")
            if about["commit"] != commit.name:
                raise FormatError(f"{folder} is a cache of {about['commit']}, not {commit.name}.")
            for name in _FILES:
                _check_file(folder / name, about["files"][name], verify=verify)
            with pa.memory_map(str(folder / "rows.arrow")) as source:
                rows = pa.ipc.open_file(source).read_all()
            vectors, norms, mean, covariance = (
                np.asarray(np.load(folder / name, mmap_mode="r", allow_pickle=False))
                for name in _FILES[1:]
            )
            bm25 = BM25Index.load(folder / "bm25", verify=verify)
            shapes = (len(rows), len(bm25), *vectors.shape)
            if shapes != (about["rows"], about["rows"], about["rows"], about["dim"]):
                raise FormatError(f"The parts of {folder} do not fit each other: {shapes}.")
            dense = ExactIndex(vectors, norms=norms, statistics=(mean, covariance))
        except (FileNotFoundError, KeyError, TypeError, ValueError, EOFError) as error:
            if isinstance(error, FormatError | NotFoundError):
                raise
            raise FormatError(f"The cache {folder} is damaged ({error}).") from error
        planned = _load_graph(folder / GRAPH_FOLDER, dense, verify=verify)
        return cls(commit, rows, dense, bm25, about["metadata"], folder, planned)


_REPLACED_IN = 0.02  # seconds


def _load_graph(folder: Path, dense: ExactIndex, *, verify: bool) -> PlannedDense | None:
    """Map the graph if there is one; without it, or when it is damaged, searches scan."""
    try:
        try:
            return PlannedDense.load(folder, dense, verify=verify)
        except FormatError:  # a writer may be replacing it at this moment: look once more
            time.sleep(_REPLACED_IN)
            return PlannedDense.load(folder, dense, verify=verify)
    except NotFoundError:
        return None
    except FormatError as error:
        if verify:
            raise
        warnings.warn(
            f"{error} Searches scan until `prepare` has built it again.", DataWarning, stacklevel=4
        )
        return None


def _places(older: pa.Table, rows: pa.Table) -> np.ndarray:
    """Return, for every row, the older row with the same id, or -1: (M,)."""
    places = pc.index_in(rows["chunk_id"], value_set=older["chunk_id"])
    return np.asarray(pc.fill_null(places, -1).to_numpy(), dtype=np.int64)


def _same_rows(older: pa.Table, rows: pa.Table) -> np.ndarray:
    """Return, for every row, the older row with the same id, title and text, or -1: (M,)."""
    places = pc.index_in(rows["chunk_id"], value_set=older["chunk_id"])
    same = places.is_valid()
    for name in ("title", "text"):
        then = pc.fill_null(older[name].take(places), "")
        same = pc.and_(same, pc.equal(then, pc.fill_null(rows[name], "")))
    numbers = pc.if_else(same, places, pa.scalar(-1, pa.int32()))
    return np.asarray(numbers.to_numpy(), dtype=np.int64)


def _check_file(path: Path, expected: Mapping[str, Any], *, verify: bool) -> None:
    if not path.is_file():
        raise NotFoundError(f"{path} is missing.")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise FormatError(f"{path} has {size} bytes, expected {expected['bytes']}.")
    if verify and sha256_of_file(path) != expected["sha256"]:
        raise FormatError(f"{path} does not match its checksum: it was changed or damaged.")
