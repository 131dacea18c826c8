"""The caches of a collection's versions: found, made, replaced.

A cache is made when a version is searched for the first time, not when it is written, so many
changes in a row cost one cache. What an older version's cache knows of rows that are still the
same is taken over.
"""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path

from embedworks.errors import DataWarning, FormatError, StorageError
from embedworks.index._planned import GRAPH_FOLDER, PlannedDense
from embedworks.index._snapshot import Snapshot
from embedworks.index._store import Commit, TableStore

__all__ = ["CACHE_FOLDER", "cached_snapshot", "snapshot_of", "with_graph"]

CACHE_FOLDER = "cache"


def cached_snapshot(path: Path, commit: Commit) -> Snapshot | None:
    """Map the cache of a version; None when it is missing or damaged."""
    try:
        return Snapshot.load(commit, path / CACHE_FOLDER / commit.name)
    except (FormatError, OSError):
        return None


def snapshot_of(store: TableStore, commit: Commit, *, older: Snapshot | None = None) -> Snapshot:
    """Map a version's cache, or make it and remove those of other versions.

    Where none can be written (a full disk, a folder that is read-only) the snapshot lives in
    memory, with a warning.

    Args:
        store: The table.
        commit: The version.
        older: A snapshot of another version whose work may be taken over.

    Raises:
        NotFoundError: When the version is not kept any longer and has no cache.
    """
    found = cached_snapshot(store.folder, commit)
    if found is not None:
        return found
    built = None
    try:
        with store.lock("cache"):
            found = cached_snapshot(store.folder, commit)  # made while this process waited?
            if found is not None:
                return found
            built = _build(store, commit, older)
            folder = store.folder / CACHE_FOLDER / commit.name
            built.save(folder)
            _remove_others(store, commit)
            return Snapshot.load(commit, folder)
    except StorageError as error:
        warnings.warn(
            f"Version {commit.version} of {store.folder} is stored, but its cache could not be "
            f"written ({error.strerror or error}); it is made again each time it is opened.",
            DataWarning,
            stacklevel=4,
        )
        return built or _build(store, commit, older)


def with_graph(
    store: TableStore, snapshot: Snapshot, *, show_progress: bool | None = None
) -> Snapshot:
    """Return the snapshot with a graph built anew, which is kept beside its cache.

    The graph is built without a lock, as it may take minutes; a process killed meanwhile leaves
    the snapshot as it was. Where it cannot be written it lives in memory, with a warning.
    """
    planned = PlannedDense.build(snapshot.dense, show_progress=show_progress)
    if snapshot.folder is not None:
        try:
            with store.lock("cache"):
                if snapshot.folder.is_dir():  # others may have moved on meanwhile
                    planned.save(snapshot.folder / GRAPH_FOLDER)
        except StorageError as error:
            warnings.warn(
                f"The graph of {store.folder} could not be written ({error.strerror or error}); "
                "it is used until this process ends.",
                DataWarning,
                stacklevel=4,
            )
    return replace(snapshot, planned=planned)


def _build(store: TableStore, commit: Commit, older: Snapshot | None) -> Snapshot:
    if older is None:
        older = _any_snapshot(store.folder)
    return Snapshot.build(commit, store.read(commit.version), older=older)


def _any_snapshot(path: Path) -> Snapshot | None:
    """Map some whole cache, the newest if there are several."""
    found: list[Commit] = []
    for entry in (path / CACHE_FOLDER).glob("v*-*"):
        number, _, digest = entry.name[1:].partition("-")
        if number.isdigit():
            found.append(Commit(int(number), digest))
    for commit in sorted(found, key=lambda commit: commit.version, reverse=True):
        snapshot = cached_snapshot(path, commit)
        if snapshot is not None:
            return snapshot
    return None


def _remove_others(store: TableStore, commit: Commit) -> None:
    """Remove the caches of versions that are neither this one nor the newest, and leftovers."""
    newest = store.latest()
    kept = {commit.name, newest.name if newest else ""}
    for entry in (store.folder / CACHE_FOLDER).iterdir():
        if entry.name not in kept:
            shutil.rmtree(entry, ignore_errors=True)
