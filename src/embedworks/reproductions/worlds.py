"""Worlds to experiment in: data with splits, and with a planted truth that training cannot see.

The standard library of the running Python gives retrieval pairs without a download: summaries of
docstrings and the code they belong to. Duplicates and wrong pairs are planted at known rates, so
masks and filters can be scored against the truth. Documents are split by module: nothing that is
evaluated is trained on.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_in_range
from embedworks.data import (
    Chunk,
    Row,
    RowSet,
    chunk_documents,
    content_key,
    make_pairs,
    read_documents,
    split_documents,
)
from embedworks.errors import InputError
from embedworks.evaluation import RetrievalTask
from embedworks.reproductions.rewrites import near_copy, paraphrase

__all__ = [
    "ClassWorld",
    "GradedWorld",
    "RetrievalWorld",
    "stdlib_chunks",
    "stdlib_retrieval",
    "with_mismatches",
]

#: Parts of the standard library that are tests, data, or copies of other projects.
_EXCLUDE = (
    "test", "tests", "idlelib", "lib2to3", "config-*", "encodings", "pydoc_data", "ensurepip",
    "turtledemo", "distutils", "_py*.py",
)  # fmt: skip
_FRACTIONS = (0.7, 0.1, 0.2)


@dataclass(frozen=True)
class RetrievalWorld:
    """Training rows, two judged collections, and which texts truly belong together.

    Attributes:
        name: For tables.
        train: Rows to train on. Their ``positive_id`` names the document, not its family: what
            training sees does not tell that two documents answer the same query.
        validation: Questions to tune on.
        test: Questions to report.
        family_of_query: Content key of a training anchor -> family.
        family_of_document: Content key of a training document -> family. Documents of a family
            answer the same queries.
    """

    name: str
    train: RowSet
    validation: RetrievalTask
    test: RetrievalTask
    family_of_query: Mapping[int, str] = field(default_factory=dict)
    family_of_document: Mapping[int, str] = field(default_factory=dict)

    def task(self, part: str) -> RetrievalTask:
        """Return the questions of ``"validation"`` or ``"test"``."""
        return {"validation": self.validation, "test": self.test}[part]

    def family(self, row: Row) -> str:
        """Return the family a row's positive is in; use it to let families share a batch."""
        return self.family_of_document[content_key(row.positive)]

    def answers(self, rows: Sequence[Row], documents: Sequence[str]) -> np.ndarray:
        """Return which documents truly answer which rows' anchors, bool (B, M).

        With the batch's own positives as documents, what is True off the diagonal is a false
        negative, and False on the diagonal a wrong pair.
        """
        wanted = np.array([self.family_of_query[content_key(row.anchor)] for row in rows])
        found = np.array([self.family_of_document[content_key(text)] for text in documents])
        return np.asarray(wanted[:, None] == found[None, :])

    def texts(self) -> list[str]:
        """Return every text of the world, for the vocabulary of a `StaticStudent`."""
        texts: dict[str, None] = {}
        for row in self.train:
            texts |= dict.fromkeys(map(str, (row.anchor, row.positive, *row.negatives)))
        for task in (self.validation, self.test):
            texts |= dict.fromkeys(task.queries.values())
            if isinstance(task.corpus, Mapping):
                texts |= dict.fromkeys(task.corpus.values())
        return list(texts)


@dataclass(frozen=True)
class ClassWorld:
    """Texts with classes, in three parts; each part holds (text, label).

    Attributes:
        name: For tables, and the source of the rows.
        train: What rows are made of, and what a nearest-neighbour classifier looks at.
        validation: Texts to tune on.
        test: Texts to report.
        label_texts: Label -> how it reads as a text, for label-name positives.
    """

    name: str
    train: tuple[tuple[str, str], ...]
    validation: tuple[tuple[str, str], ...]
    test: tuple[tuple[str, str], ...]
    label_texts: Mapping[str, str]

    def part(self, name: str) -> tuple[tuple[str, str], ...]:
        """Return the texts of ``"validation"`` or ``"test"``."""
        return {"validation": self.validation, "test": self.test}[name]

    @property
    def labels(self) -> list[str]:
        """The classes, sorted."""
        return sorted(self.label_texts)

    def collision_rate(self) -> float:
        """Return the chance that two training texts are of one class."""
        counts = np.unique([label for _, label in self.train], return_counts=True)[1]
        return float(((counts / counts.sum()) ** 2).sum())

    def rows(
        self, count: int, *, positives: str = "examples", negatives: int = 1, seed: int
    ) -> RowSet:
        """Make contrastive rows.

        Args:
            count: Number of rows.
            positives: ``"examples"`` takes another text of the class and texts of other classes
                as negatives; ``"labels"`` takes the names of the classes.
            negatives: Negatives per row, each of another class; fewer where classes run out.
            seed: Seed of the draws.

        Raises:
            InputError: When ``positives`` is neither, or a class has a single text.
        """
        if positives not in ("examples", "labels"):
            raise InputError(f"positives must be 'examples' or 'labels', got {positives!r}.")
        rng = generator(seed, "class rows", self.name)
        by_label: dict[str, list[str]] = {label: [] for label in self.labels}
        for text, label in self.train:
            by_label[label].append(text)
        alone = [label for label, texts in by_label.items() if len(texts) < 2]
        if alone and positives == "examples":
            raise InputError(f"Class {alone[0]!r} has a single text: it has no example to match.")
        rows = []
        for place in rng.choice(len(self.train), size=count, replace=count > len(self.train)):
            text, label = self.train[int(place)]
            others = [other for other in self.labels if other != label]
            chosen = rng.permutation(others)[:negatives]
            if positives == "labels":
                positive = self.label_texts[label]
                hard = [self.label_texts[str(other)] for other in chosen]
            else:
                same = [other for other in by_label[label] if other != text]
                positive = same[int(rng.integers(len(same)))]
                hard = [by_label[str(o)][int(rng.integers(len(by_label[str(o)])))] for o in chosen]
            rows.append(Row(text, positive, tuple(hard), source=self.name, label=label))
        return RowSet(rows)

    def texts(self) -> list[str]:
        """Return every text of the world."""
        parts = (*self.train, *self.validation, *self.test)
        return list(dict.fromkeys([*(text for text, _ in parts), *self.label_texts.values()]))


