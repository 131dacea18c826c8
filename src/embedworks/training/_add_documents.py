"""Bring more documents, or new versions of documents, into the collection of a finished run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embedworks.errors import DuplicateIdError, EmptyInputError
from embedworks.training._adapt_job import Job
from embedworks.training._adapt_read import chunk_table, read_and_chunk
from embedworks.training._search import open_run
from embedworks.training.settings import AdaptSettings

__all__ = ["add_documents"]


def add_documents(
    run: str | Path,
    documents: str | Path,
    *,
    exclude: Sequence[str] | None = None,
    replace: bool = False,
    lock_timeout: float = 60.0,
    show_progress: bool | None = None,
) -> dict[str, Any]:
    """Read, chunk and encode documents as the run did, and add them in one commit.

    Args:
        run: A finished run.
        documents: Folder, file or table. A document's id is its path below the folder, or the
            value of the table's id column.
        exclude: Glob patterns of relative paths to leave out; None for the run's own.
        replace: Put documents whose id is there already in the place of the old ones, which
            leave no chunk behind; otherwise they are an error.
        lock_timeout: Seconds to wait for another process that writes.
        show_progress: None shows progress bars on a terminal.

    Returns:
        Counts, the collection's new version, and seconds.

    Raises:
        EmptyInputError: When there is nothing to read.
        DuplicateIdError: When a document is there already and ``replace`` is False; nothing is
            added then.
    """
    started = time.perf_counter()
    searcher = open_run(run, lock_timeout=lock_timeout)
    settings = AdaptSettings.from_dict(searcher.run.state["settings"])
    if exclude is not None:
        reading = {**settings.reading.to_dict(), "exclude": list(exclude)}
        settings = settings.replace(reading=reading)
    job = Job(searcher.run, settings, str(Path(documents).resolve()), show_progress)
    job.base = searcher.model
    found, chunks = read_and_chunk(job)
    if not len(chunks):
        raise EmptyInputError(f"{documents} holds nothing that could be indexed.")
    table = chunk_table(chunks)
    vectors = job.encode(searcher.model, table["search_text"].to_pylist())
    rows = table.drop_columns(["search_text"])
    before = len(searcher.collection)
    if replace:
        searcher.collection.upsert(rows, vectors, whole_documents=True)
    else:
        try:
            searcher.collection.add(rows, vectors)
        except DuplicateIdError as error:
            raise DuplicateIdError(
                f"{error} To put all documents of {documents} in the place of the old ones: "
                "replace=True, or --replace."
            ) from error
    searcher.collection.prepare()
    return {
        "path": str(run),
        "documents": len(found),
        "chunks": len(rows),
        "skipped": len(found.report.skipped),
        "duplicates": len(found.report.duplicates),
        "rows_before": before,
        "rows": len(searcher.collection),
        "version": searcher.collection.version,
        "seconds": round(time.perf_counter() - started, 3),
    }
