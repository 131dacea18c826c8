"""`core`: a few minutes that tell whether a text model is any good."""

from __future__ import annotations

from embedworks.evaluation.public_data import DataFolder
from embedworks.evaluation.retrieval import RetrievalTask
from embedworks.evaluation.sts import StsTask
from embedworks.evaluation.suites import SUITES, Suite, TaskSource

__all__ = ["judged_collection", "sts_benchmark"]


def judged_collection(data: DataFolder, name: str) -> RetrievalTask:
    """Return a judged collection of the data folder: ``cranfield`` or ``vaswani``."""
    corpus = data.records(f"ir_{name}_corpus.parquet", ["doc_id", "title", "text"])
    queries = data.records(f"ir_{name}_queries.parquet", ["query_id", "text"])
    judgements = data.records(f"ir_{name}_qrels.parquet", ["query_id", "doc_id", "relevance"])
    qrels: dict[str, dict[str, int]] = {}
    for row in judgements:
        qrels.setdefault(str(row["query_id"]), {})[str(row["doc_id"])] = int(row["relevance"])
    texts = {
        str(row["doc_id"]): f"{row['title'] or ''} {row['text'] or ''}".strip() for row in corpus
    }
    return RetrievalTask(
        name,
        {str(row["query_id"]): row["text"] for row in queries},
        texts,
        qrels,
    )


def sts_benchmark(data: DataFolder, language: str = "en", split: str = "dev") -> StsTask:
    """Return a part of the STS benchmark in one language."""
    rows = data.records(
        "stsb_multi.parquet",
        ["sentence1", "sentence2", "score"],
        where={"lang": language, "split": split},
    )
    pairs = [(row["sentence1"], row["sentence2"], float(row["score"])) for row in rows]
    return StsTask(f"stsb-{language}-{split}", pairs)


SUITES.add(
    "core",
    Suite(
        "core",
        (
            TaskSource("stsb-en-dev", sts_benchmark, ("stsb_multi.parquet",)),
            *(
                TaskSource(
                    name,
                    lambda data, name=name: judged_collection(data, name),  # type: ignore[misc]
                    tuple(f"ir_{name}_{part}.parquet" for part in ("corpus", "queries", "qrels")),
                )
                for name in ("cranfield", "vaswani")
            ),
        ),
    ),
    summary="Minutes: similarity, retrieval, classification, clustering, pairs.",
)
