"""The templates of the generated reasoning sets; each draws one question with its answers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

__all__ = ["INSTRUCTIONS", "coreference", "months", "spatial", "sums"]

#: Set -> what the task is.
INSTRUCTIONS = {
    "months": "Given a question about dates, find the month and year that answer it.",
    "spatial": "Given a description of things in a row, find the thing that is asked for.",
    "coreference": "Given a sentence with a gap, find what belongs there.",
    "sums": "Given a word problem, find the number that answers it.",
}

Draft = tuple[str, str, list[str]]

_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
_SIZES = ("small", "large", "tall", "flat")
_COLOURS = ("red", "blue", "green", "yellow", "black", "white", "grey", "brown", "pink", "orange")
_SHAPES = (
    "cube", "ball", "cone", "ring", "star", "brick", "tile", "disc", "bottle", "lamp", "book",
    "vase",
)  # fmt: skip
_PEOPLE = (
    "Ada", "Bela", "Carlo", "Dina", "Emil", "Farah", "Goran", "Hana", "Ivo", "Jana", "Kofi",
    "Lena", "Milo", "Nora", "Omar", "Petra", "Quentin", "Rosa", "Sven", "Tara", "Ugo", "Vera",
    "Wim", "Xenia", "Yusuf", "Zora", "Anton", "Britta", "Cyril", "Dalia", "Elif", "Felix",
    "Greta", "Hugo", "Ines", "Jonas", "Karin", "Luca", "Mara", "Nils", "Olga", "Pavel", "Rita",
    "Samir", "Tilda", "Uma", "Viktor", "Wanda", "Yara", "Zeno",
)  # fmt: skip
_THINGS = (
    "apples", "marbles", "stamps", "pencils", "coins", "shells", "books", "cards", "beads",
    "stickers", "nails", "eggs", "cups", "tickets", "bricks", "seeds",
)  # fmt: skip
_INSIDE = (
    "trophy", "statue", "violin", "telescope", "kettle", "globe", "clock", "puppet", "helmet",
    "guitar", "camera", "toaster", "painting", "drum", "printer", "carpet",
)  # fmt: skip
_OUTSIDE = (
    "suitcase", "box", "drawer", "cupboard", "crate", "bag", "locker", "chest", "basket", "trunk",
    "backpack", "wardrobe", "van", "shelf", "barrel", "sack",
)  # fmt: skip

#: (sentence up to the cause, cause that means the first, cause that means the second, kind).
_COREFERENCE = (
    ("The {a} does not fit into the {b} because the _ is too {c}.", "big", "small", "things"),
    ("The {a} fell through the bottom of the {b} because the _ was too {c}.",
     "heavy", "flimsy", "things"),
    ("The {a} slid about inside the {b} because the _ was so {c}.", "tiny", "roomy", "things"),
    ("The {a} could not be pushed into the {b} because the _ was already {c}.",
     "unfolded", "full", "things"),
    ("{a} lent money to {b} because _ was {c}.", "rich", "broke", "people"),
    ("{a} beat {b} in the race because _ was {c}.", "faster", "slower", "people"),
    ("{a} asked {b} for the way because _ was {c}.", "lost", "a local", "people"),
    ("{a} carried the bags of {b} because _ was {c}.", "strong", "exhausted", "people"),
    ("{a} taught {b} to swim because _ was a {c}.", "coach", "beginner", "people"),
    ("{a} apologised to {b} because _ had been {c}.", "rude", "insulted", "people"),
    ("{a} visited {b} in hospital because _ was {c}.", "worried", "ill", "people"),
    ("{a} hired {b} because _ needed {c}.", "staff", "work", "people"),
    ("{a} could not hear {b} because _ was {c}.", "deaf", "whispering", "people"),
    ("{a} thanked {b} because _ had been {c}.", "rescued", "helpful", "people"),
)  # fmt: skip


def _draw(rng: np.random.Generator, items: Sequence[str], count: int = 1) -> list[str]:
    return [items[i] for i in rng.choice(len(items), count, replace=False).tolist()]


def _number(rng: np.random.Generator, low: int, high: int) -> int:
    return int(rng.integers(low, high))


def months(rng: np.random.Generator) -> Draft:
    """Draw a month, a distance and a direction."""
    start = 12 * _number(rng, 1950, 2040) + _number(rng, 0, 12)
    step = _number(rng, 2, 30)
    forward = bool(rng.integers(2))

    def spelled(count: int) -> str:
        return f"{_MONTHS[count % 12]} {count // 12}"

    right = start + step if forward else start - step
    slips = [right + 1, right - 1, 2 * start - right, right + 12, right - 12, start]
    direction = "after" if forward else "before"
    form = ("Which month is {n} months {d} {m}?", "What is {n} months {d} {m}?",
            "It is {m}. Which month was or will it be {n} months {e}?")  # fmt: skip
    question = form[_number(rng, 0, len(form))].format(
        n=_NUMBERS[step - 2] if step < 12 else step,
        d=direction,
        e="later" if forward else "earlier",
        m=spelled(start),
    )
    wrong = [spelled(slips[i]) for i in rng.permutation(len(slips)).tolist()]
    return question, spelled(right), wrong


def spatial(rng: np.random.Generator) -> Draft:
    """Draw things in a row, tell neighbours in any order, and ask for a place."""
    count = _number(rng, 3, 6)
    colours, shapes = _draw(rng, _COLOURS, count), _draw(rng, _SHAPES, count)
    row = [
        f"the {_SIZES[_number(rng, 0, len(_SIZES))]} {colour} {shape}"
        for colour, shape in zip(colours, shapes, strict=True)
    ]
    told = []
    for left, right in itertools.pairwise(row):
        first = bool(rng.integers(2))
        told.append(
            f"{left} is just left of {right}" if first else f"{right} is just right of {left}"
        )
    text = ". ".join(told[i].capitalize() for i in rng.permutation(len(told)).tolist())
    kind = _number(rng, 0, 4)
    if kind == 0:
        question, answer = "What is furthest left?", 0
    elif kind == 1:
        question, answer = "What is furthest right?", count - 1
    elif kind == 2:
        answer = _number(rng, 0, count - 1)
        question = f"What is just left of {row[answer + 1]}?"
    else:
        answer = _number(rng, 2, count)
        question = f"What is two places to the right of {row[answer - 2]}?"
    wrong = [row[i] for i in rng.permutation(count).tolist() if i != answer]
    return f"{text}. {question}", row[answer], wrong


def coreference(rng: np.random.Generator) -> Draft:
    """Draw a sentence whose last words decide which of two is meant."""
    text, of_first, of_second, kind = _COREFERENCE[_number(rng, 0, len(_COREFERENCE))]
    if kind == "things":
        first, second = _draw(rng, _INSIDE)[0], _draw(rng, _OUTSIDE)[0]
    else:
        first, second = _draw(rng, _PEOPLE, 2)
    means_first = bool(rng.integers(2))
    question = text.format(a=first, b=second, c=of_first if means_first else of_second)
    return question, first if means_first else second, [second if means_first else first]


def sums(rng: np.random.Generator) -> Draft:
    """Draw a word problem of two or three steps."""
    name, other = _draw(rng, _PEOPLE, 2)
    thing = _draw(rng, _THINGS)[0]
    a, b, c = _number(rng, 12, 90), _number(rng, 3, 12), _number(rng, 2, 10)
    kind = _number(rng, 0, 4)
    if kind == 0:
        text = (f"{name} has {a} {thing} and buys {b} boxes of {c} {thing} each. "
                f"How many {thing} does {name} have now?")  # fmt: skip
        right, slips = a + b * c, [a + b + c, (a + b) * c, b * c, a - b * c, a + b]
    elif kind == 1:
        text = (f"{name} has {a * c} {thing} and shares them equally among {c} friends. One "
                f"of them, {other}, had {b} before. How many does {other} have now?")  # fmt: skip
        right, slips = a + b, [a, a * c + b, a - b, a * c - b, a + c]
    elif kind == 2:
        text = (f"{name} has {a} {thing}, which is {b} more than {other} has. How many {thing} do "
                "they have together?")  # fmt: skip
        right, slips = 2 * a - b, [2 * a + b, a + b, a - b, a, 2 * a]
    else:
        text = (f"{name} has {a + b + c} {thing}, loses {b} of them and gives {c} to {other}. How "
                f"many {thing} does {name} have left?")  # fmt: skip
        right, slips = a, [a + b, a + c, a + b + c, a + 2 * b, a - b]
    wrong = [str(slips[i]) for i in rng.permutation(len(slips)).tolist() if slips[i] > 0]
    return text, str(right), wrong
