"""Few-shot examples: drawing them from a batch, and prefixes inside a token budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from embedworks._core.seeding import generator
from embedworks._core.validation import check_k
from embedworks.data.rows import Row, RowInput, content_key
from embedworks.errors import BudgetError, InputError

__all__ = [
    "Example",
    "FewShotLimits",
    "Formatted",
    "build_prefix",
    "draw_examples",
    "fit_query",
    "leak_key",
]

CountTokens = Callable[[str], int]
Truncate = Callable[[str, int], str]


@dataclass(frozen=True)
class Formatted:
    """A text behind its prefix.

    Attributes:
        text: Prefix and text.
        prefix: Characters ``(start, stop)`` of ``text`` that are prefix.
        truncated: Whether the text was shortened.
        examples_left_out: Few-shot examples for which there was no room.
    """

    text: str
    prefix: tuple[int, int]
    truncated: bool = False
    examples_left_out: int = 0


@dataclass(frozen=True)
class Example:
    """A query of a task and what it should find.

    Args:
        query: The query, without instruction.
        response: A passage, a class name, or another text of the class.

    Example:
        >>> Example("Italy", "Rome").to_dict()
        {'query': 'Italy', 'response': 'Rome'}
    """

    query: str
    response: str

    def __post_init__(self) -> None:
        if not self.query.strip() or not self.response.strip():
            raise InputError(f"an example needs a query and a response, got {self.to_dict()}.")

    def to_dict(self) -> dict[str, str]:
        """Return the example as JSON values."""
        return {"query": self.query, "response": self.response}


@dataclass(frozen=True)
class FewShotLimits:
    """Token budgets of a few-shot query.

    Args:
        query: Most tokens of an example's query.
        response: Most tokens of an example's response.
        total: Most tokens of everything together; leave room for special tokens.
        min_query_tokens: Tokens that examples must leave for the query.

    Raises:
        InputError: When a limit is below 1 or nothing is left for a prefix.

    Example:
        >>> FewShotLimits(total=256, min_query_tokens=64).response
        96
    """

    query: int = 64
    response: int = 96
    total: int = 2048
    min_query_tokens: int = 512

    def __post_init__(self) -> None:
        for limit in (self.query, self.response, self.total, self.min_query_tokens):
            check_k(limit)
        if self.min_query_tokens >= self.total:
            raise InputError(
                f"min_query_tokens={self.min_query_tokens} leaves no room for a prefix in a "
                f"total of {self.total} tokens."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the limits as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _Prefix:
    text: str
    left_out: int


def build_prefix(
    examples: Sequence[Example],
    zero_shot: str,
    marker: str,
    separator: str,
    limits: FewShotLimits,
    count: CountTokens,
    truncate: Truncate | None,
) -> _Prefix:
    """Put examples before the zero-shot prefix as long as enough is left for the query.

    Raises:
        BudgetError: When the instruction alone or with the first example leaves too little.
    """
    budget = limits.total - limits.min_query_tokens
    bare = count(zero_shot)
    if bare > budget:
        raise BudgetError(
            f"the instruction takes {bare} tokens, the budget of a prefix is {budget} "
            f"({limits.total} in all, {limits.min_query_tokens} kept for the query): shorten the "
            "instruction or raise the total."
        )
    shots, used = "", 0
    for example in examples:
        query = _limited(example.query, limits.query, "an example's query", count, truncate)
        response = _limited(
            example.response, limits.response, "an example's response", count, truncate
        )
        longer = shots + zero_shot + query + marker + response + separator
        needed = count(longer + zero_shot)
        if needed > budget:
            if used == 0:
                raise BudgetError(
                    f"no example fits: the instruction takes {bare} tokens and with the first "
                    f"example {needed}, the budget of a prefix is {budget} ({limits.total} in "
                    f"all, {limits.min_query_tokens} kept for the query). Raise the total, lower "
                    "min_query_tokens or the limits of an example, or use no examples."
                )
            break
        shots, used = longer, used + 1
    return _Prefix(shots + zero_shot, len(examples) - used)


def fit_query(
    text: str,
    prefix: _Prefix,
    limits: FewShotLimits,
    count: CountTokens,
    truncate: Truncate | None,
) -> Formatted:
    """Put the query behind the prefix, shortened until all of it fits the total.

    Raises:
        BudgetError: When it does not fit and cannot be shortened.
    """
    shown, room = text, limits.total - count(prefix.text)
    excess = count(prefix.text + shown) - limits.total
    while excess > 0:
        if truncate is None:
            raise BudgetError(
                f"a query has {excess} tokens too many: {count(text)}, and {room} are left of "
                f"{limits.total}. Give `truncate` to have it shortened."
            )
        shown = truncate(text, room)
        excess = count(prefix.text + shown) - limits.total
        room -= max(excess, 0)
        if not shown or room < 1:
            raise BudgetError(
                f"truncate left nothing of a query of {count(text)} tokens; {limits.total} were "
                "allowed in all."
            )
    return Formatted(prefix.text + shown, (0, len(prefix.text)), shown != text, prefix.left_out)


def _limited(
    text: str, limit: int, what: str, count: CountTokens, truncate: Truncate | None
) -> str:
    tokens = count(text)
    if tokens <= limit:
        return text
    if truncate is None:
        raise BudgetError(
            f"{what} has {tokens} tokens, {limit} are allowed. Give `truncate` to shorten it."
        )
    shown = truncate(text, limit)
    if not shown.strip():
        raise BudgetError(f"truncate left nothing of {what} of {tokens} tokens.")
    return shown


def leak_key(text: str) -> str:
    """Return what two queries share when one gives the other away."""
    return " ".join(text.split()).casefold()


def draw_examples(
    rows: Sequence[Row], *, max_examples: int = 5, seed: int = 0, step: int = 0
) -> list[tuple[Example, ...]]:
    """Draw in-batch examples for every row: other rows of the same source.

    The number of examples is uniform in 0 to ``max_examples``, so that queries without examples
    are learned too. Rows that repeat the query or share its positive document, and rows whose
    anchor or positive is not a text, are no examples for it.

    Args:
        rows: The rows of a batch.
        max_examples: Most examples of a row.
        seed: Seed of the draws.
        step: Number of the batch, so that every batch draws anew.

    Returns:
        One tuple of examples per row; fewer than drawn where the batch has too few rows.

    Example:
        >>> rows = [Row("Italy", "Rome"), Row("Peru", "Lima"), Row("Japan", "Tokyo")]
        >>> drawn = draw_examples(rows, max_examples=2, seed=3)
        >>> [len(examples) <= 2 for examples in drawn]
        [True, True, True]
    """
    if max_examples < 0:
        raise InputError(f"max_examples must be 0 or greater, got {max_examples}.")
    rng = generator(seed, "few-shot", step)
    by_source: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if isinstance(row.anchor, str) and isinstance(row.positive, str):
            by_source.setdefault(row.source, []).append(place)
    keys = [_row_key(row.anchor) for row in rows]
    result = []
    for place, row in enumerate(rows):
        wanted = int(rng.integers(0, max_examples + 1))
        pool = [p for p in by_source.get(row.source, []) if p != place]
        taken, examples = {keys[place]}, []
        for other in rng.permutation(len(pool)) if wanted else ():
            candidate = rows[pool[other]]
            same = row.positive_id is not None and row.positive_id == candidate.positive_id
            if keys[pool[other]] in taken or same:
                continue
            taken.add(keys[pool[other]])
            examples.append(Example(str(candidate.anchor), str(candidate.positive)))
            if len(examples) == wanted:
                break
        result.append(tuple(examples))
    return result


def _row_key(value: RowInput) -> int:
    return content_key(leak_key(value) if isinstance(value, str) else value)
