"""Look at every part of a collection and say what is wrong and what to do about it."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from embedworks.errors import FormatError, InputError, NotFoundError
from embedworks.index._cache import CACHE_FOLDER, snapshot_of, with_graph
from embedworks.index._folder import open_store
from embedworks.index._planned import wants_graph
from embedworks.index._snapshot import Snapshot
from embedworks.index._store import Commit, TableStore

__all__ = ["CollectionReport", "Finding", "check_collection"]

_WRONG = ("damaged",)


@dataclass(frozen=True)
class Finding:
    """What was found about one part.

    Attributes:
        part: ``"table"``, or ``"cache"`` and the folder's name.
        state: ``"ok"``; ``"missing"``, ``"old"`` or ``"leftover"``, which cost time or space
            and nothing else; or ``"damaged"``.
        message: What is the case.
        remedy: What to do, empty when there is nothing to do.
    """

    part: str
    state: str
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class CollectionReport:
    """All findings about one collection.

    Attributes:
        path: Its folder.
        version: The version that was checked.
        rows: Its number of rows.
        findings: One per part.
    """

    path: str
    version: int
    rows: int
    findings: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing is damaged; a cache that is missing or old is made again by itself."""
        return all(finding.state not in _WRONG for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as ``--json`` shows them."""
        return {**asdict(self), "is_sound": self.is_sound}


def check_collection(path: str | Path, *, repair: bool = False) -> CollectionReport:
    """Read every row and every cache of a collection, and compare them.

    Args:
        path: The collection's folder.
        repair: Remove caches that are damaged, old or half written, and make the newest
            version's again, its graph too. The table is never touched: see
            `Collection.versions` and `Collection.restore` for what to do about a damaged one.

    Raises:
        NotFoundError: When there is no collection, or it holds no version.
        FormatError: When it was written by a newer version of embedworks.

    Example:
        >>> import tempfile
        >>> from embedworks.index import Collection
        >>> rows = [{"chunk_id": "a", "text": "open a file"}]
        >>> made = Collection.create(tempfile.mkdtemp(), rows, np.eye(1, 2), overwrite=True)
        >>> [(finding.part[:5], finding.state) for finding in check_collection(made.path).findings]
        [('table', 'ok'), ('cache', 'ok')]
    """
    path = Path(path)
    store = open_store(path)
    commit = store.latest()
    if commit is None:
        raise NotFoundError(f"The collection at {path} holds no version yet. Create it again.")
    try:
        fresh = Snapshot.build(commit, _sound_table(store, commit))
    except (FormatError, InputError) as error:
        return CollectionReport(
            str(path),
            commit.version,
            0,
            (Finding("table", "damaged", str(error), _ways_back(store)),),
        )
    table = Finding("table", "ok", f"version {commit.version}: {len(fresh.rows):,} rows read")
    if repair:
        for finding in _check_caches(path, commit, fresh):
            if finding.state not in ("ok", "missing"):
                shutil.rmtree(path / finding.part, ignore_errors=True)
        snapshot = snapshot_of(store, commit)
        wanted = str(snapshot.metadata.get("index", "auto"))
        if snapshot.planned is None and wants_graph(wanted, *snapshot.dense.vectors.shape):
            with_graph(store, snapshot)
    findings = (table, *_check_caches(path, commit, fresh))
    return CollectionReport(str(path), commit.version, len(fresh.rows), findings)


def _sound_table(store: TableStore, commit: Commit) -> pa.Table:
    """Read the whole table; raise when ids or vectors are not what they must be."""
    table = store.read(commit.version)
    ids = table["chunk_id"]
    distinct = len(ids.unique())
    if distinct != len(ids) or ids.null_count:
        raise FormatError(f"{len(ids) - distinct} rows repeat a chunk id, or have none.")
    flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if not np.isfinite(flat).all():
        raise FormatError("The table holds vectors with NaN or infinity.")
    return table


def _check_caches(path: Path, commit: Commit, fresh: Snapshot) -> list[Finding]:
    folder = path / CACHE_FOLDER
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    findings = []
    for entry in entries:
        part = f"{CACHE_FOLDER}/{entry.name}"
        if entry.name == commit.name:
            findings.append(_check_cache(part, entry, commit, fresh))
        elif entry.name.startswith("."):
            remedy = "It is removed when a cache is next made, or by --repair."
            findings.append(Finding(part, "leftover", "left by a process that was killed", remedy))
        else:
            remedy = "It is not used, and removed when a cache is next made, or by --repair."
            findings.append(Finding(part, "old", "belongs to another version", remedy))
    if all(entry.name != commit.name for entry in entries):
        remedy = "It is made at the next search; --repair makes it now."
        message = f"version {commit.version} has no cache yet"
        findings.append(Finding(f"{CACHE_FOLDER}/{commit.name}", "missing", message, remedy))
    return findings


def _check_cache(part: str, folder: Path, commit: Commit, fresh: Snapshot) -> Finding:
    remedy = "Nothing is lost: --repair makes it again, and so does deleting the folder."
    try:
        cached = Snapshot.load(commit, folder, verify=True)
    except (FormatError, NotFoundError) as error:
        return Finding(part, "damaged", str(error), remedy)
    difference = fresh.difference(cached)
    if difference is not None:
        return Finding(part, "damaged", f"its {difference} differ from the table's", remedy)
    return Finding(part, "ok", "every file matches its checksum, every row and vector the table")


def _ways_back(store: TableStore) -> str:
    """Say which kept versions can still be read."""
    readable = []
    try:
        numbers = [version.number for version in store.versions()]
    except FormatError:
        numbers = []
    for number in numbers:
        try:
            store.read(number)
        except (FormatError, NotFoundError):
            continue
        readable.append(str(number))
    if readable:
        return (
            f"Versions that can still be read: {', '.join(readable)}. Go back to one by "
            "`embedworks index versions --restore N`, or put back a copy of the folder."
        )
    return "No kept version can be read: put back a copy of the folder, or make it again."
