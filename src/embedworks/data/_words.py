"""Words of texts and of identifiers."""

from __future__ import annotations

import re

__all__ = ["name_words", "word_list", "words_of"]

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def word_list(text: str) -> frozenset[str]:
    """Return the white-space separated entries of a constant as a set.

    Example:
        >>> sorted(word_list("tea milk"))
        ['milk', 'tea']
    """
    return frozenset(text.split())


def words_of(text: str) -> list[str]:
    """Return the lower-case words of a text; identifiers fall apart at underscores.

    Example:
        >>> words_of("The parse_qs() of a query-string")
        ['the', 'parse', 'qs', 'of', 'a', 'query-string']
    """
    return _WORD.findall(text.lower())


def name_words(name: str) -> list[str]:
    """Split an identifier or dotted name into lower-case words.

    Example:
        >>> name_words("http.client.HTTPConnection.set_tunnel")
        ['http', 'client', 'http', 'connection', 'set', 'tunnel']
    """
    return [w.lower() for part in _WORD.findall(name) for w in _CAMEL.split(part)]
