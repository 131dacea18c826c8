"""Scores of a student on a world, as outcomes with one value per item where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.validation import check_in_range, check_k
from embedworks.errors import InputError, ShapeError
from embedworks.evaluation import RetrievalTask, evaluate_run, parse_metric, spearman
from embedworks.index import ExactIndex
from embedworks.reproductions.framework import Outcome
from embedworks.reproductions.worlds import ClassWorld

if TYPE_CHECKING:
    from embedworks.reproductions.students import Student

__all__ = [
    "classification_outcome",
    "graded_items",
    "graded_outcome",
    "knn_hits",
    "retrieval_outcome",
    "v_measure",
]


def retrieval_outcome(
    student: Student,
    task: RetrievalTask,
    *,
    metrics: Sequence[str] = ("ndcg@10", "recall@10"),
) -> Outcome:
    """Search a collection exactly and score it; one item per query.

    Args:
        student: Anything with ``vectors``.
        task: Queries, corpus with texts, and judgements.
        metrics: As `embedworks.evaluation.parse_metric` reads them, each with a cut-off.

    Raises:
        InputError: When the task holds no texts, or a metric has no cut-off.
    """
    if not isinstance(task.corpus, Mapping):
        raise InputError(f"Task {task.name!r} has ids but no texts to search.")
    cuts = [parse_metric(metric).k for metric in metrics]
    depth = max((k for k in cuts if k is not None), default=0)
    if None in cuts or not depth:
        raise InputError(f"Give every metric a cut-off, as in 'ndcg@10', got {list(metrics)}.")
    documents, queries = list(task.corpus), list(task.judged_queries)
    index = ExactIndex(student.vectors(list(task.corpus.values())))
    asked = student.vectors([task.queries[query] for query in queries])
    rows, scores = index.search(asked, depth)
    run = {
        query: {documents[int(row)]: float(score) for row, score in zip(found, given)}
        for query, found, given in zip(queries, rows, scores)
    }
    result = evaluate_run(run, task.qrels, metrics=metrics, n_resamples=100)
    return Outcome(items={metric: result.per_query(metric) for metric in result.metrics})


def classification_outcome(
    student: Student, world: ClassWorld, part: str = "test", *, k: int = 5, seed: int = 0
) -> Outcome:
    """Classify by nearest training texts, and cluster: ``knn accuracy`` and ``v-measure``.

    Accuracy has one item per text; the v-measure is one number for the part.
    """
    texts = world.part(part)
    found = student.vectors([text for text, _ in texts])
    known = student.vectors([text for text, _ in world.train])
    labels = [label for _, label in texts]
    hits = knn_hits(known, [label for _, label in world.train], found, labels, k=k)
    items = {f"{world.name}:{part}:{n}": float(hit) for n, hit in enumerate(hits)}
    grouped = v_measure(found, labels, seed=seed)
    return Outcome({"v-measure": grouped}, {"knn accuracy": items})


def graded_outcome(student: Student, pairs: Sequence[tuple[str, str, float]]) -> Outcome:
    """Correlate the student's cosines with given grades: ``spearman``, one number."""
    cosines = _pair_cosines(student, pairs)
    return Outcome({"spearman": spearman(cosines, [score for _, _, score in pairs])})


def graded_items(student: Student, pairs: Sequence[tuple[str, str, float]]) -> dict[str, float]:
    """Return what each pair adds to Spearman's correlation; the mean is the correlation.

    A pair's value is the product of its two ranks, each as a standard score. Resampling these
    values takes the ranks as given.
    """
    scipy = require_extra("scipy.stats", extra="train", purpose="rank grades")
    ranks = [
        scipy.rankdata(values)
        for values in (_pair_cosines(student, pairs), [score for _, _, score in pairs])
    ]
    if any(np.ptp(own) == 0 for own in ranks):
        raise InputError("Cosines or grades of all pairs are equal: they have no order.")
    first, second = ((own - own.mean()) / own.std() for own in ranks)
    return {str(place): float(a * b) for place, (a, b) in enumerate(zip(first, second))}


def _pair_cosines(student: Student, pairs: Sequence[tuple[str, str, float]]) -> np.ndarray:
    first = student.vectors([a for a, _, _ in pairs])
    second = student.vectors([b for _, b, _ in pairs])
    return np.asarray(np.einsum("nd,nd->n", first, second, dtype=np.float64))


def knn_hits(
    known: np.ndarray,
    known_labels: Sequence[str],
    vectors: np.ndarray,
    labels: Sequence[str],
    *,
    k: int = 5,
) -> np.ndarray:
    """Return whether the ``k`` nearest known vectors vote for the right label, bool (N,).

    Votes count by similarity rank, so that ties go to the nearer neighbours.

    Args:
        known: Vectors (M, D) with labels.
        known_labels: M labels.
        vectors: Vectors (N, D) to classify.
        labels: N true labels.
        k: Neighbours.

    Raises:
        ShapeError: When vectors and labels do not fit.

    Example:
        >>> known = np.eye(2, dtype=np.float32)
        >>> knn_hits(known, ["x", "y"], known[::-1].copy(), ["y", "y"], k=1).tolist()
        [True, False]
    """
    check_k(k)
    if len(known) != len(known_labels) or len(vectors) != len(labels):
        raise ShapeError(
            f"{len(known)} and {len(vectors)} vectors for {len(known_labels)} and {len(labels)} "
            "labels: one label per vector is needed."
        )
    rows, _ = ExactIndex(known).search(vectors, min(k, len(known)))
    names, codes = np.unique(np.asarray(known_labels), return_inverse=True)
    votes = np.zeros((len(vectors), len(names)), dtype=np.int64)
    for rank in range(rows.shape[1]):
        # Later votes count a little less: only ties are decided by it.
        votes[np.arange(len(vectors)), codes[rows[:, rank]]] += 1_000_000 - rank
    return np.asarray(names[votes.argmax(axis=1)] == np.asarray(labels))


def v_measure(vectors: np.ndarray, labels: Sequence[str], *, seed: int = 0) -> float:
    """Return how well k-means finds the classes: the v-measure, in [0, 1].

    Args:
        vectors: Vectors (N, D).
        labels: N labels; as many clusters are made as there are classes.
        seed: Seed of k-means.

    Raises:
        InputError: When there is only one class.
        MissingExtraError: When scikit-learn is not installed.
    """
    cluster = require_extra("sklearn.cluster", extra="train", purpose="cluster vectors")
    scoring = require_extra("sklearn.metrics", extra="train", purpose="score clusters")
    classes = len(set(labels))
    check_in_range(len(vectors), name="number of vectors", low=1)
    if classes < 2:
        raise InputError("The v-measure needs two classes or more.")
    means = cluster.KMeans(n_clusters=classes, n_init=3, random_state=seed % 2**31)
    return float(scoring.v_measure_score(list(labels), means.fit_predict(vectors)))
