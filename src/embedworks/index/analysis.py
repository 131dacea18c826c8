"""Turn text into index terms: lower case, no accents, identifiers split, stems, no stop words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import snowballstemmer

from embedworks._core.registry import did_you_mean
from embedworks._core.validation import check_choice
from embedworks.errors import FormatError

__all__ = ["STOP_WORDS", "Analyzer"]

_STOP_TEXT = """
a about above after again all also am an and any are as at be because been before being below
between both but by can could did do does doing down during each few for from further had has
have having he her here hers him his how i if in into is it its itself just me more most my no
nor not of off on once only or other our out over own s same she should so some such t than that
the their them then there these they this those through to too under until up very was we were
what when where which while who whom why will with would you your
"""

#: English words that say how a sentence is built and not what it is about.
STOP_WORDS = frozenset(_STOP_TEXT.split())

#: Function words are terms with this mark, which no other term can begin with.
FUNCTION_MARK = "'"

_RAW_WORD = re.compile(r"\w+(?:[.'’]\w+)*")
_PARTS = re.compile(r"[^\W_]+")
_CASE_PARTS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_CACHE_LIMIT = 1_000_000
_LONGEST_TERM = 64


@dataclass(frozen=True)
class Analyzer:
    """Text to terms, with a cache per word.

    A dotted, snake_case or camelCase name gives its parts and, as one more term, the whole:
    ``os.path.joinPath`` is found by "path", by "join" and by its full name. Words longer than
    64 characters are cut.

    Attributes:
        stemmer: ``"english"`` (Snowball) or ``"none"``.
        stop_words: Whether `STOP_WORDS` are function words; they count only in a text that has
            nothing else, such as "to be or not to be".

    Example:
        >>> Analyzer().terms("The parsers of HTTPServer.do_GET")
        ['parser', 'http', 'server', 'get', 'httpserver.do_get']
        >>> Analyzer(stemmer="none").terms("Café parsers")
        ['cafe', 'parsers']
        >>> Analyzer().terms("is not")
        ["'is", "'not"]
    """

    stemmer: str = "english"
    stop_words: bool = True
    _cache: dict[str, tuple[str, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _stem: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_choice(self.stemmer, ("english", "none"), name="stemmer")
        if self.stemmer == "english":
            object.__setattr__(self, "_stem", snowballstemmer.stemmer("english").stemWord)

    def terms(self, text: str) -> list[str]:
        """Return what a text is about: its terms in order, repeats included.

        Function words are left out unless there is nothing else.
        """
        found = self.all_terms(text)
        return [term for term in found if term[0] != FUNCTION_MARK] or found

    def all_terms(self, text: str) -> list[str]:
        """Return all terms of a text in order, function words with their mark."""
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
        parts = []
        for piece in _PARTS.findall(word):
            mixed = piece.isascii() and not (piece.islower() or piece.isdigit() or piece.isupper())
            parts.extend(_CASE_PARTS.findall(piece) if mixed else [piece])
        for part in parts:
            term = part.casefold()[:_LONGEST_TERM]
            if self.stop_words and term in STOP_WORDS:
                yield FUNCTION_MARK + term
            else:
                yield self._stem(term) if self._stem is not None else term
        if len(parts) > 1:
            yield word.strip("_").casefold()[:_LONGEST_TERM]
