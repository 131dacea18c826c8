"""Leakage: what can somebody who has the vectors learn of the texts, or of the training data?

The attacks are the cheap ones: linear decoders, probes and thresholds. They bound leakage from
below; an attack that finds nothing does not show that nothing is there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from embedworks._core.seeding import generator
from embedworks._core.validation import check_in_range, check_texts, normalize_rows
from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation.kinds.probing import ProbeTask
from embedworks.evaluation.outcomes import Failure, Resampling, Score, TaskResult, shorten

if TYPE_CHECKING:
    from embedworks.evaluation.systems import System

__all__ = ["AttributeInferenceTask", "InversionTask", "MembershipTask", "auc"]

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_RIDGES = (0.01, 0.1, 1.0, 10.0)
_BLOCK = 1024


def auc(positives: Sequence[float] | np.ndarray, negatives: Sequence[float] | np.ndarray) -> float:
    """Return the probability that a positive scores above a negative; ties count half.

    Args:
        positives: Scores of what should be high.
        negatives: Scores of what should be low.

    Raises:
        EmptyInputError: When one side is empty.
        InputError: When a score is NaN.

    Example:
        >>> auc([0.9, 0.5], [0.5, 0.1])
        0.875
    """
    high = np.asarray(positives, dtype=np.float64)
    low = np.asarray(negatives, dtype=np.float64)
    if not len(high) or not len(low):
        raise EmptyInputError(f"An AUC needs both sides, got {len(high)} and {len(low)} scores.")
    if np.isnan(high).any() or np.isnan(low).any():
        raise InputError("A score is NaN: it cannot be ranked.")
    return _auc(high, low)


class InversionTask:
    """Which words of an unseen text can be read off its vector by a linear decoder?

    A ridge regression from vectors to the words of a text is trained on most of the texts, its
    penalty and threshold are chosen on a part of its own, and the words of the rest are guessed.
    ``word_f1`` (the main figure) is the mean F1 of the guessed words of a text. It means nothing
    alone, so two guesses that need no decoder stand beside it: ``prior_f1`` guesses the commonest
    words for every text, ``nearest_f1`` gives the words of the training text with the nearest
    vector. ``over_best_baseline`` is what the decoder adds to the better of both. Higher is more
    leakage. "Failures" are the texts of which most was read.

    Words in more than ``max_share`` of the texts do not count: "the" is no secret. Words that
    occur in no training text count as missed.

    Args:
        name: Name for tables.
        texts: 100 texts or more; equal ones are taken once, so none is in both parts.
        max_share: Largest share of texts that a word that counts may be in.
        vocabulary: Most words the decoder knows, the commonest that count.
        seed: Seed of the parts: 70 % training, 10 % choice, 20 % test.
        instruction: What the task is, for systems that read instructions.

    Raises:
        EmptyInputError: When fewer than 100 different texts have a word that counts.
        InputError: When a setting is out of range.

    Paper: Song and Raghunathan 2020, arXiv 2004.00053 (the attack).

    Example:
        >>> texts = [f"{a} {b}" for a in "tea rye oat fig yam nut egg ham pea soy".split()
        ...          for b in "red old hot raw big dry wet new odd shy".split()]
        >>> InversionTask("toy", texts, max_share=0.2).sizes
        {'train': 70, 'choice': 10, 'test': 20}
    """

    kind = "leakage"
    metric = "word_f1"

    def __init__(
        self,
        name: str,
        texts: Sequence[str],
        *,
        max_share: float = 0.1,
        vocabulary: int = 3000,
        seed: int = 0,
        instruction: str | None = None,
    ) -> None:
        check_in_range(max_share, name="max_share", low=0.0, high=1.0, open_low=True)
        check_in_range(vocabulary, name="vocabulary", low=10)
        self.name = name
        self.instruction = instruction
        given = list(dict.fromkeys(check_texts(texts, name=f"texts of task {name!r}")))
        bags = [frozenset(_WORD.findall(text.lower())) for text in given]
        counts = Counter(word for bag in bags for word in bag)
        common = {word for word, n in counts.items() if n > max_share * len(given)}
        kept = [i for i, bag in enumerate(bags) if bag - common]
        self._left_out = len(texts) - len(kept)
        if len(kept) < 100:
            raise EmptyInputError(
                f"Task {name!r} needs 100 different texts with a word in at most {max_share:.0%} "
                f"of them, got {len(kept)}."
            )
        order = [kept[i] for i in generator(seed, "inversion parts").permutation(len(kept))]
        self._texts = [given[i] for i in order]
        self._bags = [bags[i] - common for i in order]
        train, choice = len(order) * 7 // 10, len(order) // 10
        self.sizes = {"train": train, "choice": choice, "test": len(order) - train - choice}
        known = Counter(word for bag in self._bags[:train] for word in bag)
        ranked = sorted(known, key=lambda word: (-known[word], word))
        self._vocabulary = ranked[:vocabulary]
        self._common = len(common)

    def texts(self) -> list[str]:
        """Return the texts the task encodes."""
        return list(self._texts)

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Train the decoder and score it on the test texts.

        Raises:
            InputError: When all texts have the same vector.
        """
        raw = system.encode(self._texts, instruction=self.instruction)
        if np.ptp(raw, axis=0).max() == 0:
            raise InputError(f"{system.name} gives all {len(raw)} texts the same vector.")
        vectors = normalize_rows(raw).astype(np.float64)
        train, choice = self.sizes["train"], self.sizes["choice"]
        place = {word: i for i, word in enumerate(self._vocabulary)}
        words = np.zeros((len(vectors), len(place)), dtype=bool)
        for row, bag in enumerate(self._bags):
            words[row, [place[word] for word in bag if word in place]] = True
        sizes = np.array([len(bag) for bag in self._bags], dtype=np.float64)
        middle, end = slice(train, train + choice), slice(train + choice, None)
        guesses, ridge = _decode(vectors, words, sizes, train, choice)
        decoded = _f1(guesses, words[end], sizes[end])
        prior = _prior(words[:train], words[middle], sizes[middle])
        prior_f1 = _f1(np.broadcast_to(prior, words[end].shape), words[end], sizes[end])
        nearest = _nearest(vectors[end], vectors[:train])
        own = [self._bags[train + choice + i] for i in range(len(nearest))]
        nearest_f1 = np.array(
            [
                2 * len(bag & self._bags[near]) / (len(bag) + len(self._bags[near]))
                for bag, near in zip(own, nearest.tolist(), strict=True)
            ]
        )
        best = prior_f1 if prior_f1.mean() >= nearest_f1.mean() else nearest_f1
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores={
                self.metric: Score.of_values(decoded, resampling),
                "over_best_baseline": Score.of_values(decoded - best, resampling),
                "prior_f1": Score.of_values(prior_f1, resampling),
                "nearest_f1": Score.of_values(nearest_f1, resampling),
            },
            items=tuple(str(i) for i in range(len(decoded))),
            excluded={"texts that are repeated or have no word that counts": self._left_out}
            if self._left_out
            else {},
            failures=self._failures(decoded, guesses),
            details={
                "sizes": dict(self.sizes),
                "vocabulary": len(place),
                "common_words_left_out": self._common,
                "words_per_text": float(sizes[end].mean()),
                "known_words": float(words[end].sum() / sizes[end].sum()),
                "ridge": ridge,
                "instruction": self.instruction,
            },
        )

    def _failures(self, values: np.ndarray, guesses: np.ndarray) -> tuple[Failure, ...]:
        start = self.sizes["train"] + self.sizes["choice"]
        shown = []
        for i in np.argsort(-values, kind="stable")[:10].tolist():
            if values[i] == 0:
                break
            read = [self._vocabulary[j] for j in np.flatnonzero(guesses[i]).tolist()]
            shown.append(
                Failure(
                    item=str(i),
                    text=shorten(self._texts[start + i]),
                    score=float(values[i]),
                    expected=("no word can be read",),
                    found=tuple(sorted(read)),
                )
            )
        return tuple(shown)


