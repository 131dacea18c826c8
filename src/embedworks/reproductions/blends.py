"""A blend of real tasks, as general embedding models are trained on: retrieval and classes.

Retrieval sets here are pairs of texts with room above the bundled static model; class sets have
two classes (where rows of one class meet in every batch) or many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedworks._core.registry import did_you_mean
from embedworks._core.seeding import generator
from embedworks._core.validation import check_in_range
from embedworks.data import BatchPlan, BatchSettings, Row, RowSet, class_examples, content_key
from embedworks.errors import UnknownNameError
from embedworks.evaluation import RetrievalTask
from embedworks.negatives import DenseRetriever, Miner
from embedworks.reproductions.framework import Outcome
from embedworks.reproductions.real_data import data_file, read_records, text_classes
from embedworks.reproductions.scores import knn_hits, retrieval_outcome
from embedworks.reproductions.worlds import ClassWorld, RetrievalWorld

if TYPE_CHECKING:
    import torch

    from embedworks.reproductions.students import Student

__all__ = ["Blend", "class_rows", "pair_retrieval", "planned_batches", "real_blend", "two_classes"]

_Pairs = Callable[[Mapping[str, Any]], tuple[str, str]]


def _captions(record: Mapping[str, Any]) -> tuple[str, str]:
    captions = record["en_captions"] or []
    return (captions[0], captions[1]) if len(captions) > 1 else ("", "")


def _definition(record: Mapping[str, Any]) -> tuple[str, str]:
    return record["definition"], ", ".join(record["lemmas"])


def _code_of(dataset: str) -> _Pairs:
    def read(record: Mapping[str, Any]) -> tuple[str, str]:
        return (record["text"], record["code"]) if record["dataset"] == dataset else ("", "")

    return read


_CODE = ("code_text_pairs.parquet", ("dataset", "text", "code"))

#: Name -> file, columns, and how a record becomes (query, document); empty texts are left out.
_PAIR_SETS: dict[str, tuple[str, tuple[str, ...], _Pairs]] = {
    "captions": ("multi30k_captions.parquet", ("en_captions",), _captions),
    "concode": (*_CODE, _code_of("concode")),
    "nl2bash": (*_CODE, _code_of("nl2bash")),
    "wordnet": ("wordnet_synsets.parquet", ("definition", "lemmas"), _definition),
}


def pair_retrieval(
    dataset: str, count: int = 1000, *, documents: int = 500, queries: int = 250, seed: int
) -> RetrievalWorld:
    """Pairs of real texts as retrieval: each query has one document.

    ``captions`` finds another person's description of a photo (Multi30k), ``wordnet`` the words
    of a definition, ``concode`` the Java method of a comment, ``nl2bash`` the command.

    Args:
        dataset: One of the four.
        count: Training rows; as many as there are when fewer.
        documents: Documents searched, of the validation and of the test; the same for each seed.
        queries: Questions of the validation and of the test, at most ``documents``.
        seed: Seed of the training sample.

    Raises:
        NotFoundError: When the file is not there.
        UnknownNameError: When there is no such set.
    """
    check_in_range(count, name="count", low=2)
    check_in_range(queries, name="queries", low=1, high=documents)
    if dataset not in _PAIR_SETS:
        hint = did_you_mean(dataset, list(_PAIR_SETS))
        raise UnknownNameError(f"There are no pairs {dataset!r}. {hint}")
    pairs = _pairs(dataset, data_file(_PAIR_SETS[dataset][0]))
    order = generator(0, "pairs", dataset).permutation(len(pairs))
    validation, test, rest = np.split(order, [documents, 2 * documents])
    drawn = generator(seed, "pair sample", dataset).permutation(rest)[:count]
    rows = RowSet(Row(*pairs[int(i)], source=dataset, positive_id=f"{dataset}:{i}") for i in drawn)

    def task(part: str, places: np.ndarray) -> RetrievalTask:
        corpus = {f"{dataset}:{i}": pairs[int(i)][1] for i in places}
        asked = {f"{dataset}:{i}": pairs[int(i)][0] for i in places[:queries]}
        return RetrievalTask(part, asked, corpus, {q: {q: 1} for q in asked})

    return RetrievalWorld(
        dataset,
        rows,
        task("validation", validation),
        task("test", test),
        {content_key(row.anchor): str(row.positive_id) for row in rows},
        {content_key(row.positive): str(row.positive_id) for row in rows},
    )


@lru_cache(maxsize=8)
def _pairs(dataset: str, path: Path) -> tuple[tuple[str, str], ...]:
    """Return a set's pairs; each query and each document occurs once. The file is read once."""
    _, columns, read = _PAIR_SETS[dataset]
    pairs: list[tuple[str, str]] = []
    first: set[str] = set()
    second: set[str] = set()
    for query, document in map(read, read_records(path.name, columns)):
        if query and document and query not in first and document not in second:
            first.add(query)
            second.add(document)
            pairs.append((query, document))
    return tuple(pairs)


