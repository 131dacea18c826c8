"""Labelled texts: do vectors hold the label, with a learner (classification) or without one?"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.registry import Registry
from embedworks._core.seeding import generator
from embedworks._core.validation import check_k, check_texts, normalize_rows
from embedworks.errors import DataWarning, EmptyInputError, InputError, ShapeError
from embedworks.evaluation.kinds._clustering import (
    agreement_scores,
    cluster_failures,
    clusters_of,
    v_measure,
)
from embedworks.evaluation.outcomes import Failure, Resampling, Score, TaskResult, shorten

if TYPE_CHECKING:
    from embedworks.evaluation.systems import System

__all__ = [
    "LEARNERS",
    "ClassificationTask",
    "ClusteringTask",
    "macro_f1",
]

Labelled = Sequence[tuple[str, str]]

#: Called with training vectors (N, D) of length 1, their label numbers (N,) and test vectors
#: (M, D) of length 1; returns the label numbers of the test vectors (M,).
Learner = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

#: What learns labels from vectors.
LEARNERS: Registry[Learner] = Registry("learners")

#: Neighbours that vote.
_NEIGHBOURS = 5
#: Similarities computed at a time: bounds memory.
_BLOCK = 4_000_000
_ITERATIONS = 1000


@LEARNERS.register("logistic", summary="Logistic regression on vectors of length 1 (C = 1).")
def _logistic(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    require_extra("sklearn", extra="train", purpose="learn labels by logistic regression")
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1.0, max_iter=_ITERATIONS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(train, labels)
    if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
        warnings.warn(
            f"Logistic regression did not converge in {_ITERATIONS} rounds; its accuracy is "
            "that of the unfinished model.",
            DataWarning,
            stacklevel=2,
        )
    return np.asarray(model.predict(test))


@LEARNERS.register("knn", summary="The most frequent label among the 5 nearest training texts.")
def _nearest_neighbours(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    k, count = min(_NEIGHBOURS, len(train)), int(labels.max()) + 1
    found = np.empty(len(test), dtype=np.int64)
    step = max(1, _BLOCK // len(train))
    for start in range(0, len(test), step):
        similarity = test[start : start + step] @ train.T
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        votes = np.zeros((len(nearest), count))
        rows = np.arange(len(nearest))
        for place in range(k):
            # Of equally frequent labels, the one with the nearest text wins.
            votes[rows, labels[nearest[:, place]]] += 1 + 1e-3 * 0.5**place
        found[start : start + step] = votes.argmax(axis=1)
    return found


@LEARNERS.register("centroid", summary="The label whose training texts have the nearest mean.")
def _nearest_centroid(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    known, codes = np.unique(labels, return_inverse=True)
    centres = np.zeros((len(known), train.shape[1]))
    np.add.at(centres, codes, train)
    return np.asarray(known[(test @ normalize_rows(centres).T).argmax(axis=1)])


def macro_f1(truth: np.ndarray, found: np.ndarray) -> float:
    """Return the mean F1 over the labels that occur in either array.

    Args:
        truth: Right label numbers, int (N,), 0 or greater.
        found: Predicted label numbers, int (N,).

    Example:
        >>> round(macro_f1(np.array([0, 0, 1]), np.array([0, 1, 1])), 3)
        0.667
    """
    count = int(max(truth.max(), found.max())) + 1
    hits = np.bincount(truth[truth == found], minlength=count)
    sizes = np.bincount(truth, minlength=count) + np.bincount(found, minlength=count)
    seen = sizes > 0
    return float((2 * hits[seen] / sizes[seen]).mean())


class ClassificationTask:
    """Labelled texts: a simple learner sees the training vectors and labels the test texts.

    The main metric is the accuracy, with a value for each test text; macro-F1 gives rare labels
    the same weight as frequent ones. With ``per_class`` only so many training texts of each label
    are used, in several random draws whose results are averaged: this is closer to how few labels
    people have, tells models apart better, and encodes less.

    Vectors are brought to length 1 before a learner sees them. Test texts whose label no training
    text has are left out and counted, as no learner could be right about them. Test texts that
    are training texts too stay, and are counted in the result's details.

    Args:
        name: Name for tables.
        train: (text, label) to learn from.
        test: (text, label) to judge by.
        learner: ``"logistic"``, ``"knn"`` or ``"centroid"``, see `LEARNERS`.
        per_class: Training texts of each label; None uses all.
        draws: Random draws that are averaged; only with ``per_class``.
        seed: Seed of the draws.
        instruction: What the task is, for systems that read instructions.

    Raises:
        EmptyInputError: When there are no training texts, or no test texts with a known label.
        InputError: When the training texts have one label only.
        UnknownNameError: When the learner is not known.

    Example:
        >>> from embedworks.evaluation import EncoderSystem, Resampling
        >>> class Lengths:
        ...     def encode(self, texts):
        ...         return np.array([[len(text), 5.0] for text in texts])
        >>> train = [("a", "short"), ("ab", "short"), ("abcdefgh", "long"), ("abcdefghi", "long")]
        >>> task = ClassificationTask("toy", train, [("b", "short"), ("bcdefghijk", "long")])
        >>> task.run(EncoderSystem(Lengths(), name="lengths"), Resampling()).main.interval.mean
        1.0
    """

    kind = "classification"
    metric = "accuracy"

    def __init__(
        self,
        name: str,
        train: Labelled,
        test: Labelled,
        *,
        learner: str = "logistic",
        per_class: int | None = None,
        draws: int = 5,
        seed: int = 0,
        instruction: str | None = None,
    ) -> None:
        self.name = name
        self.learner = learner
        self.per_class = None if per_class is None else check_k(per_class)
        self.draws = check_k(draws) if per_class is not None else 1
        self.seed = seed
        self.instruction = instruction
        self._learn = LEARNERS[learner]
        for what, rows in (("training", train), ("test", test)):
            if not rows:
                raise EmptyInputError(f"Task {name!r} has no {what} texts.")
            check_texts([text for text, _ in rows], name=f"{what} texts of {name!r}")
            check_texts([label for _, label in rows], name=f"{what} labels of {name!r}")
        self.train = list(train)
        counts = Counter(label for _, label in train)
        self.labels = sorted(counts)
        if len(self.labels) < 2:
            raise InputError(
                f"Task {name!r}: all its training texts have the label {self.labels[0]!r}; at "
                "least two labels are needed."
            )
        self.test = [(text, label) for text, label in test if label in counts]
        if not self.test:
            raise EmptyInputError(
                f"Task {name!r}: no test text has one of the {len(counts)} labels of its training "
                f"texts, such as {self.labels[0]!r}."
            )
        left_out = len(test) - len(self.test)
        self.excluded = (
            {"test texts of labels without training texts": left_out} if left_out else {}
        )
        self._few = sum(count < (per_class or 2) for count in counts.values())

    def texts(self) -> list[str]:
        """Return the texts that are labelled; those learnt from are meant to be trained on."""
        return [text for text, _ in self.test]

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Learn from the system's vectors and label the test texts.

        Raises:
            InputError: When all training vectors are equal: there is nothing to learn from.
        """
        place = {label: code for code, label in enumerate(self.labels)}
        codes = np.array([place[label] for _, label in self.train])
        truth = np.array([place[label] for _, label in self.test])
        chosen = self._chosen(codes)
        used = np.unique(np.concatenate(chosen))
        vectors = normalize_rows(
            system.encode([self.train[i][0] for i in used.tolist()], instruction=self.instruction)
        )
        if (vectors == vectors[0]).all():
            raise InputError(
                f"{system.name} gives all {len(vectors)} training texts of {self.name!r} the same "
                "vector: there is nothing to learn from."
            )
        tests = normalize_rows(
            system.encode([text for text, _ in self.test], instruction=self.instruction)
        )
        found = np.empty((len(chosen), len(truth)), dtype=np.int64)
        for draw, rows in enumerate(chosen):
            found[draw] = self._learn(vectors[np.searchsorted(used, rows)], codes[rows], tests)
        right = (found == truth).mean(axis=0)
        learnt = {self.train[i][0] for i in used.tolist()}
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores={
                "accuracy": Score.of_values(right, resampling),
                "macro-f1": Score.of_statistic(
                    len(truth),
                    lambda rows: float(np.mean([macro_f1(truth[rows], f[rows]) for f in found])),
                    resampling,
                ),
            },
            items=tuple(str(row) for row in range(len(truth))),
            excluded=self.excluded,
            failures=self._failures(right, found),
            details={
                "labels": len(self.labels),
                "training_texts": len(chosen[0]),
                "test_texts": len(truth),
                "learner": self.learner,
                "per_class": self.per_class,
                "draws": len(chosen),
                "accuracy_of_draws": [float((row == truth).mean()) for row in found],
                "chance": float(np.bincount(truth).max() / len(truth)),
                "labels_with_fewer_training_texts_than_asked": self._few,
                "test_texts_also_trained_on": sum(text in learnt for text, _ in self.test),
                "confusions": self._confusions(truth, found),
                "instruction": self.instruction,
            },
        )

    def _chosen(self, codes: np.ndarray) -> list[np.ndarray]:
        """Return the training rows of each draw, sorted."""
        if self.per_class is None:
            return [np.arange(len(codes))]
        of_label = [np.flatnonzero(codes == code) for code in range(len(self.labels))]
        chosen = []
        for draw in range(self.draws):
            rng = generator(self.seed, "training texts", draw)
            picks = [
                rng.choice(rows, size=min(self.per_class, len(rows)), replace=False)
                for rows in of_label
            ]
            chosen.append(np.sort(np.concatenate(picks)))
        return chosen

    def _confusions(self, truth: np.ndarray, found: np.ndarray, count: int = 10) -> list[Any]:
        """Return the most frequent errors as [right label, predicted label, share of draws]."""
        errors = Counter(
            (int(right), int(guess))
            for row in found
            for right, guess in zip(truth, row, strict=True)
            if right != guess
        )
        return [
            [self.labels[right], self.labels[guess], times / len(found)]
            for (right, guess), times in errors.most_common(count)
        ]

    def _failures(
        self, right: np.ndarray, found: np.ndarray, count: int = 10
    ) -> tuple[Failure, ...]:
        """Return the texts that are wrong most often, spread over the test part."""
        wrong = np.flatnonzero(right < 1)
        wrong = wrong[np.argsort(right[wrong], kind="stable")]
        if len(always := wrong[right[wrong] == right.min()]) > count:
            wrong = always[np.linspace(0, len(always) - 1, count).astype(int)]
        failures = []
        for row in wrong[:count].tolist():
            text, label = self.test[row]
            guesses = Counter(found[:, row].tolist()).most_common(3)
            failures.append(
                Failure(
                    item=str(row),
                    text=shorten(text, 400),
                    score=float(right[row]),
                    expected=(label,),
                    found=tuple(
                        f"{self.labels[code]} ({times} of {len(found)} draws)"
                        if len(found) > 1
                        else self.labels[code]
                        for code, times in guesses
                    ),
                )
            )
        return tuple(failures)