class AttributeInferenceTask(ProbeTask):
    """Can a private attribute of the writer or the subject be read off the vectors of texts?

    A `ProbeTask` with the labels kept private: ``selectivity`` is how far a linear attacker with
    labelled texts of the kind gets above the same attacker with shuffled labels.

    Example:
        >>> AttributeInferenceTask("toy", [f"text {i}" for i in range(20)], ["a", "b"] * 10).kind
        'leakage'
    """

    kind = "leakage"


class MembershipTask:
    """Can one tell which pairs a model was trained on, by how near it puts them?

    Training pulls the two texts of a pair together, so their cosine stands for a low loss. The
    attack calls the pairs above a threshold members; ``auc`` (the main figure) sums up all
    thresholds: 0.5 for data the model never saw, if members and others are drawn alike. An AUC
    far from 0.5 says nothing where they differ in kind, so draw both from one source.
    ``details`` have the share of members found at 5 % false alarms. "Failures" are the members
    most clearly above the others.

    Args:
        name: Name for tables.
        members: Pairs (text, text) the model was trained on.
        others: Pairs of the same kind that it was not trained on.
        instruction: What the task is, for systems that read instructions.

    Raises:
        EmptyInputError: When one side has fewer than 20 different pairs.
        InputError: When a pair is on both sides.

    Paper: Song and Raghunathan 2020, arXiv 2004.00053.

    Example:
        >>> members = [(f"question {i}", f"answer {i}") for i in range(20)]
        >>> others = [(f"title {i}", f"body {i}") for i in range(20)]
        >>> len(MembershipTask("toy", members, others).texts())
        80
    """

    kind = "leakage"
    metric = "auc"

    def __init__(
        self,
        name: str,
        members: Sequence[tuple[str, str]],
        others: Sequence[tuple[str, str]],
        *,
        instruction: str | None = None,
    ) -> None:
        self.name = name
        self.instruction = instruction
        self.members = list(dict.fromkeys((a, b) for a, b in members))
        self.others = list(dict.fromkeys((a, b) for a, b in others))
        self._repeated = len(members) + len(others) - len(self.members) - len(self.others)
        if min(len(self.members), len(self.others)) < 20:
            raise EmptyInputError(
                f"Task {name!r} needs 20 different pairs on each side, got {len(self.members)} "
                f"members and {len(self.others)} others."
            )
        if both := set(self.members) & set(self.others):
            raise InputError(f"Task {name!r}: pair {min(both)!r} is on both sides.")

    def texts(self) -> list[str]:
        """Return the texts the task encodes."""
        return [text for pair in (*self.members, *self.others) for text in pair]

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Attack by the cosine of the two texts of a pair.

        Raises:
            InputError: When all pairs are equally near.
        """
        pairs = [*self.members, *self.others]
        first = system.encode([a for a, _ in pairs], role="query", instruction=self.instruction)
        second = system.encode([b for _, b in pairs], role="document", instruction=self.instruction)
        scores = np.einsum(
            "nd,nd->n", normalize_rows(first), normalize_rows(second), dtype=np.float64
        )
        if np.ptp(scores) == 0:
            raise InputError(f"{system.name} puts the texts of all {len(scores)} pairs as near.")
        is_member = np.arange(len(scores)) < len(self.members)

        def statistic(rows: np.ndarray) -> float | None:
            drawn, mask = scores[rows], is_member[rows]
            return _auc(drawn[mask], drawn[~mask]) if mask.any() and not mask.all() else None

        others = np.sort(scores[~is_member])
        threshold = float(np.quantile(others, 0.95))
        clearest = np.argsort(-scores[is_member], kind="stable")[:10].tolist()
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores={self.metric: Score.of_statistic(len(scores), statistic, resampling)},
            excluded={"repeated pairs": self._repeated} if self._repeated else {},
            failures=tuple(
                Failure(
                    item=f"member {i}",
                    text=shorten(f"{self.members[i][0]} / {self.members[i][1]}", 400),
                    score=float(scores[i]),
                    expected=(f"like others, {others.mean():.3f} on average",),
                    found=(f"{scores[i]:.3f}",),
                )
                for i in clearest
                if scores[i] > threshold
            ),
            details={
                "members": len(self.members),
                "others": len(self.others),
                "chance": 0.5,
                "found_at_5_percent_false_alarms": float((scores[is_member] > threshold).mean()),
                "mean_cosine": {
                    "members": float(scores[is_member].mean()),
                    "others": float(others.mean()),
                },
                "instruction": self.instruction,
            },
        )


def _auc(high: np.ndarray, low: np.ndarray) -> float:
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, side="left")
    upto = np.searchsorted(ordered, high, side="right")
    return float((below + upto).mean() / (2 * len(low)))


def _f1(guesses: np.ndarray, words: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return F1 per text; ``sizes`` counts all its words, unknown ones too."""
    hits = (guesses & words).sum(axis=1)
    return np.asarray(2 * hits / (guesses.sum(axis=1) + sizes))


