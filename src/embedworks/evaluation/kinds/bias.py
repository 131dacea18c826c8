"""Bias in vectors: are groups of people associated with attributes (WEAT, SEAT)?

None of these figures proves that a model is fair. An association that is found is there; one that
is not found may show with other words.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import (
    check_in_range,
    check_texts,
    unit_directions,
)
from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation.outcomes import Failure, Resampling, Score, TaskResult, shorten

if TYPE_CHECKING:
    from embedworks.evaluation.systems import System

__all__ = [
    "AssociationTask",
    "PermutationTest",
    "association_scores",
    "weat_effect_size",
    "weat_permutation_test",
]

_EXACT = 10_000
_BLOCK = 2048


@dataclass(frozen=True)
class PermutationTest:
    """How often targets dealt out at random differ as much as the two sets do."""

    p_value: float
    """One-sided: share of the divisions with at least the observed difference."""
    p_two_sided: float
    """Share of the divisions with at least its absolute value."""
    permutations: int
    """Divisions looked at."""
    exact: bool
    """Whether these were all there are."""


def association_scores(targets: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return by how much each target is nearer to one set of attributes than to the other.

    ``s(w) = mean cos(w, A) - mean cos(w, B)``.

    Args:
        targets: Vectors (N, D).
        a: Vectors of the first attributes, (N_a, D).
        b: Vectors of the second attributes, (N_b, D).

    Returns:
        float64 (N,) in [-2, 2].

    Raises:
        ShapeError: When dimensions differ.
        InputError: When a vector is zero: it has no direction.
        EmptyInputError: When a set is empty.

    Example:
        >>> association_scores(np.eye(2), np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))
        array([ 1., -1.])
    """
    first = unit_directions(targets, name="targets")
    dim = first.shape[1]
    means = [
        unit_directions(part, name=name, dim=dim).mean(axis=0)
        for part, name in ((a, "a"), (b, "b"))
    ]
    return np.asarray(first @ (means[0] - means[1]))


def weat_effect_size(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, *, ddof: int = 1
) -> float:
    """Return the effect size of the Word Embedding Association Test.

    ``d = (mean(x) - mean(y)) / std(x and y together)``, where x and y are the scores of
    `association_scores` for two sets of targets.

    Args:
        x: Scores of the first targets.
        y: Scores of the second targets.
        ddof: Subtracted from the number of scores in the standard deviation: 1, the sample's, as
            in the published sentence tests; 0, the population's, gives slightly larger sizes.

    Raises:
        EmptyInputError: When a set has fewer than 2 scores.
        InputError: When all scores are equal: there is no effect size.

    Paper: Caliskan et al. 2017, Science 356; May et al. 2019, arXiv 1903.10561, for sentences.

    Example:
        >>> round(weat_effect_size([1.0, 0.9], [0.1, 0.0], ddof=0), 4)
        1.9878
    """
    first, second = _scores(x, name="x"), _scores(y, name="y")
    value = _effect_size(first, second, ddof)
    if value is None:
        raise InputError("All targets are associated alike: the effect size is not defined.")
    return value


