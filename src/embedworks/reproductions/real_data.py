"""Public data sets as worlds, where they are on this machine; never downloaded.

The folder is the environment variable ``EMBEDWORKS_DATA``, or ``../shared/data``. Check the terms
of each set before training anything that is to be given away; nothing made here is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from embedworks._core.registry import did_you_mean
from embedworks._core.seeding import derive_seed, generator
from embedworks._core.validation import check_in_range
from embedworks.data import Row, RowSet, content_key
from embedworks.errors import UnknownNameError
from embedworks.evaluation import DataFolder, RetrievalTask
from embedworks.reproductions.tasks import class_world
from embedworks.reproductions.worlds import ClassWorld, GradedWorld, RetrievalWorld

__all__ = ["acl_retrieval", "cosqa_task", "data_file", "stsb_graded", "text_classes"]


def data_file(name: str) -> Path:
    """Return the path of an optional data file (see `embedworks.evaluation.DataFolder`).

    Raises:
        NotFoundError: When it is not there; says where it was looked for.
    """
    return DataFolder().path(name)


def acl_retrieval(count: int = 5000, *, queries: int = 400, seed: int) -> RetrievalWorld:
    """Titles of scientific papers and their abstracts (ACL Anthology, English, 2016 or later).

    The file's own split is used: train, dev for validation, test.

    Args:
        count: Training rows.
        queries: Most questions of the validation and of the test; the corpus is the whole part.
        seed: Seed of the training sample.

    Raises:
        NotFoundError: When ``acl_abstracts.parquet`` is not there.
    """
    check_in_range(count, name="count", low=2)
    columns = ("paper_id", "title", "abstract", "year", "language", "split")
    parts: dict[str, list[Mapping[str, Any]]] = {"train": [], "dev": [], "test": []}
    seen: set[str] = set()
    for record in read_records("acl_abstracts.parquet", columns):
        title = (record["title"] or "").strip()
        if record["language"] == "eng" and record["year"] >= 2016 and title not in seen and title:
            seen.add(title)
            parts[record["split"]].append(record)
    drawn = generator(seed, "acl sample").permutation(len(parts["train"]))[:count]
    chosen = [parts["train"][int(i)] for i in drawn]
    rows = RowSet(
        Row(r["title"], r["abstract"], source="acl", positive_id=r["paper_id"]) for r in chosen
    )

    def task(name: str, part: str) -> RetrievalTask:
        records = parts[part]
        asked = generator(0, "acl questions", part).permutation(len(records))[:queries]
        questions = {records[int(i)]["paper_id"]: records[int(i)]["title"] for i in sorted(asked)}
        corpus = {r["paper_id"]: r["abstract"] for r in records}
        return RetrievalTask(name, questions, corpus, {q: {q: 1} for q in questions})

    return RetrievalWorld(
        "ACL titles",
        rows,
        task("validation", "dev"),
        task("test", "test"),
        {content_key(r["title"]): r["paper_id"] for r in chosen},
        {content_key(r["abstract"]): r["paper_id"] for r in chosen},
    )


def cosqa_task(part: str = "test") -> RetrievalTask:
    """Web queries for Python functions, one relevant each (CoSQA): for evaluation only.

    Args:
        part: ``"validation"`` (a third of the 500 queries) or ``"test"``; both search all
            functions.

    Raises:
        NotFoundError: When a file is not there.
    """
    corpus = {
        r["doc_id"]: r["code"]
        for r in read_records("code_cosqa_corpus.parquet", ("doc_id", "code"))
    }
    records = read_records("code_cosqa_queries.parquet", ("query_id", "text", "doc_id"))
    wanted = [r for r in records if (_share(r["query_id"]) < 1 / 3) == (part == "validation")]
    return RetrievalTask(
        f"CoSQA {part}",
        {r["query_id"]: r["text"] for r in wanted},
        corpus,
        {r["query_id"]: {r["doc_id"]: 1} for r in wanted},
    )


def text_classes(
    dataset: str, *, classes: int | None = None, per_class: int = 60, seed: int
) -> ClassWorld:
    """Short texts with a class: intents, sentiment, subjectivity, question types.

    Args:
        dataset: Such as ``"banking77"``, ``"clinc150"``, ``"subjectivity"``, ``"pros_cons"``.
        classes: The largest so many classes; None takes all.
        per_class: Most texts per class; 60 % train, 15 % validation, 25 % test.
        seed: Seed of the training sample.

    Raises:
        NotFoundError: When ``text_classification.parquet`` is not there.
        UnknownNameError: When it has no such data set.
    """
    found = _labelled_texts(data_file("text_classification.parquet"))
    if dataset not in found:
        raise UnknownNameError(f"No data set {dataset!r}. {did_you_mean(dataset, sorted(found))}")
    texts = found[dataset]
    labels = {label: label.replace("_", " ") for label in texts}
    return class_world(
        dataset, texts, classes=classes, per_class=per_class, label_texts=labels, seed=seed
    )


@lru_cache(maxsize=1)
def _labelled_texts(path: Path) -> dict[str, dict[str, list[str]]]:
    """Return data set -> label -> texts; the file is read once."""
    found: dict[str, dict[str, list[str]]] = {}
    for record in read_records(path.name, ("dataset", "text", "label")):
        if record["label"] != "oos" and record["text"].strip():
            own = found.setdefault(record["dataset"], {})
            own.setdefault(record["label"], []).append(record["text"])
    return found


def stsb_graded(language: str = "en") -> GradedWorld:
    """Sentence pairs with a similarity from 0 to 5 (STS benchmark, freely usable part).

    A tenth of the training pairs, by hash, is validation; the file's dev part is the test. Pairs
    that occur twice stay in the test only.

    Raises:
        NotFoundError: When ``stsb_multi.parquet`` is not there.
        UnknownNameError: When it does not have the language.
    """
    columns = ("lang", "split", "origin", "sentence1", "sentence2", "score")
    parts: dict[str, list[tuple[str, str, float]]] = {"train": [], "validation": [], "test": []}
    languages: set[str] = set()
    records = list(read_records("stsb_multi.parquet", columns))
    tested = {(r["sentence1"], r["sentence2"]) for r in records if r["split"] == "dev"}
    for record in records:
        languages.add(record["lang"])
        pair = record["sentence1"], record["sentence2"]
        if record["lang"] != language or record["origin"] != "other":
            continue
        if record["split"] == "dev":
            part = "test"
        elif pair in tested:
            continue
        else:
            part = "validation" if _share(pair[0]) < 0.1 else "train"
        parts[part].append((*pair, float(record["score"])))
    if not parts["test"]:
        hint = did_you_mean(language, sorted(languages))
        raise UnknownNameError(f"No language {language!r} in the STS benchmark. {hint}")
    rows = RowSet(Row(a, b, source="stsb", score=score) for a, b, score in parts["train"])
    return GradedWorld("STS benchmark", rows, tuple(parts["validation"]), tuple(parts["test"]))


def read_records(name: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the records of a file of the data folder, with the given columns.

    Raises:
        NotFoundError: When the file is not there.
        FormatError: When it cannot be read.
    """
    return DataFolder().records(name, columns)


def _share(text: str) -> float:
    """Return a number in [0, 1) that depends on the text alone."""
    return derive_seed(0, "part", text) / 2**63
