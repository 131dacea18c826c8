"""Typed attribute columns that answer a filter fast and say beforehand how many rows pass.

Every column of single values keeps its rows in the order of their values, missing ones last, so
that each predicate is a few runs of that order: its count is exact and costs two binary
searches. Columns of sets keep the rows of each element. `embedworks.index.evaluate` is the
slow, obvious twin with the same answers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from embedworks.errors import InputError, ShapeError
from embedworks.index._attribute_columns import SetColumn, SortedColumn
from embedworks.index._masks import (
    add_run,
    keep_run,
    match_listed,
    match_run,
    rows_of,
    set_rows,
)
from embedworks.index.filtering import evaluate, kind_of, to_scalar
from embedworks.index.where import (
    And,
    Between,
    Compare,
    Condition,
    Contains,
    In,
    IsNull,
    Like,
    Literal,
    Not,
    Or,
    parse_where,
)

__all__ = ["AttributeTable", "Cardinality", "Filter"]

_SAMPLE = 1000
_FEW = 4096  # rows that are tested one by one rather than through a mask of all rows
_PROBE = 240  # looking a row up in a list costs as much as writing so many of the list to a mask
_CLEAR = 12  # and as making an empty mask of so many times more rows
_MOST_RUNS = 16  # with more, a mask of all rows is as fast as testing row by row
_NONE = np.empty(0, dtype=np.int32)
_JOINS, _NUMBER = (And, Or), (int, float)  # as unions they would be made anew for every filter


class Cardinality(NamedTuple):
    """How many rows pass a filter: bounds that hold, and a guess between them."""

    minimum: int
    expected: float
    maximum: int

    @property
    def exact(self) -> bool:
        """Whether the count is known."""
        return self.minimum == self.maximum


Run = tuple[str, int, int]  # a column, and where a run of its order starts and ends


class Filter:
    """A condition made ready for one `AttributeTable`; use `AttributeTable.compile`.

    Attributes:
        total: Rows of the table.
        bounds: How many of them pass, as far as it is known without looking at rows.
        run: ``(column, start, end)`` when the filter is one run of a column's order.
    """

    total: int
    bounds: Cardinality
    run: Run | None = None

    def cardinality(self) -> Cardinality:
        """Return bounds on the number of rows that pass, without looking at rows."""
        return self.bounds

    def clauses(self) -> tuple[tuple[Run, ...], ...] | None:
        """Return groups of runs: the rows that pass are in a run of every group.

        None where that does not say it, or only with many runs.
        """
        return None

    def test(self, rows: np.ndarray) -> np.ndarray:
        """Return 1 for each of the int32 ``rows`` that passes, uint8 (len(rows),)."""
        raise NotImplementedError

    def mask(self) -> np.ndarray:
        """Return 1 for every row of the table that passes, a new uint8 array (M,)."""
        raise NotImplementedError

    def rows(self) -> np.ndarray:
        """Return the rows that pass, int32, in any order; may be a view: do not write to it."""
        return rows_of(self.mask())

    @property
    def few(self) -> bool:
        """Whether so few rows can pass that `rows` lists them without a look at all others."""
        return self.bounds.maximum <= max(_FEW, self.total // 50)

    def sampled(self, sample: np.ndarray) -> tuple[float, float]:
        """Estimate the share of rows that pass from a sample: ``(share, half width)``.

        The Agresti-Coull interval with z = 2.
        """
        trials = len(sample) + 4
        share = (int(self.test(sample).sum()) + 2) / trials
        return share, 2 * math.sqrt(share * (1 - share) / trials)


class _Runs(Filter):
    """Runs of a column's order, disjoint and ascending."""

    def __init__(self, column: SortedColumn, runs: Sequence[tuple[int, int]], total: int) -> None:
        self.column, self.runs, self.total = column, runs, total
        if len(runs) == 1:
            start, end = runs[0]
            self.run, count = (column.name, start, end), end - start
        else:
            count = sum([end - start for start, end in runs])
        self.bounds = Cardinality(count, count, count)

    def clauses(self) -> tuple[tuple[Run, ...], ...] | None:
        if len(self.runs) > _MOST_RUNS:
            return None
        return (tuple((self.column.name, start, end) for start, end in self.runs),)

    def test(self, rows: np.ndarray) -> np.ndarray:
        found = np.zeros(len(rows), dtype=np.uint8)
        for start, end in self.runs:
            match_run(found, rows, self.column.rank, start, end)
        return found

    def mask(self) -> np.ndarray:
        mask = np.zeros(self.total, dtype=np.uint8)
        many = 8 * len(self.runs) > 8 + 64 * self.bounds.maximum / max(1, self.total)
        for start, end in self.runs:
            if many or end - start < self.total // 32:
                set_rows(mask, self.column.order[start:end], 1)
            else:
                add_run(mask, self.column.rank, start, end)
        return mask

    def rows(self) -> np.ndarray:
        parts = [self.column.order[start:end] for start, end in self.runs]
        return parts[0] if len(parts) == 1 else np.concatenate([*parts, _NONE])


