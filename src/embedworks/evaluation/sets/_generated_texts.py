"""English sentences made by rules, with what is true of them: for probes and robustness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from embedworks._core.seeding import generator

__all__ = ["Changed", "Labelled", "changed_texts", "labelled_texts"]

T = TypeVar("T")

_PEOPLE = [
    "teacher",
    "doctor",
    "farmer",
    "painter",
    "singer",
    "lawyer",
    "baker",
    "soldier",
    "sailor",
    "gardener",
    "driver",
    "writer",
    "dancer",
    "nurse",
    "judge",
    "hunter",
    "waiter",
    "tailor",
    "miner",
    "pilot",
]
_THINGS = [
    "book",
    "lamp",
    "bottle",
    "basket",
    "ladder",
    "mirror",
    "blanket",
    "hammer",
    "carpet",
    "bicycle",
    "violin",
    "camera",
    "pumpkin",
    "suitcase",
    "umbrella",
    "helmet",
    "candle",
    "bucket",
    "guitar",
    "letter",
]
_PLACES = [
    "garden",
    "kitchen",
    "station",
    "market",
    "library",
    "harbour",
    "castle",
    "forest",
    "museum",
    "village",
]
_QUALITIES = [
    "old",
    "young",
    "tall",
    "quiet",
    "clever",
    "tired",
    "happy",
    "famous",
    "careful",
    "brave",
]
_LOOKS = [
    "red",
    "blue",
    "heavy",
    "small",
    "broken",
    "wooden",
    "expensive",
    "dusty",
    "shiny",
    "green",
]
# present, past
_ACTIONS = (
    ("carries", "carried"), ("finds", "found"), ("paints", "painted"), ("sells", "sold"),
    ("breaks", "broke"), ("cleans", "cleaned"), ("hides", "hid"), ("takes", "took"),
    ("wants", "wanted"), ("brings", "brought"), ("steals", "stole"), ("repairs", "repaired"),
    ("holds", "held"), ("loses", "lost"), ("buys", "bought"), ("lifts", "lifted"),
    ("opens", "opened"), ("throws", "threw"), ("keeps", "kept"), ("moves", "moved"),
)  # fmt: skip
# past, participle: people do these to people
_DEEDS = (
    ("helped", "helped"), ("followed", "followed"), ("visited", "visited"), ("saw", "seen"),
    ("warned", "warned"), ("thanked", "thanked"), ("paid", "paid"), ("called", "called"),
    ("invited", "invited"), ("taught", "taught"), ("chased", "chased"), ("met", "met"),
)  # fmt: skip
_CLAUSES = (
    "before the rain came", "while the others were asleep", "without a word to anyone",
    "after a long and cold winter", "although nobody had asked for it",
    "because the evening was so warm", "as everyone in town had expected",
    "with the help of two neighbours",
)  # fmt: skip
# subject, state, its opposite
_STATES = (
    ("door", "open", "closed"), ("street", "empty", "crowded"), ("soup", "hot", "cold"),
    ("answer", "right", "wrong"), ("road", "safe", "dangerous"), ("room", "clean", "dirty"),
    ("test", "easy", "difficult"), ("shirt", "dry", "wet"), ("knife", "sharp", "blunt"),
    ("story", "true", "false"), ("bridge", "old", "new"), ("bag", "full", "empty"),
    ("light", "bright", "dim"), ("ticket", "cheap", "expensive"), ("box", "heavy", "light"),
    ("dog", "alive", "dead"),
)  # fmt: skip
_NUMBERS = dict(
    zip(
        (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 20, 30, 40, 50, 60, 80, 90),
        [
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "fifteen",
            "twenty",
            "thirty",
            "forty",
            "fifty",
            "sixty",
            "eighty",
            "ninety",
        ],
        strict=True,
    )
)
_COUNTED = (
    "The train leaves in {} minutes.", "The ticket costs {} euros.",
    "We need {} chairs for the meeting.", "The village is {} kilometres away.",
    "She waited for {} days.", "The school has {} classrooms.",
    "He bought {} apples at the market.", "The bridge is {} metres long.",
)  # fmt: skip
_PADDING = (
    "As far as anyone in this town can still remember, and many people here are very old,",
    "It has been said more than once, in the newspaper as well as in the street, that",
    "According to what was written in a long letter that arrived here on Monday morning,",
    "Whatever the others may think of it, and they will certainly think something,",
)
_FILLS = 50  # tries for a text not made before


@dataclass(frozen=True)
class Labelled:
    """A text with a property; texts of one group belong together."""

    text: str
    label: str
    group: str = ""


@dataclass(frozen=True)
class Changed:
    """A text, one that means the same, and one that means something else."""

    text: str
    same: str
    other: str


def labelled_texts(property_: str, count: int, *, seed: int) -> list[Labelled]:
    """Return different texts with labels in equal shares: length, word_content, word_order, tense.

    A text with a swap and one without are different sentences, so none is its partner's copy.
    """
    rng = generator(seed, "labelled texts", property_)
    make = _PROPERTIES[property_]
    rows: dict[str, Labelled] = {}
    for number in range(count):
        for _ in range(_FILLS):
            row = make(rng, number)
            if row.text not in rows:
                rows[row.text] = row
                break
    return list(rows.values())


def changed_texts(change: str, count: int, *, seed: int) -> list[Changed]:
    """Return different texts with both changes: typos, negation, numbers, word_order, length."""
    rng = generator(seed, "changed texts", change)
    make = _CHANGES[change]
    rows: dict[str, Changed] = {}
    for _ in range(count * _FILLS):
        if len(rows) == count:
            break
        row = make(rng)
        rows.setdefault(row.text, row)
    return list(rows.values())


def _one(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _two(rng: np.random.Generator, options: list[str]) -> tuple[str, str]:
    first, second = rng.permutation(len(options))[:2].tolist()
    return options[first], options[second]


def _sentence(rng: np.random.Generator, verb: str, thing: str | None = None) -> str:
    return (
        f"the {_one(rng, _QUALITIES)} {_one(rng, _PEOPLE)} {verb} the {_one(rng, _LOOKS)} "
        f"{thing or _one(rng, _THINGS)} in the {_one(rng, _PLACES)}"
    )


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _length(rng: np.random.Generator, number: int) -> Labelled:
    size = number % 3
    clauses = rng.permutation(len(_CLAUSES))[: 2 * size].tolist()
    words = [_sentence(rng, _one(rng, _ACTIONS)[1]), *(_CLAUSES[i] for i in clauses)]
    return Labelled(_capital(" ".join(words)), ("short", "middle", "long")[size])


def _word_content(rng: np.random.Generator, number: int) -> Labelled:
    thing = _THINGS[number % 10]
    clause = _one(rng, _CLAUSES)
    return Labelled(_capital(f"{_sentence(rng, _one(rng, _ACTIONS)[1], thing)} {clause}"), thing)


def _word_order(rng: np.random.Generator, number: int) -> Labelled:
    words = f"{_sentence(rng, _one(rng, _ACTIONS)[1])} {_one(rng, _CLAUSES)}".split()
    if number % 2 == 0:
        return Labelled(_capital(" ".join(words)), "intact")
    place = int(rng.integers(1, len(words) - 1))
    words[place], words[place + 1] = words[place + 1], words[place]
    return Labelled(_capital(" ".join(words)), "swapped")


def _tense(rng: np.random.Generator, number: int) -> Labelled:
    verb = _one(rng, _ACTIONS)
    tense = number % 2
    return Labelled(_capital(_sentence(rng, verb[tense])), ("present", "past")[tense], verb[0])


_PROPERTIES: dict[str, Callable[[np.random.Generator, int], Labelled]] = {
    "length": _length,
    "word_content": _word_content,
    "word_order": _word_order,
    "tense": _tense,
}


def _typo(rng: np.random.Generator, word: str) -> str:
    """Swap two neighbouring letters inside a word, leave one out, or double one."""
    place = int(rng.integers(1, len(word) - 2))
    kind = int(rng.integers(3))
    if kind == 0 and word[place] != word[place + 1]:
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    if kind == 1:
        return word[:place] + word[place + 1 :]
    return word[:place] + word[place] + word[place:]


def _typos(rng: np.random.Generator) -> Changed:
    thing, another = _two(rng, _THINGS)
    text = _sentence(rng, _one(rng, _ACTIONS)[1], thing)
    words = text.split()
    long = [i for i, word in enumerate(words) if len(word) >= 5]
    for place in rng.permutation(long)[:2].tolist():
        words[place] = _typo(rng, words[place])
    return Changed(
        _capital(text), _capital(" ".join(words)), _capital(text.replace(thing, another))
    )


def _negation(rng: np.random.Generator) -> Changed:
    subject, state, opposite = _one(rng, _STATES)
    place = f"the {subject} in the {_one(rng, _PLACES)}"
    if rng.random() < 0.5:
        state, opposite = opposite, state
    return Changed(
        _capital(f"{place} is {state}"),
        _capital(f"{place} is not {opposite}"),
        _capital(f"{place} is not {state}"),
    )


def _numbers(rng: np.random.Generator) -> Changed:
    frame = _one(rng, _COUNTED)
    first, second = rng.permutation(list(_NUMBERS))[:2].tolist()
    return Changed(frame.format(first), frame.format(_NUMBERS[first]), frame.format(second))


def _order(rng: np.random.Generator) -> Changed:
    one, other = _two(rng, _PEOPLE)
    past, participle = _one(rng, _DEEDS)
    place = f"in the {_one(rng, _PLACES)}"
    return Changed(
        _capital(f"the {one} {past} the {other} {place}"),
        _capital(f"the {other} was {participle} by the {one} {place}"),
        _capital(f"the {other} {past} the {one} {place}"),
    )


def _padded(rng: np.random.Generator) -> Changed:
    thing, another = _two(rng, _THINGS)
    text = _sentence(rng, _one(rng, _ACTIONS)[1], thing)
    return Changed(
        _capital(text),
        _capital(f"{_one(rng, _PADDING)} {text}"),
        _capital(text.replace(thing, another)),
    )


_CHANGES: dict[str, Callable[[np.random.Generator], Changed]] = {
    "typos": _typos,
    "negation": _negation,
    "numbers": _numbers,
    "word_order": _order,
    "length": _padded,
}