class ClusteringTask:
    """Labelled texts, clustered without their labels: do the clusters agree with the labels?

    Mini-batch k-means with as many clusters as labels runs on vectors of length 1, from several
    seeds; figures are means over the seeds. The main metric is the V-measure, which is also the
    normalised mutual information; the adjusted Rand index and the purity are given too. Intervals
    resample texts with the clusters kept, and are centred on the figure: repeated texts agree
    with themselves, which would lift it.

    Texts of labels that only one text has are left out and counted.

    Args:
        name: Name for tables.
        texts: What is clustered.
        labels: Their labels, one each.
        seeds: Seeds of the clusterings.
        instruction: What the task is, for systems that read instructions.

    Raises:
        EmptyInputError: When there are no texts or seeds.
        ShapeError: When there are not as many labels as texts.
        InputError: When fewer than two labels have two texts.

    Example:
        >>> from embedworks.evaluation import EncoderSystem, Resampling
        >>> class Lengths:
        ...     def encode(self, texts):
        ...         return np.array([[len(text), 5.0] for text in texts])
        >>> task = ClusteringTask("toy", ["a", "b", "c" * 50, "d" * 51], ["s", "s", "l", "l"])
        >>> task.run(EncoderSystem(Lengths(), name="lengths"), Resampling()).main.interval.mean
        1.0
    """

    kind = "clustering"
    metric = "v-measure"

    def __init__(
        self,
        name: str,
        texts: Sequence[str],
        labels: Sequence[str],
        *,
        seeds: Sequence[int] = (0, 1, 2),
        instruction: str | None = None,
    ) -> None:
        given = check_texts(texts, name=f"texts of {name!r}")
        of_text = check_texts(labels, name=f"labels of {name!r}")
        if not given or not len(seeds):
            raise EmptyInputError(f"Task {name!r} has {len(given)} texts and {len(seeds)} seeds.")
        if len(given) != len(of_text):
            raise ShapeError(
                f"Task {name!r} has {len(given)} texts and {len(of_text)} labels: one each is "
                "needed."
            )
        counts = Counter(of_text)
        kept = [(text, label) for text, label in zip(given, of_text) if counts[label] > 1]
        self.name = name
        self._texts = [text for text, _ in kept]
        self.text_labels = [label for _, label in kept]
        self.labels = sorted(set(self.text_labels))
        if len(self.labels) < 2:
            raise InputError(
                f"Task {name!r}: {len(self.labels)} of its {len(counts)} labels have two texts or "
                "more; at least two such labels are needed."
            )
        self.seeds = tuple(seeds)
        self.instruction = instruction
        alone = len(given) - len(kept)
        self.excluded = {"texts alone in their label": alone} if alone else {}

    def texts(self) -> list[str]:
        """Return the texts the task uses."""
        return list(self._texts)

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Cluster the system's vectors and compare with the labels.

        Raises:
            InputError: When the system gives fewer different vectors than there are labels.
        """
        vectors = system.encode(self._texts, instruction=self.instruction)
        place = {label: code for code, label in enumerate(self.labels)}
        truth = np.array([place[label] for label in self.text_labels])
        found = clusters_of(system, vectors, len(self.labels), self.seeds, name=self.name)
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores=agreement_scores(truth, found, resampling),
            excluded=self.excluded,
            failures=cluster_failures(self._texts, self.text_labels, found[0]),
            details={
                "texts": len(truth),
                "labels": len(self.labels),
                "seeds": list(self.seeds),
                "v_measure_of_seeds": [v_measure(truth, row) for row in found],
                "instruction": self.instruction,
            },
        )