def class_rows(world: ClassWorld, count: int, *, negatives: int, seed: int) -> RowSet:
    """Return rows whose positive is a text of the same class and whose negatives are not.

    Args:
        world: The texts and their classes; training texts are used.
        count: Rows; as many as there are training texts when fewer.
        negatives: Negatives per row, of other classes.
        seed: Seed of the draws.
    """
    records = [{"text": text, "label": label} for text, label in world.train]
    rows, _ = class_examples(records, source=world.name, num_negatives=negatives, seed=seed)
    drawn = generator(seed, "class row sample", world.name).permutation(len(rows))[:count]
    return RowSet(rows[int(i)] for i in drawn)


@dataclass(frozen=True)
class Blend:
    """Tasks that one model is trained on together.

    Attributes:
        retrieval: Worlds with a document per query.
        few: Worlds with few classes.
        many: Worlds with many classes.
    """

    retrieval: tuple[RetrievalWorld, ...]
    few: tuple[ClassWorld, ...]
    many: tuple[ClassWorld, ...]

    @property
    def classes(self) -> tuple[ClassWorld, ...]:
        """All worlds with classes."""
        return (*self.few, *self.many)

    def texts(self) -> list[str]:
        """Return every text, for the vocabulary of a `StaticStudent`."""
        worlds: tuple[RetrievalWorld | ClassWorld, ...] = (*self.retrieval, *self.classes)
        return list(dict.fromkeys(text for world in worlds for text in world.texts()))

    def rows(
        self, count: int, *, negatives: int, mined_with: Any = None, seed: int
    ) -> dict[str, RowSet]:
        """Make training rows of every task, by source.

        Args:
            count: Most rows per source.
            negatives: Negatives per row. Those of classes are texts of other classes.
            mined_with: Encoder that finds the negatives of retrieval rows, kept where they score
                below 95 % of the positive; None draws them evenly from the source's documents.
            seed: Seed of the draws.
        """
        found: dict[str, RowSet] = {}
        for world in self.retrieval:
            rows = RowSet(list(world.train)[:count])
            if mined_with is None:
                found[world.name] = _random_negatives(rows, negatives, seed=seed)
                continue
            miner = Miner(
                [DenseRetriever(mined_with)],
                count=negatives, min_keep=negatives, on_empty="random", seed=seed,
                show_progress=False,
            )  # fmt: skip
            found[world.name] = miner.mine(rows).rows
        for classes in self.classes:
            found[classes.name] = class_rows(classes, count, negatives=negatives, seed=seed)
        return found

    def negative_classes(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Return the classes of a batch and of its negatives, for masks; see `train_student`.

        Give it as ``annotate``. Texts without a class get a number below 0: not known.
        """
        import torch

        width = max(len(row.negatives) for row in rows)
        own = torch.full((len(rows),), -1, dtype=torch.int64)
        hard = torch.full((len(rows), width), -1, dtype=torch.int64)
        known = self._class_of_text
        for place, row in enumerate(rows):
            if row.label is not None:
                own[place] = known.get((row.source, str(row.anchor)), -1)
                for column, text in enumerate(row.negatives):
                    hard[place, column] = known.get((row.source, str(text)), -1)
        return {"classes": own, "negative_classes": hard} if width else {"classes": own}

    @cached_property
    def _class_of_text(self) -> dict[tuple[str, str], int]:
        numbers: dict[tuple[str, str], int] = {}
        found = {}
        for world in self.classes:
            for text, label in world.train:
                code = numbers.setdefault((world.name, label), len(numbers))
                found[world.name, text] = code
        return found

    def outcome(self, student: Student, part: str) -> Outcome:
        """Score all tasks.

        ``retrieval`` (nDCG@10) and ``few classes`` and ``many classes`` (5-NN accuracy) have the
        items of all their tasks; ``average`` is the mean of the three. Each task is reported
        under its own name too.
        """
        groups: dict[str, dict[str, float]] = {}
        metrics: dict[str, float] = {}

        def add(group: str, name: str, items: Mapping[str, float]) -> None:
            metrics[name] = float(np.mean(list(items.values())))
            groups.setdefault(group, {}).update({f"{name}:{k}": v for k, v in items.items()})

        for world in self.retrieval:
            found = retrieval_outcome(student, world.task(part), metrics=("ndcg@10",))
            add("retrieval", world.name, found.items["ndcg@10"])
        for group, worlds in (("few classes", self.few), ("many classes", self.many)):
            for classes in worlds:
                known, asked = classes.train, classes.part(part)
                hits = knn_hits(
                    student.vectors([text for text, _ in known]), [label for _, label in known],
                    student.vectors([text for text, _ in asked]), [label for _, label in asked],
                )  # fmt: skip
                add(group, classes.name, {str(n): float(hit) for n, hit in enumerate(hits)})
        means = [float(np.mean(list(items.values()))) for items in groups.values()]
        return Outcome({**metrics, "average": float(np.mean(means))}, groups)


def real_blend(
    *,
    rows: int = 900,
    retrieval: Sequence[str] = ("captions", "wordnet", "concode"),
    few: Sequence[str] = ("subjectivity", "sentence_polarity", "pros_cons"),
    many: Sequence[str] = ("banking77", "clinc150"),
    documents: int = 500,
    queries: int = 250,
    seed: int,
) -> Blend:
    """Make a blend of real sets: three for retrieval, three of two classes, two of many.

    Args:
        rows: Training rows per retrieval set, and about as many texts per class set.
        retrieval: Names for `pair_retrieval`.
        few: Names for `two_classes`.
        many: Names for `text_classes`, with many classes.
        documents: Documents searched per retrieval set.
        queries: Questions per retrieval set; sets of many classes have twice as many test texts.
        seed: Seed of the training samples.

    Raises:
        NotFoundError: When a file is not there.
        UnknownNameError: When there is no such set.
    """

    def some(world: ClassWorld, part: str, size: int) -> tuple[tuple[str, str], ...]:
        texts = world.part(part)
        places = generator(0, "blend", world.name, part).permutation(len(texts))[:size]
        return tuple(texts[int(i)] for i in sorted(places))

    full = (text_classes(name, per_class=40, seed=seed) for name in many)
    return Blend(
        tuple(
            pair_retrieval(name, rows, documents=documents, queries=queries, seed=seed)
            for name in retrieval
        ),
        tuple(two_classes(name, rows, seed=seed) for name in few),
        tuple(
            replace(
                world,
                validation=some(world, "validation", queries),
                test=some(world, "test", 2 * queries),
            )
            for world in full
        ),
    )


def two_classes(name: str, texts: int, *, seed: int) -> ClassWorld:
    """Return a set of two classes with few texts to train on and about a thousand to test.

    Args:
        name: ``"subjectivity"``, ``"sentence_polarity"`` or ``"pros_cons"``.
        texts: Training texts.
        seed: Seed of the training sample.

    Raises:
        NotFoundError: When the file is not there.
        UnknownNameError: When there is no such set.
    """
    world = text_classes(name, classes=2, per_class=2000, seed=seed)
    train = [
        pair
        for label in world.labels
        for pair in [pair for pair in world.train if pair[1] == label][: max(2, texts // 2)]
    ]
    return replace(world, train=tuple(train))


def planned_batches(
    rows: Sequence[Row], settings: BatchSettings, *, seed: int
) -> Iterator[list[Row]]:
    """Yield batches of rows without end, composed as ``settings`` say.

    Args:
        rows: Rows of any sources.
        settings: Strategy, size and weights, as `embedworks.data.BatchPlan` takes them.
        seed: Seed of the order.

    Example:
        >>> rows = [Row(f"q{i}", f"d{i}") for i in range(4)]
        >>> batches = planned_batches(rows, BatchSettings(batch_size=2), seed=0)
        >>> [len(next(batches)) for _ in range(3)]
        [2, 2, 2]
    """
    for places in BatchPlan(rows, settings, seed=seed).batches():
        yield [rows[int(place)] for place in places]


def _random_negatives(rows: RowSet, count: int, *, seed: int) -> RowSet:
    rng = generator(seed, "random negatives")
    documents = [row.positive for row in rows]
    out = []
    for place, row in enumerate(rows):
        drawn = rng.choice(len(documents) - 1, size=min(count, len(documents) - 1), replace=False)
        hard = tuple(documents[int(i) + (int(i) >= place)] for i in drawn)
        out.append(replace(row, negatives=hard))
    return RowSet(out)
