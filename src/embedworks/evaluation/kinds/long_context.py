"""Retrieval of long documents: where does a system stop seeing, and how deep does it look?

Documents of one length differ in one short statement at a random place. A system that reads the
whole document finds it at any length and any depth; one that cuts the text off finds it only
where it still reads. The share of texts that were not read to the end is always reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embedworks._core.files import sha256_of_text
from embedworks._core.seeding import generator
from embedworks._core.validation import check_in_range, check_unique
from embedworks.errors import EmptyInputError, InputError
from embedworks.evaluation.kinds.reasoning import ReasoningTask
from embedworks.evaluation.outcomes import Resampling, Score, TaskResult

if TYPE_CHECKING:
    from embedworks.evaluation.systems import Ranks

__all__ = ["LENGTHS", "LengthTask", "LongTask", "needle_task", "passkey_task", "split_by_depth"]

#: Lengths in tokens at which the generated tasks ask, by default.
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)

_WORDS_PER_TOKEN = 0.75
_DEPTHS = 5
_FILLER = (
    "The grass in the park is green and the paths are dry. Clouds go by and the sky stays blue. "
    "The sun is warm and yellow in the afternoon. We walk to the pond and then we walk back. "
    "Nothing else happens and the day goes on. "
)
_FIRST = ("Ada", "Boris", "Clara", "Dmitri", "Esther", "Fabio", "Gudrun", "Hamid", "Irene", "Joao",
          "Katja", "Lars", "Mina", "Noel", "Odile", "Pablo", "Ruth", "Selim", "Tomas",
          "Ursula")  # fmt: skip
_LAST = ("Abbott", "Bergman", "Castro", "Dahl", "Egger", "Fontaine", "Gruber", "Holm", "Ivanova",
         "Jensen", "Keller", "Lindqvist", "Moreau", "Novak", "Okafor", "Petrov", "Quist", "Rossi",
         "Sato", "Tanaka")  # fmt: skip
_PLACES = ("Arnvik", "Belmora", "Cassidale", "Dunhaven", "Eastmere", "Fallowby", "Grenholt",
           "Harrowick", "Ilmstadt", "Jorunna", "Kestrel Bay", "Lowmarsh", "Mirefield", "Norrby",
           "Oakhollow", "Pinecrest", "Quarrow", "Redwater", "Stonegate", "Thornbury")  # fmt: skip
_FACTS = (
    ("The old lighthouse of {p} is painted in {v}.", "What is the colour of the lighthouse of {p}?",
     ("violet", "crimson", "turquoise", "amber", "ivory")),
    ("Bakers in {p} put {v} into their bread.", "What goes into the bread that is baked in {p}?",
     ("walnuts", "saffron", "dried plums", "fennel", "poppy seed")),
    ("The museum of {p} keeps the largest collection of {v}.", "Which things does the museum of "
     "{p} collect?", ("pocket watches", "harpsichords", "butterflies", "meteorites", "sledges")),
    ("Every winter the people of {p} race on {v}.", "How do people in {p} race in winter?",
     ("barrels", "skis made of oak", "tea trays", "frozen canals", "reindeer")),
    ("The first mayor of {p} had been a {v}.", "What did the first mayor of {p} work as?",
     ("beekeeper", "glass blower", "ferryman", "clock maker", "botanist")),
)  # fmt: skip


@dataclass(frozen=True)
class LongTask(ReasoningTask):
    """A retrieval task that knows how deep in its document each query's evidence lies.

    The details of a result have ``by_depth``: the main metric in fifths of the document.

    Args:
        depths: Query id -> where the evidence lies, from 0 (beginning) to 1 (end); empty where it
            is not known.
    """

    depths: Mapping[str, float] = field(default_factory=dict)

    def score(self, run: Mapping[str, Mapping[str, float]], resampling: Resampling) -> TaskResult:
        """Score rankings, and add the main metric by depth."""
        result = super().score(run, resampling)
        if not self.depths:
            return result
        values = dict(zip(result.items, result.main.values, strict=True))
        return replace(
            result, details={**result.details, "by_depth": split_by_depth(values, self.depths)}
        )


@dataclass(frozen=True)
class LengthTask:
    """One task asked at several lengths of the documents.

    Every query of every length is an item, so the main figure is the mean over the lengths. The
    details have ``by_length``: for each, the metrics with intervals, the share of documents that
    were not read to the end, and the chance level.

    Args:
        name: Name for tables.
        parts: Length in tokens -> the task at this length.

    Raises:
        EmptyInputError: When there are no parts.
        InputError: When parts have different metrics or numbers of queries.

    Example:
        >>> from embedworks.evaluation import LexicalSystem
        >>> task = passkey_task((64,), queries=4, documents=8)
        >>> task.run(LexicalSystem(), Resampling()).main.interval.mean
        1.0
    """

    name: str
    parts: Mapping[int, LongTask]

    kind = "retrieval"

    def __post_init__(self) -> None:
        if not self.parts:
            raise EmptyInputError(f"Task {self.name!r} has no lengths.")
        if len({part.metrics for part in self.parts.values()}) > 1:
            raise InputError(f"Task {self.name!r}: all lengths need the same metrics.")
        if len({len(part.judged_queries) for part in self.parts.values()}) > 1:
            raise InputError(f"Task {self.name!r}: all lengths need as many queries.")

    @property
    def metric(self) -> str:
        """The main metric."""
        return next(iter(self.parts.values())).metric

    @property
    def instruction(self) -> str | None:
        """What the task is, for systems that read instructions."""
        return next(iter(self.parts.values())).instruction

    def run(self, system: Ranks, resampling: Resampling) -> TaskResult:
        """Ask at every length."""
        results = {length: part.run(system, resampling) for length, part in self.parts.items()}
        first = next(iter(results.values()))
        items = [f"{length}/{item}" for length, r in results.items() for item in r.items]
        values = {
            metric: [v for r in results.values() for v in r.scores[metric].values]
            for metric in first.scores
        }
        depths = {
            f"{length}/{query}": depth
            for length, part in self.parts.items()
            for query, depth in part.depths.items()
        }
        by_length = {
            str(length): {
                **{metric: s.interval.to_dict() for metric, s in result.scores.items()},
                "truncated_texts": result.details["truncated_texts"],
                "texts": len(self.parts[length].corpus) + len(self.parts[length].queries),
                "chance": result.details["chance"],
            }
            for length, result in results.items()
        }
        main = dict(zip(items, values[self.metric], strict=True))
        worst = sorted(
            (failure for result in results.values() for failure in result.failures),
            key=lambda failure: failure.score,
        )
        details: dict[str, Any] = {
            "documents": sum(len(part.corpus) for part in self.parts.values()),
            "instruction": self.instruction,
            "by_length": by_length,
            "truncated_texts": sum(r.details["truncated_texts"] for r in results.values()),
            "words_per_token": _WORDS_PER_TOKEN,
        }
        if depths:
            details["by_depth"] = split_by_depth(main, depths)
        return TaskResult(
            task=self.name,
            kind=self.kind,
            metric=self.metric,
            scores={m: Score.of_values(column, resampling) for m, column in values.items()},
            items=tuple(items),
            failures=tuple(worst[:10]),
            details=details,
        )


def split_by_depth(
    values: Mapping[str, float], depths: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Return the mean value in fifths of the document: ``"0-20%"`` -> mean and number.

    Example:
        >>> split_by_depth({"a": 1.0, "b": 0.0}, {"a": 0.1, "b": 0.95})
        {'0-20%': {'mean': 1.0, 'n': 1}, '80-100%': {'mean': 0.0, 'n': 1}}
    """
    groups: dict[int, list[float]] = {}
    for item, value in values.items():
        if item in depths:
            groups.setdefault(min(_DEPTHS - 1, int(depths[item] * _DEPTHS)), []).append(value)
    width = 100 // _DEPTHS
    return {
        f"{place * width}-{(place + 1) * width}%": {
            "mean": float(np.mean(groups[place])),
            "n": len(groups[place]),
        }
        for place in sorted(groups)
    }


