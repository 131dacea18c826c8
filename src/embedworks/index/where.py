"""The filter language of every search: parse a ``where`` text, evaluate it over a table.

Knows nothing about vectors or storage: a condition is a small immutable tree, and evaluating
it over an Arrow table gives one boolean per row. Logic with missing values is SQL's: comparing
with a missing value is unknown, ``NOT`` of unknown is unknown, and only true rows match.

Grammar (keywords in any case)::

    condition  = conjunction { OR conjunction }
    conjunction= negation { AND negation }
    negation   = NOT negation | "(" condition ")" | predicate
    predicate  = column ( "=" | "!=" | "<>" | "<" | "<=" | ">" | ">=" ) value
               | column [NOT] IN "(" value { "," value } ")"
               | column [NOT] ( LIKE | ILIKE ) 'pattern'       % any text, _ one character
               | column [NOT] BETWEEN value AND value
               | column IS [NOT] NULL
               | column [NOT] CONTAINS value                     the column holds sets
    column     = name | "any name"
    value      = number | 'text' ('' is a quote) | TRUE | FALSE
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from operator import eq, ge, gt, le, lt, ne
from typing import Any, ClassVar, NoReturn

from embedworks.errors import QuerySyntaxError

__all__ = [
    "And",
    "Between",
    "Compare",
    "Condition",
    "Contains",
    "In",
    "IsNull",
    "Like",
    "Literal",
    "Not",
    "Or",
    "parse_where",
]

Literal = str | int | float | bool

MAX_LENGTH = 1_000_000
MAX_DEPTH = 60
MAX_PREDICATES = 1_000

_KEYWORDS = frozenset(
    ["AND", "BETWEEN", "FALSE", "ILIKE", "IN", "IS", "LIKE", "NOT", "NULL", "OR", "TRUE"]
)
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?!\w))
    | (?P<text>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<word>[^\W\d]\w*)
    | (?P<symbol><>|!=|<=|>=|==|=|<|>|\(|\)|,)
    | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_PLAIN_NAME = re.compile(r"[^\W\d]\w*\Z")


class Condition:
    """Base of all filter conditions; ``str(condition)`` parses back to an equal condition.

    No abstract base class: conditions are told apart for every query, and that costs there.
    """

    def columns(self) -> frozenset[str]:
        """Return the names of the columns the condition reads."""
        raise NotImplementedError


class _Predicate(Condition):
    """A condition on one column."""

    column: str

    def columns(self) -> frozenset[str]:
        return frozenset([self.column])


@dataclass(frozen=True)
class Compare(_Predicate):
    """``column operator value`` with one of ``= != < <= > >=``."""

    column: str
    operator: str
    value: Literal

    FUNCTIONS: ClassVar[dict[str, Callable[[Any, Any], bool]]] = {
        "=": eq,
        "!=": ne,
        "<": lt,
        "<=": le,
        ">": gt,
        ">=": ge,
    }

    def __str__(self) -> str:
        return f"{_name(self.column)} {self.operator} {_literal(self.value)}"


@dataclass(frozen=True)
class In(_Predicate):
    """``column IN (values)``."""

    column: str
    values: tuple[Literal, ...]

    def __str__(self) -> str:
        return f"{_name(self.column)} IN ({', '.join(_literal(v) for v in self.values)})"


@dataclass(frozen=True)
class Like(_Predicate):
    """``column LIKE pattern``: ``%`` is any text, ``_`` one character; a backslash escapes."""

    column: str
    pattern: str
    ignore_case: bool = False

    def __str__(self) -> str:
        word = "ILIKE" if self.ignore_case else "LIKE"
        return f"{_name(self.column)} {word} {_literal(self.pattern)}"


@dataclass(frozen=True)
class Between(_Predicate):
    """``column BETWEEN low AND high``, both ends included."""

    column: str
    low: Literal
    high: Literal

    def __str__(self) -> str:
        return f"{_name(self.column)} BETWEEN {_literal(self.low)} AND {_literal(self.high)}"


@dataclass(frozen=True)
class IsNull(_Predicate):
    """``column IS NULL``: true where the value is missing, never unknown."""

    column: str

    def __str__(self) -> str:
        return f"{_name(self.column)} IS NULL"


@dataclass(frozen=True)
class Contains(_Predicate):
    """``column CONTAINS value``: the set (a list column) has the value among its elements."""

    column: str
    value: Literal

    def __str__(self) -> str:
        return f"{_name(self.column)} CONTAINS {_literal(self.value)}"


@dataclass(frozen=True)
class Not(Condition):
    """Negation; unknown stays unknown."""

    part: Condition

    def columns(self) -> frozenset[str]:
        """Return the columns of the negated part."""
        return self.part.columns()

    def __str__(self) -> str:
        return f"NOT ({self.part})"


class _Joined(Condition):
    """Two or more conditions joined by one keyword."""

    parts: tuple[Condition, ...]
    keyword: ClassVar[str]

    def columns(self) -> frozenset[str]:
        return frozenset().union(*(part.columns() for part in self.parts))

    def __str__(self) -> str:
        texts = (f"({p})" if isinstance(p, _Joined) else str(p) for p in self.parts)
        return f" {self.keyword} ".join(texts)


@dataclass(frozen=True)
class And(_Joined):
    """True where every part is true."""

    parts: tuple[Condition, ...]
    keyword = "AND"
    __str__ = _Joined.__str__


@dataclass(frozen=True)
class Or(_Joined):
    """True where at least one part is true."""

    parts: tuple[Condition, ...]
    keyword = "OR"
    __str__ = _Joined.__str__


def parse_where(text: str) -> Condition:
    """Parse a filter into a condition.

    Raises:
        QuerySyntaxError: With the position and a caret under it when the text is not a
            filter, or when it is longer, deeper or has more predicates than allowed.

    Example:
        >>> parse_where("kind = 'code' AND NOT year < 2020")
        And(parts=(Compare(column='kind', operator='=', value='code'),
        Not(part=Compare(column='year', operator='<', value=2020))))
        >>> str(parse_where("path like 'http%' or path is null"))
        "path LIKE 'http%' OR path IS NULL"
    """
    if not isinstance(text, str):
        raise QuerySyntaxError(f"A filter must be a string, got {type(text).__name__}.")
    if len(text) > MAX_LENGTH:
        raise QuerySyntaxError(
            f"The filter has {len(text):,} characters; at most {MAX_LENGTH:,} are allowed."
        )
    return _Parser(text).parse()


@dataclass(frozen=True)
class _Token:
    kind: str  # number, text, word (a column), keyword, symbol, end
    value: Literal
    position: int


class _Parser:
    """Recursive descent over the tokens of one filter."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[_Token] = []
        self._read_to = 0
        self._next = 0
        self._depth = 0
        self._predicates = 0

    def parse(self) -> Condition:
        """Parse the whole text."""
        if self._peek().kind == "end":
            self._fail(self._peek(), "The filter is empty. Leave it out to match every row")
        condition = self._disjunction()
        token = self._peek()
        if token.kind != "end":
            self._fail(token, f"Expected AND, OR or the end, found {self._show(token)}")
        return condition

    # Each rule of the grammar is one method.

    def _disjunction(self) -> Condition:
        parts = [self._conjunction()]
        while self._take_keyword("OR"):
            parts.append(self._conjunction())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _conjunction(self) -> Condition:
        parts = [self._negation()]
        while self._take_keyword("AND"):
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _negation(self) -> Condition:
        token = self._peek()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(token, f"The filter is nested more than {MAX_DEPTH} levels deep")
        condition: Condition
        if self._take_keyword("NOT"):
            condition = Not(self._negation())
        elif self._take_symbol("("):
            condition = self._disjunction()
            self._expect_symbol(")", "to close the parenthesis")
        else:
            condition = self._predicate()
        self._depth -= 1
        return condition

    def _predicate(self) -> Condition:
        token = self._advance()
        if token.kind != "word":
            hint = ""
            if token.kind in ("text", "number"):
                hint = "; the column comes first, as in year > 2020"
            self._fail(token, f"Expected a column name, found {self._show(token)}{hint}")
        self._predicates += 1
        if self._predicates > MAX_PREDICATES:
            self._fail(
                token, f"The filter has more than {MAX_PREDICATES:,} comparisons: use IN (...)"
            )
        column = str(token.value)
        after = self._advance()
        if after.kind == "symbol" and after.value in ("==", "<>"):
            after = _Token("symbol", {"==": "=", "<>": "!="}[str(after.value)], after.position)
        if after.kind == "symbol" and after.value in Compare.FUNCTIONS:
            return Compare(column, str(after.value), self._value())
        if after.kind == "keyword" and after.value == "IS":
            negated = self._take_keyword("NOT")
            if not self._take_keyword("NULL"):
                self._fail(self._peek(), f"Expected NULL, found {self._show(self._peek())}")
            return Not(IsNull(column)) if negated else IsNull(column)
        negated = after.kind == "keyword" and after.value == "NOT"
        if negated:
            after = self._advance()
        condition = self._keyword_predicate(column, after)
        return Not(condition) if negated else condition

    def _keyword_predicate(self, column: str, token: _Token) -> Condition:
        keyword = token.value if token.kind == "keyword" else None
        if keyword == "IN":
            self._expect_symbol("(", "to open the list of IN")
            values = [self._value()]
            while self._take_symbol(","):
                values.append(self._value())
            self._expect_symbol(")", "to close the list of IN")
            return In(column, tuple(values))
        if keyword in ("LIKE", "ILIKE"):
            pattern = self._advance()
            if pattern.kind != "text":
                self._fail(
                    pattern,
                    f"{keyword} needs a pattern in single quotes, found {self._show(pattern)}",
                )
            return Like(column, str(pattern.value), ignore_case=keyword == "ILIKE")
        if token.kind == "word" and str(token.value).upper() == "CONTAINS":
            return Contains(column, self._value())
        if keyword == "BETWEEN":
            low = self._value()
            if not self._take_keyword("AND"):
                self._fail(self._peek(), f"BETWEEN needs AND, found {self._show(self._peek())}")
            return Between(column, low, self._value())
        self._fail(
            token,
            "Expected an operator (=, !=, <, <=, >, >=, IN, LIKE, ILIKE, BETWEEN, CONTAINS, "
            f"IS NULL) after column {column!r}, found {self._show(token)}",
        )

    def _value(self) -> Literal:
        token = self._advance()
        if token.kind in ("number", "text"):
            return token.value
        if token.kind == "keyword" and token.value in ("TRUE", "FALSE"):
            return token.value == "TRUE"
        hint = ""
        if token.kind == "keyword" and token.value == "NULL":
            hint = "; use IS NULL or IS NOT NULL"
        elif token.kind == "word":
            hint = f"; text goes in single quotes: '{token.value}'"
        self._fail(token, f"Expected a value, found {self._show(token)}{hint}")

    # Tokens.

    def _read_token(self) -> _Token:
        """Read the next token of the text; reading only on demand, a bad start ends early."""
        match = _TOKEN.match(self._text, self._read_to)
        if match is None or match.lastgroup is None:
            position = self._read_to
            while self._text[position].isspace():
                position += 1
            token = _Token("symbol", self._text[position], position)
            quotes = {"'": "This text is", '"': "This column name is"}
            if token.value in quotes:
                self._fail(token, f"{quotes[str(token.value)]} never closed by {token.value}")
            self._fail(token, f"Unexpected character {token.value!r}")
        self._read_to = match.end()
        return self._token(match.lastgroup, match[match.lastgroup], match)

    def _token(self, kind: str, raw: str, match: re.Match[str]) -> _Token:
        position = match.start(kind)
        if kind == "text":
            return _Token("text", raw[1:-1].replace("''", "'"), position)
        if kind == "quoted":
            return _Token("word", raw[1:-1].replace('""', '"'), position)
        if kind == "word" and raw.upper() in _KEYWORDS:
            return _Token("keyword", raw.upper(), position)
        if kind == "number":
            number = _number(raw)
            if number is None:
                self._fail(_Token("number", raw, position), "This number is too large")
            return _Token("number", number, position)
        return _Token(kind, raw, position)

    def _peek(self) -> _Token:
        if self._next == len(self._tokens):
            self._tokens.append(self._read_token())
        return self._tokens[self._next]

    def _advance(self) -> _Token:
        token = self._peek()
        if token.kind != "end":
            self._next += 1
        return token

    def _take_keyword(self, keyword: str) -> bool:
        token = self._peek()
        found = token.kind == "keyword" and token.value == keyword
        self._next += found
        return found

    def _take_symbol(self, symbol: str) -> bool:
        token = self._peek()
        found = token.kind == "symbol" and token.value == symbol
        self._next += found
        return found

    def _expect_symbol(self, symbol: str, purpose: str) -> None:
        if not self._take_symbol(symbol):
            token = self._peek()
            self._fail(token, f"Expected {symbol!r} {purpose}, found {self._show(token)}")

    @staticmethod
    def _show(token: _Token) -> str:
        return "the end" if token.kind == "end" else f"{token.value!r:.40}"

    def _fail(self, token: _Token, problem: str) -> NoReturn:
        start = max(0, token.position - 40)
        line = self._text[start : token.position + 40].replace("\n", " ").replace("\t", " ")
        prefix = "..." if start else ""
        caret = " " * (len(prefix) + token.position - start) + "^"
        raise QuerySyntaxError(
            f"{problem} (position {token.position} of the filter).\n  {prefix}{line}\n  {caret}"
        )


def _number(raw: str) -> int | float | None:
    """Convert a number token; None when it does not fit 64 bits."""
    if re.fullmatch(r"[+-]?\d+", raw):
        integer = int(raw) if len(raw) <= 20 else 2**63
        return integer if -(2**63) <= integer < 2**63 else None
    value = float(raw)
    return value if math.isfinite(value) else None


def _name(column: str) -> str:
    if _PLAIN_NAME.match(column) and column.upper() not in _KEYWORDS:
        return column
    return '"' + column.replace('"', '""') + '"'


def _literal(value: Literal) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)
