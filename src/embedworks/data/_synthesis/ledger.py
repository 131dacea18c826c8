"""The ledger: every answer that was paid for, one line each, so that none is asked for twice.

Knows records and a file; nothing of what they are about.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any, Self

from embedworks._core.files import storage_errors
from embedworks.errors import FormatError, InputError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # not on Windows: there, two writers are not noticed
    fcntl = None

__all__ = ["Ledger"]

_HEADER = {"ledger": "embedworks.synthesis", "version": 1}
_SYNC_SECONDS = 1.0


class Ledger:
    """Records by key, kept in an append-only JSONL file, or in memory only.

    A record is one write of one line, so a killed process leaves at most one half line at the
    end, which is cut off when the file is opened again; ``repaired`` tells how many bytes.

    Args:
        path: The file, made when it is not there; None keeps records in memory.

    Raises:
        FormatError: When the file is not a ledger, or a line inside it is damaged.
        InputError: When another process writes to it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.repaired = 0
        self._records: dict[str, dict[str, Any]] = {}
        self._lock = Lock()
        self._file: int | None = None
        self._synced = time.monotonic()
        if path is not None:
            self._open(path)

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the record of a key, or None."""
        return self._records.get(key)

    def add(self, key: str, record: dict[str, Any]) -> None:
        """Keep a record, on disk too."""
        with self._lock:
            if self._file is not None:
                self._write({"key": key, **record})
            self._records[key] = record

    def close(self) -> None:
        """Flush to disk and let others write."""
        if self._file is not None:
            file, self._file = self._file, None
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, path: Path) -> None:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            self._lock_file(file, path)
            self._read(path, lambda size: os.ftruncate(file, size))
            self._file = file
            if not self._records and os.fstat(file).st_size == 0:
                self._write(_HEADER)
        except BaseException:
            self._file = None
            os.close(file)
            raise

    def _lock_file(self, file: int, path: Path) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{path} is being written by another process: wait for it, or choose another "
                "output folder."
            ) from error

    def _read(self, path: Path, truncate: Callable[[int], None]) -> None:
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self.repaired = len(data) - whole
            if whole == 0 and not json.dumps(_HEADER).encode().startswith(data):
                raise FormatError(f"{path} is not a ledger of answers: choose another file.")
            truncate(whole)
        for place, line in enumerate(data[:whole].splitlines()):
            try:
                record = json.loads(line)
                if place == 0:
                    if record != _HEADER:
                        raise FormatError(
                            f"{path} is not a ledger of answers of this version: choose another "
                            "output folder."
                        )
                    continue
                self._records[record.pop("key")] = record
            except (ValueError, KeyError, AttributeError, RecursionError) as error:
                if isinstance(error, FormatError):
                    raise
                raise FormatError(
                    f"{path}, line {place + 1} is damaged ({error!r:.80}): remove the line to "
                    "have it generated again, or move the file away to begin anew."
                ) from error

    def _write(self, value: dict[str, Any]) -> None:
        assert self._file is not None
        assert self.path is not None
        line = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with storage_errors(self.path):
            while line:
                line = line[os.write(self._file, line) :]
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                os.fsync(self._file)
                self._synced = time.monotonic()