class _Postings(Filter):
    """Rows listed one by one, ascending; or all rows but those and the missing ones."""

    def __init__(
        self, listed: np.ndarray, total: int, negated: bool = False, missing: np.ndarray = _NONE
    ) -> None:
        self.listed, self.total, self.negated, self.missing = listed, total, negated, missing
        count = total - len(listed) - len(missing) if negated else len(listed)
        self.bounds = Cardinality(count, count, count)

    def test(self, rows: np.ndarray) -> np.ndarray:
        written = len(self.listed) + len(self.missing) + self.total // _CLEAR
        if _PROBE * len(rows) > written:
            return np.asarray(self.mask()[rows])
        found = np.full(len(rows), self.negated, dtype=np.uint8)
        match_listed(found, rows, self.listed, not self.negated)
        if self.negated:
            match_listed(found, rows, self.missing, 0)
        return found

    def mask(self) -> np.ndarray:
        mask = np.full(self.total, self.negated, dtype=np.uint8)
        set_rows(mask, self.listed, not self.negated)
        if self.negated:
            set_rows(mask, self.missing, 0)
        return mask

    def rows(self) -> np.ndarray:
        return rows_of(self.mask()) if self.negated else self.listed


class _Joined(Filter):
    """All of the parts, or any of them."""

    def __init__(self, parts: tuple[Filter, ...], total: int, any: bool) -> None:
        self.parts, self.total, self.any = parts, total, any
        self.run = None if any else _common_run(parts)
        self.bounds = self._bounds()

    def _bounds(self) -> Cardinality:
        if self.run is not None:
            count = self.run[2] - self.run[1]
            return Cardinality(count, count, count)
        parts, total = [part.bounds for part in self.parts], self.total
        if not total:
            return Cardinality(0, 0.0, 0)
        if self.any:
            missed = math.prod([1 - part.expected / total for part in parts])
            low = max([part.minimum for part in parts])
            high = min(total, sum([part.maximum for part in parts]))
            return Cardinality(low, min(high, max(low, total * (1 - missed))), high)
        expected = total * math.prod([part.expected / total for part in parts])
        low = max(0, sum([part.minimum for part in parts]) - (len(parts) - 1) * total)
        high = min([part.maximum for part in parts])
        return Cardinality(low, min(high, max(low, expected)), high)

    def clauses(self) -> tuple[tuple[Run, ...], ...] | None:
        if self.run is not None:
            return ((self.run,),)
        parts = [part.clauses() for part in self.parts]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        if not self.any:
            groups = list(itertools.chain(*known))
        elif math.prod([len(part) for part in known]) > _MOST_RUNS:
            return None
        else:  # one group of each part, in all combinations
            groups = [tuple(itertools.chain(*some)) for some in itertools.product(*known)]
        return tuple(groups) if sum([len(group) for group in groups]) <= _MOST_RUNS else None

    def test(self, rows: np.ndarray) -> np.ndarray:
        found = self.parts[0].test(rows)
        for part in self.parts[1:]:
            found = found | part.test(rows) if self.any else found & part.test(rows)
        return found

    def mask(self) -> np.ndarray:
        mask = self.parts[0].mask()
        for part in self.parts[1:]:
            if isinstance(part, _Runs) and len(part.runs) == 1:
                step = add_run if self.any else keep_run
                step(mask, part.column.rank, *part.runs[0])
            elif self.any:
                mask |= part.mask()
            else:
                mask &= part.mask()
        return mask

    def rows(self) -> np.ndarray:
        if not self.few:
            return rows_of(self.mask())
        if not self.any:
            first, *others = sorted(self.parts, key=lambda part: part.bounds.maximum)
            rows = first.rows()
            for part in others:
                rows = rows[part.test(rows).view(bool)]
            return rows
        found: list[np.ndarray] = []
        for place, part in enumerate(self.parts):
            rows = part.rows()
            for before in self.parts[:place]:
                rows = rows[before.test(rows) == 0]
            found.append(rows)
        return np.concatenate(found)


