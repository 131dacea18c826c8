"""First stage of an adaptation: documents become chunks, training pairs and held-out questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from embedworks._core.files import atomic_path
from embedworks._core.seeding import generator
from embedworks.data import (
    PairSet,
    chunk_documents,
    holdout_pairs,
    make_pairs,
    read_documents,
    split_documents,
)
from embedworks.errors import EmptyInputError

if TYPE_CHECKING:
    from embedworks.data import Chunk, ChunkSet, DocumentSet, TrainingPair
    from embedworks.training._adapt_job import Job
    from embedworks.training.settings import AdaptSettings

__all__ = ["chunk_table", "read_and_chunk", "read_only_stage", "read_stage", "write_table"]

#: Fewer pairs than this give no batch worth the name.
_LEAST_PAIRS = 8

#: With this many good questions the poor ones are left out.
_ENOUGH_QUESTIONS = 100

SPLITS = ("train", "validation", "test")

#: Columns every row of a collection has; attributes of documents become further columns.
ROW_COLUMNS = (
    "chunk_id",
    "doc_id",
    "title",
    "text",
    "path",
    "start_line",
    "end_line",
    "kind",
)

#: Columns the pipeline itself needs beside them.
_OWN_COLUMNS = ("search_text", "split", "vector")


def write_table(table: pa.Table, path: Any) -> None:
    """Write a Parquet file atomically."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_stage(job: Job) -> dict[str, Any]:
    """Read, chunk, split and pair; leaves chunks, pairs and holdout tables in ``work/``."""
    settings = job.settings
    job.check_trainable()
    documents, chunks = read_and_chunk(job)
    split = _split(chunks, len(documents), settings)
    by_split: dict[str, list[Chunk]] = {name: [] for name in SPLITS}
    for chunk, part in zip(chunks, split, strict=True):
        by_split[part].append(chunk)
    pairs = make_pairs(
        by_split["train"],
        sources=settings.pairs.sources,
        seed=settings.seed,
        max_pairs_per_chunk=settings.pairs.per_chunk,
    )
    held_out = {
        name: _sample(
            _questions(by_split[name], settings.seed),
            settings.evaluation.max_queries,
            settings.seed,
            name,
        )
        for name in ("validation", "test")
    }
    kept = _sample(pairs, settings.pairs.max_pairs, settings.seed, "pairs")
    if len(kept) < _LEAST_PAIRS:
        raise EmptyInputError(
            f"Only {len(kept)} training pairs could be made from {len(chunks)} chunks of "
            f"{len(documents)} documents, and {_LEAST_PAIRS} are the least that makes sense: the "
            "texts are too few or too short to give questions and answers. Add documents, or "
            "search them with a model as it is: `embedworks index build`."
        )
    _write_chunks(job, chunks, split)
    write_table(_pair_table(kept), job.run.work / "pairs.parquet")
    write_table(
        pa.concat_tables(
            _pair_table(held_out[name]).append_column(
                "split", pa.array([name] * len(held_out[name]), pa.string())
            )
            for name in held_out
        ),
        job.run.work / "holdout.parquet",
    )
    return {
        **_counts(documents, chunks),
        "chunks_by_split": {name: len(by_split[name]) for name in SPLITS},
        "pairs": len(kept),
        "pairs_by_source": _by_source(kept),
        "questions": {name: len(held_out[name]) for name in held_out},
        "questions_by_source": _by_source(held_out["test"]),
    }


def _questions(chunks: Sequence[Chunk], seed: int) -> list[TrainingPair]:
    """Return held-out questions, as near to what people ask as the documents allow.

    The words of a function's name are a poor question: they stay only where there are few others.
    """
    if not chunks:
        return []
    pairs = list(holdout_pairs(chunks, seed=seed))
    code = {chunk.chunk_id for chunk in chunks if chunk.kind == "code"}
    better = [p for p in pairs if not (p.source == "title" and p.chunk_id in code)]
    return better if len(better) >= _ENOUGH_QUESTIONS else pairs