@dataclass(frozen=True)
class GradedWorld:
    """Pairs of texts with a degree of similarity.

    Attributes:
        name: For tables, and the source of the rows.
        train: Rows with a ``score``.
        validation: (text, text, score) to tune on.
        test: (text, text, score) to report.
    """

    name: str
    train: RowSet
    validation: tuple[tuple[str, str, float], ...]
    test: tuple[tuple[str, str, float], ...]

    def part(self, name: str) -> tuple[tuple[str, str, float], ...]:
        """Return the pairs of ``"validation"`` or ``"test"``."""
        return {"validation": self.validation, "test": self.test}[name]

    def texts(self) -> list[str]:
        """Return every text of the world."""
        texts = [str(text) for row in self.train for text in (row.anchor, row.positive)]
        texts += [text for a, b, _ in (*self.validation, *self.test) for text in (a, b)]
        return list(dict.fromkeys(texts))


class _Pair(NamedTuple):
    module: str
    name: str
    query: str
    document: str


@lru_cache(maxsize=1)
def stdlib_chunks() -> tuple[Chunk, ...]:
    """Return the functions and classes of the standard library as chunks; read once."""
    documents = read_documents(
        sysconfig.get_path("stdlib"), include=["*.py"], exclude=_EXCLUDE, show_progress=False
    )

    def count(texts: Sequence[str]) -> list[int]:
        return [len(text) // 4 for text in texts]

    # A rough count is enough here, and most functions stay in one piece.
    chunks = chunk_documents(documents, max_tokens=320, count_tokens=count, show_progress=False)
    return tuple(chunks)


@lru_cache(maxsize=1)
def _stdlib_pairs() -> tuple[_Pair, ...]:
    """Return docstring summaries with their code; each query and each document occurs once."""
    chunks = [chunk for chunk in stdlib_chunks() if chunk.kind == "code" and chunk.part == 0]
    names = {chunk.chunk_id: chunk.title for chunk in chunks}
    pairs, queries, documents = [], set(), set()
    for pair in make_pairs(chunks, sources={"docstring": 1.0}, seed=0):
        query = pair.anchor.casefold()
        if query not in queries and pair.positive not in documents:
            queries.add(query)
            documents.add(pair.positive)
            pairs.append(_Pair(pair.doc_id, names[pair.chunk_id], pair.anchor, pair.positive))
    return tuple(pairs)


def stdlib_retrieval(
    count: int = 3000,
    *,
    siblings: float = 0.0,
    copies: int = 1,
    test_siblings: float = 0.3,
    mismatched: float = 0.0,
    negatives: int = 0,
    queries: int = 400,
    seed: int,
) -> RetrievalWorld:
    """Make a world of docstring summaries and the code they belong to.

    Which documents are tested is the same under every seed; which rows are trained on, and what
    is planted, changes with it.

    Args:
        count: Training rows, planted ones included; as many as there are when fewer.
        siblings: Share of the training rows whose document has near-copies in other rows: each
            copy is listed under a paraphrased query, so that a batch with both holds false
            negatives. Pass ``together=world.family`` to `row_batches` to make them meet.
        copies: Near-copies of each such document.
        test_siblings: Share of the test documents that get one near-copy, which the judgements
            count as relevant too.
        mismatched: Share of the training rows whose positive is exchanged with another row's.
        negatives: Hard negatives per row: documents of the same module, which share words and
            are not the answer.
        queries: Most questions of the test, and of the validation.
        seed: Seed of the sample and of what is planted.

    Raises:
        InputError: When a share is outside [0, 1] or ``copies`` is below 1.

    Example:
        >>> world = stdlib_retrieval(200, siblings=0.5, queries=50, seed=0)
        >>> len(world.train), len(world.test.queries)
        (200, 50)
        >>> batch = list(world.train)
        >>> truth = world.answers(batch, [row.positive for row in batch])
        >>> bool(truth.diagonal().all()), int(truth.sum() - truth.shape[0])
        (True, 100)
    """
    for name, share in (
        ("siblings", siblings), ("test_siblings", test_siblings), ("mismatched", mismatched),
    ):  # fmt: skip
        check_in_range(share, name=name, low=0.0, high=1.0)
    check_in_range(copies, name="copies", low=1)
    check_in_range(count, name="count", low=2)
    pairs = _stdlib_pairs()
    parts = split_documents((pair.module for pair in pairs), fractions=_FRACTIONS, seed=0)
    by_part: dict[str, list[_Pair]] = {"train": [], "validation": [], "test": []}
    for pair in pairs:
        by_part[parts[pair.module]].append(pair)
    train, query_family, document_family = _planted(
        by_part["train"], count, siblings, copies, negatives, seed
    )
    world = RetrievalWorld(
        "standard library",
        train,
        _questions("validation", by_part["validation"], queries, test_siblings, seed),
        _questions("test", by_part["test"], queries, test_siblings, seed),
        query_family,
        document_family,
    )
    return with_mismatches(world, mismatched, seed=seed) if mismatched else world


def _planted(
    pairs: Sequence[_Pair], count: int, siblings: float, copies: int, negatives: int, seed: int
) -> tuple[RowSet, dict[int, str], dict[int, str]]:
    rng = generator(seed, "planted siblings")
    families = round(siblings * count / (copies + 1))
    singles = count - families * (copies + 1)
    order = [pairs[int(i)] for i in rng.permutation(len(pairs))]
    if families + singles > len(order):
        shrink = len(order) / (families + singles)
        families, singles = int(families * shrink), int(singles * shrink)
    module: dict[str, list[str]] = {}
    for pair in order:
        module.setdefault(pair.module, []).append(pair.document)
    rows: list[Row] = []
    query_family: dict[int, str] = {}
    document_family: dict[int, str] = {}
    for place, pair in enumerate(order):
        family = f"{pair.module}:{pair.name}:{place}"
        document_family[content_key(pair.document)] = family
        if place >= families + singles:
            continue  # not trained on, yet it may be another row's negative
        texts = [(pair.query, pair.document)]
        while place < families and len(texts) <= copies:
            taken = {text for both in texts for text in both}
            texts.append(
                (
                    _other(paraphrase, pair.query, taken, rng),
                    _other(near_copy, pair.document, taken, rng),
                )
            )
        for number, (query, document) in enumerate(texts):
            near = module[pair.module]
            drawn = [near[int(i)] for i in rng.integers(len(near), size=negatives)]
            hard = tuple(text for text in dict.fromkeys(drawn) if text != pair.document)
            query_family[content_key(query)] = family
            document_family[content_key(document)] = family
            rows.append(Row(query, document, hard, "stdlib", positive_id=f"{family}#{number}"))
    rng.shuffle(rows)
    return RowSet(rows), query_family, document_family


def _other(
    rewrite: Callable[[str, np.random.Generator], str],
    text: str,
    taken: set[str],
    rng: np.random.Generator,
) -> str:
    """Rewrite a text into one that is not taken; short texts have few ways to be rewritten."""
    for _ in range(8):
        found = rewrite(text, rng)
        if found not in taken:
            return found
    while found in taken:
        found = rewrite(found, rng)
    return found


def _questions(
    name: str, pairs: Sequence[_Pair], queries: int, siblings: float, seed: int
) -> RetrievalTask:
    rng = generator(seed, "questions", name)
    kept = generator(0, "kept questions", name).permutation(len(pairs))[:queries]
    corpus = {f"{pair.module}:{n}": pair.document for n, pair in enumerate(pairs)}
    questions, judgements = {}, {}
    for place in sorted(int(i) for i in kept):
        pair = pairs[place]
        document = f"{pair.module}:{place}"
        questions[document] = pair.query
        judgements[document] = {document: 1}
        if rng.random() < siblings:
            corpus[f"{document}~"] = near_copy(pair.document, rng)
            judgements[document][f"{document}~"] = 1
    return RetrievalTask(name, questions, corpus, judgements)


def with_mismatches(world: RetrievalWorld, share: float, *, seed: int) -> RetrievalWorld:
    """Exchange the positives of a share of the training rows among each other.

    The rows keep their anchors; `RetrievalWorld.answers` knows which pairs are wrong.

    Args:
        world: The world to spoil; it is not changed.
        share: Share of the rows, in [0, 1].
        seed: Seed of the choice.

    Raises:
        InputError: When ``share`` is out of range.
    """
    check_in_range(share, name="share", low=0.0, high=1.0)
    rng = generator(seed, "mismatched")
    rows = list(world.train)
    chosen = rng.permutation(len(rows))[: round(share * len(rows))]
    if len(chosen) > 1:
        partner = np.roll(chosen, 1)
        old = list(rows)
        for to, by in zip(chosen, partner):
            rows[to] = replace(
                old[to],
                positive=old[by].positive,
                positive_id=old[by].positive_id,
                negatives=tuple(n for n in old[to].negatives if n != old[by].positive),
            )
    return replace(world, train=RowSet(rows))