def _prior(train: np.ndarray, words: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the commonest words, as many as do best on the choice part, bool (V,)."""
    order = np.argsort(-train.sum(axis=0), kind="stable")
    best, best_f1 = 1, -1.0
    for count in (1, 2, 3, 5, 8, 13, 20, 30, 50):
        guess = np.zeros(words.shape[1], dtype=bool)
        guess[order[:count]] = True
        value = float(_f1(np.broadcast_to(guess, words.shape), words, sizes).mean())
        if value > best_f1:
            best, best_f1 = count, value
    guess = np.zeros(words.shape[1], dtype=bool)
    guess[order[:best]] = True
    return guess


def _decode(
    vectors: np.ndarray, words: np.ndarray, sizes: np.ndarray, train: int, choice: int
) -> tuple[np.ndarray, float]:
    """Return guesses for the test part, bool (N_test, V), and the penalty chosen."""
    mean = vectors[:train].mean(axis=0)
    scale = float(vectors[:train].std()) or 1.0
    inputs = ((vectors - mean) / scale).astype(np.float32)
    known = words[:train].astype(np.float32)
    share = known.mean(axis=0)
    gram = inputs[:train].T @ inputs[:train]
    cross = inputs[:train].T @ (known - share)
    middle = slice(train, train + choice)
    best: tuple[float, float, float, np.ndarray] = (-1.0, 0.0, 0.0, np.empty(0))
    for ridge in _RIDGES:
        penalty = ridge * train * np.eye(len(gram), dtype=np.float32)
        weights = np.linalg.solve(gram + penalty, cross)
        scores = inputs[middle] @ weights + share
        for threshold in np.quantile(scores, 1 - sizes.mean() / words.shape[1] * _FACTORS):
            value = float(_f1(scores > threshold, words[middle], sizes[middle]).mean())
            if value > best[0]:
                best = value, ridge, float(threshold), weights
    return inputs[train + choice :] @ best[3] + share > best[2], best[1]


#: Words guessed, as multiples of the words a text has: what thresholds are chosen from.
_FACTORS = np.array([0.25, 0.5, 0.75, 1.0, 1.5, 2.0])


def _nearest(vectors: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [
            (vectors[start : start + _BLOCK] @ known.T).argmax(axis=1)
            for start in range(0, len(vectors), _BLOCK)
        ]
    )