def read_only_stage(job: Job) -> dict[str, Any]:
    """Read and chunk, for an index without training."""
    documents, chunks = read_and_chunk(job)
    _write_chunks(job, chunks, ["train"] * len(chunks))
    return _counts(documents, chunks)


def read_and_chunk(job: Job) -> tuple[DocumentSet, ChunkSet]:
    """Read the job's documents and cut them as its settings say."""
    reading = job.settings.reading
    documents = read_documents(
        job.source,
        text_column=reading.text_column,
        title_column=reading.title_column,
        id_column=reading.id_column,
        exclude=reading.exclude,
        keep_duplicates=reading.keep_duplicates,
        show_progress=job.show_progress,
    )
    chunks = chunk_documents(
        documents,
        max_tokens=min(job.settings.chunking.max_tokens, job.token_limit),
        count_tokens=job.count_tokens,
        show_progress=job.show_progress,
    )
    return documents, chunks


def _split(chunks: ChunkSet, n_documents: int, settings: AdaptSettings) -> list[str]:
    """Return the split of every chunk. Whole documents go into one split.

    With fewer than three documents there is nothing to hold out but parts of them, so chunks
    are split in their place.
    """
    share = settings.split
    units = [c.doc_id if n_documents >= len(SPLITS) else c.chunk_id for c in chunks]
    part_of = split_documents(
        dict.fromkeys(units),
        fractions=(1.0 - share.validation - share.test, share.validation, share.test),
        seed=settings.seed,
    )
    return [part_of[unit] for unit in units]


def _counts(documents: DocumentSet, chunks: ChunkSet) -> dict[str, Any]:
    return {
        "reading": documents.report.to_dict(),
        "documents": len(documents),
        "chunks": len(chunks),
    }


def _by_source(pairs: Sequence[TrainingPair]) -> dict[str, int]:
    return dict(sorted(Counter(pair.source for pair in pairs).items()))


def _sample(
    pairs: PairSet | Sequence[TrainingPair], limit: int, seed: int, name: str
) -> list[TrainingPair]:
    items = list(pairs)
    if len(items) <= limit:
        return items
    chosen = generator(seed, "sample", name).choice(len(items), size=limit, replace=False)
    return [items[i] for i in np.sort(chosen)]


def _pair_table(pairs: Sequence[TrainingPair]) -> pa.Table:
    columns = ("anchor", "positive", "source", "chunk_id", "doc_id")
    arrays = {name: pa.array([getattr(p, name) for p in pairs], pa.string()) for name in columns}
    arrays["weight"] = pa.array([p.weight for p in pairs], pa.float32())
    return pa.table(arrays)


def _write_chunks(job: Job, chunks: ChunkSet, split: Sequence[str]) -> None:
    table = chunk_table(chunks).append_column("split", pa.array(split, pa.string()))
    write_table(table, job.run.work / "chunks.parquet")


def chunk_table(chunks: ChunkSet) -> pa.Table:
    """Return chunks as rows of a collection, with the text to encode as ``search_text``."""
    arrays: dict[str, pa.Array] = {}
    for name in ROW_COLUMNS:
        kind = pa.int32() if name.endswith("_line") else pa.string()
        arrays[name] = pa.array([getattr(chunk, name) for chunk in chunks], kind)
    arrays["search_text"] = pa.array([chunk.embedding_text for chunk in chunks], pa.string())
    for name in sorted({name for chunk in chunks for name in chunk.attributes}):
        values = [chunk.attributes.get(name) for chunk in chunks]
        column = f"{name}_" if name in (*ROW_COLUMNS, *_OWN_COLUMNS) else name
        arrays[column] = _attribute_column(values)
    return pa.table(arrays)


def _attribute_column(values: list[Any]) -> pa.Array:
    """Keep booleans, integers and floats; anything mixed becomes text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int}:
        return pa.array(values, pa.int64())
    if kinds and kinds <= {int, float}:
        return pa.array(values, pa.float64())
    return pa.array([None if value is None else str(value) for value in values], pa.string())
