"""Word vectors against people's judgement: similarity, analogies, categories.

Words a model does not know have no place in these figures: they are left out, counted, and the
share that is known is given; figures over everything, in which an unknown word counts as wrong,
stand beside. A word is unknown when its vector is zero or when the model's tokenizer makes nothing
but its unknown token of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embedworks._core.validation import check_texts, check_unique
from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation.kinds._clustering import agreement_scores, cluster_failures, clusters_of
from embedworks.evaluation.kinds._known_words import KnownWords, encode_words
from embedworks.evaluation.kinds.sts import StsTask, spearman
from embedworks.evaluation.outcomes import Failure, Resampling, Score, TaskResult

if TYPE_CHECKING:
    from embedworks.evaluation.systems import System

__all__ = ["AnalogyTask", "WordCategoryTask", "WordSimilarityTask"]

#: Numbers computed at a time: bounds memory.
_BLOCK = 4_000_000
_SMALL = 1e-3


class WordSimilarityTask(StsTask):
    """Pairs of words with people's judgement: Spearman's correlation with cosine.

    ``spearman`` looks at the pairs whose words are both known; in ``spearman-all`` the other
    pairs have the similarity 0, so that systems with different vocabularies can be compared.

    Args:
        name: Name for tables.
        pairs: (word, word, score); a higher score means more similar.
        instruction: What the task is, for systems that read instructions.

    Raises:
        EmptyInputError: When there are no pairs.
        InputError: When all scores are equal.
        NonFiniteError: When a score is NaN or infinite.

    Example:
        >>> from embedworks.evaluation import EncoderSystem, Resampling
        >>> class Letters:
        ...     def encode(self, texts):
        ...         return np.array([[t.count("a"), t.count("o")] for t in texts], dtype=float)
        >>> pairs = [("cat", "rat", 9), ("cat", "goat", 6), ("cat", "dog", 1), ("cat", "fly", 2)]
        >>> result = WordSimilarityTask("toy", pairs).run(
        ...     EncoderSystem(Letters(), name="letters"), Resampling()
        ... )
        >>> result.main.interval.mean, result.excluded
        (1.0, {'pairs with an unknown word': 1})
    """

    kind = "word"

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Correlate the system's similarities with the scores.

        Raises:
            InputError: When fewer than two pairs are known, or their similarities or scores are
                all equal: no correlation is defined.
        """
        words = encode_words(
            system, [w for a, b, _ in self.pairs for w in (a, b)], self.instruction
        )
        left, right = (
            np.array([words.place[word] for word in side])
            for side in ([a for a, _, _ in self.pairs], [b for _, b, _ in self.pairs])
        )
        known = words.known[left] & words.known[right]
        cosine = np.einsum("nd,nd->n", words.vectors[left], words.vectors[right], dtype=np.float64)
        cosine[~known] = 0.0
        rows = np.flatnonzero(known)
        mine, theirs = cosine[rows], self._scores[rows]
        if len(rows) < 2 or (mine == mine[0]).all() or (theirs == theirs[0]).all():
            raise InputError(
                f"{system.name} knows both words of {len(rows)} of the {len(known)} pairs of "
                f"{self.name!r}, and their similarities or scores do not differ: no correlation "
                "is defined."
            )
        unknown = len(known) - len(rows)
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores={
                "spearman": _correlation(mine, theirs, resampling),
                "spearman-all": _correlation(cosine, self._scores, resampling),
            },
            excluded={"pairs with an unknown word": unknown} if unknown else {},
            failures=self._worst(rows, cosine),
            details={
                "pairs": len(known),
                "known_pairs": len(rows),
                **words.coverage(),
                "instruction": self.instruction,
            },
        )

    def _worst(self, rows: np.ndarray, cosine: np.ndarray, count: int = 10) -> tuple[Failure, ...]:
        gaps = (_ranks(cosine[rows]) - _ranks(self._scores[rows])) / len(rows)
        return tuple(
            Failure(
                item=str(rows[i]),
                text=f"{self.pairs[rows[i]][0]} / {self.pairs[rows[i]][1]}",
                score=float(1 - abs(gaps[i])),
                expected=(f"score {self._scores[rows[i]]:g}",),
                found=(f"similarity {cosine[rows[i]]:.3f}",),
            )
            for i in np.argsort(-np.abs(gaps), kind="stable")[:count].tolist()
        )


