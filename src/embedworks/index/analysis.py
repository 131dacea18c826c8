"""Turn text into index terms: lower case, no accents, identifiers split, stems, no stop words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import snowballstemmer

from embedworks._core.registry import did_you_mean
from embedworks._core.validation import check_choice, check_in_range
from embedworks.errors import FormatError

__all__ = ["STOP_WORDS", "Analyzer"]

_STOP_TEXT = """
a an and are as at be been but by can could did do does for from had has have he her his how i if
in into is it its may me more my no not of on or our she should so some such than that the their
them then there these they this those to was we were what when where which who why will with would
you your
"""

#: English words that say how a sentence is built and not what it is about.
STOP_WORDS = frozenset(_STOP_TEXT.split())

_RAW_WORD = re.compile(r"\w+(?:[.'’]\w+)*")
_PARTS = re.compile(r"[^\W_]+")
_CASE_PARTS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+|[^\W_A-Za-z0-9]+")
_CACHE_LIMIT = 1_000_000


@dataclass(frozen=True)
class Analyzer:
    """Text to terms, with a cache per word.

    A dotted, snake_case or camelCase name gives its parts and, as one more term, the whole:
    ``os.path.joinPath`` is found by "path", by "join" and by its full name.

    Attributes:
        stemmer: ``"english"`` (Snowball) or ``"none"``.
        stop_words: Whether to drop `STOP_WORDS`.
        split_identifiers: Whether names are split into parts.
        keep_identifiers: Whether a split name is also kept whole.
        max_word_length: Longer words are cut to this many characters.

    Example:
        >>> Analyzer().terms("The parsers of HTTPServer.do_GET")
        ['parser', 'http', 'server', 'get', 'httpserver.do_get']
        >>> Analyzer(stemmer="none").terms("Café parsers")
        ['cafe', 'parsers']
    """

    stemmer: str = "english"
    stop_words: bool = True
    split_identifiers: bool = True
    keep_identifiers: bool = True
    max_word_length: int = 64
    _cache: dict[str, tuple[str, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _stem: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_choice(self.stemmer, ("english", "none"), name="stemmer")
        check_in_range(self.max_word_length, name="max_word_length", low=1)
        if self.stemmer == "english":
            object.__setattr__(self, "_stem", snowballstemmer.stemmer("english").stemWord)

    def terms(self, text: str) -> list[str]:
        """Return the terms of a text in order, repeats included."""
        found: list[str] = []
        cache = self._cache
        for word in _RAW_WORD.findall(text):
            terms = cache.get(word)
            found.extend(self.word_terms(word) if terms is None else terms)
        return found

    def spans(self, text: str) -> Iterator[tuple[int, int, tuple[str, ...]]]:
        """Yield ``(start, end, terms)`` of every word that has terms, for highlighting."""
        for match in _RAW_WORD.finditer(text):
            terms = self.word_terms(match[0])
            if terms:
                yield match.start(), match.end(), terms

    def word_terms(self, word: str) -> tuple[str, ...]:
        """Return the terms of one raw word, as the regular expression found it."""
        terms = self._cache.get(word)
        if terms is None:
            if len(self._cache) >= _CACHE_LIMIT:
                self._cache.clear()
            terms = tuple(self._analyse(word))
            self._cache[word] = terms
        return terms

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values; `from_dict` reads them back."""
        return {name: getattr(self, name) for name in self._settings()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Analyzer:
        """Make an analyzer from `to_dict` output.

        Raises:
            FormatError: On a setting this version does not have.
        """
        known = cls._settings()
        for name in values:
            if name not in known:
                raise FormatError(f"Unknown analyzer setting {name!r}. {did_you_mean(name, known)}")
        return cls(**values)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_dict, (self.to_dict(),)

    @classmethod
    def _settings(cls) -> list[str]:
        return [name for name in cls.__dataclass_fields__ if not name.startswith("_")]

    def _analyse(self, word: str) -> Iterator[str]:
        if not word.isascii():
            decomposed = unicodedata.normalize("NFKD", word.replace("’", "'"))
            word = "".join(c for c in decomposed if not unicodedata.combining(c))
        if "'" in word:  # possessives and contractions are one word each
            word = re.sub(r"'[sS]\b", "", word).replace("'", "")
        if not self.split_identifiers:
            yield from self._finish(word.strip("_"))
            return
        parts = []
        for piece in _PARTS.findall(word):
            mixed = not (piece.islower() or piece.isdigit() or piece.isupper())
            parts.extend(_CASE_PARTS.findall(piece) if mixed else [piece])
        for part in parts:
            yield from self._finish(part)
        if len(parts) > 1 and self.keep_identifiers:
            yield word.strip("_").casefold()[: self.max_word_length]

    def _finish(self, word: str) -> Iterator[str]:
        term = word.casefold()[: self.max_word_length]
        if term and not (self.stop_words and term in STOP_WORDS):
            yield self._stem(term) if self._stem is not None else term
