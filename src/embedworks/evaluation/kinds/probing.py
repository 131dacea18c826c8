"""Probes: does a vector hold a property of its text, beyond what any labels would seem to show?

A probe is a linear classifier on frozen vectors. With many dimensions and few texts it can fit
anything, so it is scored on texts it has not seen, beside the same probe with shuffled labels.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.seeding import derive_seed, generator
from embedworks._core.validation import check_choice, check_in_range, check_texts, check_vectors
from embedworks.errors import DataWarning, EmptyInputError, InputError, ShapeError
from embedworks.evaluation.outcomes import Failure, Resampling, Score, TaskResult, shorten
from embedworks.evaluation.sets._generated_texts import Labelled, labelled_texts

if TYPE_CHECKING:
    from embedworks.evaluation.systems import System

__all__ = ["PROBED_PROPERTIES", "ProbeResult", "ProbeTask", "generated_probe", "probe"]

#: Property -> what a probe for it asks, for `generated_probe`.
PROBED_PROPERTIES = {
    "length": "Is the text short, of middle length, or long?",
    "word_content": "Which of ten nouns is in the text?",
    "word_order": "Were two neighbouring words swapped?",
    "tense": "Is it past or present, for verbs not seen in training?",
}


@dataclass(frozen=True)
class ProbeResult:
    """What a probe and its control found in the same vectors."""

    predictions: tuple[str, ...]
    """Label predicted for each text by a probe that had not seen it."""
    control_labels: tuple[str, ...]
    """The labels, shuffled."""
    control_predictions: tuple[str, ...]
    """The same for the shuffled labels."""
    control_fit: float
    """Accuracy of the control on the texts it was trained on: what the probe can learn by rote."""


def probe(
    vectors: np.ndarray,
    labels: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> ProbeResult:
    """Predict labels from vectors by logistic regression, each on a fold not trained on.

    Dimensions are standardised on the training folds. The control is the same with the labels
    shuffled among texts (among groups, when a group has one label): at chance, unless something
    is wrong with the folds.

    Args:
        vectors: float (N, D).
        labels: N labels of 2 kinds or more.
        groups: N groups that are not split between training and test, such as the verb of each
            text, so that a property must hold for words not seen.
        folds: Number of folds.
        seed: Seed of folds and control.

    Raises:
        ShapeError: When labels or groups do not fit the vectors.
        InputError: When there is one label only, or a label has fewer texts (or groups) than
            there are folds.

    Paper: Hewitt and Liang 2019, arXiv 1909.03368 (control tasks; theirs are per word).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels = ["a", "b"] * 50
        >>> vectors = rng.normal(size=(100, 4))
        >>> vectors[1::2, 0] += 9
        >>> found = probe(vectors, labels)
        >>> sum(p == label for p, label in zip(found.predictions, labels)) > 95
        True
    """
    array = check_vectors(vectors).astype(np.float64)
    _check_labels(labels, groups, folds)
    if len(array) != len(labels):
        raise ShapeError(f"{len(array)} vectors for {len(labels)} labels: one each is needed.")
    shuffled = _shuffled(labels, groups, seed)
    predictions, _ = _cross_validated(array, labels, groups, folds, seed)
    control, fit = _cross_validated(array, shuffled, groups, folds, seed)
    return ProbeResult(tuple(predictions), tuple(shuffled), tuple(control), fit)


class ProbeTask:
    """Texts with a property: can a linear probe read it off their vectors?

    ``accuracy`` is that of the probe on texts it was not trained on; ``selectivity`` (the main
    figure) is accuracy minus that of the same probe on shuffled labels, 0 when the vectors tell
    nothing. ``details`` have chance and the share of the commonest label.

    Args:
        name: Name for tables.
        texts: N texts.
        labels: N labels of 2 kinds or more.
        groups: N groups that are not split between training and test (see `probe`).
        folds: Number of folds.
        seed: Seed of folds and control.
        instruction: What the task is, for systems that read instructions.

    Raises:
        ShapeError: When texts, labels and groups differ in number.
        InputError: When there is one label only, or a label has fewer texts than folds.

    Example:
        >>> ProbeTask("toy", [f"text {i}" for i in range(20)], ["even", "odd"] * 10).labels[:2]
        ['even', 'odd']
    """

    kind = "probing"
    metric = "selectivity"

    def __init__(
        self,
        name: str,
        texts: Sequence[str],
        labels: Sequence[str],
        *,
        groups: Sequence[str] | None = None,
        folds: int = 5,
        seed: int = 0,
        instruction: str | None = None,
    ) -> None:
        self.name = name
        self.instruction = instruction
        self.folds, self.seed = folds, seed
        self._texts = check_texts(texts, name=f"texts of task {name!r}")
        self.labels = [str(label) for label in labels]
        self.groups = None if groups is None else [str(group) for group in groups]
        if len(self._texts) != len(self.labels):
            raise ShapeError(
                f"Task {name!r} has {len(self._texts)} texts and {len(self.labels)} labels."
            )
        try:
            _check_labels(self.labels, self.groups, folds)
        except InputError as error:
            raise type(error)(f"Task {name!r}: {error}") from None

    def texts(self) -> list[str]:
        """Return the texts the task encodes."""
        return list(self._texts)

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Train and score the probe and its control.

        Raises:
            MissingExtraError: When scikit-learn is not installed.
            InputError: When all texts have the same vector.
        """
        vectors = system.encode(self._texts, instruction=self.instruction)
        if np.ptp(vectors, axis=0).max() == 0:
            raise InputError(f"{system.name} gives all {len(vectors)} texts the same vector.")
        found = probe(vectors, self.labels, groups=self.groups, folds=self.folds, seed=self.seed)
        hits = np.array(found.predictions) == np.array(self.labels)
        control = np.array(found.control_predictions) == np.array(found.control_labels)
        counts = Counter(self.labels)
        wrong = np.flatnonzero(~hits)[:10].tolist()
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores={
                self.metric: Score.of_values(hits * 1.0 - control * 1.0, resampling),
                "accuracy": Score.of_values(hits * 1.0, resampling),
            },
            items=tuple(str(i) for i in range(len(hits))),
            failures=tuple(
                Failure(
                    item=str(i),
                    text=shorten(self._texts[i]),
                    score=0.0,
                    expected=(self.labels[i],),
                    found=(found.predictions[i],),
                )
                for i in wrong
            ),
            details={
                "texts": len(hits),
                "labels": dict(sorted(counts.items())),
                "chance": 1 / len(counts),
                "commonest_label": max(counts.values()) / len(hits),
                "control_accuracy": float(control.mean()),
                "control_fit": found.control_fit,
                "folds": self.folds,
                "groups": None if self.groups is None else len(set(self.groups)),
                "instruction": self.instruction,
            },
        )


