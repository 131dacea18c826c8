"""The caches of a collection's versions: found, made, replaced."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

from embedworks.errors import DataWarning, FormatError, StorageError
from embedworks.index._snapshot import Snapshot
from embedworks.index._store import Commit, TableStore

__all__ = ["cached_snapshot", "newest_snapshot"]


def cached_snapshot(path: Path, commit: Commit) -> Snapshot | None:
    """Map the cache of a version; None when it is missing or damaged."""
    try:
        return Snapshot.load(commit, path / "cache" / commit.name)
    except (FormatError, OSError):
        return None


def newest_snapshot(store: TableStore) -> Snapshot:
    """Return the newest version, making its cache and removing others; the lock is held."""
    commit = store.latest()
    assert commit is not None
    snapshot = cached_snapshot(store.folder, commit)
    if snapshot is None:
        built = Snapshot.build(commit, store.read(commit.version))
        folder = store.folder / "cache" / commit.name
        try:
            built.save(folder)
            snapshot = Snapshot.load(commit, folder)
        except StorageError as error:
            warnings.warn(
                f"Version {commit.version} of {store.folder} is stored, but its cache could not "
                f"be written ({error.strerror}); it is made again each time it is opened.",
                DataWarning,
                stacklevel=4,
            )
            return built
    for entry in (store.folder / "cache").iterdir():
        if entry.name != commit.name:
            shutil.rmtree(entry, ignore_errors=True)
    return snapshot