def weat_permutation_test(
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray,
    *,
    samples: int = _EXACT,
    seed: int = 0,
) -> PermutationTest:
    """Test whether two sets of targets differ in their association.

    The null hypothesis is that which set a target is in does not matter. All divisions into sets
    of these sizes are looked at when there are at most 10,000, else ``samples`` random ones.
    The statistic is the difference of means; for sets of one size this is the published test.

    Args:
        x: Scores of the first targets (see `association_scores`).
        y: Scores of the second targets.
        samples: Random divisions, when there are too many.
        seed: Seed of these.

    Raises:
        EmptyInputError: When a set has fewer than 2 scores.

    Example:
        >>> weat_permutation_test([3.0, 4.0], [1.0, 2.0])
        PermutationTest(p_value=0.16666666666666666, p_two_sided=0.3333333333333333, \
permutations=6, exact=True)
    """
    first, second = _scores(x, name="x"), _scores(y, name="y")
    check_in_range(samples, name="samples", low=1)
    both = np.concatenate([first, second])
    n, size = len(both), len(first)
    observed = float(first.mean() - second.mean())
    total = math.comb(n, size)
    exact = total <= _EXACT
    if exact:
        chosen = np.array(list(itertools.combinations(range(n), size)))
        sums = both[chosen].sum(axis=1)
    else:
        rng = generator(seed, "association permutations", n, size)
        sums = np.concatenate(
            [
                both[rng.random((count, n)).argsort(axis=1)[:, :size]].sum(axis=1)
                for count in _blocks(samples)
            ]
        )
    differences = sums / size - (both.sum() - sums) / (n - size)
    slack = 1e-12 * max(1.0, float(np.abs(both).max()))  # sums in another order differ by rounding
    above = int((differences >= observed - slack).sum())
    beyond = int((np.abs(differences) >= abs(observed) - slack).sum())
    if exact:
        return PermutationTest(above / total, beyond / total, total, True)
    return PermutationTest(
        (1 + above) / (1 + samples), (1 + beyond) / (1 + samples), samples, False
    )