def generated_probe(
    property_: str, *, count: int = 600, seed: int = 0, name: str | None = None
) -> ProbeTask:
    """Make a probe of generated English sentences.

    Args:
        property_: A key of `PROBED_PROPERTIES`.
        count: Number of sentences, 60 or more.
        seed: Seed of the sentences.
        name: Name for tables; ``"probe-<property>"`` by default.

    Raises:
        UnknownNameError: When there is no such property.
        InputError: When ``count`` is too small.

    Example:
        >>> task = generated_probe("tense", count=60)
        >>> len(task.texts()), sorted(set(task.labels))
        (60, ['past', 'present'])
    """
    check_choice(property_, PROBED_PROPERTIES, name="property")
    check_in_range(count, name="count", low=60)
    rows: list[Labelled] = labelled_texts(property_, count, seed=seed)
    groups = [row.group for row in rows]
    return ProbeTask(
        name or f"probe-{property_.replace('_', '-')}",
        [row.text for row in rows],
        [row.label for row in rows],
        groups=groups if len(set(groups)) > 1 else None,
    )


def _check_labels(labels: Sequence[str], groups: Sequence[str] | None, folds: int) -> None:
    check_in_range(folds, name="folds", low=2)
    if not len(labels):
        raise EmptyInputError("there are no labels.")
    counts = Counter(labels)
    if len(counts) < 2:
        raise InputError(f"all labels are {labels[0]!r}: a probe needs 2 kinds or more.")
    rarest, number = min(counts.items(), key=lambda item: (item[1], item[0]))
    if number < folds:
        raise InputError(
            f"label {rarest!r} has {number} texts, fewer than the {folds} folds: leave it out or "
            "use fewer folds."
        )
    if groups is not None:
        if len(groups) != len(labels):
            raise ShapeError(f"{len(groups)} groups for {len(labels)} labels.")
        if len(set(groups)) < folds:
            raise InputError(f"{len(set(groups))} groups cannot be put into {folds} folds.")


def _shuffled(labels: Sequence[str], groups: Sequence[str] | None, seed: int) -> list[str]:
    """Return labels dealt out anew, to whole groups where each group has one label."""
    rng = generator(seed, "control labels")
    if groups is not None:
        of_group: dict[str, set[str]] = {}
        for group, label in zip(groups, labels, strict=True):
            of_group.setdefault(group, set()).add(label)
        if all(len(found) == 1 for found in of_group.values()):
            values = [next(iter(found)) for found in of_group.values()]
            dealt = {g: values[i] for g, i in zip(of_group, rng.permutation(len(values)))}
            return [dealt[group] for group in groups]
    return [labels[i] for i in rng.permutation(len(labels)).tolist()]


def _cross_validated(
    vectors: np.ndarray,
    labels: Sequence[str],
    groups: Sequence[str] | None,
    folds: int,
    seed: int,
) -> tuple[list[str], float]:
    """Return predictions on unseen texts, and accuracy on seen ones."""
    linear = require_extra("sklearn.linear_model", extra="train", purpose="train a probe")
    selection = require_extra("sklearn.model_selection", extra="train", purpose="train a probe")
    known = np.array(labels)
    options = {"n_splits": folds, "shuffle": True, "random_state": derive_seed(seed) % 2**32}
    if groups is None:
        parts = selection.StratifiedKFold(**options).split(vectors, known)
    else:
        parts = selection.StratifiedGroupKFold(**options).split(vectors, known, list(groups))
    predictions: list[str] = [""] * len(known)
    fits = []
    for train, test in parts:
        centre, scale = vectors[train].mean(axis=0), vectors[train].std(axis=0)
        scaled = (vectors - centre) / np.where(scale > 1e-9, scale, 1.0)
        model = linear.LogisticRegression(C=0.1, max_iter=1000)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(scaled[train], known[train])
        if any("converge" in str(one.message) for one in caught):
            warnings.warn(DataWarning("A probe did not converge in 1000 steps."), stacklevel=4)
        for i, label in zip(test.tolist(), model.predict(scaled[test]).tolist(), strict=True):
            predictions[i] = label
        fits.append(float((model.predict(scaled[train]) == known[train]).mean()))
    return predictions, float(np.mean(fits))
