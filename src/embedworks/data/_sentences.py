"""Sentence boundaries: a small rule set, in linear time, without a model."""

from __future__ import annotations

import re

from embedworks.data._words import word_list

__all__ = ["sentences"]

#: A possible end: closing punctuation with what may follow it, or a blank line or list item.
_END = re.compile(
    r"""(?<![.!?…])(?P<stop>[.!?…]++)["'”’»)\]]*+(?=\s|\Z)"""
    r"""|(?P<wide>[。！？｡]+[」』”’）]*)"""
    r"""|(?P<gap>\n[ \t]*(?=\n|[-*+•][ \t]|\d{1,3}[.)][ \t]))"""
)
_ABBREVIATIONS = word_list(
    """
    e.g i.e cf etc vs approx ca fig figs eq eqs sec secs ch chap no nos vol vols pp ed eds
    al dr mr mrs ms prof st jr sr inc ltd co corp dept univ resp est min max dept assoc ref
    refs jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri sat sun u.s
    u.k a.m p.m ph.d b.sc m.sc viz incl excl def op cit ibid
    """
)
#: Abbreviations after which a capital letter does begin a new sentence.
_MAY_END = word_list(
    """
    etc al inc ltd co corp jr sr u.s u.k a.m p.m ph.d
    """
)
#: The first character of what follows, behind opening quotes, brackets and emphasis.
_NEXT = re.compile(r"""\s*["'“‘«(\[*_`]*(\S?)""")
_OPENING = "([\"'“‘«*_`"
_SPACE = re.compile(r"\s*")


def sentences(text: str) -> list[tuple[int, int]]:
    """Find sentences; white space around them belongs to none.

    A full stop ends a sentence when what follows begins one: after a known abbreviation, an
    initial or a number it does not. A stop with a space before it always ends one. In a text
    without capital letters a small letter may begin a sentence. Blank lines and list items
    are boundaries too.

    Returns:
        Spans ``(start, end)`` into ``text``, in order.

    Example:
        >>> text = "See e.g. section 2.1 of it. Then stop."
        >>> [text[a:b] for a, b in sentences(text)]
        ['See e.g. section 2.1 of it.', 'Then stop.']
    """
    sample = text[:20_000]
    small_starts = not any("A" <= c <= "Z" for c in sample) or _is_lower(sample)
    spans: list[tuple[int, int]] = []
    begin = 0
    for match in _END.finditer(text):
        if match["stop"] and not _ends_sentence(text, match, small_starts):
            continue
        _append(text, begin, match.end(), spans)
        begin = match.end()
    _append(text, begin, len(text), spans)
    return spans


def _is_lower(sample: str) -> bool:
    """Whether capitals are too rare to begin sentences (under one in 500 letters)."""
    capitals = sum(c.isupper() for c in sample)
    return capitals * 500 < len(sample)


def _append(text: str, begin: int, end: int, spans: list[tuple[int, int]]) -> None:
    match = _SPACE.match(text, begin, end)
    begin = match.end() if match else begin
    while end > begin and text[end - 1].isspace():
        end -= 1
    if end > begin:
        spans.append((begin, end))


def _ends_sentence(text: str, match: re.Match[str], small_starts: bool) -> bool:
    stop, at = match["stop"], match.start()
    if at == 0:
        return False
    if text[at - 1].isspace():
        # " . " is how some old collections end a sentence; " ..." is an ellipsis.
        return stop == "." or stop[0] in "!?"
    following = _NEXT.match(text, match.end())
    first = following[1] if following else ""
    begins = not first.islower() or small_starts
    if stop != ".":
        return begins if stop[0] in ".…" else True
    before = text[max(0, at - 24) : at].split()
    word = before[-1].lstrip(_OPENING) if before else ""
    folded = word.casefold()
    if folded in _ABBREVIATIONS:
        return not first or (folded in _MAY_END and first.isupper())
    if len(word) == 1 and word.isalpha() and (word.isupper() or small_starts):
        return not first  # an initial
    if word.isdigit() and len(word) <= 3 and _starts_line(text, at - len(word)):
        return not first  # "1. item"
    return begins


def _starts_line(text: str, at: int) -> bool:
    line = text.rfind("\n", max(0, at - 40), at)
    return not text[max(line + 1, at - 40) : at].strip() and (line >= 0 or at < 40)