class AssociationTask:
    """Two groups and two sets of attributes: is one group nearer to one of them (WEAT, SEAT)?

    The main figure is the effect size (`weat_effect_size`, ddof 1), between -2 and 2 for sets of
    one size: 0 is no association, positive when ``x`` goes with ``a`` and ``y`` with ``b``. Its
    interval resamples targets, each with all its sentences, and p-values deal targets out anew,
    by the mean over their sentences: sentences about one word are not independent. Attributes
    stay as they are.
    Texts with the zero vector are left out, targets with all their sentences, and counted.

    Args:
        name: Name for tables.
        x: First targets, words or sentences.
        y: Second targets.
        a: First attributes.
        b: Second attributes.
        templates: Sentences with one ``{}`` each, into which every text is put; by default texts
            stand alone.
        instruction: What the task is, for systems that read instructions.

    Raises:
        EmptyInputError: When a set has fewer than 2 texts, or a blank one.
        InputError: When a template has no ``{}``, or a text is in both sets of targets or both of
            attributes.

    Paper: Caliskan et al. 2017, Science 356; May et al. 2019, arXiv 1903.10561.

    Example:
        >>> task = AssociationTask("toy", ["rose", "lily"], ["wasp", "fly"], ["joy", "love"],
        ...                        ["pain", "hate"], templates=["This is {}."])
        >>> task.texts()[0], len(task.texts())
        ('This is rose.', 8)
    """

    kind = "bias"
    metric = "effect_size"

    def __init__(
        self,
        name: str,
        x: Sequence[str],
        y: Sequence[str],
        a: Sequence[str],
        b: Sequence[str],
        *,
        templates: Sequence[str] = ("{}",),
        instruction: str | None = None,
    ) -> None:
        self.name = name
        self.instruction = instruction
        if not templates:
            raise EmptyInputError(f"Task {name!r} has no templates; leave them out for none.")
        for template in templates:
            if template.count("{}") != 1:
                raise InputError(f"Task {name!r}: template {template!r} needs exactly one {{}}.")
        self.sets: dict[str, list[str]] = {}
        self._sentences = len(templates)
        for part, given in (("x", x), ("y", y), ("a", a), ("b", b)):
            own = list(dict.fromkeys(check_texts(given, name=f"{part} of task {name!r}")))
            if len(own) < 2 or not all(text.strip() for text in own):
                raise EmptyInputError(
                    f"Task {name!r}: {part} needs at least 2 different texts, none of them blank; "
                    f"got {len(own)}."
                )
            self.sets[part] = [t.replace("{}", text) for text in own for t in templates]
        for one, other in (("x", "y"), ("a", "b")):
            if twice := set(self.sets[one]) & set(self.sets[other]):
                raise InputError(f"Task {name!r}: {min(twice)!r} is in both {one} and {other}.")

    def texts(self) -> list[str]:
        """Return the texts the task encodes."""
        return [text for part in self.sets.values() for text in part]

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Measure the association.

        Raises:
            InputError: When fewer than 2 texts of a set have a vector, or all targets are
                associated alike.
        """
        vectors, used, start, absent = {}, {}, 0, 0
        every = system.encode(self.texts(), instruction=self.instruction)
        for part, texts in self.sets.items():
            own = every[start : start + len(texts)]
            start += len(texts)
            there = np.asarray(own.any(axis=1))
            absent += int((~there).sum())
            if part in ("x", "y"):
                whole = there.reshape(-1, self._sentences).all(axis=1)
                there = np.repeat(whole, self._sentences)
                enough = int(whole.sum())
            else:
                enough = int(there.sum())
            if enough < 2:
                raise InputError(
                    f"{system.name} has vectors for {enough} of the texts of {part} in task "
                    f"{self.name!r}: 2 are needed."
                )
            vectors[part] = own[there]
            used[part] = [text for text, ok in zip(texts, there, strict=True) if ok]
        targets = np.concatenate([vectors["x"], vectors["y"]])
        single = association_scores(targets, vectors["a"], vectors["b"])
        if np.ptp(single) < 1e-9:
            raise InputError(
                f"{system.name} associates all targets of task {self.name!r} alike: the effect "
                "size is not defined."
            )
        by_target = single.reshape(-1, self._sentences)
        is_x = np.arange(len(by_target)) < len(used["x"]) // self._sentences

        def statistic(rows: np.ndarray) -> float | None:
            mask = is_x[rows]
            drawn = by_target[rows]
            return _effect_size(drawn[mask].ravel(), drawn[~mask].ravel(), 1)

        s = by_target.mean(axis=1)
        names = [*used["x"], *used["y"]][:: self._sentences]
        test = weat_permutation_test(s[is_x], s[~is_x], seed=resampling.seed)
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores={self.metric: Score.of_statistic(len(is_x), statistic, resampling)},
            better="zero",
            excluded={"texts with the zero vector": absent} if absent else {},
            failures=self._failures(names, s, is_x),
            details={
                "p_value": test.p_value,
                "p_two_sided": test.p_two_sided,
                "permutations": test.permutations,
                "exact": test.exact,
                "ddof": 1,
                "sizes": {part: len(texts) for part, texts in used.items()},
                "sentences_per_target": self._sentences,
                "coverage": {p: len(used[p]) / len(self.sets[p]) for p in self.sets},
                "mean_association": {"x": float(s[is_x].mean()), "y": float(s[~is_x].mean())},
                "instruction": self.instruction,
            },
        )

    @staticmethod
    def _failures(texts: Sequence[str], s: np.ndarray, is_x: np.ndarray) -> tuple[Failure, ...]:
        """Return the targets that make the association: furthest out on their set's side."""
        centred = s - s.mean()
        sign = 1.0 if s[is_x].mean() >= s[~is_x].mean() else -1.0
        push = sign * np.where(is_x, centred, -centred)
        return tuple(
            Failure(
                item=f"{'x' if is_x[i] else 'y'}:{texts[i]}",
                text=shorten(texts[i]),
                score=float(s[i]),
                expected=(f"the mean of all targets, {s.mean():+.3f}",),
                found=(f"{s[i]:+.3f}, nearer to {'a' if centred[i] > 0 else 'b'} than most",),
            )
            for i in np.argsort(-push, kind="stable")[:10].tolist()
            if push[i] > 0
        )


def _scores(values: Sequence[float] | np.ndarray, *, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise EmptyInputError(f"{name} needs at least 2 scores, got shape {array.shape}.")
    if not np.isfinite(array).all():
        raise InputError(f"{name} has a score that is NaN or infinite.")
    return array


def _effect_size(x: np.ndarray, y: np.ndarray, ddof: int) -> float | None:
    if not len(x) or not len(y) or len(x) + len(y) <= ddof:
        return None
    spread = float(np.concatenate([x, y]).std(ddof=ddof))
    return float(x.mean() - y.mean()) / spread if spread > 1e-12 else None


def _blocks(total: int) -> list[int]:
    return [min(_BLOCK, total - start) for start in range(0, total, _BLOCK)]
