"""How much of a text another text repeats: word F1 and BLEU of single texts."""

from __future__ import annotations

import math
import re
from collections import Counter

__all__ = ["sentence_bleu", "word_f1"]

_TOKEN = re.compile(r"\w+|[^\w\s]")


def word_f1(found: str, wanted: str) -> float:
    """Return F1 of the words of a text, in [0, 1]; a word counts as often as it stands there.

    Case is ignored, punctuation counts as words. Two empty texts agree.

    Example:
        >>> word_f1("a red cat", "The red cat")
        0.666...
    """
    left, right = _counts(found), _counts(wanted)
    total = left.total() + right.total()
    return 2 * (left & right).total() / total if total else 1.0


def sentence_bleu(found: str, wanted: str, *, order: int = 4) -> float:
    """Return the BLEU of one text against one, in [0, 1].

    ``exp(min(0, 1 - r / c)) * (prod p_n) ** (1 / order)`` with the lengths c of what was found and
    r of what was wanted. From n = 2 on, p_n is (matches + 1) / (n-grams + 1), so that a short text
    does not fall to 0 for want of a 4-gram. Case is ignored.

    Args:
        found: The text in question.
        wanted: The text it should be.
        order: Longest n-gram.

    Paper: Papineni et al. 2002; the smoothing is that of Lin and Och 2004 (ORANGE).

    Example:
        >>> sentence_bleu("a red cat", "a red cat")
        1.0
        >>> sentence_bleu("tax law", "a red cat")
        0.0
    """
    left, right = _TOKEN.findall(found.lower()), _TOKEN.findall(wanted.lower())
    if not left or not right:
        return float(left == right)
    logs = 0.0
    for size in range(1, order + 1):
        mine = Counter(tuple(left[i : i + size]) for i in range(len(left) - size + 1))
        theirs = Counter(tuple(right[i : i + size]) for i in range(len(right) - size + 1))
        hits, smooth = (mine & theirs).total(), int(size > 1)
        if not hits + smooth:
            return 0.0
        logs += math.log((hits + smooth) / (mine.total() + smooth))
    return math.exp(min(0.0, 1 - len(right) / len(left)) + logs / order)


def _counts(text: str) -> Counter[str]:
    return Counter(_TOKEN.findall(text.lower()))
