"""Checks of generated texts: script, length, copying, numbers. Knows texts only."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import NamedTuple

from embedworks.data._words import words_of

__all__ = [
    "Problem",
    "copied",
    "empty",
    "first_problem",
    "length",
    "main_script",
    "ngram_overlap",
    "normalized",
    "not_equal",
    "numbers_kept",
    "numbers_of",
    "same_script",
]

_SAMPLE_CHARS = 4_000
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
#: Scripts written without spaces: overlap is measured on characters.
_UNSPACED = frozenset({"HAN", "JAPANESE", "THAI", "LAO", "KHMER", "MYANMAR"})


class Problem(NamedTuple):
    """Why an answer is not used: a short name to count by, and a sentence for the generator."""

    reason: str
    message: str


def first_problem(*problems: Problem | None) -> Problem | None:
    """Return the first problem there is."""
    return next((problem for problem in problems if problem is not None), None)


def normalized(text: str) -> str:
    """Return the words of a text, to compare texts without case, spaces and punctuation.

    Example:
        >>> normalized("Boil  the WATER!") == normalized("boil the water")
        True
    """
    folded = unicodedata.normalize("NFKC", text)
    return " ".join(words_of(folded)) or " ".join(folded.split())


def main_script(text: str) -> str | None:
    """Return the script most letters of a text belong to, or None without letters.

    Chinese characters beside kana count as Japanese.

    Example:
        >>> main_script("Boil the water"), main_script("Вода кипит"), main_script("お湯を沸かす")
        ('LATIN', 'CYRILLIC', 'JAPANESE')
    """
    counts: Counter[str] = Counter()
    for letter in text[:_SAMPLE_CHARS]:
        if letter.isascii():
            if letter.isalpha():
                counts["LATIN"] += 1
        elif letter.isalpha():
            counts[_script(letter)] += 1
    if not counts:
        return None
    kana = counts.pop("KANA", 0)
    if kana:
        counts["JAPANESE"] = kana + counts.pop("HAN", 0)
    return max(counts, key=lambda name: (counts[name], name))


def _script(letter: str) -> str:
    name = unicodedata.name(letter, "OTHER").split(" ", 1)[0]
    if name.startswith("CJK"):
        return "HAN"
    return "KANA" if name in ("HIRAGANA", "KATAKANA", "HALFWIDTH", "KATAKANA-HIRAGANA") else name


def numbers_of(text: str) -> Counter[str]:
    """Return the numbers of a text with their counts."""
    return Counter(_NUMBER.findall(text))


def ngram_overlap(text: str, seed: str, n: int = 4) -> float:
    """Return which share of a text's n-grams of words stand in the seed too, 0 to 1.

    Characters take the place of words in scripts written without spaces. A text shorter than
    ``n`` is one n-gram.

    Example:
        >>> ngram_overlap("boil the water in a pot", "in a pot, boil the water", n=3)
        0.5
    """
    own, other = _grams(text, n), _grams(seed, n)
    return len(own & other) / len(own) if own else 0.0


def _grams(text: str, n: int) -> set[tuple[str, ...]]:
    units = normalized(text).split()
    if main_script(text) in _UNSPACED:
        units = list("".join(units))
    if 0 < len(units) < n:
        return {tuple(units)}
    return {tuple(units[i : i + n]) for i in range(len(units) - n + 1)}


def empty(name: str, text: str, *, max_chars: int = 20_000) -> Problem | None:
    """Refuse a text without words, or longer than ``max_chars``."""
    if not re.search(r"\w", text):
        return Problem("empty", f"{name} is empty.")
    if len(text) > max_chars:
        return Problem("length", f"{name} has {len(text)} characters, at most {max_chars} are.")
    return None


def same_script(name: str, text: str, seed: str) -> Problem | None:
    """Refuse another script than the seed's, the sign of another language."""
    wanted, got = main_script(seed), main_script(text)
    if wanted is None or wanted == got or {wanted, got} == {"HAN", "JAPANESE"}:
        return None
    return Problem("language", f"{name} must stay in the language of the input.")


def length(
    name: str, text: str, seed: str, *, low: float = 0.5, high: float = 2.0
) -> Problem | None:
    """Refuse a length outside ``low`` to ``high`` times the seed's; short seeds have slack."""
    ratio, slack = len(text) / max(1, len(seed)), 30 / max(1, len(seed))
    if low - slack <= ratio <= high + slack:
        return None
    return Problem(
        "length",
        f"{name} is {ratio:.1f} times as long as its model; {low:g} to {high:g} times is allowed.",
    )


def not_equal(name: str, text: str, **others: str) -> Problem | None:
    """Refuse a text that is equal to one of the others, case and punctuation aside."""
    own = normalized(text)
    for other, value in others.items():
        if own == normalized(value):
            return Problem("equal to the seed", f"{name} must differ from the {other}.")
    return None


def copied(name: str, text: str, seed: str, bound: float) -> Problem | None:
    """Refuse a text that shares more than ``bound`` of its 4-grams with the seed."""
    share = ngram_overlap(text, seed)
    if share <= bound:
        return None
    return Problem(
        "copies the seed",
        f"{name} repeats {share:.0%} of the input word for word; at most {bound:.0%} is allowed. "
        "Change the structure of the sentences.",
    )


def numbers_kept(name: str, text: str, seed: str) -> Problem | None:
    """Refuse a text with other numbers than the seed's."""
    own, other = set(numbers_of(text)), set(numbers_of(seed))
    if own == other:
        return None
    changed = ", ".join(sorted(own ^ other)[:5])
    return Problem("numbers changed", f"{name} must hold the numbers of the input: {changed}.")