def passkey_task(
    lengths: Sequence[int] = LENGTHS,
    *,
    queries: int = 50,
    documents: int = 100,
    seed: int = 0,
    name: str = "passkey",
) -> LengthTask:
    """Make documents of one repeated filler, each with one person's pass key at some place.

    The query asks for a person's key; documents of one length differ only in person, key and
    place, so everything depends on reading that place.

    Args:
        lengths: Lengths in tokens; a document has 0.75 words for each and never more.
        queries: Queries at each length.
        documents: Documents at each length, shared by its queries; at most 400.
        seed: Seed of places, names and keys.
        name: Name of the task.

    Raises:
        InputError: When there are more queries than documents, or a length has no room.

    Paper: after Zhu et al. 2024, arXiv 2404.12096.

    Example:
        >>> part = passkey_task((64,), queries=2, documents=3).parts[64]
        >>> max(len(text.split()) for text in part.corpus.values()) <= 48
        True
    """
    people = [f"{first} {last}" for first in _FIRST for last in _LAST]
    check_in_range(documents, name="documents", low=2, high=len(people))

    def statements(rng: np.random.Generator) -> list[tuple[str, str]]:
        chosen = rng.choice(len(people), documents, replace=False).tolist()
        keys = rng.choice(np.arange(10_000, 100_000), documents, replace=False).tolist()
        return [
            (f"What is the pass key of {people[i]}?",
             f"The pass key of {people[i]} is {key}. Remember it: {key} is that pass key.")
            for i, key in zip(chosen, keys, strict=True)
        ]  # fmt: skip

    return _planted(name, lengths, queries, statements, [_FILLER.split()], seed)