class AttributeTable:
    """Attributes of M rows: an Arrow table with what filters need, made on first use.

    Args:
        table: Arrow table with one row per vector. Text, number, true/false, date and timestamp
            columns, and lists of those (sets), can be filtered.

    Example:
        >>> table = AttributeTable.from_columns({"year": [2019, 2022, None, 2022]})
        >>> ready = table.compile("year > 2020 OR year IS NULL")
        >>> ready.cardinality().maximum, ready.mask().tolist()
        (3, [0, 1, 1, 1])
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table.unify_dictionaries().combine_chunks()
        self._columns: dict[str, SortedColumn | SetColumn] = {}
        self._plain: tuple[str, ...] = tuple(table.column_names)
        self._sample: np.ndarray | None = None
        if len(set(self._plain)) != len(self._plain):
            raise InputError(f"Column names must be unique, got {list(self._plain)}.")

    @classmethod
    def from_columns(cls, columns: Mapping[str, Sequence[Any]]) -> AttributeTable:
        """Make a table from lists of values; None is missing."""
        return cls(pa.table({name: pa.array(values) for name, values in columns.items()}))

    def __len__(self) -> int:
        return self.table.num_rows

    def append(self, table: pa.Table) -> AttributeTable:
        """Return a table with more rows; columns that one side lacks are filled with nulls.

        Raises:
            ShapeError: When a column of the same name has another type.
        """
        try:
            joined = pa.concat_tables([self.table, table], promote_options="default")
        except pa.ArrowException as error:
            raise ShapeError(f"The new attributes do not fit those present: {error}.") from error
        return AttributeTable(joined)

    def column(self, name: str) -> SortedColumn | SetColumn:
        """Return a column's sorted order or postings, making it on first use."""
        if name not in self._columns:
            array = self.table.column(name).combine_chunks()
            if isinstance(array, pa.ChunkedArray):
                array = pa.concat_arrays(array.chunks) if array.num_chunks else array.type
            if pa.types.is_dictionary(array.type):
                array = array.cast(array.type.value_type)
            made = SetColumn if kind_of(array.type) == "set" else SortedColumn
            self._columns[name] = made(name, array)
        return self._columns[name]

    def rank(self, name: str) -> np.ndarray:
        """Return the place of every row in the order of a column of single values, int32 (M,)."""
        column = self.column(name)
        if isinstance(column, SetColumn):
            raise InputError(f"Column {name!r} holds sets: its rows have no order.")
        return column.rank

    @property
    def sample(self) -> np.ndarray:
        """Up to 1,000 rows chosen at random once, int32."""
        if self._sample is None:
            size = min(_SAMPLE, len(self))
            chosen = np.random.default_rng(0).choice(len(self), size, replace=False)
            self._sample = chosen.astype(np.int32)
        return self._sample

    def memory(self) -> dict[str, int]:
        """Return the bytes of the values and of what was made for filters."""
        made = sum(column.nbytes() for column in self._columns.values())
        return {"attributes": self.table.nbytes, "attribute orders": made}

    def compile(self, condition: Condition | str) -> Filter:
        """Make a condition ready: values are looked up, ``NOT`` is pushed to the predicates.

        Raises:
            QuerySyntaxError: As `embedworks.index.evaluate` does, for an unknown column or a
                value that does not fit its column's type.
        """
        if isinstance(condition, str):
            condition = parse_where(condition)
        return self._compile(condition, negated=False)

    def _compile(self, condition: Condition, *, negated: bool) -> Filter:
        if isinstance(condition, Not):
            return self._compile(condition.part, negated=not negated)
        if isinstance(condition, _JOINS):
            parts = tuple(self._compile(part, negated=negated) for part in condition.parts)
            return _Joined(parts, len(self), any=isinstance(condition, Or) != negated)
        return self._leaf(condition, negated)

    def _leaf(self, predicate: Any, negated: bool) -> Filter:
        name = predicate.column
        if name not in self._plain:
            evaluate(predicate, self.table.slice(0, 0))  # raises, naming the columns
        column = self.column(name)
        if isinstance(column, SetColumn):
            return self._set_leaf(predicate, column, negated)
        total = len(self)
        if isinstance(predicate, IsNull):
            runs = [(column.known, total)]
            return _Runs(column, _complement(runs, total) if negated else runs, total)
        runs = self._runs(predicate, column)
        if negated:
            runs = _complement(runs, column.known)
        return _Runs(column, runs, total)

    def _runs(self, predicate: Any, column: SortedColumn) -> list[tuple[int, int]]:
        """Return the runs of a predicate on a column of single values."""
        if column.kind == "null":
            return []
        if isinstance(predicate, Compare):
            operator, value = self._value(predicate, column, predicate.operator, predicate.value)
            if operator == "!=":
                return _complement([column.run("=", value)], column.known)
            return _joined([column.run(operator, value)])
        if isinstance(predicate, Between):
            start, _ = column.run(*self._value(predicate, column, ">=", predicate.low))
            _, end = column.run(*self._value(predicate, column, "<=", predicate.high))
            return [(start, end)] if start < end else []
        if isinstance(predicate, In):
            values = [self._value(predicate, column, "=", value) for value in predicate.values]
            return _joined([column.run(*value) for value in set(values)])
        if isinstance(predicate, Like) and column.kind == "text":
            words = pa.table({predicate.column: pa.array(column.distinct, pa.string())})
            places = np.flatnonzero(evaluate(predicate, words)).tolist()
            return _joined([(column.offsets[p], column.offsets[p + 1]) for p in places])
        return self._refuse(predicate)

    def _value(
        self, predicate: Condition, column: SortedColumn, operator: str, value: Literal
    ) -> tuple[str, Any]:
        """Bring a literal to the column's type; an inequality may change with it."""
        kind = column.kind
        if kind == "text" and isinstance(value, str):
            return operator, value
        if kind == "true/false" and isinstance(value, bool) and operator in ("=", "!="):
            return operator, int(value)
        if kind == "number" and isinstance(value, _NUMBER) and not isinstance(value, bool):
            if not column.whole:
                return operator, float(value)
            if isinstance(value, int) or value.is_integer():
                return operator, int(value)
            if operator in ("=", "!="):
                return operator, 2**70  # no whole number equals it
            return {"<": "<=", ">": ">="}.get(operator, operator), (
                math.floor(value) if operator in ("<", "<=") else math.ceil(value)
            )
        if kind == "date" and isinstance(value, str):
            scalar = to_scalar(predicate, column.name, pa.nulls(0, column.type), value)
            return operator, int(scalar.value)
        self._refuse(predicate)
        return operator, value

    def _set_leaf(self, predicate: Any, column: SetColumn, negated: bool) -> Filter:
        if isinstance(predicate, IsNull):
            return _Postings(column.missing, len(self), negated)
        if not isinstance(predicate, Contains):
            self._refuse(predicate)
        elements = column.elements
        if elements.kind == "null":
            rows = np.empty(0, dtype=np.int32)
        else:
            rows = column.rows(self._value(predicate, elements, "=", predicate.value)[1])
        if negated:
            return _Postings(rows, len(self), True, column.missing)
        return _Postings(rows, len(self))

    def _refuse(self, predicate: Condition) -> list[tuple[int, int]]:
        """Raise the error of a predicate that does not fit its column."""
        evaluate(predicate, self.table.slice(0, 0))
        raise InputError(f"{str(predicate)!r:.200} cannot be used on this column.")


def _common_run(parts: Sequence[Filter]) -> Run | None:
    """Return what runs of one column's order have in common; None when parts are no such runs."""
    runs = [part.run for part in parts if part.run is not None]
    if len(runs) < len(parts) or len({run[0] for run in runs}) > 1:
        return None
    start, end = max([run[1] for run in runs]), min([run[2] for run in runs])
    return runs[0][0], start, max(start, end)


def _joined(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sort runs, drop empty ones and join those that touch."""
    if len(runs) == 1:
        return runs if runs[0][0] < runs[0][1] else []
    result: list[tuple[int, int]] = []
    for start, end in sorted(runs):
        if start >= end:
            continue
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], end))
        else:
            result.append((start, end))
    return result


def _complement(runs: list[tuple[int, int]], end: int) -> list[tuple[int, int]]:
    """Return what of ``[0, end)`` lies outside the runs."""
    edges = [0, *(edge for run in _joined(runs) for edge in run), end]
    return _joined(list(zip(edges[::2], edges[1::2], strict=True)))
