"""What vectors know of numbers: which is the largest, what is it, what is the sum.

All probes are linear and are asked about numbers they were not trained on, so that what they find
is in the vectors and not in the probe.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from embedworks._core.extras import require_extra
from embedworks._core.seeding import generator
from embedworks._core.validation import check_in_range
from embedworks.errors import InputError
from embedworks.evaluation.outcomes import Failure, Resampling, Score, TaskResult

if TYPE_CHECKING:
    from embedworks.evaluation.systems import System

__all__ = ["NumeracyTask"]

_ALPHAS = np.logspace(-4, 5, 10)
_PAIRS = 4  # pairs that each training number starts, and ends


class NumeracyTask:
    """Whole numbers in texts: can linear probes read them off the vectors?

    ``list-maximum`` (the main figure) is how often the number read as the largest of a list is
    the largest (chance: one over the length); ``comparison`` how often the sign of "a - b", read
    off the difference of two vectors, is right (chance: a half); ``decoding`` and ``addition``
    are the share of the variance of a number, and of the sum of two numbers whose vectors stand
    side by side, that is read (1 is perfect; 0 no better than the mean; below 0 worse).

    Paper: Wallace et al. 2019, arXiv 1909.07940, section 3. Theirs probe with recurrent and
    two-layer networks and give the root of the squared error; ours are ridge regressions, their
    strength chosen on the training numbers, so that figures are those of the vectors.

    Args:
        name: Name for tables.
        low: Smallest number.
        high: Largest; there must be at least ``train + test`` numbers.
        train: How many different numbers the probes learn from.
        test: How many others they are asked about.
        length: Numbers in a list.
        lists: Lists, pairs and sums that are asked about.
        template: Text around a number; must hold ``{}``.
        spell: How a number is written; by default in digits.
        seed: Of the drawn numbers.
        instruction: What the task is, for systems that read instructions.

    Raises:
        InputError: When a number is out of range, or the template has no place for a number.

    Example:
        >>> from embedworks.evaluation import EncoderSystem, Resampling
        >>> from embedworks.models import dice_vectors
        >>> class Dice:
        ...     def encode(self, texts):
        ...         return dice_vectors([float(text) for text in texts], low=0, high=999)
        >>> task = NumeracyTask("digits", low=0, high=999, lists=100)
        >>> system = EncoderSystem(Dice(), name="dice", fingerprint="dice")
        >>> task.run(system, Resampling()).main.interval.mean > 0.95
        True
    """

    kind = "probing"
    metric = "list-maximum"

    def __init__(
        self,
        name: str,
        *,
        low: int = 0,
        high: int = 9_999,
        train: int = 500,
        test: int = 250,
        length: int = 5,
        lists: int = 500,
        template: str = "{}",
        spell: Callable[[int], str] = str,
        seed: int = 0,
        instruction: str | None = None,
    ) -> None:
        check_in_range(length, name="length", low=2)
        check_in_range(train, name="train", low=10)
        check_in_range(test, name="test", low=length)
        check_in_range(lists, name="lists", low=1)
        if high - low + 1 < train + test:
            raise InputError(
                f"Task {name!r}: {low} to {high} are {max(0, high - low + 1)} numbers, but "
                f"{train} + {test} different ones are needed."
            )
        if "{}" not in template:
            raise InputError(f"Task {name!r}: the template {template!r} needs a {{}}.")
        self.name = name
        self.instruction = instruction
        rng = generator(seed, "numeracy")
        drawn = low + rng.choice(high - low + 1, size=train + test, replace=False)
        self.train, self.test = drawn[:train], drawn[train:]
        orders = [[rng.permutation(train) for _ in range(_PAIRS)] for _ in range(2)]
        self._pairs = np.stack([np.concatenate(side) for side in orders], axis=1)
        self._lists = np.stack([rng.permutation(test)[:length] for _ in range(lists)])
        self._spelt = [template.replace("{}", spell(int(value))) for value in drawn]

    def texts(self) -> list[str]:
        """Return the texts the task uses."""
        return list(self._spelt)

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Train the probes and ask them.

        Raises:
            MissingExtraError: When scikit-learn is not installed.
        """
        vectors = np.asarray(
            system.encode(self._spelt, instruction=self.instruction), dtype=np.float64
        )
        cut = len(self.train)
        spread = vectors[:cut].std(axis=0)
        vectors = (vectors - vectors[:cut].mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
        known, asked = vectors[:cut], vectors[cut:]
        library = require_extra("sklearn.linear_model", extra="train", purpose="probe for numbers")
        single = library.RidgeCV(alphas=_ALPHAS).fit(known, self.train.astype(np.float64))
        read = np.asarray(single.predict(asked))
        # Pairs share numbers, so a pair left out is not unseen: the strength is that found on
        # single numbers, which stand in so many pairs on either side.
        probe = library.Ridge(alpha=single.alpha_ * _PAIRS)
        a, b = self._pairs.T
        c, d = self._lists[:, :2].T
        probe.fit(known[a] - known[b], (self.train[a] - self.train[b]).astype(np.float64))
        differences = np.asarray(probe.predict(asked[c] - asked[d]))
        probe.fit(
            np.hstack([known[a], known[b]]), (self.train[a] + self.train[b]).astype(np.float64)
        )
        sums = np.asarray(probe.predict(np.hstack([asked[c], asked[d]])))
        truth = self.test[self._lists]
        chosen = read[self._lists].argmax(axis=1)
        hits = chosen == truth.argmax(axis=1)
        right = np.sign(differences) == np.sign(truth[:, 0] - truth[:, 1])
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores={
                "list-maximum": Score.of_values(hits.astype(np.float64), resampling),
                "comparison": Score.of_values(right.astype(np.float64), resampling),
                "decoding": _explained(self.test, read, resampling),
                "addition": _explained(truth[:, :2].sum(axis=1), sums, resampling),
            },
            items=tuple(str(row) for row in range(len(hits))),
            failures=self._failures(np.flatnonzero(~hits), chosen),
            details={
                "train_numbers": cut,
                "test_numbers": len(self.test),
                "lists": len(hits),
                "chance": 1 / self._lists.shape[1],
                "decoding_rmse": float(np.sqrt(np.square(read - self.test).mean())),
                "instruction": self.instruction,
            },
        )

    def _failures(self, missed: np.ndarray, chosen: np.ndarray) -> tuple[Failure, ...]:
        spelt = self._spelt[len(self.train) :]
        return tuple(
            Failure(
                item=str(row),
                text=" / ".join(spelt[place] for place in self._lists[row]),
                score=0.0,
                expected=(spelt[self._lists[row][self.test[self._lists[row]].argmax()]],),
                found=(spelt[self._lists[row][chosen[row]]],),
            )
            for row in missed[:10].tolist()
        )


def _explained(truth: np.ndarray, read: np.ndarray, resampling: Resampling) -> Score:
    def statistic(rows: np.ndarray) -> float | None:
        spread = np.square(truth[rows] - truth[rows].mean()).sum()
        if spread == 0:
            return None
        return float(1 - np.square(truth[rows] - read[rows]).sum() / spread)

    return Score.of_statistic(len(truth), statistic, resampling)