def needle_task(
    essays: Sequence[str],
    lengths: Sequence[int] = LENGTHS,
    *,
    queries: int = 50,
    documents: int = 100,
    seed: int = 0,
    name: str = "needle",
) -> LengthTask:
    """Make documents out of real prose, each with one strange fact at some place.

    Args:
        essays: Prose to cut documents from; short ones are joined.
        lengths: Lengths in tokens; a document has 0.75 words for each and never more.
        queries: Queries at each length.
        documents: Documents at each length, shared by its queries; at most 100.
        seed: Seed of facts, cuts and places.
        name: Name of the task.

    Raises:
        EmptyInputError: When the essays have no words.
        InputError: When there are more queries than documents, or a length has no room.

    Paper: after Zhu et al. 2024, arXiv 2404.12096, which uses essays that are not free.

    Example:
        >>> task = needle_task(["One two three. " * 50], (64,), queries=2, documents=3)
        >>> task.metric
        'success@1'
    """
    facts = [
        (question.format(p=place), statement.format(p=place, v=values[number % len(values)]))
        for statement, question, values in _FACTS
        for number, place in enumerate(_PLACES)
    ]
    check_in_range(documents, name="documents", low=2, high=len(facts))
    words = [essay.split() for essay in essays if essay.strip()]
    if not words:
        raise EmptyInputError(f"Task {name!r}: the essays have no words.")

    def statements(rng: np.random.Generator) -> list[tuple[str, str]]:
        return [facts[i] for i in rng.choice(len(facts), documents, replace=False).tolist()]

    return _planted(name, lengths, queries, statements, words, seed)


def _planted(
    name: str,
    lengths: Sequence[int],
    queries: int,
    statements: Callable[[np.random.Generator], list[tuple[str, str]]],
    filler: Sequence[Sequence[str]],
    seed: int,
) -> LengthTask:
    """Put each statement at a random place of a document; ask for the first ``queries``."""
    if not lengths:
        raise EmptyInputError(f"Task {name!r} has no lengths.")
    check_unique([str(length) for length in lengths], name=f"lengths of {name!r}")
    joined = [word for essay in filler for word in essay]
    parts = {}
    for length in lengths:
        rng = generator(seed, name, length)
        planted = statements(rng)
        check_in_range(queries, name="queries", low=1, high=len(planted))
        budget = int(length * _WORDS_PER_TOKEN)
        corpus: dict[str, str] = {}
        asked: dict[str, str] = {}
        depths: dict[str, float] = {}
        answers: dict[str, dict[str, int]] = {}
        for number, (question, statement) in enumerate(planted):
            told = statement.split()
            room = budget - len(told)
            if room < 1:
                raise InputError(
                    f"Task {name!r}: {length} tokens ({budget} words) leave no room for a "
                    f"statement of {len(told)} words."
                )
            start = int(rng.integers(len(joined)))
            around = [joined[(start + i) % len(joined)] for i in range(room)]
            place = int(rng.integers(room + 1))
            text = " ".join([*around[:place], *told, *around[place:]])
            # Ids that say nothing of which documents are asked for, where scores are equal.
            doc, query = sha256_of_text(text)[:16], f"q{number}"
            corpus[doc] = text
            if number < queries:
                asked[query], depths[query], answers[query] = question, place / room, {doc: 1}
        parts[length] = LongTask(
            f"{name}-{length}",
            asked,
            corpus,
            answers,
            metrics=("success@1", "ndcg@10"),
            facts={"length": length},
            depths=depths,
        )
    return LengthTask(name, parts)
