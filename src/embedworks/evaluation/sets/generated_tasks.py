"""Tasks without labels: what documents say about themselves stands for questions about them.

A title asks for its section, a docstring for its code, a sentence for the text it was cut from.
Such tasks compare systems on the user's own documents in minutes. What they cannot tell is part
of every result.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_in_range
from embedworks.data import (
    PAIR_SOURCES,
    Chunk,
    TrainingPair,
    chunk_documents,
    make_pairs,
    read_documents,
)
from embedworks.errors import DataWarning, EmptyInputError
from embedworks.evaluation.kinds.retrieval import RetrievalTask, Run
from embedworks.evaluation.outcomes import Resampling, TaskResult

__all__ = ["GENERATED_CAVEAT", "GeneratedTask", "generate_tasks"]

#: What no generated task can tell.
GENERATED_CAVEAT = (
    "The questions were made from the passages themselves, not asked by people. They share words "
    "with their passage, which flatters lexical matching; only the passage they come from counts "
    "as right, even where others answer as well; and they ask what authors wrote, not what users "
    "want to know. Use the figures to compare systems on these documents, not as their quality."
)

_SOURCES = ("title", "question_heading", "docstring", "first_sentence", "crop")
#: Sources whose questions are titles: there, no passage of the corpus shows its title.
_OF_TITLES = ("title", "question_heading")
_FEWEST = 10


@dataclass(frozen=True)
class GeneratedTask(RetrievalTask):
    """A retrieval task whose questions were made from its documents.

    Args:
        facts: What results say besides the figures: how the questions were made and what that
            means.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)

    def score(self, run: Run, resampling: Resampling) -> TaskResult:
        """Score rankings; the caveat is in the details."""
        result = super().score(run, resampling)
        return replace(result, details={**result.details, **self.facts})


def generate_tasks(
    source: str | os.PathLike[str] | Sequence[Chunk],
    *,
    name: str | None = None,
    sources: Sequence[str] | None = None,
    max_queries: int = 300,
    max_tokens: int = 256,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    instruction: str | None = None,
    seed: int = 0,
) -> list[GeneratedTask]:
    r"""Make a retrieval task of every way in which documents ask about themselves.

    The corpus are all passages, repeated ones once; a passage that is asked about is shown without
    the question: the title, sentence or docstring that was taken for it. Passages that gave the
    same question are all right answers to it. Ways that give fewer than 10 questions are left
    out; they are counted in `GeneratedTask.facts` and, when they were asked for, in a
    `DataWarning`.

    Args:
        source: Folder or file of documents, as for `embedworks.data.read_documents`, or chunks.
        name: Name of the tasks, followed by the way they are made.
        sources: Ways to make questions, names in `embedworks.data.PAIR_SOURCES`; None takes those
            that read most like questions: titles, docstrings, sentences and crops.
        max_queries: Most questions of a task, drawn at random from more.
        max_tokens: Most tokens of a passage.
        include: Globs of files to read.
        exclude: Globs of files to leave out.
        instruction: What the task is, for systems that read instructions.
        seed: Seed of the crops and draws.

    Raises:
        NotFoundError: When the documents do not exist.
        EmptyInputError: When no way gives enough questions.
        UnknownNameError: When a way is not registered.

    Example:
        >>> from embedworks.data import Chunk
        >>> chunks = [Chunk(f"a#{i}", "a", f"This passage tells you all of number {i}.",
        ...                 f"How to count to {i}") for i in range(12)]
        >>> task, = generate_tasks(chunks, name="numbers", sources=["title"])
        >>> task.name, len(task.queries), task.facts["shared_words"]
        ('numbers-title', 12, 0.25)
    """
    check_in_range(max_queries, name="max_queries", low=_FEWEST)
    wanted = list(dict.fromkeys(_SOURCES if sources is None else sources))
    for way in wanted:
        PAIR_SOURCES[way]
    if isinstance(source, (str, os.PathLike)):
        documents = read_documents(source, include=include, exclude=exclude)
        chunks: Sequence[Chunk] = chunk_documents(documents, max_tokens=max_tokens)
        title = name or Path(source).resolve().stem
    else:
        chunks, title = source, name or "documents"
    first: dict[str, Chunk] = {}
    for chunk in chunks:
        first.setdefault(" ".join(chunk.text.split()), chunk)
    repeated, chunks = len(chunks) - len(first), list(first.values())
    tasks, few = [], {}
    for way in wanted:
        pairs = _drawn(chunks, way, max_queries, seed)
        if len(pairs) < _FEWEST:
            few[way] = len(pairs)
        else:
            tasks.append(_task(f"{title}-{way}", chunks, way, pairs, instruction))
    counts = ", ".join(f"{way} {count}" for way, count in few.items())
    if not tasks:
        raise EmptyInputError(
            f"{len(chunks)} passages are not enough to ask about: {_FEWEST} questions of one kind "
            f"are needed, got {counts or 'no kind to make'}. Give more documents."
        )
    if few and sources is not None:
        message = f"Too few questions for a task, left out: {counts} (at least {_FEWEST})."
        warnings.warn(DataWarning(message), stacklevel=2)
    counted = {"too_few_questions": few, "repeated_passages": repeated}
    return [replace(task, facts={**task.facts, **counted}) for task in tasks]


def _drawn(
    chunks: Sequence[Chunk], way: str, max_queries: int, seed: int
) -> dict[str, list[TrainingPair]]:
    """Return question -> its passages, at most ``max_queries``, in document order."""
    found: dict[str, list[TrainingPair]] = {}
    for pair in make_pairs(chunks, sources={way: 1.0}, seed=seed, max_pairs_per_chunk=1):
        found.setdefault(pair.anchor.casefold(), []).append(pair)
    keys = list(found)
    if len(keys) > max_queries:
        rng = generator(seed, "generated tasks", way)
        rows = sorted(rng.choice(len(keys), size=max_queries, replace=False).tolist())
        keys = [keys[row] for row in rows]
    return {key: found[key] for key in keys}


def _task(
    name: str,
    chunks: Sequence[Chunk],
    way: str,
    pairs: Mapping[str, Sequence[TrainingPair]],
    instruction: str | None,
) -> GeneratedTask:
    corpus = {c.chunk_id: c.text if way in _OF_TITLES else c.embedding_text for c in chunks}
    corpus |= {pair.chunk_id: pair.positive for own in pairs.values() for pair in own}
    queries = {f"q{place}": own[0].anchor for place, own in enumerate(pairs.values(), 1)}
    qrels = {
        query: {pair.chunk_id: 1 for pair in own}
        for query, own in zip(queries, pairs.values(), strict=True)
    }
    shared = [
        len(words & _words(pair.positive)) / len(words)
        for own in pairs.values()
        for pair in own
        if (words := _words(pair.anchor))
    ]
    facts = {
        "generated": way,
        "made": PAIR_SOURCES[way].summary,
        "shared_words": round(float(np.mean(shared)), 3),
        "caveat": GENERATED_CAVEAT,
    }
    return GeneratedTask(
        name, queries, {c: t for c, t in corpus.items() if t.strip()}, qrels,
        instruction=instruction, facts=facts,
    )  # fmt: skip


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))