def _correlation(a: np.ndarray, b: np.ndarray, resampling: Resampling) -> Score:
    def statistic(rows: np.ndarray) -> float | None:
        mine, theirs = a[rows], b[rows]
        if (mine == mine[0]).all() or (theirs == theirs[0]).all():
            return None
        return spearman(mine, theirs)

    return Score.of_statistic(len(a), statistic, resampling)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks, equal values sharing their average rank."""
    codes = np.unique(values, return_inverse=True)[1]
    counts = np.bincount(codes)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[codes])


class AnalogyTask:
    """Questions "a is to b as c is to what?", answered by vector arithmetic over a vocabulary.

    ``3cosadd`` takes the word with the greatest ``cos(w, b) - cos(w, a) + cos(w, c)``, ``3cosmul``
    that with the greatest ``cos(w, b) cos(w, c) / (cos(w, a) + 0.001)`` with cosines moved to
    [0, 1]. The words of a question are never its answer; this makes the figures higher than the
    arithmetic alone would (often the nearest word is b or c), as is usual for this task.
    Questions with an unknown word are left out and counted; in ``3cosadd-all`` they are wrong.

    Paper: Mikolov et al., 2013 (arXiv 1301.3781; 3CosAdd); Levy and Goldberg, 2014 (CoNLL;
    3CosMul).

    Args:
        name: Name for tables.
        questions: (a, b, c, d), d the answer.
        vocabulary: Words to choose from, besides those of the questions; more make it harder.
        categories: Category of each question, for a table in the result's details.
        instruction: What the task is, for systems that read instructions.

    Raises:
        EmptyInputError: When there are no questions whose answer is none of their own words.
        InputError: When there are not as many categories as questions.

    Example:
        >>> from embedworks.evaluation import EncoderSystem, Resampling
        >>> class Parts:
        ...     def encode(self, texts):
        ...         return np.array(
        ...             [[t[0] == "m", t[0] == "w", len(t) == 1, len(t) == 2] for t in texts], float
        ...         )
        >>> task = AnalogyTask("toy", [("m", "w", "mm", "ww"), ("mm", "m", "ww", "w")])
        >>> task.run(EncoderSystem(Parts(), name="parts"), Resampling()).main.interval.mean
        1.0
    """

    kind = "word"
    metric = "3cosadd"

    def __init__(
        self,
        name: str,
        questions: Sequence[tuple[str, str, str, str]],
        *,
        vocabulary: Sequence[str] = (),
        categories: Sequence[str] | None = None,
        instruction: str | None = None,
    ) -> None:
        check_texts([word for question in questions for word in question], name="questions")
        if categories is not None and len(categories) != len(questions):
            raise InputError(
                f"Task {name!r} has {len(questions)} questions and {len(categories)} categories: "
                "one each is needed."
            )
        kept = [row for row, (a, b, c, d) in enumerate(questions) if d not in (a, b, c)]
        if not kept:
            raise EmptyInputError(
                f"Task {name!r}: {len(questions)} questions, none with an answer that is not one "
                "of its own words."
            )
        self.name = name
        self.questions = [tuple(questions[row]) for row in kept]
        self.categories = [categories[row] for row in kept] if categories is not None else None
        self.vocabulary = check_texts(vocabulary, name="vocabulary")
        self.instruction = instruction
        dropped = len(questions) - len(kept)
        self._dropped = {"questions answered by one of their own words": dropped} if dropped else {}

    def texts(self) -> list[str]:
        """Return the texts the task uses."""
        return [word for question in self.questions for word in question]

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Answer the questions.

        Raises:
            InputError: When the system knows all words of no question.
        """
        words = encode_words(
            system, [*(w for q in self.questions for w in q), *self.vocabulary], self.instruction
        )
        asked = np.array([[words.place[word] for word in q] for q in self.questions])
        rows = np.flatnonzero(words.known[asked].all(axis=1))
        if not len(rows):
            raise InputError(
                f"{system.name} knows all four words of none of the {len(asked)} questions of "
                f"{self.name!r}."
            )
        added, multiplied = _answer(words, asked[rows])
        hits = added == asked[rows, 3]
        everything = np.zeros(len(asked))
        everything[rows] = hits
        unknown = len(asked) - len(rows)
        excluded = {
            **self._dropped,
            **({"questions with unknown words": unknown} if unknown else {}),
        }
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores={
                "3cosadd": Score.of_values(hits.astype(np.float64), resampling),
                "3cosmul": Score.of_values(
                    (multiplied == asked[rows, 3]).astype(np.float64), resampling
                ),
                "3cosadd-all": Score.of_values(everything, resampling),
            },
            items=tuple(str(row) for row in rows.tolist()),
            excluded=excluded,
            failures=self._failures(rows[~hits], words, asked),
            details={
                "questions": len(asked),
                "answered": len(rows),
                "chance": 1 / max(1, int(words.known.sum()) - 3),
                "of_category": self._of_category(rows, hits),
                **words.coverage(),
                "instruction": self.instruction,
            },
        )

    def _of_category(self, rows: np.ndarray, hits: np.ndarray) -> dict[str, Any]:
        """Return category -> questions answered and share right."""
        if self.categories is None:
            return {}
        of: dict[str, list[bool]] = {}
        for row, hit in zip(rows.tolist(), hits.tolist(), strict=True):
            of.setdefault(self.categories[row], []).append(hit)
        return {
            category: {"questions": len(values), "3cosadd": float(np.mean(values))}
            for category, values in sorted(of.items())
        }

    def _failures(
        self, rows: np.ndarray, words: KnownWords, asked: np.ndarray, count: int = 10
    ) -> tuple[Failure, ...]:
        """Return wrongly answered questions, spread over all of ``rows``."""
        names = list(words.place)
        failures = []
        for row in rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)].tolist():
            a, b, c, d = self.questions[row]
            first, second, third = words.vectors[asked[row, :3]]
            scores = words.vectors @ (second - first + third)
            scores[~words.known] = -np.inf
            scores[asked[row, :3]] = -np.inf
            best = [i for i in np.argsort(-scores)[:3].tolist() if np.isfinite(scores[i])]
            failures.append(
                Failure(
                    item=str(row),
                    text=f"{a} : {b} = {c} : ?",
                    score=0.0,
                    expected=(d,),
                    found=tuple(names[i] for i in best),
                )
            )
        return tuple(failures)


