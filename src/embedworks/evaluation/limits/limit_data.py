"""LIMIT-like collections: trivial wording, and judgements that combine documents in every way.

People like things; a question asks who likes one thing, and k people do. Only who is relevant
together with whom differs between the patterns, so what a model loses from one to the other is
not a matter of words.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice, check_in_range, check_texts, check_unique
from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation.kinds.retrieval import Qrels, RetrievalTask
from embedworks.evaluation.limits import _words
from embedworks.evaluation.limits.capacity import random_subsets
from embedworks.evaluation.sets.public_data import DataFolder

__all__ = [
    "LIMIT_PATTERNS",
    "LimitPattern",
    "average_query_strength",
    "limit_attributes",
    "load_limit",
    "load_limit_qrels",
    "make_limit",
    "make_limit_patterns",
    "qrel_graph_density",
]

LimitPattern = Literal["dense", "random", "cycle", "disjoint"]

#: Pattern -> which documents are relevant together.
LIMIT_PATTERNS: dict[LimitPattern, str] = {
    "dense": "all sets of the fewest documents that have enough of them",
    "random": "random sets of all documents",
    "cycle": "question i: documents i, i + 1, ... in a circle",
    "disjoint": "every document answers one question at most",
}

_METRICS = ("recall@2", "recall@10", "recall@20")


def limit_attributes() -> list[str]:
    """Return the things people like: 3,000 and more, those of one word first.

    Example:
        >>> things = limit_attributes()
        >>> things[0], things[-1], len(things) == len(set(things)) > 3000
        ('apples', 'wobbly windows', True)
    """
    pairs = (f"{style} {head}" for style in _words.STYLES for head in _words.HEADS)
    return [*_words.SINGLES, *pairs]


def make_limit(
    n_docs: int,
    n_queries: int,
    *,
    k: int = 2,
    pattern: LimitPattern = "dense",
    attributes: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    min_items: int = 45,
    synonyms: Mapping[str, str] | None = None,
    seed: int = 0,
) -> RetrievalTask:
    """Make a collection of one pattern.

    Each question owns one attribute, which its k relevant people like and nobody else. Then
    everybody gets attributes that no question asks for, up to ``min_items``. The order of a
    list is random.

    Args:
        n_docs: Number of documents; those that answer nothing are distractors.
        n_queries: Number of questions.
        k: Relevant documents for each question.
        pattern: One of `LIMIT_PATTERNS`.
        attributes: Things to like; `limit_attributes` by default. Those of one word are asked
            for first, and fill the documents as long as twice ``min_items`` of them are left:
            things of several words share some with others, a lexical system would be measured
            by its ties, and documents full of them would be longer than others.
        names: Names of people, one for each document, which are also the documents' ids; by
            default from 50,000 combinations of first and last names.
        min_items: Least things a person likes.
        synonyms: Attribute -> what documents say in its place, for every attribute asked for;
            those not asked for stay as they are.
        seed: Seed of every choice.

    Raises:
        InputError: When k >= n_docs, there are too few documents for the pattern, sets for the
            questions, attributes or names, or a synonym is missing.
        DuplicateIdError: When attributes or names repeat.
        UnknownNameError: When the pattern is not known.

    Example:
        >>> task = make_limit(5, 10, min_items=6, seed=1)
        >>> task.queries["q0"], len(task.corpus), len(task.qrels["q0"])
        ('Who likes sunglasses?', 5, 2)
    """
    made = make_limit_patterns(
        n_docs,
        n_queries,
        k=k,
        patterns=(pattern,),
        attributes=attributes,
        names=names,
        min_items=min_items,
        synonyms=synonyms,
        seed=seed,
    )
    return made[pattern]


def make_limit_patterns(
    n_docs: int,
    n_queries: int,
    *,
    k: int = 2,
    patterns: Sequence[LimitPattern] = tuple(LIMIT_PATTERNS),
    attributes: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    min_items: int = 45,
    synonyms: Mapping[str, str] | None = None,
    seed: int = 0,
) -> dict[LimitPattern, RetrievalTask]:
    """Make several patterns over the same documents, word for word.

    Every pattern has ``n_queries`` questions of its own and all are asked of one corpus, so
    texts, lengths and the number of documents cannot explain a difference between patterns.

    Args:
        n_docs: Number of documents.
        n_queries: Number of questions of each pattern.
        k: Relevant documents for each question.
        patterns: Some of `LIMIT_PATTERNS`.
        attributes: As for `make_limit`.
        names: As for `make_limit`.
        min_items: As for `make_limit`.
        synonyms: As for `make_limit`.
        seed: As for `make_limit`.

    Raises:
        EmptyInputError: When no pattern is asked for.
        InputError: As for `make_limit`.

    Example:
        >>> tasks = make_limit_patterns(20, 10, min_items=12)
        >>> tasks["dense"].corpus == tasks["disjoint"].corpus
        True
    """
    if not patterns:
        raise EmptyInputError("Ask for at least one pattern.")
    check_unique(list(patterns), name="patterns")
    check_in_range(n_queries, name="n_queries", low=1)
    check_in_range(min_items, name="min_items", low=1)
    if not 1 <= k < n_docs:
        raise InputError(f"k must be from 1 to below n_docs, got k={k} with n_docs={n_docs}.")
    things = limit_attributes() if attributes is None else check_texts(attributes)
    check_unique(things, name="attributes")
    people = _people(n_docs, names, seed)
    rng = generator(seed, "limit")
    # Which document has which place in the patterns is random: numbers must not tell.
    place = rng.permutation(n_docs)
    asked, rest = _split(things, n_queries * len(patterns), min_items, rng)
    said = _said(asked, synonyms)

    likes: list[list[str]] = [[] for _ in range(n_docs)]
    tasks: dict[LimitPattern, tuple[dict[str, str], dict[str, dict[str, int]]]] = {}
    for number, pattern in enumerate(patterns):
        own = asked[number * n_queries : (number + 1) * n_queries]
        subsets = place[_pattern(pattern, n_docs, n_queries, k, seed)]
        queries = {f"q{i}": f"Who likes {thing}?" for i, thing in enumerate(own)}
        qrels = {f"q{i}": {people[doc]: 1 for doc in row} for i, row in enumerate(subsets.tolist())}
        for thing, row in zip(own, subsets.tolist(), strict=True):
            for doc in row:
                likes[doc].append(said[thing])
        tasks[pattern] = queries, qrels
    corpus = {}
    for person, own in zip(people, likes, strict=True):
        missing = max(0, min_items - len(own))
        if missing > len(rest):
            raise InputError(
                f"A document needs {missing} attributes that no question asks for, but "
                f"{len(things)} attributes leave {len(rest)} beside the {len(asked)} asked for: "
                "give more attributes, or ask fewer questions or fewer items."
            )
        more = [rest[int(i)] for i in rng.choice(len(rest), size=missing, replace=False)]
        corpus[person] = _text(person, _shuffled([*own, *more], rng))
    return {
        pattern: RetrievalTask(
            f"limit-{pattern}-{n_docs}-{n_queries}" + ("-synonyms" if synonyms else ""),
            queries,
            corpus,
            qrels,
            metrics=_METRICS,
        )
        for pattern, (queries, qrels) in tasks.items()
    }


def load_limit(data: DataFolder | None = None) -> RetrievalTask:
    """Return the published small set: 46 documents, 1,000 questions, from the data folder.

    Raises:
        NotFoundError: When the files are not there.
    """
    folder = data or DataFolder()
    corpus = folder.records("limit_small_corpus.parquet", ["doc_id", "text"])
    queries = folder.records("limit_small_queries.parquet", ["query_id", "text"])
    return RetrievalTask(
        "limit-small",
        {str(row["query_id"]): row["text"] for row in queries},
        {str(row["doc_id"]): row["text"] for row in corpus},
        load_limit_qrels(folder, "small"),
        metrics=_METRICS,
    )


def load_limit_qrels(
    data: DataFolder | None = None, part: Literal["small", "full"] = "full"
) -> dict[str, dict[str, int]]:
    """Return the judgements of a published set; the full set's texts are not in the folder.

    Raises:
        NotFoundError: When the file is not there.
    """
    check_choice(part, ("small", "full"), name="part")
    folder = data or DataFolder()
    columns = ["query_id", "doc_id", "relevance"]
    qrels: dict[str, dict[str, int]] = {}
    for row in folder.records(f"limit_{part}_qrels.parquet", columns):
        qrels.setdefault(str(row["query_id"]), {})[str(row["doc_id"])] = int(row["relevance"])
    return qrels


def qrel_graph_density(qrels: Qrels) -> float:
    """Return the share of pairs of questions that have a relevant document in common.

    0 when every document answers one question, 1 when all questions share one. The published
    LIMIT sets have 0.0855.

    Raises:
        EmptyInputError: When fewer than two questions have a relevant document.

    Example:
        >>> qrel_graph_density({"a": {"1": 1, "2": 1}, "b": {"2": 1, "3": 1}, "c": {"4": 1}})
        0.333...
    """
    neighbours = _neighbours(qrels).sharing
    return float(neighbours.sum() / (len(neighbours) * (len(neighbours) - 1)))


def average_query_strength(qrels: Qrels) -> float:
    """Return the mean over questions of summed Jaccard similarity to all other questions' sets.

    The published LIMIT sets have 28.47.

    Raises:
        EmptyInputError: When fewer than two questions have a relevant document.

    Example:
        >>> average_query_strength({"a": {"1": 1, "2": 1}, "b": {"2": 1, "3": 1}})
        0.333...
    """
    return float(_neighbours(qrels).strength.mean())


@dataclass(frozen=True)
class _Neighbours:
    sharing: np.ndarray
    """Questions that share a document with each question, int64 (Q,)."""
    strength: np.ndarray
    """Sum of Jaccard similarities to the others, float64 (Q,)."""


def _neighbours(qrels: Qrels) -> _Neighbours:
    sets = [{doc for doc, value in docs.items() if value > 0} for docs in qrels.values()]
    sets = [own for own in sets if own]
    if len(sets) < 2:
        raise EmptyInputError(
            f"Density is a property of several questions; {len(sets)} of {len(qrels)} have a "
            "relevant document."
        )
    postings: dict[str, list[int]] = {}
    for query, own in enumerate(sets):
        for doc in own:
            postings.setdefault(doc, []).append(query)
    lists = {doc: np.array(rows, dtype=np.int64) for doc, rows in postings.items()}
    sizes = np.array([len(own) for own in sets])
    sharing = np.zeros(len(sets), dtype=np.int64)
    strength = np.zeros(len(sets))
    for query, own in enumerate(sets):
        others, common = np.unique(np.concatenate([lists[doc] for doc in own]), return_counts=True)
        common = common[others != query]
        others = others[others != query]
        sharing[query] = len(others)
        strength[query] = (common / (sizes[query] + sizes[others] - common)).sum()
    return _Neighbours(sharing, strength)


def _pattern(pattern: LimitPattern, n_docs: int, n_queries: int, k: int, seed: int) -> np.ndarray:
    """Return the relevant places of each question, int64 (n_queries, k)."""
    check_choice(pattern, LIMIT_PATTERNS, name="pattern")
    if pattern in ("dense", "random") and n_queries > math.comb(n_docs, k):
        raise InputError(
            f"{n_docs} documents have {math.comb(n_docs, k):,} sets of {k}, not {n_queries:,}: "
            "take more documents or fewer questions."
        )
    if pattern == "dense":
        flat = itertools.islice(itertools.combinations(range(_fewest(n_queries, k)), k), n_queries)
        return np.array(list(flat), dtype=np.int64)
    if pattern == "random":
        return random_subsets(n_docs, k, n_queries, seed=seed)
    if pattern == "disjoint":
        if n_docs < k * n_queries:
            raise InputError(
                f"{n_queries} disjoint sets of {k} need {k * n_queries} documents, got {n_docs}."
            )
        return np.arange(k * n_queries, dtype=np.int64).reshape(n_queries, k)
    if n_docs < n_queries or (n_queries <= k and n_docs < n_queries + k - 1):
        raise InputError(
            f"A cycle of {n_queries} sets of {k} needs {max(n_queries, k + 1)} documents or more, "
            f"got {n_docs}."
        )
    circle = n_queries if n_queries > k else n_docs
    rows = np.arange(n_queries)[:, None] + np.arange(k)
    return np.asarray(rows % circle, dtype=np.int64)


def _fewest(sets: int, k: int) -> int:
    n = k + 1
    while math.comb(n, k) < sets:
        n += 1
    return n


def _people(n_docs: int, names: Sequence[str] | None, seed: int) -> list[str]:
    if names is not None:
        given = check_texts(names, name="names")
        check_unique(given, name="names")
        if len(given) < n_docs:
            raise InputError(f"{n_docs} documents need as many names, got {len(given)}.")
        return given[:n_docs]
    firsts, lasts = _words.FIRST_NAMES, _words.LAST_NAMES
    total = len(firsts) * len(lasts)
    if n_docs > total:
        raise InputError(f"There are {total:,} names for {n_docs:,} documents: give your own.")
    drawn = generator(seed, "limit names").permutation(total)[:n_docs].tolist()
    return [f"{firsts[i // len(lasts)]} {lasts[i % len(lasts)]}" for i in drawn]


def _split(
    things: Sequence[str], wanted: int, min_items: int, rng: np.random.Generator
) -> tuple[list[str], list[str]]:
    """Choose what is asked for, in random order, and what fills the documents."""
    if wanted > len(things):
        raise InputError(
            f"{wanted} questions need as many attributes, one each; there are {len(things)}."
        )
    shuffled = _shuffled(things, rng)
    single_first = sorted(shuffled, key=lambda thing: len(thing.split()) > 1)
    rest = single_first[wanted:]
    single = [thing for thing in rest if len(thing.split()) == 1]
    enough = len(single) >= 2 * min_items
    return _shuffled(single_first[:wanted], rng), single if enough else rest


def _said(asked: Sequence[str], synonyms: Mapping[str, str] | None) -> dict[str, str]:
    if synonyms is None:
        return {thing: thing for thing in asked}
    if absent := [thing for thing in asked if thing not in synonyms]:
        raise InputError(
            f"{len(absent)} of {len(asked)} attributes asked for have no synonym; the first is "
            f"{absent[0]!r}. Give synonyms for all attributes, or only attributes that have one."
        )
    return {thing: synonyms[thing] for thing in asked}


def _shuffled(items: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [items[int(i)] for i in rng.permutation(len(items))]


def _text(person: str, items: Sequence[str]) -> str:
    if len(items) == 1:
        return f"{person} likes {items[0]}."
    return f"{person} likes {', '.join(items[:-1])} and {items[-1]}."
