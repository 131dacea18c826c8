"""What a stage of a plan learns from: settings of its sources, and the rows they give.

Rows come from files of rows, from labelled data sets through a converter, or from documents
without labels. Reading is a function of the settings, the seed and the files alone.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from embedworks._core.seeding import generator
from embedworks._core.settings import Settings
from embedworks.errors import EmptyInputError, NotFoundError

if TYPE_CHECKING:
    from embedworks.data import Chunk, RowSet

__all__ = [
    "DecontaminationSettings",
    "SourceSettings",
    "document_chunks",
    "existing",
    "read_source",
]

Count = Annotated[int, Field(ge=1)]

#: Parts of the standard library without prose worth learning from.
_STDLIB_LEFT_OUT = (
    "test", "tests", "*_test*", "idlelib", "lib2to3", "turtledemo", "lib-dynload", "ensurepip",
    "encodings", "pydoc_data", "_sysconfigdata*", "config-*",
)  # fmt: skip


class SourceSettings(Settings):
    """One source of a stage: where it is, and how it becomes rows.

    Give one of ``rows``, ``file`` with ``converter``, or ``documents``. Paths are relative to the
    data folder of the run.
    """

    name: Annotated[str, Field(min_length=1)]
    rows: str | None = None
    """Parquet file of rows; its own source names are replaced by ``name``."""
    file: str | None = None
    """Labelled data set: Parquet, JSONL, CSV or TSV."""
    converter: str | None = None
    """Name in `CONVERTERS`; with ``documents`` as classes, ``class_examples`` by default."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the converter, such as the names of columns."""
    where: dict[str, Any] = Field(default_factory=dict)
    """Column -> the value, or list of values, a record must have."""
    documents: str | None = None
    """Folder of documents, or ``stdlib`` for the running Python's standard library."""
    form: Literal["pairs", "same", "classes", "graded"] = "pairs"
    """What documents become: question and answer pairs; each passage with itself, which dropout
    tells apart (SimCSE); passages with their document as class; or pairs graded 2 (a passage and
    its first half), 1 (same document), 0 (another document)."""
    pairs: dict[str, float] | None = None
    """Pair source -> weight, for ``form: pairs``; see `PAIR_SOURCES`."""
    classes: Count = 20
    """Largest documents taken as classes, for ``form: classes``."""
    files: Count | None = None
    """Most documents read; chosen by hash."""
    chunk_tokens: Annotated[int, Field(ge=16)] = 96
    limit: Count | None = None
    """Most rows; a seeded sample is taken."""
    skip: Annotated[int, Field(ge=0)] = 0
    """Rows left out from the beginning of the sample's order. Two stages that read one source under
    one name, the one with ``limit: 100`` and the other with ``skip: 100``, share no row."""

    @pydantic.model_validator(mode="after")
    def _one_origin(self) -> Self:
        from embedworks.data.conversion import check_converter

        given = [n for n in ("rows", "file", "documents") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of rows, file and documents, got {given or 'none'}")
        if given == ["file"] and self.converter is None:
            raise ValueError("a file needs a converter: the name of one among CONVERTERS")
        if self.converter is not None and given == ["rows"]:
            raise ValueError("rows are read as they are: leave converter out, or use file")
        if self.converter is not None:
            check_converter(self.converter, self.options)
        if self.documents is None and (self.form != "pairs" or self.pairs is not None):
            raise ValueError("form and pairs go with documents")
        return self


class DecontaminationSettings(Settings):
    """Texts that must not be trained on. See `embedworks.data.decontamination.decontaminate`."""

    files: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """File -> its columns of texts."""
    method: Literal["exact", "ngram", "bm25"] = "exact"
    ngram: Annotated[int, Field(ge=2)] = 13
    threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8


def read_source(
    source: SourceSettings, *, data_root: Path, holdout: float = 0.0, seed: int = 0
) -> RowSet:
    """Return the rows of a source.

    Args:
        source: What to read.
        data_root: Folder that paths are relative to.
        holdout: Share of documents that is left out for evaluation.
        seed: Seed of samples and draws.

    Raises:
        NotFoundError: When a file or folder is not there.
        EmptyInputError: When nothing is left.
    """
    from embedworks.data import RowSet
    from embedworks.data.conversion import convert

    if source.rows is not None:
        rows = RowSet.load(existing(data_root / source.rows))
    elif source.file is not None:
        rows, _ = convert(
            existing(data_root / source.file),
            str(source.converter),
            where=source.where or None,
            **source.options,
        )
    else:
        rows = _rows_of_documents(source, data_root, holdout, seed)
    if not len(rows):
        raise EmptyInputError(f"source {source.name!r} has no rows: every one was filtered out.")
    rows = rows.with_source(source.name)
    if source.skip >= len(rows):
        raise EmptyInputError(
            f"source {source.name!r} has {len(rows)} rows, and {source.skip} are to be skipped."
        )
    if source.skip or (source.limit is not None and len(rows) > source.limit):
        order = generator(seed, "source", source.name).permutation(len(rows))[source.skip :]
        rows = RowSet(rows[int(i)] for i in sorted(order[: source.limit]))
    return rows


def document_chunks(
    documents: str,
    *,
    data_root: Path,
    part: Literal["train", "test"],
    holdout: float,
    seed: int,
    files: int | None = None,
    chunk_tokens: int = 96,
) -> list[Chunk]:
    """Return the chunks of the documents in one part of the split.

    Which documents are read and held out depends on hashes of their ids alone, so training and
    evaluation agree.

    Raises:
        NotFoundError: When there is no such folder.
        EmptyInputError: When no chunk is in this part.
    """
    from embedworks.data import chunk_documents, read_documents, split_documents

    if documents == "stdlib":
        found = list(
            read_documents(
                sysconfig.get_path("stdlib"),
                include=["*.py"],
                exclude=_STDLIB_LEFT_OUT,
                show_progress=False,
            )
        )
    else:
        found = list(read_documents(existing(data_root / documents), show_progress=False))
    if files is not None and len(found) > files:
        ranked = sorted(found, key=lambda d: hashlib.sha256(d.doc_id.encode()).digest())
        kept = {d.doc_id for d in ranked[:files]}
        found = [d for d in found if d.doc_id in kept]
    if holdout > 0:
        parts = split_documents(
            [d.doc_id for d in found], fractions=(1.0 - holdout, 0.0, holdout), seed=seed
        )
        found = [d for d in found if parts[d.doc_id] == part]
    elif part == "test":
        found = []
    if not found:
        raise EmptyInputError(
            f"no document of {documents!r} is in the {part} part: give more documents, or change "
            f"holdout ({holdout:g})."
        )
    return list(chunk_documents(found, max_tokens=chunk_tokens, show_progress=False))


def existing(path: Path) -> Path:
    """Return a path that a recipe names.

    Raises:
        NotFoundError: When it is not there.
    """
    if not path.exists():
        raise NotFoundError(
            f"{path} does not exist: give the folder with the recipe's data (--data-root), or run "
            "a smaller scale that needs none (--scale mini)."
        )
    return path


def _rows_of_documents(
    source: SourceSettings, data_root: Path, holdout: float, seed: int
) -> RowSet:
    from embedworks.data import Row, RowSet, make_pairs
    from embedworks.data.conversion import convert

    chunks = document_chunks(
        str(source.documents),
        data_root=data_root,
        part="train",
        holdout=holdout,
        seed=seed,
        files=source.files,
        chunk_tokens=source.chunk_tokens,
    )
    if source.form == "pairs":
        pairs = make_pairs(chunks, sources=source.pairs, seed=seed)
        return RowSet(Row(p.anchor, p.positive, positive_id=p.chunk_id) for p in pairs)
    if source.form == "same":
        texts = dict.fromkeys(chunk.embedding_text for chunk in chunks)
        return RowSet(Row(text, text) for text in texts)
    if source.form == "graded":
        rows, _ = convert(_graded_records(chunks, seed), "graded_pairs", **source.options)
        return rows
    records = _class_records(chunks, source.classes)
    options = {"seed": seed, **source.options}
    rows, _ = convert(records, source.converter or "class_examples", **options)
    return rows


def _class_records(chunks: Sequence[Chunk], classes: int) -> list[dict[str, Any]]:
    """Return passages labelled with the document they are from, of the largest documents."""
    by_document: dict[str, list[Chunk]] = defaultdict(list)
    for chunk in chunks:
        by_document[chunk.doc_id].append(chunk)
    largest = sorted(by_document, key=lambda d: (-len(by_document[d]), d))[:classes]
    label = {d: Path(d).with_suffix("").as_posix().replace("/", ".") for d in largest}
    return [
        {"text": chunk.text, "label": label[chunk.doc_id]}
        for chunk in chunks
        if chunk.doc_id in label
    ]


def _graded_records(chunks: Sequence[Chunk], seed: int) -> list[dict[str, Any]]:
    """Return pairs whose likeness is known by construction, a third of each grade."""
    rng = generator(seed, "graded pairs")
    by_document: dict[str, list[int]] = defaultdict(list)
    for place, chunk in enumerate(chunks):
        by_document[chunk.doc_id].append(place)
    records = []
    for place, chunk in enumerate(chunks):
        words = chunk.text.split()
        same = [p for p in by_document[chunk.doc_id] if p != place]
        if len(words) < 12 or not same or len(same) + 1 == len(chunks):
            continue
        other = place
        while chunks[other].doc_id == chunk.doc_id:
            other = int(rng.integers(len(chunks)))
        near = chunks[int(rng.choice(same))].text
        partners = ((" ".join(words[: len(words) // 2]), 2), (near, 1), (chunks[other].text, 0))
        records += [
            {"sentence1": chunk.text, "sentence2": text, "score": score} for text, score in partners
        ]
    if not records:
        raise EmptyInputError(
            "no graded pairs can be made: two documents with two passages of twelve words each "
            "are the least."
        )
    return records