def _answer(words: KnownWords, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the answers by 3CosAdd and by 3CosMul, rows of words (Q,)."""
    needed, codes = np.unique(asked[:, :3], return_inverse=True)
    codes = codes.reshape(-1, 3)
    cosines = words.vectors[needed] @ words.vectors.T
    moved = (cosines + 1) / 2
    added = np.empty(len(asked), dtype=np.int64)
    multiplied = np.empty_like(added)
    step = max(1, _BLOCK // len(words.known))
    for start in range(0, len(asked), step):
        part = slice(start, start + step)
        a, b, c = codes[part].T
        own = asked[part, :3]
        line = np.arange(len(own))[:, None]
        sums = cosines[b] - cosines[a] + cosines[c]
        products = moved[b] * moved[c] / (moved[a] + _SMALL)
        for scores in (sums, products):
            scores[:, ~words.known] = -np.inf
            scores[line, own] = -np.inf
        added[part], multiplied[part] = sums.argmax(axis=1), products.argmax(axis=1)
    return added, multiplied


class WordCategoryTask:
    """Words of given categories, clustered by their vectors: purity, V-measure, adjusted Rand.

    Clusters are made as in `embedworks.evaluation.ClusteringTask`, with as many clusters as
    categories. Words of several categories, unknown words, and words left alone in their category
    are left out and counted.

    Args:
        name: Name for tables.
        members: Category -> its words.
        seeds: Seeds of the clusterings; figures are their means.
        instruction: What the task is, for systems that read instructions.

    Raises:
        EmptyInputError: When there are no words or seeds.
        DuplicateIdError: When a word stands twice in one category.
        InputError: When fewer than two categories have two words of their own.

    Example:
        >>> from embedworks.evaluation import EncoderSystem, Resampling
        >>> class Letters:
        ...     def encode(self, texts):
        ...         return np.array([[t.count("a"), t.count("o") + len(t) / 99] for t in texts])
        >>> task = WordCategoryTask("toy", {"a": ["cat", "rat"], "o": ["dog", "frogs"]})
        >>> task.run(EncoderSystem(Letters(), name="letters"), Resampling()).main.interval.mean
        1.0
    """

    kind = "word"
    metric = "purity"

    def __init__(
        self,
        name: str,
        members: Mapping[str, Sequence[str]],
        *,
        seeds: Sequence[int] = (0, 1, 2),
        instruction: str | None = None,
    ) -> None:
        of_word: dict[str, list[str]] = {}
        for category, words in members.items():
            check_unique(check_texts(words, name=f"words of {category!r}"), name=category)
            for word in words:
                of_word.setdefault(word, []).append(category)
        if not of_word or not len(seeds):
            raise EmptyInputError(f"Task {name!r} has {len(of_word)} words, {len(seeds)} seeds.")
        self.name = name
        self.seeds = tuple(seeds)
        self.instruction = instruction
        self._category = {word: of[0] for word, of in of_word.items() if len(of) == 1}
        self._several = len(of_word) - len(self._category)
        if len(_not_alone(self._category, list(self._category))[1]) < 2:
            raise InputError(
                f"Task {name!r}: fewer than two of its {len(members)} categories have two words "
                "of their own."
            )

    def texts(self) -> list[str]:
        """Return the texts the task uses."""
        return list(self._category)

    def run(self, system: System, resampling: Resampling) -> TaskResult:
        """Cluster the words the system knows.

        Raises:
            InputError: When the known words make fewer than two categories, or have fewer
                different vectors than there are categories.
        """
        words = encode_words(system, list(self._category), self.instruction)
        known = [word for word, row in words.place.items() if words.known[row]]
        kept, categories = _not_alone(self._category, known)
        if len(categories) < 2:
            raise InputError(
                f"{system.name} knows {len(known)} of the {len(words.known)} words of "
                f"{self.name!r}, which make {len(categories)} categories of two words or more; "
                "two are needed."
            )
        place = {category: code for code, category in enumerate(categories)}
        truth = np.array([place[self._category[word]] for word in kept])
        vectors = words.vectors[[words.place[word] for word in kept]]
        found = clusters_of(system, vectors, len(categories), self.seeds, name=self.name)
        counts = {
            "words of several categories": self._several,
            "unknown words": len(words.known) - len(known),
            "words alone in their category": len(known) - len(kept),
        }
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores=agreement_scores(truth, found, resampling),
            excluded={reason: count for reason, count in counts.items() if count},
            failures=cluster_failures(kept, [self._category[word] for word in kept], found[0]),
            details={
                "categories": len(categories),
                "clustered_words": len(kept),
                "seeds": list(self.seeds),
                **words.coverage(),
                "instruction": self.instruction,
            },
        )


def _not_alone(category: Mapping[str, str], words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words whose category has two of ``words``, and these categories, sorted."""
    sizes: dict[str, int] = {}
    for word in words:
        sizes[category[word]] = sizes.get(category[word], 0) + 1
    kept = [word for word in words if sizes[category[word]] > 1]
    return kept, sorted({category[word] for word in kept})
