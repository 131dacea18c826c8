"""Tasks that pull one model in different directions, with different amounts of data.

Retrieval, graded similarity and classes, from public data or from the standard library alone. The
conflict is planted in what counts as near: of the public texts, praise and blame of one thing are
near as sentences and far as classes; in the standard library a description and its function are
near for retrieval, and far for a classifier of what kind of text something is. The imbalance is
planted in the sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_choice, check_in_range
from embedworks.data import Row, RowSet
from embedworks.reproductions.blends import pair_retrieval, two_classes
from embedworks.reproductions.framework import Outcome
from embedworks.reproductions.loop import row_batches
from embedworks.reproductions.real_data import stsb_graded
from embedworks.reproductions.scores import classification_outcome, graded_items, retrieval_outcome
from embedworks.reproductions.tasks import class_world, graded_spans
from embedworks.reproductions.worlds import (
    ClassWorld,
    GradedWorld,
    RetrievalWorld,
    stdlib_retrieval,
)

if TYPE_CHECKING:
    from embedworks.reproductions.students import Student

__all__ = ["TASKS", "Conflict", "conflict_batches", "real_conflict", "stdlib_conflict"]

#: The tasks of a conflict, in order.
TASKS = ("retrieval", "similarity", "classes")


@dataclass(frozen=True)
class Conflict:
    """Three tasks for one model.

    Attributes:
        train: Task -> rows to train on; a row's source is its task.
        probe: As many rows of each task, none of them in ``train``.
        retrieval: Questions to tune on and to report.
        graded: Scored pairs to tune on and to report.
        classes: Texts with classes to tune on and to report.
    """

    train: Mapping[str, RowSet]
    probe: RowSet
    retrieval: RetrievalWorld
    graded: GradedWorld
    classes: ClassWorld

    def outcome(self, student: Student, part: str) -> Outcome:
        """Score all tasks, each with items, and their mean as ``average``.

        Retrieval is measured by nDCG@10, similarity by Spearman, classes by 5-NN accuracy.
        """
        found = {
            "retrieval": retrieval_outcome(
                student, self.retrieval.task(part), metrics=("ndcg@10",)
            ).items["ndcg@10"],
            "similarity": graded_items(student, self.graded.part(part)),
            "classes": classification_outcome(student, self.classes, part).items["knn accuracy"],
        }
        total = sum(map(len, found.values()))
        # Items of a small task weigh more, so that the mean over all is the mean of the tasks.
        average = {
            f"{task}:{item}": value * total / len(found) / len(items)
            for task, items in found.items()
            for item, value in items.items()
        }
        return Outcome(items={**found, "average": average})


def real_conflict(
    *,
    sizes: Mapping[str, int],
    probe: int = 128,
    questions: int = 200,
    documents: int = 400,
    seed: int,
) -> Conflict:
    """Make a conflict of public data: definitions, the STS benchmark, praise against blame.

    Args:
        sizes: Task -> training rows.
        probe: Probe rows of each task.
        questions: Most questions, pairs and texts of validation and test.
        documents: Documents searched.
        seed: Seed of the training samples.

    Raises:
        NotFoundError: When a file is not there.
    """
    retrieval = pair_retrieval(
        "wordnet", sizes["retrieval"] + probe, documents=documents, queries=questions, seed=seed
    )
    graded = stsb_graded()
    classes = two_classes("pros_cons", 2 * (sizes["classes"] + probe), seed=seed)
    return _conflict(retrieval, graded, classes, sizes, probe, questions, seed)


def stdlib_conflict(
    *, sizes: Mapping[str, int], probe: int = 128, questions: int = 200, seed: int
) -> Conflict:
    """Make a conflict of the standard library: summaries, overlapping spans, kinds of text.

    Args:
        sizes: Task -> training rows.
        probe: Probe rows of each task.
        questions: Most questions, pairs and texts of validation and test.
        seed: Seed of the training samples.
    """
    retrieval = stdlib_retrieval(seed=seed)
    graded = graded_spans(max(8, 4 * (sizes["similarity"] + probe)), words=12, seed=seed)
    texts: dict[str, list[str]] = {"prose": [], "code": []}
    for task in (retrieval.validation, retrieval.test):
        texts["prose"] += task.queries.values()
        texts["code"] += task.corpus.values() if isinstance(task.corpus, Mapping) else ()
    for row in retrieval.train:
        texts["prose"].append(str(row.anchor))
        texts["code"].append(str(row.positive))
    classes = class_world(
        "kind of text",
        {label: list(dict.fromkeys(own)) for label, own in texts.items()},
        classes=2,
        per_class=2 * (sizes["classes"] + probe),
        label_texts={"prose": "prose", "code": "code"},
        seed=seed,
    )
    return _conflict(retrieval, graded, classes, sizes, probe, questions, seed)


def conflict_batches(
    conflict: Conflict,
    task: str,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    with_probe: bool = False,
) -> Iterator[list[Row]]:
    """Yield batches of one task, or of all in turn; a batch is of one task.

    Args:
        conflict: The tasks.
        task: One of `TASKS`; ``"joint"`` draws each batch's task by its share of the rows,
            ``"even"`` with equal chances.
        steps: Number of batches.
        batch_size: Rows per batch.
        seed: Seed of the order.
        with_probe: Train on the probe rows too, for arms that make no other use of them.
    """
    check_choice(task, (*TASKS, "joint", "even"), name="task")
    rows = {
        name: [*own, *(row for row in conflict.probe if with_probe and row.source == name)]
        for name, own in conflict.train.items()
    }
    if task in TASKS:
        yield from row_batches(rows[task], batch_size, steps=steps, seed=seed)
        return
    sizes = np.array([len(rows[name]) for name in TASKS], np.float64)
    shares = sizes / sizes.sum() if task == "joint" else np.full(len(TASKS), 1 / len(TASKS))
    # As many batches of each task as its share says, in random order: no luck of the draw.
    counts = np.floor(shares * steps).astype(int)
    for place in np.argsort(-(shares * steps - counts), kind="stable")[: steps - counts.sum()]:
        counts[place] += 1
    order = generator(seed, "conflict order").permutation(np.repeat(np.arange(len(TASKS)), counts))
    streams = [
        row_batches(rows[name], batch_size, steps=int(counts[n]), seed=seed)
        for n, name in enumerate(TASKS)
    ]
    for place in order:
        yield next(streams[int(place)])


def _conflict(
    retrieval: RetrievalWorld,
    graded: GradedWorld,
    classes: ClassWorld,
    sizes: Mapping[str, int],
    probe: int,
    questions: int,
    seed: int,
) -> Conflict:
    check_in_range(probe, name="probe", low=4)
    wanted = {task: sizes[task] + probe for task in TASKS}
    drawn = generator(seed, "conflict pairs").permutation(len(graded.train))
    rows = {
        "retrieval": RowSet(list(retrieval.train)[: wanted["retrieval"]]),
        "similarity": RowSet(graded.train[int(i)] for i in drawn[: wanted["similarity"]]),
        "classes": classes.rows(wanted["classes"], negatives=0, seed=seed),
    }
    named = {task: own.with_source(task) for task, own in rows.items()}
    graded = replace(
        graded,
        validation=_some(graded.validation, questions),
        test=_some(graded.test, 2 * questions),
    )
    classes = replace(
        classes,
        train=_some(classes.train, 2 * questions),
        validation=_some(classes.validation, questions),
        test=_some(classes.test, 2 * questions),
    )
    return Conflict(
        {task: own[probe:] for task, own in named.items()},
        RowSet(row for own in named.values() for row in own[:probe]),
        retrieval,
        graded,
        classes,
    )


def _some(items: Sequence, count: int) -> tuple:
    places = generator(0, "conflict part").permutation(len(items))[:count]
    return tuple(items[int(i)] for i in sorted(places))
