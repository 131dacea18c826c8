"""`long`: long documents, generated at chosen lengths and real ones.

A document that a model does not read to the end is counted in every result.
"""

from __future__ import annotations

from embedworks._core.files import sha256_of_text
from embedworks._core.seeding import generator
from embedworks.evaluation.kinds.long_context import LengthTask, LongTask, needle_task, passkey_task
from embedworks.evaluation.sets.public_data import DataFolder
from embedworks.evaluation.suites import SUITES, Suite, TaskSource

__all__ = ["hidden_passages", "manual_needles", "meetings", "passkeys"]

_QUERIES = 50
_DOCUMENTS = 60
_PASSAGE_WORDS = 40
_PASSAGES_PER_DOCUMENT = 2


def passkeys() -> LengthTask:
    """Return pass keys in filler at 256 to 8,192 tokens."""
    return passkey_task(queries=_QUERIES, documents=_DOCUMENTS)


def manual_needles() -> LengthTask:
    """Return facts in the prose of Python's own manual at 256 to 8,192 tokens."""
    from pydoc_data.topics import topics

    return needle_task(
        [topics[name] for name in sorted(topics)], queries=_QUERIES, documents=_DOCUMENTS
    )


def meetings(data: DataFolder) -> LongTask:
    """Return summaries of parts of meetings that search for the meeting, of 13,000 words."""
    rows = data.records("qmsum_long.parquet", ["meeting_id", "turns", "queries"])
    queries, qrels = {}, {}
    for row in rows:
        summaries = [
            asked["answer"].strip()
            for asked in row["queries"]
            if asked["kind"] == "specific" and len(asked["answer"].split()) >= 20
        ]
        for place, summary in enumerate(summaries[:3]):
            query = f"{row['meeting_id']}-{place}"
            queries[query], qrels[query] = summary, {str(row["meeting_id"]): 1}
    return LongTask(
        "qmsum",
        queries,
        {str(row["meeting_id"]): "\n".join(row["turns"]) for row in rows},
        qrels,
        metrics=("ndcg@10", "recall@10", "success@1"),
        instruction="Given a summary of a discussion, find the meeting it is of.",
    )


def hidden_passages(data: DataFolder) -> LongTask:
    """Return passages cut out of speeches and acts of plays that search for the rest."""
    rows = data.records(
        "long_docs_public_domain.parquet",
        ["doc_id", "text"],
        where={"lang": "en", "collection": ["inaugural", "shakespeare", "state_union"]},
    )
    queries, corpus, qrels, depths = {}, {}, {}, {}
    for row in rows:
        words = row["text"].split()
        rng = generator(0, "hidden passages", row["doc_id"])
        doc = sha256_of_text(row["doc_id"])[:16]
        # One passage from each part of the text; both are cut out of it.
        part = len(words) // _PASSAGES_PER_DOCUMENT
        if part < 2 * _PASSAGE_WORDS:
            corpus[doc] = row["text"]
            continue
        kept: list[str] = []
        for number in range(_PASSAGES_PER_DOCUMENT):
            begin, end = number * part, (number + 1) * part
            end = len(words) if number == _PASSAGES_PER_DOCUMENT - 1 else end
            start = int(rng.integers(begin, end - _PASSAGE_WORDS))
            query = f"{row['doc_id']}-{number}"
            queries[query] = " ".join(words[start : start + _PASSAGE_WORDS])
            qrels[query], depths[query] = {doc: 1}, start / len(words)
            kept += [*words[begin:start], *words[start + _PASSAGE_WORDS : end]]
        corpus[doc] = " ".join(kept)
    return LongTask(
        "hidden-passages",
        queries,
        corpus,
        qrels,
        metrics=("ndcg@10", "recall@10", "success@1"),
        instruction="Given a passage, find the text it was taken from.",
        depths=depths,
    )


SUITES.add(
    "long",
    Suite(
        "long",
        (
            TaskSource("passkey", lambda data: passkeys()),
            TaskSource("needle", lambda data: manual_needles()),
            TaskSource("qmsum", meetings, ("qmsum_long.parquet",)),
            TaskSource("hidden-passages", hidden_passages, ("long_docs_public_domain.parquet",)),
        ),
    ),
    summary="Minutes: pass keys and needles at 256 to 8,192 tokens, meetings, speeches.",
)
